//! One node of a world: the real engine, over the simulated network, with its real home and folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater::report::{ShareState, Status};
use highwater::{Config, Engine, Home, StartError};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::PATIENCE;
use super::line::Metered;
use crate::record::Record;

/// How often the node's status is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a node may take to end politely.
const FAREWELL: Duration = Duration::from_secs(10);
/// Between two attempts to start while the run before still holds the store.
const START_AGAIN: Duration = Duration::from_millis(200);

/// What the world tells a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Orders {
    /// How often the node was told to restart.
    pub(crate) restarts: u32,
    /// End for good.
    pub(crate) stop: bool,
}

/// What outlives the runs of one node.
pub(crate) struct Host {
    pub(crate) index: u8,
    pub(crate) home: Home,
    pub(crate) folder: PathBuf,
    pub(crate) config: Config,
    pub(crate) sockets: Arc<Metered>,
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) record: Record,
    pub(crate) seen: Mutex<Seen>,
}

/// What a node last said of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) in_sync: bool,
    pub(crate) connected: usize,
    pub(crate) problems: Vec<String>,
    pub(crate) conflicts: u64,
    /// The highest acknowledged offset of each content that was on its way here, by key and size.
    pub(crate) acked: BTreeMap<(String, u64), u64>,
    /// Keys and offsets above 0 at which transfers were taken up.
    pub(crate) resumed: Vec<(String, u64)>,
    /// Content that came though it was here already.
    pub(crate) resent: u64,
    pub(crate) reconnects: u64,
    pub(crate) mismatches: u64,
    /// Whether it has ended for good.
    pub(crate) ended: bool,
}

/// The software of a simulated host: one run after the other until it is told to stop.
pub(crate) async fn software(host: Arc<Host>) -> turmoil::Result {
    while !host.orders.borrow().stop {
        let engine = host.start().await?;
        host.live(&engine).await;
        engine.stop(FAREWELL).await;
    }
    host.seen().ended = true;
    std::future::pending().await
}

impl Host {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far a content of this key and size was acknowledged, as the node last said.
    pub(crate) fn acked(&self, key: &str, size: u64) -> u64 {
        self.seen().acked.get(&(key.to_owned(), size)).copied().unwrap_or_default()
    }

    async fn start(&self) -> Result<Engine, StartError> {
        let begun = std::time::Instant::now();
        loop {
            let (home, config) = (self.home.clone(), self.config.clone());
            match Engine::start_over(self.sockets.clone(), home, config, Instant::now()).await {
                // A killed run's threads are real, and take a real moment to be gone.
                Err(StartError::Store(_)) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(START_AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Looks at the node until an order ends its run.
    async fn live(&self, engine: &Engine) {
        self.record.tell(format!("node {} has started", self.index));
        self.seen().in_sync = false;
        let mut orders = self.orders.subscribe();
        let restarts = orders.borrow_and_update().restarts;
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Ok(()) = orders.changed() => {
                    let orders = *orders.borrow_and_update();
                    if orders.stop || orders.restarts != restarts {
                        return;
                    }
                }
                _ = looks.tick() => self.look(&engine.status().await),
            }
        }
    }

    fn look(&self, status: &Status) {
        let Some(share) = status.shares.first() else { return };
        let mut seen = self.seen();
        let connected = share.peers.iter().filter(|peer| peer.connected).count();
        if connected != seen.connected {
            self.record.tell(format!("node {} has {connected} links", self.index));
        }
        seen.connected = connected;
        let idle = share.state == ShareState::Idle && share.needed.entries == 0;
        let agreed = share.peers.iter().all(|peer| peer.connected && peer.in_sync);
        seen.in_sync = idle && agreed && status.transfers.is_empty();
        seen.problems = share.problems.iter().map(|problem| problem.message.clone()).collect();
        seen.conflicts = share.conflicts;
        seen.resent = status.counters.content_bytes_resent;
        seen.reconnects = status.counters.reconnects;
        seen.mismatches += status.counters.hash_mismatches;
        for transfer in &status.transfers {
            let key = transfer.key.as_str().to_owned();
            let acked = seen.acked.entry((key.clone(), transfer.size)).or_default();
            *acked = transfer.acked_offset.max(*acked);
            let resumed = (key, transfer.resumed_from);
            if resumed.1 > 0 && !seen.resumed.contains(&resumed) {
                self.record.tell(format!("node {} resumes {resumed:?}", self.index));
                seen.resumed.push(resumed);
            }
        }
    }
}
