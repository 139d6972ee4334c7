//! A peer that speaks the protocol wrongly on purpose.
//!
//! It shares no code with the product's side of the wire: its own TLS with whatever certificate it
//! likes (`tls`), HTTP/2 by the `h2` crate or as bare frames ([`raw`]), gRPC prefixes and
//! protobuf put together by hand ([`proto`]), and the messages of `sync.proto` with every field
//! open to lies ([`frames`]). [`Peer`] is one connection of it. All of it blocks, so that a case
//! of a test reads from top to bottom.

pub mod frames;
mod peer;
pub mod proto;
pub mod raw;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustls::version::TLS13;
use tokio::runtime::Runtime;

pub use peer::{Call, Connection, Ending, Heard, Offered, Peer, framed};
pub use tls::Credentials;
use tls::secure;

/// Longest wait for one step of the other side. The product's own longest is a silent link's 12 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs one step to its end, or to the end of all patience.
pub(crate) fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?
        .block_on(async {
            let done = tokio::time::timeout(PATIENCE, work).await;
            done.map_err(|_| anyhow!("no end of it within {PATIENCE:?}"))?
        })
        .with_context(|| what.to_owned())
}

/// Whether the other side agrees to speak this application protocol.
pub fn agrees_to(addr: SocketAddr, credentials: &Credentials, alpn: &[u8]) -> Result<bool> {
    step("agreeing on a protocol", async {
        Ok(secure(addr, Some(credentials), &[alpn], &[&TLS13]).await.is_ok())
    })
}

/// The runtime in which the connections live while nobody waits for them.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("hostile").enable_all().build().ok()
    });
    made.as_ref().context("a runtime cannot be made")
}
