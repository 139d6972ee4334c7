//! The disk side of one transfer: verifies chunks, writes them into the stage, and keeps the hash
//! of the whole in step with the prefix that is there.
//!
//! A chunk is written only after its hash was found right. The hash of the whole is fed from
//! memory while chunks come in order, and from the stage where they did not, so that no byte is
//! read back without need and none below the stored state is hashed again after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use highwater_core::fetch::{ChunkSet, Run};
use highwater_core::wire::RequestId;
use highwater_core::{ChunkId, ContentHash, Manifest, PrefixHasher, PrefixState};
use highwater_folder::{Root, Slot, StageError, StageFile};
use highwater_store::{Commit, ShareNumber, StageRow, Store};

use crate::counters::Counters;
use crate::share::catalogue::Catalogue;

/// How many bytes are read back from the stage at once.
const READ_BACK_BYTES: usize = 1024 * 1024;

/// One transfer's stage and what is known of it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) file: Arc<StageFile>,
    /// Verified and written.
    pub(crate) held: ChunkSet,
    hasher: PrefixHasher,
    /// Bytes written since the last snapshot for a sync.
    pub(crate) unsynced: u64,
    partial: BTreeMap<RequestId, Partial>,
}

/// A chunk of which a part has arrived.
#[derive(Debug)]
struct Partial {
    run: Run,
    next: usize,
    pieces: Vec<Bytes>,
    bytes: u64,
}

/// What came of the bytes of one request.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) staged: Vec<usize>,
    /// Chunks whose bytes were not what their hash says.
    pub(crate) refused: Vec<(RequestId, usize)>,
    /// Requests that have been answered in full.
    pub(crate) answered: Vec<RequestId>,
    /// Requests whose answer went on after its end.
    pub(crate) overlong: Vec<RequestId>,
}

/// What is made durable together: the state of the stage at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) held: ChunkSet,
    pub(crate) row: StageRow,
}

impl Writer {
    /// Opens what is staged of a content, or begins a stage.
    pub(crate) fn open(
        root: &Root,
        store: &Store,
        share: ShareNumber,
        manifest: Arc<Manifest>,
    ) -> Result<(Self, ChunkSet, u64), WriteError> {
        let slot = Slot::partial(manifest.content());
        let chunks = manifest.chunks().len();
        let recorded = store.stage(share, &manifest.content(), chunks)?;
        let opened = match &recorded {
            Some(_) => root.stage().open(&slot).ok(),
            None => None,
        };
        let (file, held, prefix, acked) = match (opened, recorded) {
            (Some(file), Some((row, held)))
                if row.size == manifest.size()
                    && file.len()? >= row.acked
                    && row.prefix.is_sound() =>
            {
                (file, held, row.prefix, row.acked)
            }
            (_, recorded) => {
                if recorded.is_some() {
                    let mut commit = Commit::new();
                    commit.delete_stage(share, &manifest.content(), chunks);
                    store.commit(commit)?;
                }
                let file = root.stage().create(&slot, manifest.size())?;
                (file, ChunkSet::empty(chunks), PrefixState::default(), 0)
            }
        };
        let durable = held.clone();
        let mut writer = Self {
            manifest,
            file: Arc::new(file),
            held,
            hasher: PrefixHasher::resume(prefix),
            unsynced: 0,
            partial: BTreeMap::new(),
        };
        writer.catch_up()?;
        Ok((writer, durable, acked))
    }

    /// Expects the bytes of a run.
    pub(crate) fn expect(&mut self, id: RequestId, run: Run) {
        self.partial.insert(id, Partial { run, next: run.first, pieces: Vec::new(), bytes: 0 });
    }

    /// Forgets a request; what it brought of an unfinished chunk is dropped.
    pub(crate) fn forget(&mut self, id: RequestId) {
        self.partial.remove(&id);
    }

    /// Takes in the next bytes of several requests, in the order in which they came.
    pub(crate) fn take(
        &mut self,
        arrived: Vec<(RequestId, Bytes)>,
        counters: &Counters,
    ) -> Result<Written, WriteError> {
        let mut written = Written::default();
        for (id, bytes) in arrived {
            self.take_one(id, bytes, counters, &mut written)?;
        }
        self.catch_up()?;
        Ok(written)
    }

