//! Leading a check: this node finds the others, asks them and itself, compares, waits for what is on
//! its way, judges, mends, and looks again.
//!
//! The decisions are the core's (`compare.rs`, `verdict.rs`); this asks, waits and reports. Nothing
//! here is remembered but the report, so a check that was broken off begins anew with the same
//! number, and finds the deep passes of its nodes where they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::check::{CheckAnswer, CheckId, STATES_MAX};
use highwater_core::fingerprint::Fingerprint;
use highwater_core::verdict::{Cause, Copy, Judgement, judge};
use highwater_core::{Key, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;

use super::compare::compare;
use super::member::Member;
use super::report::{CheckReport, CheckState, NodeReport, Repair, RepairState};
use super::survey::{FoundNode, Search};
use super::talk::Silence;
use super::words::{self, Names};
use crate::engine::Held;
use crate::serve::Desk;

/// Differences that a report lists; the rest is counted.
pub const DIFFERENCES_MAX: usize = 10_000;
/// How long what is on its way is waited for while nothing of it arrives.
const SETTLE_WAIT: Duration = Duration::from_secs(20);
/// How long it is waited for in all.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(120);
/// Between two looks at what differs; a difference is believed when two in a row say the same.
pub(super) const LOOK_PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(700),
];

/// One check, as it is led.
pub(crate) struct Lead {
    pub(crate) id: CheckId,
    pub(crate) desk: Desk,
    /// This node first; the others once they are found.
    pub(crate) members: Vec<Arc<Member>>,
    /// How the others are found.
    pub(crate) search: Search,
    /// The links that are kept for it.
    pub(crate) held: Held,
    pub(crate) deep: bool,
    /// Bytes a second that a node may read; 0 for no limit.
    pub(crate) rate: u64,
    /// Whether files are to come from the disk rather than from the system's cache.
    pub(crate) from_disk: bool,
    /// Whether only this node reads everything again.
    pub(crate) scrub: bool,
    pub(crate) told: watch::Sender<CheckReport>,
    pub(crate) began: Instant,
}

/// What nodes answered when they were asked about everything.
type Answers = BTreeMap<NodeId, CheckAnswer>;
/// What was judged of each key that differs.
pub(super) type Judged = BTreeMap<Key, (Vec<Copy>, Judgement)>;

impl Lead {
    /// Leads the check to its end.
    pub(crate) async fn run(mut self) {
        let failed = self.all_phases().await.err();
        self.tell(|report| {
            report.state = if failed.is_some() { CheckState::Failed } else { CheckState::Done };
            report.error = failed.map(|silence| format!("this node cannot be asked: {silence}"));
            report.progress.phase = "done".into();
            if report.state == CheckState::Done {
                report.conclude();
            }
        });
        drop(self.held);
    }

    /// Only this node's own silence ends a check.
    async fn all_phases(&mut self) -> Result<(), Silence> {
        self.phase("finding");
        let (ours, damaged) = self.own().all().await?;
        let mut met = self.find(ours).await;
        let mut suspects = BTreeSet::new();
        if self.deep {
            self.phase("reading");
            self.read_again().await?;
            self.gather_found(&mut suspects).await?;
            met.clear();
        }
        self.phase("comparing");
        if self.deep {
            self.compare_all(&mut suspects).await?;
        } else {
            self.compare_with(ours, damaged, met, &mut suspects).await?;
        }
        self.phase("settling");
        let judged = self.settle(suspects).await?;
        self.report_differences(&judged);
        let repair = self.told.borrow().repair;
        if !judged.is_empty() && matches!(repair, Repair::Yes | Repair::Rot) {
            self.phase("repairing");
            self.repair(judged, repair).await?;
        }
        Ok(())
    }

    /// Finds the other nodes; what those said that answered.
    async fn find(&mut self, ours: Fingerprint) -> Answers {
        let mut met = Answers::new();
        for FoundNode { member, answer } in self.search.run(ours).await {
            let mut row = NodeReport::of(&member);
            row.through = member.through().to_vec();
            self.tell(|report| report.nodes.push(row));
            self.members.push(Arc::clone(&member));
            match answer {
                Ok(answer) => drop(met.insert(member.node, answer)),
                Err(silence) => self.lost(&member, silence),
            }
        }
        met
    }

    pub(super) fn own(&self) -> &Arc<Member> {
        &self.members[0]
    }

