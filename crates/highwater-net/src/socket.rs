//! One connection as it lies below TLS: what went over it, and when the other side was last heard.
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::kernel::Segments;
use crate::system::{Breaker, Connection};

/// What is known about one connection from outside of it, and the means to cut it.
#[derive(Debug)]
pub(crate) struct Wire {
    clock: Clock,
    breaker: Box<dyn Breaker>,
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
        self.breaker.cut();
    }

    /// What the kernel has sent on it so far, where it says so.
    pub(crate) fn segments(&self) -> Option<Segments> {
        self.breaker.segments()
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

/// A connection that keeps its [`Wire`] up to date.
#[derive(Debug)]
pub(crate) struct Tapped {
    tcp: Box<dyn Connection>,
    wire: Arc<Wire>,
    write_refused: bool,
}

impl Tapped {
    /// Takes up a fresh connection and begins to count.
    pub(crate) fn new(tcp: Box<dyn Connection>, clock: Clock) -> io::Result<Self> {
        let breaker = tcp.take_up()?;
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
