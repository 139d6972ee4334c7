//! What the wire carries comes out as it went in; what breaks a rule is refused by name.

use bytes::{Bytes, BytesMut};
use highwater_core::chunk::CHUNK_BYTES_MAX;
use highwater_core::content::{CONTENT_BYTES_MAX, Chunk, ChunkId, ContentHash};
use highwater_core::log::{Actor, LogDigest};
use highwater_core::wire::{
    Ack, Acked, Ask, Batch, Content, Control, Goodbye, Hello, MESSAGE_BYTES_MAX, Offer, Refusal,
    Reply, RequestId, Standing,
};
use highwater_core::{
    Checkpoint, Entry, EntryKind, Epoch, Hlc, InstanceId, Key, Mode, Mtime, NodeTag, Seq,
    ShareName, Version,
};
use prost::Message;

use super::{content, control, entry_bytes_max, logged, put_record};
use crate::proto;

fn share() -> ShareName {
    "docs".parse().expect("share name")
}

fn some_hash() -> ContentHash {
    ContentHash::of(b"content")
}

fn epoch() -> Epoch {
    Epoch([3; 16])
}

fn checkpoint() -> Checkpoint {
    Checkpoint { epoch: epoch(), seq: Seq(9), digest: LogDigest([4; 16]) }
}

fn kinds() -> Vec<EntryKind> {
    let mtime = Mtime { seconds: -3, nanos: 999_999_999 };
    let mode = Mode::new(0o751);
    vec![
        EntryKind::Tombstone,
        EntryKind::File { size: CONTENT_BYTES_MAX, content: some_hash(), mode, mtime },
        EntryKind::Symlink { target: "../elsewhere".to_owned(), mtime },
        EntryKind::Directory { mode },
    ]
}

fn entry(kind: EntryKind) -> Entry {
    Entry {
        key: Key::new("a/b \u{fc}.txt").expect("key"),
        kind,
        version: Version::from_counters([(Actor(u64::MAX), Seq(2)), (Actor(1), Seq(1))]),
        stamp: Hlc(u64::MAX),
        author: NodeTag::from_bytes([5; 5]),
    }
}

fn batch() -> Batch {
    let entries = kinds().into_iter().zip(11..).map(|(kind, seq)| (Seq(seq), entry(kind)));
    Batch {
        share: share(),
        epoch: epoch(),
        after: Seq(10),
        upto: Seq(20),
        digest: LogDigest([6; 16]),
        head: Seq(30),
        entries: entries.collect(),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: 1,
        version: "0.1.0".to_owned(),
        name: "alice's laptop".to_owned(),
        user: "alice".to_owned(),
        instance: InstanceId([8; 16]),
    }
}

#[test]
fn every_control_message_comes_out_as_it_went_in() {
    let offer = Offer { share: share(), epoch: epoch(), head: Seq(5), pulled: None };
    let standing = Standing {
        share: share(),
        epoch: epoch(),
        head: Seq(5),
        needed_entries: 6,
        needed_bytes: 7,
    };
    let mut messages = vec![
        Control::Hello(hello()),
        Control::Offer(offer.clone()),
        Control::Offer(Offer { pulled: Some(checkpoint()), ..offer }),
        Control::Withdraw(share()),
        Control::Batch(batch()),
        Control::Ack(Ack { share: share(), checkpoint: checkpoint() }),
        Control::Standing(standing),
        Control::Ping(u64::MAX),
        Control::Pong(0),
    ];
    let goodbyes = [
        Goodbye::Stopping,
        Goodbye::Replaced,
        Goodbye::IdentityInUse,
        Goodbye::Protocol,
        Goodbye::Misbehaved,
        Goodbye::NotAPeer,
        Goodbye::NotNeeded,
    ];
    messages.extend(goodbyes.map(Control::Goodbye));
    for message in messages {
        let bytes = proto::ControlFrame::from(message.clone()).encode_to_vec();
        let frame = proto::ControlFrame::decode(bytes.as_slice()).expect("decode");
        assert_eq!(control(frame), Ok(message));
    }
}

