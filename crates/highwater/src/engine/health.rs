//! Whether the node is well: gathers the signs, lets core judge them, and keeps the last verdict for
//! those who only want to show it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use highwater_core::health::{Footprint, Progress, Signs};
use highwater_core::member::State;
use highwater_core::{ShareName, Time};
use tokio::time::Instant;

use super::{Engine, Inner, blocking};
use crate::beat;
use crate::report::event::Happening;
use crate::report::{ClusterCheck, Health, HealthReason, ShareState, ShareStatus};
use crate::share::machine::wall_now;

/// Between two looks. `GET /health` looks at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is kept from look to look.
#[derive(Debug)]
pub(super) struct Watchdog {
    began: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    shares: BTreeMap<ShareName, Progress>,
    states: BTreeMap<ShareName, ShareState>,
    stuck: Vec<(ShareName, Duration)>,
    unwell: Vec<HealthReason>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { began: Instant::now(), kept: Mutex::default() }
    }
}

impl Watchdog {
    /// Why the node was not well at the last look.
    pub(super) fn unwell(&self) -> Vec<HealthReason> {
        self.kept().unwell.clone()
    }

    fn stuck(&self) -> Vec<(ShareName, Duration)> {
        self.kept().stuck.clone()
    }

    /// Looks whether the shares make progress.
    fn look(&self, shares: &[ShareStatus], staged: &BTreeMap<ShareName, u64>) {
        let now = Time::since_start(self.began.elapsed());
        let mut kept = self.kept();
        kept.shares.retain(|name, _| shares.iter().any(|share| share.name == *name));
        let mut stuck = Vec::new();
        for share in shares {
            let progress = kept.shares.entry(share.name.clone()).or_default();
            let footprint = footprint(share, staged.get(&share.name).copied().unwrap_or(0));
            if let Some(still) = progress.look(now, could_go_on(share), footprint) {
                stuck.push((share.name.clone(), still));
            }
        }
        kept.stuck = stuck;
    }

    /// The shares that do something else than at the last look.
    fn changed(&self, shares: &[ShareStatus]) -> Vec<(ShareName, ShareState)> {
        let now: BTreeMap<ShareName, ShareState> =
            shares.iter().map(|share| (share.name.clone(), share.state)).collect();
        let mut kept = self.kept();
        let before = std::mem::replace(&mut kept.states, now.clone());
        now.into_iter().filter(|(name, state)| before.get(name) != Some(state)).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn footprint(share: &ShareStatus, staged: u64) -> Footprint {
    Footprint {
        needed: share.needed.entries,
        bytes: share.needed.bytes,
        taken_in: share.peers.iter().map(|peer| peer.pull.acked_seq.0).fold(0, u64::wrapping_add),
        staged,
        head: share.head_seq.0,
    }
}

/// Whether a share has work that nothing stands in the way of: entries that it needs and that are no
/// listed problem, and a peer to ask.
fn could_go_on(share: &ShareStatus) -> bool {
    let works = matches!(share.state, ShareState::Syncing | ShareState::Idle);
    let connected = share.peers.iter().any(|peer| peer.connected);
    works && connected && share.needed.entries > share.problems.len() as u64
}

impl Engine {
    /// Whether the node is well.
    pub async fn health(&self) -> Health {
        self.0.health().await
    }
}

impl Inner {
    async fn health(&self) -> Health {
        let shares = self.share_statuses();
        let stopped = shares.iter().filter(|share| share.state == ShareState::Error);
        let stopped = stopped.map(|share| (share.name.clone(), why_stopped(share))).collect();
        let picture = self.cluster.picture().await;
        let others = picture.iter().flat_map(|picture| picture.members.iter().skip(1));
        let present: Vec<State> =
            others.map(|seen| seen.view.state).filter(|state| *state != State::Left).collect();
        let alone = !present.is_empty() && present.iter().all(|state| *state == State::Failed);
        let (store_failure, disks) = self.look_at_disks(&shares).await;
        let offsets = picture.map(|picture| picture.clock_offsets.into_values().collect());
        let signs = Signs {
            store_failure,
            disks,
            stopped,
            stuck: self.watchdog.stuck(),
            clock_offsets: offsets.unwrap_or_default(),
            expired: self.lookout.expired(),
        };
        let cluster = ClusterCheck { enabled: self.is_in_cluster(), status: !alone };
        Health::judge(&signs, cluster, wall_now())
    }

    /// Why the store takes no writes, and what is free on each disk, the store's first.
    async fn look_at_disks(&self, shares: &[ShareStatus]) -> (Option<String>, Vec<(String, u64)>) {
        let store = Arc::clone(&self.around.store);
        let home = self.home.dir().to_owned();
        let roots = shares.iter().filter(|share| share.state != ShareState::Error);
        let roots: Vec<(String, PathBuf)> =
            roots.map(|share| (format!("the share {}", share.name), share.path.clone())).collect();
        blocking(move || {
            let failure = store.check_working().err().map(|error| error.to_string());
            let mut disks = vec![("the store".to_owned(), free_bytes(&home).unwrap_or(0))];
            // A root that is gone is the share's problem, and told as such.
            disks.extend(
                roots.into_iter().filter_map(|(what, root)| Some((what, free_bytes(&root)?))),
            );
            (failure, disks)
        })
        .await
    }

    pub(super) fn share_statuses(&self) -> Vec<ShareStatus> {
        let desks = self.desks.all().into_iter();
        let status = desks.map(|(share, desk)| {
            let mut status = desk.snapshot.borrow().clone();
            status.check = self.checks.brief(&share);
            status
        });
        status.collect()
    }

    async fn watch(&self) {
        let mut staged = BTreeMap::new();
        for transfer in self.around.transfers.report() {
            let sum: &mut u64 = staged.entry(transfer.share).or_default();
            *sum = sum.wrapping_add(transfer.acked_offset);
        }
        let shares = self.share_statuses();
        self.watchdog.look(&shares, &staged);
        for (name, state) in self.watchdog.changed(&shares) {
            self.happened(Happening::Share { name, state });
        }
        let unwell = self.health().await.reasons;
        let mut kept = self.watchdog.kept();
        if kept.unwell == unwell {
            return;
        }
        for reason in unwell.iter().filter(|reason| !kept.unwell.contains(reason)) {
            tracing::error!(kind = reason.kind, "not well: {}", reason.message);
        }
        if unwell.is_empty() {
            tracing::info!("well again");
        }
        self.happened(Happening::Health { status: unwell.is_empty() });
        kept.unwell = unwell;
        drop(kept);
        self.tick();
    }
}

/// Looks after the node for as long as the engine lives.
pub(super) async fn watch(engine: Weak<Inner>) {
    while let Some(engine) = engine.upgrade() {
        engine.watch().await;
        let began = engine.net.began();
        drop(engine);
        beat::next(began, LOOK_EVERY).await;
    }
}

fn why_stopped(share: &ShareStatus) -> String {
    let whole = share.problems.iter().find(|problem| problem.path.is_empty());
    whole.map_or_else(|| "see its problems".to_owned(), |problem| problem.message.clone())
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
