//! The index and the log of one share, and the only code that changes them.
//!
//! Whatever happens to an entry happens here: a scan observed it, a peer announced it, it was put
//! in place. The decisions are `highwater-core`'s; this carries them into the store. Changes are
//! gathered and become durable together at [`Replica::flush`]; nothing may be told to a peer, a
//! user or the API before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_core::fingerprint::{Blocks, KeyRange, StateDigest};
use highwater_core::log::{Actor, Checkpoint};
use highwater_core::merge::{Merge, Side, conflict_copy, conflict_key, merge};
use highwater_core::observe::Observer;
use highwater_core::{
    Entry, EntryKind, Epoch, Hlc, Key, LogDigest, Manifest, NodeId, Seq, ShareName, Version,
    WallTime,
};
use highwater_folder::StatPrint;
use highwater_store::{
    Commit, EntryRow, PeerRow, ShareNumber, ShareRow, Store, StoreError, WantClass, WantRow,
};

mod past;
mod rows;

use past::Past;

use super::catalogue::Catalogue;
use super::open::{OpenError, raise_generation};
use super::outside::Folder;

/// Lost states that are told of. So many have one cause, and that is not looked for in a list.
const LOST_MAX: usize = 1000;

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

/// Wants that are forgotten in one commit, after a restore.
const FORGOTTEN_AT_ONCE: usize = 1000;

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

    /// Divides the blocks of fingerprints that have grown too large. Their entries are read again,
    /// which proves the sums.
    fn divide_grown(&mut self) -> Result<(), StoreError> {
        while let Some(key) = self.grown.pop_first() {
            // One division serves all that made the block too large.
            if self.blocks.is_too_large(&key) {
                self.prove(self.blocks.range_of(&key))?;
            }
        }
        Ok(())
    }

    /// Reads the entries of a block, and divides it by them. Whether its sum was right. Only while
    /// nothing is pending.
    fn prove(&mut self, range: KeyRange) -> Result<bool, StoreError> {
        let entries = self.digests_in(&range).collect::<Result<Vec<_>, _>>()?;
        let digests = entries.iter().map(|(key, digest)| (key, *digest));
        let sound = self.blocks.divide(range, digests);
        if !sound {
            tracing::warn!(share = %self.name, "a fingerprint of the index was wrong and is set right");
        }
        Ok(sound)
    }

    /// Proves the block that begins with `from`, or the first: whether its fingerprint was right, and
    /// where the next begins.
    pub(crate) fn prove_block(
        &mut self,
        from: Option<&Key>,
    ) -> Result<(bool, Option<Key>), StoreError> {
        let range = self.blocks.range_from(from);
        let next = range.before.clone();
        Ok((self.prove(range)?, next))
    }

    /// The live entries of a range with their digests, in order, as the store has them.
    pub(crate) fn digests_in(
        &self,
        range: &KeyRange,
    ) -> impl Iterator<Item = Result<(Key, StateDigest), StoreError>> + use<> {
        let KeyRange { from, before } = range;
        let rows = self.store.entries_in(self.number(), from.as_ref(), before.as_ref());
        let live = rows.filter(|row| row.as_ref().map_or(true, |row| row.entry.kind.is_live()));
        live.map(|row| {
            let entry = row?.entry;
            let digest = StateDigest::of(&entry.key, &entry.kind);
            Ok((entry.key, digest))
        })
    }

    /// The fingerprints of the index.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
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

    // --- what a scan observed -------------------------------------------------------------

    /// Something new or changed stands under `key`.
    pub(crate) fn observed(
        &mut self,
        key: Key,
        kind: EntryKind,
        print: &StatPrint,
        manifest: Option<&Manifest>,
        now: WallTime,
    ) -> Result<(), StoreError> {
        let row = self.entry(&key)?;
        if let Some(row) = &row
            && row.entry.kind == kind
        {
            return self.touched(row, print);
        }
        if let Some(manifest) = manifest {
            self.keep_manifest(manifest);
        }
        match self.want(&key)? {
            // What a peer announced is here already: put there by us before a crash, or equal
            // from the start.
            Some((class, want)) if want.entry.kind == kind => {
                self.unwant(class, &want.entry);
                self.append_wanted(want, Some(print), row)
            }
            _ => self.changed(row, key, kind, Some(print), now),
        }
    }

    /// All is as known but the print.
    pub(crate) fn touched(&mut self, row: &EntryRow, print: &StatPrint) -> Result<(), StoreError> {
        let row = EntryRow { print: encode_print(print), ..row.clone() };
        self.touched.insert(row.entry.key.clone());
        self.pending.put_entry(self.number(), &row);
        Ok(())
    }

    /// Nothing stands under `key` any more.
    pub(crate) fn gone(&mut self, key: Key, now: WallTime) -> Result<(), StoreError> {
        let Some(row) = self.entry(&key)?.filter(|row| row.entry.kind.is_live()) else {
            return Ok(());
        };
        match self.want(&key)? {
            Some((class, want)) if !want.entry.kind.is_live() => {
                self.unwant(class, &want.entry);
                self.append_wanted(want, None, Some(row))
            }
            _ => self.changed(Some(row), key, EntryKind::Tombstone, None, now),
        }
    }

    /// Something else stands where a directory stood, so nothing stands below it. Said before what
    /// took its place: a peer makes room for that only once the directory is empty.
    pub(crate) fn gone_below(&mut self, key: &Key, now: WallTime) -> Result<(), StoreError> {
        let was_dir = self
            .entry(key)?
            .is_some_and(|row| matches!(row.entry.kind, EntryKind::Directory { .. }));
        if !was_dir || self.history != History::Continuous {
            return Ok(());
        }
        let below = self.store.entries(self.number(), Some(key));
        let live = below.filter(|row| row.as_ref().map_or(true, |row| row.entry.kind.is_live()));
        let keys: Vec<Key> =
            live.map(|row| Ok(row?.entry.key)).collect::<Result<_, StoreError>>()?;
        keys.into_iter().rev().try_for_each(|key| self.gone(key, now))
    }

    /// What was lost here without being deleted is wanted back as it was.
    pub(crate) fn lost(&mut self, key: &Key) -> Result<bool, StoreError> {
        let Some(row) = self.entry(key)?.filter(|row| row.entry.kind.is_live()) else {
            return Ok(false);
        };
        self.uncount(&row);
        // The head's position stays, or it would be given out twice; without its entry it says
        // nothing and is skipped.
        let left = (row.seq != self.head).then_some(row.seq);
        if left.is_some() {
            self.retire(&row)?;
        }
        self.pending.forget_entry(self.number(), key, left);
        self.touched.insert(key.clone());
        if self.want(key)?.is_none() {
            self.put_want(WantClass::Live, row.entry, None);
        }
        Ok(true)
    }

    fn changed(
        &mut self,
        row: Option<EntryRow>,
        key: Key,
        kind: EntryKind,
        print: Option<&StatPrint>,
        now: WallTime,
    ) -> Result<(), StoreError> {
        if let Some(row) = &row {
            self.drop_moot_copy(&row.entry)?;
        }
        let known = row.as_ref().map(|row| &row.entry);
        let entry = self.new_version(known, key, kind, now);
        let want = self.want(&entry.key)?;
        let rival = match (&want, self.history, known) {
            (Some((class, want)), ..) if *class != WantClass::Held => Some(want.clone()),
            (None, History::FilesRestored, Some(known)) => {
                Some(WantRow { entry: known.clone(), learned_from: None })
            }
            _ => None,
        };
        let Some(rival) = rival else { return self.append(entry, print, None, row) };
        if let Some((class, want)) = &want {
            self.unwant(*class, &want.entry);
        }
        self.settle_rivals(entry, rival, print, row)
    }

    /// Somebody replaced the state that a conflict copy was to be made of, knowing it: the copy is
    /// deleted before it is made, here and wherever it is still waited for.
    fn drop_moot_copy(&mut self, replaced: &Entry) -> Result<(), StoreError> {
        let Some(key) = conflict_key(replaced) else { return Ok(()) };
        let Some((class, want)) = self.want(&key)? else { return Ok(()) };
        if !want.entry.kind.same_content(&replaced.kind) {
            return Ok(());
        }
        self.unwant(class, &want.entry);
        let old = self.entry(&key)?;
        let version = want.entry.version.with_change(self.actor, self.head.next());
        let tombstone = Entry { kind: EntryKind::Tombstone, version, ..want.entry };
        self.append(tombstone, None, None, old)
    }

    /// A directory that was to be deleted, or to give way, must stay: something was put into it.
    /// What was to take its place becomes a conflict copy.
    pub(crate) fn reassert(&mut self, want: &WantRow, now: WallTime) -> Result<(), StoreError> {
        let Some(row) = self.entry(&want.entry.key)? else { return Ok(()) };
        if let Some((class, current)) = self.want(&want.entry.key)?
            && current.entry == want.entry
        {
            self.unwant(class, &want.entry);
        }
        let mut known = row.entry.clone();
        let copy = conflict_copy(&want.entry).filter(|_| want.entry.kind.is_live());
        if copy.is_none() {
            known.version = known.version.join(&want.entry.version);
        }
        let observer = Observer { actor: self.actor, author: self.node.tag(), now };
        let (key, kind) = (known.key.clone(), known.kind.clone());
        let entry = observer.changed(Some(&known), key, kind, self.head.next());
        let print = decode_print(row.print.as_deref());
        self.append(entry, print.as_ref(), None, Some(row))?;
        self.take_in_copy(copy, &NoPolicy)
    }

    fn new_version(
        &self,
        known: Option<&Entry>,
        key: Key,
        kind: EntryKind,
        now: WallTime,
    ) -> Entry {
        let observer = Observer { actor: self.actor, author: self.node.tag(), now };
        match self.history {
            History::Continuous => observer.changed(known, key, kind, self.head.next()),
            // Stamped as what is first seen: by when it was last written.
            History::StoreRestored => {
                let first = observer.changed(None, key, kind, self.head.next());
                let version = known.map(|known| known.version.join(&first.version));
                Entry { version: version.unwrap_or_else(|| first.version.clone()), ..first }
            }
            History::FilesRestored => observer.changed(None, key, kind, self.head.next()),
        }
    }

    /// A local state and one that was not made on top of it, nor the other way round.
    fn settle_rivals(
        &mut self,
        ours: Entry,
        theirs: WantRow,
        print: Option<&StatPrint>,
        row: Option<EntryRow>,
    ) -> Result<(), StoreError> {
        match merge(Some(&ours), &theirs.entry) {
            Merge::Known => self.append(ours, print, None, row),
            Merge::Take => {
                self.append(ours, print, None, row)?;
                self.put_want(WantClass::of(&theirs.entry), theirs.entry, theirs.learned_from);
                Ok(())
            }
            Merge::Both(both) => {
                let theirs_wins = both.winner == Side::Theirs && both.merged.kind != ours.kind;
                if theirs_wins {
                    self.append(ours, print, None, row)?;
                    self.put_want(WantClass::of(&theirs.entry), theirs.entry, theirs.learned_from);
                } else if both.copy.is_some() {
                    self.append(ours, print, None, row)?;
                } else {
                    self.append(both.merged, print, None, row)?;
                }
                self.take_in_copy(both.copy, &NoPolicy)
            }
        }
    }

    // --- what a peer announced ------------------------------------------------------------

    /// A peer has this state. It becomes wanted, or known, or settles a conflict.
    ///
    /// What is wanted is always a state as some peer has it. It is merged with what stands here
    /// only when it is put in place: nothing is claimed to be included before it is kept here or
    /// knowingly replaced, or whoever hears of the claim would replace the only bytes there are.
    pub(crate) fn take_in(
        &mut self,
        theirs: Entry,
        learned_from: Option<Actor>,
        policy: &dyn Policy,
    ) -> Result<(), StoreError> {
        let want = self.want(&theirs.key)?;
        let copy = match merge(want.as_ref().map(|(_, w)| &w.entry), &theirs) {
            Merge::Known => {
                if let (Some((class, want)), Some(from)) = (want, learned_from)
                    && want.entry == theirs
                {
                    self.claimed(class, theirs, from, policy);
                }
                return Ok(());
            }
            Merge::Take => None,
            Merge::Both(both) if both.winner == Side::Ours => {
                return self.take_in_copy(both.copy, policy);
            }
            Merge::Both(both) => both.copy,
        };
        if let Some((class, want)) = &want {
            self.unwant(*class, &want.entry);
        }
        self.against_index(theirs, learned_from, policy)?;
        self.take_in_copy(copy, policy)
    }

    /// A peer says that it has exactly what is wanted. It may have been given up because nobody had
    /// it, and its other claimants may have lost it.
    fn claimed(&mut self, class: WantClass, want: Entry, from: Actor, policy: &dyn Policy) {
        self.unwant(class, &want);
        match class {
            WantClass::Held => self.put_incoming(want, Some(from), policy),
            _ => self.record_want(class, want, Some(from)),
        }
    }

    fn take_in_copy(&mut self, copy: Option<Entry>, policy: &dyn Policy) -> Result<(), StoreError> {
        copy.map_or(Ok(()), |copy| self.take_in(copy, None, policy))
    }

    fn against_index(
        &mut self,
        incoming: Entry,
        learned_from: Option<Actor>,
        policy: &dyn Policy,
    ) -> Result<(), StoreError> {
        let row = self.entry(&incoming.key)?;
        let stands = match &row {
            Some(row) => row.entry.kind == incoming.kind,
            None => !incoming.kind.is_live(),
        };
        let print = row.as_ref().and_then(|row| decode_print(row.print.as_deref()));
        match merge(row.as_ref().map(|r| &r.entry), &incoming) {
            Merge::Known => Ok(()),
            Merge::Take if stands => self.append(incoming, print.as_ref(), learned_from, row),
            Merge::Take => {
                self.put_incoming(incoming, learned_from, policy);
                Ok(())
            }
            Merge::Both(both) => {
                match both.winner {
                    Side::Theirs if !stands => self.put_incoming(incoming, learned_from, policy),
                    // Whoever announced what lost may have forgotten what wins: while he wanted it,
                    // something else took its place. So it is said again, as it is.
                    Side::Ours if both.copy.is_some() => self.say_again(row)?,
                    _ => self.append(both.merged, print.as_ref(), None, row)?,
                }
                self.take_in_copy(both.copy, policy)
            }
        }
    }

    /// Moves a row to the head of the log as it stands, so that every peer hears of it.
    fn say_again(&mut self, row: Option<EntryRow>) -> Result<(), StoreError> {
        let Some(row) = row else { return Ok(()) };
        let print = decode_print(row.print.as_deref());
        self.append(row.entry.clone(), print.as_ref(), None, Some(row))
    }

    fn put_incoming(&mut self, entry: Entry, learned_from: Option<Actor>, policy: &dyn Policy) {
        let held = policy.keeps_out(&entry);
        let class = if held { WantClass::Held } else { WantClass::of(&entry) };
        self.put_want(class, entry, learned_from);
    }

    // --- what was put in place ------------------------------------------------------------

    /// A wanted state now stands under its key.
    pub(crate) fn applied(
        &mut self,
        want: &WantRow,
        print: Option<&StatPrint>,
    ) -> Result<(), StoreError> {
        let row = self.entry(&want.entry.key)?;
        if let Some((class, current)) = self.want(&want.entry.key)?
            && current.entry == want.entry
        {
            self.unwant(class, &want.entry);
        }
        self.append_wanted(want.clone(), print, row)
    }

    /// A wanted state stands under its key, and includes from now on what stood there before.
    fn append_wanted(
        &mut self,
        want: WantRow,
        print: Option<&StatPrint>,
        row: Option<EntryRow>,
    ) -> Result<(), StoreError> {
        let before = row.as_ref().map(|row| &row.entry.version);
        let (version, learned_from) = match before {
            Some(before) if !want.entry.version.includes(before) => {
                (want.entry.version.join(before), None)
            }
            _ => (want.entry.version, want.learned_from),
        };
        self.append(Entry { version, ..want.entry }, print, learned_from, row)
    }

    /// A wanted state moves between what is to be done and what policy holds.
    pub(crate) fn reclassify(&mut self, class: WantClass, want: WantRow, to: WantClass) {
        self.unwant(class, &want.entry);
        self.put_want(to, want.entry, want.learned_from);
    }

    /// Holds what cannot be had, until [`Replica::want_again`].
    pub(crate) fn hold(&mut self, key: &Key) -> Result<(), StoreError> {
        if let Some((WantClass::Live, want)) = self.want(key)? {
            self.unwant(WantClass::Live, &want.entry);
            self.record_want(WantClass::Held, want.entry, want.learned_from);
        }
        Ok(())
    }

    /// A state that nobody has any more is not wanted any longer, and told to people.
    pub(crate) fn give_up(&mut self, key: &Key) -> Result<(), StoreError> {
        if let Some((class, want)) = self.want(key)? {
            self.unwant(class, &want.entry);
            if self.lost.len() < LOST_MAX {
                self.lost.insert(want.entry.key, want.entry.stamp);
            }
        }
        Ok(())
    }

    /// Wants again what was held, unless policy holds it.
    pub(crate) fn want_again(&mut self, key: &Key, policy: &dyn Policy) -> Result<(), StoreError> {
        if let Some((WantClass::Held, want)) = self.want(key)?
            && !policy.keeps_out(&want.entry)
        {
            self.unwant(WantClass::Held, &want.entry);
            self.record_want(WantClass::Live, want.entry, want.learned_from);
        }
        Ok(())
    }

    // --- peers ----------------------------------------------------------------------------

    pub(crate) fn peer(&self, node: &NodeId) -> Result<PeerRow, StoreError> {
        match self.peers.get(node) {
            Some(row) => Ok(*row),
            None => self.store.peer(self.number(), node),
        }
    }

    pub(crate) fn put_peer(&mut self, node: &NodeId, row: PeerRow) {
        self.peers.insert(*node, row);
        self.pending.put_peer(self.number(), node, &row);
    }

    /// Forgets how far this node is in the logs of all peers, those that are not listed now
    /// included, and how far they are in this one. The last position that one of them was sure to
    /// have.
    pub(crate) fn forget_peers(&mut self) -> Result<Seq, StoreError> {
        self.flush()?;
        let (epoch, mut known) = (self.epoch(), Seq::ZERO);
        for peer in self.store.peers(self.number())? {
            let pushed = self.peer(&peer)?.pushed.filter(|pushed| pushed.epoch == epoch);
            known = known.max(pushed.map_or(Seq::ZERO, |pushed| pushed.seq));
            self.put_peer(&peer, PeerRow::default());
        }
        Ok(known)
    }

    /// Forgets what is wanted, in a store that is older than the folder: what is wanted may long
    /// have come, been edited by its user, and be known to peers as that edit. Whatever still is to
    /// come is heard of again, as every peer's log is read from its start. What is staged stays.
    pub(crate) fn forget_wants(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        let store = Arc::clone(&self.store);
        for class in WantClass::ALL {
            for want in store.wants(self.number(), class, None) {
                self.unwant(class, &want?.entry);
                if self.unwanted.len() >= FORGOTTEN_AT_ONCE {
                    self.unwanted.clear();
                    self.flush()?;
                }
            }
        }
        self.unwanted.clear();
        self.flush()
    }

    /// The checkpoint that a peer holds who has taken in everything.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { epoch: self.row.epoch, seq: self.head, digest: self.digest }
    }

    /// Begins another history: peers have seen more of this one than there is, so the store was
    /// restored from an older copy. What was changed here behind `known`, the last position that a
    /// peer is sure to have from before, may have been given positions that were given out already.
    /// Such changes are made anew: where a peer knows something else by the same name, both stay.
    pub(crate) fn take_new_epoch(&mut self, epoch: Epoch, known: Seq) -> Result<(), StoreError> {
        self.flush()?;
        let old = self.actor;
        self.remember_past(self.row.epoch)?;
        self.row.epoch = epoch;
        (self.begun_here, self.begun_anew) = (true, true);
        self.actor = self.row.epoch.actor(&self.node, &self.name);
        self.pending.put_share(&self.name, &self.row);
        let store = Arc::clone(&self.store);
        for log in store.log_after(self.number(), known) {
            let (seq, log) = log?;
            let Some(row) = store.entry(self.number(), &log.key)?.filter(|row| row.seq == seq)
            else {
                continue;
            };
            let others = row.entry.version.counters().filter(|(actor, _)| *actor != old);
            let others = Version::from_counters(others);
            let own = row.entry.version.counters().find(|(actor, _)| *actor == old);
            if own.is_some_and(|(_, counter)| counter > known) {
                let version = others.with_change(self.actor, self.head.next());
                let print = decode_print(row.print.as_deref());
                let entry = Entry { version, ..row.entry.clone() };
                self.append(entry, print.as_ref(), None, Some(row))?;
            }
        }
        self.flush()
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