    fn take_one(
        &mut self,
        id: RequestId,
        mut bytes: Bytes,
        counters: &Counters,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let Some(partial) = self.partial.get_mut(&id) else { return Ok(()) };
            if partial.next >= partial.run.end {
                written.overlong.push(id);
                return Ok(());
            }
            let length = u64::from(self.manifest.chunks()[partial.next].length);
            let missing = (length - partial.bytes).min(bytes.len() as u64);
            let piece = bytes.split_to(missing as usize);
            partial.bytes += missing;
            partial.pieces.push(piece);
            if partial.bytes == length {
                let index = partial.next;
                let pieces = std::mem::take(&mut partial.pieces);
                partial.bytes = 0;
                partial.next += 1;
                let answered = partial.next == partial.run.end;
                self.finish_chunk(id, index, &pieces, counters, written)?;
                if answered {
                    written.answered.push(id);
                }
            }
        }
        Ok(())
    }

    fn finish_chunk(
        &mut self,
        id: RequestId,
        index: usize,
        pieces: &[Bytes],
        counters: &Counters,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        let chunk = self.manifest.chunks()[index];
        if self.held.contains(index) {
            counters.content_bytes_resent.add(u64::from(chunk.length));
            return Ok(());
        }
        let mut hasher = blake3::Hasher::new();
        for piece in pieces {
            hasher.update(piece);
        }
        if ChunkId::from_bytes(*hasher.finalize().as_bytes()) != chunk.id {
            counters.hash_mismatches.add(1);
            written.refused.push((id, index));
            return Ok(());
        }
        let mut offset = self.manifest.offset_of(index);
        let in_order = self.hasher.bytes() == offset;
        for piece in pieces {
            self.file.write_at(offset, piece)?;
            if in_order {
                self.hasher.update(piece);
            }
            offset += piece.len() as u64;
        }
        self.hold(index);
        written.staged.push(index);
        Ok(())
    }

    fn hold(&mut self, index: usize) {
        self.held.insert(index);
        self.unsynced += u64::from(self.manifest.chunks()[index].length);
    }

    /// Copies chunks that stand elsewhere in the share, as long as `budget` lasts. Returns the
    /// index to go on at, or `None` when all have been looked for.
    pub(crate) fn reuse(
        &mut self,
        from: usize,
        budget_bytes: u64,
        place: &Shelf<'_>,
        counters: &Counters,
    ) -> Result<Option<usize>, WriteError> {
        let mut spent = 0;
        let mut index = self.held.first_absent(from);
        while index < self.manifest.chunks().len() {
            if spent >= budget_bytes {
                self.catch_up()?;
                return Ok(Some(index));
            }
            let chunk = self.manifest.chunks()[index];
            if let Some(bytes) = place.chunk(&chunk.id, chunk.length)? {
                let offset = self.manifest.offset_of(index);
                self.file.write_at(offset, &bytes)?;
                if self.hasher.bytes() == offset {
                    self.hasher.update(&bytes);
                }
                self.hold(index);
                counters.content_bytes_reused.add(bytes.len() as u64);
                spent += bytes.len() as u64;
            }
            index = self.held.first_absent(index + 1);
        }
        self.catch_up()?;
        Ok(None)
    }

    /// Feeds the hash of the whole from the stage, where chunks came out of order.
    fn catch_up(&mut self) -> Result<(), WriteError> {
        let end = self.prefix();
        let mut buffer = Vec::new();
        while self.hasher.bytes() < end {
            let length = (end - self.hasher.bytes()).min(READ_BACK_BYTES as u64) as usize;
            buffer.resize(length, 0);
            let read = self.file.read_at(self.hasher.bytes(), &mut buffer)?;
            if read == 0 {
                return Err(WriteError::StageShrunk);
            }
            self.hasher.update(&buffer[..read]);
        }
        Ok(())
    }

    /// Every byte before this offset is written.
    pub(crate) fn prefix(&self) -> u64 {
        self.manifest.offset_of(self.held.first_absent(0).min(self.manifest.chunks().len()))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.held.first_absent(0) >= self.manifest.chunks().len()
    }

    /// The hash of the whole, once it is complete.
    pub(crate) fn content(&self) -> ContentHash {
        self.hasher.finalize()
    }

    /// What a sync that begins now makes durable.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        self.unsynced = 0;
        let row = StageRow {
            size: self.manifest.size(),
            acked: self.prefix(),
            prefix: self.hasher.state().clone(),
        };
        Snapshot { held: self.held.clone(), row }
    }
}

/// Where chunks of the share can be read.
pub(crate) struct Shelf<'a> {
    pub(crate) root: &'a Root,
    pub(crate) store: &'a Store,
    pub(crate) share: ShareNumber,
    pub(crate) catalogue: &'a Catalogue,
}

impl Shelf<'_> {
    /// The bytes of a chunk, if they stand where the catalogue says.
    fn chunk(&self, id: &ChunkId, length: u32) -> Result<Option<Vec<u8>>, WriteError> {
        let Some(place) = self.catalogue.find_chunk(self.store, self.share, id)? else {
            return Ok(None);
        };
        let Ok(file) = self.root.open_content(&place.row.entry.key) else { return Ok(None) };
        let mut bytes = vec![0; length as usize];
        match file.read_at(place.offset, &mut bytes) {
            Ok(read) if read == bytes.len() && ChunkId::of(&bytes) == *id => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }
}

/// Why staging failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Store(#[from] highwater_store::StoreError),
    #[error("what was staged has become shorter")]
    StageShrunk,
}
