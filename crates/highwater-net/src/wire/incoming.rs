//! Frames become messages here, or are refused with the name of the field and the rule it broke.

use bytes::Bytes;
use highwater_core::check::AskId;
use highwater_core::chunk::{CHUNK_BYTES_MAX, SMALL_BYTES_MAX};
use highwater_core::content::{CONTENT_BYTES_MAX, Chunk, ChunkId, ContentHash};
use highwater_core::log::{Actor, LogDigest};
use highwater_core::version::{ACTORS_MAX, Version};
use highwater_core::wire::{
    Ack, Acked, Ask, BATCH_ENTRIES_MAX, Batch, Content, Control, DATA_BYTES_MAX, Goodbye, Hello,
    MANIFEST_PART_MAX, Offer, RANGE_BYTES_MAX, Refusal, Reply, RequestId, SMALLS_MAX, Standing,
    TEXT_BYTES_MAX,
};
use highwater_core::{
    Checkpoint, Entry, EntryKind, Epoch, Hlc, InstanceId, Key, Mode, Mtime, NodeId, NodeTag, Seq,
    ShareName,
};
use prost::Message;

use super::{CHUNK_RECORD_BYTES, HASH_BYTES, check, members};
use crate::proto;

/// A frame that breaks the protocol. Nothing of it was taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub(crate) struct BadFrame {
    /// Which field, as `sync.proto` names it.
    pub(crate) field: &'static str,
    /// What it should have been.
    pub(crate) rule: String,
}

/// Positions, offsets and sizes end below this: what file systems can address, and far enough
/// from the end of `u64` that sums of two do not overflow.
pub(super) const NUMBER_MAX: u64 = i64::MAX as u64;
/// Longest target of a symlink in bytes: Linux `PATH_MAX` less the terminating NUL.
const TARGET_BYTES_MAX: usize = 4095;

/// Reads a frame of the control stream.
pub(crate) fn control(frame: proto::ControlFrame) -> Result<Control, BadFrame> {
    use proto::control_frame::Body;
    Ok(match required("body", frame.body)? {
        Body::Hello(body) => Control::Hello(hello(body)?),
        Body::Offer(body) => Control::Offer(offer(body)?),
        Body::Withdraw(body) => Control::Withdraw(share(&body.share)?),
        Body::Batch(body) => Control::Batch(batch(body)?),
        Body::Ack(body) => Control::Ack(Ack {
            share: share(&body.share)?,
            checkpoint: checkpoint(required("ack.checkpoint", body.checkpoint)?)?,
        }),
        Body::Standing(body) => Control::Standing(standing(body)?),
        Body::CheckAsk(body) => Control::CheckAsk {
            id: AskId(body.id),
            share: share(&body.share)?,
            ask: check::ask(required("check_ask.ask", body.ask)?)?,
        },
        Body::CheckAnswer(body) => Control::CheckAnswer {
            id: AskId(body.id),
            answer: check::answer(required("check_answer.answer", body.answer)?)?,
        },
        Body::Ping(body) => Control::Ping(body.number),
        Body::Pong(body) => Control::Pong(body.number),
        Body::Goodbye(reason) => Control::Goodbye(goodbye(reason)?),
        Body::Kin(body) => Control::Kin(members::kin(&body)?),
        Body::Roll(body) => Control::Roll(members::roll(&body)?),
        Body::News(body) => Control::News(members::news(body)?),
        Body::Probe(body) => Control::Probe {
            target: NodeId::from_bytes(exactly("probe.target", &body.target)?),
            number: number("probe.number", body.number)?,
        },
        Body::Probed(body) => {
            Control::Probed { number: number("probed.number", body.number)?, alive: body.alive }
        }
        Body::Vitals(body) => Control::Vitals(members::vitals(&body)?),
    })
}

/// Reads a frame of the content stream.
pub(crate) fn content(frame: proto::ContentFrame) -> Result<Content, BadFrame> {
    use proto::content_frame::Body;
    Ok(match required("body", frame.body)? {
        Body::Request(body) => Content::Request {
            id: RequestId(body.id),
            share: share(&body.share)?,
            ask: ask(required("request.ask", body.ask)?)?,
        },
        Body::Cancel(body) => Content::Cancel(RequestId(body.id)),
        Body::Reply(body) => Content::Reply {
            id: RequestId(body.id),
            reply: reply(required("reply.part", body.part)?)?,
        },
        Body::Acked(body) => Content::Acked(acked(&body)?),
        Body::Mismatch(body) => mismatch(&body)?,
    })
}

