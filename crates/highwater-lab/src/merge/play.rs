//! A story played on trees, and beside it what its judge knows: which user saw what.
//!
//! The judge's knowledge is kept without the code under test. Each act of a user is a bit; what a
//! node has seen of a key is a set of bits, joined when something is sent. Whether one act was made
//! on top of another is then a question about sets, and the versions that the core reckons must
//! give the same answer.

use highwater_core::clock::{Mtime, WallTime};
use highwater_core::log::{Actor, Seq};
use highwater_core::observe::Observer;
use highwater_core::{ContentHash, Entry, EntryKind, Key, Mode, NodeTag, VersionOrder};

use super::steps::{Act, Step, Story, key_pool};
use super::tree::{Tree, absorb, shown};
use crate::dice::Dice;

/// Contents that a case may write.
const CONTENTS: usize = 64;
/// When every case begins. Second 1, so that a user's file can bear a conflict copy's name.
const BEGIN_MS: u64 = 1_000;

/// What all cases share.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) keys: Vec<Key>,
    contents: Vec<ContentHash>,
}

impl Pool {
    pub(super) fn new() -> Result<Self, String> {
        let key = |text: &String| Key::new(text).map_err(|error| format!("{text}: {error}"));
        let keys = key_pool().iter().map(key).collect::<Result<_, _>>()?;
        let contents = (0..CONTENTS).map(|n| ContentHash::of(&[n as u8])).collect();
        Ok(Self { keys, contents })
    }

    /// What an entry holds that could be lost; an error if nobody ever wrote it.
    pub(super) fn held(&self, kind: &EntryKind) -> Result<Option<Held>, String> {
        match kind {
            EntryKind::File { size, content, .. } => {
                let known = self.contents.get(*size as usize) == Some(content);
                known.then_some(Some(Held::File(*size as u8))).ok_or("an invented content".into())
            }
            EntryKind::Symlink { target, .. } => {
                let number = target.strip_prefix("to-").and_then(|n| n.parse().ok());
                number.map(|n| Some(Held::Link(n))).ok_or("an invented link".into())
            }
            EntryKind::Directory { .. } | EntryKind::Tombstone => Ok(None),
        }
    }
}

/// What an act put under a key that could be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    File(u8),
    Link(u8),
}

/// One act of one user.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    /// The position of its key in the story; `None` for an act on a conflict copy.
    pub(super) key: Option<usize>,
    /// What stands under the key after it.
    pub(super) kind: EntryKind,
    pub(super) held: Option<Held>,
    /// The acts on this key that its user's node had seen, as bits.
    pub(super) past: u64,
    /// Whether a user saw what it put there and replaced or deleted it.
    pub(super) replaced: bool,
}

/// A story being played.
pub(super) struct Play<'a> {
    pub(super) pool: &'a Pool,
    pub(super) story: &'a Story,
    pub(super) trees: Vec<Tree>,
    pub(super) deeds: Vec<Deed>,
    /// Per node and key of the story: the acts seen, as bits.
    seen: Vec<Vec<u64>>,
    actors: Vec<u64>,
    seqs: Vec<u64>,
    now_ms: u64,
    /// What was sent on the way, to be heard again at the end.
    pub(super) old_news: Vec<Entry>,
    pub(super) copies: usize,
    pub(super) told: Option<Vec<String>>,
}

impl<'a> Play<'a> {
    pub(super) fn new(pool: &'a Pool, story: &'a Story, tell: bool) -> Self {
        let nodes = story.nodes;
        Self {
            pool,
            story,
            trees: vec![Tree::new(); nodes],
            deeds: Vec::new(),
            seen: vec![vec![0; story.keys.len()]; nodes],
            actors: (0..nodes as u64).map(|node| 100 - node).collect(),
            seqs: vec![0; nodes],
            now_ms: BEGIN_MS,
            old_news: Vec::new(),
            copies: 0,
            told: tell.then(Vec::new),
        }
    }

