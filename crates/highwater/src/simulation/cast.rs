//! Carries out what a story asks for: users at work, and trouble.

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::{ContentHash, Seq};
use highwater_store::{DiskFault, FuseEnd, MemoryDisk, Store};

use super::disk::{Disk, Thing, parent};
use super::node::share;
use super::story::{Action, Deed, NAMES, Part, mode};
use super::world::World;

impl World {
    pub(super) fn act_out(&mut self, action: Action) {
        let node = self.place_of(&action);
        self.note(node, "is", &action);
        match action {
            Action::User(node, deed) => self.user(node, &deed),
            Action::Cut(a, b) => self.cut(a, b),
            Action::Mend(a, b) => self.mend(a, b),
            Action::Kill(node) => self.end(node, false),
            Action::PowerCut(node) => self.cut_power(node),
            Action::Stop(node) => self.end(node, true),
            Action::Start(node) => self.start(node),
            Action::Vanish(node) => self.nodes[node].folder.disk().vanished = true,
            Action::Return(node) => self.nodes[node].folder.disk().vanished = false,
            Action::Full(node) => self.nodes[node].folder.disk().full = true,
            Action::Room(node) => {
                self.nodes[node].folder.disk().full = false;
                self.nodes[node].folder.fuse.replace();
            }
            Action::FailFolderSync(node) => self.nodes[node].folder.disk().sync_fails = true,
            Action::FailStoreSync(node) => {
                self.nodes[node].memory.set_fault(Some(DiskFault::SyncOnce));
            }
            Action::FailWithin(node, steps, end) => {
                self.nodes[node].folder.fuse.light(steps, end);
            }
            Action::Clock(node, millis) => self.nodes[node].clock.set_wrong_by(millis),
            Action::Backup(node) => {
                let disk = self.nodes[node].folder.disk().durable_copy();
                self.nodes[node].backup = Some((self.nodes[node].memory.image(), disk));
            }
            Action::Restore(node, part) => self.restore(node, part),
            Action::LoseStore(node) => self.lose_store(node),
        }
    }

    fn place_of(&self, action: &Action) -> usize {
        match *action {
            Action::User(node, _)
            | Action::Cut(node, _)
            | Action::Mend(node, _)
            | Action::Kill(node)
            | Action::PowerCut(node)
            | Action::Stop(node)
            | Action::Start(node)
            | Action::Vanish(node)
            | Action::Return(node)
            | Action::Full(node)
            | Action::Room(node)
            | Action::FailFolderSync(node)
            | Action::FailStoreSync(node)
            | Action::FailWithin(node, ..)
            | Action::Clock(node, _)
            | Action::Backup(node)
            | Action::Restore(node, _)
            | Action::LoseStore(node) => node,
        }
    }

    // --- users ----------------------------------------------------------------------------

    fn user(&mut self, node: usize, deed: &Deed) {
        let wall = self.nodes[node].clock.wall().0;
        // Of the moment alone, so that it stays the same when other deeds are left out.
        let content = ContentHash::of(format!("{node} at {}", self.now()).as_bytes());
        let folder = self.nodes[node].folder.clone();
        let mut disk = folder.disk();
        if disk.vanished || disk.full {
            return;
        }
        let replaced = replaced_by(&disk, deed);
        let Some(touched) = apply(&mut disk, deed, content, wall) else { return };
        if !self.habits.careless {
            touched.iter().for_each(|path| disk.sync_below(path));
        }
        drop(disk);
        if let Some(model) = &mut self.judge.model {
            apply(model, deed, content, wall);
        }
        if matches!(deed, Deed::Write { .. }) {
            self.judge.wrote(content);
        }
        self.judge.superseded(replaced);
        self.judge.count("deeds", 1);
        touched.iter().for_each(|path| self.hint(node, path));
    }

    // --- trouble --------------------------------------------------------------------------

    fn cut(&mut self, a: usize, b: usize) {
        let Some(wire) = self.wire_of(a, b) else { return };
        self.wires[wire].cut = true;
        let longest = self.silence();
        self.break_wire(wire, longest);
    }

    fn mend(&mut self, a: usize, b: usize) {
        let Some(wire) = self.wire_of(a, b) else { return };
        self.wires[wire].cut = false;
        self.dial_later(wire);
    }

    /// The contents that other nodes' folders hold.
    fn contents_beside(&self, node: usize) -> BTreeSet<ContentHash> {
        let others = self.nodes.iter().enumerate().filter(|(number, _)| *number != node);
        others.flat_map(|(_, other)| other.contents()).collect()
    }

