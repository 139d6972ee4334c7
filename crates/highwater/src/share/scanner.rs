//! The thread that reads the folder: one scan at a time, findings in batches.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;

use highwater_core::Key;
use highwater_folder::{
    Finding, IgnoreRules, Known, KnownEntry, Root, ScanError, ScanProgress, Scope, scan,
};
use highwater_store::{EntryRow, ShareNumber, Store};
use tokio::sync::mpsc;

use super::replica::decode_print;
use crate::counters::Counters;

/// Findings that go to the share together: one durable commit each.
const FINDINGS_MAX: usize = 512;
/// Batches of findings that wait for the share.
pub(crate) const SCAN_EVENTS_MAX: usize = 4;

/// What a scan brings.
#[derive(Debug)]
pub(crate) enum ScanEvent {
    /// Some findings, none of them [`Finding::Gone`].
    Found(Vec<Finding>),
    /// The scan has ended; all that is gone, children before parents.
    Done { whole: bool, gone: Vec<Key>, outcome: Result<(), ScanError> },
}

/// One scan to be made.
#[derive(Debug)]
pub(crate) struct ScanJob {
    pub(crate) scope: Scope,
    pub(crate) root: Arc<Root>,
    pub(crate) rules: Arc<IgnoreRules>,
    pub(crate) progress: Arc<ScanProgress>,
}

/// The index, as the scan looks at it. What cannot be read counts as unknown: the file is read
/// again then, and nothing is taken for deleted.
struct Index {
    store: Arc<Store>,
    share: ShareNumber,
}

impl Known for Index {
    fn get(&self, key: &Key) -> Option<KnownEntry> {
        self.store.entry(self.share, key).ok()?.and_then(known)
    }

    fn under(&self, dir: Option<&Key>) -> Box<dyn Iterator<Item = KnownEntry> + '_> {
        Box::new(self.store.entries(self.share, dir).map_while(Result::ok).filter_map(known))
    }
}

fn known(row: EntryRow) -> Option<KnownEntry> {
    let print = decode_print(row.print.as_deref());
    let (key, kind) = (row.entry.key, row.entry.kind);
    kind.is_live().then_some(KnownEntry { key, kind, print })
}

/// Makes scans as they are asked for, until the share drops its end.
pub(crate) fn run(
    jobs: &std_mpsc::Receiver<ScanJob>,
    store: &Arc<Store>,
    share: ShareNumber,
    counters: &Counters,
    events: &mpsc::Sender<ScanEvent>,
) {
    while let Ok(job) = jobs.recv() {
        let index = Index { store: Arc::clone(store), share };
        let whole = job.scope == Scope::Whole;
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        let mut sink = |finding| {
            match finding {
                Finding::Gone(key) => gone.push(key),
                other => found.push(other),
            }
            if found.len() < FINDINGS_MAX {
                return ControlFlow::Continue(());
            }
            match events.blocking_send(ScanEvent::Found(std::mem::take(&mut found))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let outcome = scan(&job.root, &job.scope, &job.rules, &index, &job.progress, &mut sink);
        counters.files_hashed.add(job.progress.files_hashed.load(Ordering::Relaxed));
        let outcome = outcome.map(drop);
        if !found.is_empty() {
            // The share is ending when it takes no more.
            let _ = events.blocking_send(ScanEvent::Found(found));
        }
        let _ = events.blocking_send(ScanEvent::Done { whole, gone, outcome });
    }
}