    /// Plays all steps.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for step in &self.story.steps {
            if let Some(told) = &mut self.told {
                told.push(step.to_string());
            }
            self.step(*step)?;
        }
        Ok(())
    }

    pub(super) fn key(&self, at: usize) -> &'a Key {
        &self.pool.keys[self.story.keys[at]]
    }

    /// Whether a key of the story is one that conflict copies may take, too.
    pub(super) fn is_shared_with_copies(&self, at: usize) -> bool {
        self.key(at).as_str().contains(".conflict-")
    }

    /// The place of a key in the story, unless conflict copies may take it.
    pub(super) fn place(&self, key: &Key) -> Option<usize> {
        let keys = 0..self.story.keys.len();
        keys.into_iter().find(|&at| self.key(at) == key && !self.is_shared_with_copies(at))
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Act { node, key, act } => self.act(node, &self.key(key).clone(), act),
            Step::ActOnCopy { node, nth, act } => match self.copy_at(node, nth) {
                Some(copy) => self.act(node, &copy, act),
                None => Ok(()),
            },
            Step::Send { from, to, part, order } => self.send(from, to, part, order),
            Step::Epoch { node } => {
                self.actors[node] += 1_000;
                Ok(())
            }
            Step::Wait { millis } => {
                self.now_ms += millis;
                Ok(())
            }
        }
    }

    fn copy_at(&self, node: usize, nth: usize) -> Option<Key> {
        let live = self.trees[node].values().filter(|entry| entry.kind.is_live());
        let copies: Vec<&Key> =
            live.map(|entry| &entry.key).filter(|key| self.place(key).is_none()).collect();
        copies.get(nth % copies.len().max(1)).map(|key| (*key).clone())
    }

    /// A user acts on a key, and first on what is in the way: what lies below a directory that goes,
    /// what is not a directory above a key that comes.
    fn act(&mut self, node: usize, key: &Key, act: Act) -> Result<(), String> {
        let Some(kind) = self.outcome(node, key, act) else { return Ok(()) };
        if !matches!(kind, EntryKind::Directory { .. }) {
            let below = self.trees[node].values().filter(|e| e.kind.is_live());
            let below: Vec<Key> =
                below.map(|e| e.key.clone()).filter(|k| k.is_inside(key)).collect();
            for child in below {
                self.put(node, &child, EntryKind::Tombstone)?;
            }
        }
        if kind.is_live()
            && let Some(above) = key.parent()
            && self.place(&above).is_some()
            && !matches!(self.shows(node, &above), Some(EntryKind::Directory { .. }))
        {
            self.act(node, &above, Act::MakeDir)?;
        }
        self.put(node, key, kind)
    }

    /// What stands under `key` after the act; `None` if it changes nothing.
    fn outcome(&self, node: usize, key: &Key, act: Act) -> Option<EntryKind> {
        let now = self.clock(node).0;
        let mtime = Mtime { seconds: (now / 1000) as i64, nanos: (now % 1000) as u32 * 1_000_000 };
        let there = self.shows(node, key);
        let kind = match (act, there) {
            (Act::Write(n), _) => EntryKind::File {
                size: u64::from(n),
                content: self.pool.contents[usize::from(n)],
                mode: Mode::new(0o644),
                mtime,
            },
            (Act::Touch, Some(EntryKind::File { size, content, .. })) => {
                let (size, content) = (*size, *content);
                EntryKind::File { size, content, mode: Mode::new(0o600), mtime }
            }
            (Act::Touch, Some(EntryKind::Directory { .. })) => {
                EntryKind::Directory { mode: Mode::new(0o700) }
            }
            (Act::Touch, _) => return None,
            (Act::Link(n), _) => EntryKind::Symlink { target: format!("to-{n}"), mtime },
            (Act::MakeDir, _) => EntryKind::Directory { mode: Mode::new(0o755) },
            (Act::Delete, None) => return None,
            (Act::Delete, Some(_)) => EntryKind::Tombstone,
        };
        (there != Some(&kind)).then_some(kind)
    }

    fn shows(&self, node: usize, key: &Key) -> Option<&EntryKind> {
        self.trees[node].get(key).map(|entry| &entry.kind).filter(|kind| kind.is_live())
    }

    fn clock(&self, node: usize) -> WallTime {
        WallTime(self.now_ms + self.story.ahead_ms[node])
    }

    /// Records that a user has put `kind` under `key`.
    fn put(&mut self, node: usize, key: &Key, kind: EntryKind) -> Result<(), String> {
        let shown = match self.shows(node, key) {
            Some(kind) => self.pool.held(kind)?,
            None => None,
        };
        let place = self.place(key);
        let past = place.map_or(0, |at| self.seen[node][at]);
        for (number, deed) in self.deeds.iter_mut().enumerate() {
            // Of a conflict copy nobody keeps who saw it where: its content is no longer asked for.
            let known = place.is_none() || past & (1 << number) != 0;
            deed.replaced |= known && shown.is_some() && deed.held == shown;
        }
        if let Some(at) = place {
            self.seen[node][at] |= 1 << self.deeds.len();
        }
        let held = self.pool.held(&kind)?;
        self.deeds.push(Deed { key: place, kind: kind.clone(), held, past, replaced: false });
        self.seqs[node] += 1;
        let observer = Observer {
            actor: Actor(self.actors[node]),
            author: NodeTag::from_bytes([node as u8 + 1; 5]),
            now: self.clock(node),
        };
        let tree = &mut self.trees[node];
        let entry = observer.changed(tree.get(key), key.clone(), kind, Seq(self.seqs[node]));
        tree.insert(key.clone(), entry);
        Ok(())
    }

    /// `to` learns from `from`.
    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        part: u64,
        order: u64,
    ) -> Result<(), String> {
        let mut receiving = std::mem::take(&mut self.trees[to]);
        let sent = self.trees[from].values().enumerate();
        let mut sent: Vec<&Entry> =
            sent.filter(|(n, _)| part & (1 << (n % 64)) != 0).map(|(_, entry)| entry).collect();
        Dice::new(order).shuffle(&mut sent);
        for entry in sent {
            if let Some(at) = self.place(&entry.key) {
                let (theirs, ours) = (self.seen[from][at], self.seen[to][at]);
                versions_tell_who_saw_more(entry, receiving.get(&entry.key), theirs, ours)?;
                self.seen[to][at] |= theirs;
            }
            self.copies += absorb(&mut receiving, entry)?.copies;
            self.old_news.push(entry.clone());
        }
        self.seqs[to] += receiving.len() as u64;
        self.trees[to] = receiving;
        Ok(())
    }
}

/// Versions say what the sets of acts say: who has seen more.
fn versions_tell_who_saw_more(
    entry: &Entry,
    known: Option<&Entry>,
    theirs: u64,
    ours: u64,
) -> Result<(), String> {
    let Some(known) = known else { return Ok(()) };
    let right = match (theirs & !ours == 0, ours & !theirs == 0) {
        (true, true) => VersionOrder::Equal,
        (true, false) => VersionOrder::Before,
        (false, true) => VersionOrder::After,
        (false, false) => VersionOrder::Concurrent,
    };
    let found = entry.version.compare(&known.version);
    if found == right {
        return Ok(());
    }
    Err(format!("a version of {} is {found:?}, what was seen is {right:?}", shown(&entry.key)))
}
