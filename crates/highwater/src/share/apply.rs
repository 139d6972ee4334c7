//! Putting in place what is ready: a batch at a time, durable before it is recorded.
//!
//! For each entry: is it still what is wanted; does there stand what the index says; what is
//! staged is made durable; then it is renamed into place; the directories are made durable; only
//! then the index and the log say so. Where something else stands than expected, nothing is
//! touched: the path is scanned, and the entry planned again with what the scan found.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_core::merge::{conflict_key, is_conflict_key};
use highwater_core::{Entry, EntryKind, Key, Mode};
use highwater_folder::{Expect, PlaceError, Placed, Placement, Scope, SettleError, Slot};
use highwater_store::{EntryRow, StoreError, WantClass, WantRow};

use super::actor::{Actor, Open};
use super::plan::{LATER, SOON};
use super::replica::decode_print;
use crate::fetch::Staged;

/// Entries put in place together: what one round of syncs is shared by.
const BATCH_MAX: usize = 512;
/// What gives way to a directory that must be made for what is put into it.
const DIRECTORY_MODE: u32 = 0o755;
/// How long to wait for a directory to become empty.
const NOT_EMPTY_WAIT: Duration = Duration::from_secs(1);

/// One entry about to be put in place.
struct Step {
    want: WantRow,
    staged: Option<Staged>,
    expect: Expect,
}

/// What a batch asks of the share beside the entries themselves.
#[derive(Default)]
struct Aftermath {
    /// Paths that are not as expected.
    look_at: BTreeSet<Key>,
    rules_changed: bool,
}

impl Actor {
    /// Puts in place what is ready, and deletes what is to go.
    pub(crate) fn apply_ready(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let deletes = open.work.ready.is_empty();
        if deletes && open.work.ready_deletes.is_empty() {
            open.work.progress = false;
            return Ok(());
        }
        if let Err(error) = open.folder.verify() {
            self.fail(error.to_string());
            return Ok(());
        }
        self.dirty = true;
        let mut after = Aftermath::default();
        let steps = if deletes {
            open.deletes_of_batch(&mut after)?
        } else {
            open.steps_of_batch(&self.config.mode, &mut after)?
        };
        open.work.progress = !steps.is_empty() || !after.look_at.is_empty();
        let applied = open.apply(steps, &mut after);
        let applied = match applied {
            Ok(applied) => applied?,
            Err(error) => {
                self.fail(error.to_string());
                return Ok(());
            }
        };
        self.around.counters.entries_applied.add(applied);
        if !after.look_at.is_empty() {
            self.want_scan(Scope::Paths(after.look_at));
        }
        if after.rules_changed { self.reload_rules() } else { Ok(()) }
    }
}

