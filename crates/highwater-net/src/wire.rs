//! The translation between frames on the wire and messages of `highwater_core::wire`.
//!
//! Outwards it is plain: whatever the core can say, the wire can carry. Inwards, in
//! [`incoming`], nothing is believed: every length, count, position and text is checked, and what
//! breaks a rule is refused with the name of the field.

mod check;
#[cfg(test)]
mod check_tests;
mod incoming;
mod members;
#[cfg(test)]
mod tests;
mod way;

use bytes::{BufMut, Bytes, BytesMut};
use highwater_core::content::{Chunk, ContentHash};
use highwater_core::wire as core;
use highwater_core::{Checkpoint, Entry, EntryKind, Mtime, Seq, Version};
use prost::Message;

use crate::proto;

pub(crate) use incoming::{BadFrame, content, control};
pub(crate) use members::{card_body, card_facts, decision, order_body};

/// Reads a control message as it lies on the wire, behind its gRPC prefix.
///
/// # Errors
/// The rule that it breaks.
pub fn read_control(bytes: &[u8]) -> Result<core::Control, String> {
    let frame = proto::ControlFrame::decode(bytes).map_err(|error| error.to_string())?;
    control(frame).map_err(|bad| bad.to_string())
}

/// Writes a control message as [`read_control`] reads it.
pub fn write_control(message: core::Control) -> Vec<u8> {
    proto::ControlFrame::from(message).encode_to_vec()
}

/// What a control message takes on the stream, its gRPC prefix included; what TLS and TCP add is not.
pub fn wire_bytes(message: &core::Control) -> u64 {
    const PREFIX_BYTES: usize = 5;
    let frame = proto::ControlFrame::from(message.clone());
    (frame.encoded_len() + PREFIX_BYTES) as u64
}

/// Reads a content message as it lies on the wire, behind its gRPC prefix.
///
/// # Errors
/// The rule that it breaks.
pub fn read_content(bytes: &[u8]) -> Result<core::Content, String> {
    let frame = proto::ContentFrame::decode(bytes).map_err(|error| error.to_string())?;
    content(frame).map_err(|bad| bad.to_string())
}

/// Writes a content message as [`read_content`] reads it.
pub fn write_content(message: core::Content) -> Vec<u8> {
    proto::ContentFrame::from(message).encode_to_vec()
}

/// Bytes of one chunk in a part of a manifest: its id and its length.
const CHUNK_RECORD_BYTES: usize = 36;
/// Most bytes of the length before a record of a batch, as a varint.
const RECORD_LENGTH_BYTES_MAX: usize = 10;
/// Bytes of one content hash.
const HASH_BYTES: usize = 32;

/// An upper bound of what `entry` adds to a batch on the wire. A batch whose entries add up to
/// less than [`MESSAGE_BYTES_MAX`](core::MESSAGE_BYTES_MAX) minus 1 KiB fits into one message.
pub fn entry_bytes_max(entry: &Entry) -> usize {
    /// Everything of fixed length, with tags and the longest varints: 96 bytes, rounded up.
    const FIXED: usize = 128;
    /// Tag and length, an actor with its tag, a counter with its tag.
    const COUNTER: usize = 2 + 9 + 11;
    let target = match &entry.kind {
        EntryKind::Symlink { target, .. } => target.len(),
        _ => 0,
    };
    FIXED + entry.key.as_str().len() + target + entry.version.counters().len() * COUNTER
}

