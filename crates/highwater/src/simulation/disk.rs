//! The folder of a played node: files with and without a name, and what of it a crash leaves.
//!
//! What programs see changes at once. What is durable changes with a sync: of a file for its bytes
//! and metadata, of a directory for the names in it. A crash keeps of everything else whatever it
//! likes, as POSIX allows: bytes are there, or torn; each change of names happened or did not,
//! except that of two changes of one name the later never survives without the earlier. A change
//! that moves a name from one directory to another is one change.

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::{ContentHash, EntryKind, Key, Mode, Mtime};
use highwater_folder::{Marker, StatPrint};

use super::chance::Chance;

/// The stage, as names in the folder.
pub(super) const STAGE: &str = ".highwater/stage";

/// What a file or directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Thing {
    File { content: ContentHash, size: u64, mode: Mode, mtime: Mtime },
    Dir { mode: Mode },
}

impl Thing {
    pub(super) fn kind(&self) -> EntryKind {
        match *self {
            Thing::File { content, size, mode, mtime } => {
                EntryKind::File { size, content, mode, mtime }
            }
            Thing::Dir { mode } => EntryKind::Directory { mode },
        }
    }

    pub(super) fn content(&self) -> Option<ContentHash> {
        match self {
            Thing::File { content, .. } => Some(*content),
            Thing::Dir { .. } => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Inode {
    thing: Thing,
    ctime: Mtime,
    /// What a crash leaves at least; `None` while nothing of it was synced.
    durable: Option<Thing>,
    /// Whose bytes they are: a user's may be torn by a crash, what the node placed never.
    placed: bool,
    /// A sync of it failed: the kernel has forgotten that these bytes are not on the disk, and
    /// only writing them again can bring them there.
    forgotten: bool,
}

/// A change of names that happens as one.
type NameChange = Vec<(String, Option<u64>)>;

/// One folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
    last_inode: u64,
    ticks: u32,
    pub(super) marker: Option<Marker>,
    /// How often a marker's file was made here: no two have the same number.
    pub(super) markers_made: u64,
    /// The folder is not where it was: its disk is not mounted.
    pub(super) vanished: bool,
    /// There is no room.
    pub(super) full: bool,
    /// The next sync fails.
    pub(super) sync_fails: bool,
    /// What the node did to the folder that it must never do.
    pub(super) broken_rules: Vec<String>,
}

/// What a crash did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Damage {
    pub(super) names_lost: usize,
    pub(super) files_torn: usize,
}

impl Disk {
    // --- looking --------------------------------------------------------------------------

    pub(super) fn get(&self, path: &str) -> Option<(&Thing, StatPrint)> {
        let (&ino, inode) = self.names.get(path).and_then(|ino| self.inodes.get_key_value(ino))?;
        Some((&inode.thing, print(ino, inode)))
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || matches!(self.get(path), Some((Thing::Dir { .. }, _)))
    }

    pub(super) fn has_children(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        self.names.range(inside.clone()..).next().is_some_and(|(name, _)| name.starts_with(&inside))
    }

    /// What the node put in place and nobody has written since, by path.
    pub(super) fn placed(&self) -> BTreeMap<String, Thing> {
        let placed = self.names.iter().filter_map(|(name, ino)| {
            let inode = self.inodes.get(ino)?;
            (inode.placed && !name.starts_with(".highwater"))
                .then(|| (name.clone(), inode.thing.clone()))
        });
        placed.collect()
    }

    /// Everything that users see, in key order.
    pub(super) fn visible(&self) -> BTreeMap<Key, (Thing, StatPrint)> {
        let seen = self.names.keys().filter_map(|name| {
            let (thing, print) = self.get(name)?;
            Some((Key::new(name).ok()?, (thing.clone(), print)))
        });
        seen.collect()
    }

