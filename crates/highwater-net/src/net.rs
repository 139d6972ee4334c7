//! The whole: listens, keeps one task for each peer, stops.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::member::{Card, Decision, Facts, Order};
use highwater_core::wire::{Goodbye, Hello};
use highwater_core::{NodeId, Time};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::accept;
use crate::clock::Clock;
use crate::events::{NetEvent, PeerAddress, PeerState, WarningKind};
use crate::identity::Identity;
use crate::link::Pace;
use crate::peer::{Orders, PeerEvent, PeerTask};
use crate::seal;
use crate::session::Session;
use crate::system::{Sockets, System};
use crate::tls::{self, Pins};

/// Events that wait for the engine. Warnings beyond are dropped, links wait.
const EVENTS_MAX: usize = 256;
/// Sessions and changes of health that wait for a peer's task.
const MAILBOX_MAX: usize = 16;
/// The same warning about the same peer is given no more often than this.
const WARNING_EVERY: Duration = Duration::from_secs(10);

/// HTTP/2 as both sides set it. Windows are fixed: adaptive ones start at 64 KiB and ramp slowly.
pub(crate) mod http2 {
    /// Fills a line of 80 MB/s with a round trip of 100 ms.
    pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
    /// Both streams, with room left for control when content fills its own. It also sets how many
    /// small frames h2 forgives before it takes them for an attack.
    pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
    /// One content message.
    pub(crate) const FRAME_BYTES_MAX: u32 = 256 * 1024;
    /// Two are used.
    pub(crate) const STREAMS_MAX: u32 = 32;
    /// Ours are a few hundred bytes.
    pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
}

/// What the net has to know at its start.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Where to listen. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// What every peer is told first.
    pub hello: Hello,
    /// The moment from which regular work is reckoned: the start of the runtime, whose timers are
    /// cheapest on multiples of [`highwater_core::BEAT`] from then on.
    pub began: Instant,
}

/// Why the net did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen for peers on {addr}: {source}; change `sync` under [listen], or stop whatever uses the port"
    )]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The identity does not make a TLS configuration.
    #[error("cannot use this node's identity for TLS: {0}; restore key.pem from a backup")]
    Tls(#[from] rustls::Error),
}

/// The net of one node. Dropping it ends everything at once; [`Net::shutdown`] ends it politely.
#[derive(Debug)]
pub struct Net {
    context: Arc<Context>,
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    roster: Mutex<Roster>,
}

#[derive(Debug)]
struct Roster {
    members: BTreeMap<NodeId, Member>,
    tasks: JoinSet<()>,
    stopping: bool,
}

#[derive(Debug)]
struct Member {
    orders: watch::Sender<Orders>,
    state: Arc<Mutex<PeerState>>,
}

impl Net {
    /// Listens and begins to dial. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on or the identity cannot be used.
    pub async fn start(
        config: NetConfig,
        identity: Identity,
        peers: Vec<PeerAddress>,
    ) -> Result<(Net, mpsc::Receiver<NetEvent>), StartError> {
        Self::start_over(Arc::new(System), config, identity, peers).await
    }

    /// As [`Net::start`], with connections from elsewhere.
    ///
    /// # Errors
    /// As [`Net::start`].
    pub async fn start_over(
        sockets: Arc<dyn Sockets>,
        config: NetConfig,
        identity: Identity,
        peers: Vec<PeerAddress>,
    ) -> Result<(Net, mpsc::Receiver<NetEvent>), StartError> {
        let failed = |source| StartError::Listen { addr: config.listen, source };
        let listener = sockets.listen(config.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let context = Arc::new(Context {
            sockets,
            identity,
            pins: Arc::new(Pins::default()),
            hello: config.hello,
            clock: Clock::since(config.began),
            pace: Arc::default(),
            events,
            warned: Mutex::default(),
            mailboxes: Mutex::default(),
        });
        let tls = tls::server_config(&context.identity, context.pins.clone())?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::serve(context.clone(), listener, tls, stopped));
        let roster = Mutex::new(Roster { members: BTreeMap::new(), tasks, stopping: false });
        let net = Net { context, local_addr, stop, roster };
        net.set_peers(peers);
        Ok((net, receiver))
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Replaces the set of peers. Added ones may connect and are dialled at once; of removed ones
    /// the links are closed. This node itself is never its own peer.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) {
        let mut roster = self.roster();
        if roster.stopping {
            return;
        }
        let own = self.context.identity.node_id();
        let wanted: BTreeMap<NodeId, Option<String>> =
            peers.into_iter().filter(|peer| peer.id != own).map(|p| (p.id, p.addr)).collect();
        let removed: Vec<NodeId> =
            roster.members.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in removed {
            self.context.pins.remove(&id);
            self.context.mailboxes().remove(&id);
            if let Some(member) = roster.members.remove(&id) {
                member.leave(Goodbye::NotAPeer);
                roster.keep_until_it_ends(member);
            }
        }
        for (id, addr) in wanted {
            match roster.members.get(&id) {
                Some(member) => member.move_to(addr),
                None => roster.admit(&self.context, id, addr),
            }
        }
        while roster.tasks.try_join_next().is_some() {}
    }

