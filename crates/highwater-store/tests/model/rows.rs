//! Keys, contents and rows that differ as their salt does.

use highwater_core::{
    Actor, Checkpoint, Chunk, ChunkId, ContentHash, Entry, EntryKind, Epoch, Hlc, Key, LogDigest,
    Manifest, Mode, Mtime, NodeId, NodeTag, PrefixState, Seq, ShareName, Version,
};
use highwater_store::{PeerRow, StageRow, WantClass};

/// Names that sort around the separator, contain one another, or are not ASCII; separated by `|`.
/// One more, of the longest possible length, is added by [`keys`].
const KEYS: &str = "a|a b|a/b|a-b|a/b/c|a/b-c|a.b|a0|ab|a\u{1}|a\n/b|A/b|\
    é|é/a|e\u{301}|日本/語|\u{10ffff}|a/\u{10ffff}";
/// In the order in which a wanted entry is looked for.
pub(crate) const CLASSES: [WantClass; 3] = [WantClass::Live, WantClass::Tombstone, WantClass::Held];
/// Chunks of the contents that are staged: few words, one part of a bitmap, and several parts.
pub(crate) const STAGED_CHUNKS: [usize; 4] = [65, 8_192, 8_193, 20_000];
/// Most chunks of a manifest: several parts, of 64 each.
const MANIFEST_CHUNKS_MAX: u64 = 200;
/// Nodes that are peers.
pub(crate) const NODES: [NodeId; 2] = [NodeId::from_bytes([0; 32]), NodeId::from_bytes([0xff; 32])];

pub(crate) fn keys() -> Vec<Key> {
    let longest = vec!["x".repeat(255); 16].join("/");
    KEYS.split('|').chain([longest.as_str()]).map(|key| key.parse().expect("a key")).collect()
}

pub(crate) fn share_name(name: &str) -> ShareName {
    name.parse().expect("a share name")
}

pub(crate) fn entry(key: &Key, salt: u64) -> Entry {
    let mtime = Mtime { seconds: salt as i64, nanos: 7 };
    let kind = match salt % 4 {
        0 => EntryKind::Tombstone,
        1 => {
            let content = ContentHash::of(&salt.to_be_bytes());
            EntryKind::File { size: salt, content, mode: Mode::new(salt as u32), mtime }
        }
        2 => EntryKind::Symlink { target: "../é".repeat(salt as usize % 900), mtime },
        _ => EntryKind::Directory { mode: Mode::new(salt as u32) },
    };
    let counters = (0..salt % 9).map(|actor| (Actor(salt ^ actor), Seq(salt)));
    let version = Version::from_counters(counters);
    Entry { key: key.clone(), kind, version, stamp: Hlc(salt), author: NodeTag::from_bytes([3; 5]) }
}

pub(crate) fn hash(content: usize) -> ContentHash {
    ContentHash::from_bytes([255 - content as u8 * 51; 32])
}

pub(crate) fn manifest(content: usize, salt: u64) -> Manifest {
    let id = |index: u64| ChunkId::of(&(salt ^ index).to_be_bytes());
    let chunk = |index| Chunk { id: id(index), length: 1 + index as u32 };
    let chunks = (0..1 + salt % MANIFEST_CHUNKS_MAX).map(chunk).collect();
    Manifest::new(hash(content), chunks).expect("a manifest")
}

pub(crate) fn stage(content: usize, salt: u64) -> StageRow {
    let prefix = PrefixState { bytes: salt, subtrees: vec![[salt as u8; 32]; salt as usize % 3] };
    StageRow { size: STAGED_CHUNKS[content] as u64, acked: salt, prefix }
}

pub(crate) fn digest(salt: u64) -> LogDigest {
    let mut digest = LogDigest::EMPTY;
    digest.0[..8].copy_from_slice(&salt.to_be_bytes());
    digest
}

pub(crate) fn peer(salt: u64) -> PeerRow {
    let checkpoint = Checkpoint { epoch: Epoch([9; 16]), seq: Seq(salt), digest: digest(salt) };
    PeerRow { pulled: Some(checkpoint), pushed: salt.is_multiple_of(2).then_some(checkpoint) }
}