fn hello(body: proto::Hello) -> Result<Hello, BadFrame> {
    Ok(Hello {
        protocol: body.protocol,
        version: text("hello.version", body.version)?,
        name: text("hello.name", body.name)?,
        user: text("hello.user", body.user)?,
        instance: InstanceId(exactly("hello.instance", &body.instance)?),
    })
}

fn offer(body: proto::Offer) -> Result<Offer, BadFrame> {
    Ok(Offer {
        share: share(&body.share)?,
        epoch: Epoch(exactly("offer.epoch", &body.epoch)?),
        head: position("offer.head", body.head)?,
        pulled: body.pulled.map(checkpoint).transpose()?,
    })
}

fn batch(body: proto::Batch) -> Result<Batch, BadFrame> {
    let after = position("batch.after", body.after)?;
    let upto = position("batch.upto", body.upto)?;
    let head = position("batch.head", body.head)?;
    ensure("batch.upto", "must not lie before batch.after", after <= upto)?;
    ensure("batch.head", "must not lie before batch.upto", upto <= head)?;
    let (mut entries, mut records) = (Vec::new(), body.entries);
    let mut last = after;
    while !records.is_empty() {
        ensure("batch.entries", "must be at most 512", entries.len() < BATCH_ENTRIES_MAX)?;
        let logged = proto::LoggedEntry::decode_length_delimited(&mut records)
            .map_err(|error| bad("batch.entries", format!("cannot be decoded: {error}")))?;
        let seq = position("entry.seq", logged.seq)?;
        let rises = last < seq && seq <= upto;
        ensure("entry.seq", "must rise, within (after, upto]", rises)?;
        last = seq;
        entries.push((seq, entry(logged)?));
    }
    let epoch = Epoch(exactly("batch.epoch", &body.epoch)?);
    let digest = LogDigest(exactly("batch.digest", &body.digest)?);
    Ok(Batch { share: share(&body.share)?, epoch, after, upto, digest, head, entries })
}

pub(super) fn entry(logged: proto::LoggedEntry) -> Result<Entry, BadFrame> {
    Ok(Entry {
        key: Key::new(&logged.key)
            .map_err(|error| bad("entry.key", format!("refused: {error}")))?,
        kind: kind(required("entry.kind", logged.kind)?)?,
        version: version(&logged.version)?,
        stamp: Hlc(logged.stamp),
        author: NodeTag::from_bytes(exactly("entry.author", &logged.author)?),
    })
}

fn version(counters: &[proto::Counter]) -> Result<Version, BadFrame> {
    let field = "entry.version";
    ensure(field, "must name 1 to 256 actors", (1..=ACTORS_MAX).contains(&counters.len()))?;
    let rises = counters.windows(2).all(|pair| pair[0].actor < pair[1].actor);
    ensure(field, "must name each actor once, in order", rises)?;
    for counter in counters {
        ensure("entry.version.seq", "must not be 0", counter.seq > 0)?;
        position("entry.version.seq", counter.seq)?;
    }
    Ok(Version::from_counters(counters.iter().map(|c| (Actor(c.actor), Seq(c.seq)))))
}

pub(super) fn kind(kind: proto::logged_entry::Kind) -> Result<EntryKind, BadFrame> {
    use proto::logged_entry::Kind;
    Ok(match kind {
        Kind::Tombstone(proto::Tombstone {}) => EntryKind::Tombstone,
        Kind::File(file) => {
            let (size, content) = (file.size, hash("file.content", &file.content)?);
            ensure("file.size", "must be at most 8 TiB", size <= CONTENT_BYTES_MAX)?;
            let alike = (size == 0) == (content == ContentHash::of(b""));
            ensure("file.content", "must be the hash of nothing just where size is 0", alike)?;
            EntryKind::File { size, content, mode: mode(file.mode)?, mtime: mtime(file.mtime)? }
        }
        Kind::Symlink(link) => {
            let length = (1..=TARGET_BYTES_MAX).contains(&link.target.len());
            ensure("symlink.target", "must have 1 to 4095 bytes", length)?;
            ensure("symlink.target", "must not contain NUL", !link.target.contains('\0'))?;
            EntryKind::Symlink { mtime: mtime(link.mtime)?, target: link.target }
        }
        Kind::Directory(directory) => EntryKind::Directory { mode: mode(directory.mode)? },
    })
}

fn mode(bits: u32) -> Result<Mode, BadFrame> {
    ensure("mode", "must be at most 0777", bits <= 0o777)?;
    Ok(Mode::new(bits))
}

