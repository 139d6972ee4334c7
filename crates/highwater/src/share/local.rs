//! What scans and the watcher found in the folder, carried into the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::{ContentHash, Entry, EntryKind, Key};
use highwater_folder::{
    Finding, Hint, IgnoreRules, Observation, Problem, ProblemKind, ScanError, ScanProgress, Scope,
    StatPrint,
};
use highwater_store::{StoreError, WantClass};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::actor::{Actor, Open};
use super::replica::{History, Policy};
use super::scanner::{ReadJob, ScanEvent, ScanJob};
use crate::config::ShareMode;

/// The ignore file, at the root of a share.
const IGNORE_FILE: &str = ".highwaterignore";
/// Hints that wait for the share; the watcher gathers more while it waits.
pub(crate) const HINTS_MAX: usize = 16;
/// A content that was verified is not verified again so soon, whoever asks.
const VERIFY_AGAIN: Duration = Duration::from_secs(60);
/// Problems of one kind of source that are kept; the rest is counted by the next scan.
pub(super) const PROBLEMS_MAX: usize = 1000;

/// What keeps a peer's state out of this folder.
pub(crate) struct FolderPolicy<'a> {
    pub(crate) rules: &'a IgnoreRules,
    pub(crate) mode: ShareMode,
}

impl Policy for FolderPolicy<'_> {
    fn keeps_out(&self, entry: &Entry) -> bool {
        let is_dir = matches!(entry.kind, EntryKind::Directory { .. });
        self.mode == ShareMode::SendOnly || self.rules.ignores(&entry.key, is_dir)
    }
}

impl Actor {
    /// Asks for a scan; scans that cannot begin yet are gathered.
    pub(crate) fn want_scan(&mut self, scope: Scope) {
        self.scan_wanted = Some(match (self.scan_wanted.take(), scope) {
            (Some(Scope::Paths(mut paths)), Scope::Paths(more)) => {
                paths.extend(more);
                Scope::Paths(paths)
            }
            (None, scope) => scope,
            _ => Scope::Whole,
        });
        self.scan_next();
    }

    /// Begins the scan that is waiting, unless one is running.
    pub(crate) fn scan_next(&mut self) {
        let Some(open) = &mut self.open else { return };
        if open.scanning.is_some() {
            return;
        }
        let Some(scope) = self.scan_wanted.take() else { return };
        let progress = Arc::new(ScanProgress::default());
        open.forget_scan_problems(&scope);
        open.scanning_whole = scope == Scope::Whole;
        let job =
            ScanJob { scope, rules: Arc::clone(&open.rules), progress: Arc::clone(&progress) };
        if open.hands.reads.send(ReadJob::Scan(job)).is_ok() {
            open.scanning = Some(progress);
            open.placed_meanwhile.clear();
            self.dirty = true;
        }
    }

    pub(crate) fn hinted(&mut self, hint: Hint) {
        self.dirty = true;
        match hint {
            Hint::Paths(paths) => self.want_scan(Scope::Paths(paths)),
            Hint::Everything | Hint::RootGone => self.want_scan(Scope::Whole),
            Hint::Degraded(problem) => {
                if let Some(open) = &mut self.open {
                    note(&mut open.standing_problems, problem);
                }
            }
            Hint::Restored => {
                if let Some(open) = &mut self.open {
                    open.forget_watch_problems();
                }
            }
        }
    }

    pub(crate) fn scanned(&mut self, event: ScanEvent) -> Result<(), StoreError> {
        self.dirty = true;
        match event {
            ScanEvent::Found(findings) => self.found(findings),
            ScanEvent::NotDurable(error) => {
                self.fail(error.to_string());
                Ok(())
            }
            ScanEvent::Done { scope, gone, outcome } => self.scan_done(&scope, gone, outcome),
            ScanEvent::Verified { key, content, found } => self.verified(&key, content, found),
        }
    }

