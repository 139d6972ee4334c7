//! The index and the log of one share, and the only code that changes them.
//!
//! Whatever happens to an entry happens here: a scan observed it, a peer announced it, it was put
//! in place. The decisions are `highwater-core`'s; this carries them into the store. Changes are
//! gathered and become durable together at [`Replica::flush`]; nothing may be told to a peer, a
//! user or the API before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_core::fingerprint::{Blocks, StateDigest};
use highwater_core::log::Actor;
use highwater_core::{Entry, Epoch, Hlc, Key, LogDigest, NodeId, Seq, ShareName, WallTime};
use highwater_folder::StatPrint;
use highwater_store::{
    Commit, EntryRow, PeerRow, ShareNumber, ShareRow, Store, StoreError, WantClass, WantRow,
};

mod announced;
mod fingerprints;
mod histories;
mod observed;
mod past;
mod rows;

use past::Past;

use super::catalogue::Catalogue;
use super::open::{OpenError, raise_generation};
use super::outside::Folder;

/// What an entry may not be taken in for.
pub(crate) trait Policy {
    /// Whether this node keeps out a state that a peer announced.
    fn keeps_out(&self, entry: &Entry) -> bool;
}

/// How much is in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) conflicts: u64,
}

/// How much is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) live: u64,
    pub(crate) tombstones: u64,
    pub(crate) held: u64,
    pub(crate) bytes: u64,
}

impl Wanted {
    /// Entries that are to be applied.
    pub(crate) fn entries(&self) -> u64 {
        self.live + self.tombstones
    }
}

/// How the files of a share, or the store's knowledge of them, were found at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum History {
    /// Both are of one piece: what is absent was deleted, what differs was edited.
    Continuous,
    /// The store was restored from an older copy: what differs from it may be long known to others.
    StoreRestored,
    /// The files were restored from an older copy: what is absent is to be fetched, what differs
    /// may be older than what is known.
    FilesRestored,
}

/// One share in the store.
#[derive(Debug)]
pub(crate) struct Replica {
    store: Arc<Store>,
    node: NodeId,
    name: ShareName,
    row: ShareRow,
    actor: Actor,
    head: Seq,
    digest: LogDigest,
    totals: Totals,
    /// The fingerprints of what is in the index, with all that is pending.
    blocks: Blocks,
    /// Keys that made a block too large.
    grown: BTreeSet<Key>,
    wanted: Wanted,
    /// Entries whose stamp lay in the future when they came, told to people.
    ahead: BTreeMap<Key, Hlc>,
    /// Stamps of states that nobody has any more, told to people.
    lost: BTreeMap<Key, Hlc>,
    /// Whether the current history was begun by this very process.
    begun_here: bool,
    /// Whether that was because the one before may have been outlived.
    begun_anew: bool,
    pub(crate) history: History,
    /// What people's clocks show in this turn.
    pub(crate) wall: WallTime,
    catalogue: Arc<Catalogue>,
    pending: Commit,
    /// Keys with a changed index row in `pending`: reading it from the store would be reading the
    /// past.
    touched: BTreeSet<Key>,
    /// Keys with a changed index row since this was last asked.
    changed: BTreeSet<Key>,
    /// Keys with a changed want in `pending`.
    touched_wants: BTreeSet<Key>,
    /// Keys that became wanted since this was last asked.
    new_wants: Vec<Key>,
    /// Keys whose want went or changed since this was last asked.
    unwanted: Vec<Key>,
    /// What is remembered of the peers, with all that is pending.
    peers: BTreeMap<NodeId, PeerRow>,
    /// The histories before, and the digests of positions that entries have left lately.
    past: Past,
}

impl Replica {
    /// Reads what the store knows of the share.
    pub(crate) fn open(
        store: Arc<Store>,
        node: NodeId,
        name: ShareName,
        row: ShareRow,
        history: History,
        wall: WallTime,
    ) -> Result<Self, StoreError> {
        let (head, digest) = store.head(row.number)?;
        let actor = row.epoch.actor(&node, &name);
        let mut replica = Self {
            store,
            node,
            name,
            row,
            actor,
            head,
            digest,
            totals: Totals::default(),
            blocks: Blocks::default(),
            grown: BTreeSet::new(),
            wanted: Wanted::default(),
            ahead: BTreeMap::new(),
            lost: BTreeMap::new(),
            begun_here: false,
            begun_anew: false,
            history,
            wall,
            catalogue: Arc::default(),
            pending: Commit::new(),
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            touched_wants: BTreeSet::new(),
            new_wants: Vec::new(),
            unwanted: Vec::new(),
            peers: BTreeMap::new(),
            past: Past::default(),
        };
        replica.past = Past::read(&replica.store, replica.number())?;
        replica.take_stock()?;
        Ok(replica)
    }

    fn take_stock(&mut self) -> Result<(), StoreError> {
        for row in self.store.entries(self.number(), None) {
            let row = row?;
            self.tally(&row.entry, 1);
            if row.entry.kind.is_live() {
                self.blocks.push(&row.entry.key, &StateDigest::of(&row.entry.key, &row.entry.kind));
            }
            if let Some((content, _)) = row.entry.kind.content() {
                self.catalogue.add(&content, row.seq);
            }
        }
        for class in WantClass::ALL {
            for row in self.store.wants(self.number(), class, None) {
                self.count_want(class, &row?.entry, 1);
            }
        }
        self.drop_orphaned_manifests()
    }

