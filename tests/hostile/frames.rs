//! Single messages that break a rule: S12-S19, S24, S32, S36, S42, and the fields of M9.
//!
//! Each is sent on a link that is up, and each is answered alike: a goodbye that says
//! "misbehaved". Nothing of the message is taken over.

use anyhow::{Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::frames::{
    self, Batch, CHUNK_BYTES_MAX, Checkpoint, Entry, Hello, Offer, control,
};
use highwater_lab::hostile::proto::Message;
use highwater_lab::hostile::{Ending, Peer, framed};

use crate::stage::{Effect, MISBEHAVED, Stage, on_stage};

const EPOCH: [u8; 16] = [0x66; 16];
const HASH: [u8; 32] = [0x77; 32];
/// The longest message that is read.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// On which stream.
#[derive(Clone, Copy)]
enum Stream {
    Control,
    Content,
}

/// One row: its id, what it is, where it goes, and its bytes with their prefix.
type Row = (&'static str, &'static str, Stream, Vec<u8>);

fn well_framed(message: &Message) -> Vec<u8> {
    framed(0, message.encoded().len() as u64, message.encoded())
}

fn on_control(row: &'static str, what: &'static str, message: &Message) -> Row {
    (row, what, Stream::Control, well_framed(message))
}

fn on_content(row: &'static str, what: &'static str, message: &Message) -> Row {
    (row, what, Stream::Content, well_framed(message))
}

/// Sends each row on a link of its own and demands the goodbye.
fn all_misbehave(rows: Vec<Row>) {
    on_stage(|stage| rows.iter().try_for_each(|row| misbehaves(stage, row)));
}

fn misbehaves(stage: &mut Stage<'_>, (id, what, stream, bytes): &Row) -> Result<()> {
    stage.attack(&format!("{id} {what}"), Effect::Nothing, |stage| {
        let (mut peer, _) = stage.sharing(EPOCH, 1)?;
        let call = match stream {
            Stream::Control => &mut peer.control,
            Stream::Content => &mut peer.content,
        };
        // The victim may hang up before it has read everything.
        let _ = call.say_raw(bytes);
        let ending = peer.ending()?;
        ensure!(ending == MISBEHAVED, "answered with {ending:?}");
        Ok(())
    })
}

#[test]
fn a_message_that_is_framed_wrongly_ends_the_link() {
    let ping = frames::ping(9);
    let huge = Message::new().bytes(15, vec![0; MESSAGE_BYTES_MAX]);
    let zeros = Message::new().bytes(2, vec![0; 4096]);
    let rows = [Stream::Control, Stream::Content].into_iter().flat_map(|stream| {
        [
            (
                "S12",
                "4 GiB announced, 10 bytes sent",
                stream,
                framed(0, u64::from(u32::MAX), &[0; 10]),
            ),
            (
                "S12",
                "one byte too much announced",
                stream,
                framed(0, MESSAGE_BYTES_MAX as u64 + 1, &[]),
            ),
            ("S12", "one message of more than a megabyte", stream, well_framed(&huge)),
            ("S13", "compressed, so it says", stream, framed(1, 6, b"\x1f\x8b\x08\0\0\0")),
            ("S14", "flags that are reserved", stream, framed(0x80, 2, ping.encoded())),
            (
                "S14",
                "all flags",
                stream,
                framed(0xff, zeros.encoded().len() as u64, zeros.encoded()),
            ),
            ("S18", "nothing inside", stream, framed(0, 0, &[])),
            ("S18", "garbage inside", stream, framed(0, 4, &[0xff; 4])),
            ("S18", "a field that ends early", stream, framed(0, 3, b"\x0a\x7f\0")),
            (
                "S18",
                "a body of a later version",
                stream,
                well_framed(&Message::new().bytes(200, "x")),
            ),
            ("S18", "the field 0", stream, framed(0, 2, &[0, 0])),
            (
                "S18",
                "a number of eleven bytes",
                stream,
                framed(0, 12, &[&[8][..], &[0xff; 11]].concat()),
            ),
        ]
    });
    all_misbehave(rows.collect());
}

/// A message inside a message inside a message, as groups and as fields.
#[test]
fn depth_and_repetition_cost_neither_the_stack_nor_memory() {
    let groups = [[0x0b; 10_000], [0x0c; 10_000]].concat();
    let mut nested = Message::new();
    for _ in 0..10_000 {
        nested = Message::new().message(1, &nested);
        if nested.encoded().len() > MESSAGE_BYTES_MAX / 2 {
            break;
        }
    }
    let batch = Message::new().bytes(1, SHARE).bytes(2, EPOCH).number(4, 9);
    let batch = batch.bytes(5, [0; 16]).number(6, 9);
    let records = batch.bytes(7, vec![0; MESSAGE_BYTES_MAX - 100]);
    let mut crowded = Entry::tombstone("x");
    crowded.version = (0..40_000).map(|actor| (actor, 1)).collect();
    let crowded = Batch::of(SHARE, EPOCH, 0, &[crowded]).frame();
    let unknown = Message::new().bytes(200, vec![0; MESSAGE_BYTES_MAX - 64]);
    all_misbehave(vec![
        ("S16", "10,000 open groups", Stream::Control, framed(0, 20_000, &groups)),
        on_control("S16", "messages as deep as fits", &nested),
        on_control("S17", "1,000,000 empty entries", &control(4, &records)),
        on_control("S17", "40,000 actors in a version", &crowded),
        on_control("S17", "a megabyte that nobody knows", &unknown),
        on_content("S17", "a megabyte that nobody knows", &unknown),
    ]);
}

#[test]
fn a_control_message_whose_fields_break_a_rule_ends_the_link() {
    let offer = Offer::of(SHARE, EPOCH, 1);
    let pulled = |epoch: &[u8], seq, digest: &[u8]| {
        let (epoch, digest) = (epoch.to_vec(), digest.to_vec());
        let pulled = Some(Checkpoint { epoch, seq, digest });
        Offer { pulled, ..offer.clone() }.frame()
    };
    let batch = Batch::of(SHARE, EPOCH, 0, &[]);
    let standing = |bytes| frames::standing(SHARE, &EPOCH, 1, 1, bytes);
    let ack = |seq| {
        let checkpoint = Checkpoint { epoch: EPOCH.to_vec(), seq, digest: vec![0; 16] };
        frames::ack(SHARE, &checkpoint)
    };
    let named = |share: &str| Offer { share: share.to_owned(), ..offer.clone() }.frame();
    all_misbehave(vec![
        on_control("S18", "a second greeting", &Hello::default().frame()),
        on_control("S18", "an unknown goodbye", &frames::goodbye(99)),
        on_control("S18", "a goodbye without a reason", &frames::goodbye(0)),
        on_control(
            "S18",
            "an acknowledgement of nothing",
            &control(5, &Message::new().bytes(1, SHARE)),
        ),
        on_control("S18", "a share without a name", &named("")),
        on_control("S32", "a share above", &named("../docs")),
        on_control("M9", "a share with colours", &named("\u{1b}[31mdocs")),
        on_control("M9", "a share of a thousand letters", &named(&"x".repeat(1000))),
        on_control(
            "S24",
            "an epoch of 15 bytes",
            &Offer { epoch: vec![1; 15], ..offer.clone() }.frame(),
        ),
        on_control(
            "S24",
            "an epoch of 17 bytes",
            &Offer { epoch: vec![1; 17], ..offer.clone() }.frame(),
        ),
        on_control("S24", "no epoch", &Offer { epoch: vec![], ..offer.clone() }.frame()),
        on_control("S24", "a digest of 64 bytes", &pulled(&EPOCH, 1, &[0; 64])),
        on_control("S24", "a checkpoint without an epoch", &pulled(&[], 1, &[0; 16])),
        on_control("S19", "a head of -1", &Offer { head: u64::MAX, ..offer.clone() }.frame()),
        on_control("S19", "a head of 2^63", &Offer { head: 1 << 63, ..offer.clone() }.frame()),
        on_control("S19", "a checkpoint at -1", &pulled(&EPOCH, u64::MAX, &[0; 16])),
        on_control("S19", "needed bytes of 2^63", &standing(1 << 63)),
        on_control(
            "S19",
            "a batch that ends before it begins",
            &Batch { after: 5, upto: 4, ..batch.clone() }.frame(),
        ),
        on_control(
            "S19",
            "a batch beyond its head",
            &Batch { upto: 9, head: 8, ..batch.clone() }.frame(),
        ),
        on_control(
            "S19",
            "a batch at the end of numbers",
            &Batch { after: u64::MAX, upto: u64::MAX, head: u64::MAX, ..batch }.frame(),
        ),
        on_control("S19", "an acknowledgement at -1", &ack(u64::MAX)),
    ]);
}

fn entry(spoil: impl FnOnce(&mut Entry)) -> Message {
    let mut entry = Entry::tombstone("spoilt");
    spoil(&mut entry);
    Batch::of(SHARE, EPOCH, 0, &[entry]).frame()
}

#[test]
fn an_entry_whose_fields_break_a_rule_ends_the_link() {
    let kind = |kind| entry(|entry| entry.kind = Some(kind));
    let file =
        |size, content: &[u8], mode| kind(frames::file(size, content, mode, frames::mtime(0, 0)));
    let wide = (0..257).map(|actor| (actor, 1)).collect::<Vec<_>>();
    let unplaced = Batch { upto: 0, ..Batch::of(SHARE, EPOCH, 0, &[Entry::tombstone("x")]) };
    all_misbehave(vec![
        on_control("S18", "no kind", &entry(|entry| entry.kind = None)),
        on_control("S18", "a kind of a later version", &kind((15, Message::new()))),
        on_control(
            "S36",
            "a device, by a number of its own",
            &kind((10, Message::new().number(1, 0o060_644))),
        ),
        on_control("S36", "set-user-id", &file(0, &HASH, 0o4755)),
        on_control("S36", "set-group-id", &file(0, &HASH, 0o2755)),
        on_control("S36", "sticky", &kind(frames::directory(0o1777))),
        on_control("S36", "the bits of a FIFO", &file(0, &HASH, 0o010_644)),
        on_control("S36", "all bits", &kind(frames::directory(u64::from(u32::MAX)))),
        on_control("S24", "a hash of 0 bytes", &file(1, &[], 0o644)),
        on_control("S24", "a hash of 1 byte", &file(1, &HASH[..1], 0o644)),
        on_control("S24", "a hash of 31 bytes", &file(1, &HASH[..31], 0o644)),
        on_control("S24", "a hash of 33 bytes", &file(1, &[1; 33], 0o644)),
        on_control("S24", "a hash of 64 bytes", &file(1, &[1; 64], 0o644)),
        on_control("S24", "an author of 4 bytes", &entry(|entry| entry.author = vec![1; 4])),
        on_control("S19", "a size of -1", &file(u64::MAX, &HASH, 0o644)),
        on_control("S19", "a size of 2^63", &file(1 << 63, &HASH, 0o644)),
        on_control("S19", "a counter of 0", &entry(|entry| entry.version = vec![(1, 0)])),
        on_control("S19", "a counter of -1", &entry(|entry| entry.version = vec![(1, u64::MAX)])),
        on_control(
            "S19",
            "a second with 10^9 nanoseconds",
            &kind(frames::file(0, &HASH, 0o644, frames::mtime(0, 1_000_000_000))),
        ),
        on_control("S18", "no version", &entry(|entry| entry.version.clear())),
        on_control(
            "S18",
            "actors out of order",
            &entry(|entry| entry.version = vec![(2, 1), (1, 1)]),
        ),
        on_control("S18", "an actor twice", &entry(|entry| entry.version = vec![(1, 1), (1, 2)])),
        on_control("S17", "257 actors", &entry(|entry| entry.version = wide)),
        on_control("S28", "an entry outside its batch", &unplaced.frame()),
        on_control("S36", "a link to nowhere", &kind(frames::symlink(""))),
        on_control("S36", "a link with a NUL", &kind(frames::symlink("a\0b"))),
        on_control("S36", "a link of 4,096 bytes", &kind(frames::symlink("x".repeat(4096)))),
        on_control("S18", "a link that is not UTF-8", &kind(frames::symlink([0xff, 0xfe]))),
    ]);
}

#[test]
fn a_key_that_breaks_a_rule_ends_the_link_and_makes_nothing() {
    let deep = "d/".repeat(300) + "x";
    let rows: Vec<(&'static str, Vec<u8>)> = vec![
        ("above", b"../x".to_vec()),
        ("absolute", b"/etc/x".to_vec()),
        ("down and up", b"a/../../x".to_vec()),
        ("itself", b".".to_vec()),
        ("the parent", b"..".to_vec()),
        ("inside itself", b"a/./x".to_vec()),
        ("empty", Vec::new()),
        ("an empty component", b"a//b".to_vec()),
        ("a slash at the end", b"a/".to_vec()),
        ("a NUL", b"a\0b".to_vec()),
        ("256 bytes of a component", vec![b'x'; 256]),
        ("4,096 bytes", "y/".repeat(2048).into_bytes()),
        ("301 levels", deep.into_bytes()),
        ("the product's own directory", b".highwater".to_vec()),
        ("the marker", b".highwater/marker".to_vec()),
        ("the stage", b".highwater/stage/x".to_vec()),
        ("no UTF-8", vec![b'a', 0xff, 0xfe]),
        ("an overlong slash", vec![b'.', b'.', 0xc0, 0xaf, b'x']),
        ("half a surrogate", vec![0xed, 0xa0, 0x80]),
    ];
    let keyed = |key: Vec<u8>| entry(|entry| entry.key = key);
    all_misbehave(
        rows.into_iter().map(|(what, key)| on_control("S32", what, &keyed(key))).collect(),
    );
}

#[test]
fn a_content_message_whose_fields_break_a_rule_ends_the_link() {
    let hash = |length: usize| vec![0x77; length];
    let range = |offset, length| frames::range(1, SHARE, &HASH, offset, length);
    let smalls = |length| frames::request(1, SHARE, 5, hash(length));
    let part = |part, what: &[u8]| frames::reply(1, part, what);
    let chunk = |length: u32| frames::manifest_part(1, &[(HASH, length)], true);
    let crowd = vec![(HASH, 1); 4097];
    let too_long = vec![0; (256 << 10) + 1];
    all_misbehave(vec![
        on_content(
            "S18",
            "a request for nothing",
            &Message::new().message(1, &Message::new().bytes(2, SHARE)),
        ),
        on_content("S18", "a share above", &frames::request(1, "../docs", 3, HASH)),
        on_content("S24", "a manifest by 31 bytes", &frames::request(1, SHARE, 3, hash(31))),
        on_content("S24", "a manifest by nothing", &frames::request(1, SHARE, 3, [])),
        on_content("S24", "a range by 64 bytes", &frames::range(1, SHARE, &hash(64), 0, 1)),
        on_content("S19", "a range of nothing", &range(0, 0)),
        on_content("S19", "a range of 4 MiB and a byte", &range(0, CHUNK_BYTES_MAX + 1)),
        on_content("S19", "a range from the end of numbers", &range(u64::MAX, 1)),
        on_content("S19", "a range over the end of numbers", &range(u64::MAX - 5, 10)),
        on_content("S19", "a range over 2^63", &range((1 << 63) - 5, 10)),
        on_content("S24", "no small contents", &smalls(0)),
        on_content("S24", "a small content and a half", &smalls(48)),
        on_content("S17", "257 small contents", &smalls(257 * 32)),
        on_content("S23", "a part of no bytes", &part(3, &[])),
        on_content("S23", "a part of 256 KiB and a byte", &part(3, &too_long)),
        on_content("S23", "a chunk of nothing", &chunk(0)),
        on_content("S23", "a chunk of 4 MiB and a byte", &chunk(CHUNK_BYTES_MAX as u32 + 1)),
        on_content("S23", "a chunk of 4 GiB", &chunk(u32::MAX)),
        on_content("S24", "half a chunk", &part(2, Message::new().bytes(1, hash(35)).encoded())),
        on_content("S17", "4,097 chunks", &frames::manifest_part(1, &crowd, true)),
        on_content(
            "S23",
            "a small content of 64 KiB and a byte",
            &frames::small(1, 0, &too_long[..(64 << 10) + 1]),
        ),
        on_content("S19", "the small content 256", &frames::small(1, 256, b"x")),
        on_content("S18", "an unknown refusal", &frames::refused(1, 77)),
        on_content("S21", "more acknowledged than there is", &frames::acked(SHARE, &HASH, 6, 5)),
        on_content("S19", "a complaint over the end", &frames::mismatch(SHARE, &HASH, u64::MAX, 1)),
        on_content("S24", "a complaint by 33 bytes", &frames::mismatch(SHARE, &hash(33), 0, 1)),
    ]);
}

/// Each row: a greeting, and the reason of the goodbye.
#[test]
fn a_greeting_that_breaks_a_rule_is_refused_and_never_logged_raw() {
    let hello = Hello::default;
    let rows = [
        ("S42 a name with colours", Hello { name: b"\x1b[31mred".to_vec(), ..hello() }),
        ("S42 a name of two lines", Hello { name: b"a\r\nb".to_vec(), ..hello() }),
        ("S42 a version with a bell", Hello { version: b"1\x07".to_vec(), ..hello() }),
        ("M9 a name that turns the line around", Hello { name: "a\u{202e}b".into(), ..hello() }),
        ("M9 a user with an isolate", Hello { user: "a\u{2066}b".into(), ..hello() }),
        ("M9 a name of 8 KiB", Hello { name: vec![b'x'; 8192], ..hello() }),
        ("S18 a name that is not UTF-8", Hello { name: vec![0xff; 9], ..hello() }),
        ("S24 an instance of 15 bytes", Hello { instance: vec![1; 15], ..hello() }),
        ("S18 no instance", Hello { instance: vec![], ..hello() }),
    ];
    on_stage(|stage| {
        for (what, hello) in rows {
            stage.attack(what, Effect::Nothing, |stage| {
                let mut peer = Peer::connect(stage.addr(), &stage.credentials)?;
                peer.control.say(&hello.frame())?;
                let ending = peer.ending()?;
                ensure!(ending == MISBEHAVED, "answered with {ending:?}");
                Ok(())
            })?;
        }
        let log = std::fs::read(stage.victim().log_path())?;
        let raw = |byte: &u8| *byte < b' ' && *byte != b'\n';
        ensure!(!log.iter().any(raw), "control characters in the log");
        Ok(())
    });
}

#[test]
fn a_link_that_does_not_begin_with_a_greeting_is_ended() {
    let rows: [(&str, Vec<Message>, Ending); 6] = [
        ("S18 an offer first", vec![Offer::of(SHARE, EPOCH, 1).frame()], MISBEHAVED),
        ("S18 a ping first", vec![frames::ping(1)], MISBEHAVED),
        ("S18 two greetings", vec![Hello::default().frame(), Hello::default().frame()], MISBEHAVED),
        (
            "S18 an offer before it is chosen",
            vec![Hello::default().frame(), Offer::of(SHARE, EPOCH, 1).frame()],
            MISBEHAVED,
        ),
        (
            "S18 protocol 0",
            vec![Hello { protocol: 0, ..Hello::default() }.frame()],
            Ending::Goodbye(4),
        ),
        (
            "S18 protocol 4294967295",
            vec![Hello { protocol: 0xffff_ffff, ..Hello::default() }.frame()],
            Ending::Goodbye(4),
        ),
    ];
    on_stage(|stage| {
        for (what, messages, expected) in rows {
            stage.attack(what, Effect::Nothing, |stage| {
                let mut peer = Peer::connect(stage.addr(), &stage.credentials)?;
                messages.iter().try_for_each(|message| peer.control.say(message))?;
                let ending = peer.ending()?;
                ensure!(ending == expected, "answered with {ending:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}
