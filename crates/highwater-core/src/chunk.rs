//! Content-defined chunks: where a content is cut depends on its bytes alone, so an edit moves only
//! the cuts around it.
//!
//! The cuts are FastCDC's (Xia et al., "The Design of Fast Content-Defined Chunking for Data
//! Deduplication Based Storage Systems", 2020). Cut points are part of the protocol: two nodes that
//! cut differently share no chunks. `golden_cuts` below holds them still.

use fastcdc::v2020::{Normalization, cut, select_masks};

/// Contents up to this size are not cut: their one chunk is the whole, and its id the content hash.
/// Most files of most trees are smaller, and need no manifest this way.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// How long chunks are, in bytes. All three are even, the average a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    /// No chunk but the last is shorter.
    pub min: usize,
    /// What the cuts aim at.
    pub average: usize,
    /// No chunk is longer.
    pub max: usize,
}

impl ChunkSizes {
    /// The sizes for a content of `size` bytes. They grow by steps of two for every four-fold
    /// size, so that a manifest stays near 0.05 % of its content and a growing file is cut anew
    /// rarely: 64 KiB up to 1 GiB, 1 MiB from 64 GiB on.
    pub const fn for_content(size: u64) -> Self {
        let mut average = AVERAGE_MIN;
        let mut limit = AVERAGE_MIN_UP_TO;
        while size > limit && average < AVERAGE_MAX {
            average *= 2;
            limit *= 4;
        }
        Self { min: average / 2, average, max: average * 4 }
    }
}

const AVERAGE_MIN: usize = 64 * 1024;
const AVERAGE_MAX: usize = 1024 * 1024;
const AVERAGE_MIN_UP_TO: u64 = 1 << 30;

/// The longest chunk there can be: what a receiver has to hold of one chunk to verify it.
pub const CHUNK_BYTES_MAX: usize = AVERAGE_MAX * 4;

/// Cuts one content.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    sizes: ChunkSizes,
    strict: u64,
    relaxed: u64,
}

impl Cutter {
    /// A cutter for a content of `size` bytes.
    pub fn for_content(size: u64) -> Self {
        let sizes = ChunkSizes::for_content(size);
        let (strict, relaxed) = select_masks(sizes.average, Normalization::Level1);
        Self { sizes, strict, relaxed }
    }

    /// How many bytes [`Cutter::next`] wants to see, unless the content ends before.
    pub fn lookahead(&self) -> usize {
        self.sizes.max
    }

    /// The length of the chunk at the beginning of `rest`, which holds at least
    /// [`Cutter::lookahead`] bytes or everything up to the end of the content. 0 at the end.
    pub fn next(&self, rest: &[u8]) -> usize {
        let ChunkSizes { min, average, max } = self.sizes;
        let (strict, relaxed) = (self.strict, self.relaxed);
        let (_, length) = cut(rest, min, average, max, strict, relaxed, strict << 1, relaxed << 1);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(content: &[u8]) -> Vec<usize> {
        let cutter = Cutter::for_content(content.len() as u64);
        let mut lengths = Vec::new();
        let mut rest = content;
        while !rest.is_empty() {
            let length = cutter.next(rest);
            lengths.push(length);
            rest = &rest[length..];
        }
        lengths
    }

    #[test]
    fn chunks_keep_to_their_sizes_and_cover_the_content() {
        let content = noise(8 << 20);
        let lengths = cuts(&content);
        let sizes = ChunkSizes::for_content(content.len() as u64);
        assert_eq!(lengths.iter().sum::<usize>(), content.len());
        let (last, others) = lengths.split_last().expect("chunks");
        assert!(*last <= sizes.max);
        assert!(others.iter().all(|l| (sizes.min..=sizes.max).contains(l)), "{others:?}");
        let average = content.len() / lengths.len();
        assert!((sizes.average / 2..sizes.average * 2).contains(&average), "{average}");
    }

    #[test]
    fn an_insertion_at_the_front_moves_only_the_first_cuts() {
        let content = noise(8 << 20);
        let mut edited = vec![7; 1024];
        edited.extend_from_slice(&content);
        let (before, after) = (cuts(&content), cuts(&edited));
        let same = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(before.len() - same <= 3, "{} of {} cuts moved", before.len() - same, before.len());
    }

    #[test]
    fn chunks_grow_slowly_with_the_content() {
        let average = |size| ChunkSizes::for_content(size).average;
        assert_eq!(average(1 << 30), 64 << 10);
        assert_eq!(average((1 << 30) + 1), 128 << 10);
        assert_eq!(average(1 << 34), 256 << 10);
        assert_eq!(average(1 << 50), 1 << 20);
        assert_eq!(ChunkSizes::for_content(u64::MAX).max, CHUNK_BYTES_MAX);
    }
}
