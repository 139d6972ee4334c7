//! This node's part in its cluster: a task that brings links, messages and time to the membership
//! machine of core, and carries out what it decides.
//!
//! - `actor.rs`: the task; the only owner of the machine.
//! - `choose.rs`: with whom links are kept, when not with everybody.
//! - `voice.rs`: how much of it is logged.
//! - `memory.rs`: the file in the home that keeps incarnation, members and orders over restarts.
//!
//! Two nodes speak of the cluster only if each lists the other for one share at least that both
//! have: each tells the other, when a link comes up, which shares it lists for it.
//!
//! Nothing here decides what is replicated, and nothing here touches a share.

pub(crate) mod actor;
mod choose;
pub(crate) mod memory;
mod voice;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::NodeId;
use highwater_core::membership::View;
use highwater_core::wire::Control;
use highwater_net::LinkHandle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::counters::Count;
use crate::fetch::source::LinkId;

/// What waits for the cluster's task. Links wait when it is full, as they do for shares.
const TOLD_MAX: usize = 256;
/// How long somebody waits for the task's answer: it never waits for anything itself.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Something that the task has to know.
#[derive(Debug)]
pub(crate) enum Told {
    /// A link is up.
    LinkUp {
        link: LinkId,
        peer: NodeId,
        control: mpsc::Sender<Control>,
        handle: LinkHandle,
        /// Whether this side has dialled.
        dialled: bool,
    },
    /// A link is down; `parted` when one of both sides does not list the other any more.
    LinkDown { link: LinkId, parted: bool },
    /// The other side of a link has fallen silent, or is heard again.
    Silence(LinkId),
    /// A message about the cluster.
    Control { link: LinkId, message: Box<Control> },
    /// What this node says about itself, or whom it lists, may have changed.
    Changed,
    /// An operator wants a node removed, or let in again.
    Decide { target: NodeId, removed: bool, answer: oneshot::Sender<Result<(), String>> },
    /// Somebody wants to see the cluster.
    Show(oneshot::Sender<Picture>),
    /// Save and end.
    Stop(oneshot::Sender<()>),
}

/// The cluster as this node sees it.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    /// Every node that is known, this one first.
    pub(crate) members: Vec<Seen>,
    /// How much later each peer's clock is than this node's, in milliseconds.
    pub(crate) clock_offsets: BTreeMap<NodeId, i64>,
}

/// One node of a picture.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) view: View,
    /// How long ago it gave a sign of life.
    pub(crate) ago: Duration,
}

/// What this node has done for others, counted where it happens.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    requests: Count,
    failures: Count,
    micros: Count,
}

impl Answers {
    /// Counts a request that took `took` from its arrival to its last byte.
    pub(crate) fn add(&self, well: bool, took: Duration) {
        self.requests.add(1);
        self.failures.add(u64::from(!well));
        self.micros.add(took.as_micros() as u64);
    }

    /// Requests, those that failed, and microseconds in all.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        (self.requests.get(), self.failures.get(), self.micros.get())
    }
}

/// The way to the task.
#[derive(Debug)]
pub(crate) struct Cluster {
    told: mpsc::Sender<Told>,
    pub(crate) answers: Arc<Answers>,
    removed: Arc<Mutex<BTreeSet<NodeId>>>,
    wanted: Arc<Mutex<Option<BTreeSet<NodeId>>>>,
    /// With whom links are kept for a while, whatever else is wanted, and how many need each.
    held: Mutex<BTreeMap<NodeId, usize>>,
    pub(crate) http_port: Mutex<Option<u16>>,
}

/// The task's end of it.
#[derive(Debug)]
pub(crate) struct TaskEnd {
    pub(crate) inbox: mpsc::Receiver<Told>,
    pub(crate) removed: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Whom to dial, where that is not everybody.
    pub(crate) wanted: Arc<Mutex<Option<BTreeSet<NodeId>>>>,
    pub(crate) answers: Arc<Answers>,
}

impl Cluster {
    /// Both ends; `removed` are the nodes that were removed before.
    pub(crate) fn new(removed: BTreeSet<NodeId>) -> (Self, TaskEnd) {
        let (told, inbox) = mpsc::channel(TOLD_MAX);
        let (answers, removed) = (Arc::<Answers>::default(), Arc::new(Mutex::new(removed)));
        let wanted = Arc::default();
        let end = TaskEnd {
            inbox,
            wanted: Arc::clone(&wanted),
            removed: Arc::clone(&removed),
            answers: Arc::clone(&answers),
        };
        let (held, http_port) = (Mutex::default(), Mutex::default());
        (Self { told, answers, removed, wanted, held, http_port }, end)
    }

    /// Brings something to the task, waiting for room.
    pub(crate) async fn tell(&self, told: Told) {
        // A task that has ended needs to know nothing more.
        let _ = self.told.send(told).await;
    }

    /// Whether an operator removed this node.
    pub(crate) fn is_removed(&self, node: &NodeId) -> bool {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains(node)
    }

    /// Whether a link with this peer is to be made from here.
    pub(crate) fn wants(&self, node: &NodeId) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.as_ref().is_none_or(|wanted| wanted.contains(node)) || self.holds(node)
    }

    /// Whether somebody needs a link with this peer for a while.
    pub(crate) fn holds(&self, node: &NodeId) -> bool {
        self.held().contains_key(node)
    }

    /// Somebody needs links with these peers, until [`Cluster::release`].
    pub(crate) fn hold(&self, nodes: &[NodeId]) {
        let mut held = self.held();
        nodes.iter().for_each(|node| *held.entry(*node).or_default() += 1);
    }

    /// Nobody needs them any more for what they were held for.
    pub(crate) fn release(&self, nodes: &[NodeId]) {
        let mut held = self.held();
        for node in nodes {
            if let Some(count) = held.get_mut(node) {
                *count -= 1;
            }
        }
        held.retain(|_, count| *count > 0);
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<NodeId, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster as it is now; `None` when the task has ended.
    pub(crate) async fn picture(&self) -> Option<Picture> {
        self.ask(Told::Show).await
    }

    /// Removes a node, or lets one in again.
    pub(crate) async fn decide(&self, target: NodeId, removed: bool) -> Result<(), String> {
        let decided = self.ask(|answer| Told::Decide { target, removed, answer }).await;
        decided.unwrap_or_else(|| Err("the node is stopping; ask another one".to_owned()))
    }

    /// Saves what is known and ends the task.
    pub(crate) async fn stop(&self) {
        self.ask(Told::Stop).await;
    }

    async fn ask<T>(&self, told: impl FnOnce(oneshot::Sender<T>) -> Told) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.told.send(told(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(ANSWER_WAIT, asked).await.ok().flatten()
    }
}

/// What one neighbour may have verified: signatures cost time, and a hostile one can make up keys.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    since: Instant,
}

/// Signatures verified for one neighbour at once: a cluster of hundreds, twice.
const VERIFY_MAX: u32 = 2048;
/// And again after it, in a second: 2 ms of a processor.
const VERIFY_PER_SECOND: u32 = 32;

impl Default for Allowance {
    fn default() -> Self {
        Self { left: VERIFY_MAX, since: Instant::now() }
    }
}

impl Allowance {
    /// Whether one more may be verified. What is left out is asked for again when digests differ.
    pub(crate) fn take(&mut self) -> bool {
        let seconds = self.since.elapsed().as_secs().min(u64::from(VERIFY_MAX)) as u32;
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds * VERIFY_PER_SECOND).min(VERIFY_MAX);
            self.since = Instant::now();
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}
