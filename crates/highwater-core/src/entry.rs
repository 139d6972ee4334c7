//! The latest state of one key of a share.

use serde::{Deserialize, Serialize};

use crate::clock::{Hlc, Mtime};
use crate::content::ContentHash;
use crate::id::NodeTag;
use crate::key::Key;
use crate::version::Version;

/// Permission bits as they are synced: the low nine, never set-id or sticky.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Mode(u16);

impl Mode {
    /// The synced part of a file mode; every other bit is dropped.
    pub const fn new(bits: u32) -> Self {
        Self((bits & 0o777) as u16)
    }

    /// The bits, at most `0o777`.
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }
}

/// What stands under a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum EntryKind {
    /// Nothing any more: the key was deleted.
    Tombstone,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Plain BLAKE3 of all its bytes.
        content: ContentHash,
        /// Permission bits.
        mode: Mode,
        /// Modification time.
        mtime: Mtime,
    },
    /// A symbolic link, synced as text and never followed.
    Symlink {
        /// Where it points, as written.
        target: String,
        /// Modification time of the link itself.
        mtime: Mtime,
    },
    /// A directory. Its modification time is not synced: every change inside it moves it.
    Directory {
        /// Permission bits.
        mode: Mode,
    },
}

impl EntryKind {
    /// Whether something stands under the key.
    pub fn is_live(&self) -> bool {
        !matches!(self, EntryKind::Tombstone)
    }

    /// The content hash and size of a file.
    pub fn content(&self) -> Option<(ContentHash, u64)> {
        match self {
            EntryKind::File { content, size, .. } => Some((*content, *size)),
            _ => None,
        }
    }

    /// The bytes of content this holds; 0 for anything but a file.
    pub fn size(&self) -> u64 {
        self.content().map_or(0, |(_, size)| size)
    }

    /// Whether both hold the same content, whatever their metadata: equal bytes, equal link
    /// targets, or both directories or both nothing.
    pub fn same_content(&self, other: &EntryKind) -> bool {
        match (self, other) {
            (EntryKind::File { content: a, .. }, EntryKind::File { content: b, .. }) => a == b,
            (EntryKind::Symlink { target: a, .. }, EntryKind::Symlink { target: b, .. }) => a == b,
            (EntryKind::Directory { .. }, EntryKind::Directory { .. })
            | (EntryKind::Tombstone, EntryKind::Tombstone) => true,
            _ => false,
        }
    }
}

/// One key with its latest state: what is logged, sent, compared and merged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands in the share.
    pub key: Key,
    /// What stands there.
    pub kind: EntryKind,
    /// Which changes this state includes.
    pub version: Version,
    /// When the last of them was made, by its author's clock. Breaks ties, decides nothing else.
    pub stamp: Hlc,
    /// Which node made it. Named in conflict copies.
    pub author: NodeTag,
}

impl Entry {
    /// A hash of everything in the entry, over an encoding in which no two entries are alike.
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("highwater 2026-11 entry fingerprint");
        key_field(&mut hasher, &self.key);
        kind_fields(&mut hasher, &self.kind);
        hasher.update(&(self.version.counters().len() as u64).to_be_bytes());
        for (actor, seq) in self.version.counters() {
            hasher.update(&actor.0.to_be_bytes()).update(&seq.0.to_be_bytes());
        }
        hasher.update(&self.stamp.0.to_be_bytes()).update(self.author.as_bytes());
        hasher.finalize()
    }
}

/// Hashes a key so that nothing that follows can be taken for a part of it.
pub(crate) fn key_field(hasher: &mut blake3::Hasher, key: &Key) {
    field(hasher, key.as_str().as_bytes());
}

/// Hashes what stands under a key: all of its content and metadata.
pub(crate) fn kind_fields(hasher: &mut blake3::Hasher, kind: &EntryKind) {
    match kind {
        EntryKind::Tombstone => field(hasher, b"tombstone"),
        EntryKind::File { size, content, mode, mtime } => {
            field(hasher, b"file");
            hasher.update(&size.to_be_bytes()).update(content.as_bytes());
            hasher.update(&mode.bits().to_be_bytes());
            mtime_field(hasher, *mtime);
        }
        EntryKind::Symlink { target, mtime } => {
            field(hasher, b"symlink");
            field(hasher, target.as_bytes());
            mtime_field(hasher, *mtime);
        }
        EntryKind::Directory { mode } => {
            field(hasher, b"directory");
            hasher.update(&mode.bits().to_be_bytes());
        }
    }
}

fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
}

fn mtime_field(hasher: &mut blake3::Hasher, mtime: Mtime) {
    hasher.update(&mtime.seconds.to_be_bytes()).update(&mtime.nanos.to_be_bytes());
}
