//! The ranges of one content that are still to come, from the first request to the last verified
//! chunk.
//!
//! A fetch asks any number of sources for runs of missing chunks, in order, so that the durable
//! prefix grows and a broken transfer goes on where it stopped. It holds no bytes: the caller
//! sends the requests, verifies and stages what arrives, and says what became of it. When a source
//! goes, what it owed is missing again and the next source is asked; what is staged stays.

use std::collections::BTreeMap;

use crate::content::Manifest;
use crate::wire::{RANGE_BYTES_MAX, RequestId};

/// A set of chunk indices as a bitmap: what is staged, stored with every checkpoint of a transfer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkSet {
    words: Vec<u64>,
}

impl ChunkSet {
    /// The empty set for a manifest of `chunks` chunks.
    pub fn empty(chunks: usize) -> Self {
        Self { words: vec![0; chunks.div_ceil(64)] }
    }

    /// The set with these words, least significant bit first, fitted to `chunks` chunks.
    pub fn from_words(mut words: Vec<u64>, chunks: usize) -> Self {
        words.resize(chunks.div_ceil(64), 0);
        Self { words }
    }

    /// The words, least significant bit first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Puts `index` into the set; out of range is ignored.
    pub fn insert(&mut self, index: usize) {
        if let Some(word) = self.words.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Takes `index` out of the set.
    pub fn remove(&mut self, index: usize) {
        if let Some(word) = self.words.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
        }
    }

    /// How many indices are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The first index at or behind `from` that is not in the set.
    pub fn first_absent(&self, from: usize) -> usize {
        let mut index = from;
        while let Some(word) = self.words.get(index / 64) {
            let ahead = (!word) >> (index % 64);
            if ahead != 0 {
                return index + ahead.trailing_zeros() as usize;
            }
            index = (index / 64 + 1) * 64;
        }
        index
    }
}

/// A run of chunks asked of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Index of its first chunk.
    pub first: usize,
    /// Index behind its last chunk.
    pub end: usize,
    /// Where its bytes begin.
    pub offset: u64,
    /// How many bytes it has; at most [`RANGE_BYTES_MAX`], unless one chunk is longer.
    pub length: u64,
}

/// The state of one fetch. `S` names a source: one link to one peer.
#[derive(Debug)]
pub struct Fetch<S> {
    /// Staged and verified, or being copied from local content: not to be asked for.
    held: ChunkSet,
    /// Asked for and under way.
    requested: ChunkSet,
    /// What each open request still owes: from this chunk on.
    open: BTreeMap<RequestId, (S, Run)>,
    chunks: usize,
}

impl<S: Copy + Ord> Fetch<S> {
    /// A fetch of what `held` lacks of `manifest`.
    pub fn new(manifest: &Manifest, held: ChunkSet) -> Self {
        let chunks = manifest.chunks().len();
        Self { held, requested: ChunkSet::empty(chunks), open: BTreeMap::new(), chunks }
    }

    /// Whether every chunk is held.
    pub fn is_complete(&self) -> bool {
        self.held.first_absent(0) >= self.chunks
    }

    /// The chunks that are held.
    pub fn held(&self) -> &ChunkSet {
        &self.held
    }

    /// The next run to ask of a source: the first chunks that are neither held nor under way, as
    /// far as they are adjacent and fit into `bytes_max`. At least one chunk, so that a small
    /// window cannot stall a fetch.
    pub fn next_run(&self, manifest: &Manifest, bytes_max: u64) -> Option<Run> {
        let free = |index: usize| !self.held.contains(index) && !self.requested.contains(index);
        let mut first = 0;
        loop {
            first = self.held.first_absent(first);
            let after_requested = self.requested.first_absent(first);
            if after_requested == first {
                break;
            }
            first = after_requested;
        }
        if first >= self.chunks {
            return None;
        }
        let offset = manifest.offset_of(first);
        let limit = bytes_max.min(RANGE_BYTES_MAX);
        let mut end = first + 1;
        while end < self.chunks && free(end) && manifest.offset_of(end + 1) - offset <= limit {
            end += 1;
        }
        Some(Run { first, end, offset, length: manifest.offset_of(end) - offset })
    }

    /// Notes that `run` was asked of `source`.
    pub fn asked(&mut self, id: RequestId, source: S, run: Run) {
        for index in run.first..run.end {
            self.requested.insert(index);
        }
        self.open.insert(id, (source, run));
    }

