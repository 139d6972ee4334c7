//! The engine of one node: owns the store, the net, the shares and their tasks.
//!
//! It starts them, brings what comes from the net to the share it is about, starts and stops shares
//! when the configuration changes, and answers what people ask. What becomes of entries and content
//! is decided in the shares (`share.rs`); this only connects.
//!
//! Whatever waits or measures goes by the runtime's clock, the threads of shares too: on a machine
//! that is the system's, and over a simulated network the simulation's.

mod ask;
mod checks;
mod cluster;
mod error;
mod health;
mod links;
mod net;
mod start;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::alert::{Measured, Rule};
use highwater_core::{NodeId, ShareName};
use highwater_net::{Net, NetEvent};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::beat;
use crate::check::Checks;
use crate::cluster::{Cluster, Picture, Told};
use crate::config::{Config, ShareConfig};
use crate::home::Home;
use crate::lines::Lines;
use crate::lookout::{self, Lookout};
use crate::report::event::{Happening, Occurrence};
use crate::report::rfc3339;
use crate::serve::{Desk, Desks};
use crate::share::machine::wall_now;
use crate::share::{Command, Event, Share, Surroundings};
pub(crate) use checks::Held;
pub use checks::ShareRoot;
pub use error::{EngineError, StartError};
use health::Watchdog;
use links::{Links, Warnings};

/// Events that somebody who follows them may lag behind before some are left out for them.
const HAPPENINGS_MAX: usize = 256;

/// A running node. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) home: Home,
    pub(crate) node: NodeId,
    pub(crate) net: Net,
    pub(crate) cluster: Cluster,
    pub(crate) lines: Lines,
    around: Surroundings,
    desks: Arc<Desks>,
    links: Links,
    checks: Checks,
    warnings: Warnings,
    watchdog: Watchdog,
    happenings: broadcast::Sender<Occurrence>,
    config: Mutex<Config>,
    lookout: Lookout,
    /// Held while shares are started and stopped; nothing else waits for it.
    shares: tokio::sync::Mutex<BTreeMap<ShareName, Share>>,
    started: Instant,
}

impl Engine {
    /// Which node this is.
    pub fn node_id(&self) -> NodeId {
        self.0.node
    }

    /// Where it listens for peers.
    pub fn sync_addr(&self) -> SocketAddr {
        self.0.net.local_addr()
    }

    /// Where it keeps what is its own.
    pub fn home(&self) -> &Home {
        &self.0.home
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Config {
        self.0.config().clone()
    }

    /// What is seen of the node over time: lags and alerts.
    pub fn lookout(&self) -> &Lookout {
        &self.0.lookout
    }

    /// What happens from now on. Who lags behind by more than 256 misses some, and is told so.
    pub fn events(&self) -> broadcast::Receiver<Occurrence> {
        self.0.happenings.subscribe()
    }

    /// Waits for the next of the moments, `every` apart, at which this node does what it does again
    /// and again.
    pub async fn beat(&self, every: Duration) {
        beat::next(self.0.net.began(), every).await;
    }

    /// Ticks whenever something that [`Engine::status`] shows has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.around.changes.subscribe()
    }

    /// Takes over another configuration: shares and peers at once, the rest at the next start.
    ///
    /// # Errors
    /// When a share could not be started; the others follow the new configuration.
    pub async fn reload(&self, config: Config) -> Result<(), EngineError> {
        let inner = &self.0;
        let before = std::mem::replace(&mut *inner.config(), config.clone());
        if before.listen != config.listen || before.node != config.node {
            tracing::warn!("[node] and [listen] take effect at the next start");
        }
        inner.set_peers();
        let mut shares = inner.shares.lock().await;
        let ended: Vec<ShareName> = shares
            .iter()
            .filter(|(name, share)| config.share(name) != Some(&share.config))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            inner.desks.remove(&name);
            if let Some(share) = shares.remove(&name) {
                share.stop().await;
            }
            if config.share(&name).is_none() {
                let store = Arc::clone(&inner.around.store);
                blocking(move || store.drop_share(&name)).await?;
            }
        }
        for share in &config.shares {
            let peers = listed_peers(&config, &share.name);
            match shares.get(&share.name) {
                Some(running) => {
                    running.counter.deep.set_rate_max(config.check.deep_rate);
                    // At once: the links that follow are announced to those who list their peer.
                    running.counter.set_peers(peers.clone());
                    let told = Event::Command(Command::SetPeers(peers));
                    // A share that has ended is told nothing.
                    let _ = running.events.send(told).await;
                }
                None => drop(shares.insert(share.name.clone(), inner.begin(share, peers)?)),
            }
        }
        drop(shares);
        inner.join_links().await;
        inner.lines.keep(&config.peers.iter().map(|peer| peer.id).collect());
        inner.cluster.tell(Told::Changed).await;
        inner.tick();
        Ok(())
    }

    /// Lets a held-back mass delete go out; how many entries that were.
    ///
    /// # Errors
    /// When nothing is held back, or there is no such share.
    pub async fn confirm(&self, share: &ShareName) -> Result<u64, EngineError> {
        self.decide(share, Command::Confirm).await
    }

    /// Fetches again what a held-back mass delete would delete; how many entries that are.
    ///
    /// # Errors
    /// When nothing is held back, or there is no such share.
    pub async fn revert(&self, share: &ShareName) -> Result<u64, EngineError> {
        self.decide(share, Command::Revert).await
    }

    async fn decide(
        &self,
        share: &ShareName,
        command: impl FnOnce(oneshot::Sender<Result<u64, String>>) -> Command,
    ) -> Result<u64, EngineError> {
        let (answer, decided) = oneshot::channel();
        self.tell(share, Event::Command(command(answer))).await?;
        let decided = decided.await.map_err(|_| EngineError::Stopped(share.clone()))?;
        decided.map_err(EngineError::Refused)
    }

    async fn tell(&self, share: &ShareName, event: Event) -> Result<(), EngineError> {
        let desk = self.0.desks.get(share);
        let desk = desk.ok_or_else(|| EngineError::UnknownShare(share.clone()))?;
        let stopped = || EngineError::Stopped(share.clone());
        let events = desk.events.upgrade().ok_or_else(stopped)?;
        events.send(event).await.map_err(|_| stopped())
    }

    /// Reads a folder, or all of them, now.
    ///
    /// # Errors
    /// When there is no such share.
    pub async fn rescan(&self, share: Option<&ShareName>) -> Result<(), EngineError> {
        let shares = match share {
            Some(share) => vec![share.clone()],
            None => self.0.desks.all().into_keys().collect(),
        };
        for share in shares {
            self.tell(&share, Event::Command(Command::Rescan)).await?;
        }
        Ok(())
    }

    /// Ends everything, politely for at most `deadline`.
    pub async fn stop(&self, deadline: Duration) {
        let shares = std::mem::take(&mut *self.0.shares.lock().await);
        let stopping = async {
            let mut ending = tokio::task::JoinSet::new();
            for (name, share) in shares {
                self.0.desks.remove(&name);
                ending.spawn(share.stop());
            }
            while ending.join_next().await.is_some() {}
        };
        let begun = Instant::now();
        self.0.cluster.stop().await;
        if tokio::time::timeout(deadline / 2, stopping).await.is_err() {
            tracing::warn!("a share did not end in time; what it had not finished goes on later");
        }
        self.0.net.shutdown(deadline.saturating_sub(begun.elapsed())).await;
    }
}

