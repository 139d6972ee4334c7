//! A played folder under the hands of its share: the same answers as a real one gives, from a
//! [`Disk`] in memory.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_core::{ContentHash, EntryKind, Key, Mode, Mtime};
use highwater_folder::{
    Expect, IgnoreRules, Marker, PlaceError, Placed, Placement, Problem, RootError, SettleError,
    Slot, StageError, StatPrint,
};

use highwater_store::Fuse;

use super::clock::PlayedClock;
use super::disk::{Disk, STAGE, Thing, parent};
use crate::share::outside::Folder;

/// A folder that outlives the process that works on it.
#[derive(Clone, Debug)]
pub(super) struct PlayedFolder {
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) clock: PlayedClock,
    pub(super) fuse: Fuse,
}

impl PlayedFolder {
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall(&self) -> u64 {
        self.clock.wall().0
    }

    /// Whether the disk takes more.
    pub(super) fn has_room(&self) -> bool {
        !self.disk().full && self.fuse.grow().is_ok()
    }
}

pub(super) fn path() -> PathBuf {
    PathBuf::from("/played")
}

/// Where something staged lies.
fn staged(slot: &Slot) -> String {
    format!("{STAGE}/{slot}")
}

fn failed_sync(what: &str, source: io::Error) -> SettleError {
    SettleError::SyncFailed { what: what.to_owned(), source }
}

fn injected() -> io::Error {
    io::Error::other("injected")
}

pub(super) fn marker_not_written(source: io::Error) -> RootError {
    RootError::Unreadable { attempt: "write the marker", path: path(), source }
}

fn not_placed(key: &Key, source: io::Error) -> PlaceError {
    let key = key.clone();
    match source.kind() {
        io::ErrorKind::StorageFull => PlaceError::NoRoom { key, source },
        _ => PlaceError::Io { key, source },
    }
}

impl Folder for PlayedFolder {
    fn marker(&self) -> Marker {
        self.disk().marker.clone().expect("an open folder has a marker")
    }

    fn marker_born(&self) -> Option<Mtime> {
        let made = self.disk().markers_made;
        Some(Mtime { seconds: i64::try_from(made).ok()?, nanos: 0 })
    }

    fn set_marker(&self, marker: &Marker) -> Result<(), RootError> {
        self.fuse.grow().map_err(marker_not_written)?;
        let mut disk = self.disk();
        disk.marker = Some(marker.clone());
        disk.markers_made += 1;
        Ok(())
    }

    fn verify(&self) -> Result<(), RootError> {
        match self.disk().vanished {
            true => Err(RootError::Missing(path())),
            false => Ok(()),
        }
    }

    fn rules(&self) -> (IgnoreRules, Vec<Problem>) {
        (IgnoreRules::none(), Vec::new())
    }

    fn recover(
        &self,
        _known: &dyn Fn(ContentHash) -> bool,
        keep: &dyn Fn(&Slot) -> bool,
    ) -> Vec<Problem> {
        let mut disk = self.disk();
        for name in disk.staged().into_iter().take_while(|_| self.fuse.step().is_ok()) {
            let kept = name.strip_prefix("part-").and_then(hash_of).map(Slot::partial);
            if !kept.is_some_and(|slot| keep(&slot)) {
                disk.remove(&format!("{STAGE}/{name}"));
            }
        }
        Vec::new()
    }

    fn print_of(&self, key: &Key) -> io::Result<Option<StatPrint>> {
        let disk = self.disk();
        if disk.vanished {
            return Err(io::Error::other("the folder is not there"));
        }
        Ok(disk.get(key.as_str()).map(|(_, print)| print))
    }

    fn dress(&self, slot: &Slot, mode: Mode, mtime: Mtime) -> Result<(), StageError> {
        let (path, wall) = (staged(slot), self.wall());
        let attempt = "dress";
        let refused = |source| StageError::Io { attempt, slot: slot.clone(), source };
        self.fuse.step().map_err(refused)?;
        let mut disk = self.disk();
        if disk.get(&path).is_none() {
            return Err(StageError::Missing(slot.clone()));
        }
        disk.set_mode(&path, mode, wall);
        disk.set_mtime(&path, mtime, wall);
        Ok(())
    }

    fn discard(&self, slot: &Slot) -> Result<(), StageError> {
        let attempt = "remove";
        let refused = |source| StageError::Io { attempt, slot: slot.clone(), source };
        self.fuse.step().map_err(refused)?;
        self.disk().remove(&staged(slot));
        Ok(())
    }

    fn place(&self, placement: &Placement) -> Placed {
        let wall = self.wall();
        let needs_room = placement.kind.is_live() && matches!(placement.expect, Expect::Absent);
        let step = if needs_room { self.fuse.grow() } else { self.fuse.step() };
        match step {
            Ok(()) => place(&mut self.disk(), placement, wall),
            Err(source) => Placed::Failed(not_placed(&placement.key, source)),
        }
    }

