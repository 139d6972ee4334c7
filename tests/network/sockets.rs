//! The simulation's TCP in place of the system's, counted, so that a connection that nobody closes
//! is seen.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use highwater_net::{Breaker, Connection, Listener, Sockets, Soon};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Makes connections over the simulated network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Simulated {
    /// Ends of connections that are open.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Simulated {
    fn connection(&self, tcp: TcpStream) -> Box<dyn Connection> {
        self.open.fetch_add(1, SeqCst);
        Box::new(End { tcp, cut: Arc::default(), open: self.open.clone() })
    }
}

impl Sockets for Simulated {
    fn listen(&self, addr: SocketAddr) -> Soon<'_, Box<dyn Listener>> {
        Box::pin(async move {
            let listener = TcpListener::bind(addr).await?;
            let listener: Box<dyn Listener> = Box::new(Door { listener, sockets: self.clone() });
            Ok(listener)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str) -> Soon<'a, Vec<SocketAddr>> {
        Box::pin(async move {
            let (name, port) = host.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            Ok(vec![SocketAddr::new(turmoil::lookup(name), port)])
        })
    }

    fn connect<'a>(&'a self, addrs: &'a [SocketAddr]) -> Soon<'a, Box<dyn Connection>> {
        Box::pin(async move { Ok(self.connection(TcpStream::connect(addrs[0]).await?)) })
    }
}

struct Door {
    listener: TcpListener,
    sockets: Simulated,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Listener for Door {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn accept(&self) -> Soon<'_, (Box<dyn Connection>, SocketAddr)> {
        Box::pin(async move {
            let (tcp, addr) = self.listener.accept().await?;
            Ok((self.sockets.connection(tcp), addr))
        })
    }
}

/// One end of a simulated connection.
#[derive(Debug)]
struct End {
    tcp: TcpStream,
    cut: Arc<Cut>,
    open: Arc<AtomicUsize>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

impl Connection for End {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    fn take_up(&self) -> io::Result<Box<dyn Breaker>> {
        Ok(Box::new(Shears(self.cut.clone())))
    }
}

/// Whether a connection was cut, and who is to be told when it is.
#[derive(Debug, Default)]
struct Cut {
    cut: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Cut {
    /// What a read or write comes to: `result`, unless the connection was cut.
    fn or<T>(
        &self,
        cx: &Context<'_>,
        result: Poll<io::Result<T>>,
        cut: io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if self.cut.load(SeqCst) {
            return Poll::Ready(cut);
        }
        if result.is_pending() {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
        }
        result
    }
}

#[derive(Debug)]
struct Shears(Arc<Cut>);

impl Breaker for Shears {
    fn cut(&self) {
        self.0.cut.store(true, SeqCst);
        let waiting =
            std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        self.cut.or(cx, result, Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gone = Err(io::ErrorKind::BrokenPipe.into());
        if self.cut.cut.load(SeqCst) {
            return Poll::Ready(gone);
        }
        let result = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.cut.or(cx, result, gone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
