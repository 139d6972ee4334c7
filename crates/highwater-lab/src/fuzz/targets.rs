//! What reads, and what must hold of it.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;
use std::path::Path;

use highwater::Config;
use highwater::control::Request;
use highwater_core::content::PrefixHasher;
use highwater_core::id::ParseIdError;
use highwater_core::key::{COMPONENT_BYTES_MAX, KEY_BYTES_MAX};
use highwater_core::merge::{Merge, conflict_key, conflict_of, is_conflict_key, merge};
use highwater_core::version::ACTORS_MAX;
use highwater_core::wire::{BATCH_ENTRIES_MAX, Control};
use highwater_core::{Entry, EntryKind, Key, NodeId, ShareName};
use highwater_folder::{IgnoreRules, Marker, StatPrint};
use highwater_net as net;
use highwater_store::{StageRow, rows};

mod examples;

use examples::*;

use super::mutate::Language;

/// One reader of what comes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it reads.
    pub reads: &'static str,
    /// What its inputs are made of.
    pub(super) language: Language,
    /// Inputs to begin with.
    pub(super) examples: fn() -> Vec<Vec<u8>>,
    /// Reads an input, and panics when a property breaks.
    pub(super) reader: fn(&[u8]) -> Made,
}

/// What a reader made of an input.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Whether it was read as something.
    pub accepted: bool,
    /// As what: equal for inputs that are alike.
    pub shape: u64,
}

/// Every target.
pub fn targets() -> Vec<Target> {
    let target = |name, reads, language, examples, reader| Target {
        name,
        reads,
        language,
        examples,
        reader,
    };
    vec![
        target("control", "control messages", Language::Protobuf, control_examples, control),
        target("content", "content messages", Language::Protobuf, content_examples, content),
        target("merge", "the entries of a batch, merged", Language::Protobuf, batches, merged),
        target("key", "keys of entries", Language::Text(PATHS), key_examples, key),
        target("conflict", "names of conflict copies", Language::Text(PATHS), key_examples, copies),
        target("row", "rows of the store", Language::Bytes, row_examples, row),
        target("stage", "staged progress, and hashing on", Language::Bytes, stage_examples, stage),
        target("print", "stat facts of the store", Language::Bytes, print_examples, print),
        target("marker", "the marker of a share", Language::Text(MARKS), marker_examples, marker),
        target("ignore", "ignore rules", Language::Text(RULES), rule_examples, ignore),
        target("config", "config.toml", Language::Text(SETTINGS), config_examples, config),
        target("environment", "settings in variables", Language::Text(SETTINGS), env_examples, env),
        target("id", "node ids and share names", Language::Text(IDS), id_examples, ids),
        target("request", "control socket requests", Language::Text(ORDERS), orders, request),
    ]
}

fn refused(why: impl Hash) -> Made {
    Made { accepted: false, shape: hash_of(why) }
}

fn accepted(shape: impl Hash) -> Made {
    Made { accepted: true, shape: hash_of((shape, true)) }
}

fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// An error without what it quotes: its letters before the first quote or digit.
fn words(error: &str) -> &str {
    let end = error.find(|c: char| c.is_ascii_digit() || "\"'`".contains(c));
    &error[..end.unwrap_or(error.len())]
}

/// How many there are, to the next power of two.
fn about(count: usize) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn control(input: &[u8]) -> Made {
    let message = match net::read_control(input) {
        Ok(message) => message,
        Err(error) => return refused(words(&error)),
    };
    let again = net::read_control(&net::write_control(message.clone()));
    assert_eq!(again.as_ref(), Ok(&message), "it is read otherwise than it was written");
    let Control::Batch(batch) = &message else { return accepted(discriminant(&message)) };
    assert!(batch.entries.len() <= BATCH_ENTRIES_MAX, "too many entries");
    let kinds: Vec<_> = batch.entries.iter().map(|(_, e)| discriminant(&e.kind)).collect();
    for (_, entry) in &batch.entries {
        sound(entry);
    }
    accepted((about(kinds.len()), kinds.first().copied(), kinds.last().copied()))
}

/// What must hold of every entry that is let in.
fn sound(entry: &Entry) {
    assert!((1..=ACTORS_MAX).contains(&entry.version.counters().len()), "actors");
    assert!(entry.key.as_str().len() <= KEY_BYTES_MAX, "key");
    assert!(entry.key.components().all(|name| name != ".."), "a key leads out of the share");
    if let EntryKind::Symlink { target, .. } = &entry.kind {
        assert!(!target.is_empty() && !target.contains('\0'), "target");
    }
    assert!(net::entry_bytes_max(entry) < highwater_core::wire::MESSAGE_BYTES_MAX - 1024);
}

