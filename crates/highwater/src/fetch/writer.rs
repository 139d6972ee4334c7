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
use highwater_core::{ChunkId, Manifest, PrefixHasher, PrefixState};
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

    fn is_complete(&self) -> bool {
        self.held.first_absent(0) >= self.manifest.chunks().len()
    }

    /// Whether all is there, and as a whole is the content that was asked for: right chunks of a
    /// manifest that is another's are not.
    pub(crate) fn is_right(&self) -> bool {
        self.is_complete() && self.hasher.finalize() == self.manifest.content()
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

#[cfg(test)]
mod tests {
    use highwater_core::{Chunk, ChunkSizes, ContentHash, NodeId};
    use highwater_folder::Marker;

    use super::*;

    const SHARE: ShareNumber = ShareNumber(1);
    const CHUNKS: usize = 4;

    /// A share and a store, and a content that is to come into it.
    struct Desk {
        root: Root,
        store: Store,
        manifest: Arc<Manifest>,
        pieces: Vec<Bytes>,
        counters: Counters,
        _dirs: [tempfile::TempDir; 2],
    }

    impl Desk {
        fn new() -> Self {
            let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
            let share = "docs".parse().expect("a name");
            let marker = Marker { share, node: NodeId::from_bytes([1; 32]), generation: 0 };
            let root = Root::create(dirs[0].path(), &marker).expect("a root");
            let store = Store::open(dirs[1].path()).expect("a store");
            let length = ChunkSizes::for_content(0).average;
            let pieces: Vec<Bytes> =
                (0..CHUNKS).map(|index| vec![index as u8; length].into()).collect();
            let chunk = |piece: &Bytes| Chunk { id: ChunkId::of(piece), length: length as u32 };
            let content = ContentHash::of(&pieces.concat());
            let manifest = Manifest::new(content, pieces.iter().map(chunk).collect());
            let manifest = Arc::new(manifest.expect("a manifest"));
            let counters = Counters::default();
            Self { root, store, manifest, pieces, counters, _dirs: dirs }
        }

        /// The writer, and the offset that was acknowledged before.
        fn opened(&self) -> (Writer, u64) {
            let manifest = Arc::clone(&self.manifest);
            let opened = Writer::open(&self.root, &self.store, SHARE, manifest);
            let (writer, _, acked) = opened.expect("a stage");
            (writer, acked)
        }

        /// One chunk arrives, as these bytes.
        fn arrives(&self, writer: &mut Writer, index: usize, bytes: Bytes) -> Written {
            let (id, length) = (RequestId(index as u64), bytes.len() as u64);
            let offset = self.manifest.offset_of(index);
            writer.expect(id, Run { first: index, end: index + 1, offset, length });
            writer.take(vec![(id, bytes)], &self.counters).expect("written")
        }

        /// Makes durable and records what is there.
        fn record(&self, writer: &mut Writer) {
            writer.file.sync_data().expect("durable");
            let (snapshot, none) = (writer.snapshot(), ChunkSet::empty(CHUNKS));
            let mut commit = Commit::new();
            let content = self.manifest.content();
            commit.put_stage(SHARE, &content, &snapshot.row, &none, &snapshot.held);
            self.store.commit(commit).expect("recorded");
        }
    }

    #[test]
    fn a_chunk_that_is_not_what_its_hash_says_is_refused_and_asked_for_again() {
        let desk = Desk::new();
        let (mut writer, _) = desk.opened();
        let written = desk.arrives(&mut writer, 0, desk.pieces[1].clone());
        assert_eq!((written.refused.len(), written.staged.len()), (1, 0));
        assert!(!writer.held.contains(0), "wrong bytes count as staged");
        let written = desk.arrives(&mut writer, 0, desk.pieces[0].clone());
        assert_eq!(written.staged, [0]);
    }

    #[test]
    fn what_was_recorded_is_not_asked_for_again_and_what_was_not_is() {
        let desk = Desk::new();
        let (mut writer, acked) = desk.opened();
        assert_eq!(acked, 0);
        for index in [0, 1] {
            desk.arrives(&mut writer, index, desk.pieces[index].clone());
        }
        desk.record(&mut writer);
        // Written, and not durable when the node is killed.
        desk.arrives(&mut writer, 2, desk.pieces[2].clone());
        drop(writer);
        let (mut writer, acked) = desk.opened();
        assert_eq!(acked, desk.manifest.offset_of(2));
        let held: Vec<bool> = (0..CHUNKS).map(|index| writer.held.contains(index)).collect();
        assert_eq!(held, [true, true, false, false]);
        for index in [3, 2] {
            desk.arrives(&mut writer, index, desk.pieces[index].clone());
        }
        assert!(writer.is_right());
    }

    #[test]
    fn right_chunks_that_make_another_whole_are_not_the_content() {
        let desk = Desk::new();
        let chunks = desk.manifest.chunks().to_vec();
        let manifest = Manifest::new(ContentHash::of(b"another"), chunks).map(Arc::new);
        let desk = Desk { manifest: manifest.expect("a manifest"), ..desk };
        let (mut writer, _) = desk.opened();
        for index in 0..CHUNKS {
            let written = desk.arrives(&mut writer, index, desk.pieces[index].clone());
            assert_eq!(written.staged, [index]);
        }
        assert!(writer.is_complete() && !writer.is_right());
    }
}
