//! The accepting side: one loop that takes connections, one task for each until its peer has
//! chosen it, and tonic's server, which is fed only with connections whose peer has proved itself.
//!
//! A stranger costs one handshake and learns nothing. An accept that fails (no more descriptors)
//! pauses the loop and never ends it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use highwater_core::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::events::WarningKind;
use crate::net::{Context, http2};
use crate::service::{Admission, Opened, SyncService};
use crate::session::{Session, Streams};
use crate::socket::{CutOnDrop, Tapped};
use crate::system::{Connection, Listener};
use crate::tls;

/// A handshake takes two round trips; this is enough on a line with a latency of 2 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the handshake to both streams.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once: each costs a signature, and strangers can start them.
const HANDSHAKES_MAX: usize = 64;
/// Connections at once that no peer has chosen yet.
const ARRIVALS_MAX: usize = 256;
/// Connections between their handshake and tonic.
const HANDOVER_MAX: usize = 16;
/// After an accept that failed. The usual cause, too few descriptors, does not pass in an instant.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` turns true, then waits for tonic to let go of the last.
pub(crate) async fn serve(
    context: Arc<Context>,
    listener: Box<dyn Listener>,
    tls: rustls::ServerConfig,
    mut stop: watch::Receiver<bool>,
) {
    let (secured, incoming) = mpsc::channel(HANDOVER_MAX);
    let door =
        Arc::new(Door { context: context.clone(), tls: TlsAcceptor::from(Arc::new(tls)), secured });
    let accepting = async {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let mut arrivals = JoinSet::new();
        loop {
            while arrivals.try_join_next().is_some() {}
            if arrivals.len() >= ARRIVALS_MAX {
                arrivals.join_next().await;
            }
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, addr)) => {
                    arrivals.spawn(door.clone().receive(tcp, addr, permit));
                }
                Err(error) => {
                    tracing::debug!("cannot accept a connection: {error}; pausing");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let mut stopped = stop.clone();
    let serving = Server::builder()
        .initial_stream_window_size(http2::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(http2::CONNECTION_WINDOW_BYTES)
        .max_frame_size(http2::FRAME_BYTES_MAX)
        .max_concurrent_streams(http2::STREAMS_MAX)
        .http2_max_header_list_size(http2::HEADER_LIST_BYTES_MAX)
        .add_service(SyncService::server(context.pins.clone(), context.hello.clone()))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
            // An error means that the net is gone: stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
    let accepting = async {
        tokio::select! {
            () = accepting => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    };
    let (_, served) = tokio::join!(accepting, serving);
    if let Err(error) = served {
        tracing::error!("the gRPC server has failed: {error}; restart the daemon");
    }
}

/// What every arriving connection is received with.
struct Door {
    context: Arc<Context>,
    tls: TlsAcceptor,
    secured: mpsc::Sender<io::Result<Secured>>,
}

impl Door {
    /// Takes one connection from the socket to its peer's task.
    async fn receive(
        self: Arc<Self>,
        tcp: Box<dyn Connection>,
        addr: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let Some((peer, stream)) = self.shake_hands(tcp, addr).await else { return };
        drop(permit);
        let Some(session) = self.open(peer, addr, stream).await else { return };
        match session.confirmed().await {
            Ok(session) => self.context.deliver(session).await,
            Err(error) => self.report(peer, addr, &error),
        }
    }

    async fn shake_hands(
        &self,
        tcp: Box<dyn Connection>,
        addr: SocketAddr,
    ) -> Option<(NodeId, TlsStream<Tapped>)> {
        let tapped = Tapped::new(tcp, self.context.clock).ok()?;
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.tls.accept(tapped)).await.ok()?;
        match shaken {
            Ok(stream) => {
                let certificates = stream.get_ref().1.peer_certificates()?;
                Some((tls::node_of(certificates.first()?)?, stream))
            }
            Err(error) => {
                self.context.turned_away(addr, &error);
                None
            }
        }
    }

    /// Lets tonic serve the connection and collects the two streams that the peer opens on it.
    async fn open(
        &self,
        peer: NodeId,
        addr: SocketAddr,
        stream: TlsStream<Tapped>,
    ) -> Option<Session> {
        let connection = CutOnDrop::new(stream.get_ref().0.wire());
        let (opened, mut streams) = mpsc::channel(2);
        let admission = Admission { peer, wire: connection.wire(), opened };
        self.secured.send(Ok(Secured { stream, admission })).await.ok()?;
        let both = timeout(OPENING_TIMEOUT, async { (streams.recv().await, streams.recv().await) });
        let (control, content) = match both.await {
            Ok((Some(first @ Opened::Control { .. }), Some(second))) => (first, second),
            Ok((Some(first), Some(second))) => (second, first),
            Ok(_) | Err(_) => return None,
        };
        let (
            Opened::Control { outlets, incoming: control_in },
            Opened::Content { content, incoming: content_in },
        ) = (control, content)
        else {
            return None;
        };
        let streams = Streams {
            peer,
            addr,
            connection,
            outlets,
            content,
            control_in,
            content_in,
            channel: None,
        };
        match streams.greet().await {
            Ok(session) => Some(session),
            Err(error) => {
                self.report(peer, addr, &error);
                None
            }
        }
    }

    fn report(&self, peer: NodeId, addr: SocketAddr, error: &crate::session::GreetingError) {
        tracing::debug!(%peer, %addr, "a connection came to nothing: {error}");
        if let Some(kind) = error.warning() {
            let message = match kind {
                WarningKind::IdentityInUse => identity_in_use_here(peer),
                _ => format!("cannot link with the peer {peer} at {addr}: {error}"),
            };
            self.context.warn(Some(peer), kind, message);
        }
    }
}

/// The sentence for the side that was told that its identity is in use elsewhere.
pub(crate) fn identity_in_use_here(peer: NodeId) -> String {
    format!(
        "the peer {peer} is linked with another running daemon that has this node's identity; \
         stop one of the two, and give a copied home its own identity"
    )
}

/// A connection whose peer is proved, as tonic wants it.
struct Secured {
    stream: TlsStream<Tapped>,
    admission: Admission,
}

impl Connected for Secured {
    type ConnectInfo = Admission;

    fn connect_info(&self) -> Admission {
        self.admission.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