    /// The slots in the stage.
    pub(super) fn staged(&self) -> Vec<String> {
        let inside = format!("{STAGE}/");
        let names = self.names.range(inside.clone()..).map(|(name, _)| name);
        names.map_while(|name| name.strip_prefix(&inside)).map(str::to_owned).collect()
    }

    // --- changing -------------------------------------------------------------------------

    /// A time that no change had before.
    fn tick(&mut self, wall_millis: u64) -> Mtime {
        self.ticks = (self.ticks + 1) % 1_000_000;
        let nanos = (wall_millis % 1000) as u32 * 1_000_000 + self.ticks;
        Mtime { seconds: (wall_millis / 1000) as i64, nanos }
    }

    fn create(&mut self, thing: Thing, placed: bool, wall: u64) -> u64 {
        self.last_inode += 1;
        let ctime = self.tick(wall);
        self.inodes.insert(
            self.last_inode,
            Inode { thing, ctime, durable: None, placed, forgotten: false },
        );
        self.last_inode
    }

    fn rename(&mut self, change: NameChange) {
        for (name, ino) in &change {
            match ino {
                Some(ino) => self.names.insert(name.clone(), *ino),
                None => self.names.remove(name),
            };
        }
        self.pending.push(change);
    }

    /// A user writes a file: in place, or beside it and over it.
    pub(super) fn write(
        &mut self,
        path: &str,
        content: ContentHash,
        size: u64,
        in_place: bool,
        wall: u64,
    ) {
        let mtime = self.tick(wall);
        let existing = self.names.get(path).copied().filter(|_| in_place);
        match existing.and_then(|ino| self.inodes.get_mut(&ino)) {
            Some(inode) if matches!(inode.thing, Thing::File { .. }) => {
                let Thing::File { mode, .. } = inode.thing else { return };
                inode.thing = Thing::File { content, size, mode, mtime };
                (inode.ctime, inode.placed) = (mtime, false);
            }
            _ => {
                let mode = Mode::new(0o644);
                let ino = self.create(Thing::File { content, size, mode, mtime }, false, wall);
                self.rename(vec![(path.to_owned(), Some(ino))]);
            }
        }
    }

    pub(super) fn make_dir(&mut self, path: &str, wall: u64) {
        let ino = self.create(Thing::Dir { mode: Mode::new(0o755) }, false, wall);
        self.rename(vec![(path.to_owned(), Some(ino))]);
    }

    /// Removes a name and everything below it.
    pub(super) fn remove(&mut self, path: &str) {
        let inside = format!("{path}/");
        let below = self.names.keys().filter(|name| name.starts_with(&inside)).cloned();
        let mut gone: Vec<String> = below.collect();
        gone.push(path.to_owned());
        for name in gone {
            self.rename(vec![(name, None)]);
        }
    }

    /// Moves a name and everything below it.
    pub(super) fn move_to(&mut self, from: &str, to: &str, wall: u64) {
        let inside = format!("{from}/");
        let mut change = NameChange::new();
        for (name, &ino) in &self.names {
            if name == from || name.starts_with(&inside) {
                change.push((name.clone(), None));
                change.push((format!("{to}{}", &name[from.len()..]), Some(ino)));
            }
        }
        let moved = self.names.get(from).copied();
        let ctime = self.tick(wall);
        if let Some(inode) = moved.and_then(|ino| self.inodes.get_mut(&ino)) {
            inode.ctime = ctime;
        }
        self.rename(change);
    }

    /// A user changes the mode of what stands there.
    pub(super) fn change_mode(&mut self, path: &str, new: Mode, wall: u64) {
        self.set_mode(path, new, wall);
        if let Some(inode) = self.names.get(path).and_then(|ino| self.inodes.get_mut(ino)) {
            inode.placed = false;
        }
    }

    pub(super) fn set_mode(&mut self, path: &str, new: Mode, wall: u64) {
        let ctime = self.tick(wall);
        let Some(inode) = self.names.get(path).and_then(|ino| self.inodes.get_mut(ino)) else {
            return;
        };
        match &mut inode.thing {
            Thing::File { mode, .. } | Thing::Dir { mode } => *mode = new,
        }
        inode.ctime = ctime;
    }

