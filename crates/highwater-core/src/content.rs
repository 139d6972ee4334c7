//! Content: hashes, chunks, manifests, and a whole-file hash that can be put down and taken up
//! again without reading a byte twice.

use std::fmt;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

use crate::chunk::CHUNK_BYTES_MAX;
use crate::id::hex;

/// Plain BLAKE3 of the whole of a content, as `b3sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// BLAKE3 of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId([u8; 32]);

impl ChunkId {
    /// The id of the chunk with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// One chunk of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// BLAKE3 of its bytes.
    pub id: ChunkId,
    /// Its length in bytes; 1 or more.
    pub length: u32,
}

/// The chunks of one content in order. Their lengths add up to the content's size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    content: ContentHash,
    chunks: Vec<Chunk>,
    offsets: Vec<u64>,
}

/// Most chunks of a manifest: 1 TiB of 1 MiB chunks, twice over. About 80 MiB in memory, and only
/// while such a content is in flight.
pub const CHUNKS_MAX: usize = 2 << 20;

/// Longest content that a manifest can name: 8 TiB. Longer files are not synced, and a peer that
/// speaks of one lies.
pub const CONTENT_BYTES_MAX: u64 = CHUNKS_MAX as u64 * CHUNK_BYTES_MAX as u64;

impl Manifest {
    /// The manifest of `content` with these chunks, or `None` when there are more than
    /// [`CHUNKS_MAX`] or one of them is empty.
    pub fn new(content: ContentHash, chunks: Vec<Chunk>) -> Option<Self> {
        if chunks.len() > CHUNKS_MAX || chunks.iter().any(|chunk| chunk.length == 0) {
            return None;
        }
        let mut offsets = Vec::with_capacity(chunks.len() + 1);
        let mut offset = 0;
        for chunk in &chunks {
            offsets.push(offset);
            offset += u64::from(chunk.length);
        }
        offsets.push(offset);
        Some(Self { content, chunks, offsets })
    }

    /// Whose chunks these are.
    pub fn content(&self) -> ContentHash {
        self.content
    }

    /// The chunks in order.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The size of the content in bytes.
    pub fn size(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Where the chunk with this index begins; the size for the index behind the last.
    pub fn offset_of(&self, index: usize) -> u64 {
        self.offsets.get(index).copied().unwrap_or_else(|| self.size())
    }

    /// The index of the chunk that begins at `offset`.
    pub fn index_at(&self, offset: u64) -> Option<usize> {
        self.offsets[..self.chunks.len()].binary_search(&offset).ok()
    }
}

/// How much of a content is hashed as one subtree: a power of two, as the tree of BLAKE3 demands.
/// Resuming reads at most this much again.
const GROUP_BYTES: u64 = 1 << 20;

/// The hash of a prefix of a content, small enough to store with every checkpoint: the chaining
/// values of the complete subtrees, one for each set bit of the number of groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct PrefixState {
    /// Bytes covered: a multiple of 1 MiB.
    pub bytes: u64,
    /// Chaining values of the subtrees, largest first. At most 44 of them.
    pub subtrees: Vec<[u8; 32]>,
}

impl PrefixState {
    /// Whether hashing can go on from here. A state that was stored and read again need not be what
    /// was stored; whether it is the right one, the hash of the whole decides.
    pub fn is_sound(&self) -> bool {
        let groups = self.bytes / GROUP_BYTES;
        self.bytes.is_multiple_of(GROUP_BYTES)
            && self.bytes <= CONTENT_BYTES_MAX
            && self.subtrees.len() == groups.count_ones() as usize
    }
}

/// BLAKE3 of a content that arrives in order, and whose state can be stored at any time.
///
/// BLAKE3 is a tree: the hash of the whole is merged from the chaining values of its parts. This
/// keeps the chaining values of complete groups and a plain hasher for the group in progress, as
/// BLAKE3 itself does with its 1 KiB leaves (section 5.1.2 of the paper). Its results are tested
/// against `blake3::hash`.
#[derive(Debug, Clone)]
pub struct PrefixHasher {
    state: PrefixState,
    group: blake3::Hasher,
    group_bytes: u64,
}

