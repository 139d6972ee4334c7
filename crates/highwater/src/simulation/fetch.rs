//! How played contents travel: asked of one peer after another, in pieces when they are large, and
//! staged as the real ones are: durable first, then recorded.

use std::collections::BTreeSet;

use highwater_core::fetch::ChunkSet;
use highwater_core::{
    Chunk, ChunkId, ChunkSizes, ContentHash, Manifest, PrefixState, SMALL_BYTES_MAX,
};
use highwater_store::StageRow;

use crate::fetch::source::LinkId;

/// One content on its way to a node.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) size: u64,
    /// Links whose peers said that they lack it.
    pub(super) lacking: BTreeSet<LinkId>,
    /// The link that was asked, and the number of the request.
    pub(super) asked: Option<(LinkId, u64)>,
    /// Chunks that are staged.
    pub(super) staged: usize,
    /// Chunks that are durable and on record.
    pub(super) durable: usize,
}

impl Wanted {
    pub(super) fn new(size: u64) -> Self {
        Self { size, lacking: BTreeSet::new(), asked: None, staged: 0, durable: 0 }
    }

    /// How many chunks it has; small contents have one.
    pub(super) fn chunks(&self) -> usize {
        chunks_of(self.size)
    }

    pub(super) fn is_large(&self) -> bool {
        self.size > SMALL_BYTES_MAX
    }
}

/// Chunks of a content of `size` bytes, all of the average length.
pub(super) fn chunks_of(size: u64) -> usize {
    if size <= SMALL_BYTES_MAX {
        return 1;
    }
    size.div_ceil(ChunkSizes::for_content(size).average as u64) as usize
}

/// The manifest of a large content: chunks that belong to it alone.
pub(super) fn manifest_of(content: ContentHash, size: u64) -> Option<Manifest> {
    if size <= SMALL_BYTES_MAX {
        return None;
    }
    let average = ChunkSizes::for_content(size).average as u64;
    let chunk = |index: usize| {
        let mut name = content.as_bytes().to_vec();
        name.extend_from_slice(&index.to_be_bytes());
        let length = average.min(size - index as u64 * average) as u32;
        Chunk { id: ChunkId::of(&name), length }
    };
    Manifest::new(content, (0..chunks_of(size)).map(chunk).collect())
}

/// What the store keeps of `staged` chunks of a content.
pub(super) fn stage_row(size: u64, staged: usize) -> StageRow {
    let average = ChunkSizes::for_content(size).average as u64;
    let acked = (staged as u64 * average).min(size);
    StageRow { size, acked, prefix: PrefixState::default() }
}

/// The first `staged` of a content's chunks.
pub(super) fn first_chunks(size: u64, staged: usize) -> ChunkSet {
    let mut set = ChunkSet::empty(chunks_of(size));
    (0..staged).for_each(|index| set.insert(index));
    set
}
