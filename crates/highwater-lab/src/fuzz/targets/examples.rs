//! What fuzzing begins with: good inputs, and the words that bad ones are made of.

use highwater_core::NodeId;

use crate::hostile::frames::{self, Batch, Checkpoint, Hello, Offer};

pub(super) const PATHS: &[&str] = &[
    "/",
    "..",
    ".",
    "a",
    "//",
    "\0",
    ".highwater",
    "é",
    "\u{301}",
    ".conflict-20261123-000000-",
    "aeaqcaib",
    "tar.gz",
    "\u{202e}",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];
pub(super) const MARKS: &[&str] =
    &["highwater marker 1", "share ", "node ", "generation ", "18446744073709551615", "docs", "-1"];
pub(super) const RULES: &[&str] =
    &["**", "*", "?", "[a-z]", "[!", "]", "!", "/", "\\", "#", "{a,b}", "**/", "/**", " ", "\t"];
pub(super) const SETTINGS: &[&str] = &[
    "[node]",
    "[listen]",
    "[[share]]",
    "[[peer]]",
    "name = ",
    "user = ",
    "sync = ",
    "path = ",
    "mode = ",
    "rescan_interval = ",
    "mass_delete_fraction = ",
    "paused = ",
    "id = ",
    "addr = ",
    "shares = ",
    "\"docs\"",
    "\"/d\"",
    "\"1s\"",
    "true",
    "nan",
    "inf",
    "-1",
    "0.5",
    "\"send-only\"",
    "\"127.0.0.1:0\"",
    "\"\\u001b\"",
    "'''",
    "\"\"\"",
    "{",
    "}",
    "[",
    "]",
    "=",
    "#",
    "\"",
    "\\",
    "HIGHWATER_",
    "NODE_NAME",
    "SHARE_PATH",
    "SHARE_NAME",
    "PEER_ID",
    "PEER_SHARES",
    "SHARE_MODE",
];
pub(super) const IDS: &[&str] = &["a", "2", "7", "=", "A", "1", "-", "_", ".", "docs", "é"];
pub(super) const ORDERS: &[&str] = &[
    "{",
    "}",
    "\"request\":",
    "\"status\"",
    "\"log\"",
    "\"share\":",
    "\"docs\"",
    "\"since\":",
    "0",
    "\"follow\":",
    "true",
    "null",
    "-1",
    "1e400",
    "18446744073709551616",
    "[",
    "]",
    "\\ud800",
];

/// A share name, an epoch and a hash for the examples.
pub(super) const SHARE: &str = "docs";
pub(super) const EPOCH: [u8; 16] = [5; 16];
pub(super) const HASH: [u8; 32] = [7; 32];

pub(super) fn encoded(messages: &[crate::hostile::proto::Message]) -> Vec<Vec<u8>> {
    messages.iter().map(|message| message.encoded().to_vec()).collect()
}

pub(super) fn batches() -> Vec<Vec<u8>> {
    let entry = |entry: frames::Entry, actor, seq| entry.version(&[(actor, seq), (9, 1)]);
    let entries = [
        entry(frames::Entry::file("a", b"one"), 1, 1),
        entry(frames::Entry::file("a", b"two"), 2, 1),
        entry(frames::Entry::symlink("a/b", "../x"), 1, 2),
        entry(frames::Entry::directory("a"), 3, 1),
        entry(frames::Entry::tombstone("a"), 4, 1),
    ];
    encoded(&[
        Batch::of(SHARE, EPOCH, 0, &entries).frame(),
        Batch::of(SHARE, EPOCH, 7, &[]).frame(),
    ])
}

pub(super) fn control_examples() -> Vec<Vec<u8>> {
    let pulled = Checkpoint { epoch: EPOCH.to_vec(), seq: 3, digest: vec![1; 16] };
    let offer = Offer::of(SHARE, EPOCH, 9);
    let mut examples = encoded(&[
        Hello::default().frame(),
        offer.frame(),
        Offer { pulled: Some(pulled.clone()), ..offer }.frame(),
        frames::withdraw(SHARE),
        frames::ack(SHARE, &pulled),
        frames::standing(SHARE, &EPOCH, 9, 1, 2),
        frames::ping(1),
        frames::pong(2),
        frames::goodbye(1),
    ]);
    examples.extend(batches());
    examples
}

