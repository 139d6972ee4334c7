//! What is stored, and under which keys.
//!
//! All rows live in one ordered map. A row's key begins with a letter for its kind; rows of a share
//! go on with the share's number, so that a share can be read in order and dropped whole.
//!
//! | key | row |
//! | --- | --- |
//! | `s` name | [`ShareRow`] |
//! | `e` share, ordered entry key | [`EntryRow`] |
//! | `l` share, sequence number | [`LogRow`] |
//! | `w` share, [`WantClass`], ordered entry key | [`WantRow`] |
//! | `p` share, node id | [`PeerRow`] |
//! | `m` share, content hash, part | up to [`MANIFEST_PART_CHUNKS`] chunks of a manifest |
//! | `t` share, content hash | [`StageRow`] |
//! | `u` share, content hash, part | [`BITMAP_PART_WORDS`] words of the staged set |
//! | `d` share | [`DeepRow`] |
//! | `h` share | [`PastRow`] |
//! | `i` share | [`MarkerRow`] |
//! | `v` share, sequence number | [`RetiredRow`] |
//! | `r` share, sequence number | what earlier versions had for that; goes with its share |
//! | `f` share, ordered entry key | [`FoundRow`] |
//!
//! Values are postcard. They should stay below 7 KiB (see `sled.rs`), which is why manifests and
//! bitmaps come in parts.

use highwater_core::check::DamageCause;
use highwater_core::content::Chunk;
use highwater_core::{
    Actor, Checkpoint, ContentHash, Entry, EntryKind, Epoch, Key, LogDigest, Mtime, NodeId,
    PrefixState, Seq, ShareName,
};
use serde::{Deserialize, Serialize};

/// Chunks in one part of a stored manifest: 36 bytes each, so a part is about 2.3 KiB.
pub const MANIFEST_PART_CHUNKS: usize = 64;
/// Words in one part of a stored bitmap: 1 KiB, for 8,192 chunks.
pub const BITMAP_PART_WORDS: usize = 128;

/// A share in row keys. The number of a share that was dropped may be given out again: no row of it
/// is left by then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShareNumber(pub u32);

/// What is remembered of a share itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareRow {
    /// Its number in row keys.
    pub number: ShareNumber,
    /// The current history of this node's log of it.
    pub epoch: Epoch,
    /// Raised at every start, here and in the marker inside the share's root. When they differ, one
    /// of the two was restored from an older copy.
    pub generation: u64,
    /// What the generation is being raised to: the marker may already say so.
    pub raising: u64,
}

/// The histories that this node's log of a share had before the current one, or whose end it has
/// heard of. Who has read in one of these lags behind; who has read in another one that this store
/// does not know has met what came after this copy of the store was made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PastRow {
    /// The oldest first.
    pub epochs: Vec<Epoch>,
}

/// What is remembered of the marker inside a share's root, beside its generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MarkerRow {
    /// When its file was made.
    pub born: Mtime,
}

/// What stood at a position of this node's log that its entry has left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetiredRow {
    /// The digest of everything appended up to there.
    pub digest: LogDigest,
    /// The entry as it was.
    pub entry: Entry,
}

/// The index row of one key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryRow {
    /// Its latest state.
    pub entry: Entry,
    /// Where it stands in this node's log.
    pub seq: Seq,
    /// The stat facts by which the file on disk is known to be unchanged, in the folder's own
    /// encoding. `None`: the file must be read before it is believed.
    pub print: Option<Vec<u8>>,
    /// The actor of the peer that this state was learned from: it need not be told.
    pub learned_from: Option<Actor>,
}

/// One position of this node's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogRow {
    /// Which key moved here.
    pub key: Key,
    /// The digest of everything appended up to here.
    pub digest: LogDigest,
}

/// What is remembered of a peer, for one share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct PeerRow {
    /// How far this node has durably taken in the peer's log.
    pub pulled: Option<Checkpoint>,
    /// How far the peer said it has durably taken in this node's log.
    pub pushed: Option<Checkpoint>,
}

/// How far a content has been staged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageRow {
    /// Size of the content in bytes.
    pub size: u64,
    /// Every byte before this offset is verified and on disk: the acknowledged offset.
    pub acked: u64,
    /// The whole-content hash up to a point at or before `acked`.
    pub prefix: PrefixState,
}

/// How far a deep pass of the consistency checker has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeepRow {
    /// The check that it is for.
    pub check: [u8; 16],
    /// The last key that was looked at.
    pub after: Option<Key>,
    /// Files read so far.
    pub files: u64,
    /// Bytes read so far.
    pub bytes: u64,
    /// Keys found to differ so far.
    pub found: u64,
    /// Whether everything was looked at.
    pub done: bool,
    /// Bytes a second that may be read; 0 for no limit.
    pub rate: u64,
}

/// What a deep pass found under one key: something else than is on record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundRow {
    /// How it differs.
    pub cause: DamageCause,
    /// Where the record stood in the log when it was compared; a later one is to be compared anew.
    pub seq: Option<Seq>,
    /// What stands there.
    pub kind: Option<EntryKind>,
    /// Its print, in the folder's own encoding.
    pub print: Option<Vec<u8>>,
    /// Where the first and the last differing byte can lie.
    pub range: Option<(u64, u64)>,
}

