//! What two nodes say to each other, as values that are already checked.
//!
//! `highwater-net` makes these from protobuf in one place and refuses what cannot be one of them:
//! hashes of the wrong length, keys that leave the share, counts beyond the limits here.
//!
//! A link carries two streams, each in both directions. On the *control* stream travel greetings,
//! offers, log batches, acknowledgements and probes; on the *content* stream requests for content
//! and the bytes that answer them. Neither waits for the other.

use bytes::Bytes;

use crate::check::{AskId, CheckAnswer, CheckAsk};
use crate::content::{Chunk, ContentHash};
use crate::entry::Entry;
use crate::id::{InstanceId, NodeId, ShareName};
use crate::log::{Checkpoint, Epoch, LogDigest, Seq};
use crate::member::{Gossip, RollRow, Vitals};

/// The protocol that this version speaks. A peer that speaks another is told so and left.
pub const PROTOCOL: u32 = 1;

/// Most entries in a batch: enough to amortise a durable commit, few enough to hold in memory.
pub const BATCH_ENTRIES_MAX: usize = 512;
/// Most log batches sent and not yet acknowledged, for each share and peer: the next one travels
/// while the last is being made durable.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Most content bytes in one message. Larger ones are slower and hold up others.
pub const DATA_BYTES_MAX: usize = 256 * 1024;
/// Most bytes asked for in one range request.
pub const RANGE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most small contents asked for in one request.
pub const SMALLS_MAX: usize = 256;
/// Most chunks in one part of a manifest: 36 bytes each keeps a part near 150 KiB.
pub const MANIFEST_PART_MAX: usize = 4096;
/// Longest message on the wire, protobuf framing included.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Longest text that a peer may send for people to read, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// A message on the control stream.
#[derive(Clone, PartialEq, Debug)]
pub enum Control {
    /// The first message of each side.
    Hello(Hello),
    /// "I list this share for you": what I have and how far I am in your log of it.
    Offer(Offer),
    /// "I no longer list this share for you, or cannot serve it now."
    Withdraw(ShareName),
    /// A piece of the sender's change log.
    Batch(Batch),
    /// "Everything in your log up to here is durable with me."
    Ack(Ack),
    /// Where the sender stands; sent when it changes.
    Standing(Standing),
    /// A question of a check that the sender leads.
    CheckAsk {
        /// Pairs the answer with this question.
        id: AskId,
        /// Which share.
        share: ShareName,
        /// The question.
        ask: CheckAsk,
    },
    /// The answer to one.
    CheckAnswer {
        /// Which question this answers.
        id: AskId,
        /// The answer.
        answer: CheckAnswer,
    },
    /// "Are you there?" Answered with [`Control::Pong`] and the same number at once.
    Ping(u64),
    /// The answer to a ping.
    Pong(u64),
    /// The sender closes the link, and says why.
    Goodbye(Goodbye),
    /// "These shares I list for you."
    Kin(Vec<ShareName>),
    /// All members that the sender knows, in short.
    Roll(Vec<RollRow>),
    /// Members that the receiver lacks. Nothing in it is verified.
    News(Gossip),
    /// "Do you reach this node?"
    Probe {
        /// Whom.
        target: NodeId,
        /// Pairs the answer with the question.
        number: u64,
    },
    /// The answer to a probe.
    Probed {
        /// Which probe.
        number: u64,
        /// Whether the target answered.
        alive: bool,
    },
    /// Signs of life of members.
    Vitals(Vitals),
}

/// Who the sender is, beyond what its certificate proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Its program version, for people.
    pub version: String,
    /// The name of the node, for people.
    pub name: String,
    /// The user whose data it keeps, for people.
    pub user: String,
    /// This run of the sender's daemon.
    pub instance: InstanceId,
}

/// One share, offered to a peer that it is listed for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Which share.
    pub share: ShareName,
    /// The history that the sender's log is in.
    pub epoch: Epoch,
    /// The last durable position of the sender's log.
    pub head: Seq,
    /// How far the sender has durably taken in the receiver's log; `None` for "never met".
    pub pulled: Option<Checkpoint>,
}

/// The changes of a log in `(after, upto]` that compaction has left. A position in that range
/// without an entry here was superseded by a later one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Which share.
    pub share: ShareName,
    /// The history that the positions are in.
    pub epoch: Epoch,
    /// The batch begins behind this position.
    pub after: Seq,
    /// The batch ends with this position; at least `after`.
    pub upto: Seq,
    /// The log's digest at `upto`.
    pub digest: LogDigest,
    /// The sender's durable head when it made the batch; at least `upto`.
    pub head: Seq,
    /// Positions and entries, by rising position, all in `(after, upto]`, at most
    /// [`BATCH_ENTRIES_MAX`].
    pub entries: Vec<(Seq, Entry)>,
}