fn content(input: &[u8]) -> Made {
    use highwater_core::wire::Content;
    let message = match net::read_content(input) {
        Ok(message) => message,
        Err(error) => return refused(words(&error)),
    };
    let again = net::read_content(&net::write_content(message.clone()));
    assert_eq!(again.as_ref(), Ok(&message), "it is read otherwise than it was written");
    match &message {
        Content::Request { ask, .. } => accepted(discriminant(ask)),
        Content::Reply { reply, .. } => accepted(discriminant(reply)),
        other => accepted(discriminant(other)),
    }
}

/// Whatever two nodes hold, they come to the same, and to nothing that others refuse.
fn merged(input: &[u8]) -> Made {
    let Ok(Control::Batch(batch)) = net::read_control(input) else { return refused(0) };
    let mut shape = Vec::new();
    for pair in batch.entries.windows(2) {
        let (ours, theirs) =
            (&pair[0].1, &Entry { key: pair[0].1.key.clone(), ..pair[1].1.clone() });
        let (here, there) = (settled(ours, theirs), settled(theirs, ours));
        assert_eq!(here.kind, there.kind, "two nodes see two winners");
        assert_eq!(settled(&here, theirs).kind, here.kind, "the winner changes");
        sound(&here);
        shape.push(discriminant(&merge(Some(ours), theirs)));
    }
    accepted((about(shape.len()), shape.first().copied()))
}

fn settled(ours: &Entry, theirs: &Entry) -> Entry {
    match merge(Some(ours), theirs) {
        Merge::Known => ours.clone(),
        Merge::Take => theirs.clone(),
        Merge::Both(both) => {
            both.copy.iter().for_each(sound);
            both.merged
        }
    }
}

fn key(input: &[u8]) -> Made {
    let ordered = Key::from_ordered_bytes(input);
    if let Ok(key) = &ordered {
        assert_eq!(Key::from_ordered_bytes(&key.to_ordered_bytes()).as_ref(), Ok(key));
    }
    let Ok(text) = std::str::from_utf8(input) else { return refused(ordered.is_ok()) };
    let key = match Key::new(text) {
        Ok(key) => key,
        Err(error) => return refused(error.to_string()),
    };
    assert_eq!(key.as_str(), text, "a key is byte for byte what was read");
    assert!(!text.starts_with('/') && !text.contains('\0') && text.len() <= KEY_BYTES_MAX);
    for name in key.components() {
        assert!(!matches!(name, "" | "." | "..") && name.len() <= COMPONENT_BYTES_MAX);
    }
    assert_ne!(key.components().next(), Some(".highwater"));
    let back = key.parent().map(|parent| parent.join(key.name()));
    assert!(back.is_none_or(|back| back == Ok(key.clone())), "a key is its parent and its name");
    accepted((about(key.components().count()), about(text.len())))
}

fn copies(input: &[u8]) -> Made {
    let Some((stamp, path)) = input.split_at_checked(8) else { return refused(0) };
    let Some(key) = std::str::from_utf8(path).ok().and_then(|path| Key::new(path).ok()) else {
        return refused(1);
    };
    let stamp = u64::from_be_bytes(stamp.try_into().unwrap_or_default());
    let lost = Entry {
        key: key.clone(),
        kind: EntryKind::Tombstone,
        version: highwater_core::Version::default(),
        stamp: highwater_core::Hlc(stamp),
        author: highwater_core::NodeTag::from_bytes([stamp as u8; 5]),
    };
    let known = is_conflict_key(&key);
    let of = conflict_of(&key);
    assert!(known || of.is_none(), "it is the copy of something and no copy");
    let Some(copy) = conflict_key(&lost) else { return accepted((known, false)) };
    assert!(is_conflict_key(&copy), "{copy} is not known for a copy");
    let above = copy.parent().is_none_or(|dir| key.is_inside(&dir));
    assert!(above, "a copy lies beside what it lost to, or above it");
    assert_ne!(copy, key, "a copy takes the place of what it lost to");
    let clipped = copy.name().len() == COMPONENT_BYTES_MAX || copy.as_str().len() == KEY_BYTES_MAX;
    accepted((known, of.is_some(), clipped, conflict_of(&copy) == Some(key)))
}

fn row(input: &[u8]) -> Made {
    let Some((kind, value)) = input.split_first() else { return refused(0) };
    let Some(written) = rows::recode(*kind, value) else { return refused(kind) };
    assert_eq!(rows::recode(*kind, &written).as_ref(), Some(&written), "written otherwise again");
    assert!(written.len() <= value.len() + 8, "a row has grown");
    accepted((kind, about(written.len())))
}

