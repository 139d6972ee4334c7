//! Connections: taken up to a number, served for a time, waited for at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::guard::{self, Ends};

/// Connections served at once; more wait in the kernel's queue. A dashboard takes one or two.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take to arrive, the wait for another request included.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// How long a connection may live, whatever it does: no answer here takes long to read.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(60);
/// How long answers under way are waited for at the end.
const DRAIN_WAIT: Duration = Duration::from_secs(1);
/// Headers of one request; browsers send about twenty.
const HEADERS_MAX: usize = 64;
/// Bytes of one request's head, and of the buffer it is read into. The least that hyper takes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// After a failed accept, such as too many open files: it will not be better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address cannot be had.
    #[error("cannot serve HTTP on {addr}: {reason}")]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// Why not, and what to do.
        reason: String,
    },
}

/// The HTTP API while it is served.
#[derive(Debug)]
pub struct WebServer {
    accept: JoinHandle<()>,
    stop: watch::Sender<()>,
}

impl WebServer {
    /// Serves `routes`, behind the guard, on `addr`.
    pub(crate) async fn start(
        routes: Router,
        addr: SocketAddr,
    ) -> Result<(Self, SocketAddr), WebError> {
        let refused = |e: io::Error| WebError::Listen { addr, reason: reason(&e) };
        let listener = TcpListener::bind(addr).await.map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let (stop, stopped) = watch::channel(());
        let routes = routes.layer(middleware::from_fn(guard::guard));
        let accept = tokio::spawn(accept(listener, routes, stopped));
        Ok((Self { accept, stop }, bound))
    }

    /// Takes no more requests, lets answers under way finish for a moment, and returns.
    pub async fn shutdown(self) {
        self.stop.send_replace(());
        if self.accept.await.is_err() {
            warn!("the HTTP server's task ended by a bug");
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has this port; set listen.http to another one".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; set listen.http to one of its own".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are not for users; set listen.http to a higher one".to_owned()
        }
        _ => error.to_string(),
    }
}

async fn accept(listener: TcpListener, routes: Router, mut stopped: watch::Receiver<()>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?, permit))
        };
        tokio::select! {
            next = next => match next {
                Ok(((stream, remote), permit)) => {
                    let served = serve(stream, remote, routes.clone(), stopped.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    warn!("cannot accept an HTTP connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = stopped.changed() => break,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_WAIT, drained).await.is_err() {
        debug!("HTTP answers were cut off by the shutdown");
    }
}

async fn serve(
    stream: TcpStream,
    remote: SocketAddr,
    routes: Router,
    mut stopped: watch::Receiver<()>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Ends { local, remote });
        routes.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(CONNECTION_LIFE_MAX) => return,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        debug!("an HTTP connection ended early: {e}");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start() -> (WebServer, SocketAddr) {
        let routes = Router::new().route("/health", get(|| async { "well" }));
        let any = "127.0.0.1:0".parse().expect("addr");
        WebServer::start(routes, any).await.expect("started")
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn a_request_is_answered_and_a_refusal_is_a_problem_document() {
        let (server, addr) = start().await;
        let plain = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let well = ask(addr, plain).await;
        assert!(well.starts_with("HTTP/1.1 200") && well.ends_with("well"), "{well}");
        assert!(well.contains("no-store") && well.contains("nosniff"), "{well}");
        let refused = ask(addr, &plain.replace("GET", "POST")).await;
        assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
        assert!(refused.contains("allow: GET, HEAD"), "{refused}");
        assert!(refused.contains("application/problem+json"), "{refused}");
        server.shutdown().await;
    }

    #[tokio::test]
    async fn a_request_with_a_huge_head_is_refused() {
        let (server, addr) = start().await;
        let huge = "x".repeat(HEAD_BYTES_MAX + 1);
        let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {huge}\r\n\r\n");
        let refused = ask(addr, &head).await;
        assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
        server.shutdown().await;
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_to_do() {
        let (server, addr) = start().await;
        let refused = WebServer::start(Router::new(), addr).await.expect_err("taken").to_string();
        assert!(refused.contains(&addr.to_string()), "{refused}");
        assert!(refused.contains("listen.http"), "{refused}");
        server.shutdown().await;
    }

    #[tokio::test]
    async fn a_shutdown_hangs_up_on_a_client_that_keeps_its_connection() {
        let (server, addr) = start().await;
        let mut idle = TcpStream::connect(addr).await.expect("connected");
        idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
        let mut answer = [0; 12];
        idle.read_exact(&mut answer).await.expect("answered");
        server.shutdown().await;
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.expect("the connection was closed in order");
        TcpStream::connect(addr).await.expect_err("nobody listens any more");
    }
}
