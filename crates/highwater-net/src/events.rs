//! What the net reports to whoever started it: links, warnings, and the state of each peer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::wire::{Content, Control, Goodbye, Hello};
use highwater_core::{NodeId, Time};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::kernel::Segments;
use crate::link::{Pace, Pulse, RoundTrip};
use crate::socket::Wire;

/// A peer, and where to find it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Who it is.
    pub id: NodeId,
    /// `host:port`, resolved at each dial. Without it this node waits to be dialled.
    pub addr: Option<String>,
}

/// Something the engine should know.
#[derive(Debug)]
pub enum NetEvent {
    /// A peer is connected. An earlier link of the same peer has ended or is about to.
    LinkUp(Link),
    /// Something that a person should look at. Each kind at most every ten seconds for each peer.
    Warning {
        /// Which peer it is about, if one is known.
        peer: Option<NodeId>,
        /// What it is about.
        kind: WarningKind,
        /// The whole story in a sentence.
        message: String,
    },
}

/// What a warning is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WarningKind {
    /// Two live daemons use one identity.
    IdentityInUse,
    /// At a peer's address answers another node.
    WrongIdentity,
    /// The peer does not list this node.
    Refused,
    /// Somebody who is no peer tried to connect.
    Stranger,
    /// A peer broke the protocol.
    Misbehaved,
    /// A peer speaks another version of the protocol.
    Protocol,
}

/// One connection to one peer: both directions, both streams. It has ended when both receivers
/// have returned `None`.
#[derive(Debug)]
pub struct Link {
    /// Who is at the other end; proved by its key.
    pub peer: NodeId,
    /// What it says about itself.
    pub hello: Hello,
    /// Where it is.
    pub addr: SocketAddr,
    /// Whether this side has dialled.
    pub dialled: bool,
    /// Messages to the peer's control stream.
    pub control: mpsc::Sender<Control>,
    /// Messages to the peer's content stream.
    pub content: mpsc::Sender<Content>,
    /// Messages from the peer's control stream, without greetings, probes and goodbyes.
    pub control_in: mpsc::Receiver<Control>,
    /// Messages from the peer's content stream.
    pub content_in: mpsc::Receiver<Content>,
    /// To watch the link and to close it.
    pub handle: LinkHandle,
}

/// Watches one link and can close it. Cheap to clone; does not keep the link up.
#[derive(Clone, Debug)]
pub struct LinkHandle(Arc<LinkShared>);

/// What the handle and the task that runs the link have in common.
#[derive(Debug)]
pub(crate) struct LinkShared {
    pub(crate) clock: Clock,
    pub(crate) wire: Arc<Wire>,
    pub(crate) since: Time,
    pub(crate) close: watch::Sender<Option<Goodbye>>,
    pub(crate) down: watch::Sender<Option<DownReason>>,
    /// Asks for a ping at once.
    pub(crate) probe: Notify,
    /// When the last ping was sent that has been answered.
    pub(crate) answered: watch::Sender<Time>,
    /// How often the link is pinged while it is idle.
    pub(crate) pace: Arc<Pace>,
    /// Whether the peer owes an answer for too long.
    pub(crate) silent: watch::Sender<bool>,
    pulse: Mutex<Pulse>,
    /// Round trips that nobody has asked for yet, the newest last.
    trips: Mutex<VecDeque<Duration>>,
}

/// Round trips kept until somebody asks for them: a minute of a busy link.
const TRIPS_MAX: usize = 64;

/// Why a link has ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DownReason {
    /// This side closed it.
    #[error("closed by this node ({0:?})")]
    Closed(Goodbye),
    /// The peer closed it and said why.
    #[error("closed by the peer ({0:?})")]
    ClosedByPeer(Goodbye),
    /// The peer was not heard for too long.
    #[error("the peer has fallen silent")]
    Silent,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Misbehaved(String),
}