    pub(super) fn set_mtime(&mut self, path: &str, new: Mtime, wall: u64) {
        let ctime = self.tick(wall);
        let Some(inode) = self.names.get(path).and_then(|ino| self.inodes.get_mut(ino)) else {
            return;
        };
        if let Thing::File { mtime, .. } = &mut inode.thing {
            *mtime = new;
        }
        inode.ctime = ctime;
    }

    /// Puts bytes into the stage, or makes what is staged there longer or whole.
    pub(super) fn stage(&mut self, slot: &str, content: ContentHash, size: u64, wall: u64) {
        let path = format!("{STAGE}/{slot}");
        let mtime = self.tick(wall);
        let thing = Thing::File { content, size, mode: Mode::new(0o600), mtime };
        match self.names.get(&path).and_then(|ino| self.inodes.get_mut(ino)) {
            Some(inode) => (inode.thing, inode.forgotten) = (thing, false),
            None => {
                let ino = self.create(thing, true, wall);
                self.rename(vec![(path, Some(ino))]);
            }
        }
    }

    /// Renames what is staged to `to`, whatever stands there.
    pub(super) fn bring_in(&mut self, slot: &str, to: &str, wall: u64) {
        let from = format!("{STAGE}/{slot}");
        let Some(&ino) = self.names.get(&from) else { return };
        let ctime = self.tick(wall);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.ctime = ctime;
            if inode.durable.as_ref() != Some(&inode.thing) {
                self.broken_rules
                    .push(format!("'{to}' was put in place before its bytes were synced"));
            }
        }
        self.rename(vec![(from, None), (to.to_owned(), Some(ino))]);
    }

    /// A directory that the node makes.
    pub(super) fn place_dir(&mut self, path: &str, mode: Mode, wall: u64) {
        let ino = self.create(Thing::Dir { mode }, true, wall);
        self.rename(vec![(path.to_owned(), Some(ino))]);
    }

    // --- durability -----------------------------------------------------------------------

    /// Makes the bytes and metadata of a file durable.
    pub(super) fn sync_file(&mut self, path: &str) {
        let inode = self.names.get(path).and_then(|ino| self.inodes.get_mut(ino));
        if let Some(inode) = inode.filter(|inode| !inode.forgotten) {
            inode.durable = Some(inode.thing.clone());
        }
    }

    /// A sync of a file that fails: what was to be written is never written.
    pub(super) fn fail_to_sync(&mut self, path: &str) {
        if let Some(inode) = self.names.get(path).and_then(|ino| self.inodes.get_mut(ino)) {
            inode.forgotten = true;
        }
    }

    /// Makes the names in a directory durable, and what must have happened before them.
    pub(super) fn sync_dir(&mut self, dir: &str) {
        self.sync_names(|name| parent(name) == dir);
    }

    /// Makes a name and all below it durable with what it leads to, as a careful user does.
    pub(super) fn sync_below(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.sync_names(|name| name == path || name.starts_with(&inside));
        let names: Vec<String> = self.names.keys().cloned().collect();
        for name in names.iter().filter(|name| *name == path || name.starts_with(&inside)) {
            self.sync_file(name);
        }
    }

    fn sync_names(&mut self, chosen: impl Fn(&str) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        let mut wanted = vec![false; pending.len()];
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for (index, change) in pending.iter().enumerate().rev() {
            let here = change.iter().any(|(name, _)| chosen(name));
            if here || change.iter().any(|(name, _)| names.contains(name.as_str())) {
                wanted[index] = true;
                names.extend(change.iter().map(|(name, _)| name.as_str()));
            }
        }
        drop(names);
        for (change, wanted) in pending.into_iter().zip(wanted) {
            if wanted {
                self.make_durable(change);
            } else {
                self.pending.push(change);
            }
        }
    }