#[test]
fn every_content_message_comes_out_as_it_went_in() {
    let id = RequestId(77);
    let ask = |ask| Content::Request { id, share: share(), ask };
    let reply = |reply| Content::Reply { id, reply };
    let chunks = vec![Chunk { id: ChunkId::of(b"x"), length: CHUNK_BYTES_MAX as u32 }];
    let acked = Acked { share: share(), content: some_hash(), offset: 5, size: 5 };
    let content_hash = some_hash();
    let mut messages = vec![
        ask(Ask::Manifest(content_hash)),
        ask(Ask::Range { content: content_hash, offset: 1 << 40, length: 1 }),
        ask(Ask::Smalls(vec![content_hash, ContentHash::of(b"other")])),
        Content::Cancel(id),
        reply(Reply::Manifest { chunks, last: true }),
        reply(Reply::Manifest { chunks: vec![], last: false }),
        reply(Reply::Bytes(Bytes::from_static(b"bytes"))),
        reply(Reply::Small { index: 255, bytes: Bytes::new() }),
        reply(Reply::SmallRefused { index: 0, refusal: Refusal::Busy }),
        Content::Acked(acked),
        Content::Mismatch { share: share(), content: content_hash, offset: 9, length: 8 },
    ];
    let refusals =
        [Refusal::Lacks, Refusal::Changed, Refusal::Corrupt, Refusal::ReadFailed, Refusal::Busy];
    messages.extend(refusals.map(|refusal| reply(Reply::Refused(refusal))));
    for message in messages {
        let bytes = proto::ContentFrame::from(message.clone()).encode_to_vec();
        let frame = proto::ContentFrame::decode(bytes.as_slice()).expect("decode");
        assert_eq!(content(frame), Ok(message));
    }
}

#[test]
fn an_entry_takes_no_more_room_than_it_says() {
    let actors = (0..256).map(|actor| (Actor(u64::MAX - actor), Seq(i64::MAX as u64)));
    let version = Version::from_counters(actors);
    for kind in kinds() {
        let entry = Entry { version: version.clone(), ..entry(kind) };
        let most = entry_bytes_max(&entry);
        let with = |entries| Control::Batch(Batch { entries, ..batch() });
        let size = |message| proto::ControlFrame::from(message).encoded_len();
        let added = size(with(vec![(Seq(i64::MAX as u64), entry)])) - size(with(vec![]));
        assert!(added <= most, "{added} > {most}");
        assert!(most < MESSAGE_BYTES_MAX);
    }
}

/// Spoils a good frame in one place.
type Spoil<T> = fn(&mut T);

/// Tombstones at these positions, as a batch carries them.
fn records(positions: impl IntoIterator<Item = u64>) -> Bytes {
    let mut records = BytesMut::new();
    for seq in positions {
        put_record(&mut records, &logged(Seq(seq), entry(EntryKind::Tombstone)));
    }
    records.freeze()
}

fn refused_batch(spoil: Spoil<proto::Batch>) -> &'static str {
    let mut spoilt = proto::Batch::from(batch());
    spoil(&mut spoilt);
    let body = Some(proto::control_frame::Body::Batch(spoilt));
    control(proto::ControlFrame { body }).map_or_else(|bad| bad.field, |_| "accepted")
}

#[test]
fn a_batch_that_breaks_a_rule_is_refused_by_the_field() {
    let table: [(&str, Spoil<proto::Batch>); 13] = [
        ("share", |batch| batch.share = "../docs".to_owned()),
        ("share", |batch| batch.share.clear()),
        ("batch.epoch", |batch| batch.epoch = vec![0; 15].into()),
        ("batch.digest", |batch| batch.digest = vec![0; 17].into()),
        ("batch.after", |batch| batch.after = u64::MAX),
        ("batch.upto", |batch| batch.upto = batch.after - 1),
        ("batch.head", |batch| batch.head = batch.upto - 1),
        ("batch.entries", |batch| {
            (batch.upto, batch.head) = (600, 600);
            batch.entries = records(11..=523);
        }),
        ("batch.entries", |batch| batch.entries = Bytes::from_static(b"\xff\xff")),
        ("batch.entries", |batch| batch.entries = batch.entries.slice(..batch.entries.len() - 1)),
        ("entry.seq", |batch| batch.entries = records([12, 11])),
        ("entry.seq", |batch| batch.after = 11),
        ("entry.seq", |batch| batch.upto = 13),
    ];
    for (index, (field, spoil)) in table.into_iter().enumerate() {
        assert_eq!(refused_batch(spoil), field, "row {index}");
    }
}

