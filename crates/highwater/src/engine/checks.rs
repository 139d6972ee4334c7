//! Checks of this node's shares: begun by people, by the node itself now and then, and after a
//! restart by the report of one that was broken off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use highwater_core::check::CheckId;
use highwater_core::{NodeId, ShareName};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Engine, EngineError, Inner, listed_peers};
use crate::check::member::{Later, Member, Reach};
use crate::check::report::{CheckReport, NodeReport, Origin, Repair};
use crate::check::talk::{Talk, call};
use crate::check::{CheckSpec, Lead, Search, begun};
use crate::report::rfc3339;
use crate::share::check::CheckCall;
use crate::share::machine::wall_now;
use highwater_core::fingerprint::{Fingerprint, KeyRange};
use highwater_core::wire::Control;

/// How often it is looked whether a share is due to be read again: within a tenth of the interval,
/// and no more often than that costs something.
const SCRUB_LOOK_MIN: Duration = Duration::from_millis(200);
const SCRUB_LOOK_MAX: Duration = Duration::from_secs(60);

/// The share's entries in one hash.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ShareRoot {
    /// Which share.
    pub share: ShareName,
    /// 64 hexadecimal digits, the same wherever the share's entries are.
    pub root: String,
    /// How many entries there are.
    pub entries: u64,
}

impl Reach for Inner {
    fn own(&self) -> NodeId {
        self.node
    }

    fn link(&self, peer: &NodeId) -> Option<(Arc<Talk>, mpsc::Sender<Control>)> {
        self.links.talk_with(peer)
    }

    fn is_removed(&self, node: &NodeId) -> bool {
        self.cluster.is_removed(node)
    }

    fn names(&self) -> Later<'_, BTreeMap<NodeId, String>> {
        Box::pin(async {
            let members = self.cluster.picture().await.map(|picture| picture.members);
            let facts = members.into_iter().flatten().map(|seen| seen.view.card.facts().clone());
            facts.map(|facts| (facts.id, facts.name)).collect()
        })
    }
}

/// Links that are kept for as long as this lives, also with peers that none is kept with otherwise.
#[derive(Debug)]
pub(crate) struct Held {
    engine: Weak<Inner>,
    peers: Vec<NodeId>,
}

impl Held {
    fn new(engine: &Arc<Inner>, peers: Vec<NodeId>) -> Self {
        engine.cluster.hold(&peers);
        engine.set_peers();
        Self { engine: Arc::downgrade(engine), peers }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.cluster.release(&self.peers);
            engine.set_peers();
        }
    }
}

impl Engine {
    /// Begins to check a share. The report is told as it grows, and kept.
    ///
    /// # Errors
    /// When there is no such share, or it is being checked already.
    pub fn start_check(
        &self,
        spec: &CheckSpec,
    ) -> Result<watch::Receiver<CheckReport>, EngineError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| EngineError::Refused(error.to_string()))?;
        Inner::start_check(&self.0, CheckId(id), spec, rfc3339(wall_now()))
    }

    /// Every check that is known, the latest first.
    pub async fn checks(&self) -> Vec<CheckReport> {
        let inner = Arc::clone(&self.0);
        super::blocking(move || inner.checks.list()).await
    }

    /// One check.
    pub async fn check(&self, id: CheckId) -> Option<CheckReport> {
        let inner = Arc::clone(&self.0);
        super::blocking(move || inner.checks.get(id)).await
    }

    /// The root hash of a share: equal on two nodes just where they have the same entries.
    ///
    /// # Errors
    /// When there is no such share, or it is not open.
    pub async fn root(&self, share: &ShareName) -> Result<ShareRoot, EngineError> {
        let desk = self.0.desks.get(share);
        let desk = desk.ok_or_else(|| EngineError::UnknownShare(share.clone()))?;
        let sums = call(&desk, |answer| CheckCall::Sums(vec![KeyRange::ALL], answer)).await;
        let all: Option<Fingerprint> = sums.flatten().and_then(|sums| sums.first().copied());
        let all = all.ok_or_else(|| {
            EngineError::Refused(format!(
                "the share {share} is not open; `highwater status {share}` says why"
            ))
        })?;
        Ok(ShareRoot { share: share.clone(), root: all.root(), entries: all.entries })
    }
}

