//! The fault proxy: a TCP link between two nodes that a test can spoil at will.
//!
//! A [`Proxy`] listens on one address and carries every connection to another. It runs on a thread
//! of its own; the handle may be used from anywhere, blocks nobody and can be cloned. A link is
//! open, silent or down:
//!
//! - *open*: bytes pass, subject to the [`Faults`] of their direction;
//! - *silent* ([`CutKind::Silent`]): nothing passes, the sockets stay open, not even an end of
//!   stream or a reset gets through, as on a line whose packets vanish;
//! - *down* ([`CutKind::Reset`], [`CutKind::Close`]): what was connected is ended, and new
//!   connections are refused.
//!
//! [`Proxy::heal`] opens it again. What passed, when, and what was done to the link is kept and
//! read with [`Proxy::report`]. Buffers are bounded: a slow direction slows its sender.
//!
//! Triggers ([`Proxy::when`]) tie an action to an event, such as "37 % of this transfer has been
//! acknowledged", by asking for it every few milliseconds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::faults::{CutKind, Direction, Faults, Newcomers, Survivors};
use crate::pipe::{Ended, Pipe};
use crate::record::{LinkReport, Record};

/// How often a trigger asks whether its event has come: far finer than any transfer worth cutting.
const TRIGGER_INTERVAL: Duration = Duration::from_millis(2);
/// How often a refused address is tried again while a link is being opened; another socket may
/// still hold it for a moment.
const REBIND_INTERVAL: Duration = Duration::from_millis(5);

/// Whether a link carries anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkState {
    Open,
    Silent(Newcomers),
    Down,
}

/// Everything that the tasks of a link watch.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) state: LinkState,
    pub(crate) faults: [Faults; 2],
    /// Raised when every open connection is to end, with how. A connection ends when the number
    /// is no longer the one it began with.
    pub(crate) severed: (u64, CutKind),
}

/// A link between two addresses, and the hand on it. Dropping the last handle ends the link.
#[derive(Clone, Debug)]
pub struct Proxy {
    listen: SocketAddr,
    orders: Arc<watch::Sender<Orders>>,
    record: Arc<Record>,
}

impl Proxy {
    /// Opens a link from `listen` (port 0 for any) to `target`, which need not listen yet.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Proxy> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let listen = listener.local_addr()?;
        let (orders, watched) = watch::channel(Orders {
            state: LinkState::Open,
            faults: [Faults::default(); 2],
            severed: (0, CutKind::Close),
        });
        let record = Arc::new(Record::start());
        let link = Link { listen, target, orders: watched, record: Arc::clone(&record) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("fault-proxy".into())
            .spawn(move || runtime.block_on(link.run(listener)))?;
        Ok(Proxy { listen, orders: Arc::new(orders), record })
    }

    /// Where the link is dialled.
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Puts these faults on one direction, at once, also for connections that are open.
    pub fn set(&self, direction: Direction, faults: Faults) {
        self.record.note(format!("set {direction:?} {faults:?}"));
        self.orders.send_modify(|orders| orders.faults[direction.index()] = faults);
    }

    /// Puts these faults on both directions.
    pub fn set_both(&self, faults: Faults) {
        for direction in Direction::BOTH {
            self.set(direction, faults);
        }
    }

    /// Cuts the link until it is healed. A silent cut holds new connections.
    pub fn cut(&self, kind: CutKind) {
        self.cut_with(kind, Newcomers::Held);
    }

    /// Cuts the link until it is healed, and says what becomes of new connections if it is silent.
    pub fn cut_with(&self, kind: CutKind, newcomers: Newcomers) {
        self.record.note(format!("cut {kind:?}, newcomers {newcomers:?}"));
        self.orders.send_modify(|orders| match kind {
            CutKind::Silent => orders.state = LinkState::Silent(newcomers),
            CutKind::Reset | CutKind::Close => {
                orders.state = LinkState::Down;
                orders.severed = (orders.severed.0 + 1, kind);
            }
        });
    }

