//! One attempt to dial one peer: resolve, connect, prove who we are, open both streams, greet.
//!
//! The caller bounds an attempt by a time-out and may drop it at any moment; the connection goes
//! with it. The peer takes no notice of a connection until it is told that it was chosen.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::NodeId;
use highwater_core::wire::{Goodbye, MESSAGE_BYTES_MAX};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::dial::{AttemptId, CONNECT_TIMEOUT, Failure};
use crate::events::WarningKind;
use crate::net::{Context, http2};
use crate::proto::sync_client::SyncClient;
use crate::session::{GreetingError, Session, Streams, content_out, control_out, describe};
use crate::socket::{CutOnDrop, Tapped};
use crate::system::{Connection, Sockets};
use crate::tls;

/// Addresses of a host that one attempt may use.
const ADDRESSES_MAX: usize = 8;

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {addr}: {source}; check the peer's address")]
    Resolve { addr: String, source: io::Error },
    #[error("cannot reach {addr}: {source}; is the peer running, and the port open?")]
    Connect { addr: String, source: io::Error },
    #[error("no answer from {addr} within {} s", after.as_secs())]
    TimedOut { addr: String, after: Duration },
    #[error("at {addr} answers node {found} instead of the peer; correct the peer's address or id")]
    WrongIdentity { addr: String, found: NodeId },
    #[error("the peer at {addr} refuses this node; add this node's id there with `peer add`")]
    NotListed { addr: String },
    #[error("cannot set up a secure connection to {addr}: {why}")]
    Secure { addr: String, why: String },
    #[error("cannot greet the peer at {addr}: {source}")]
    Greeting { addr: String, source: GreetingError },
}

impl DialError {
    /// What this failure means for the next attempt.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::WrongIdentity { .. } | Self::NotListed { .. } => Failure::Refused,
            Self::Greeting { source, .. } => match source {
                GreetingError::Goodbye(Goodbye::IdentityInUse) => Failure::IdentityInUse,
                GreetingError::Goodbye(Goodbye::Replaced | Goodbye::Stopping)
                | GreetingError::Silent
                | GreetingError::Broken(_) => Failure::Unreachable,
                GreetingError::Goodbye(_)
                | GreetingError::Protocol(_)
                | GreetingError::Misbehaved(_) => Failure::Refused,
            },
            _ => Failure::Unreachable,
        }
    }

    /// What a person should be told about it, beyond the peer's state.
    pub(crate) fn warning(&self) -> Option<WarningKind> {
        match self {
            Self::WrongIdentity { .. } => Some(WarningKind::WrongIdentity),
            Self::NotListed { .. } => Some(WarningKind::Refused),
            Self::Greeting { source, .. } => source.warning(),
            _ => None,
        }
    }
}

impl GreetingError {
    /// What a person should be told about it.
    pub(crate) fn warning(&self) -> Option<WarningKind> {
        match self {
            Self::Goodbye(Goodbye::IdentityInUse) => Some(WarningKind::IdentityInUse),
            Self::Goodbye(Goodbye::Protocol) | Self::Protocol(_) => Some(WarningKind::Protocol),
            Self::Misbehaved(_) => Some(WarningKind::Misbehaved),
            Self::Goodbye(_) | Self::Silent | Self::Broken(_) => None,
        }
    }
}

/// Dials `peer` at `addr` once.
pub(crate) async fn dial(
    context: Arc<Context>,
    peer: NodeId,
    addr: String,
    attempt: AttemptId,
) -> Result<Session, DialError> {
    let tcp = reach(&*context.sockets, &addr, attempt).await?;
    let unreached = |source| DialError::Connect { addr: addr.clone(), source };
    let remote = tcp.peer_addr().map_err(unreached)?;
    let tapped = Tapped::new(tcp, context.clock).map_err(unreached)?;
    let connection = CutOnDrop::new(tapped.wire());
    let stream = secure(&context, peer, &addr, tapped).await?;
    let channel = channel(stream).await.map_err(|error| refusal(&addr, describe(&error)))?;

    let (outlets, control_frames) = control_out(connection.wire(), &context.hello);
    let (content, content_frames) = content_out(connection.wire());
    let client = SyncClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (mut first, mut second) = (client.clone(), client);
    let (control_in, content_in) =
        tokio::try_join!(first.control(control_frames), second.content(content_frames))
            .map_err(|status| refusal(&addr, describe(&status)))?;
    let streams = Streams {
        peer,
        addr: remote,
        connection,
        outlets,
        content,
        control_in: control_in.into_inner(),
        content_in: content_in.into_inner(),
        channel: Some(channel),
    };
    let greeted = streams.greet().await;
    greeted.map_err(|source| DialError::Greeting { addr, source })
}

/// A TCP connection to the first address that answers. Each attempt begins with another one, so
/// that one that swallows packets does not stand in the way of the others for ever.
async fn reach(
    sockets: &dyn Sockets,
    addr: &str,
    attempt: AttemptId,
) -> Result<Box<dyn Connection>, DialError> {
    let unresolved = |source| DialError::Resolve { addr: addr.to_owned(), source };
    let mut addresses = sockets.resolve(addr).await.map_err(unresolved)?;
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        return Err(unresolved(io::ErrorKind::NotFound.into()));
    }
    let shift = (attempt.0 % addresses.len() as u64) as usize;
    addresses.rotate_left(shift);
    let timed_out = |_| DialError::TimedOut { addr: addr.to_owned(), after: CONNECT_TIMEOUT };
    timeout(CONNECT_TIMEOUT, sockets.connect(&addresses))
        .await
        .map_err(timed_out)?
        .map_err(|source| DialError::Connect { addr: addr.to_owned(), source })
}

async fn secure(
    context: &Context,
    peer: NodeId,
    addr: &str,
    tapped: Tapped,
) -> Result<TlsStream<Tapped>, DialError> {
    let failed = |why: String| DialError::Secure { addr: addr.to_owned(), why };
    let config =
        tls::client_config(&context.identity, peer).map_err(|error| failed(error.to_string()))?;
    let name = ServerName::from(tapped.peer_ip().map_err(|error| failed(error.to_string()))?);
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tapped).await;
    connected.map_err(|error| match tls::unexpected_node(&error) {
        Some(found) => DialError::WrongIdentity { addr: addr.to_owned(), found },
        None => refusal(addr, error.to_string()),
    })
}

/// gRPC over a connection that exists already.
async fn channel(stream: TlsStream<Tapped>) -> Result<Channel, tonic::transport::Error> {
    let mut only = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = only.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_static("http://peer.highwater.invalid")
        .initial_stream_window_size(http2::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(http2::CONNECTION_WINDOW_BYTES)
        .max_frame_size(http2::FRAME_BYTES_MAX)
        .http2_max_header_list_size(http2::HEADER_LIST_BYTES_MAX)
        .connect_with_connector(connector)
        .await
}

/// A failure after the connection stood. In TLS 1.3 the dialling side finishes first, and learns
/// only by an alert on its first read that the other side refused its key.
fn refusal(addr: &str, why: String) -> DialError {
    if why.contains("received fatal alert") || why.contains("not a peer") {
        DialError::NotListed { addr: addr.to_owned() }
    } else {
        DialError::Secure { addr: addr.to_owned(), why }
    }
}