/// A state that a peer has and this node has not applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WantRow {
    /// The state.
    pub entry: Entry,
    /// The actor of the peer that has exactly this state: it need not be told of it.
    pub learned_from: Option<Actor>,
}

/// Where a wanted entry stands in the order of work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WantClass {
    /// Something is to be made or replaced.
    Live,
    /// Something is to be deleted, after everything that may reuse its content.
    Tombstone,
    /// Policy keeps this node from taking it in (ignored here, or a send-only share).
    Held,
}

impl WantClass {
    /// All classes.
    pub const ALL: [WantClass; 3] = [WantClass::Live, WantClass::Tombstone, WantClass::Held];

    /// The class of an entry that policy lets in.
    pub fn of(entry: &Entry) -> Self {
        if entry.kind.is_live() { WantClass::Live } else { WantClass::Tombstone }
    }

    fn byte(self) -> u8 {
        match self {
            WantClass::Live => 0,
            WantClass::Tombstone => 1,
            WantClass::Held => 2,
        }
    }
}

pub(crate) const SHARES: &[u8] = b"s";

pub(crate) fn share_key(name: &ShareName) -> Vec<u8> {
    [SHARES, name.as_str().as_bytes()].concat()
}

pub(crate) fn in_share(kind: u8, share: ShareNumber, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + rest.len());
    key.push(kind);
    key.extend_from_slice(&share.0.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

pub(crate) fn entry_key(share: ShareNumber, key: &Key) -> Vec<u8> {
    in_share(b'e', share, &key.to_ordered_bytes())
}

pub(crate) fn log_key(share: ShareNumber, seq: Seq) -> Vec<u8> {
    in_share(b'l', share, &seq.0.to_be_bytes())
}

pub(crate) fn want_prefix(share: ShareNumber, class: WantClass) -> Vec<u8> {
    in_share(b'w', share, &[class.byte()])
}

pub(crate) fn want_key(share: ShareNumber, class: WantClass, key: &Key) -> Vec<u8> {
    let mut row = want_prefix(share, class);
    row.extend_from_slice(&key.to_ordered_bytes());
    row
}

pub(crate) fn deep_key(share: ShareNumber) -> Vec<u8> {
    in_share(b'd', share, &[])
}

pub(crate) fn found_key(share: ShareNumber, key: &Key) -> Vec<u8> {
    in_share(b'f', share, &key.to_ordered_bytes())
}

pub(crate) fn past_key(share: ShareNumber) -> Vec<u8> {
    in_share(b'h', share, &[])
}

pub(crate) fn marker_key(share: ShareNumber) -> Vec<u8> {
    in_share(b'i', share, &[])
}

pub(crate) fn retired_key(share: ShareNumber, seq: Seq) -> Vec<u8> {
    in_share(b'v', share, &seq.0.to_be_bytes())
}

pub(crate) fn peer_key(share: ShareNumber, node: &NodeId) -> Vec<u8> {
    in_share(b'p', share, node.as_bytes())
}

pub(crate) fn content_key(kind: u8, share: ShareNumber, content: &ContentHash) -> Vec<u8> {
    in_share(kind, share, content.as_bytes())
}

pub(crate) fn part_key(
    kind: u8,
    share: ShareNumber,
    content: &ContentHash,
    part: usize,
) -> Vec<u8> {
    let mut row = content_key(kind, share, content);
    row.extend_from_slice(&(part as u32).to_be_bytes());
    row
}

/// The kinds of rows that belong to a share, beside its [`ShareRow`].
pub(crate) const SHARE_KINDS: [u8; 13] = *b"elwpmtudfhriv";

/// One part of a stored manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ManifestPart(pub(crate) Vec<Chunk>);

/// Reads a stored value as the row that the letter of its key makes it, and writes it anew. For
/// those who try whether damage can be told from rows; `None` when it is told.
pub fn recode(kind: u8, value: &[u8]) -> Option<Vec<u8>> {
    match kind {
        b's' => anew::<ShareRow>(value),
        b'e' => anew::<EntryRow>(value),
        b'l' => anew::<LogRow>(value),
        b'w' => anew::<WantRow>(value),
        b'p' => anew::<PeerRow>(value),
        b'm' => anew::<ManifestPart>(value),
        b't' => anew::<StageRow>(value),
        b'u' => anew::<Vec<u64>>(value),
        b'd' => anew::<DeepRow>(value),
        b'f' => anew::<FoundRow>(value),
        b'h' => anew::<PastRow>(value),
        b'i' => anew::<MarkerRow>(value),
        b'v' => anew::<RetiredRow>(value),
        _ => None,
    }
}

fn anew<T: Serialize + for<'a> Deserialize<'a>>(value: &[u8]) -> Option<Vec<u8>> {
    postcard::from_bytes::<T>(value).ok().map(|row| encode(&row))
}

pub(crate) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    // Encoding into a growing vector cannot fail for these plain types; should one ever grow a
    // fallible part, an empty value fails to decode and is reported as damaged.
    postcard::to_allocvec(row).unwrap_or_default()
}