    /// Changes the report, and tells it.
    pub(super) fn tell(&self, change: impl FnOnce(&mut CheckReport)) {
        self.told.send_modify(|report| {
            report.seconds = self.began.elapsed().as_secs_f64();
            report.wire_bytes = self.members.iter().map(|member| member.wire_bytes()).sum();
            change(report);
        });
    }

    fn phase(&self, phase: &str) {
        self.tell(|report| report.progress.phase = phase.to_owned());
    }

    fn node_said(&self, node: NodeId, change: impl FnOnce(&mut NodeReport)) {
        self.tell(|report| {
            if let Some(row) = report.nodes.iter_mut().find(|row| row.node_id == node) {
                change(row);
            }
            report.entries_compared = report.nodes.iter().map(|row| row.entries).max().unwrap_or(0);
            report.bytes_hashed = report.nodes.iter().map(|row| row.bytes_hashed).sum();
            report.progress.bytes = report.bytes_hashed;
        });
    }

    /// A peer was given up: the check goes on without it, and says so.
    pub(super) fn lost(&self, member: &Member, silence: Silence) {
        self.node_said(member.node, |row| {
            row.reachable = false;
            row.error = Some(silence.to_string());
        });
    }

    pub(super) fn reachable(&self) -> Vec<Arc<Member>> {
        let report = self.told.borrow();
        let is_reachable = |member: &&Arc<Member>| {
            report.nodes.iter().any(|row| row.node_id == member.node && row.reachable)
        };
        self.members.iter().filter(is_reachable).cloned().collect()
    }