/// What a link has carried and how it fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkStats {
    /// Smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// The shortest round trip, once measured.
    pub rtt_min: Option<Duration>,
    /// When the link came up.
    pub connected_since: Instant,
    /// When the peer last gave a sign of life.
    pub last_heard: Instant,
    /// Whether the peer owes an answer for longer than usual.
    pub silent: bool,
    /// Bytes received, TLS included.
    pub bytes_in: u64,
    /// Bytes sent, TLS included.
    pub bytes_out: u64,
}

/// How it stands with one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerState {
    /// Where it is dialled, if anywhere.
    pub addr: Option<String>,
    /// Whether a link is up.
    pub connected: bool,
    /// Why the last link ended or the last attempt failed; cleared when a link comes up.
    pub last_error: Option<String>,
    /// Attempts to dial it so far.
    pub dial_attempts: u64,
    /// Links after the first.
    pub reconnects: u64,
    /// When it is dialled next, if it is.
    pub next_attempt: Option<Instant>,
}

impl LinkHandle {
    pub(crate) fn new(shared: Arc<LinkShared>) -> Self {
        Self(shared)
    }

    /// Closes the link, telling the peer why. Further calls change nothing.
    pub fn close(&self, reason: Goodbye) {
        self.0.close.send_if_modified(|close| {
            let first = close.is_none();
            close.get_or_insert(reason);
            first
        });
    }

    /// Waits until the link has ended; at once if it has.
    pub async fn closed(&self) -> DownReason {
        let mut down = self.0.down.subscribe();
        let ended = down.wait_for(Option::is_some).await;
        ended.ok().and_then(|reason| reason.clone()).unwrap_or(DownReason::Silent)
    }

    /// Changes whenever the peer falls silent, as [`LinkStats::silent`] has it, or is heard again.
    pub fn silence(&self) -> watch::Receiver<bool> {
        self.0.silent.subscribe()
    }

    /// What the link has carried so far, and how it fares.
    pub fn stats(&self) -> LinkStats {
        let shared = &self.0;
        let trip = shared.pulse().round_trip();
        let (bytes_in, bytes_out) = shared.wire.bytes();
        LinkStats {
            rtt: trip.map(|trip: RoundTrip| trip.smoothed),
            rtt_min: trip.map(|trip| trip.min),
            connected_since: shared.clock.instant(shared.since),
            last_heard: shared.clock.instant(shared.wire.heard()),
            silent: *shared.silent.borrow(),
            bytes_in,
            bytes_out,
        }
    }

    /// What the kernel has sent on this link so far, where it says so. Costs a few system calls.
    pub fn segments(&self) -> Option<Segments> {
        self.0.wire.segments()
    }

    /// The round trips that were measured since this was last asked, 64 at most, the newest last.
    pub fn take_round_trips(&self) -> Vec<Duration> {
        self.0.trips.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Asks the peer for a sign of life and tells whether it came within `patience`.
    pub async fn answers(&self, patience: Duration) -> bool {
        let asked = self.0.clock.now();
        let mut answered = self.0.answered.subscribe();
        self.0.probe.notify_one();
        tokio::select! {
            answer = answered.wait_for(|sent| *sent >= asked) => answer.is_ok(),
            _ = self.closed() => false,
            () = tokio::time::sleep(patience) => false,
        }
    }
}

impl LinkShared {
    pub(crate) fn new(clock: Clock, pace: Arc<Pace>, wire: Arc<Wire>) -> Self {
        let since = clock.now();
        Self {
            clock,
            wire,
            since,
            close: watch::Sender::new(None),
            down: watch::Sender::new(None),
            probe: Notify::new(),
            answered: watch::Sender::new(Time::default()),
            pace,
            silent: watch::Sender::new(false),
            pulse: Mutex::new(Pulse::new(since)),
            trips: Mutex::default(),
        }
    }

    pub(crate) fn note_round_trip(&self, trip: Duration) {
        let mut trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
        if trips.len() == TRIPS_MAX {
            trips.pop_front();
        }
        trips.push_back(trip);
    }

    pub(crate) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
