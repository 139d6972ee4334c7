//! Who decides whether a story went well: it keeps its own books of what users did, and shares no
//! code with what it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use highwater_core::fingerprint::{Fingerprint, StateDigest};
use highwater_core::{ContentHash, EntryKind, Key};
use highwater_store::EntryRow;

use super::disk::{Disk, Thing};
use super::node::Node;
use super::story::seconds;

/// Lines of a story that are kept; of a longer one, the last.
const LINES_MAX: usize = 20_000;

/// What has happened so far, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) violation: Option<String>,
    /// One number for the whole story: two plays that differ in anything differ in it.
    pub(super) digest: u64,
    /// The story as it was played, if somebody wants to read it.
    pub(super) lines: Option<Vec<String>>,
    /// How often rare things happened.
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) events: u64,
    /// Every content that a user ever wrote.
    written: BTreeSet<ContentHash>,
    /// Contents that a user replaced or deleted where they could be seen.
    superseded: BTreeSet<ContentHash>,
    /// Contents that only one disk held when that disk lost them.
    gone_with_a_disk: BTreeSet<ContentHash>,
    /// Bytes that a crash made of a user's unsynced writes.
    torn: BTreeSet<ContentHash>,
    /// What the only writer's folder must hold; `None` when there are several.
    pub(super) model: Option<Disk>,
    /// Something happened after which old states may rightly come back.
    pub(super) history_broken: bool,
}

impl Judge {
    pub(super) fn new(with_lines: bool, one_writer: bool) -> Self {
        Self {
            violation: None,
            digest: 0xcbf2_9ce4_8422_2325,
            lines: with_lines.then(Vec::new),
            counts: BTreeMap::new(),
            events: 0,
            written: BTreeSet::new(),
            superseded: BTreeSet::new(),
            gone_with_a_disk: BTreeSet::new(),
            torn: BTreeSet::new(),
            model: one_writer.then(Disk::default),
            history_broken: false,
        }
    }

    /// Takes down what happened: always its number, and the words if somebody reads them.
    pub(super) fn note(&mut self, time: u64, node: usize, verb: &str, what: &dyn Debug) {
        let words = time.to_le_bytes().into_iter().chain([node as u8]).chain(verb.bytes());
        for byte in words {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            let mut what = format!("{what:?}");
            if let Some((end, _)) = what.char_indices().nth(900) {
                what.truncate(end);
            }
            if lines.len() >= LINES_MAX {
                lines.drain(..LINES_MAX / 2);
            }
            lines.push(format!("{:>12} node {node} {verb} {what}", seconds(time)));
        }
    }

