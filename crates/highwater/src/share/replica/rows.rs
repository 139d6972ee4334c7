//! How a decision becomes rows of one commit, and what is counted with them.

use highwater_core::fingerprint::StateDigest;
use highwater_core::log::Actor;
use highwater_core::merge::is_conflict_key;
use highwater_core::{ContentHash, Entry, Key, Manifest, SMALL_BYTES_MAX};
use highwater_folder::StatPrint;
use highwater_store::{EntryRow, LogRow, StoreError, WantClass, WantRow};

use super::{Replica, encode_print};

/// Entries with a stamp from the future that are told of. One is enough to look for the clock that
/// is wrong.
const AHEAD_MAX: usize = 1000;

impl Replica {
    /// Moves an entry to the end of the log. `old` is the index row as [`Replica::entry`] has it.
    pub(super) fn append(
        &mut self,
        entry: Entry,
        print: Option<&StatPrint>,
        learned_from: Option<Actor>,
        old: Option<EntryRow>,
    ) -> Result<(), StoreError> {
        let seq = self.head.next();
        let digest = self.digest.append(seq, &entry);
        let log = LogRow { key: entry.key.clone(), digest };
        let row = EntryRow { entry, seq, print: print.and_then(encode_print), learned_from };
        if let Some(old) = &old {
            self.uncount(old);
        }
        self.count(&row.entry, 1);
        if self.lost.get(&row.entry.key).is_some_and(|lost| row.entry.stamp > *lost) {
            self.lost.remove(&row.entry.key);
        }
        if let Some((content, _)) = row.entry.kind.content() {
            self.catalogue.add(&content, seq);
        }
        if let Some(old) = &old {
            self.drop_manifest_of(old);
            self.retire(old)?;
        }
        self.pending.append(self.number(), &row, &log, old.map(|old| old.seq));
        self.touched.insert(row.entry.key);
        (self.head, self.digest) = (seq, digest);
        Ok(())
    }

    /// Records a manifest together with the entry that needs it.
    pub(crate) fn keep_manifest(&mut self, manifest: &Manifest) {
        self.pending.put_manifest(self.number(), manifest);
        self.catalogue.add_chunks(manifest);
    }

    /// Forgets that a content is staged: it has been put in place.
    pub(crate) fn forget_stage(&mut self, content: &ContentHash, chunks: usize) {
        self.pending.delete_stage(self.number(), content, chunks);
    }

    pub(super) fn drop_manifest_of(&mut self, old: &EntryRow) {
        let Some((content, size)) = old.entry.kind.content() else { return };
        if size <= SMALL_BYTES_MAX || self.catalogue.may_hold(&content) {
            return;
        }
        let least = highwater_core::ChunkSizes::for_content(size).min as u64;
        let chunks_max = size.div_ceil(least) as usize;
        self.pending.delete_manifest(self.number(), &content, chunks_max);
    }

    /// What is on record is to be fetched again.
    pub(crate) fn want_anew(&mut self, entry: Entry) {
        self.put_want(WantClass::Live, entry, None);
    }

    /// What was to be fetched again need not be.
    pub(crate) fn want_no_more(&mut self, entry: &Entry) {
        self.unwant(WantClass::Live, entry);
    }

    /// What is on record of a file's print is not believed: the next scan reads the file.
    pub(crate) fn distrust(&mut self, row: &EntryRow) {
        let row = EntryRow { print: None, ..row.clone() };
        self.touched.insert(row.entry.key.clone());
        self.pending.put_entry(self.number(), &row);
    }

    /// The record of a file was damaged: this is what it should have been.
    pub(crate) fn correct(
        &mut self,
        entry: Entry,
        print: &StatPrint,
        row: Option<EntryRow>,
    ) -> Result<(), StoreError> {
        self.forget_found(&entry.key);
        self.append(entry, Some(print), None, row)
    }

    /// Forgets what a deep pass found under a key.
    pub(crate) fn forget_found(&mut self, key: &Key) {
        self.touched.insert(key.clone());
        self.pending.delete_found(self.number(), key);
    }

    pub(super) fn put_want(&mut self, class: WantClass, entry: Entry, learned_from: Option<Actor>) {
        self.new_wants.push(entry.key.clone());
        self.record_want(class, entry, learned_from);
    }

    /// As [`Replica::put_want`], of what was wanted before.
    pub(super) fn record_want(
        &mut self,
        class: WantClass,
        entry: Entry,
        learned_from: Option<Actor>,
    ) {
        self.count_want(class, &entry, 1);
        self.touched_wants.insert(entry.key.clone());
        self.pending.put_want(self.number(), class, &WantRow { entry, learned_from });
    }

    pub(super) fn unwant(&mut self, class: WantClass, entry: &Entry) {
        self.unwanted.push(entry.key.clone());
        self.count_want(class, entry, -1);
        self.touched_wants.insert(entry.key.clone());
        self.pending.delete_want(self.number(), class, &entry.key);
    }

    pub(super) fn count_want(&mut self, class: WantClass, entry: &Entry, by: i64) {
        let counter = match class {
            WantClass::Live => &mut self.wanted.live,
            WantClass::Tombstone => &mut self.wanted.tombstones,
            WantClass::Held => &mut self.wanted.held,
        };
        *counter = counter.saturating_add_signed(by);
        if class == WantClass::Live {
            let bytes = i64::try_from(entry.kind.size()).unwrap_or(i64::MAX);
            self.wanted.bytes = self.wanted.bytes.saturating_add_signed(bytes * by);
        }
    }

    pub(super) fn uncount(&mut self, row: &EntryRow) {
        self.count(&row.entry, -1);
        if let Some((content, _)) = row.entry.kind.content() {
            self.catalogue.remove(&content, row.seq);
        }
    }

    pub(super) fn count(&mut self, entry: &Entry, by: i64) {
        self.tally(entry, by);
        if !entry.kind.is_live() {
            return;
        }
        let digest = StateDigest::of(&entry.key, &entry.kind);
        if by < 0 {
            self.blocks.remove(&entry.key, &digest);
        } else if self.blocks.add(&entry.key, &digest) {
            self.grown.insert(entry.key.clone());
        }
    }

    pub(super) fn tally(&mut self, entry: &Entry, by: i64) {
        if !entry.kind.is_live() {
            return;
        }
        let bytes = i64::try_from(entry.kind.size()).unwrap_or(i64::MAX);
        self.totals.entries = self.totals.entries.saturating_add_signed(by);
        self.totals.bytes = self.totals.bytes.saturating_add_signed(bytes * by);
        if by > 0 && self.ahead.len() < AHEAD_MAX && entry.stamp.is_suspect(self.wall) {
            self.ahead.insert(entry.key.clone(), entry.stamp);
        } else {
            self.ahead.remove(&entry.key);
        }
        if is_conflict_key(&entry.key) {
            self.totals.conflicts = self.totals.conflicts.saturating_add_signed(by);
        }
    }
}