fn mtime(mtime: Option<proto::Mtime>) -> Result<Mtime, BadFrame> {
    let mtime = required("mtime", mtime)?;
    ensure("mtime.nanos", "must be below 1,000,000,000", mtime.nanos < 1_000_000_000)?;
    Ok(Mtime { seconds: mtime.seconds, nanos: mtime.nanos })
}

fn checkpoint(body: proto::Checkpoint) -> Result<Checkpoint, BadFrame> {
    Ok(Checkpoint {
        epoch: Epoch(exactly("checkpoint.epoch", &body.epoch)?),
        seq: position("checkpoint.seq", body.seq)?,
        digest: LogDigest(exactly("checkpoint.digest", &body.digest)?),
    })
}

fn standing(body: proto::Standing) -> Result<Standing, BadFrame> {
    Ok(Standing {
        share: share(&body.share)?,
        epoch: Epoch(exactly("standing.epoch", &body.epoch)?),
        head: position("standing.head", body.head)?,
        needed_entries: number("standing.needed_entries", body.needed_entries)?,
        needed_bytes: number("standing.needed_bytes", body.needed_bytes)?,
    })
}

fn goodbye(reason: i32) -> Result<Goodbye, BadFrame> {
    use proto::GoodbyeReason as Wire;
    match Wire::try_from(reason) {
        Ok(Wire::GoodbyeStopping) => Ok(Goodbye::Stopping),
        Ok(Wire::GoodbyeReplaced) => Ok(Goodbye::Replaced),
        Ok(Wire::GoodbyeIdentityInUse) => Ok(Goodbye::IdentityInUse),
        Ok(Wire::GoodbyeProtocol) => Ok(Goodbye::Protocol),
        Ok(Wire::GoodbyeMisbehaved) => Ok(Goodbye::Misbehaved),
        Ok(Wire::GoodbyeNotAPeer) => Ok(Goodbye::NotAPeer),
        Ok(Wire::GoodbyeNotNeeded) => Ok(Goodbye::NotNeeded),
        Ok(Wire::GoodbyeUnspecified) | Err(_) => {
            Err(bad("goodbye", format!("has the unknown reason {reason}")))
        }
    }
}

fn ask(ask: proto::request::Ask) -> Result<Ask, BadFrame> {
    use proto::request::Ask as Wire;
    Ok(match ask {
        Wire::Manifest(content) => Ask::Manifest(hash("request.manifest", &content)?),
        Wire::Range(range) => {
            let length = (1..=RANGE_BYTES_MAX).contains(&range.length);
            ensure("range.length", "must be 1 byte to 4 MiB", length)?;
            number("range.offset", range.offset)?;
            number("range.offset", range.offset.saturating_add(range.length))?;
            let content = hash("range.content", &range.content)?;
            Ask::Range { content, offset: range.offset, length: range.length }
        }
        Wire::Smalls(contents) => {
            let field = "request.smalls";
            let whole = contents.len().is_multiple_of(HASH_BYTES);
            ensure(field, "must be whole hashes of 32 bytes", whole)?;
            let count = contents.len() / HASH_BYTES;
            ensure(field, "must be 1 to 256 hashes", (1..=SMALLS_MAX).contains(&count))?;
            let hashes = contents.chunks_exact(HASH_BYTES).map(|bytes| hash(field, bytes));
            Ask::Smalls(hashes.collect::<Result<_, _>>()?)
        }
        Wire::Measure(length) => {
            let fits = (1..=RANGE_BYTES_MAX).contains(&length);
            ensure("request.measure", "must be 1 byte to 4 MiB", fits)?;
            Ask::Measure(length)
        }
    })
}

fn reply(part: proto::reply::Part) -> Result<Reply, BadFrame> {
    use proto::reply::Part;
    Ok(match part {
        Part::Manifest(part) => Reply::Manifest { chunks: chunks(&part.chunks)?, last: part.last },
        Part::Data(data) => {
            let length = (1..=DATA_BYTES_MAX).contains(&data.len());
            ensure("reply.data", "must be 1 byte to 256 KiB", length)?;
            Reply::Bytes(data)
        }
        Part::Small(small) => {
            let fits = small.data.len() as u64 <= SMALL_BYTES_MAX;
            ensure("small.data", "must be at most 64 KiB", fits)?;
            Reply::Small { index: small_index(small.index)?, bytes: small.data }
        }
        Part::SmallRefused(refused) => Reply::SmallRefused {
            index: small_index(refused.index)?,
            refusal: refusal(refused.refusal)?,
        },
        Part::Refused(reason) => Reply::Refused(refusal(reason)?),
    })
}

