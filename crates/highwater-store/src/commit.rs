//! A set of changes that become durable together or not at all.

use highwater_core::content::{ChunkId, Manifest};
use highwater_core::fetch::ChunkSet;
use highwater_core::{ContentHash, Key, NodeId, Seq, ShareName};

use crate::rows::{
    BITMAP_PART_WORDS, DeepRow, EntryRow, FoundRow, LogRow, MANIFEST_PART_CHUNKS, ManifestPart,
    MarkerRow, PastRow, PeerRow, RetiredRow, ShareNumber, ShareRow, StageRow, WantClass, WantRow,
    content_key, deep_key, encode, entry_key, found_key, log_key, marker_key, part_key, past_key,
    peer_key, retired_key, share_key, want_key,
};

/// Changes to the store, gathered in memory. Nothing happens before
/// [`Store::commit`](crate::Store::commit); then all of it does, or nothing.
#[derive(Debug, Default)]
pub struct Commit {
    pub(crate) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Commit {
    /// An empty set of changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Records a share.
    pub fn put_share(&mut self, name: &ShareName, row: &ShareRow) {
        self.put(share_key(name), encode(row));
    }

    /// Appends an entry to the log and the index. `old_seq` is the position it leaves.
    pub fn append(
        &mut self,
        share: ShareNumber,
        row: &EntryRow,
        log: &LogRow,
        old_seq: Option<Seq>,
    ) {
        if let Some(old_seq) = old_seq {
            self.delete(log_key(share, old_seq));
        }
        self.put(log_key(share, row.seq), encode(log));
        self.put_entry(share, row);
    }

    /// Rewrites an index row without moving it in the log.
    pub fn put_entry(&mut self, share: ShareNumber, row: &EntryRow) {
        self.put(entry_key(share, &row.entry.key), encode(row));
    }

    /// Forgets an index row, and the position that it leaves, so that the entry is as if never
    /// seen here.
    pub fn forget_entry(&mut self, share: ShareNumber, key: &Key, old_seq: Option<Seq>) {
        self.delete(entry_key(share, key));
        if let Some(old_seq) = old_seq {
            self.delete(log_key(share, old_seq));
        }
    }

    /// Records an entry as wanted.
    pub fn put_want(&mut self, share: ShareNumber, class: WantClass, row: &WantRow) {
        self.put(want_key(share, class, &row.entry.key), encode(row));
    }

    /// Records that an entry is no longer wanted.
    pub fn delete_want(&mut self, share: ShareNumber, class: WantClass, key: &Key) {
        self.delete(want_key(share, class, key));
    }

    /// Records what is known of the marker; `None` where that is nothing.
    pub fn put_marker(&mut self, share: ShareNumber, row: Option<MarkerRow>) {
        match row {
            Some(row) => self.put(marker_key(share), encode(&row)),
            None => self.delete(marker_key(share)),
        }
    }

    /// Records which histories are over.
    pub fn put_past(&mut self, share: ShareNumber, row: &PastRow) {
        self.put(past_key(share), encode(row));
    }

    /// Keeps what stood at a position that its entry has left.
    pub fn put_retired(&mut self, share: ShareNumber, seq: Seq, row: &RetiredRow) {
        self.put(retired_key(share, seq), encode(row));
    }

    /// Forgets what stood at a position that its entry left long ago.
    pub fn delete_retired(&mut self, share: ShareNumber, seq: Seq) {
        self.delete(retired_key(share, seq));
    }

    /// Records how far a deep pass is.
    pub fn put_deep(&mut self, share: ShareNumber, row: &DeepRow) {
        self.put(deep_key(share), encode(row));
    }

    /// Records what a deep pass found under a key.
    pub fn put_found(&mut self, share: ShareNumber, key: &Key, row: &FoundRow) {
        self.put(found_key(share, key), encode(row));
    }

    /// Forgets what a deep pass found under a key.
    pub fn delete_found(&mut self, share: ShareNumber, key: &Key) {
        self.delete(found_key(share, key));
    }

    /// Records a peer's checkpoints.
    pub fn put_peer(&mut self, share: ShareNumber, node: &NodeId, row: &PeerRow) {
        self.put(peer_key(share, node), encode(row));
    }

    /// Records a manifest.
    pub fn put_manifest(&mut self, share: ShareNumber, manifest: &Manifest) {
        self.put_manifest_parts(share, manifest, 0, usize::MAX);
    }

    /// Records up to `count` parts of a manifest, from the part `first` on.
    pub(crate) fn put_manifest_parts(
        &mut self,
        share: ShareNumber,
        manifest: &Manifest,
        first: usize,
        count: usize,
    ) {
        let parts = manifest.chunks().chunks(MANIFEST_PART_CHUNKS).enumerate();
        for (part, chunks) in parts.skip(first).take(count) {
            let key = part_key(b'm', share, &manifest.content(), part);
            self.put(key, encode(&ManifestPart(chunks.to_vec())));
        }
    }

    /// Forgets a manifest of `chunks` chunks.
    pub fn delete_manifest(&mut self, share: ShareNumber, content: &ContentHash, chunks: usize) {
        for part in 0..chunks.div_ceil(MANIFEST_PART_CHUNKS) {
            self.delete(part_key(b'm', share, content, part));
        }
    }

    /// Records how far a content is staged. `before` is what was recorded last: only the parts of
    /// the set that differ are written.
    pub fn put_stage(
        &mut self,
        share: ShareNumber,
        content: &ContentHash,
        row: &StageRow,
        before: &ChunkSet,
        now: &ChunkSet,
    ) {
        self.put(content_key(b't', share, content), encode(row));
        let parts = now.words().chunks(BITMAP_PART_WORDS);
        let mut old = before.words().chunks(BITMAP_PART_WORDS);
        for (part, words) in parts.enumerate() {
            if old.next() != Some(words) {
                self.put(part_key(b'u', share, content, part), encode(&words.to_vec()));
            }
        }
    }

    /// Forgets what was staged of a content of `chunks` chunks.
    pub fn delete_stage(&mut self, share: ShareNumber, content: &ContentHash, chunks: usize) {
        self.delete(content_key(b't', share, content));
        for part in 0..chunks.div_ceil(64 * BITMAP_PART_WORDS) {
            self.delete(part_key(b'u', share, content, part));
        }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }
}

/// How many bytes a chunk takes in a stored manifest, for the limits of values.
const _: () = assert!(MANIFEST_PART_CHUNKS * (size_of::<ChunkId>() + 5) < 7 * 1024);
