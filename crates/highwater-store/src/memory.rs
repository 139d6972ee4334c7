//! A database in memory that fails and crashes on demand: what simulations run the real store on.
//!
//! It keeps the promises of the real one and no others. What was applied is seen at once; what was
//! synced survives a crash; what was applied since the last sync survives as far as the crash
//! allows, batch by batch in order, as in a log that is cut at its last whole record.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, Changes, DatabaseError, Row, Rows};
use crate::fuse::Fuse;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The memory of one store. Clones share it, so it outlives the store that is opened on it, as a
/// disk outlives a process.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What everybody sees.
    current: Map,
    /// What a crash leaves at least.
    durable: Map,
    /// Applied since the last sync, in order.
    unsynced: VecDeque<Changes>,
    fault: Option<DiskFault>,
    /// A sync has failed: what it was to write is a hole in the log, and nothing behind a hole is
    /// found again, however well later syncs go.
    holed: bool,
    /// Counts its steps with those of whatever else is on the disk.
    fuse: Fuse,
}

/// What the disk does instead of working.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// The next sync fails, once.
    SyncOnce,
    /// Every sync fails.
    Sync,
    /// Nothing can be written.
    Full,
}

impl MemoryDisk {
    /// An empty one, on a disk that fails with this fuse.
    pub fn on(fuse: &Fuse) -> Self {
        Self(Arc::new(Mutex::new(State { fuse: fuse.clone(), ..State::default() })))
    }

    /// Loses what was not synced, but for the first `kept` of the batches applied since. How many
    /// batches were lost.
    pub fn crash(&self, kept: impl FnOnce(usize) -> usize) -> usize {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        let kept = if state.holed { 0 } else { kept(unsynced.len()).min(unsynced.len()) };
        let lost = unsynced.len() - kept;
        for batch in unsynced.into_iter().take(kept) {
            write(&mut state.durable, batch);
        }
        state.current = state.durable.clone();
        (state.fault, state.holed) = (None, false);
        lost
    }

    /// What a process that starts anew finds: if a sync has failed, only what is durable.
    pub fn reopen(&self) {
        if self.state().holed {
            self.crash(|_| 0);
        }
    }

    /// Makes the disk fail, or work again.
    pub fn set_fault(&self, fault: Option<DiskFault>) {
        self.state().fault = fault;
    }

    /// Everything that is durable, to be put back some day with [`MemoryDisk::restore`].
    pub fn image(&self) -> MemoryImage {
        MemoryImage(self.state().durable.clone())
    }

    /// Puts an image back, as an administrator does with a backup.
    pub fn restore(&self, image: &MemoryImage) {
        let mut state = self.state();
        let (current, durable, fuse) = (image.0.clone(), image.0.clone(), state.fuse.clone());
        *state = State { current, durable, fuse, ..State::default() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy of everything durable at one moment.
#[derive(Clone, Debug, Default)]
pub struct MemoryImage(Map);

impl Backend for MemoryDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError> {
        Ok(self.state().current.get(key).cloned())
    }

    fn scan(&self, from: Vec<u8>, end: Option<Vec<u8>>) -> Rows {
        let (front, back) = (Bound::Included(from), end.map_or(Bound::Unbounded, Bound::Excluded));
        Box::new(Walk { disk: self.clone(), front, back })
    }

    fn apply(&self, changes: Changes) -> Result<(), DatabaseError> {
        let mut state = self.state();
        if state.fault == Some(DiskFault::Full) {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        state.fuse.grow()?;
        write(&mut state.current, changes.clone());
        state.unsynced.push_back(changes);
        Ok(())
    }

    fn sync(&self) -> Result<(), DatabaseError> {
        let mut state = self.state();
        state.fuse.step()?;
        if matches!(state.fault, Some(DiskFault::SyncOnce | DiskFault::Sync)) {
            state.fault = state.fault.filter(|fault| *fault == DiskFault::Sync);
            state.holed = true;
            return Err(io::Error::other("an injected input/output error").into());
        }
        if state.holed {
            return Ok(());
        }
        for batch in std::mem::take(&mut state.unsynced) {
            write(&mut state.durable, batch);
        }
        Ok(())
    }
}

fn write(map: &mut Map, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

/// Walks the map as it is at each step, like the real one: what changes ahead is seen.
#[derive(Debug)]
struct Walk {
    disk: MemoryDisk,
    front: Bound<Vec<u8>>,
    back: Bound<Vec<u8>>,
}

impl Walk {
    fn is_over(&self) -> bool {
        match (&self.front, &self.back) {
            (Bound::Included(front), Bound::Excluded(back)) => front >= back,
            (Bound::Excluded(front), Bound::Excluded(back)) => front >= back,
            _ => false,
        }
    }

    fn row(
        &mut self,
        pick: impl FnOnce(&Map, (Bound<&[u8]>, Bound<&[u8]>)) -> Option<Row>,
    ) -> Option<Row> {
        if self.is_over() {
            return None;
        }
        let range = (self.front.as_ref().map(Vec::as_slice), self.back.as_ref().map(Vec::as_slice));
        pick(&self.disk.state().current, range)
    }
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> Row {
    (key.clone(), value.clone())
}

impl Iterator for Walk {
    type Item = Result<Row, DatabaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.row(|map, range| map.range::<[u8], _>(range).next().map(owned))?;
        self.front = Bound::Excluded(row.0.clone());
        Some(Ok(row))
    }
}

impl DoubleEndedIterator for Walk {
    fn next_back(&mut self) -> Option<Self::Item> {
        let row = self.row(|map, range| map.range::<[u8], _>(range).next_back().map(owned))?;
        self.back = Bound::Excluded(row.0.clone());
        Some(Ok(row))
    }
}
