//! Deletes that were seen in the folder and are not on record: those that wait a moment, so that what
//! happened at once is judged at once, and those that are held back because they are many.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::Key;
use highwater_core::observe::MassDelete;
use highwater_folder::Scope;
use highwater_store::StoreError;
use tokio::time::Instant;

use super::actor::{Actor, Open};
use super::local::note_local;
use super::replica::History;
use crate::config::ShareMode;

/// Deletes that the watcher reported are believed after this much quiet, so that a tree that is
/// being removed is seen as one removal.
const QUIET: Duration = Duration::from_millis(500);
/// But a trickle of deletes is not put off for longer than this.
const LATEST: Duration = Duration::from_secs(2);

/// Deletes that are not believed yet.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    waiting: BTreeSet<Key>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Held back until somebody confirms or reverts them, or what they are about stands again.
    held: BTreeSet<Key>,
}

impl Gone {
    /// When those that wait are to be believed.
    pub(crate) fn due(&self, guard: &MassDelete) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let many = self.waiting.len() as u64 > guard.entries_min;
        let quiet = last + QUIET;
        Some(if many { quiet } else { quiet.min(first + LATEST) })
    }

    /// What is held back, in the order of keys.
    pub(crate) fn held(&self) -> &BTreeSet<Key> {
        &self.held
    }

    /// Something was seen to stand there.
    pub(crate) fn stands(&mut self, key: &Key) {
        self.waiting.remove(key);
        self.held.remove(key);
    }

    /// A scan of all has ended, and did not find these.
    pub(crate) fn missed_by_whole_scan(&mut self, gone: Vec<Key>) {
        self.held.clear();
        self.waiting = gone.into_iter().collect();
    }

    /// A scan of some paths has ended, and did not find these. What else was held back there stands.
    pub(crate) fn missed_by_partial_scan(&mut self, scope: &Scope, gone: Vec<Key>, now: Instant) {
        let gone: BTreeSet<Key> = gone.into_iter().collect();
        self.held.retain(|key| gone.contains(key) || !scope.contains(key));
        if !gone.is_empty() {
            self.first.get_or_insert(now);
            self.last = Some(now);
            self.waiting.extend(gone);
        }
    }
}

impl Actor {
    pub(crate) fn guard(&self) -> MassDelete {
        let configured = self.config.mass_delete;
        MassDelete { fraction: configured.fraction, entries_min: configured.entries_min }
    }

    /// Decides about the deletes that have been seen: they are recorded, or held back.
    pub(crate) fn believe_gone(&mut self) -> Result<(), StoreError> {
        let seen = std::mem::take(&mut self.gone.waiting);
        (self.gone.first, self.gone.last) = (None, None);
        let guard = self.guard();
        let Some(open) = &mut self.open else { return Ok(()) };
        let keys = open.still_gone(seen)?;
        if open.replica.history != History::Continuous {
            for key in &keys {
                open.replica.lost(key)?;
            }
            return self.flush();
        }
        let live = open.replica.totals().entries;
        let all: BTreeSet<Key> = keys.union(&self.gone.held).cloned().collect();
        let many = guard.holds_back(all.len() as u64, live);
        if many && guard.holds_back(open.count_lost(&all)?, live) {
            self.gone.held = all;
            self.dirty = true;
            return Ok(());
        }
        self.record_gone(&keys).map(drop)
    }

    /// Lets go of held-back deletes of which something is on record since, here or from a peer, and
    /// which are none any more: else they would stand between copies that are the same.
    pub(crate) fn look_at_held(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let changed = open.replica.take_changed();
        if self.gone.held.is_empty() {
            return Ok(());
        }
        let changed: BTreeSet<Key> = changed.intersection(&self.gone.held).cloned().collect();
        let gone = open.still_gone(changed.clone())?;
        for key in changed.difference(&gone) {
            self.gone.held.remove(key);
            self.dirty = true;
        }
        Ok(())
    }

    fn record_gone(&mut self, keys: &BTreeSet<Key>) -> Result<u64, StoreError> {
        let now = self.outside.wall();
        let mode = self.config.mode;
        let Some(open) = &mut self.open else { return Ok(0) };
        // Believed only while the folder is certainly the right one.
        if let Err(error) = open.folder.verify() {
            self.fail(error.to_string());
            return Ok(0);
        }
        let mut recorded = 0;
        // What lies in a directory goes before it.
        for key in keys.iter().rev() {
            // It may have been put there since the scan looked.
            if !matches!(open.folder.print_of(key), Ok(None)) {
                continue;
            }
            if mode == ShareMode::ReceiveOnly {
                note_local(open, key, "was deleted here");
            } else {
                open.replica.gone(key.clone(), now)?;
                recorded += 1;
            }
        }
        self.flush()?;
        Ok(recorded)
    }

    /// Decides about a mass delete that is held back, if one is.
    pub(crate) fn of_held(
        &mut self,
        decide: impl FnOnce(&mut Self) -> Result<u64, StoreError>,
    ) -> Result<Result<u64, String>, StoreError> {
        let name = &self.config.name;
        if self.open.is_none() {
            let why = self.error.as_deref().unwrap_or("it is paused");
            return Ok(Err(format!("the share {name} is not at work: {why}")));
        }
        if self.gone.held.is_empty() {
            return Ok(Err(format!("nothing is held back in the share {name}")));
        }
        decide(self).map(Ok)
    }

    /// Lets a held-back mass delete go out.
    pub(crate) fn confirm(&mut self) -> Result<u64, StoreError> {
        let held = std::mem::take(&mut self.gone.held);
        self.dirty = true;
        self.record_gone(&held)
    }

    /// Fetches again what a held-back mass delete would delete.
    pub(crate) fn revert(&mut self) -> Result<u64, StoreError> {
        let held = std::mem::take(&mut self.gone.held);
        let Some(open) = &mut self.open else { return Ok(0) };
        let mut reverted = 0;
        for key in &open.still_gone(held)? {
            reverted += u64::from(open.replica.lost(key)?);
        }
        self.dirty = true;
        self.flush()?;
        Ok(reverted)
    }
}

impl Open {
    /// Those of the deletes that are not made on record meanwhile, by a peer or by being taken back,
    /// and where nothing is seen to stand again.
    fn still_gone(&mut self, keys: BTreeSet<Key>) -> Result<BTreeSet<Key>, StoreError> {
        let mut gone = BTreeSet::new();
        for key in keys {
            let on_record = self.replica.entry(&key)?.is_some_and(|row| row.entry.kind.is_live());
            if on_record && !matches!(self.folder.print_of(&key), Ok(Some(_))) {
                gone.insert(key);
            }
        }
        Ok(gone)
    }

    /// How many entries are lost with `gone`. Files whose content stands elsewhere in the share were
    /// moved, and so were their directories if that is true of all files.
    fn count_lost(&mut self, gone: &BTreeSet<Key>) -> Result<u64, StoreError> {
        let (mut lost, mut others) = (0, 0);
        let (store, number) = (Arc::clone(self.replica.store()), self.replica.number());
        let catalogue = Arc::clone(self.replica.catalogue());
        for key in gone {
            let row = self.replica.entry(key)?;
            match row.and_then(|row| row.entry.kind.content()) {
                None => others += 1,
                Some((content, _)) => {
                    lost += u64::from(!catalogue.stands_beside(&store, number, &content, gone)?);
                }
            }
        }
        Ok(if lost == 0 { 0 } else { lost + others })
    }
}
