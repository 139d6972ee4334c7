//! Which content stands where in a share: what is asked before anything is asked of a peer, and
//! what a peer's request is answered from.
//!
//! It is a hint, rebuilt from the store at every start: hashes are cut to 64 bits and positions may
//! be stale, so whoever uses an answer looks at the index row, and at the bytes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use highwater_core::{ChunkId, ContentHash, EntryKind, Key, Manifest, Seq};
use highwater_store::{EntryRow, ShareNumber, Store, StoreError};

/// Most chunks that are remembered for reuse, at about 40 bytes each. Beyond it new chunks are
/// fetched rather than found.
const CHUNKS_MAX: usize = 2 << 20;

/// Rows with one content that are looked at, the newest first, where a miss costs little. Thousands
/// of files may be equal, and each row is a read of the store.
const ROWS_TRIED_MAX: usize = 8;
/// The same where a miss means that a content is not to be had here. The first mostly fits: a
/// position can be stale for a moment. But files whose delete is held back are on record and gone
/// for as long as nobody confirms it.
const ROWS_TRIED_HARD: usize = 64;

/// The catalogue of one share, shared between its tasks.
#[derive(Debug, Default)]
pub(crate) struct Catalogue(Mutex<Shelves>);

#[derive(Debug, Default)]
struct Shelves {
    /// Content, and the log position of an entry that holds it.
    contents: BTreeSet<(u64, Seq)>,
    /// Chunk, and the content and offset where it stands.
    chunks: HashMap<u64, (u64, u64)>,
    /// Contents whose file no longer holds what was recorded, though nobody edited it.
    corrupt: BTreeSet<ContentHash>,
}

/// Where a chunk may be found.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) row: EntryRow,
    pub(crate) offset: u64,
}

impl Catalogue {
    pub(crate) fn add(&self, content: &ContentHash, seq: Seq) {
        self.shelves().contents.insert((short(content.as_bytes()), seq));
    }

    pub(crate) fn remove(&self, content: &ContentHash, seq: Seq) {
        self.shelves().contents.remove(&(short(content.as_bytes()), seq));
    }

    pub(crate) fn add_chunks(&self, manifest: &Manifest) {
        let mut shelves = self.shelves();
        let content = short(manifest.content().as_bytes());
        for (index, chunk) in manifest.chunks().iter().enumerate() {
            if shelves.chunks.len() >= CHUNKS_MAX {
                return;
            }
            let place = (content, manifest.offset_of(index));
            shelves.chunks.insert(short(chunk.id.as_bytes()), place);
        }
    }

    /// A file was found not to hold this content any more.
    pub(crate) fn mark_corrupt(&self, content: ContentHash) {
        self.shelves().corrupt.insert(content);
    }

    /// The file holds it again.
    pub(crate) fn mark_sound(&self, content: &ContentHash) {
        self.shelves().corrupt.remove(content);
    }

    pub(crate) fn is_corrupt(&self, content: &ContentHash) -> bool {
        self.shelves().corrupt.contains(content)
    }

    /// Whether some entry may hold this content.
    pub(crate) fn may_hold(&self, content: &ContentHash) -> bool {
        let short = short(content.as_bytes());
        let shelves = self.shelves();
        shelves.contents.range((short, Seq::ZERO)..=(short, Seq(u64::MAX))).next().is_some()
    }

    /// An index row that holds this content.
    pub(crate) fn find(
        &self,
        store: &Store,
        share: ShareNumber,
        content: &ContentHash,
    ) -> Result<Option<EntryRow>, StoreError> {
        self.find_row(store, share, content, |_| true)
    }

    /// An index row that holds this content and fits, as far as the newest tell.
    pub(crate) fn find_row(
        &self,
        store: &Store,
        share: ShareNumber,
        content: &ContentHash,
        mut fits: impl FnMut(&EntryRow) -> bool,
    ) -> Result<Option<EntryRow>, StoreError> {
        self.row_of(store, share, short(content.as_bytes()), ROWS_TRIED_HARD, |row| {
            holds(row, content) && fits(row)
        })
    }

    /// Whether an index row that holds this content fits, as far as the newest few tell.
    pub(crate) fn has_row(
        &self,
        store: &Store,
        share: ShareNumber,
        content: &ContentHash,
        fits: impl Fn(&EntryRow) -> bool,
    ) -> Result<bool, StoreError> {
        let short = short(content.as_bytes());
        let fits = |row: &EntryRow| holds(row, content) && fits(row);
        Ok(self.row_of(store, share, short, ROWS_TRIED_MAX, fits)?.is_some())
    }

    /// Whether this content stands under a key that is not one of `gone`.
    pub(crate) fn stands_beside(
        &self,
        store: &Store,
        share: ShareNumber,
        content: &ContentHash,
        gone: &BTreeSet<Key>,
    ) -> Result<bool, StoreError> {
        self.has_row(store, share, content, |row| !gone.contains(&row.entry.key))
    }

    /// Where a chunk may stand. Its bytes must be looked at.
    pub(crate) fn find_chunk(
        &self,
        store: &Store,
        share: ShareNumber,
        chunk: &ChunkId,
    ) -> Result<Option<Place>, StoreError> {
        let place = self.shelves().chunks.get(&short(chunk.as_bytes())).copied();
        let Some((content, offset)) = place else { return Ok(None) };
        let row = self.row_of(store, share, content, ROWS_TRIED_MAX, |row| {
            matches!(row.entry.kind, EntryKind::File { .. })
        })?;
        if row.is_none() {
            self.shelves().chunks.remove(&short(chunk.as_bytes()));
        }
        Ok(row.map(|row| Place { row, offset }))
    }

    fn row_of(
        &self,
        store: &Store,
        share: ShareNumber,
        content: u64,
        tries: usize,
        mut fits: impl FnMut(&EntryRow) -> bool,
    ) -> Result<Option<EntryRow>, StoreError> {
        let seqs: Vec<Seq> = {
            let shelves = self.shelves();
            let range = (content, Seq::ZERO)..=(content, Seq(u64::MAX));
            shelves.contents.range(range).rev().take(tries).map(|&(_, seq)| seq).collect()
        };
        for seq in seqs {
            let Some(log) = store.log_at(share, seq)? else { continue };
            match store.entry(share, &log.key)? {
                Some(row) if row.seq == seq && fits(&row) => return Ok(Some(row)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holds(row: &EntryRow, content: &ContentHash) -> bool {
    row.entry.kind.content().is_some_and(|(found, _)| found == *content)
}

fn short(hash: &[u8; 32]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(bytes)
}