impl From<core::Control> for proto::ControlFrame {
    fn from(message: core::Control) -> Self {
        use proto::control_frame::Body;
        let body = match message {
            core::Control::Hello(hello) => Body::Hello(hello.into()),
            core::Control::Offer(offer) => Body::Offer(offer.into()),
            core::Control::Withdraw(share) => {
                Body::Withdraw(proto::Withdraw { share: share.into() })
            }
            core::Control::Batch(batch) => Body::Batch(batch.into()),
            core::Control::Ack(ack) => Body::Ack(proto::Ack {
                share: ack.share.into(),
                checkpoint: Some(ack.checkpoint.into()),
            }),
            core::Control::Standing(standing) => Body::Standing(standing.into()),
            core::Control::CheckAsk { id, share, ask } => Body::CheckAsk(proto::CheckAsk {
                id: id.0,
                share: share.into(),
                ask: Some(ask.into()),
            }),
            core::Control::CheckAnswer { id, answer } => {
                Body::CheckAnswer(proto::CheckAnswer { id: id.0, answer: Some(answer.into()) })
            }
            core::Control::Ping(number) => Body::Ping(proto::Ping { number }),
            core::Control::Pong(number) => Body::Pong(proto::Pong { number }),
            core::Control::Goodbye(reason) => {
                Body::Goodbye(proto::GoodbyeReason::from(reason).into())
            }
            core::Control::Kin(shares) => Body::Kin(members::kin_out(&shares)),
            core::Control::Roll(rows) => Body::Roll(members::roll_out(&rows)),
            core::Control::News(gossip) => Body::News(members::news_out(&gossip)),
            core::Control::Probe { target, number } => {
                Body::Probe(proto::Probe { target: copy(target.as_bytes()), number })
            }
            core::Control::Probed { number, alive } => {
                Body::Probed(proto::Probed { number, alive })
            }
            core::Control::Vitals(vitals) => Body::Vitals(members::vitals_out(&vitals)),
        };
        Self { body: Some(body) }
    }
}

impl From<core::Hello> for proto::Hello {
    fn from(hello: core::Hello) -> Self {
        Self {
            protocol: hello.protocol,
            version: hello.version,
            name: hello.name,
            user: hello.user,
            instance: copy(&hello.instance.0),
        }
    }
}

impl From<core::Offer> for proto::Offer {
    fn from(offer: core::Offer) -> Self {
        Self {
            share: offer.share.into(),
            epoch: copy(&offer.epoch.0),
            head: offer.head.0,
            pulled: offer.pulled.map(proto::Checkpoint::from),
        }
    }
}

impl From<core::Batch> for proto::Batch {
    fn from(batch: core::Batch) -> Self {
        let mut entries = BytesMut::new();
        for (seq, entry) in batch.entries {
            put_record(&mut entries, &logged(seq, entry));
        }
        Self {
            share: batch.share.into(),
            epoch: copy(&batch.epoch.0),
            after: batch.after.0,
            upto: batch.upto.0,
            digest: copy(&batch.digest.0),
            head: batch.head.0,
            entries: entries.freeze(),
        }
    }
}

impl From<core::Standing> for proto::Standing {
    fn from(standing: core::Standing) -> Self {
        Self {
            share: standing.share.into(),
            epoch: copy(&standing.epoch.0),
            head: standing.head.0,
            needed_entries: standing.needed_entries,
            // Whatever a peer has announced: our own words keep to the rules.
            needed_bytes: standing.needed_bytes.min(incoming::NUMBER_MAX),
        }
    }
}

impl From<Checkpoint> for proto::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            epoch: copy(&checkpoint.epoch.0),
            seq: checkpoint.seq.0,
            digest: copy(&checkpoint.digest.0),
        }
    }
}

impl From<core::Goodbye> for proto::GoodbyeReason {
    fn from(reason: core::Goodbye) -> Self {
        match reason {
            core::Goodbye::Stopping => Self::GoodbyeStopping,
            core::Goodbye::Replaced => Self::GoodbyeReplaced,
            core::Goodbye::IdentityInUse => Self::GoodbyeIdentityInUse,
            core::Goodbye::Protocol => Self::GoodbyeProtocol,
            core::Goodbye::Misbehaved => Self::GoodbyeMisbehaved,
            core::Goodbye::NotAPeer => Self::GoodbyeNotAPeer,
            core::Goodbye::NotNeeded => Self::GoodbyeNotNeeded,
        }
    }
}

/// A record of a list: its length, then the message.
fn put_record(records: &mut BytesMut, message: &impl Message) {
    records.reserve(message.encoded_len() + RECORD_LENGTH_BYTES_MAX);
    // There is room: it was just made, and `BytesMut` makes more where it is not.
    let _ = message.encode_length_delimited(records);
}

fn logged(seq: Seq, entry: Entry) -> proto::LoggedEntry {
    proto::LoggedEntry {
        seq: seq.0,
        key: entry.key.as_str().to_owned(),
        version: counters(&entry.version),
        stamp: entry.stamp.0,
        author: copy(entry.author.as_bytes()),
        kind: Some(kind(entry.kind)),
    }
}

