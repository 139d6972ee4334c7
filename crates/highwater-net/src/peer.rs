//! One task for each peer. It carries out what [`Dialer`] and [`judge`] decide: it owns the
//! attempts to dial the peer, the link that is up, and the links that are ending, and it is done
//! only when all of them are.
//!
//! States, as far as they matter outside: *unlinked* (dialling, if there is an address), *linked*,
//! *doubtful* (linked, but the peer owes an answer: dialling beside the link), *leaving* (the peer
//! was removed or the daemon stops: links are closed, nothing is dialled).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_core::wire::Goodbye;
use highwater_core::{InstanceId, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accept::identity_in_use_here;
use crate::connect::{DialError, dial};
use crate::dial::{ATTEMPT_TIMEOUT, AttemptId, Dialer, Failure};
use crate::events::{DownReason, Link, LinkHandle, NetEvent, PeerState, WarningKind};
use crate::link::{Claim, Health, Verdict, judge};
use crate::net::Context;
use crate::session::Session;

/// How long the current link is given to prove that it is alive when another run of the peer's
/// daemon connects.
const CLONE_PATIENCE: Duration = Duration::from_secs(2);

/// What a peer's task is to do, as of now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Orders {
    /// Where to dial.
    pub(crate) addr: Option<String>,
    /// Close everything with this reason, and end.
    pub(crate) leave: Option<Goodbye>,
}

/// What reaches a peer's task from elsewhere.
pub(crate) enum PeerEvent {
    /// The peer has dialled and chosen this connection.
    Arrived(Box<Session>),
    /// A link's health has changed.
    Health(LinkNumber, Health),
}

/// A link of one peer, numbered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LinkNumber(u64);

/// By which a link tells its peer's task how it fares.
pub(crate) struct HealthReport {
    number: LinkNumber,
    mailbox: mpsc::WeakSender<PeerEvent>,
}

impl HealthReport {
    pub(crate) async fn tell(&self, health: Health) {
        if let Some(mailbox) = self.mailbox.upgrade() {
            // A task that has ended no longer cares for the health of its links.
            let _ = mailbox.send(PeerEvent::Health(self.number, health)).await;
        }
    }
}

/// The result of something that the task has started.
enum Done {
    Ended(LinkNumber, DownReason),
    /// Another run of the peer's daemon was held back; did this link answer?
    Asked(LinkNumber, bool),
    Dismissed,
}

struct Current {
    number: LinkNumber,
    handle: LinkHandle,
    claim: Claim,
    health: Health,
}

/// The task of one peer.
pub(crate) struct PeerTask {
    context: Arc<Context>,
    peer: NodeId,
    orders: watch::Receiver<Orders>,
    mailbox: mpsc::Receiver<PeerEvent>,
    own_mailbox: mpsc::WeakSender<PeerEvent>,
    state: Arc<Mutex<PeerState>>,
    dialer: Dialer,
    attempts: JoinSet<(AttemptId, Result<Box<Session>, DialError>)>,
    work: JoinSet<Done>,
    current: Option<Current>,
    links: u64,
    /// A session of another run of the peer's daemon, while the current link is asked. Never more
    /// than the newest: one answer is for all.
    held: Option<Box<Session>>,
}

impl PeerTask {
    /// A task that knows its peer and has done nothing yet.
    pub(crate) fn new(
        context: Arc<Context>,
        peer: NodeId,
        orders: watch::Receiver<Orders>,
        (own_mailbox, mailbox): (mpsc::WeakSender<PeerEvent>, mpsc::Receiver<PeerEvent>),
        state: Arc<Mutex<PeerState>>,
    ) -> Self {
        let dialer = Dialer::new(jitter_seed(&context.hello.instance, &peer));
        Self {
            context,
            peer,
            orders,
            mailbox,
            own_mailbox,
            state,
            dialer,
            attempts: JoinSet::new(),
            work: JoinSet::new(),
            current: None,
            links: 0,
            held: None,
        }
    }