/// A crash may leave any bytes: going on from them must not panic, and never be believed.
fn stage(input: &[u8]) -> Made {
    let Ok(row) = postcard::from_bytes::<StageRow>(input) else { return refused(0) };
    let (subtrees, sound) = (row.prefix.subtrees.len(), row.prefix.is_sound());
    if !sound {
        return refused((subtrees.min(64), 1));
    }
    let mut hasher = PrefixHasher::resume(row.prefix);
    hasher.update(b"and on");
    hasher.finalize();
    accepted(subtrees)
}

fn print(input: &[u8]) -> Made {
    let Ok(print) = postcard::from_bytes::<StatPrint>(input) else { return refused(0) };
    let written = postcard::to_allocvec(&print).unwrap_or_default();
    assert_eq!(postcard::from_bytes::<StatPrint>(&written).ok(), Some(print));
    accepted(about(written.len()))
}

fn marker(input: &[u8]) -> Made {
    let Ok(text) = std::str::from_utf8(input) else { return refused(0) };
    let Some(marker) = Marker::parse(text) else { return refused(text.lines().count()) };
    assert_eq!(Marker::parse(&marker.to_text()).as_ref(), Some(&marker));
    accepted(about(marker.generation as usize))
}

fn ignore(input: &[u8]) -> Made {
    let Ok(text) = std::str::from_utf8(input) else { return refused(0) };
    let (rules, problems) = IgnoreRules::parse(text);
    assert!(problems.len() <= 11, "{} problems are listed", problems.len());
    let paths = [".highwaterignore", "a", "a/b/c.tmp", "build/x", "ä/\u{202e}", "!x", "#x", "a b"];
    let ignored = |path: &&str| {
        let key: Key = path.parse().expect("a key");
        rules.ignores(&key, false)
    };
    assert!(!ignored(&".highwaterignore"), "the rules ignore themselves");
    let hits: Vec<bool> = paths.iter().map(ignored).collect();
    // A directory that is ignored takes everything in it along.
    let key = |path: &str| path.parse::<Key>().expect("a key");
    assert!(!rules.ignores(&key("a/b"), true) || rules.ignores(&key("a/b/deep/er"), false));
    accepted((hits, problems.len()))
}

fn config(input: &[u8]) -> Made {
    let Ok(text) = std::str::from_utf8(input) else { return refused(0) };
    judged(Config::parse(text, Path::new("config.toml"), []), text)
}

fn env(input: &[u8]) -> Made {
    let Ok(text) = std::str::from_utf8(input) else { return refused(0) };
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    judged(Config::parse("", Path::new("config.toml"), variables), text)
}

fn judged(read: Result<Config, highwater::config::ConfigError>, text: &str) -> Made {
    let config = match read {
        Ok(config) => config,
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains('\n'), "a refusal of more than a line: {said:?}");
            let control = |c: char| c.is_control();
            assert!(!said.contains(control), "a refusal that is no plain text: {said:?}");
            return refused(words(&error.message).to_owned());
        }
    };
    let names = config.peers.iter().map(|peer| &peer.name).chain([&config.node.name]);
    for name in names {
        assert!((1..=64).contains(&name.chars().count()) && !name.contains(char::is_control));
    }
    for share in &config.shares {
        assert!(share.path.is_absolute(), "{text}");
        assert!((0.0..=1.0).contains(&share.mass_delete.fraction), "{text}");
        assert!(share.rescan_interval.as_secs() >= 1, "{text}");
    }
    accepted((config.shares.len(), config.peers.len(), config.shares.iter().any(|s| s.paused)))
}

fn ids(input: &[u8]) -> Made {
    let Ok(text) = std::str::from_utf8(input) else { return refused(0) };
    if let Ok(name) = text.parse::<ShareName>() {
        assert_eq!(name.to_string(), text);
        assert!((1..=64).contains(&text.len()) && !text.contains(['/', '\0', '\n']));
    }
    match text.parse::<NodeId>() {
        Ok(id) => {
            assert_eq!(id.to_string(), text.to_ascii_lowercase(), "two spellings of one id");
            accepted(0)
        }
        Err(ParseIdError::Checksum) => refused(1),
        Err(_) => refused((2, text.parse::<ShareName>().is_ok(), about(text.len()))),
    }
}

fn request(input: &[u8]) -> Made {
    let request: Request = match serde_json::from_slice(input) {
        Ok(request) => request,
        Err(error) => return refused(words(&error.to_string()).to_owned()),
    };
    let text = serde_json::to_string(&request).expect("what was read can be written");
    assert_eq!(serde_json::from_str::<Request>(&text).ok(), Some(request.clone()));
    accepted(discriminant(&request))
}