    /// How it stands with each peer.
    pub fn peer_states(&self) -> BTreeMap<NodeId, PeerState> {
        let state =
            |member: &Member| member.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.roster().members.iter().map(|(id, member)| (*id, state(member))).collect()
    }

    /// Signs this node's card. `None` when it says what no card may say.
    pub fn seal_card(&self, facts: Facts) -> Option<Card> {
        seal::seal_card(&self.context.identity, facts)
    }

    /// Signs an operator's order.
    pub fn seal_order(&self, decision: Decision) -> Option<Order> {
        seal::seal_order(&self.context.identity, decision)
    }

    /// The moment from which its regular work is reckoned: others whose work falls on the same beat
    /// wake the process together with it.
    pub fn began(&self) -> Instant {
        self.context.clock.instant(Time::default())
    }

    /// How often idle links are pinged from now on: at least every 5 s, at most every 200 ms.
    pub fn set_pace(&self, every: Duration) {
        self.context.pace.set(every);
    }

    /// Says goodbye to every peer and ends every task, for at most `deadline`; what has not ended
    /// by then is cut off.
    pub async fn shutdown(&self, deadline: Duration) {
        let mut tasks = {
            let mut roster = self.roster();
            roster.stopping = true;
            for member in roster.members.values() {
                member.leave(Goodbye::Stopping);
            }
            std::mem::take(&mut roster.tasks)
        };
        self.stop.send_replace(true);
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, ended).await.is_err() {
            tasks.shutdown().await;
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    fn admit(&mut self, context: &Arc<Context>, id: NodeId, addr: Option<String>) {
        let (orders, followed) = watch::channel(Orders { addr, leave: None });
        let (mailbox, received) = mpsc::channel(MAILBOX_MAX);
        let state = Arc::new(Mutex::new(PeerState::default()));
        let post = (mailbox.downgrade(), received);
        let task = PeerTask::new(context.clone(), id, followed, post, state.clone());
        context.mailboxes().insert(id, mailbox);
        context.pins.insert(id);
        self.tasks.spawn(task.run());
        self.members.insert(id, Member { orders, state });
    }

    /// A removed peer's task lives until its links have closed, and its orders with it.
    fn keep_until_it_ends(&mut self, member: Member) {
        self.tasks.spawn(async move { member.orders.closed().await });
    }
}

impl Member {
    fn leave(&self, reason: Goodbye) {
        self.orders.send_modify(|orders| orders.leave = Some(reason));
    }

    fn move_to(&self, addr: Option<String>) {
        self.orders.send_if_modified(|orders| {
            let moved = orders.addr != addr;
            orders.addr = addr;
            moved
        });
    }
}

/// What all tasks of one net share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) identity: Identity,
    pub(crate) pins: Arc<Pins>,
    pub(crate) hello: Hello,
    pub(crate) clock: Clock,
    pub(crate) pace: Arc<Pace>,
    pub(crate) events: mpsc::Sender<NetEvent>,
    warned: Mutex<BTreeMap<(Option<NodeId>, WarningKind), Time>>,
    mailboxes: Mutex<BTreeMap<NodeId, mpsc::Sender<PeerEvent>>>,
}

impl Context {
    /// Warns the engine, unless it was warned of the same a moment ago or does not listen.
    pub(crate) fn warn(&self, peer: Option<NodeId>, kind: WarningKind, message: String) {
        let now = self.clock.now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = warned.get(&(peer, kind)).is_some_and(|at| now.since(*at) < WARNING_EVERY);
        if !lately {
            warned.insert((peer, kind), now);
            // An engine that lags behind has enough to show already.
            let _ = self.events.try_send(NetEvent::Warning { peer, kind, message });
        }
    }

    /// A handshake from `addr` failed: says so if it was another node.
    pub(crate) fn turned_away(&self, addr: SocketAddr, error: &io::Error) {
        tracing::debug!(%addr, "a handshake failed: {error}");
        let Some(node) = tls::unexpected_node(error) else { return };
        if node == self.identity.node_id() {
            let message = format!(
                "another running daemon at {addr} has this node's identity; stop one of the two, \
                 and give a copied home its own identity"
            );
            self.warn(Some(node), WarningKind::IdentityInUse, message);
        } else {
            let message = format!(
                "refused the node {node} at {addr}, which is not a peer; `highwater peer add` \
                 makes it one"
            );
            self.warn(None, WarningKind::Stranger, message);
        }
    }

    /// Hands a session that its peer has chosen to that peer's task.
    pub(crate) async fn deliver(&self, session: Session) {
        let mailbox = self.mailboxes().get(&session.peer()).cloned();
        let Some(mailbox) = mailbox else {
            session.dismiss(Goodbye::NotAPeer).await;
            return;
        };
        if let Err(unread) = mailbox.send(PeerEvent::Arrived(Box::new(session))).await
            && let PeerEvent::Arrived(session) = unread.0
        {
            session.dismiss(Goodbye::NotAPeer).await;
        }
    }

    fn mailboxes(&self) -> MutexGuard<'_, BTreeMap<NodeId, mpsc::Sender<PeerEvent>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
