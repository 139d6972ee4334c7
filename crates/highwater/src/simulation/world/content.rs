//! Content: asked for, served, staged and copied, chunk by chunk.

use std::sync::Arc;

use highwater_core::{ContentHash, Key};
use highwater_folder::Slot;
use highwater_store::Commit;

use super::{CHUNK_TIME, CHUNKS_A_SYNC, Happening, SCAN_MAX, World};
use crate::fetch::copy::Copy;
use crate::fetch::source::LinkId;
use crate::fetch::{FetchError, Fetched, Job, Staged};
use crate::share::Event;
use crate::share::actor::Turn;
use crate::simulation::disk;
use crate::simulation::fetch::{Wanted, first_chunks, manifest_of, stage_row};

impl World {
    pub(super) fn fetch_job(&mut self, node: usize, job: Job) {
        match job {
            Job::Fetch { content, size, .. } => {
                let wanted = self.resumed(node, content, size);
                if let Some(life) = &mut self.nodes[node].life {
                    life.wanted.insert(content, wanted);
                }
            }
            Job::Forget(content) => {
                if let Some(life) = &mut self.nodes[node].life {
                    life.wanted.remove(&content);
                }
            }
            Job::Copy(copies) => {
                let copied = copies.iter().map(|copy| self.copy(node, copy)).collect();
                self.tell(node, SCAN_MAX, Turn::Fetched(copied));
            }
        }
    }

    /// A content as far as it is staged from before.
    fn resumed(&mut self, node: usize, content: ContentHash, size: u64) -> Wanted {
        let mut wanted = Wanted::new(size);
        let Some(life) = self.nodes[node].life.as_ref().filter(|_| wanted.is_large()) else {
            return wanted;
        };
        let Some(number) = life.played.with_crew(|crew| crew.number) else { return wanted };
        let recorded = life.store.stage(number, &content, wanted.chunks()).ok().flatten();
        let slot = Slot::partial(content);
        let disk = self.nodes[node].folder.disk();
        let there = disk.get(&format!("{}/{slot}", disk::STAGE)).map(|(_, print)| print.size);
        drop(disk);
        if let (Some((row, held)), Some(there)) = (recorded, there) {
            if there < row.acked {
                let said =
                    format!("{slot} has {there} bytes, {} are on record as staged", row.acked);
                self.judge.broken(self.clock.micros(), &format!("I5: node {node}: {said}"));
            }
            (wanted.staged, wanted.durable) = (held.len(), held.len());
            self.judge.count("resumed at an offset above 0", u64::from(wanted.staged > 0));
        }
        wanted
    }

    fn copy(&mut self, node: usize, copy: &Copy) -> Fetched {
        let (content, size) = (copy.content, copy.size);
        let folder = self.nodes[node].folder.clone();
        let mut disk = folder.disk();
        let there = |key: &Key| disk.get(key.as_str()).and_then(|(thing, _)| thing.content());
        if let Some(from) = copy.from.as_ref().filter(|from| there(from) != Some(content)) {
            return Fetched::Failed { content, why: FetchError::SourceChanged(from.clone()) };
        }
        let wall = self.nodes[node].clock.wall().0;
        let full = disk.full || folder.fuse.grow().is_err();
        let Some(life) = &mut self.nodes[node].life else {
            return Fetched::Failed { content, why: FetchError::Unavailable };
        };
        if full {
            return Fetched::Failed { content, why: FetchError::NoRoom("full".into()) };
        }
        let slot = Slot::fresh(life.slots);
        life.slots += 1;
        disk.stage(slot.as_str(), content, size, wall);
        Fetched::Staged(Staged { content, slot, manifest: None, transfer: None })
    }

    /// Asks for every content that nobody is being asked for.
    pub(in crate::simulation) fn ask_for_all(&mut self, node: usize) {
        let Some(life) = &mut self.nodes[node].life else { return };
        let Some(sources) = life.played.with_crew(|crew| crew.sources.borrow().clone()) else {
            life.wanted.clear();
            return;
        };
        let links: Vec<LinkId> = sources.iter().map(|source| source.id).collect();
        let (mut asks, mut unavailable) = (Vec::new(), Vec::new());
        for (content, wanted) in &mut life.wanted {
            if wanted.asked.is_some_and(|(link, _)| links.contains(&link)) || links.is_empty() {
                continue;
            }
            let able: Vec<LinkId> =
                links.iter().filter(|link| !wanted.lacking.contains(link)).copied().collect();
            match self.chance.pick(&able) {
                Some(&link) => {
                    self.requests += 1;
                    wanted.asked = Some((link, self.requests));
                    asks.push((*content, link, self.requests));
                }
                None => unavailable.push(*content),
            }
        }
        for content in &unavailable {
            life.wanted.remove(content);
        }
        for (content, link, request) in asks {
            let Some(wire) = self.wires.iter().position(|wire| wire.carries(link)) else {
                continue;
            };
            self.soon(self.habits.latency_max, Happening::Asked { wire, link, content, request });
        }
        if !unavailable.is_empty() {
            let failed = |content| Fetched::Failed { content, why: FetchError::Unavailable };
            let failed = unavailable.into_iter().map(failed).collect();
            self.tell(node, 1_000, Turn::Fetched(failed));
        }
    }