    /// Runs until the orders say to leave and everything has ended.
    pub(crate) async fn run(mut self) {
        self.follow_orders();
        while !(self.leaving().is_some() && self.work.is_empty()) {
            self.start_attempts();
            self.publish();
            let deadline = self.dialer.deadline();
            let clock = self.context.clock;
            // In this order, so that the same events always have the same outcome.
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_orders();
                }
                Some(event) = self.mailbox.recv() => self.handle(event).await,
                Some(ended) = self.attempts.join_next(), if !self.attempts.is_empty() => {
                    // A dropped attempt ends as cancelled and has nothing to say.
                    if let Ok((attempt, result)) = ended {
                        self.attempted(attempt, result).await;
                    }
                }
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    match done {
                        Ok(done) => self.done(done).await,
                        Err(error) => tracing::error!("a link's task has failed: {error}"),
                    }
                }
                () = clock.sleep_until(deadline.unwrap_or_default()), if deadline.is_some() => {}
            }
        }
    }

    fn leaving(&self) -> Option<Goodbye> {
        self.orders.borrow().leave
    }

    fn follow_orders(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.addr != orders.addr {
            state.addr = orders.addr;
            self.dialer.hurry(self.context.clock.now());
            self.attempts.abort_all();
            self.dialer.want(false);
        }
        drop(state);
        if let (Some(reason), Some(current)) = (orders.leave, &self.current) {
            current.handle.close(reason);
        }
        self.decide_to_dial();
    }

    /// Dials while there is an address and no link, or one in doubt and nothing to put in its place.
    fn decide_to_dial(&mut self) {
        let healthy = self.current.as_ref().is_some_and(|link| link.health == Health::Alive);
        let orders = self.orders.borrow();
        let idle = !healthy && self.held.is_none();
        let wanted = idle && orders.addr.is_some() && orders.leave.is_none();
        self.dialer.want(wanted);
        if !wanted {
            self.attempts.abort_all();
        }
    }

    fn start_attempts(&mut self) {
        let Some(addr) = self.orders.borrow().addr.clone() else { return };
        while let Some(attempt) = self.dialer.due(self.context.clock.now()) {
            let (context, peer, addr) = (self.context.clone(), self.peer, addr.clone());
            self.attempts.spawn(async move {
                let dialled = timeout(ATTEMPT_TIMEOUT, dial(context, peer, addr.clone(), attempt));
                let timed_out = DialError::TimedOut { addr, after: ATTEMPT_TIMEOUT };
                (attempt, dialled.await.unwrap_or(Err(timed_out)).map(Box::new))
            });
        }
    }

    async fn handle(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Arrived(session) => self.compete(session).await,
            PeerEvent::Health(number, health) => {
                if let Some(current) = self.current.as_mut().filter(|link| link.number == number) {
                    current.health = health;
                    self.decide_to_dial();
                }
            }
        }
    }

    async fn attempted(&mut self, attempt: AttemptId, result: Result<Box<Session>, DialError>) {
        match result {
            // Several attempts may get through at once when a line returns; the first was chosen.
            Ok(session) if !self.dialer.is_open(attempt) => {
                self.dismiss(session, Goodbye::Replaced);
            }
            Ok(session) => {
                self.compete(session).await;
                // Without a link to show for it the session was held back; the next attempt may
                // follow as after a failure.
                let now = self.context.clock.now();
                self.dialer.failed(now, attempt, Failure::Unreachable);
            }
            Err(error) => {
                self.dialer.failed(self.context.clock.now(), attempt, error.failure());
                if let Some(kind) = error.warning() {
                    let message = match kind {
                        WarningKind::IdentityInUse => identity_in_use_here(self.peer),
                        _ => format!("cannot link with the peer {}: {error}", self.peer),
                    };
                    self.context.warn(Some(self.peer), kind, message);
                }
                self.note_error(error.to_string());
            }
        }
    }

    /// Lets a new session compete with the current link.
    async fn compete(&mut self, session: Box<Session>) {
        if let Some(reason) = self.leaving() {
            self.dismiss(session, reason);
            return;
        }
        let claim = self.claim(&session);
        let verdict = match &self.current {
            Some(current) => judge(&current.claim, &claim),
            None => Verdict::TakeOver,
        };
        match (verdict, &self.current) {
            (Verdict::TakeOver, _) | (_, None) => self.take_over(session, claim).await,
            (Verdict::Keep, _) => self.dismiss(session, Goodbye::Replaced),
            (Verdict::AskCurrent, Some(current)) => {
                let (number, handle) = (current.number, current.handle.clone());
                match self.held.replace(session) {
                    Some(older) => self.dismiss(older, Goodbye::Replaced),
                    None => {
                        let answer = async move { handle.answers(CLONE_PATIENCE).await };
                        self.work.spawn(async move { Done::Asked(number, answer.await) });
                    }
                }
                self.decide_to_dial();
            }
        }
    }

    fn claim(&self, session: &Session) -> Claim {
        let own_is_smaller = self.context.identity.node_id() < self.peer;
        Claim {
            instance: session.hello.instance,
            dialled_by_smaller: session.dialled() == own_is_smaller,
            since: self.context.clock.now(),
        }
    }

    async fn take_over(&mut self, session: Box<Session>, claim: Claim) {
        if let Some(old) = self.current.take() {
            old.handle.close(Goodbye::Replaced);
        }
        self.links += 1;
        let number = LinkNumber(self.links);
        let (link, driver) = session.into_link(self.context.clock, self.context.pace.clone());
        let handle = link.handle.clone();
        self.current = Some(Current { number, handle, claim, health: Health::Alive });
        let report = HealthReport { number, mailbox: self.own_mailbox.clone() };
        self.work.spawn(async move { Done::Ended(number, driver.run(report).await) });
        self.dialer.up(self.context.clock.now());
        self.attempts.abort_all();
        self.note_up();
        self.announce(link).await;
    }

    async fn announce(&mut self, link: Link) {
        let handle = link.handle.clone();
        if self.context.events.send(NetEvent::LinkUp(link)).await.is_err() {
            handle.close(Goodbye::Stopping);
        }
    }

    fn dismiss(&mut self, session: Box<Session>, reason: Goodbye) {
        self.work.spawn(async move {
            session.dismiss(reason).await;
            Done::Dismissed
        });
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Ended(number, reason) => self.ended(number, reason),
            Done::Asked(number, answered) => self.answered(number, answered).await,
            Done::Dismissed => {}
        }
    }

    /// The link that was asked has answered, or not. If another has taken its place meanwhile, that
    /// one is asked.
    async fn answered(&mut self, asked: LinkNumber, answered: bool) {
        let Some(session) = self.held.take() else { return };
        match &self.current {
            Some(current) if current.number == asked && answered => self.refuse_clone(session),
            Some(current) if current.number == asked && self.leaving().is_none() => {
                let claim = self.claim(&session);
                self.take_over(session, claim).await;
            }
            _ => self.compete(session).await,
        }
        self.decide_to_dial();
    }

    fn refuse_clone(&mut self, session: Box<Session>) {
        let message = format!(
            "two running daemons use the identity of the peer {}; the later one was refused: stop \
             one of the two, and give a copied home its own identity",
            self.peer
        );
        self.context.warn(Some(self.peer), WarningKind::IdentityInUse, message);
        self.dismiss(session, Goodbye::IdentityInUse);
    }

    fn ended(&mut self, number: LinkNumber, reason: DownReason) {
        let now = self.context.clock.now();
        match &reason {
            DownReason::ClosedByPeer(Goodbye::IdentityInUse) => {
                let message = identity_in_use_here(self.peer);
                self.context.warn(Some(self.peer), WarningKind::IdentityInUse, message);
            }
            DownReason::Misbehaved(why) => {
                let message = format!("the peer {} broke the protocol: {why}", self.peer);
                self.context.warn(Some(self.peer), WarningKind::Misbehaved, message);
            }
            _ => {}
        }
        if self.current.as_ref().is_none_or(|current| current.number != number) {
            return;
        }
        self.current = None;
        self.dialer.down(now);
        if reason == DownReason::ClosedByPeer(Goodbye::IdentityInUse) {
            self.dialer.rest(now);
        }
        self.note_error(reason.to_string());
        self.decide_to_dial();
    }

    fn note_up(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.connected = true;
        state.last_error = None;
        state.reconnects = self.links - 1;
    }

    fn note_error(&self, error: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_error = Some(error);
    }

    fn publish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.connected = self.current.is_some();
        state.dial_attempts = self.dialer.started();
        state.next_attempt = self.dialer.deadline().map(|at| self.context.clock.instant(at));
    }
}

/// Every run of every node waits differently for each peer.
fn jitter_seed(instance: &InstanceId, peer: &NodeId) -> u64 {
    let mixed = instance.0.iter().chain(peer.as_bytes());
    mixed.fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}
