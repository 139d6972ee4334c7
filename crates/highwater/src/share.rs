//! One share at work: a thread of its own that decides in order, and helpers around it.
//!
//! Everything that changes a share's index, log or files goes through one thread (`actor.rs`), one
//! event at a time, so there is nothing to lock and nothing to race. Around it work a scanner
//! thread (`scanner.rs`), the watcher, and the tasks that fetch content; they only bring events.
//!
//! - `outside.rs`: what it needs of the world; `machine.rs`: the world of a real machine;
//! - `life.rs`: how it comes to work and stops;
//! - `replica.rs`: the index and the log, and what becomes of a state;
//! - `local.rs`: what scans found; `gone.rs`: deletes that are not believed yet; `unread.rs`: what could
//!   not be read;
//! - `peers.rs`, `outlet.rs`: logs of peers taken in, this log given out;
//! - `plan.rs`, `apply.rs`: from what is wanted to what stands in the folder;
//! - `loss.rs`: what becomes of a state that nobody has any more;
//! - `open.rs`: the folder's marker, generations and leftovers of a crash;
//! - `check.rs`, `heal.rs`: what the consistency checker asks, and what is damaged;
//! - `snapshot.rs`: what people are told.

pub(crate) mod actor;
pub(crate) mod apply;
pub(crate) mod catalogue;
pub(crate) mod check;
pub(crate) mod gone;
pub(crate) mod heal;
pub(crate) mod life;
pub(crate) mod local;
pub(crate) mod loss;
pub(crate) mod machine;
pub(crate) mod open;
pub(crate) mod outlet;
pub(crate) mod outside;
pub(crate) mod peers;
pub(crate) mod plan;
pub(crate) mod replica;
pub(crate) mod scanner;
pub(crate) mod snapshot;
pub(crate) mod unread;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::wire::Control;
use highwater_core::{ContentHash, NodeId, ShareName};
use highwater_folder::Root;
use highwater_store::{ShareNumber, Store};
use tokio::sync::{mpsc, oneshot, watch};

use crate::check::deep::DeepDesk;
use crate::config::ShareConfig;
use crate::counters::Counters;
use crate::fetch::source::{LinkId, Source};
use crate::fetch::transfer::Transfers;
use crate::report;
use catalogue::Catalogue;

/// Events that wait for a share. Beyond it links and scanners wait, which is what they should do.
pub(crate) const EVENTS_MAX: usize = 256;

/// Something that a share has to react to.
#[derive(Debug)]
pub(crate) enum Event {
    /// A link to a peer that this share is listed for. On one that is not fresh the peer may
    /// remember an earlier run of this share, and is told to forget it.
    LinkUp { source: Arc<Source>, control: mpsc::Sender<Control>, fresh: bool },
    /// That link is down.
    LinkDown(LinkId),
    /// A message about this share.
    Control(LinkId, Box<Control>),
    /// A peer received other bytes than this content's hash says.
    Mismatch(ContentHash),
    /// A file was found changed while it was being sent.
    Suspect(highwater_core::Key),
    /// A check wants to know something.
    Check(check::CheckCall),
    /// Somebody asks for something.
    Command(Command),
}

/// What people ask of a share.
#[derive(Debug)]
pub(crate) enum Command {
    /// Let a held-back mass delete go out.
    Confirm(oneshot::Sender<Result<u64, String>>),
    /// Fetch again what a held-back mass delete would delete.
    Revert(oneshot::Sender<Result<u64, String>>),
    /// Read the whole folder now.
    Rescan,
    /// Who the share is exchanged with, by id and name.
    SetPeers(BTreeMap<NodeId, String>),
    /// Finish what is being done and end.
    Stop,
}

/// What a share's tasks have in common with the rest of the node.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) node: NodeId,
    pub(crate) store: Arc<Store>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) transfers: Arc<Transfers>,
    /// Ticks whenever something that people are told has changed.
    pub(crate) changes: Arc<watch::Sender<u64>>,
}

/// A running share, as the engine holds it.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) config: ShareConfig,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) snapshot: watch::Receiver<report::ShareStatus>,
    pub(crate) counter: Arc<Counter>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Where peers' requests for content are served from, while the share is open.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    stock: Mutex<Option<Stock>>,
    /// Where the share's bytes are read again for the checker.
    pub(crate) deep: DeepDesk,
    peers: Mutex<BTreeMap<NodeId, String>>,
}

/// What is needed to read content of a share.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) root: Arc<Root>,
    pub(crate) store: Arc<Store>,
    pub(crate) number: ShareNumber,
    pub(crate) catalogue: Arc<Catalogue>,
}

impl Counter {
    pub(crate) fn open(&self, stock: Stock) {
        *self.stock.lock().unwrap_or_else(PoisonError::into_inner) = Some(stock);
    }

    pub(crate) fn close(&self) {
        self.deep.stop();
        *self.stock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn set_peers(&self, peers: BTreeMap<NodeId, String>) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    pub(crate) fn lists(&self, peer: &NodeId) -> bool {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(peer)
    }

    /// What to read from, for this node itself.
    pub(crate) fn stock(&self) -> Option<Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to read from, if this peer may.
    pub(crate) fn stock_for(&self, peer: &NodeId) -> Option<Stock> {
        self.stock().filter(|_| self.lists(peer))
    }
}

impl Share {
    /// Starts a share's thread.
    ///
    /// # Errors
    /// When the system grants no thread.
    pub(crate) fn start(
        config: ShareConfig,
        peers: BTreeMap<NodeId, String>,
        around: Surroundings,
    ) -> std::io::Result<Share> {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let counter = Arc::new(Counter::default());
        counter.set_peers(peers.clone());
        let blank = snapshot::blank(&config);
        let (told, snapshot) = watch::channel(blank);
        let runtime = tokio::runtime::Handle::current();
        let machine = machine::Machine::new(&config, &around, &counter, runtime.clone());
        let (share, listed) = (config.clone(), Arc::clone(&counter));
        let actor = actor::Actor::new(share, peers, around, listed, Box::new(machine), told);
        let thread = std::thread::Builder::new()
            .name(format!("share-{}", clipped(&config.name)))
            .spawn(move || actor.run(&runtime, inbox))?;
        Ok(Share { config, events, snapshot, counter, thread: Some(thread) })
    }

    /// Asks the share to end, and waits until it has.
    pub(crate) async fn stop(mut self) {
        // A share that has ended already needs no word.
        let _ = self.events.send(Event::Command(Command::Stop)).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// Linux shows 15 bytes of a thread's name.
fn clipped(name: &ShareName) -> &str {
    let text = name.as_str();
    text.get(..9).unwrap_or(text)
}
