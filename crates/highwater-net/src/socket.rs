//! One TCP connection as the kernel has it: its options, what went over it, and when the other
//! side was last heard.
//!
//! "Heard" is any byte that arrives, and any write that goes through after the kernel had refused
//! one for want of room: room comes back only when the other side takes bytes. So a slow line that
//! carries a large transfer is not mistaken for a dead one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use highwater_core::Time;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::Clock;

/// Unacknowledged bytes older than this break the connection. Longer than the application's own
/// patience ([`crate::link::DEAD_AFTER`]), so that the kernel only cleans up what was given up.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel probes an idle connection this often: for connections that no link watches yet.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Unsent bytes that the kernel holds before it refuses more. A control frame waits behind no more
/// than this, and one TLS record plus one HTTP/2 frame still fit.
const NOT_SENT_BYTES_MAX: u32 = 256 * 1024;

/// What is known about one connection from outside of it, and the means to cut it.
#[derive(Debug)]
pub(crate) struct Wire {
    clock: Clock,
    breaker: Socket,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    heard: AtomicU64,
    active: AtomicU64,
}

impl Wire {
    /// Bytes received and sent, TLS included.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Relaxed), self.bytes_out.load(Relaxed))
    }

    /// When the other side last gave a sign of life.
    pub(crate) fn heard(&self) -> Time {
        Time::since_start(Duration::from_micros(self.heard.load(Relaxed)))
    }

    /// When a message other than a probe was last sent or received.
    pub(crate) fn active(&self) -> Time {
        Time::since_start(Duration::from_micros(self.active.load(Relaxed)))
    }

    /// Notes that a message other than a probe passed.
    pub(crate) fn mark_active(&self) {
        self.active.store(self.micros(), Relaxed);
    }

    /// Ends the connection in both directions, whatever state it is in. Whoever reads or writes it
    /// notices at once.
    pub(crate) fn cut(&self) {
        // The only failure is that the connection is gone already.
        let _ = self.breaker.shutdown(std::net::Shutdown::Both);
    }

    fn mark_heard(&self) {
        self.heard.store(self.micros(), Relaxed);
    }

    fn micros(&self) -> u64 {
        self.clock.now().since(Time::default()).as_micros() as u64
    }
}

/// Cuts a connection when it is dropped: whoever gives up a connection, in whatever way, leaves
/// nothing of it behind, not even data that waits to be sent into a silent line.
#[derive(Debug)]
pub(crate) struct CutOnDrop(Arc<Wire>);

impl CutOnDrop {
    pub(crate) fn new(wire: Arc<Wire>) -> Self {
        Self(wire)
    }

    /// The connection, for those who only look.
    pub(crate) fn wire(&self) -> Arc<Wire> {
        self.0.clone()
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// A TCP stream that keeps its [`Wire`] up to date.
#[derive(Debug)]
pub(crate) struct Tapped {
    tcp: TcpStream,
    wire: Arc<Wire>,
    write_refused: bool,
}

impl Tapped {
    /// Sets the options of a fresh connection and begins to count.
    pub(crate) fn new(tcp: TcpStream, clock: Clock) -> io::Result<Self> {
        let socket = SockRef::from(&tcp);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive)?;
        let breaker = socket.try_clone()?;
        let zero = || AtomicU64::new(0);
        let (bytes_in, bytes_out, heard, active) = (zero(), zero(), zero(), zero());
        let wire = Wire { clock, breaker, bytes_in, bytes_out, heard, active };
        wire.mark_heard();
        wire.mark_active();
        Ok(Self { tcp, wire: Arc::new(wire), write_refused: false })
    }

    /// The outside view of this connection.
    pub(crate) fn wire(&self) -> Arc<Wire> {
        self.wire.clone()
    }

    /// Where the other side is.
    pub(crate) fn peer_ip(&self) -> io::Result<std::net::IpAddr> {
        Ok(self.tcp.peer_addr()?.ip())
    }

    fn note_write(&mut self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(sent)) => {
                self.wire.bytes_out.fetch_add(*sent as u64, Relaxed);
                if std::mem::take(&mut self.write_refused) {
                    self.wire.mark_heard();
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.write_refused = true,
        }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        let received = buffer.filled().len() - before;
        if received > 0 {
            self.wire.bytes_in.fetch_add(received as u64, Relaxed);
            self.wire.mark_heard();
        }
        result
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
