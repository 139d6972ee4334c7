//! The messages of `sync.proto`, every field of them open to lies.
//!
//! The defaults are honest; a case changes the one thing that it is about. Field numbers are
//! written out again here, on purpose.

use super::proto::Message;

/// The longest range and chunk that honest peers speak of.
pub const CHUNK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A control frame with this body.
pub fn control(body: u32, message: &Message) -> Message {
    Message::new().message(body, message)
}

/// The greeting.
#[derive(Clone, Debug)]
pub struct Hello {
    /// 1 is understood.
    pub protocol: u64,
    /// For people.
    pub version: Vec<u8>,
    /// For people.
    pub name: Vec<u8>,
    /// For people.
    pub user: Vec<u8>,
    /// 16 bytes that tell two runs of one daemon apart.
    pub instance: Vec<u8>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            protocol: 1,
            version: b"0.1.0".to_vec(),
            name: b"hostile".to_vec(),
            user: b"mallory".to_vec(),
            instance: vec![0xee; 16],
        }
    }
}

impl Hello {
    /// As a control frame.
    pub fn frame(&self) -> Message {
        let hello = Message::new()
            .number(1, self.protocol)
            .bytes(2, &self.version)
            .bytes(3, &self.name)
            .bytes(4, &self.user)
            .bytes(5, &self.instance);
        control(1, &hello)
    }
}

/// A checkpoint in a log.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// 16 bytes.
    pub epoch: Vec<u8>,
    /// The position.
    pub seq: u64,
    /// 16 bytes.
    pub digest: Vec<u8>,
}

impl Checkpoint {
    fn message(&self) -> Message {
        Message::new().bytes(1, &self.epoch).number(2, self.seq).bytes(3, &self.digest)
    }
}

/// "I list this share for you."
#[derive(Clone, Debug)]
pub struct Offer {
    /// Which share.
    pub share: String,
    /// 16 bytes.
    pub epoch: Vec<u8>,
    /// The head of the hostile side's log.
    pub head: u64,
    /// How far it pretends to be in the victim's log.
    pub pulled: Option<Checkpoint>,
}

impl Offer {
    /// An offer of a log that is in this epoch and has this head.
    pub fn of(share: &str, epoch: [u8; 16], head: u64) -> Self {
        Self { share: share.to_owned(), epoch: epoch.to_vec(), head, pulled: None }
    }

    /// As a control frame.
    pub fn frame(&self) -> Message {
        let offer = Message::new().bytes(1, &self.share).bytes(2, &self.epoch).number(3, self.head);
        control(2, &self.pulled.iter().fold(offer, |o, pulled| o.message(4, &pulled.message())))
    }
}

/// "I take it back."
pub fn withdraw(share: &str) -> Message {
    control(3, &Message::new().bytes(1, share))
}

/// A piece of a log.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Which share.
    pub share: String,
    /// 16 bytes.
    pub epoch: Vec<u8>,
    /// Where it begins.
    pub after: u64,
    /// Where it ends.
    pub upto: u64,
    /// 16 bytes.
    pub digest: Vec<u8>,
    /// The head.
    pub head: u64,
    /// Entries, encoded.
    pub entries: Vec<Message>,
}

impl Batch {
    /// These entries at the positions behind `after`, one each.
    pub fn of(share: &str, epoch: [u8; 16], after: u64, entries: &[Entry]) -> Self {
        let upto = after + entries.len() as u64;
        let placed = (after + 1..).zip(entries);
        let entries = placed.map(|(seq, e)| Entry { seq, ..e.clone() }.message()).collect();
        let (epoch, digest) = (epoch.to_vec(), vec![7; 16]);
        Self { share: share.to_owned(), epoch, after, upto, digest, head: upto, entries }
    }

    /// As a control frame.
    pub fn frame(&self) -> Message {
        let batch = Message::new()
            .bytes(1, &self.share)
            .bytes(2, &self.epoch)
            .number(3, self.after)
            .number(4, self.upto)
            .bytes(5, &self.digest)
            .number(6, self.head);
        let records = self.entries.iter().fold(Message::new(), |all, entry| all.record(entry));
        control(4, &batch.message(7, &records))
    }
}

/// One entry of a log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position.
    pub seq: u64,
    /// Where it lies, not necessarily UTF-8.
    pub key: Vec<u8>,
    /// Actors and their counters.
    pub version: Vec<(u64, u64)>,
    /// The hybrid clock.
    pub stamp: u64,
    /// 5 bytes.
    pub author: Vec<u8>,
    /// What stands there, with its field number.
    pub kind: Option<(u32, Message)>,
}

impl Entry {
    /// Something under this key, by an actor that nobody knows.
    pub fn new(key: &str, kind: (u32, Message)) -> Self {
        Self {
            seq: 1,
            key: key.as_bytes().to_vec(),
            version: vec![(0xbad, 1)],
            stamp: STAMP,
            author: vec![9; 5],
            kind: Some(kind),
        }
    }

    /// A file of these bytes.
    pub fn file(key: &str, content: &[u8]) -> Self {
        let hash = blake3::hash(content);
        Self::new(key, file(content.len() as u64, hash.as_bytes(), 0o644, mtime(0, 0)))
    }