    fn cut_power(&mut self, node: usize) {
        if self.nodes[node].life.is_none() {
            return;
        }
        // Nobody was promised what users did not sync.
        self.judge.history_broken |= node == 0 && self.habits.careless;
        let promises = self.promises_of(node);
        let (before, placed) =
            (self.nodes[node].contents(), self.nodes[node].folder.disk().placed());
        self.end(node, false);
        let mut chance = self.nodes[node].chance().split();
        let lost = self.nodes[node].memory.crash(|unsynced| chance.index(unsynced + 1));
        let damage = self.nodes[node].folder.disk().crash(&mut chance);
        self.judge.count("power cuts", 1);
        self.judge.count("commits lost in a power cut", lost as u64);
        self.judge.count("changes of names lost in a power cut", damage.names_lost as u64);
        self.judge.count("files torn by a power cut", damage.files_torn as u64);
        let after = self.nodes[node].contents();
        let beside = self.contents_beside(node);
        self.judge.disk_lost(&before, &after, &beside);
        let time = self.now();
        self.judge.look_at_disk(time, node, &mut self.nodes[node].folder.disk());
        for broken in self.broken_promises(node, &promises, &placed) {
            self.judge.broken(time, &broken);
        }
    }

    /// Takes the machines down whose disks died at some step of what just happened.
    pub(super) fn fell_dead(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].folder.fuse.end() == Some(FuseEnd::Dead) {
                self.nodes[node].folder.fuse.replace();
                self.judge.count("power cuts between two steps", 1);
                self.note(node, "loses power", &"between two steps");
                self.cut_power(node);
            }
        }
    }

    /// What a node has told each peer: how far it is in the peer's log, and how far its own goes.
    fn promises_of(&self, node: usize) -> Vec<Promise> {
        let id = self.nodes[node].id;
        let linked = self.nodes.iter().enumerate().filter_map(|(number, peer)| {
            let life = peer.life.as_ref()?;
            let link = life.actor.links.get(&id)?;
            // What an earlier store promised, that one took with it.
            self.wires.iter().find(|wire| {
                wire.carries(link.source.id) && wire.joins(node, self.nodes[node].lives)
            })?;
            let open = life.actor.open.as_ref()?;
            let told = link.outlet.as_ref().map(|outlet| (open.replica.epoch(), outlet.acked));
            let took = link.theirs.as_ref().map(|theirs| (theirs.pulled.epoch, theirs.pulled.seq));
            Some(Promise { peer: number, acknowledged: told, announced: took })
        });
        linked.collect()
    }

    fn broken_promises(
        &self,
        node: usize,
        promises: &[Promise],
        placed: &BTreeMap<String, Thing>,
    ) -> Vec<String> {
        let mut broken = Vec::new();
        let Ok(store) = Store::open_in_memory(&self.nodes[node].memory) else {
            return vec![format!("L8: node {node}: its store does not open after a power cut")];
        };
        let Ok(Some(share)) = store.share(&share()) else { return broken };
        for promise in promises {
            let peer = store.peer(share.number, &self.nodes[promise.peer].id).unwrap_or_default();
            let pulled = peer.pulled.map(|at| (at.epoch, at.seq));
            if let Some((epoch, acked)) = promise.acknowledged
                && acked > Seq::ZERO
                && !pulled.is_some_and(|(e, seq)| e == epoch && seq >= acked)
            {
                broken.push(format!(
                    "I4: node {node} acknowledged {acked} of node {}'s log, its disk says {pulled:?}",
                    promise.peer
                ));
            }
            let head = store.head(share.number).unwrap_or_default().0;
            if let Some((epoch, seq)) = promise.announced
                && epoch == share.epoch
                && seq > head
            {
                broken.push(format!(
                    "I4: node {} took in {seq} of node {node}'s log, whose disk goes to {head}",
                    promise.peer
                ));
            }
        }
        broken.extend(self.index_ahead_of_disk(node, &store, placed));
        broken
    }

    /// Entries that the index has as in place, were, and are not any more.
    fn index_ahead_of_disk(
        &self,
        node: usize,
        store: &Store,
        placed: &BTreeMap<String, Thing>,
    ) -> Option<String> {
        let share = store.share(&share()).ok()??;
        let disk = self.nodes[node].folder.disk();
        let rows = store.entries(share.number, None).map_while(Result::ok);
        for row in rows {
            let key = row.entry.key.as_str();
            let was = placed.get(key).is_some_and(|thing| thing.kind() == row.entry.kind);
            let now = disk.get(key).map(|(thing, _)| thing.kind());
            if was && now.as_ref() != Some(&row.entry.kind) {
                let (says, holds) = (&row.entry.kind, now);
                return Some(format!(
                    "I5: node {node}: {key} was put in place and recorded as {says:?}, and after a \
                     power cut it is {holds:?}"
                ));
            }
        }
        None
    }

    fn restore(&mut self, node: usize, part: Part) {
        if self.nodes[node].life.is_some() {
            return;
        }
        let Some((image, disk)) = self.nodes[node].backup.take() else { return };
        let (before, held) = (self.nodes[node].contents(), self.nodes[node].places());
        if part != Part::Folder {
            self.nodes[node].memory.restore(&image);
        }
        if part != Part::Store {
            // Copied file by file, or as the image of a whole disk.
            let is_image = match part {
                Part::Both => self.now().is_multiple_of(2),
                Part::Store | Part::Folder => self.habits.folder_images,
            };
            let mut now = self.nodes[node].folder.disk();
            let made = now.markers_made;
            *now = disk;
            if !is_image {
                now.markers_made = made + 1;
            }
        }
        self.judge.count("restores", 1);
        self.judge.history_broken |= node == 0 || part != Part::Both;
        let after = self.nodes[node].contents();
        let beside = self.contents_beside(node);
        self.judge.disk_lost(&before, &after, &beside);
        self.judge.renames_undone(&held, &self.nodes[node].places(), &beside);
    }

    fn lose_store(&mut self, node: usize) {
        if self.nodes[node].life.is_none() {
            self.nodes[node].memory = MemoryDisk::on(&self.nodes[node].folder.fuse);
            self.judge.history_broken = true;
            self.judge.count("stores lost", 1);
        }
    }
}