fn counters(version: &Version) -> Vec<proto::Counter> {
    version.counters().map(|(actor, seq)| proto::Counter { actor: actor.0, seq: seq.0 }).collect()
}

fn kind(kind: EntryKind) -> proto::logged_entry::Kind {
    use proto::logged_entry::Kind;
    match kind {
        EntryKind::Tombstone => Kind::Tombstone(proto::Tombstone {}),
        EntryKind::File { size, content, mode, mtime } => Kind::File(proto::File {
            size,
            content: copy(content.as_bytes()),
            mode: mode.bits(),
            mtime: Some(time(mtime)),
        }),
        EntryKind::Symlink { target, mtime } => {
            Kind::Symlink(proto::Symlink { target, mtime: Some(time(mtime)) })
        }
        EntryKind::Directory { mode } => Kind::Directory(proto::Directory { mode: mode.bits() }),
    }
}

fn time(mtime: Mtime) -> proto::Mtime {
    proto::Mtime { seconds: mtime.seconds, nanos: mtime.nanos }
}

impl From<core::Content> for proto::ContentFrame {
    fn from(message: core::Content) -> Self {
        use proto::content_frame::Body;
        let body = match message {
            core::Content::Request { id, share, ask } => Body::Request(proto::Request {
                id: id.0,
                share: share.into(),
                ask: Some(ask.into()),
            }),
            core::Content::Cancel(id) => Body::Cancel(proto::Cancel { id: id.0 }),
            core::Content::Reply { id, reply } => {
                Body::Reply(proto::Reply { id: id.0, part: Some(reply.into()) })
            }
            core::Content::Acked(acked) => Body::Acked(proto::Acked {
                share: acked.share.into(),
                content: copy(acked.content.as_bytes()),
                offset: acked.offset,
                size: acked.size,
            }),
            core::Content::Mismatch { share, content, offset, length } => {
                let content = copy(content.as_bytes());
                Body::Mismatch(proto::Mismatch { share: share.into(), content, offset, length })
            }
        };
        Self { body: Some(body) }
    }
}

impl From<core::Ask> for proto::request::Ask {
    fn from(ask: core::Ask) -> Self {
        match ask {
            core::Ask::Manifest(content) => Self::Manifest(copy(content.as_bytes())),
            core::Ask::Range { content, offset, length } => {
                Self::Range(proto::Range { content: copy(content.as_bytes()), offset, length })
            }
            core::Ask::Smalls(contents) => Self::Smalls(hashes(&contents)),
            core::Ask::Measure(length) => Self::Measure(length),
        }
    }
}

impl From<core::Reply> for proto::reply::Part {
    fn from(reply: core::Reply) -> Self {
        match reply {
            core::Reply::Manifest { chunks, last } => {
                Self::Manifest(proto::ManifestPart { chunks: chunk_records(&chunks), last })
            }
            core::Reply::Bytes(data) => Self::Data(data),
            core::Reply::Small { index, bytes } => Self::Small(proto::Small { index, data: bytes }),
            core::Reply::SmallRefused { index, refusal } => {
                let refusal = proto::RefusalReason::from(refusal).into();
                Self::SmallRefused(proto::SmallRefused { index, refusal })
            }
            core::Reply::Refused(refusal) => {
                Self::Refused(proto::RefusalReason::from(refusal).into())
            }
        }
    }
}

impl From<core::Refusal> for proto::RefusalReason {
    fn from(refusal: core::Refusal) -> Self {
        match refusal {
            core::Refusal::Lacks => Self::RefusalLacks,
            core::Refusal::Changed => Self::RefusalChanged,
            core::Refusal::Corrupt => Self::RefusalCorrupt,
            core::Refusal::ReadFailed => Self::RefusalReadFailed,
            core::Refusal::Busy => Self::RefusalBusy,
        }
    }
}

fn hashes(contents: &[ContentHash]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(contents.len() * HASH_BYTES);
    for content in contents {
        bytes.put_slice(content.as_bytes());
    }
    bytes.freeze()
}

fn chunk_records(chunks: &[Chunk]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(chunks.len() * CHUNK_RECORD_BYTES);
    for chunk in chunks {
        bytes.put_slice(chunk.id.as_bytes());
        bytes.put_u32(chunk.length);
    }
    bytes.freeze()
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