    /// A symbolic link.
    pub fn symlink(key: &str, target: &str) -> Self {
        Self::new(key, symlink(target))
    }

    /// A directory.
    pub fn directory(key: &str) -> Self {
        Self::new(key, directory(0o755))
    }

    /// Nothing any more.
    pub fn tombstone(key: &str) -> Self {
        Self::new(key, (6, Message::new()))
    }

    /// With this version.
    #[must_use]
    pub fn version(mut self, counters: &[(u64, u64)]) -> Self {
        self.version = counters.to_vec();
        self
    }

    /// With this stamp.
    #[must_use]
    pub fn stamp(mut self, stamp: u64) -> Self {
        self.stamp = stamp;
        self
    }

    /// As it is carried in a batch.
    pub fn message(&self) -> Message {
        let mut entry = Message::new().number(1, self.seq).bytes(2, &self.key);
        for (actor, seq) in &self.version {
            entry = entry.message(3, &Message::new().fixed(1, *actor).number(2, *seq));
        }
        entry = entry.fixed(4, self.stamp).bytes(5, &self.author);
        self.kind.iter().fold(entry, |entry, (field, kind)| entry.message(*field, kind))
    }
}

/// The stamp of 2020-09-13 12:26:40 UTC: past, so that local edits are later.
pub const STAMP: u64 = 1_600_000_000_000 << 16;

/// A file.
pub fn file(size: u64, content: &[u8], mode: u64, mtime: Message) -> (u32, Message) {
    let file = Message::new().number(1, size).bytes(2, content).number(3, mode);
    (7, file.message(4, &mtime))
}

/// A symbolic link.
pub fn symlink(target: impl AsRef<[u8]>) -> (u32, Message) {
    (8, Message::new().bytes(1, target).message(2, &mtime(0, 0)))
}

/// A directory.
pub fn directory(mode: u64) -> (u32, Message) {
    (9, Message::new().number(1, mode))
}

/// A modification time.
pub fn mtime(seconds: i64, nanos: u64) -> Message {
    Message::new().signed(1, seconds).number(2, nanos)
}

/// "Durable with me up to here."
pub fn ack(share: &str, checkpoint: &Checkpoint) -> Message {
    control(5, &Message::new().bytes(1, share).message(2, &checkpoint.message()))
}

/// Where the hostile side pretends to stand.
pub fn standing(share: &str, epoch: &[u8], head: u64, entries: u64, bytes: u64) -> Message {
    let standing = Message::new().bytes(1, share).bytes(2, epoch).number(3, head);
    control(6, &standing.number(4, entries).number(5, bytes))
}

/// "Are you there?"
pub fn ping(number: u64) -> Message {
    control(7, &Message::new().number(1, number))
}

/// "I am."
pub fn pong(number: u64) -> Message {
    control(8, &Message::new().number(1, number))
}

/// Why the link ends.
pub fn goodbye(reason: u64) -> Message {
    Message::new().number(9, reason)
}

/// A request with this ask, which is a field of its own: 3 manifest, 4 range, 5 smalls.
pub fn request(id: u64, share: &str, ask: u32, what: impl AsRef<[u8]>) -> Message {
    let request = Message::new().number(1, id).bytes(2, share).bytes(ask, what);
    Message::new().message(1, &request)
}

/// A request for a range.
pub fn range(id: u64, share: &str, content: &[u8], offset: u64, length: u64) -> Message {
    let range = Message::new().bytes(1, content).number(2, offset).number(3, length);
    request(id, share, 4, range.encoded())
}

/// "I do not want it any more."
pub fn cancel(id: u64) -> Message {
    Message::new().message(2, &Message::new().number(1, id))
}

/// A part of an answer, which is a field of its own: 2 manifest, 3 data, 4 small, 5 refused small.
pub fn reply(id: u64, part: u32, what: impl AsRef<[u8]>) -> Message {
    Message::new().message(3, &Message::new().number(1, id).bytes(part, what))
}

/// A refusal of a request.
pub fn refused(id: u64, reason: u64) -> Message {
    Message::new().message(3, &Message::new().number(1, id).number(6, reason))
}

/// Chunk ids and lengths as a part of a manifest.
pub fn manifest_part(id: u64, chunks: &[([u8; 32], u32)], last: bool) -> Message {
    let records: Vec<u8> = chunks
        .iter()
        .flat_map(|(id, length)| id.iter().copied().chain(length.to_be_bytes()))
        .collect();
    let part = Message::new().bytes(1, records).number(2, u64::from(last));
    reply(id, 2, part.encoded())
}

/// A small content.
pub fn small(id: u64, index: u64, data: &[u8]) -> Message {
    reply(id, 4, Message::new().number(1, index).bytes(2, data).encoded())
}

/// "Durable with me before this offset."
pub fn acked(share: &str, content: &[u8], offset: u64, size: u64) -> Message {
    let acked = Message::new().bytes(1, share).bytes(2, content);
    Message::new().message(4, &acked.number(3, offset).number(4, size))
}

/// "What you sent was wrong."
pub fn mismatch(share: &str, content: &[u8], offset: u64, length: u64) -> Message {
    let mismatch = Message::new().bytes(1, share).bytes(2, content);
    Message::new().message(5, &mismatch.number(3, offset).number(4, length))
}
