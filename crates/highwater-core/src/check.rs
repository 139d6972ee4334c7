//! What nodes ask each other when they compare their copies, and what they answer.
//!
//! One node leads a check: it asks its peers and itself the same questions. A node that is asked
//! decides nothing and remembers nothing of the check, but for a deep pass that it has begun, so an
//! ask can be repeated after a cut.

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, EntryKind};
use crate::fingerprint::{Fingerprint, KeyRange};
use crate::id::{NodeId, hex};
use crate::key::Key;
use crate::log::Seq;
use crate::way::{Near, Onward};

/// Most ranges in one ask: a few rounds of a descent in one message.
pub const CLAIMS_MAX: usize = 32;
/// A range with no more entries than this is answered with its entries.
pub const LEAF_ENTRIES_MAX: u64 = 32;
/// Ranges that a larger one is divided into.
pub const PARTS_MAX: usize = 16;
/// Most entries in one answer to a look.
pub const ITEMS_MAX: usize = 4096;
/// Most keys in one ask for states: with the longest keys and versions an answer stays within
/// 512 KiB.
pub const STATES_MAX: usize = 32;
/// Most peers whose acknowledgements are told.
pub const ACKS_MAX: usize = 256;
/// Most keys in one page of what a deep pass found.
pub const PAGE_KEYS_MAX: usize = 256;
/// Bytes of keys in one message beyond which nothing more is put into it.
pub const KEYS_BYTES_MAX: usize = 256 * 1024;

/// One run of the checker: 16 random bytes, drawn by the node that leads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub [u8; 16]);

impl std::fmt::Display for CheckId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for CheckId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

impl std::str::FromStr for CheckId {
    type Err = crate::id::ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let id = bytes.and_then(|bytes| bytes.try_into().ok());
        id.map(CheckId).ok_or(crate::id::ParseIdError::CheckId)
    }
}

/// Pairs an answer with its question. Chosen by the asking side, never reused within a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// One question about a share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckAsk {
    /// "Is this what you have?" 1 to [`CLAIMS_MAX`] ranges.
    Look(Vec<Claim>),
    /// "What do you know of these keys?" 1 to [`STATES_MAX`] keys.
    States(Vec<Key>),
    /// "Read everything again." Begins a deep pass, or says how far it is; answered when it has
    /// ended, or after a short while.
    Deep {
        /// The check that the pass is for.
        check: CheckId,
        /// Bytes a second that may be read; 0 for no limit.
        rate: u64,
        /// Whether files are to come from the disk rather than from what the system has cached.
        from_disk: bool,
    },
    /// "What is known to be damaged?" The keys behind one.
    Found {
        /// The check whose deep pass must have been made; `None` for whatever is known.
        check: Option<CheckId>,
        /// The last key that was told.
        after: Option<Key>,
    },
    /// "Mend this." 1 to [`STATES_MAX`] orders.
    Mend(Vec<Order>),
    /// "Pass this on." Answered with what the last node on the way answers.
    Onward(Onward),
}

/// What the asking node has in a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which keys.
    pub range: KeyRange,
    /// Their fingerprint.
    pub fingerprint: Fingerprint,
}

/// What a node says to a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckAnswer {
    /// To [`CheckAsk::Look`].
    Looked {
        /// Of everything that the node has.
        all: Fingerprint,
        /// Whether it knows of damage in its folder: worth asking what.
        damaged: bool,
        /// One for each range, in order; fewer when they would not fit.
        looks: Vec<Look>,
        /// With whom the node exchanges the share, if it was asked about everything; at most
        /// [`NEAR_MAX`](crate::way::NEAR_MAX).
        near: Vec<Near>,
    },
    /// To [`CheckAsk::States`].
    States(States),
    /// To [`CheckAsk::Deep`].
    Deep(DeepProgress),
    /// To [`CheckAsk::Found`]: rising keys; none when there are no more.
    Found(Vec<Key>),
    /// To [`CheckAsk::Mend`]: whether each order was taken.
    Mended(Vec<bool>),
    /// To any: not now.
    Refused(CheckRefusal),
}