fn chunks(records: &Bytes) -> Result<Vec<Chunk>, BadFrame> {
    let field = "manifest.chunks";
    let whole = records.len().is_multiple_of(CHUNK_RECORD_BYTES);
    ensure(field, "must be whole records of 36 bytes", whole)?;
    let count = records.len() / CHUNK_RECORD_BYTES;
    ensure(field, "must be at most 4096 records", count <= MANIFEST_PART_MAX)?;
    records.chunks_exact(CHUNK_RECORD_BYTES).map(chunk).collect()
}

fn chunk(record: &[u8]) -> Result<Chunk, BadFrame> {
    let (id, length) = record.split_at(HASH_BYTES);
    let length = u32::from_be_bytes(exactly("manifest.chunks", length)?);
    let fits = (1..=CHUNK_BYTES_MAX).contains(&(length as usize));
    ensure("manifest.chunks", "must be 1 byte to 4 MiB long each", fits)?;
    Ok(Chunk { id: ChunkId::from_bytes(exactly("manifest.chunks", id)?), length })
}

fn small_index(index: u32) -> Result<u32, BadFrame> {
    ensure("small.index", "must be below 256", (index as usize) < SMALLS_MAX)?;
    Ok(index)
}

fn refusal(reason: i32) -> Result<Refusal, BadFrame> {
    use proto::RefusalReason as Wire;
    match Wire::try_from(reason) {
        Ok(Wire::RefusalLacks) => Ok(Refusal::Lacks),
        Ok(Wire::RefusalChanged) => Ok(Refusal::Changed),
        Ok(Wire::RefusalCorrupt) => Ok(Refusal::Corrupt),
        Ok(Wire::RefusalReadFailed) => Ok(Refusal::ReadFailed),
        Ok(Wire::RefusalBusy) => Ok(Refusal::Busy),
        Ok(Wire::RefusalUnspecified) | Err(_) => {
            Err(bad("refusal", format!("has the unknown reason {reason}")))
        }
    }
}

fn acked(body: &proto::Acked) -> Result<Acked, BadFrame> {
    let size = number("acked.size", body.size)?;
    ensure("acked.offset", "must not lie beyond acked.size", body.offset <= size)?;
    let content = hash("acked.content", &body.content)?;
    Ok(Acked { share: share(&body.share)?, content, offset: body.offset, size })
}

fn mismatch(body: &proto::Mismatch) -> Result<Content, BadFrame> {
    let fits = (1..=CHUNK_BYTES_MAX).contains(&(body.length as usize));
    ensure("mismatch.length", "must be 1 byte to 4 MiB", fits)?;
    number("mismatch.offset", body.offset)?;
    number("mismatch.offset", body.offset.saturating_add(u64::from(body.length)))?;
    Ok(Content::Mismatch {
        share: share(&body.share)?,
        content: hash("mismatch.content", &body.content)?,
        offset: body.offset,
        length: body.length,
    })
}

pub(super) fn share(name: &str) -> Result<ShareName, BadFrame> {
    name.parse().map_err(|error| bad("share", format!("refused: {error}")))
}

fn text(field: &'static str, text: String) -> Result<String, BadFrame> {
    ensure(field, "must have at most 512 bytes", text.len() <= TEXT_BYTES_MAX)?;
    printable(field, text)
}

pub(super) fn printable(field: &'static str, text: String) -> Result<String, BadFrame> {
    ensure(field, "must be printable", !text.chars().any(is_unprintable))?;
    Ok(text)
}

/// Whether a character does something to a terminal or a line instead of standing in it: control
/// characters, and those that turn the direction of what follows.
fn is_unprintable(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

pub(super) fn position(field: &'static str, seq: u64) -> Result<Seq, BadFrame> {
    number(field, seq).map(Seq)
}

pub(super) fn number(field: &'static str, number: u64) -> Result<u64, BadFrame> {
    ensure(field, "must be below 2^63", number <= NUMBER_MAX)?;
    Ok(number)
}

fn hash(field: &'static str, bytes: &[u8]) -> Result<ContentHash, BadFrame> {
    exactly(field, bytes).map(ContentHash::from_bytes)
}

pub(super) fn exactly<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], BadFrame> {
    bytes.try_into().map_err(|_| bad(field, format!("must have {N} bytes, has {}", bytes.len())))
}

pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, BadFrame> {
    value.ok_or_else(|| bad(field, "is missing or unknown".to_owned()))
}

pub(super) fn ensure(field: &'static str, rule: &'static str, holds: bool) -> Result<(), BadFrame> {
    if holds { Ok(()) } else { Err(bad(field, rule.to_owned())) }
}

pub(super) fn bad(field: &'static str, rule: String) -> BadFrame {
    BadFrame { field, rule }
}