impl Inner {
    async fn start_share(&self, share: &ShareConfig, config: &Config) -> Result<(), EngineError> {
        let running = self.begin(share, listed_peers(config, &share.name))?;
        self.shares.lock().await.insert(share.name.clone(), running);
        Ok(())
    }

    /// Starts one share and opens its desk.
    fn begin(
        &self,
        config: &ShareConfig,
        peers: BTreeMap<NodeId, String>,
    ) -> Result<Share, EngineError> {
        let share = Share::start(config.clone(), peers, self.around.clone());
        let share = share.map_err(EngineError::Thread)?;
        share.counter.deep.set_rate_max(self.config().check.deep_rate);
        let desk = Desk {
            counter: Arc::clone(&share.counter),
            events: share.events.downgrade(),
            snapshot: share.snapshot.clone(),
        };
        self.desks.put(config.name.clone(), desk);
        Ok(share)
    }

    /// Tells those who follow what happens. Nobody needs to.
    pub(crate) fn happened(&self, what: Happening) {
        let _ = self.happenings.send(Occurrence { at: rfc3339(wall_now()), what });
    }

    pub(crate) fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what the net reports, as long as the engine lives.
async fn listen(engine: std::sync::Weak<Inner>, mut events: mpsc::Receiver<NetEvent>) {
    while let Some(event) = events.recv().await {
        let Some(engine) = engine.upgrade() else { return };
        match event {
            NetEvent::LinkUp(link) => engine.link_up(link),
            NetEvent::Warning { peer, kind, message } => {
                tracing::warn!(?peer, ?kind, "{message}");
                engine.warnings.add(peer, kind, message);
                engine.tick();
            }
        }
    }
}

/// Looks at the node now and then, as long as the engine lives.
async fn keep_a_lookout(began: Instant, engine: std::sync::Weak<Inner>) {
    lookout::run(began, || async {
        let Some(inner) = engine.upgrade() else { return false };
        let engine = Engine(inner);
        let (mut status, config) = (engine.status().await, engine.config());
        // With more peers than links most have none, and are looked after by those who want one.
        let cluster = &engine.0.cluster;
        for share in &mut status.shares {
            share.peers.retain(|peer| peer.connected || cluster.wants(&peer.node_id));
        }
        if let Some(picture) = cluster.picture().await {
            engine.lookout().hand_in("clocks", clocks(&config, &picture));
        }
        let config = config.alerts;
        let free = free_bytes(engine.home().dir());
        // The disk is waited for only when there is something to keep, which is seldom.
        if let Some(turned) = engine.lookout().look(&status, free, &config) {
            blocking(move || engine.lookout().keep(&turned)).await;
        }
        true
    })
    .await;
}

/// How far the clocks of linked peers are from this node's.
fn clocks(config: &Config, picture: &Picture) -> Vec<Measured> {
    let skew = |(id, offset_ms): (&NodeId, &i64)| {
        let peer = config.peers.iter().find(|peer| peer.id == *id)?;
        let seconds = *offset_ms as f64 / 1000.0;
        Some(Measured {
            rule: Rule::ClockSkew,
            subject: peer.name.clone(),
            value: seconds.abs(),
            cause: format!("the clock of {} is {seconds:.1} s later than this node's", peer.name),
        })
    };
    picture.clock_offsets.iter().filter_map(skew).collect()
}

/// Room on the disk that `dir` lies on, for this user; `None` when the system does not say.
pub(crate) fn free_bytes(dir: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The peers that list a share, by id and name.
fn listed_peers(config: &Config, share: &ShareName) -> BTreeMap<NodeId, String> {
    let lists = config.peers.iter().filter(|peer| peer.shares.contains(share));
    lists.map(|peer| (peer.id, peer.name.clone())).collect()
}

/// Runs work that waits for the disk on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
