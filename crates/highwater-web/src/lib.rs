//! Shows: the HTTP API of a node.
//!
//! ```text
//! GET /health          every check; 503 when one fails
//! GET /health/live     the process answers
//! GET /health/ready    the store takes writes and has room
//! GET /api/v1/status   the document of `highwater status --json`
//! GET /api/v1/cluster/status, /nodes   the cluster as this node sees it
//! GET /api/v1/peers    the lines to the peers
//! GET /api/v1/events   what happens, as server-sent events
//! ```
//!
//! Nothing here changes anything, and nothing but the health checks is told to another machine:
//! without tokens, being on this machine is the only credential there is. Since a browser on this
//! machine runs other people's pages, a request must also name this machine as its host
//! (`guard.rs`). Errors are `application/problem+json`, RFC 9457.
//!
//! Connections are bounded in number, in the time a request may take to arrive, and in how long
//! they may live, so that slow clients cannot hold up others (`server.rs`).
#![forbid(unsafe_code)]

mod api;
mod checks;
mod events;
mod guard;
mod problem;
mod server;

use std::net::SocketAddr;

use highwater::Engine;

pub use server::{WebError, WebServer};

/// Serves the HTTP API of `engine` on `addr`, and says on which address it really is.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(engine: Engine, addr: SocketAddr) -> Result<(WebServer, SocketAddr), WebError> {
    let (server, bound) = WebServer::start(api::routes(engine.clone()), addr).await?;
    engine.note_http_addr(bound).await;
    Ok((server, bound))
}