/// How far the sender has durably taken in the receiver's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Which share.
    pub share: ShareName,
    /// The checkpoint, now durable with the sender.
    pub checkpoint: Checkpoint,
}

/// Where a node stands with a share, told to its peers so that both can say "in sync" and mean it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Which share.
    pub share: ShareName,
    /// The history that `head` is in.
    pub epoch: Epoch,
    /// The last durable position of the sender's log.
    pub head: Seq,
    /// Entries that the sender knows of and has not applied.
    pub needed_entries: u64,
    /// Content bytes of those.
    pub needed_bytes: u64,
}

/// Why a link is closed on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goodbye {
    /// The daemon is stopping.
    Stopping,
    /// A newer link of the same node has taken over.
    Replaced,
    /// Two live daemons use one identity.
    IdentityInUse,
    /// The other side speaks a protocol that this side does not.
    Protocol,
    /// The other side broke the protocol.
    Misbehaved,
    /// The other side is no longer a peer.
    NotAPeer,
    /// The two reach each other through others, and have links enough.
    NotNeeded,
}

/// Pairs an answer with its request. Chosen by the asking side, never reused within a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// A message on the content stream.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// "Send me this."
    Request {
        /// Pairs the answers with this request.
        id: RequestId,
        /// The share that the content is in; never answered from another.
        share: ShareName,
        /// What is wanted.
        ask: Ask,
    },
    /// "I no longer want the answer." Answers already under way still arrive.
    Cancel(RequestId),
    /// A part of an answer.
    Reply {
        /// Which request this answers.
        id: RequestId,
        /// The part.
        reply: Reply,
    },
    /// "This much of this content, in order from its beginning, is durable with me."
    Acked(Acked),
    /// "What you sent for this range is not what its hash says." The receiver verifies its file.
    Mismatch {
        /// The share that the content is in.
        share: ShareName,
        /// Which content.
        content: ContentHash,
        /// Where the bad chunk begins.
        offset: u64,
        /// How long it is.
        length: u32,
    },
}

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The chunks of a content larger than [`SMALL_BYTES_MAX`](crate::SMALL_BYTES_MAX).
    Manifest(ContentHash),
    /// A range of a content, at most [`RANGE_BYTES_MAX`] long. The end does not overflow.
    Range {
        /// Which content.
        content: ContentHash,
        /// Where the range begins.
        offset: u64,
        /// How long it is; 1 or more.
        length: u64,
    },
    /// Up to [`SMALLS_MAX`] small contents, each answered by one [`Reply::Small`] or
    /// [`Reply::SmallRefused`], in any order.
    Smalls(Vec<ContentHash>),
    /// So many bytes of anything, 1 to [`RANGE_BYTES_MAX`], to measure the line. They are sent while
    /// nothing else is.
    Measure(u64),
}

/// A part of an answer. An answer ends with its last part or a refusal.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The next chunks of a manifest, in order.
    Manifest {
        /// At most [`MANIFEST_PART_MAX`].
        chunks: Vec<Chunk>,
        /// Whether these are the last.
        last: bool,
    },
    /// The next bytes of a range, in order, at most [`DATA_BYTES_MAX`]. The request's length says
    /// which are the last.
    Bytes(Bytes),
    /// One small content, whole.
    Small {
        /// Its place in the request.
        index: u32,
        /// All its bytes.
        bytes: Bytes,
    },
    /// One small content that cannot be had here.
    SmallRefused {
        /// Its place in the request.
        index: u32,
        /// Why.
        refusal: Refusal,
    },
    /// The whole request, or the rest of it, cannot be answered.
    Refused(Refusal),
}

impl Reply {
    /// Bytes of content in it.
    pub fn content_bytes(&self) -> u64 {
        match self {
            Reply::Bytes(bytes) | Reply::Small { bytes, .. } => bytes.len() as u64,
            Reply::Manifest { .. } | Reply::SmallRefused { .. } | Reply::Refused(_) => 0,
        }
    }
}

/// Why a content was not sent. Each asks for another reaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This node does not hold that content, or not in a share that the asker may see. Ask another.
    Lacks,
    /// The file has changed since it was announced; a newer version will follow. Wait for it.
    Changed,
    /// The file's bytes no longer match what was recorded, and no edit explains it. Ask another.
    Corrupt,
    /// Reading failed. Ask another, or again later.
    ReadFailed,
    /// Too many requests at once. Ask again when others have been answered.
    Busy,
}

/// The acknowledged offset of one transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acked {
    /// The share that the content is in.
    pub share: ShareName,
    /// Which content.
    pub content: ContentHash,
    /// Everything before this offset is durable with the sender of this message.
    pub offset: u64,
    /// The size of the content.
    pub size: u64,
}