impl Inner {
    fn start_check(
        self: &Arc<Self>,
        id: CheckId,
        spec: &CheckSpec,
        started: String,
    ) -> Result<watch::Receiver<CheckReport>, EngineError> {
        let share = &spec.share;
        let desk = self.desks.get(share);
        let desk = desk.ok_or_else(|| EngineError::UnknownShare(share.clone()))?;
        if let Some(running) = self.checks.running(share) {
            let message = format!(
                "the share {share} is being checked already (check {}, {}); wait for its end",
                running.id, running.progress.phase
            );
            return Err(EngineError::Refused(message));
        }
        let config = self.config().clone();
        let mut listed = listed_peers(&config, share);
        listed.retain(|peer, _| !self.cluster.is_removed(peer));
        let chosen: BTreeSet<NodeId> = spec.peers.iter().copied().collect();
        let near = listed.keys().filter(|peer| chosen.is_empty() || chosen.contains(peer));
        let held = Held::new(self, near.copied().collect());
        let own = Member::own(self.node, config.node.name.clone(), share.clone(), desk.clone());
        let members = vec![Arc::new(own)];
        let reach: Arc<dyn Reach> = Arc::clone(self) as Arc<dyn Reach>;
        let search = Search { share: share.clone(), listed, chosen, reach };
        let mut report = begun(id, spec, started);
        report.nodes = members.iter().map(|member| NodeReport::of(member)).collect();
        let is_scrub = spec.origin == Origin::Scrub;
        let settings = config.check;
        let rate = if is_scrub { settings.scrub_rate } else { settings.deep_rate };
        let (told, _) = watch::channel(report);
        Ok(self.checks.lead(Lead {
            id,
            desk,
            members,
            search,
            held,
            deep: spec.deep,
            rate,
            from_disk: spec.from_disk,
            scrub: is_scrub,
            told,
            began: Instant::now(),
        }))
    }

    /// Leads again what a stop of the daemon broke off.
    pub(super) fn resume_checks(self: &Arc<Self>) {
        for report in self.checks.broken_off() {
            let Ok(id) = report.id.parse::<CheckId>() else { continue };
            let spec = CheckSpec {
                share: report.share.clone(),
                peers: report.chosen.clone(),
                deep: report.deep,
                from_disk: report.from_disk,
                repair: report.repair,
                origin: report.origin,
            };
            if let Err(error) = self.start_check(id, &spec, report.started) {
                tracing::warn!(check = %id, %error, "a check that was broken off is not led again");
            }
        }
    }

    /// Begins a scrub of a share when it is due: one at a time, while nothing is being transferred.
    async fn scrub_if_due(self: &Arc<Self>) {
        let settings = self.config().check;
        let Some(interval) = settings.scrub_interval else { return };
        let inner = Arc::clone(self);
        let due = super::blocking(move || inner.share_due(interval)).await;
        let Some(share) = due else { return };
        let repair = if settings.heal { Repair::Rot } else { Repair::No };
        let (peers, origin) = (Vec::new(), Origin::Scrub);
        let spec = CheckSpec { share, peers, deep: true, from_disk: true, repair, origin };
        let mut id = [0; 16];
        if getrandom::fill(&mut id).is_err() {
            return;
        }
        match self.start_check(CheckId(id), &spec, rfc3339(wall_now())) {
            Ok(_) => {
                tracing::info!(share = %spec.share, "reading everything again, in the background")
            }
            Err(error) => tracing::debug!(share = %spec.share, %error, "no scrub now"),
        }
    }

    /// The share whose scrub is longest overdue, if the node is idle.
    fn share_due(&self, interval: Duration) -> Option<ShareName> {
        let desks = self.desks.all();
        let idle = |share: &ShareName| {
            let status = desks.get(share).map(|desk| desk.snapshot.borrow().clone());
            status.is_some_and(|status| status.state == crate::report::ShareState::Idle)
        };
        let busy = desks.keys().any(|share| self.checks.running(share).is_some());
        if busy || !self.around.transfers.report().is_empty() {
            return None;
        }
        let now = SystemTime::now();
        let due = desks.keys().filter(|share| idle(share)).filter_map(|share| {
            let last = self.checks.scrubbed(share);
            let since = last.and_then(|started| started.parse::<jiff::Timestamp>().ok());
            // A share that was never read counts from its staggered place within the interval, so
            // that shares, and nodes, do not all read at once.
            let begun = match since {
                Some(at) => SystemTime::from(at),
                None => (first_seen(&self.home) + stagger(&self.node, share, interval)) - interval,
            };
            let waited = now.duration_since(begun).unwrap_or_default();
            (waited >= interval).then(|| (waited, share.clone()))
        });
        due.max().map(|(_, share)| share)
    }
}

/// When this home was made: what it shares was not shared before.
fn first_seen(home: &crate::home::Home) -> SystemTime {
    let made = std::fs::metadata(home.identity_dir()).and_then(|facts| facts.modified());
    made.unwrap_or_else(|_| SystemTime::now())
}

/// A share's own place within the interval.
fn stagger(node: &NodeId, share: &ShareName, interval: Duration) -> Duration {
    let place = blake3::hash(format!("{node} {share}").as_bytes());
    let place = u32::from_be_bytes([
        place.as_bytes()[0],
        place.as_bytes()[1],
        place.as_bytes()[2],
        place.as_bytes()[3],
    ]);
    interval.mul_f64(f64::from(place) / f64::from(u32::MAX))
}

/// Begins scrubs when they are due, as long as the engine lives.
pub(super) async fn scrub(engine: Weak<Inner>) {
    loop {
        let Some(interval) = engine.upgrade().map(|engine| engine.config().check.scrub_interval)
        else {
            return;
        };
        let look_every = interval.map_or(SCRUB_LOOK_MAX, |interval| interval / 10);
        tokio::time::sleep(look_every.clamp(SCRUB_LOOK_MIN, SCRUB_LOOK_MAX)).await;
        let Some(engine) = engine.upgrade() else { return };
        engine.scrub_if_due().await;
    }
}