    /// Bit rot is not played.
    fn keep_aside(&self, _: &Key, _: &StatPrint) -> io::Result<Option<(String, StatPrint)>> {
        Ok(None)
    }

    fn drop_aside(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn link_aside(
        &self,
        key: &Key,
        aside: &Key,
        print: &StatPrint,
    ) -> io::Result<Option<StatPrint>> {
        let wall = self.wall();
        self.fuse.grow()?;
        let mut disk = self.disk();
        let thing = match disk.get(key.as_str()) {
            Some((thing, found)) if found == *print => thing.clone(),
            _ => return Ok(None),
        };
        let Thing::File { content, size, .. } = thing else {
            return Err(io::Error::other("a directory cannot be linked"));
        };
        disk.write(aside.as_str(), content, size, false, wall);
        Ok(Some(*print))
    }

    fn settle_files(&self, slots: &[Slot]) -> Result<(), SettleError> {
        let mut disk = self.disk();
        if slots.is_empty() {
            return Ok(());
        }
        self.fuse.step().map_err(|error| failed_sync("a staged file", error))?;
        if std::mem::take(&mut disk.sync_fails) {
            slots.iter().for_each(|slot| disk.fail_to_sync(&staged(slot)));
            return Err(failed_sync("a staged file", injected()));
        }
        slots.iter().for_each(|slot| disk.sync_file(&staged(slot)));
        disk.sync_dir(STAGE);
        Ok(())
    }

    fn settle_dirs(&self, keys: &[Key]) -> Result<(), SettleError> {
        let mut disk = self.disk();
        if keys.is_empty() {
            return Ok(());
        }
        self.fuse.step().map_err(|error| failed_sync("a directory", error))?;
        if std::mem::take(&mut disk.sync_fails) {
            return Err(failed_sync("a directory", injected()));
        }
        keys.iter().for_each(|key| disk.sync_dir(parent(key.as_str())));
        disk.sync_dir(STAGE);
        Ok(())
    }

    fn settle_metadata(&self, keys: &[Key]) -> Result<(), SettleError> {
        self.fuse.step().map_err(|error| failed_sync("metadata", error))?;
        let mut disk = self.disk();
        keys.iter().for_each(|key| disk.sync_file(key.as_str()));
        Ok(())
    }
}

/// A hash as it is printed.
fn hash_of(text: &str) -> Option<ContentHash> {
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(ContentHash::from_bytes(bytes))
}

fn place(disk: &mut Disk, placement: &Placement, wall: u64) -> Placed {
    let key = placement.key.as_str();
    if !disk.is_dir(parent(key)) {
        return if placement.kind.is_live() { Placed::ParentMissing } else { Placed::Gone };
    }
    let found = disk.get(key).map(|(thing, print)| (thing.clone(), print));
    let as_expected = match (&found, &placement.expect) {
        (None, Expect::Absent) => true,
        (Some((_, found)), Expect::Present { print, .. }) => found == print,
        _ => false,
    };
    if found.is_none() && !placement.kind.is_live() {
        return Placed::Gone;
    }
    if !as_expected {
        return Placed::LocallyChanged;
    }
    let replaces_dir = matches!(found, Some((Thing::Dir { .. }, _)));
    let stays_dir = matches!(placement.kind, EntryKind::Directory { .. }) && replaces_dir;
    if replaces_dir && !stays_dir && disk.has_children(key) {
        return Placed::NotEmpty;
    }
    match &placement.kind {
        EntryKind::Tombstone => {
            disk.remove(key);
            Placed::Gone
        }
        EntryKind::Directory { mode } => {
            match stays_dir {
                true => disk.set_mode(key, *mode, wall),
                false => disk.place_dir(key, *mode, wall),
            }
            done(disk, key)
        }
        EntryKind::File { size, mode, mtime, .. } => match &placement.slot {
            Some(slot) => place_file(disk, placement, slot, *size, wall),
            None => {
                disk.set_mode(key, *mode, wall);
                disk.set_mtime(key, *mtime, wall);
                done(disk, key)
            }
        },
        EntryKind::Symlink { .. } => Placed::Failed(PlaceError::Name(placement.key.clone())),
    }
}

fn place_file(disk: &mut Disk, placement: &Placement, slot: &Slot, size: u64, wall: u64) -> Placed {
    let key = &placement.key;
    match disk.get(&staged(slot)) {
        Some((Thing::File { size: found, .. }, _)) if *found == size => {}
        _ => {
            let why = "it is not there whole".to_owned();
            return Placed::Failed(PlaceError::Staged { key: key.clone(), why });
        }
    }
    if disk.full && matches!(placement.expect, Expect::Absent) {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        return Placed::Failed(PlaceError::NoRoom { key: key.clone(), source });
    }
    disk.bring_in(slot.as_str(), key.as_str(), wall);
    done(disk, key.as_str())
}

fn done(disk: &Disk, key: &str) -> Placed {
    Placed::Done { print: disk.get(key).map(|(_, print)| print) }
}