    /// Manifests of contents that nothing holds any more are left over from a crash.
    fn drop_orphaned_manifests(&mut self) -> Result<(), StoreError> {
        let mut orphans = Commit::new();
        for manifest in self.store.manifests(self.number()) {
            let (content, parts) = manifest?;
            match self.catalogue.find(&self.store, self.number(), &content)? {
                Some(row) => {
                    let size = row.entry.kind.size();
                    if let Some(manifest) = self.store.manifest(self.number(), &content, size)? {
                        self.catalogue.add_chunks(&manifest);
                    }
                }
                None if self.store.stage(self.number(), &content, 0)?.is_some() => {}
                None => {
                    let chunks = parts * highwater_store::rows::MANIFEST_PART_CHUNKS;
                    orphans.delete_manifest(self.number(), &content, chunks);
                }
            }
        }
        self.store.commit(orphans)
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    pub(crate) fn number(&self) -> ShareNumber {
        self.row.number
    }

    pub(crate) fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// Raises the generation here and in the folder, unless it shows that one of the two was
    /// restored, and not all of that has been dealt with.
    pub(crate) fn raise_generation(&mut self, folder: &dyn Folder) -> Result<(), OpenError> {
        self.flush()?;
        if self.history != History::Continuous {
            return Ok(());
        }
        let row = self.row.clone();
        self.row = raise_generation(folder, &self.store, &self.name, row)?;
        Ok(())
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.row.epoch
    }

    pub(crate) fn name(&self) -> &ShareName {
        &self.name
    }

    /// The last position of the log. Durable, whenever nothing is pending.
    pub(crate) fn head(&self) -> Seq {
        self.head
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// The entries whose stamp is further ahead of `now` than honest clocks are.
    pub(crate) fn ahead_of(&self, now: WallTime) -> impl Iterator<Item = (&Key, Hlc)> {
        let suspects = self.ahead.iter().filter(move |(_, stamp)| stamp.is_suspect(now));
        suspects.map(|(key, stamp)| (key, *stamp))
    }

    /// The keys whose latest state is lost, as long as nothing later stands there.
    pub(crate) fn lost_states(&self) -> impl Iterator<Item = &Key> {
        self.lost.keys()
    }

    /// Whether an entry includes a change of this node that this node has not made: its store was
    /// restored from an older copy, or somebody lies. Another history is safe in both cases.
    pub(crate) fn is_outlived_by(&self, entry: &Entry) -> bool {
        entry.version.last_of(self.actor).is_some_and(|seq| seq > self.head)
    }

    /// Whether nobody can know more of this history than there is here: it is younger than the
    /// process, so no older copy of the store can have taken the place of a newer one.
    pub(crate) fn cannot_be_outlived(&self) -> bool {
        self.begun_here
    }

    /// Whether this process has begun another history already because somebody had seen more.
    pub(crate) fn has_begun_anew(&self) -> bool {
        self.begun_anew
    }

    /// The keys that became wanted since the last call.
    pub(crate) fn take_new_wants(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.new_wants)
    }

    /// The keys of which something was wanted at the last call, and of which it is not any more, or
    /// something else.
    pub(crate) fn take_unwanted(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.unwanted)
    }

    /// The keys whose record has become another since the last call, durably.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed)
    }

    /// Makes everything durable that was decided since the last flush.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        self.changed.append(&mut self.touched);
        self.touched_wants.clear();
        self.store.commit(std::mem::take(&mut self.pending))?;
        self.divide_grown()
    }

    /// Whether something about an entry is decided and not durable.
    pub(crate) fn has_changes(&self) -> bool {
        !(self.touched.is_empty() && self.touched_wants.is_empty())
    }

    /// The index row of `key`, with all that is pending.
    pub(crate) fn entry(&mut self, key: &Key) -> Result<Option<EntryRow>, StoreError> {
        if self.touched.contains(key) {
            self.flush()?;
        }
        self.store.entry(self.number(), key)
    }

    /// What is wanted under `key`, with all that is pending.
    pub(crate) fn want(&mut self, key: &Key) -> Result<Option<(WantClass, WantRow)>, StoreError> {
        if self.touched_wants.contains(key) {
            self.flush()?;
        }
        self.store.want(self.number(), key)
    }
}

/// Conflict copies are made whatever the policy: they keep what was here.
struct NoPolicy;

impl Policy for NoPolicy {
    fn keeps_out(&self, _entry: &Entry) -> bool {
        false
    }
}

/// The print in the encoding that the store keeps.
pub(crate) fn encode_print(print: &StatPrint) -> Option<Vec<u8>> {
    postcard::to_allocvec(print).ok()
}

/// The print that the store kept; `None` makes the file be read again.
pub(crate) fn decode_print(print: Option<&[u8]>) -> Option<StatPrint> {
    postcard::from_bytes(print?).ok()
}

#[cfg(test)]
mod tests;