    /// Notes that the chunk is verified and staged.
    pub fn staged(&mut self, index: usize) {
        self.held.insert(index);
        self.requested.remove(index);
    }

    /// Closes a request: answered in full, refused, or given up. What it owed is missing again.
    pub fn closed(&mut self, id: RequestId) -> Option<S> {
        let (source, run) = self.open.remove(&id)?;
        for index in run.first..run.end {
            self.requested.remove(index);
        }
        Some(source)
    }

    /// The open requests of a source that is gone.
    pub fn open_at(&self, source: S) -> Vec<RequestId> {
        self.open.iter().filter(|(_, (s, _))| *s == source).map(|(&id, _)| id).collect()
    }

    /// The run of an open request.
    pub fn run(&self, id: RequestId) -> Option<Run> {
        self.open.get(&id).map(|(_, run)| *run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Chunk, ChunkId, ContentHash};
    use proptest::prelude::*;

    fn manifest(chunks: usize, length: u32) -> Manifest {
        let chunk = |i: usize| Chunk { id: ChunkId::of(&i.to_be_bytes()), length };
        Manifest::new(ContentHash::of(b"m"), (0..chunks).map(chunk).collect()).expect("valid")
    }

    #[test]
    fn runs_are_asked_in_order_and_skip_what_is_held() {
        let manifest = manifest(10, 100);
        let mut held = ChunkSet::empty(10);
        held.insert(0);
        held.insert(4);
        let mut fetch = Fetch::new(&manifest, held);
        let first = fetch.next_run(&manifest, 1000).expect("missing");
        assert_eq!((first.first, first.end, first.offset, first.length), (1, 4, 100, 300));
        fetch.asked(RequestId(1), 'a', first);
        let second = fetch.next_run(&manifest, 250).expect("missing");
        assert_eq!((second.first, second.end), (5, 7));
    }

    #[test]
    fn what_a_lost_source_owed_is_asked_again_and_what_is_staged_is_not() {
        let manifest = manifest(4, 100);
        let mut fetch = Fetch::new(&manifest, ChunkSet::empty(4));
        let run = fetch.next_run(&manifest, 400).expect("all");
        fetch.asked(RequestId(1), 'a', run);
        assert_eq!(fetch.next_run(&manifest, 400), None);
        fetch.staged(0);
        for id in fetch.open_at('a') {
            fetch.closed(id);
        }
        let again = fetch.next_run(&manifest, 400).expect("the rest");
        assert_eq!((again.first, again.end), (1, 4));
        (1..4).for_each(|index| fetch.staged(index));
        assert!(fetch.is_complete());
    }

    #[test]
    fn one_chunk_is_asked_for_however_small_the_window() {
        let manifest = manifest(2, 5000);
        let fetch: Fetch<char> = Fetch::new(&manifest, ChunkSet::empty(2));
        assert_eq!(fetch.next_run(&manifest, 1).map(|run| run.length), Some(5000));
    }

    proptest! {
        #[test]
        fn no_chunk_is_under_way_twice_and_all_arrive(
            chunks in 1usize..200,
            held in proptest::collection::vec(0usize..200, 0..50),
            fates in proptest::collection::vec((1u64..900, any::<bool>()), 1..50),
        ) {
            let manifest = manifest(chunks, 100);
            let mut set = ChunkSet::empty(chunks);
            held.iter().filter(|&&i| i < chunks).for_each(|&i| set.insert(i));
            let mut fetch = Fetch::new(&manifest, set);
            let mut id = 0;
            // After the drawn fates everything succeeds, so the story ends.
            let mut fates = fates.into_iter().chain(std::iter::repeat((700, false)));
            let mut under_way = std::collections::BTreeSet::new();
            while !fetch.is_complete() {
                let (window, fails) = fates.next().expect("endless");
                if let Some(run) = fetch.next_run(&manifest, window) {
                    for index in run.first..run.end {
                        prop_assert!(!fetch.held().contains(index));
                        prop_assert!(under_way.insert(index));
                    }
                    id += 1;
                    fetch.asked(RequestId(id), 0u8, run);
                    if fails && id % 7 != 0 { continue }
                }
                for open in fetch.open_at(0) {
                    let run = fetch.run(open).expect("open");
                    if !fails { (run.first..run.end).for_each(|i| fetch.staged(i)); }
                    fetch.closed(open);
                }
                under_way.clear();
            }
        }
    }
}