fn refused_entry(kind: EntryKind, spoil: Spoil<proto::LoggedEntry>) -> &'static str {
    let mut spoilt = logged(Seq(11), entry(kind));
    spoil(&mut spoilt);
    let mut wire = proto::Batch::from(batch());
    wire.entries = spoilt.encode_length_delimited_to_vec().into();
    let body = Some(proto::control_frame::Body::Batch(wire));
    control(proto::ControlFrame { body }).map_or_else(|bad| bad.field, |_| "accepted")
}

#[test]
fn an_entry_that_breaks_a_rule_is_refused_by_the_field() {
    let table: [(&str, Spoil<proto::LoggedEntry>); 14] = [
        ("entry.key", |entry| entry.key = "../etc/passwd".to_owned()),
        ("entry.key", |entry| entry.key = "/etc/passwd".to_owned()),
        ("entry.key", |entry| entry.key = ".highwater/marker".to_owned()),
        ("entry.key", |entry| entry.key = "a\0b".to_owned()),
        ("entry.key", |entry| entry.key.clear()),
        ("entry.key", |entry| entry.key = "x/".repeat(3000)),
        ("entry.version", |entry| entry.version.clear()),
        ("entry.version", |entry| entry.version.reverse()),
        ("entry.version", |entry| entry.version[1] = entry.version[0]),
        ("entry.version", |entry| {
            let counter = |actor| proto::Counter { actor, seq: 1 };
            entry.version = (0..257).map(counter).collect();
        }),
        ("entry.version.seq", |entry| entry.version[0].seq = 0),
        ("entry.author", |entry| entry.author = vec![0; 6].into()),
        ("entry.kind", |entry| entry.kind = None),
        ("entry.seq", |entry| entry.seq = 0),
    ];
    for (index, (field, spoil)) in table.into_iter().enumerate() {
        assert_eq!(refused_entry(EntryKind::Tombstone, spoil), field, "row {index}");
    }
}

fn refused_kind(kind: proto::logged_entry::Kind) -> &'static str {
    let mut spoilt = logged(Seq(11), entry(EntryKind::Tombstone));
    spoilt.kind = Some(kind);
    let mut wire = proto::Batch::from(batch());
    wire.entries = spoilt.encode_length_delimited_to_vec().into();
    let body = Some(proto::control_frame::Body::Batch(wire));
    control(proto::ControlFrame { body }).map_or_else(|bad| bad.field, |_| "accepted")
}

#[test]
fn what_stands_under_a_key_is_checked_field_by_field() {
    use proto::logged_entry::Kind;
    let mtime = Some(proto::Mtime { seconds: 0, nanos: 0 });
    let good = vec![0; 32];
    let file = |size, content: &[u8], mode, mtime| {
        Kind::File(proto::File { size, content: content.to_vec().into(), mode, mtime })
    };
    let link = |target: &str| Kind::Symlink(proto::Symlink { target: target.to_owned(), mtime });
    let late = Some(proto::Mtime { seconds: 0, nanos: 1_000_000_000 });
    let table = [
        ("accepted", file(1, &good, 0o644, mtime)),
        ("accepted", file(0, ContentHash::of(b"").as_bytes(), 0o644, mtime)),
        ("file.size", file(u64::MAX, &good, 0o644, mtime)),
        ("file.size", file(CONTENT_BYTES_MAX + 1, &good, 0o644, mtime)),
        ("file.content", file(0, &good, 0o644, mtime)),
        ("file.content", file(1, ContentHash::of(b"").as_bytes(), 0o644, mtime)),
        ("file.content", file(0, &good[..31], 0o644, mtime)),
        ("file.content", file(0, &[0; 33], 0o644, mtime)),
        ("file.content", file(0, &[], 0o644, mtime)),
        ("mode", file(1, &good, 0o4755, mtime)),
        ("mtime.nanos", file(1, &good, 0o644, late)),
        ("mtime", file(1, &good, 0o644, None)),
        ("symlink.target", link("")),
        ("symlink.target", link("a\0b")),
        ("symlink.target", link(&"x".repeat(4096))),
        ("mode", Kind::Directory(proto::Directory { mode: u32::MAX })),
    ];
    for (index, (field, kind)) in table.into_iter().enumerate() {
        assert_eq!(refused_kind(kind), field, "row {index}");
    }
}

