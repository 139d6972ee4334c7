//! What a scan observed in the folder becomes a change of this node, or a rival of what is wanted.

use highwater_core::merge::{Merge, Side, conflict_copy, conflict_key, merge};
use highwater_core::observe::Observer;
use highwater_core::{Entry, EntryKind, Key, Manifest, WallTime};
use highwater_folder::StatPrint;
use highwater_store::{EntryRow, StoreError, WantClass, WantRow};

use super::{History, NoPolicy, Replica, decode_print, encode_print};

impl Replica {
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
}