/// What a peer was told by a node, or took from it.
struct Promise {
    peer: usize,
    /// How far the node said that it has the peer's log.
    acknowledged: Option<(highwater_core::Epoch, Seq)>,
    /// How far the peer has taken in the node's log.
    announced: Option<(highwater_core::Epoch, Seq)>,
}

/// The contents that a deed takes away from where they can be seen.
fn replaced_by(disk: &Disk, deed: &Deed) -> Vec<ContentHash> {
    let content = |path: &str| disk.get(path).and_then(|(thing, _)| thing.content());
    match *deed {
        Deed::Write { name, .. } => content(NAMES[name]).into_iter().collect(),
        Deed::Rename { to, .. } | Deed::Copy { to, .. } => content(NAMES[to]).into_iter().collect(),
        Deed::Delete { name } => {
            let (path, inside) = (NAMES[name], format!("{}/", NAMES[name]));
            let below = disk
                .visible()
                .into_iter()
                .filter(|(key, _)| key.as_str() == path || key.as_str().starts_with(&inside));
            below.filter_map(|(_, (thing, _))| thing.content()).collect()
        }
        Deed::MakeDir { .. } | Deed::ChangeMode { .. } => Vec::new(),
    }
}

/// Does a deed, if it can be done; the paths that it touches.
fn apply(disk: &mut Disk, deed: &Deed, content: ContentHash, wall: u64) -> Option<Vec<String>> {
    match *deed {
        Deed::Write { name, size, in_place } => {
            let touched = make_room(disk, NAMES[name], wall)?;
            disk.write(NAMES[name], content, size, in_place, wall);
            Some(touched)
        }
        Deed::Delete { name } => {
            disk.get(NAMES[name])?;
            disk.remove(NAMES[name]);
            Some(vec![NAMES[name].to_owned()])
        }
        Deed::Rename { from, to } => {
            let (from, to) = (NAMES[from], NAMES[to]);
            let is_dir = disk.is_dir(from);
            disk.get(from)?;
            if from == to
                || to.starts_with(&format!("{from}/"))
                || from.starts_with(&format!("{to}/"))
            {
                return None;
            }
            if is_dir && disk.get(to).is_some() {
                return None;
            }
            let mut touched = make_room(disk, to, wall)?;
            disk.move_to(from, to, wall);
            touched.push(from.to_owned());
            Some(touched)
        }
        Deed::Copy { from, to } => {
            let (&Thing::File { content, size, .. }, _) = disk.get(NAMES[from])? else {
                return None;
            };
            if from == to {
                return None;
            }
            let touched = make_room(disk, NAMES[to], wall)?;
            disk.write(NAMES[to], content, size, false, wall);
            Some(touched)
        }
        Deed::MakeDir { name } => {
            if disk.get(NAMES[name]).is_some() {
                return None;
            }
            let touched = make_room(disk, NAMES[name], wall)?;
            disk.make_dir(NAMES[name], wall);
            Some(touched)
        }
        Deed::ChangeMode { name, mode: bits } => {
            let bits = if disk.is_dir(NAMES[name]) { bits | 0o700 } else { bits };
            disk.get(NAMES[name])?;
            disk.change_mode(NAMES[name], mode(bits), wall);
            Some(vec![NAMES[name].to_owned()])
        }
    }
}

/// Makes the directories that a path needs. `None` when a file is in the way, or a directory
/// stands under the path itself.
fn make_room(disk: &mut Disk, path: &str, wall: u64) -> Option<Vec<String>> {
    if disk.is_dir(path) {
        return None;
    }
    let above = path.match_indices('/').map(|(end, _)| path[..end].to_owned());
    let above: Vec<String> = above.collect();
    if above.iter().any(|dir| disk.get(dir).is_some() && !disk.is_dir(dir)) {
        return None;
    }
    let mut touched = Vec::new();
    for dir in above {
        if !disk.is_dir(&dir) {
            debug_assert!(disk.is_dir(parent(&dir)), "made from the top down");
            disk.make_dir(&dir, wall);
            touched.push(dir);
        }
    }
    touched.push(path.to_owned());
    Some(touched)
}