#[test]
fn a_greeting_that_breaks_a_rule_is_refused_by_the_field() {
    let table: [(&str, Spoil<proto::Hello>); 6] = [
        ("hello.instance", |hello| hello.instance = Bytes::new()),
        ("hello.name", |hello| hello.name = "x".repeat(513)),
        ("hello.name", |hello| hello.name = "\u{1b}[31mred".to_owned()),
        ("hello.user", |hello| hello.user = "a\nb".to_owned()),
        ("hello.name", |hello| hello.name = "a\u{202e}b".to_owned()),
        ("hello.version", |hello| hello.version = "\u{7f}".to_owned()),
    ];
    for (field, spoil) in table {
        let mut spoilt = proto::Hello::from(hello());
        spoil(&mut spoilt);
        let body = Some(proto::control_frame::Body::Hello(spoilt));
        let refused = control(proto::ControlFrame { body }).expect_err(field);
        assert_eq!(refused.field, field);
    }
}

#[test]
fn a_content_frame_that_breaks_a_rule_is_refused_by_the_field() {
    use proto::content_frame::Body;
    use proto::{reply::Part, request::Ask};
    let good = Bytes::from(vec![0; 32]);
    let ask = |ask| Body::Request(proto::Request { id: 1, share: "docs".to_owned(), ask });
    let range = |offset, length| {
        ask(Some(Ask::Range(proto::Range { content: good.clone(), offset, length })))
    };
    let smalls = |bytes: usize| ask(Some(Ask::Smalls(vec![0; bytes].into())));
    let reply = |part| Body::Reply(proto::Reply { id: 1, part });
    let manifest = |bytes: Vec<u8>| {
        reply(Some(Part::Manifest(proto::ManifestPart { chunks: bytes.into(), last: true })))
    };
    let small = |index, bytes: usize| {
        reply(Some(Part::Small(proto::Small { index, data: vec![0; bytes].into() })))
    };
    let acked = |offset, size| {
        let (share, content) = ("docs".to_owned(), good.clone());
        Body::Acked(proto::Acked { share, content, offset, size })
    };
    let mismatch = |offset, length| {
        let (share, content) = ("docs".to_owned(), good.clone());
        Body::Mismatch(proto::Mismatch { share, content, offset, length })
    };
    let table = [
        ("request.ask", ask(None)),
        ("request.manifest", ask(Some(Ask::Manifest(vec![0; 64].into())))),
        ("range.length", range(0, 0)),
        ("range.length", range(0, (4 << 20) + 1)),
        ("range.offset", range(u64::MAX, 1)),
        ("range.offset", range(i64::MAX as u64, 1)),
        ("request.smalls", smalls(0)),
        ("request.smalls", smalls(33)),
        ("request.smalls", smalls(257 * 32)),
        ("reply.part", reply(None)),
        ("reply.data", reply(Some(Part::Data(Bytes::new())))),
        ("reply.data", reply(Some(Part::Data(vec![0; (256 << 10) + 1].into())))),
        ("manifest.chunks", manifest(vec![1; 35])),
        ("manifest.chunks", manifest(vec![0; 36])),
        ("manifest.chunks", manifest(vec![255; 36])),
        ("manifest.chunks", manifest([0, 0, 0, 1].repeat(9 * 4097))),
        ("small.index", small(256, 1)),
        ("small.data", small(0, (64 << 10) + 1)),
        ("refusal", reply(Some(Part::Refused(0)))),
        ("refusal", reply(Some(Part::Refused(99)))),
        ("acked.offset", acked(6, 5)),
        ("acked.size", acked(0, u64::MAX)),
        ("mismatch.length", mismatch(0, 0)),
        ("mismatch.offset", mismatch(u64::MAX, 1)),
    ];
    for (index, (field, body)) in table.into_iter().enumerate() {
        let refused = content(proto::ContentFrame { body: Some(body) }).expect_err(field);
        assert_eq!(refused.field, field, "row {index}");
    }
}

#[test]
fn a_frame_without_a_known_body_is_refused() {
    let unknown_body = [0xfa, 0x01, 0x00];
    let frame = proto::ControlFrame::decode(unknown_body.as_slice()).expect("unknown field");
    assert_eq!(control(frame).expect_err("control").field, "body");
    let frame = proto::ContentFrame::decode(unknown_body.as_slice()).expect("unknown field");
    assert_eq!(content(frame).expect_err("content").field, "body");
    for reason in [0, 7, -1, i32::MAX] {
        let body = Some(proto::control_frame::Body::Goodbye(reason));
        let refused = control(proto::ControlFrame { body }).expect_err("goodbye");
        assert_eq!(refused.field, "goodbye");
    }
}
