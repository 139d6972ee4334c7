//! The thread that reads the folder: one scan at a time, findings in batches, each made durable
//! before it is passed on: what the index says and peers are told must outlive a power cut.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;

use highwater_core::{ContentHash, Key};
use highwater_folder::{
    Finding, IgnoreRules, Known, KnownEntry, Observation, Root, ScanError, ScanProgress, Scope,
    SettleError, StatPrint, hash_content, scan,
};
use highwater_store::{EntryRow, ShareNumber, Store};
use tokio::sync::mpsc;

use super::catalogue::Catalogue;
use super::replica::decode_print;
use crate::counters::Counters;

/// Findings that go to the share together: one durable commit each.
const FINDINGS_MAX: usize = 512;
/// Batches of findings that wait for the share.
pub(crate) const SCAN_EVENTS_MAX: usize = 4;

/// What a scan brings.
#[derive(Debug)]
pub(crate) enum ScanEvent {
    /// Some findings, none of them [`Finding::Gone`]; what changed is durable.
    Found(Vec<Finding>),
    /// What was found could not be made durable; the scan has ended.
    NotDurable(SettleError),
    /// The scan has ended; all that is gone, children before parents.
    Done { scope: Scope, gone: Vec<Key>, outcome: Result<(), ScanError> },
    /// What [`ReadJob::Verify`] found: the file's print, and whether it holds the content.
    Verified { key: Key, content: ContentHash, found: Option<(StatPrint, bool)> },
}

/// Something to be read.
#[derive(Debug)]
pub(crate) enum ReadJob {
    Scan(ScanJob),
    /// Does the file under this key still hold this content?
    Verify {
        key: Key,
        content: ContentHash,
    },
}

/// One scan to be made.
#[derive(Debug)]
pub(crate) struct ScanJob {
    pub(crate) scope: Scope,
    pub(crate) rules: Arc<IgnoreRules>,
    pub(crate) progress: Arc<ScanProgress>,
}

/// The index, as the scan looks at it. What cannot be read counts as unknown: the file is read
/// again then, and nothing is taken for deleted.
pub(crate) struct Index {
    pub(crate) store: Arc<Store>,
    pub(crate) share: ShareNumber,
    pub(crate) catalogue: Arc<Catalogue>,
}

impl Index {
    /// What of the findings a power cut could take back: what is new with its name, and what is a new
    /// name alone. What was only touched may be another file with the same bytes, or a directory that
    /// was made anew.
    pub(crate) fn undurable<'a>(
        &self,
        found: &'a [Finding],
    ) -> (BTreeSet<&'a Key>, BTreeSet<&'a Key>) {
        let (mut new, mut names) = (BTreeSet::new(), BTreeSet::new());
        for finding in found {
            match finding {
                Finding::Changed(seen) if self.is_on_record(seen) => names.insert(&seen.key),
                Finding::Changed(Observation { key, .. }) | Finding::Touched { key, .. } => {
                    new.insert(key)
                }
                // What was altered behind its facts is not recorded, so nothing need be durable.
                Finding::Altered(_) | Finding::Gone(_) | Finding::Problem(_) => false,
            };
        }
        (new, names)
    }

    /// Whether this very file is on record under another name, in this very state: a directory above
    /// it was renamed. Its bytes and metadata were made durable before that was recorded, and any
    /// change since would have moved its change time, or its content; only its name is new. A file
    /// that was itself renamed has another change time and counts as changed.
    fn is_on_record(&self, seen: &Observation) -> bool {
        let Some((content, _)) = seen.kind.content() else { return false };
        let same = |row: &EntryRow| {
            row.entry.kind == seen.kind && decode_print(row.print.as_deref()) == Some(seen.print)
        };
        // What cannot be read counts as unknown.
        self.catalogue.has_row(&self.store, self.share, &content, same).unwrap_or(false)
    }
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

/// Reads as it is asked to, until the share drops its end.
pub(crate) fn run(
    root: &Root,
    jobs: &std_mpsc::Receiver<ReadJob>,
    index: &Index,
    counters: &Counters,
    events: &mpsc::Sender<ScanEvent>,
) {
    while let Ok(job) = jobs.recv() {
        let told = match job {
            ReadJob::Scan(job) => {
                let done = make_scan(root, &job, index, events);
                counters.files_hashed.add(job.progress.files_hashed.load(Ordering::Relaxed));
                events.blocking_send(done)
            }
            ReadJob::Verify { key, content } => {
                let found = verify(root, &key, content);
                events.blocking_send(ScanEvent::Verified { key, content, found })
            }
        };
        if told.is_err() {
            return;
        }
    }
}

fn make_scan(
    root: &Root,
    job: &ScanJob,
    index: &Index,
    events: &mpsc::Sender<ScanEvent>,
) -> ScanEvent {
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    let pass_on = |found: Vec<Finding>| events.blocking_send(settled(root, index, found));
    let mut sink = |finding| {
        match finding {
            Finding::Gone(key) => gone.push(key),
            other => found.push(other),
        }
        if found.len() < FINDINGS_MAX {
            return ControlFlow::Continue(());
        }
        match pass_on(std::mem::take(&mut found)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let outcome = scan(root, &job.scope, &job.rules, index, &job.progress, &mut sink);
    if !found.is_empty() {
        // The share is ending when it takes no more.
        let _ = pass_on(found);
    }
    if let Err(error) = root.settle_found(&BTreeSet::new(), &gone.iter().collect()) {
        return ScanEvent::NotDurable(error);
    }
    ScanEvent::Done { scope: job.scope.clone(), gone, outcome: outcome.map(drop) }
}

/// The findings, with what they tell of made durable.
fn settled(root: &Root, index: &Index, found: Vec<Finding>) -> ScanEvent {
    let (new, names) = index.undurable(&found);
    match root.settle_found(&new, &names) {
        Ok(()) => ScanEvent::Found(found),
        Err(error) => ScanEvent::NotDurable(error),
    }
}

/// `None` when the file cannot be read, or was changed while it was.
fn verify(root: &Root, key: &Key, content: ContentHash) -> Option<(StatPrint, bool)> {
    let file = root.open_content(key).ok()?;
    let print = file.print().ok()?;
    let holds = hash_content(&file).ok()? == content;
    (file.print().ok()? == print).then_some((print, holds))
}