    fn make_durable(&mut self, change: NameChange) {
        for (name, ino) in change {
            match ino {
                Some(ino) => self.durable_names.insert(name, ino),
                None => self.durable_names.remove(&name),
            };
        }
    }

    /// What the kernel does by itself some time after a write.
    pub(super) fn write_back(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| !inode.forgotten) {
            inode.durable = Some(inode.thing.clone());
        }
        for change in std::mem::take(&mut self.pending) {
            self.make_durable(change);
        }
        let (names, durable) = (&self.names, &self.durable_names);
        let used: BTreeSet<u64> = names.values().chain(durable.values()).copied().collect();
        self.inodes.retain(|ino, _| used.contains(ino));
    }

    /// What a backup of this disk holds.
    pub(super) fn durable_copy(&self) -> Disk {
        let mut copy = self.clone();
        copy.write_back();
        copy
    }

    /// The power goes.
    pub(super) fn crash(&mut self, chance: &mut Chance) -> Damage {
        let mut damage = Damage::default();
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            let follows_lost = change.iter().any(|(name, _)| lost.contains(name));
            if !follows_lost && chance.percent(50) {
                self.make_durable(change);
            } else {
                damage.names_lost += 1;
                lost.extend(change.into_iter().map(|(name, _)| name));
            }
        }
        self.names = self.durable_names.clone();
        self.drop_orphans();
        let names: Vec<(String, u64)> = self.names.clone().into_iter().collect();
        for (name, ino) in names {
            damage.files_torn += usize::from(self.tear(&name, ino, chance));
        }
        damage
    }

    /// Names in directories that are not there any more lead nowhere.
    fn drop_orphans(&mut self) {
        loop {
            let orphan = |name: &&String| {
                let dir = parent(name);
                !dir.starts_with(".highwater") && !self.is_dir(dir)
            };
            let Some(name) = self.names.keys().find(orphan).cloned() else { break };
            self.names.remove(&name);
        }
        self.durable_names = self.names.clone();
    }

    /// Whether a file lost bytes that were not synced.
    fn tear(&mut self, name: &str, ino: u64, chance: &mut Chance) -> bool {
        let Some(inode) = self.inodes.get_mut(&ino) else { return false };
        let written_back = !inode.forgotten && chance.percent(30);
        if inode.durable.as_ref() == Some(&inode.thing) || written_back {
            inode.durable = Some(inode.thing.clone());
            return false;
        }
        let torn = match (&inode.durable, &inode.thing) {
            (Some(durable), _) => durable.clone(),
            (None, &Thing::File { size, mode, mtime, .. }) if size > 0 => {
                let content = torn_content(ino);
                Thing::File { content, size: size / 2, mode, mtime }
            }
            (None, whole) => whole.clone(),
        };
        if torn == inode.thing {
            inode.durable = Some(torn);
            return false;
        }
        // A new mode on old bytes may be lost until it is synced; the file is whole without it.
        let lost_bytes = torn.content() != inode.thing.content();
        inode.thing = torn.clone();
        inode.durable = Some(torn);
        if inode.placed && lost_bytes && !name.starts_with(".highwater") {
            self.broken_rules
                .push(format!("'{name}' was torn by the crash though the node placed it"));
        }
        true
    }
}

/// What is read from a file that was torn.
fn torn_content(ino: u64) -> ContentHash {
    ContentHash::of(format!("torn {ino}").as_bytes())
}

/// The directory that a name is in; empty for the root.
pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn print(ino: u64, inode: &Inode) -> StatPrint {
    match inode.thing {
        Thing::File { size, mode, mtime, .. } => {
            StatPrint { ino, size, mtime, ctime: inode.ctime, mode }
        }
        Thing::Dir { mode } => {
            let zero = Mtime { seconds: 0, nanos: 0 };
            StatPrint { ino, size: 0, mtime: zero, ctime: zero, mode }
        }
    }
}
