//! Where connections come from: the system's TCP, unless whoever starts the net brings something that
//! stands in for it. A simulation does.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use crate::kernel::{self, Segments};

/// Unacknowledged bytes older than this break the connection. Longer than the application's own
/// patience ([`crate::link::DEAD_AFTER`]), so that the kernel only cleans up what was given up.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel probes an idle connection this often: for connections that no link watches yet.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Unsent bytes that the kernel holds before it refuses more. A control frame waits behind no more
/// than this, and one TLS record plus one HTTP/2 frame still fit.
const NOT_SENT_BYTES_MAX: u32 = 256 * 1024;

/// Something that takes time and may fail.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// Makes connections.
pub trait Sockets: Debug + Send + Sync {
    /// Listens on `addr`; port 0 lets the system choose.
    fn listen(&self, addr: SocketAddr) -> Soon<'_, Box<dyn Listener>>;
    /// The addresses of `host:port`.
    fn resolve<'a>(&'a self, host: &'a str) -> Soon<'a, Vec<SocketAddr>>;
    /// A connection to the first of `addrs` that answers.
    fn connect<'a>(&'a self, addrs: &'a [SocketAddr]) -> Soon<'a, Box<dyn Connection>>;
}

/// Accepts connections.
pub trait Listener: Debug + Send + Sync {
    /// Where.
    ///
    /// # Errors
    /// When the system does not say.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next one, and where it comes from.
    fn accept(&self) -> Soon<'_, (Box<dyn Connection>, SocketAddr)>;
}

/// A stream of bytes to another node and back.
pub trait Connection: AsyncRead + AsyncWrite + Debug + Send + Unpin {
    /// Where the other side is.
    ///
    /// # Errors
    /// When the connection is gone.
    fn peer_addr(&self) -> io::Result<SocketAddr>;
    /// Makes a fresh connection ready for use; the means to end it from elsewhere.
    ///
    /// # Errors
    /// When the connection is gone.
    fn take_up(&self) -> io::Result<Box<dyn Breaker>>;
}

/// Ends one connection, and looks at it from outside.
pub trait Breaker: Debug + Send + Sync {
    /// In both directions, whatever state it is in. Whoever reads or writes it notices at once.
    fn cut(&self);
    /// What the connection has sent so far, where the system says so.
    fn segments(&self) -> Option<Segments> {
        None
    }
}

/// The system's TCP.
#[derive(Debug)]
pub struct System;

impl Sockets for System {
    fn listen(&self, addr: SocketAddr) -> Soon<'_, Box<dyn Listener>> {
        Box::pin(async move {
            let listener: Box<dyn Listener> = Box::new(TcpListener::bind(addr).await?);
            Ok(listener)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str) -> Soon<'a, Vec<SocketAddr>> {
        Box::pin(async move { Ok(lookup_host(host).await?.collect()) })
    }

    fn connect<'a>(&'a self, addrs: &'a [SocketAddr]) -> Soon<'a, Box<dyn Connection>> {
        Box::pin(async move {
            let connection: Box<dyn Connection> = Box::new(TcpStream::connect(addrs).await?);
            Ok(connection)
        })
    }
}

impl Listener for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn accept(&self) -> Soon<'_, (Box<dyn Connection>, SocketAddr)> {
        Box::pin(async move {
            let (tcp, addr) = self.accept().await?;
            let connection: Box<dyn Connection> = Box::new(tcp);
            Ok((connection, addr))
        })
    }
}

impl Connection for TcpStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }

    fn take_up(&self) -> io::Result<Box<dyn Breaker>> {
        let socket = SockRef::from(self);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive)?;
        Ok(Box::new(socket.try_clone()?))
    }
}

impl Breaker for Socket {
    fn cut(&self) {
        // The only failure is that the connection is gone already.
        let _ = self.shutdown(Shutdown::Both);
    }

    fn segments(&self) -> Option<Segments> {
        let local = self.local_addr().ok()?.as_socket()?;
        let remote = self.peer_addr().ok()?.as_socket()?;
        kernel::segments(local, remote)
    }
}
