//! The consistency checker: are all copies of a share the same, and if not, what differs, why, and
//! who is right?
//!
//! The node that is asked leads the check: it compares fingerprints of its entries with those of
//! every other (`compare.rs`), asks all nodes what they know of the keys that differ, judges them
//! (`lead.rs`) and mends what is proved (`mend.rs`). With `deep`, every node first reads every byte
//! of its folder again and compares it with its own record (`deep.rs`), on a path of its own that
//! shares nothing with the scanner's memory of files. Questions and answers travel over the links
//! (`talk.rs`); nodes that only others are linked with are found (`survey.rs`) and asked through
//! those (`relay.rs`).
//!
//! Reports are kept as files in the home (`history.rs`). A check that was broken off by a restart is
//! led anew under its number, and its deep passes go on where they were.

pub(crate) mod compare;
pub(crate) mod deep;
mod history;
mod lead;
pub(crate) mod member;
mod mend;
mod relay;
pub mod report;
mod survey;
pub(crate) mod talk;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use highwater_core::check::CheckId;
use highwater_core::{NodeId, ShareName};
use tokio::sync::watch;

use crate::report::{CheckBrief, LastChecks};
use history::History;
pub use lead::DIFFERENCES_MAX;
pub(crate) use lead::Lead;
use report::{CheckReport, CheckState, Origin, Outcome, Progress, Repair};
pub(crate) use survey::Search;

/// How often a report of a running check is written anew.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct CheckSpec {
    /// Which share.
    pub share: ShareName,
    /// Against which nodes; empty for all that have the share.
    pub peers: Vec<NodeId>,
    /// Whether to read every byte again first.
    pub deep: bool,
    /// Whether files are to come from the disk rather than from the system's cache.
    pub from_disk: bool,
    /// What to do about differences.
    pub repair: Repair,
    /// Who asks.
    pub origin: Origin,
}

/// The checks of a node: those under way, and the reports of those that are done.
#[derive(Debug)]
pub(crate) struct Checks {
    history: Arc<History>,
    live: Mutex<BTreeMap<CheckId, watch::Receiver<CheckReport>>>,
    latest: Arc<Mutex<Latest>>,
}

/// The latest checks of each share that came to their end.
type Latest = BTreeMap<ShareName, LastChecks>;

/// Takes note of a check that came to its end.
fn note(latest: &mut Latest, report: &CheckReport) {
    if report.state != CheckState::Done {
        return;
    }
    let checks = latest.entry(report.share.clone()).or_default();
    let newest = |slot: &mut Option<CheckBrief>| {
        if slot.as_ref().is_none_or(|known| known.started <= report.started) {
            *slot = Some(brief(report));
        }
    };
    newest(&mut checks.last);
    if report.origin == Origin::Scrub {
        newest(&mut checks.scrub);
    }
}

fn brief(report: &CheckReport) -> CheckBrief {
    CheckBrief {
        id: report.id.clone(),
        started: report.started.clone(),
        deep: report.deep,
        outcome: report.outcome.to_string(),
        differences: report.differences.len() as u64 + report.more,
    }
}

impl Checks {
    pub(crate) fn new(dir: PathBuf) -> Self {
        let history = History::new(dir);
        let mut latest = Latest::new();
        history.all().iter().for_each(|report| note(&mut latest, report));
        let latest = Arc::new(Mutex::new(latest));
        Self { history: Arc::new(history), live: Mutex::default(), latest }
    }

    /// Every check that is known, the latest first.
    pub(crate) fn list(&self) -> Vec<CheckReport> {
        let live = self.live();
        let mut reports: BTreeMap<String, CheckReport> =
            self.history.all().into_iter().map(|report| (report.id.clone(), report)).collect();
        reports.extend(live.values().map(|told| told.borrow().clone()).map(|r| (r.id.clone(), r)));
        let mut reports: Vec<CheckReport> = reports.into_values().collect();
        reports.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| a.id.cmp(&b.id)));
        reports
    }

    /// One check.
    pub(crate) fn get(&self, id: CheckId) -> Option<CheckReport> {
        let live = self.live().get(&id).map(|told| told.borrow().clone());
        live.or_else(|| self.history.get(id))
    }

    /// The check of a share that is under way.
    pub(crate) fn running(&self, share: &ShareName) -> Option<CheckReport> {
        let live = self.live();
        let mut reports = live.values().map(|told| told.borrow().clone());
        reports.find(|report| report.share == *share && report.state == CheckState::Running)
    }

    /// When the latest scrub of a share began, RFC 3339.
    pub(crate) fn scrubbed(&self, share: &ShareName) -> Option<String> {
        self.latest().get(share)?.scrub.as_ref().map(|scrub| scrub.started.clone())
    }

    /// The latest checks of a share, in a line each.
    pub(crate) fn brief(&self, share: &ShareName) -> Option<LastChecks> {
        let running = self.running(share).map(|report| brief(&report));
        let kept = self.latest().get(share).cloned().unwrap_or_default();
        let checks = LastChecks { running, ..kept };
        (checks != LastChecks::default()).then_some(checks)
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reports of checks that a stop of the daemon broke off.
    pub(crate) fn broken_off(&self) -> Vec<CheckReport> {
        let mut reports = self.history.all();
        reports.retain(|report| report.state == CheckState::Running);
        reports
    }

    /// Leads a check in the background; its report is kept.
    pub(crate) fn lead(&self, lead: Lead) -> watch::Receiver<CheckReport> {
        let told = lead.told.subscribe();
        let id = lead.id;
        {
            let mut live = self.live();
            live.retain(|_, told| told.borrow().state == CheckState::Running);
            live.insert(id, told.clone());
        }
        let (history, keeping) = (Arc::clone(&self.history), told.clone());
        let (latest, ended) = (Arc::clone(&self.latest), told.clone());
        tokio::spawn(async move {
            let writing = tokio::spawn(keep(history, keeping));
            lead.run().await;
            note(&mut latest.lock().unwrap_or_else(PoisonError::into_inner), &ended.borrow());
            // It ends with the report that says so.
            let _ = writing.await;
        });
        told
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<CheckId, watch::Receiver<CheckReport>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a report at its beginning, now and then, and at its end.
async fn keep(history: Arc<History>, mut told: watch::Receiver<CheckReport>) {
    loop {
        let report = told.borrow_and_update().clone();
        let ended = report.state != CheckState::Running;
        let kept = Arc::clone(&history);
        let written = tokio::task::spawn_blocking(move || kept.keep(&report)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the report of a check cannot be kept");
        }
        if ended {
            return;
        }
        let is_over = told.wait_for(|report| report.state != CheckState::Running);
        // Whether it ended or only went on, the report is written again.
        let _ = tokio::time::timeout(KEEP_EVERY, is_over).await;
    }
}

/// A report of a check that is about to begin.
pub(crate) fn begun(id: CheckId, spec: &CheckSpec, started: String) -> CheckReport {
    CheckReport {
        id: id.to_string(),
        share: spec.share.clone(),
        deep: spec.deep,
        from_disk: spec.from_disk,
        chosen: spec.peers.clone(),
        repair: spec.repair,
        origin: spec.origin,
        state: CheckState::Running,
        outcome: Outcome::Unknown,
        started,
        seconds: 0.0,
        identical: false,
        entries_compared: 0,
        bytes_hashed: 0,
        wire_bytes: 0,
        progress: Progress::default(),
        nodes: Vec::new(),
        differences: Vec::new(),
        more: 0,
        error: None,
    }
}