impl Default for PrefixHasher {
    fn default() -> Self {
        Self::resume(PrefixState::default())
    }
}

impl PrefixHasher {
    /// Goes on where `state` stopped, which must be sound: the next byte to update with is the one
    /// at `state.bytes`.
    pub fn resume(state: PrefixState) -> Self {
        let group = group_hasher(state.bytes);
        Self { state, group, group_bytes: 0 }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.group_bytes == GROUP_BYTES {
                self.close_group();
            }
            let room = (GROUP_BYTES - self.group_bytes).min(bytes.len() as u64) as usize;
            let (now, later) = bytes.split_at(room);
            self.group.update(now);
            self.group_bytes += room as u64;
            bytes = later;
        }
    }

    /// How many bytes have been taken in.
    pub fn bytes(&self) -> u64 {
        self.state.bytes + self.group_bytes
    }

    /// What can be stored now. It covers the last whole group that is known not to be the last of
    /// the content, so up to 1 MiB less than [`PrefixHasher::bytes`].
    pub fn state(&self) -> &PrefixState {
        &self.state
    }

    /// The hash of everything taken in.
    pub fn finalize(&self) -> ContentHash {
        let Some((first, rest)) = self.state.subtrees.split_first() else {
            return ContentHash(*self.group.finalize().as_bytes());
        };
        let mut right = self.group.finalize_non_root();
        for left in rest.iter().rev() {
            right = merge_subtrees_non_root(left, &right, Mode::Hash);
        }
        ContentHash(*merge_subtrees_root(first, &right, Mode::Hash).as_bytes())
    }

    fn close_group(&mut self) {
        let mut right = self.group.finalize_non_root();
        let mut groups = self.state.bytes / GROUP_BYTES + 1;
        while groups.is_multiple_of(2) {
            let left = self.state.subtrees.pop().unwrap_or_default();
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
            groups /= 2;
        }
        self.state.subtrees.push(right);
        self.state.bytes += GROUP_BYTES;
        self.group = group_hasher(self.state.bytes);
        self.group_bytes = 0;
    }
}

fn group_hasher(offset: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn a_hash_put_down_and_taken_up_is_the_hash_of_the_whole() {
        let mib = GROUP_BYTES as usize;
        for length in [0, 1, 1024, mib - 1, mib, mib + 1, 2 * mib, 3 * mib, 5 * mib + 77, 8 * mib] {
            let content = bytes(length);
            for piece in [64 * 1024 + 1, mib, 3 * mib / 2] {
                let mut hasher = PrefixHasher::default();
                for part in content.chunks(piece) {
                    hasher.update(part);
                    let state = hasher.state().clone();
                    let tail = &content[state.bytes as usize..hasher.bytes() as usize];
                    hasher = PrefixHasher::resume(state);
                    hasher.update(tail);
                }
                assert_eq!(hasher.finalize(), ContentHash::of(&content), "{length} by {piece}");
            }
        }
    }

    /// A damaged row of the store made the hasher panic in the middle of its tree.
    #[test]
    fn a_state_that_no_hasher_has_had_is_told_from_one_that_was() {
        let mut hasher = PrefixHasher::default();
        hasher.update(&bytes(6 << 20));
        let sound = hasher.state().clone();
        assert!(sound.is_sound() && PrefixState::default().is_sound());
        let mut short = sound.clone();
        short.subtrees.pop();
        assert!(!short.is_sound());
        assert!(!PrefixState { bytes: sound.bytes + 1, ..sound.clone() }.is_sound());
        assert!(!PrefixState { bytes: 1 << 62, subtrees: vec![[0; 32]] }.is_sound());
    }

    #[test]
    fn a_manifest_knows_where_its_chunks_begin() {
        let chunk = |length| Chunk { id: ChunkId::of(&[length as u8]), length };
        let manifest =
            Manifest::new(ContentHash::of(b"x"), vec![chunk(3), chunk(4)]).expect("valid");
        assert_eq!(manifest.size(), 7);
        assert_eq!(manifest.index_at(3), Some(1));
        assert_eq!(manifest.index_at(4), None);
        assert_eq!(manifest.index_at(7), None);
        assert!(Manifest::new(ContentHash::of(b"x"), vec![chunk(0)]).is_none());
    }
}
