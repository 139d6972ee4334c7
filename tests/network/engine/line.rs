//! The simulated connections of one node, with a rate: how fast it takes in what arrives, counted.
//! Who takes in slowly fills the line behind it, up to whoever sends.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use highwater_net::{Breaker, Connection, Listener, Sockets, Soon};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::sockets::Simulated;

/// What one node has taken in, and how fast it does.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Bytes taken in, TLS included.
    pub(crate) taken: AtomicU64,
    /// Bytes sent, TLS included.
    pub(crate) sent: AtomicU64,
    /// Bytes a second that each connection takes in.
    pub(crate) rate: AtomicU64,
}

/// Makes connections over the simulated network that take in at a rate.
#[derive(Debug)]
pub(crate) struct Metered {
    pub(crate) inner: Simulated,
    pub(crate) flow: Arc<Flow>,
}

impl Metered {
    fn connection(&self, inner: Box<dyn Connection>) -> Box<dyn Connection> {
        Box::new(End { inner, flow: Arc::clone(&self.flow), due: None })
    }
}

impl Sockets for Metered {
    fn listen(&self, addr: SocketAddr) -> Soon<'_, Box<dyn Listener>> {
        Box::pin(async move {
            let inner = self.inner.listen(addr).await?;
            let sockets = Metered { inner: self.inner.clone(), flow: Arc::clone(&self.flow) };
            let listener: Box<dyn Listener> = Box::new(Door { inner, sockets });
            Ok(listener)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str) -> Soon<'a, Vec<SocketAddr>> {
        self.inner.resolve(host)
    }

    fn connect<'a>(&'a self, addrs: &'a [SocketAddr]) -> Soon<'a, Box<dyn Connection>> {
        Box::pin(async move { Ok(self.connection(self.inner.connect(addrs).await?)) })
    }
}

struct Door {
    inner: Box<dyn Listener>,
    sockets: Metered,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Listener for Door {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn accept(&self) -> Soon<'_, (Box<dyn Connection>, SocketAddr)> {
        Box::pin(async move {
            let (connection, addr) = self.inner.accept().await?;
            Ok((self.sockets.connection(connection), addr))
        })
    }
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    inner: Box<dyn Connection>,
    flow: Arc<Flow>,
    /// When more is taken in.
    due: Option<Pin<Box<Sleep>>>,
}

impl Connection for End {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }

    fn take_up(&self) -> io::Result<Box<dyn Breaker>> {
        self.inner.take_up()
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(due) = &mut self.due {
            ready!(due.as_mut().poll(cx));
            self.due = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let taken = (buffer.filled().len() - before) as u64;
        self.flow.taken.fetch_add(taken, SeqCst);
        let rate = self.flow.rate.load(SeqCst).max(1);
        let takes = Duration::from_secs_f64(taken as f64 / rate as f64);
        self.due = Some(Box::pin(sleep_until(Instant::now() + takes)));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.flow.sent.fetch_add(sent as u64, SeqCst);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