    /// Every node reads everything again, all at the same time.
    async fn read_again(&self) -> Result<(), Silence> {
        let readers = if self.scrub { vec![Arc::clone(self.own())] } else { self.reachable() };
        let mut passes = tokio::task::JoinSet::new();
        let totals: Arc<std::sync::Mutex<BTreeMap<NodeId, u64>>> = Arc::default();
        for member in readers {
            let (told, id, totals) = (self.told.clone(), self.id, Arc::clone(&totals));
            let (began, rate, from_disk) = (self.began, self.rate, self.from_disk);
            passes.spawn(async move {
                let outcome = loop {
                    match member.deep(id, rate, from_disk).await {
                        Ok(progress) => {
                            let all = {
                                let mut totals = totals
                                    .lock()
                                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                                totals.insert(member.node, progress.total);
                                totals.values().sum()
                            };
                            told.send_modify(|report| {
                                read_so_far(report, member.node, progress.bytes, all);
                                report.seconds = began.elapsed().as_secs_f64();
                            });
                            if progress.done {
                                break Ok(());
                            }
                        }
                        Err(silence) => break Err(silence),
                    }
                };
                (member, outcome)
            });
        }
        while let Some(Ok((member, outcome))) = passes.join_next().await {
            match outcome {
                Err(silence) if member.node == self.own().node => return Err(silence),
                Err(silence) => self.lost(&member, silence),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The keys that deep passes of this check found to be damaged.
    async fn gather_found(&self, suspects: &mut BTreeSet<Key>) -> Result<(), Silence> {
        let readers = if self.scrub { vec![Arc::clone(self.own())] } else { self.reachable() };
        for member in readers {
            self.gather(&member, Some(self.id), suspects).await?;
        }
        Ok(())
    }

    /// The keys that a node knows to be damaged.
    async fn gather(
        &self,
        member: &Member,
        check: Option<CheckId>,
        suspects: &mut BTreeSet<Key>,
    ) -> Result<(), Silence> {
        let mut after = None;
        loop {
            let keys = match member.found(check, after.clone()).await {
                Ok(keys) => keys,
                Err(silence) if member.node == self.own().node => return Err(silence),
                Err(silence) => {
                    self.lost(member, silence);
                    return Ok(());
                }
            };
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            after = Some(last);
            keys.into_iter().for_each(|key| self.suspect(suspects, key));
        }
    }

    fn suspect(&self, suspects: &mut BTreeSet<Key>, key: Key) {
        if suspects.len() < DIFFERENCES_MAX {
            suspects.insert(key);
        } else if !suspects.contains(&key) {
            self.tell(|report| report.more += 1);
        }
    }

    /// Compares the entries of this node with those of every other.
    pub(super) async fn compare_all(&self, suspects: &mut BTreeSet<Key>) -> Result<(), Silence> {
        let (ours, damaged) = self.own().all().await?;
        self.compare_with(ours, damaged, Answers::new(), suspects).await
    }

    /// Compares `ours` with what every other node has; `met` are the answers to the first question, of
    /// those that were asked it already.
    async fn compare_with(
        &self,
        ours: Fingerprint,
        damaged: bool,
        mut met: Answers,
        suspects: &mut BTreeSet<Key>,
    ) -> Result<(), Silence> {
        if damaged && !self.deep {
            self.gather(self.own(), None, suspects).await?;
        }
        self.node_said(self.own().node, |row| {
            (row.root, row.entries) = (Some(ours.root()), ours.entries);
        });
        for peer in self.reachable().iter().skip(1) {
            let first = met.remove(&peer.node);
            match compare(&self.desk, ours, peer, first, DIFFERENCES_MAX).await {
                Ok(found) => {
                    self.node_said(peer.node, |row| {
                        (row.root, row.entries) = (Some(found.theirs.root()), found.theirs.entries);
                    });
                    found.keys.into_iter().for_each(|key| self.suspect(suspects, key));
                    self.tell(|report| report.more += found.more);
                    if found.damaged && !self.deep {
                        self.gather(peer, None, suspects).await?;
                    }
                }
                Err(silence) => self.lost(peer, silence),
            }
        }
        Ok(())
    }

    /// Looks at what differs until it is the same, or twice in a row told to stay.
    async fn settle(&self, mut open: BTreeSet<Key>) -> Result<Judged, Silence> {
        let began = Instant::now();
        let (mut last, mut progress_at) = (Judged::new(), began);
        let mut pauses = LOOK_PAUSES.iter().copied();
        loop {
            let judged = self.look(&open).await?;
            let settled = open.len() - judged.len();
            if settled > 0 {
                progress_at = Instant::now();
            }
            open = judged.keys().cloned().collect();
            let stands = |(key, (_, now)): (&Key, &(Vec<Copy>, Judgement))| {
                let pending = now.cause == Cause::Pending;
                !pending && last.get(key).is_some_and(|(_, before)| before == now)
            };
            let all_stand = judged.iter().all(stands);
            let too_long =
                progress_at.elapsed() >= SETTLE_WAIT || began.elapsed() >= SETTLE_WAIT_MAX;
            if open.is_empty() || all_stand || too_long {
                return Ok(judged);
            }
            last = judged;
            tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    /// What all reachable nodes say of these keys, judged; what is in order is left out.
    pub(super) async fn look(&self, keys: &BTreeSet<Key>) -> Result<Judged, Silence> {
        let keys: Vec<Key> = keys.iter().cloned().collect();
        let mut judged = Judged::new();
        for some in keys.chunks(STATES_MAX) {
            let mut copies: Vec<Vec<Copy>> = vec![Vec::new(); some.len()];
            for member in self.reachable() {
                match member.states(some).await {
                    Ok(told) => {
                        for (copies, state) in copies.iter_mut().zip(told.states) {
                            let (node, caught_up) = (member.node, told.caught_up);
                            let acked = told.acked.clone();
                            copies.push(Copy { node, state, caught_up, acked });
                        }
                    }
                    Err(silence) if member.node == self.own().node => return Err(silence),
                    Err(silence) => self.lost(&member, silence),
                }
            }
            for (key, copies) in some.iter().zip(copies) {
                if let Some(judgement) = judge(&copies) {
                    judged.insert(key.clone(), (copies, judgement));
                }
            }
        }
        Ok(judged)
    }

    pub(super) fn names(&self) -> Names {
        self.members.iter().map(|member| (member.node, member.name.clone())).collect()
    }

    fn report_differences(&self, judged: &Judged) {
        let names = self.names();
        self.tell(|report| {
            let share = report.share.clone();
            let (planned, dry) = (report.repair != Repair::No, report.repair == Repair::DryRun);
            let rows = judged.iter().map(|(key, (copies, judgement))| {
                let mut row = words::difference(key, &share, copies, judgement, &names);
                if planned && !judgement.remedy.is_empty() {
                    row.repair = RepairState::Planned;
                    if dry {
                        row.message = words::plan(judgement, &names);
                    }
                }
                row
            });
            report.differences = rows.collect();
        });
    }
}

fn read_so_far(report: &mut CheckReport, node: NodeId, bytes: u64, total: u64) {
    if let Some(row) = report.nodes.iter_mut().find(|row| row.node_id == node) {
        row.bytes_hashed = bytes;
    }
    report.bytes_hashed = report.nodes.iter().map(|row| row.bytes_hashed).sum();
    report.progress.bytes = report.bytes_hashed;
    report.progress.total = total.max(report.bytes_hashed);
}