    pub(super) fn count(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    pub(super) fn happened(&self, what: &str) -> bool {
        self.counts.get(what).is_some_and(|times| *times > 0)
    }

    /// A rule is broken; the first one counts.
    pub(super) fn broken(&mut self, time: u64, what: &str) {
        self.violation.get_or_insert_with(|| format!("at {}: {what}", seconds(time)));
    }

    /// Whether the node did something to its folder that it must never do.
    pub(super) fn look_at_disk(&mut self, time: u64, node: usize, disk: &mut Disk) {
        for rule in std::mem::take(&mut disk.broken_rules) {
            self.broken(time, &format!("I3, I4: node {node}: {rule}"));
        }
    }

    // --- the books ------------------------------------------------------------------------

    pub(super) fn wrote(&mut self, content: ContentHash) {
        self.written.insert(content);
    }

    pub(super) fn superseded(&mut self, contents: impl IntoIterator<Item = ContentHash>) {
        self.superseded.extend(contents);
    }

    /// A disk has lost contents, and these are held elsewhere.
    pub(super) fn disk_lost(
        &mut self,
        before: &BTreeSet<ContentHash>,
        after: &BTreeSet<ContentHash>,
        elsewhere: &BTreeSet<ContentHash>,
    ) {
        let lost = before.difference(after).filter(|content| !elsewhere.contains(content));
        self.gone_with_a_disk.extend(lost);
        self.torn.extend(after.difference(before));
    }

    /// A disk was put back. A file that a user had renamed stands under its old name again, which
    /// others may know as deleted; if nobody else had heard of the new name, only this disk had it.
    pub(super) fn renames_undone(
        &mut self,
        before: &BTreeSet<(Key, ContentHash)>,
        after: &BTreeSet<(Key, ContentHash)>,
        elsewhere: &BTreeSet<ContentHash>,
    ) {
        let moved = before.difference(after).map(|(_, content)| *content);
        self.gone_with_a_disk.extend(moved.filter(|content| !elsewhere.contains(content)));
    }

    // --- the end --------------------------------------------------------------------------

    /// What is wrong with a cluster that says it is in sync; `None` if nothing is.
    pub(super) fn judge(&self, nodes: &[Node]) -> Option<String> {
        let trees: Vec<BTreeMap<Key, EntryKind>> = nodes.iter().map(Node::tree).collect();
        let first = trees.first()?;
        let others = trees.iter().enumerate().skip(1);
        let mut wrongs = others.filter_map(|(number, tree)| differs(first, tree, number));
        wrongs
            .next()
            .or_else(|| self.judge_contents(first))
            .or_else(|| self.judge_model(first))
            .or_else(|| nodes.iter().enumerate().find_map(|(n, node)| judge_index(n, node)))
    }

    fn judge_contents(&self, tree: &BTreeMap<Key, EntryKind>) -> Option<String> {
        let contents = tree.values().filter_map(EntryKind::content).map(|(content, _)| content);
        let found: BTreeSet<ContentHash> = contents.collect();
        let owed = self.written.difference(&self.superseded);
        if let Some(lost) =
            owed.into_iter().find(|c| !found.contains(c) && !self.gone_with_a_disk.contains(c))
        {
            return Some(format!("I1: {lost:?} was written, nobody replaced it, and it is gone"));
        }
        let invented = found
            .iter()
            .find(|content| !self.written.contains(content) && !self.torn.contains(content));
        invented.map(|content| format!("I2: {content:?} was never written by anybody"))
    }

    fn judge_model(&self, tree: &BTreeMap<Key, EntryKind>) -> Option<String> {
        let model = self.model.as_ref().filter(|_| !self.history_broken)?;
        let expected = model.visible();
        for (key, (thing, _)) in &expected {
            let same = match (tree.get(key), thing) {
                (
                    Some(EntryKind::File { content: c, mode: m, .. }),
                    Thing::File { content, mode, .. },
                ) => (c, m) == (content, mode),
                (Some(EntryKind::Directory { mode: m }), Thing::Dir { mode }) => m == mode,
                _ => false,
            };
            if !same {
                let found = tree.get(key);
                return Some(format!(
                    "I11: the only writer left {key} as {thing:?}, it is {found:?}"
                ));
            }
        }
        let extra = tree.keys().find(|key| !expected.contains_key(key))?;
        Some(format!("I13, I14: {extra} is there and the only writer has no such thing"))
    }
}

fn differs(
    first: &BTreeMap<Key, EntryKind>,
    other: &BTreeMap<Key, EntryKind>,
    number: usize,
) -> Option<String> {
    let keys: BTreeSet<&Key> = first.keys().chain(other.keys()).collect();
    let key = keys.into_iter().find(|key| first.get(key) != other.get(key))?;
    let (here, there) = (first.get(key), other.get(key));
    Some(format!("L1: {key} is {here:?} at node 0 and {there:?} at node {number}"))
}

/// Whether a node's index says what its folder holds.
fn judge_index(number: usize, node: &Node) -> Option<String> {
    let rows = match node.index() {
        Ok(rows) => rows,
        Err(error) => return Some(format!("node {number}: its index cannot be read: {error}")),
    };
    let live = rows.into_iter().filter(|row| row.entry.kind.is_live());
    let live: Vec<EntryRow> = live.collect();
    let mut sum = Fingerprint::default();
    live.iter().for_each(|row| sum.add(&StateDigest::of(&row.entry.key, &row.entry.kind)));
    if node.fingerprint().is_some_and(|told| told != sum) {
        return Some(format!("C1: node {number}: its fingerprint is not that of its entries"));
    }
    let live = live.into_iter().map(|row| (row.entry.key, row.entry.kind));
    let index: BTreeMap<Key, EntryKind> = live.collect();
    let tree = node.tree();
    let keys: BTreeSet<&Key> = index.keys().chain(tree.keys()).collect();
    let key = keys.into_iter().find(|key| index.get(key) != tree.get(key))?;
    let (says, holds) = (index.get(key), tree.get(key));
    Some(format!("node {number}: {key} is {says:?} in the index and {holds:?} in the folder"))
}