    fn found(&mut self, findings: Vec<Finding>) -> Result<(), StoreError> {
        let now = self.outside.wall();
        let mut outdated = BTreeSet::new();
        for finding in findings {
            let Some(open) = &mut self.open else { return Ok(()) };
            if let Some(key) = open.outdated(&finding) {
                outdated.insert(key);
                continue;
            }
            match finding {
                Finding::Altered(seen) => {
                    self.gone.stands(&seen.key);
                    open.altered(seen);
                }
                Finding::Changed(seen) => {
                    self.gone.stands(&seen.key);
                    open.not_damaged(&seen.key);
                    if seen.key.as_str() == IGNORE_FILE {
                        self.rules_changed = true;
                    }
                    if self.config.mode == ShareMode::ReceiveOnly {
                        observed_by_receiver(open, seen, now)?;
                    } else {
                        if !matches!(seen.kind, EntryKind::Directory { .. }) {
                            open.replica.gone_below(&seen.key, now)?;
                        }
                        observed(open, &seen, now)?;
                    }
                }
                Finding::Touched { key, print } => {
                    self.gone.stands(&key);
                    open.not_damaged(&key);
                    if let Some(row) = open.replica.entry(&key)? {
                        open.replica.touched(&row, &print)?;
                    }
                }
                // What is gone is told at the end, all at once.
                Finding::Gone(_) => {}
                Finding::Problem(problem) => note(&mut open.scan_problems, problem),
            }
        }
        if !outdated.is_empty() {
            self.want_scan(Scope::Paths(outdated));
        }
        self.flush()
    }

    fn scan_done(
        &mut self,
        scope: &Scope,
        gone: Vec<Key>,
        outcome: Result<(), ScanError>,
    ) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.scanning = None;
        match outcome {
            Ok(()) => {}
            Err(ScanError::Stopped) => return Ok(()),
            Err(error) => {
                self.fail(error.to_string());
                return Ok(());
            }
        }
        match scope {
            Scope::Paths(_) => self.gone.missed_by_partial_scan(scope, gone, self.outside.now()),
            Scope::Whole => self.whole_scanned(gone)?,
        }
        if std::mem::take(&mut self.rules_changed) {
            self.reload_rules()?;
        }
        let now = self.outside.now();
        if let Some(open) = &mut self.open {
            open.unread.scanned(&open.scan_problems, now);
        }
        self.scan_next();
        Ok(())
    }

    /// Reads again what could not be read, when its time has come.
    pub(super) fn read_again(&mut self, now: Instant) {
        let open = self.open.as_mut();
        if let Some(scope) = open.and_then(|open| open.unread.take(&open.scan_problems, now)) {
            self.want_scan(scope);
        }
    }

    fn whole_scanned(&mut self, gone: Vec<Key>) -> Result<(), StoreError> {
        self.gone.missed_by_whole_scan(gone);
        self.scanned_at = Some(self.outside.now());
        self.believe_gone()?;
        if let Some(open) = &mut self.open {
            open.replica.history = History::Continuous;
        }
        self.tell_copies_apart();
        // A folder that is found to be gone there has closed the share: nothing is ready then, and it is
        // offered once it is open again.
        if self.open.is_some() && !self.ready {
            self.ready = true;
            self.offer_to_all()?;
        }
        Ok(())
    }

    /// Raises the generation, so that a copy of the folder or of the store that was made before now
    /// is noticed when it is put back.
    fn tell_copies_apart(&mut self) {
        let Some(open) = &mut self.open else { return };
        if let Err(error) = open.replica.raise_generation(&*open.folder) {
            self.fail(error.to_string());
        }
    }

    /// Reads the ignore file again and lets the watcher, the scanner and what is held follow it.
    pub(crate) fn reload_rules(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let (rules, problems) = open.folder.rules();
        open.rules = Arc::new(rules);
        open.standing_problems.retain(|_, problem| problem.kind != ProblemKind::IgnoreRules);
        for problem in problems {
            note(&mut open.standing_problems, problem);
        }
        self.watch();
        self.apply_policy()?;
        self.want_scan(Scope::Whole);
        Ok(())
    }

    /// After a change of rules or mode: what policy held and holds no longer becomes work, what it
    /// keeps out now is held.
    pub(crate) fn apply_policy(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let policy = FolderPolicy { rules: &open.rules, mode: self.config.mode };
        let number = open.replica.number();
        let store = Arc::clone(open.replica.store());
        for class in WantClass::ALL {
            for want in store.wants(number, class, None) {
                let want = want?;
                let kept_out = policy.keeps_out(&want.entry);
                let to = if kept_out { WantClass::Held } else { WantClass::of(&want.entry) };
                if to != class {
                    open.replica.reclassify(class, want, to);
                }
            }
        }
        self.flush()
    }

    /// Starts the watcher, or starts it again.
    pub(crate) fn watch(&mut self) {
        let Some(open) = &mut self.open else { return };
        let (sender, hints) = mpsc::channel(HINTS_MAX);
        // First the receiver: a watcher that waits for room in it could not be waited for.
        open.hints = hints;
        let watched = self.outside.watch(&open.rules, sender);
        open.blind = watched.is_err();
        open.forget_watch_problems();
        if let Err(error) = watched {
            let kind = ProblemKind::WatchLimit;
            note(&mut open.standing_problems, Problem::new("", kind, error.to_string()));
        }
    }

    /// A share without a watcher tries again to have one, and looks at what it missed.
    pub(crate) fn watch_again(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.blind) {
            self.watch();
            if self.open.as_ref().is_some_and(|open| !open.blind) {
                self.want_scan(Scope::Whole);
            }
        }
    }

    /// A peer says that what it received does not fit the hash: look at the file itself.
    pub(crate) fn verify_content(&mut self, content: ContentHash) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let now = self.outside.now();
        open.verified.retain(|_, at| now - *at < VERIFY_AGAIN);
        let (store, number) = (Arc::clone(open.replica.store()), open.replica.number());
        let catalogue = Arc::clone(open.replica.catalogue());
        if open.verified.contains_key(&content) || catalogue.is_corrupt(&content) {
            return Ok(());
        }
        let Some(row) = catalogue.find(&store, number, &content)? else { return Ok(()) };
        open.verified.insert(content, now);
        // The scanner ends only with the share.
        let _ = open.hands.reads.send(ReadJob::Verify { key: row.entry.key, content });
        Ok(())
    }

    fn verified(
        &mut self,
        key: &Key,
        content: ContentHash,
        found: Option<(StatPrint, bool)>,
    ) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let row = open.replica.entry(key)?;
        let recorded = row.and_then(|row| super::replica::decode_print(row.print.as_deref()));
        let holds = matches!(found, Some((_, true)));
        if open.read_back(key, content, holds)? {
            return self.flush();
        }
        match found {
            Some((_, true)) => {}
            Some((print, false)) if recorded == Some(print) => open.rotted(key, content, print),
            _ => self.want_scan(Scope::Paths([key.clone()].into())),
        }
        Ok(())
    }
}

