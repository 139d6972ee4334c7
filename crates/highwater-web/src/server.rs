//! Connections: taken up to a number, served for a time, waited for at the end.
//!
//! When all seats are taken, the connection that has been waiting longest for its next request gives
//! its seat to the new one, so that idle clients never keep others out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::figures::Figures;
use crate::guard::{self, Ends, Gate};
use crate::notify::Notifier;
use crate::seat::{Seat, Seats};

/// Connections served at once. A dashboard takes one or two.
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
    /// Sends alerts as long as the API is served.
    _notifier: Option<Notifier>,
}

impl WebServer {
    /// Serves `routes`, behind the guard, on `addr`.
    pub(crate) async fn start(
        routes: Router,
        gate: Arc<Gate>,
        addr: SocketAddr,
    ) -> Result<(Self, SocketAddr), WebError> {
        let refused = |e: io::Error| WebError::Listen { addr, reason: reason(&e) };
        let listener = TcpListener::bind(addr).await.map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let (stop, stopped) = watch::channel(());
        let figures = Arc::clone(&gate.figures);
        let routes = routes.layer(middleware::from_fn_with_state(gate, guard::guard));
        let accept = tokio::spawn(accept(listener, routes, figures, stopped));
        Ok((Self { accept, stop, _notifier: None }, bound))
    }

    /// Lets `notifier` live as long as the server.
    pub(crate) fn with(self, notifier: Notifier) -> Self {
        Self { _notifier: Some(notifier), ..self }
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

async fn accept(
    listener: TcpListener,
    routes: Router,
    figures: Arc<Figures>,
    mut stopped: watch::Receiver<()>,
) {
    let (room, seats) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Seats::default()));
    let mut connections = JoinSet::new();
    let mut last_number = 0;
    loop {
        let next = async {
            let connection = listener.accept().await?;
            if room.available_permits() == 0 && seats.make_room() {
                figures.evicted.fetch_add(1, Ordering::Relaxed);
            }
            let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((connection, permit))
        };
        tokio::select! {
            next = next => match next {
                Ok(((stream, remote), permit)) => {
                    last_number += 1;
                    let (number, seats) = (last_number, Arc::clone(&seats));
                    let seat = seats.take(number);
                    let served = serve(stream, remote, routes.clone(), seat, stopped.clone());
                    connections.spawn(async move {
                        served.await;
                        seats.give_back(number);
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
    seat: Arc<Seat>,
    mut stopped: watch::Receiver<()>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let sits = Arc::clone(&seat);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Ends { local, remote });
        request.extensions_mut().insert(Arc::clone(&sits));
        routes.clone().oneshot(request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = seat.asked_to_leave() => return,
        () = outlives(&seat) => return,
        _ = stopped.changed() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Err(e) = ended else { return };
    debug!("an HTTP connection ended early: {e}");
    if e.is_timeout() {
        let parts = connection.into_parts();
        // A client that sent nothing was only waiting; one that sent half a head is told.
        if !parts.read_buf.is_empty() {
            say_late(parts.io.into_inner()).await;
        }
    }
}

/// Returns when a connection that follows nothing has lived for long enough.
async fn outlives(seat: &Seat) {
    loop {
        tokio::time::sleep(CONNECTION_LIFE_MAX).await;
        if !seat.follows() {
            return;
        }
    }
}

/// The answer to a head that did not come in time.
async fn say_late(mut stream: TcpStream) {
    let body = r#"{"type":"about:blank","title":"Request Timeout","status":408,"detail":"the head of the request took too long"}"#;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // Who was too slow to ask may be too slow to listen.
    let _ = tokio::time::timeout(DRAIN_WAIT, stream.write_all(answer.as_bytes())).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn gate() -> Arc<Gate> {
        let home = highwater::Home::at("/nonexistent");
        Arc::new(Gate::new(highwater::tokens::Tokens::of(&home), Arc::default()))
    }

    async fn start() -> (WebServer, SocketAddr) {
        let routes = Router::new()
            .route("/health", get(|| async { "well" }))
            .route("/bug", get(|| async { bug() }));
        let any = "127.0.0.1:0".parse().expect("addr");
        WebServer::start(routes, gate(), any).await.expect("started")
    }

    fn bug() -> &'static str {
        panic!("the secret inside")
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
        let refused = ask(addr, &plain.replace("GET", "PUT")).await;
        assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
        assert!(refused.contains("allow: GET, HEAD, POST"), "{refused}");
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
    async fn a_handler_that_fails_by_a_bug_tells_nothing_and_takes_nothing_with_it() {
        let (server, addr) = start().await;
        let bug = "GET /bug HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = ask(addr, bug).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains("problem+json") && answer.contains("request 1"), "{answer}");
        assert!(!answer.contains("secret") && !answer.contains("server.rs"), "{answer}");
        assert!(ask(addr, &bug.replace("bug", "health")).await.ends_with("well"));
        server.shutdown().await;
    }

    #[tokio::test]
    async fn idle_connections_give_their_seats_to_new_ones() {
        let (server, addr) = start().await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX * 3 {
            idle.push(TcpStream::connect(addr).await.expect("connected"));
            let plain = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            assert!(ask(addr, plain).await.ends_with("well"));
        }
        server.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_is_answered_when_its_time_is_over() {
        let (server, addr) = start().await;
        let answer = ask(addr, "GET /health HTTP/1.1\r\nHost: loc").await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("problem+json"), "{answer}");
        server.shutdown().await;
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_to_do() {
        let (server, addr) = start().await;
        let refused =
            WebServer::start(Router::new(), gate(), addr).await.expect_err("taken").to_string();
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