pub(super) fn content_examples() -> Vec<Vec<u8>> {
    encoded(&[
        frames::request(1, SHARE, 3, HASH),
        frames::request(2, SHARE, 5, [HASH, HASH].concat()),
        frames::range(3, SHARE, &HASH, 0, 100),
        frames::cancel(4),
        frames::manifest_part(5, &[(HASH, 70_000), (HASH, 1)], true),
        frames::reply(6, 3, b"bytes"),
        frames::small(7, 0, b"small"),
        frames::refused(8, 1),
        frames::acked(SHARE, &HASH, 5, 10),
        frames::mismatch(SHARE, &HASH, 5, 10),
    ])
}

pub(super) fn key_examples() -> Vec<Vec<u8>> {
    let long = "x/".repeat(255) + "end";
    let stamped =
        "\0\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}a/plan.conflict-20261123-000000-aeaqcaib.txt";
    let plain =
        ["a", "a/b/c.txt", "é/\u{202e}", ".hidden/..x", stamped, "12345678a/b.tar.gz", &long];
    let mut examples: Vec<Vec<u8>> = plain.iter().map(|path| path.as_bytes().to_vec()).collect();
    examples.push(b"a\0b\0c".to_vec());
    examples
}

pub(super) fn row_examples() -> Vec<Vec<u8>> {
    let with = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    let epoch = [5; 16];
    vec![
        with(b's', &[&[3][..], &epoch, &[17, 17]].concat()),
        with(b'e', &[&[1, b'a', 0, 1, 1, 1, 1][..], &[7; 5], &[1, 0, 0]].concat()),
        with(b'l', &[&[1, b'a'][..], &[1; 16]].concat()),
        with(b'w', &[&[1, b'a', 0, 1, 1, 1, 1][..], &[7; 5], &[0]].concat()),
        with(b'p', &[0, 0]),
        with(b'm', &[&[1][..], &HASH, &[9]].concat()),
        with(b't', &[100, 50, 0, 0]),
        with(b'u', &[2, 1, 255, 1]),
    ]
}

pub(super) fn stage_examples() -> Vec<Vec<u8>> {
    let mib = [0x80, 0x80, 0x40];
    vec![vec![100, 50, 0, 0], [&[100, 50][..], &mib, &[1], &HASH].concat()]
}

pub(super) fn print_examples() -> Vec<Vec<u8>> {
    vec![vec![9, 100, 2, 3, 4, 5, 0xa4, 3], vec![0; 8]]
}

pub(super) fn marker_examples() -> Vec<Vec<u8>> {
    let node = NodeId::from_bytes([7; 32]);
    vec![format!("highwater marker 1\nshare docs\nnode {node}\ngeneration 17\n").into_bytes()]
}

pub(super) fn rule_examples() -> Vec<Vec<u8>> {
    let text = "# a comment\n*.tmp\n!keep.tmp\n/build/\nlogs/**/x\n\\#odd\n[a-f]*\n{a,b}\n";
    vec![text.as_bytes().to_vec(), Vec::new()]
}

pub(super) fn config_examples() -> Vec<Vec<u8>> {
    let peer = NodeId::from_bytes([7; 32]);
    let text = format!(
        "[node]\nname = \"n\"\nuser = \"u\"\n[listen]\nsync = \"127.0.0.1:0\"\n[[share]]\nname = \"docs\"\n\
         path = \"/d\"\nmode = \"send-receive\"\nrescan_interval = \"1h\"\nmass_delete_fraction = 0.25\n\
         paused = false\n[[peer]]\nid = \"{peer}\"\nname = \"p\"\naddr = \"host:1\"\nshares = [\"docs\"]\n"
    );
    vec![text.into_bytes(), Vec::new(), include_bytes!("../../../../../configs/node.toml").to_vec()]
}

pub(super) fn env_examples() -> Vec<Vec<u8>> {
    let text = "HIGHWATER_NODE_NAME=n\nHIGHWATER_SHARE_NAME=docs\nHIGHWATER_SHARE_PATH=/d\n\
                HIGHWATER_LISTEN_SYNC=127.0.0.1:0\nHIGHWATER_SHARE_RESCAN_INTERVAL=5s";
    vec![text.as_bytes().to_vec(), b"PATH=/bin".to_vec()]
}

pub(super) fn id_examples() -> Vec<Vec<u8>> {
    let id = NodeId::from_bytes([7; 32]).to_string();
    vec![id.clone().into_bytes(), id.to_uppercase().into_bytes(), b"docs".to_vec()]
}

pub(super) fn orders() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"request":"status"}"#,
        r#"{"request":"transfers","follow":false}"#,
        r#"{"request":"log","share":"docs","since":0,"follow":true}"#,
        r#"{"request":"conflicts","share":null}"#,
        r#"{"request":"confirm","share":"docs"}"#,
        r#"{"request":"stop"}"#,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