impl Open {
    /// The next entries that can be put in place, in key order, so that directories come before
    /// what is in them; conflict copies first, because they are made of what they make room for.
    fn steps_of_batch(
        &mut self,
        mode: &crate::config::ShareMode,
        after: &mut Aftermath,
    ) -> Result<Vec<Step>, StoreError> {
        let ready = &self.work.ready;
        let mut keys: Vec<Key> =
            ready.keys().filter(|key| is_conflict_key(key)).take(BATCH_MAX).cloned().collect();
        if keys.is_empty() {
            keys = ready.keys().take(BATCH_MAX).cloned().collect();
        }
        let mut steps = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(staged) = self.work.ready.remove(&key) else { continue };
            if let Some(step) = self.step(key, staged, mode, after)? {
                steps.push(step);
            }
        }
        Ok(steps)
    }

    fn step(
        &mut self,
        key: Key,
        staged: Option<Staged>,
        mode: &crate::config::ShareMode,
        after: &mut Aftermath,
    ) -> Result<Option<Step>, StoreError> {
        let Some((WantClass::Live, want)) = self.replica.want(&key)? else {
            self.discard_fresh(staged.as_ref());
            return Ok(None);
        };
        let row = self.replica.entry(&key)?;
        let content = want.entry.kind.content().map(|(content, _)| content);
        let stands = row.as_ref().and_then(|row| row.entry.kind.content()).map(|(c, _)| c);
        let brought = staged.as_ref().map(|staged| staged.content);
        if brought != content && !(brought.is_none() && stands == content) {
            self.discard_fresh(staged.as_ref());
            self.work.defer(key, Duration::ZERO);
            return Ok(None);
        }
        if self.copy_is_pending(row.as_ref())? {
            self.discard_fresh(staged.as_ref());
            let wait = self.work.setback(&key);
            self.work.defer(key, wait);
            return Ok(None);
        }
        if *mode == crate::config::ShareMode::ReceiveOnly && self.local_changes.contains_key(&key) {
            return Ok(self.set_local_aside(key, want, staged, after));
        }
        let healing = match &row {
            Some(row) if self.healings.has(&key) => {
                self.make_room_for_healing(&key, &row.entry.kind)
            }
            _ => None,
        };
        let Some(expect) = healing.or_else(|| expectation(row.as_ref())) else {
            self.discard_fresh(staged.as_ref());
            after.look_at.insert(key.clone());
            self.work.defer(key, SOON);
            return Ok(None);
        };
        Ok(Some(Step { want, staged, expect }))
    }

    /// Whether a conflict copy of what stands here is still to be made.
    fn copy_is_pending(&mut self, row: Option<&EntryRow>) -> Result<bool, StoreError> {
        let Some(copy) = row.and_then(|row| conflict_key(&row.entry)) else { return Ok(false) };
        Ok(matches!(self.replica.want(&copy)?, Some((WantClass::Live, _))))
    }

    fn deletes_of_batch(&mut self, after: &mut Aftermath) -> Result<Vec<Step>, StoreError> {
        let keys: Vec<Key> =
            self.work.ready_deletes.iter().rev().take(BATCH_MAX).cloned().collect();
        let mut steps = Vec::with_capacity(keys.len());
        for key in keys {
            self.work.ready_deletes.remove(&key);
            let Some((WantClass::Tombstone, want)) = self.replica.want(&key)? else { continue };
            let row = self.replica.entry(&key)?;
            if self.copy_is_pending(row.as_ref())? {
                let wait = self.work.setback(&key);
                self.work.defer(key, wait);
                continue;
            }
            match expectation(row.as_ref()) {
                Some(expect) => steps.push(Step { want, staged: None, expect }),
                None => {
                    after.look_at.insert(key.clone());
                    self.work.defer(key, SOON);
                }
            }
        }
        Ok(steps)
    }

    /// Carries the steps out. The number of entries that are in place, durably and on record; the
    /// outer error is the disk's, the inner one the store's.
    fn apply(
        &mut self,
        mut steps: Vec<Step>,
        after: &mut Aftermath,
    ) -> Result<Result<u64, StoreError>, SettleError> {
        steps.retain_mut(|step| self.dress(step));
        let slots: Vec<Slot> = steps
            .iter()
            .filter_map(|s| s.staged.as_ref().map(|staged| staged.slot.clone()))
            .collect();
        self.folder.settle_files(&slots)?;
        let mut placed = Vec::with_capacity(steps.len());
        for step in steps {
            let outcome = self.place(&step, &mut placed, after);
            placed.push((step, outcome));
        }
        let done = |placed: &Placed| matches!(placed, Placed::Done { .. } | Placed::Gone);
        let done = placed.iter().filter(|(_, placed)| done(placed));
        let mut keys: Vec<Key> = done.map(|(step, _)| step.want.entry.key.clone()).collect();
        // Among what is to be looked at are directories that had to be made on the way.
        keys.extend(after.look_at.iter().cloned());
        self.folder.settle_dirs(&keys)?;
        self.folder.settle_metadata(&changed_in_place(&placed))?;
        Ok(self.record(placed, after))
    }

    /// Gives a staged file the metadata that becomes durable with it.
    fn dress(&mut self, step: &Step) -> bool {
        let (Some(staged), EntryKind::File { mode, mtime, .. }) =
            (&step.staged, &step.want.entry.kind)
        else {
            return true;
        };
        let dressed = self.folder.dress(&staged.slot, *mode, *mtime);
        if let Err(error) = &dressed {
            tracing::debug!(key = %step.want.entry.key, %error, "fetched again");
            self.forget_staged(staged);
            self.work.defer(step.want.entry.key.clone(), SOON);
        }
        dressed.is_ok()
    }

    /// Puts one entry in place, and before it the directories that it needs.
    fn place(
        &mut self,
        step: &Step,
        placed: &mut Vec<(Step, Placed)>,
        after: &mut Aftermath,
    ) -> Placed {
        let placement = Placement {
            key: step.want.entry.key.clone(),
            kind: step.want.entry.kind.clone(),
            slot: step.staged.as_ref().map(|staged| staged.slot.clone()),
            expect: step.expect.clone(),
        };
        match self.folder.place(&placement) {
            Placed::ParentMissing if self.place_parent(&placement.key, placed, after) => {
                self.folder.place(&placement)
            }
            outcome => outcome,
        }
    }

    /// Makes the directory that `key` belongs in: the one that is wanted, before its turn; or one
    /// that was deleted here or never announced, which the scan then makes an entry of its own.
    fn place_parent(
        &mut self,
        key: &Key,
        placed: &mut Vec<(Step, Placed)>,
        after: &mut Aftermath,
    ) -> bool {
        let Some(parent) = key.parent() else { return false };
        let (Ok(want), Ok(row)) = (self.replica.want(&parent), self.replica.entry(&parent)) else {
            return false;
        };
        if let Some((WantClass::Live, want)) = want {
            // What must be kept of that which stands there is kept in its own turn.
            let in_use = self.copy_is_pending(row.as_ref()).unwrap_or(true)
                || self.local_changes.contains_key(&parent);
            let is_directory = matches!(want.entry.kind, EntryKind::Directory { .. });
            let expect = expectation(row.as_ref()).filter(|_| is_directory && !in_use);
            let Some(expect) = expect else { return false };
            self.work.ready.remove(&parent);
            let step = Step { want, staged: None, expect };
            let outcome = self.place(&step, placed, after);
            let done = matches!(outcome, Placed::Done { .. });
            placed.push((step, outcome));
            return done;
        }
        let mode = match row.map(|row| row.entry.kind) {
            Some(EntryKind::Directory { mode }) => mode,
            _ => Mode::new(DIRECTORY_MODE),
        };
        let kind = EntryKind::Directory { mode };
        let placement = Placement { key: parent.clone(), kind, slot: None, expect: Expect::Absent };
        after.look_at.insert(parent.clone());
        let outcome = match self.folder.place(&placement) {
            Placed::ParentMissing if self.place_parent(&parent, placed, after) => {
                self.folder.place(&placement)
            }
            outcome => outcome,
        };
        matches!(outcome, Placed::Done { .. })
    }

    /// Records what is in place, and decides about what is not.
    fn record(
        &mut self,
        placed: Vec<(Step, Placed)>,
        after: &mut Aftermath,
    ) -> Result<u64, StoreError> {
        let mut applied = 0;
        for (step, outcome) in placed {
            let key = step.want.entry.key.clone();
            match outcome {
                Placed::Done { print } => {
                    if print.is_none() {
                        after.look_at.insert(key.clone());
                    }
                    self.in_place(&step, print.as_ref(), after)?;
                    applied += 1;
                }
                Placed::Gone => {
                    self.in_place(&step, None, after)?;
                    applied += 1;
                }
                Placed::LocallyChanged => {
                    self.stop_healing(&key)?;
                    let wait = self.work.setback(&key);
                    self.try_again(step, wait, after);
                }
                Placed::Kept(problem) => {
                    super::local::note(&mut self.standing_problems, problem);
                    self.try_again(step, SOON, after);
                }
                Placed::ParentMissing => {
                    self.discard_fresh(step.staged.as_ref());
                    let wait = self.no_parent(&key)?;
                    self.work.defer(key, wait);
                }
                Placed::NotEmpty => self.not_empty(step, after)?,
                Placed::Failed(error) => self.failed(&step, &error),
            }
        }
        self.replica.flush()?;
        Ok(applied)
    }

    fn in_place(
        &mut self,
        step: &Step,
        print: Option<&highwater_folder::StatPrint>,
        after: &mut Aftermath,
    ) -> Result<(), StoreError> {
        let key = &step.want.entry.key;
        after.rules_changed |= key.as_str() == highwater_folder::ignore::IGNORE_FILE;
        self.work.placed(key);
        self.healed(key, &step.want.entry.kind);
        self.place_problems.remove(key.as_str());
        self.local_changes.remove(key);
        self.receive_only.remove(key.as_str());
        if self.scanning.is_some() {
            self.placed_meanwhile.insert(key.clone());
        }
        if let Some(staged) = &step.staged {
            if let Some(manifest) = &staged.manifest {
                self.replica.keep_manifest(manifest);
                self.replica.forget_stage(&staged.content, manifest.chunks().len());
            }
            self.work.came(&staged.content);
        }
        self.replica.applied(&step.want, print)
    }

    fn try_again(&mut self, step: Step, wait: Duration, after: &mut Aftermath) {
        self.discard_fresh(step.staged.as_ref());
        after.look_at.insert(step.want.entry.key.clone());
        self.work.defer(step.want.entry.key, wait);
    }

    /// A directory is to go, or to give way, and something is in it.
    fn not_empty(&mut self, step: Step, after: &mut Aftermath) -> Result<(), StoreError> {
        let key = step.want.entry.key.clone();
        let (mut staying, mut going) = (false, false);
        let (store, number) = (self.replica.store().clone(), self.replica.number());
        for row in store.entries(number, Some(&key)) {
            let row = row?;
            if !row.entry.kind.is_live() {
                continue;
            }
            match self.replica.want(&row.entry.key)? {
                Some((WantClass::Tombstone, _)) => going = true,
                _ => staying = true,
            }
        }
        if staying {
            self.discard_fresh(step.staged.as_ref());
            return self.replica.reassert(&step.want, self.wall);
        }
        if !going {
            let message = "this directory is to be deleted, but something in it is not synced: \
                           move or delete that";
            self.cannot_place(&key, "not_empty", message.to_owned());
        }
        self.try_again(step, NOT_EMPTY_WAIT, after);
        Ok(())
    }

    /// The directory that an entry belongs in is not there. When to try again: mostly it comes at
    /// once, but its delete may be held back; and something else that stands in its place goes only
    /// when somebody moves it, and people are told.
    fn no_parent(&mut self, key: &Key) -> Result<Duration, StoreError> {
        let Some(parent) = key.parent() else { return Ok(SOON) };
        let row = self.replica.entry(&parent)?.map(|row| row.entry.kind);
        let is_taken =
            row.is_some_and(|kind| kind.is_live() && !matches!(kind, EntryKind::Directory { .. }));
        if !is_taken || self.replica.want(&parent)?.is_some() {
            return Ok(self.work.setback(key));
        }
        let message = format!("'{parent}' is in its way and is no directory: move or rename that");
        self.cannot_place(key, "in_the_way", message);
        Ok(LATER)
    }

    fn failed(&mut self, step: &Step, error: &PlaceError) {
        let key = step.want.entry.key.clone();
        let kind = match error {
            PlaceError::NoRoom { .. } => "no_room",
            PlaceError::Permission { .. } | PlaceError::Io { .. } => "unwritable",
            PlaceError::Name(_) => "bad_name",
            PlaceError::MountPoint(_) => "mount_point",
            PlaceError::Staged { .. } => {
                if let Some(staged) = &step.staged {
                    self.forget_staged(staged);
                }
                self.work.defer(key, SOON);
                return;
            }
        };
        self.cannot_place(&key, kind, error.to_string());
        self.discard_fresh(step.staged.as_ref());
        if matches!(error, PlaceError::NoRoom { .. }) {
            self.work.disk_is_full();
        } else {
            self.work.defer(key, LATER);
        }
    }

    /// What is staged there is not what it should be: it is fetched from its beginning.
    fn forget_staged(&mut self, staged: &Staged) {
        if let Some(manifest) = &staged.manifest {
            self.replica.forget_stage(&staged.content, manifest.chunks().len());
        }
        self.discard(staged);
    }

    /// Removes a slot that the entry was not put in place from, unless it is worth keeping.
    fn discard_fresh(&self, staged: Option<&Staged>) {
        if let Some(staged) = staged.filter(|staged| !staged.slot.is_partial()) {
            self.discard(staged);
        }
    }

    /// What somebody changed in a receive-only folder gets a name of its own before a peer's state
    /// takes its place.
    fn set_local_aside(
        &mut self,
        key: Key,
        want: WantRow,
        staged: Option<Staged>,
        after: &mut Aftermath,
    ) -> Option<Step> {
        let (kind, print) = self.local_changes.get(&key).cloned()?;
        let local = Entry {
            key: key.clone(),
            kind: kind.clone(),
            version: highwater_core::Version::default(),
            stamp: highwater_core::Hlc::tick(self.wall, None),
            author: self.replica.node().tag(),
        };
        let aside = conflict_key(&local)?;
        match self.folder.link_aside(&key, &aside, &print) {
            Ok(Some(print)) => {
                after.look_at.insert(aside);
                Some(Step { want, staged, expect: Expect::Present { kind, print } })
            }
            Ok(None) => {
                self.local_changes.remove(&key);
                self.try_again(Step { want, staged, expect: Expect::Absent }, SOON, after);
                None
            }
            Err(error) => {
                let message =
                    format!("a change made here is in the way and cannot be renamed: {error}");
                self.cannot_place(&key, "receive_only_change", message);
                self.discard_fresh(staged.as_ref());
                self.work.defer(key, LATER);
                None
            }
        }
    }
}

/// The keys of what did not come out of the stage, where it was made durable already.
fn changed_in_place(placed: &[(Step, Placed)]) -> Vec<Key> {
    let changed = placed.iter().filter(|(step, placed)| {
        step.staged.is_none()
            && matches!(placed, Placed::Done { .. })
            && !matches!(step.want.entry.kind, EntryKind::Symlink { .. })
    });
    changed.map(|(step, _)| step.want.entry.key.clone()).collect()
}

/// What must stand under a key, by the index; `None` when the index does not know for certain.
fn expectation(row: Option<&EntryRow>) -> Option<Expect> {
    match row.filter(|row| row.entry.kind.is_live()) {
        None => Some(Expect::Absent),
        Some(row) => {
            let print = decode_print(row.print.as_deref())?;
            Some(Expect::Present { kind: row.entry.kind.clone(), print })
        }
    }
}
