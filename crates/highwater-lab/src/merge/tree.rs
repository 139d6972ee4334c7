//! The state of one node as the core leaves it: the latest entry of every key. What a node does
//! about an arriving entry is what the engine does, with everything put in place at once.

use std::collections::BTreeMap;

use highwater_core::merge::{Merge, merge};
use highwater_core::{Entry, Key};

/// Every key with its entry.
pub(super) type Tree = BTreeMap<Key, Entry>;

/// Copies that one entry may call forth: its own, one of what stood under the copy's name, and so
/// on. More of them than people who edited at once would be a core that never comes to rest.
const COPIES_MAX: usize = 16;

/// What an arriving entry did to a tree.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    /// Whether it changed anything.
    pub(super) news: bool,
    /// The conflict copies that it called forth.
    pub(super) copies: usize,
}

/// Takes an entry into a tree.
pub(super) fn absorb(tree: &mut Tree, theirs: &Entry) -> Result<Arrival, String> {
    let mut arrival = Arrival::default();
    let mut made: Option<Entry> = None;
    loop {
        let arriving = made.as_ref().unwrap_or(theirs);
        let (state, copy) = match merge(tree.get(&arriving.key), arriving) {
            Merge::Known => return Ok(arrival),
            Merge::Take => (arriving.clone(), None),
            Merge::Both(both) => (both.merged, both.copy),
        };
        if tree.get(&state.key) != Some(&state) {
            arrival.news = true;
            tree.insert(state.key.clone(), state);
        }
        if copy.is_none() {
            return Ok(arrival);
        }
        made = copy;
        arrival.copies += 1;
        if arrival.copies > COPIES_MAX {
            return Err(format!("copies of copies without end, at {}", shown(&theirs.key)));
        }
    }
}

/// Takes everything of `from` into `tree`.
pub(super) fn absorb_all<'a>(
    tree: &mut Tree,
    from: impl IntoIterator<Item = &'a Entry>,
) -> Result<(), String> {
    for entry in from {
        absorb(tree, entry)?;
    }
    Ok(())
}

/// A key as it is told: very long ones by their ends.
pub(super) fn shown(key: &Key) -> String {
    let text = key.as_str();
    let chars = text.chars().count();
    if chars <= 80 {
        return text.to_owned();
    }
    let head: String = text.chars().take(12).collect();
    let tail: String = text.chars().skip(chars - 52).collect();
    format!("{head}[{} more]{tail}", chars - 64)
}
