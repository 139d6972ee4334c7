//! One node of a simulated world: the real net, and an application that talks over every link that
//! comes up, numbers what it says and checks what it hears.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Duration;

use highwater_core::wire::{Hello, PROTOCOL};
use highwater_core::{InstanceId, NodeId};
use highwater_net::{Identity, Link, LinkHandle, Net, NetConfig, NetEvent, PeerAddress};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::record::{EndId, Record, now};
use crate::sockets::Simulated;
use crate::talk::Talk;

/// How often dials are counted.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Dials of one peer within a second and within ten, at most: growing waits of 75 ms and more after
/// a refusal, one every 500 ms into silence, and a fresh start after each link that lived.
const DIALS_MAX: [(usize, u64); 2] = [(4, 8), (40, 50)];
/// What a node may take to end politely, and its last tasks after that.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the world tells a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Orders {
    /// Take no content from the links.
    pub(crate) stalled: bool,
    /// Say nothing new.
    pub(crate) hushed: bool,
    /// How often the node was told to restart.
    pub(crate) restarts: u32,
    /// End for good.
    pub(crate) stop: bool,
}

/// What outlives the runs of one node.
pub(crate) struct Node {
    pub(crate) index: u8,
    pub(crate) seed: u64,
    pub(crate) home: std::path::PathBuf,
    pub(crate) ids: Vec<NodeId>,
    pub(crate) peers: Vec<PeerAddress>,
    pub(crate) pause_ms: u64,
    pub(crate) bytes_max: u64,
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) runs: AtomicU8,
    pub(crate) record: Record,
    pub(crate) sockets: Simulated,
}

/// The software of a simulated host: one run after the other until it is told to stop.
pub(crate) async fn software(node: Arc<Node>) -> turmoil::Result {
    while !node.orders.borrow().stop {
        Run::start(node.clone()).await?.live().await;
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let ended = async {
        while tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // What is left after that is counted.
    let _ = tokio::time::timeout(FAREWELL, ended).await;
    node.record.state().left_over.insert(node.index, tasks());
    std::future::pending().await
}

/// One run of a node, from the start of its net to the end.
struct Run {
    node: Arc<Node>,
    number: u8,
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    serial: u16,
    talks: JoinSet<()>,
    handles: BTreeMap<u8, LinkHandle>,
    dials: BTreeMap<u8, VecDeque<u64>>,
}

impl Run {
    async fn start(node: Arc<Node>) -> turmoil::Result<Self> {
        let number = node.runs.fetch_add(1, SeqCst);
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&node.seed.to_be_bytes());
        (instance[8], instance[9]) = (node.index, number);
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1.2.3".to_owned(),
            name: format!("node {}", node.index),
            user: "alice".to_owned(),
            instance: InstanceId(instance),
        };
        let config = NetConfig { listen: "0.0.0.0:7420".parse()?, hello, began: Instant::now() };
        let identity = Identity::load(&node.home)?;
        let sockets = Arc::new(node.sockets.clone());
        let (net, events) = Net::start_over(sockets, config, identity, node.peers.clone()).await?;
        let (talks, handles, dials) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { node, number, net, events, serial: 0, talks, handles, dials })
    }

    /// Takes links and orders until an order ends this run.
    async fn live(mut self) {
        let mut orders = self.node.orders.subscribe();
        let restarts = orders.borrow_and_update().restarts;
        let mut samples = interval(SAMPLE_EVERY);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.take(event),
                _ = samples.tick() => self.sample(),
                Some(_) = self.talks.join_next(), if !self.talks.is_empty() => {}
                Ok(()) = orders.changed() => {
                    let orders = *orders.borrow_and_update();
                    if orders.stop || orders.restarts != restarts {
                        break;
                    }
                }
            }
        }
        let begun = now();
        self.net.shutdown(FAREWELL).await;
        if now() - begun >= FAREWELL.as_millis() as u64 {
            self.node.record.violation(format!("node {} would not stop", self.node.index));
        }
        drop(self.events);
        while self.talks.join_next().await.is_some() {}
    }

    fn take(&mut self, event: NetEvent) {
        match event {
            NetEvent::LinkUp(link) => self.link_up(link),
            NetEvent::Warning { kind, message, .. } => {
                let index = self.node.index;
                self.node.record.violation(format!("node {index} warns: {kind:?}: {message}"));
            }
        }
    }

    fn link_up(&mut self, link: Link) {
        let peer = self.node.ids.iter().position(|id| *id == link.peer).expect("a peer") as u8;
        let end = EndId { node: self.node.index, run: self.number, serial: self.serial };
        self.serial += 1;
        self.node.record.up(end, peer, link.dialled);
        let (record, handle) = (self.node.record.clone(), link.handle.clone());
        if let Some(old) = self.handles.insert(peer, handle.clone()) {
            self.talks.spawn(fenced(record.clone(), end, old));
        }
        self.talks.spawn(async move {
            let reason = handle.closed().await;
            record.down(end, &reason.to_string());
        });
        let orders = self.node.orders.subscribe();
        let talk = Talk::new(end, &self.node, orders);
        self.talks.spawn(talk.run(link));
    }

    /// Counts dials, and takes the round trips of the links.
    fn sample(&mut self) {
        for (peer, state) in self.net.peer_states() {
            let peer = self.node.ids.iter().position(|id| *id == peer).expect("a peer") as u8;
            let counts = self.dials.entry(peer).or_default();
            counts.push_back(state.dial_attempts);
            for (samples, most) in DIALS_MAX {
                let before = counts.len().checked_sub(samples + 1).map_or(0, |at| counts[at]);
                if state.dial_attempts - before > most {
                    let (index, dials) = (self.node.index, state.dial_attempts - before);
                    let what =
                        format!("node {index} dialled {peer} {dials} times in {samples} samples");
                    self.node.record.violation(what);
                }
            }
            if counts.len() > 64 {
                counts.pop_front();
            }
        }
        let mut trips = Vec::new();
        for handle in self.handles.values() {
            let stats = handle.stats();
            if let (Some(min), Some(smoothed)) = (stats.rtt_min, stats.rtt) {
                trips.push((min.as_millis() as u64, smoothed.as_millis() as u64));
            }
        }
        self.node.record.state().round_trips.extend(trips);
    }
}

/// A link that another has replaced ends soon: nothing of it is heard after that.
async fn fenced(record: Record, by: EndId, old: LinkHandle) {
    if tokio::time::timeout(Duration::from_secs(2), old.closed()).await.is_err() {
        record.violation(format!("the link before {by:?} lives on"));
    }
}