    /// A request arrives at the peer of the node that has the end `link`.
    pub(super) fn asked(&mut self, wire: usize, link: LinkId, content: ContentHash, request: u64) {
        let Some(ends) = &self.wires[wire].ends else { return };
        let asker = usize::from(ends[0].id != link);
        if ends[asker].id != link {
            return;
        }
        let (node, life) = (ends[asker].node, ends[asker].life);
        let peer = ends[1 - asker].node;
        let has = self.serves(peer, content);
        let time = self.chance.below(self.habits.latency_max) + if has { CHUNK_TIME } else { 0 };
        self.soon(time + 1, Happening::Answered { node, life, content, request, has });
    }

    /// Whether a node can send this content: its index has it, and the file is still that one.
    fn serves(&mut self, node: usize, content: ContentHash) -> bool {
        let Some(life) = &self.nodes[node].life else { return false };
        let store = Arc::clone(&life.store);
        let stock = life.played.with_crew(|crew| (crew.number, Arc::clone(&crew.catalogue)));
        let Some((number, catalogue)) = stock else { return false };
        let mut stale = None;
        let disk = self.nodes[node].folder.disk();
        let found = catalogue.find_row(&store, number, &content, |row| {
            let recorded = crate::share::replica::decode_print(row.print.as_deref());
            let there = disk.get(row.entry.key.as_str());
            let stands = !disk.vanished
                && there.is_some_and(|(thing, print)| {
                    thing.content() == Some(content) && recorded == Some(print)
                });
            if !stands {
                stale.get_or_insert_with(|| row.entry.key.clone());
            }
            stands
        });
        drop(disk);
        if let Some(key) = stale {
            self.tell(node, 1_000, Turn::Event(Event::Suspect(key)));
        }
        found.is_ok_and(|row| row.is_some())
    }

    pub(super) fn answered(&mut self, node: usize, content: ContentHash, request: u64, has: bool) {
        let wall = self.nodes[node].clock.wall().0;
        let folder = self.nodes[node].folder.clone();
        let Some(life) = &mut self.nodes[node].life else { return };
        let Some(wanted) = life.wanted.get_mut(&content) else { return };
        let Some((link, _)) = wanted.asked.filter(|(_, number)| *number == request) else { return };
        if !self.wires.iter().any(|wire| wire.carries(link)) {
            return;
        }
        if !has {
            wanted.asked = None;
            wanted.lacking.insert(link);
            self.ask_for_all(node);
            return;
        }
        if !folder.has_room() {
            self.judge.count("pauses on a full disk", 1);
            life.wanted.remove(&content);
            let why = FetchError::NoRoom("full".into());
            self.tell(node, 1_000, Turn::Fetched(vec![Fetched::Failed { content, why }]));
            return;
        }
        wanted.staged += 1;
        let (size, large) = (wanted.size, wanted.is_large());
        let whole = wanted.staged >= wanted.chunks();
        let slot = if large { Slot::partial(content) } else { Slot::fresh(life.slots) };
        life.slots += u64::from(!large);
        let held = if whole { size } else { stage_row(size, wanted.staged).acked };
        let bytes = if whole { content } else { ContentHash::of(&held.to_be_bytes()) };
        folder.disk().stage(slot.as_str(), bytes, held, wall);
        if large && (whole || wanted.staged - wanted.durable >= CHUNKS_A_SYNC) {
            self.make_stage_durable(node, content);
        }
        self.go_on(node, content, request, slot, whole);
    }

    /// Syncs what is staged of a large content, then records it: in this order.
    fn make_stage_durable(&mut self, node: usize, content: ContentHash) {
        let folder = self.nodes[node].folder.clone();
        let Some(life) = &mut self.nodes[node].life else { return };
        let Some(number) = life.played.with_crew(|crew| crew.number) else { return };
        let Some(wanted) = life.wanted.get_mut(&content) else { return };
        if folder.fuse.step().is_err() {
            return;
        }
        {
            let mut disk = folder.disk();
            disk.sync_file(&format!("{}/{}", disk::STAGE, Slot::partial(content)));
            disk.sync_dir(disk::STAGE);
        }
        let before = first_chunks(wanted.size, wanted.durable);
        wanted.durable = wanted.staged;
        let now = first_chunks(wanted.size, wanted.staged);
        let mut commit = Commit::new();
        let row = stage_row(wanted.size, wanted.staged);
        commit.put_stage(number, &content, &row, &before, &now);
        // A store that fails stops the share, which hears of it from the store itself.
        let _ = life.store.commit(commit);
    }

    /// The next chunk is on its way, or all of them are there.
    pub(super) fn go_on(
        &mut self,
        node: usize,
        content: ContentHash,
        request: u64,
        slot: Slot,
        whole: bool,
    ) {
        let number = self.nodes[node].lives;
        let Some(life) = &mut self.nodes[node].life else { return };
        if !whole {
            let has = true;
            let next = Happening::Answered { node, life: number, content, request, has };
            self.soon(CHUNK_TIME, next);
            return;
        }
        let Some(wanted) = life.wanted.remove(&content) else { return };
        let manifest = manifest_of(content, wanted.size).map(Arc::new);
        let staged = Staged { content, slot, manifest, transfer: None };
        self.tell(node, 1_000, Turn::Fetched(vec![Fetched::Staged(staged)]));
    }
}