impl Open {
    fn forget_watch_problems(&mut self) {
        self.standing_problems.retain(|_, problem| problem.kind != ProblemKind::WatchLimit);
    }

    /// What is about to be read again is judged again.
    fn forget_scan_problems(&mut self, scope: &Scope) {
        match scope {
            Scope::Whole => self.scan_problems.clear(),
            Scope::Paths(paths) => self.scan_problems.retain(|path, _| {
                let within = |key: &Key| {
                    path.strip_prefix(key.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                !paths.iter().any(within)
            }),
        }
    }

    /// The key of a finding that was overtaken: since the scan began, something was put in place
    /// there, and what the scan saw is not what stands there now.
    fn outdated(&self, finding: &Finding) -> Option<Key> {
        let (key, seen) = match finding {
            Finding::Changed(seen) | Finding::Altered(seen) => (&seen.key, seen.print),
            Finding::Touched { key, print } => (key, *print),
            Finding::Gone(_) | Finding::Problem(_) => return None,
        };
        let placed = self.placed_meanwhile.contains(key);
        let stands = || matches!(self.folder.print_of(key), Ok(Some(print)) if print == seen);
        (placed && !stands()).then(|| key.clone())
    }
}

fn observed(
    open: &mut Open,
    seen: &Observation,
    now: highwater_core::WallTime,
) -> Result<(), StoreError> {
    let (key, kind) = (seen.key.clone(), seen.kind.clone());
    open.replica.observed(key, kind, &seen.print, seen.manifest.as_ref(), now)
}

/// A receive-only folder takes note of what peers have; what only it has stays here.
fn observed_by_receiver(
    open: &mut Open,
    seen: Observation,
    now: highwater_core::WallTime,
) -> Result<(), StoreError> {
    let known = open.replica.entry(&seen.key)?.is_some_and(|row| row.entry.kind == seen.kind);
    let wanted = open.replica.want(&seen.key)?.is_some_and(|(_, w)| w.entry.kind == seen.kind);
    if known || wanted {
        open.local_changes.remove(&seen.key);
        return observed(open, &seen, now);
    }
    note_local(open, &seen.key, "was changed here");
    if open.local_changes.len() < PROBLEMS_MAX {
        open.local_changes.insert(seen.key, (seen.kind, seen.print));
    }
    Ok(())
}

pub(super) fn note_local(open: &mut Open, key: &Key, what: &str) {
    let message = format!("{what}, and this share is receive-only: the change stays here");
    let problem = crate::report::Problem {
        path: key.to_string(),
        kind: "receive_only_change".into(),
        message,
    };
    if open.receive_only.len() < PROBLEMS_MAX {
        open.receive_only.insert(key.to_string(), problem);
    }
}

/// Keeps a problem, one for each path.
pub(crate) fn note(problems: &mut BTreeMap<String, Problem>, problem: Problem) {
    if problems.len() < PROBLEMS_MAX {
        problems.insert(problem.path.clone(), problem);
    }
}