/// Why a node does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckRefusal {
    /// The share is not listed for the asker, paused, or failed.
    NotOpen,
    /// The folder is not read yet, or another check is being answered. Ask again soon.
    NotNow,
    /// The store failed.
    Failed,
    /// It was to be passed on, and the next node is not linked with.
    NoWay,
}

/// What a node has in a range that it was asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look {
    /// The same.
    Same,
    /// Something else, and so little that this is all of it: keys with the first half of their
    /// digests, in order.
    Items(Vec<(Key, ItemTag)>),
    /// Something else, in up to [`PARTS_MAX`] parts: where each but the last ends, and its
    /// fingerprint.
    Parts {
        /// The first key of every part but the first, rising, inside the range.
        cuts: Vec<Key>,
        /// One more than cuts.
        parts: Vec<Fingerprint>,
    },
}

/// The first half of a state's digest: enough to tell two states of one key apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemTag(pub [u8; 16]);

impl From<crate::fingerprint::StateDigest> for ItemTag {
    fn from(digest: crate::fingerprint::StateDigest) -> Self {
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest.0[..16]);
        ItemTag(tag)
    }
}

/// What a node knows of some keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct States {
    /// Whether it has taken in everything that the peers it is connected to have told it, and they
    /// have acknowledged everything that it has.
    pub caught_up: bool,
    /// How far each peer that it is connected to has acknowledged its log; at most [`ACKS_MAX`].
    pub acked: Vec<(NodeId, Seq)>,
    /// One for each key, in order.
    pub states: Vec<KeyState>,
}

/// What one node knows of one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyState {
    /// What it has on record, and where in its log.
    pub recorded: Option<(Seq, Entry)>,
    /// What it has learned of and not put in place.
    pub wanted: Option<Wanted>,
    /// What was found in its folder instead of what it has on record.
    pub damage: Option<Damage>,
    /// What keeps it from having what others have, though nothing is wrong.
    pub hold: Option<Hold>,
}

/// A state that is to be put in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The state.
    pub entry: Entry,
    /// Whether it is known why it cannot be.
    pub stuck: Option<Stuck>,
}

/// Why something wanted is not put in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// No peer has its content.
    ContentLost,
    /// The folder does not take it; a problem says why.
    CannotPlace,
}

/// Why a node differs on purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hold {
    /// It ignores this key.
    Ignored,
    /// Its share is send-only.
    SendOnly,
    /// Its share is receive-only, and somebody changed it there.
    ReceiveOnly,
    /// A mass delete waits for a word.
    MassDelete,
}

/// How what stands in a folder differs from what the node has on record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// How it came about.
    pub cause: DamageCause,
    /// What stands there; `None` for nothing, or nothing that can be read.
    pub found: Option<EntryKind>,
    /// Where the first and the last differing byte can lie, when known.
    pub range: Option<(u64, u64)>,
}

/// How damage came about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum DamageCause {
    /// The bytes changed, and no fact by which an edit is known did.
    Rot,
    /// The bytes changed under the same inode, size and modification time.
    Hidden,
    /// The node's record contradicts itself.
    Record,
    /// It differs, and goes on to after scans: an edit that the node does not take in.
    Unrecorded,
    /// It cannot be read.
    Unreadable,
    /// It is being written.
    Changing,
}

/// How far a deep pass is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeepProgress {
    /// Whether it has ended.
    pub done: bool,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes that the index says there are.
    pub total: u64,
    /// Keys that differ.
    pub found: u64,
}

/// What a node is asked to mend. It believes nothing of it that it cannot see: content is verified
/// as any that a peer sends, and its own files are read again first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Take this state in, as if it had been announced.
    Adopt(Entry),
    /// Your file is damaged: fetch what you have on record, and keep what stands there until the
    /// new one is verified.
    Refetch(Key),
    /// Your record is damaged: if your file is this, record it so.
    Record(Entry),
    /// Read it again, as if somebody had edited it.
    Rescan(Key),
}

impl Order {
    /// Which key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Order::Adopt(entry) | Order::Record(entry) => &entry.key,
            Order::Refetch(key) | Order::Rescan(key) => key,
        }
    }
}