    /// Ends every open connection in this way; new ones are welcome. `Silent` is a cut.
    pub fn sever(&self, kind: CutKind) {
        if kind == CutKind::Silent {
            return self.cut(kind);
        }
        self.record.note(format!("sever {kind:?}"));
        self.orders.send_modify(|orders| orders.severed = (orders.severed.0 + 1, kind));
    }

    /// Opens the link again; what a silent cut held goes on. Faults stay as they are.
    pub fn heal(&self) {
        self.heal_with(Survivors::Resume);
    }

    /// Opens the link again and says what becomes of the connections that a silent cut held.
    pub fn heal_with(&self, survivors: Survivors) {
        self.record.note(format!("heal, survivors {survivors:?}"));
        self.orders.send_modify(|orders| {
            orders.state = LinkState::Open;
            if survivors == Survivors::Reset {
                orders.severed = (orders.severed.0 + 1, CutKind::Reset);
            }
        });
    }

    /// Carries out `action` on the link once `condition` is met, and keeps what it was met with.
    pub fn when<T: Send + 'static>(
        &self,
        mut condition: impl FnMut() -> Option<T> + Send + 'static,
        action: impl FnOnce(&Proxy) + Send + 'static,
    ) -> Trigger<T> {
        let proxy = self.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(evidence) = condition() {
                    action(&proxy);
                    return Some(evidence);
                }
                thread::sleep(TRIGGER_INTERVAL);
            }
            None
        });
        Trigger { thread, stop }
    }

    /// What was done to the link and what it carried so far.
    pub fn report(&self) -> LinkReport {
        self.record.report()
    }
}

/// An action that waits for its event.
#[derive(Debug)]
pub struct Trigger<T> {
    thread: thread::JoinHandle<Option<T>>,
    stop: Arc<AtomicBool>,
}

impl<T> Trigger<T> {
    /// Whether the action has been carried out.
    pub fn has_fired(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits up to `patience` for the event; `None` if it has not come, and now never will.
    pub fn wait(self, patience: Duration) -> Option<T> {
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(TRIGGER_INTERVAL);
        }
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().flatten()
    }
}

/// The proxy's own side: accepts, and gives each connection a task.
struct Link {
    listen: SocketAddr,
    target: SocketAddr,
    orders: watch::Receiver<Orders>,
    record: Arc<Record>,
}

impl Link {
    /// Runs until the last handle is gone.
    async fn run(mut self, listener: std::net::TcpListener) {
        let mut listener = TcpListener::from_std(listener).ok();
        let (done, mut finished) = mpsc::channel::<()>(1);
        loop {
            let welcome = self.orders.borrow_and_update().welcomes();
            if !welcome {
                listener = None;
            } else if listener.is_none() {
                listener = self.rebind().await;
            }
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { break },
                accepted = accept(listener.as_ref()) => if let Ok((stream, _)) = accepted {
                    let pipe = Pipe {
                        target: self.target,
                        orders: self.orders.clone(),
                        record: self.record.open(),
                        begun: self.orders.borrow().severed.0,
                    };
                    let done = done.clone();
                    tokio::spawn(async move {
                        let ended: Ended = pipe.run(stream).await;
                        drop((ended, done));
                    });
                },
            }
        }
        drop((listener, done));
        while finished.recv().await.is_some() {}
    }

    /// Listens again on the same address; `None` if the link was cut again or given up meanwhile.
    async fn rebind(&self) -> Option<TcpListener> {
        while self.orders.has_changed().ok() == Some(false) {
            match TcpListener::bind(self.listen).await {
                Ok(listener) => return Some(listener),
                Err(_) => tokio::time::sleep(REBIND_INTERVAL).await,
            }
        }
        None
    }
}

impl Orders {
    fn welcomes(&self) -> bool {
        match self.state {
            LinkState::Open | LinkState::Silent(Newcomers::Held) => true,
            LinkState::Silent(Newcomers::Refused) | LinkState::Down => false,
        }
    }

    /// Whether nothing may pass in this direction now.
    pub(crate) fn silent(&self, direction: Direction) -> bool {
        self.state != LinkState::Open || self.faults[direction.index()].frozen
    }
}

/// The next connection; never, where nobody listens.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
