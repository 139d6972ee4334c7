//! What was written, by the hand that wrote it: the judge's own book.
//!
//! The harness enters every change before it makes it, with the hash of the whole content. A file
//! that is seen must be one of the whole contents that its path may hold at that moment. What may
//! be missing follows from how it was written: see [`Keeping`]. Once both nodes have it, it is
//! settled, and stays exactly as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::oracle::{Found, Tree};

/// Most findings that a failure lists.
const SHOWN_MAX: usize = 20;

/// A whole content, by its hash; `None` where nothing stands.
type Content = Option<String>;

/// How a change is kept by whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// On the disk that stays up: in the end everybody has it.
    Elsewhere,
    /// On the disk that loses its power, and synced: it is there already when the power is back.
    Synced,
    /// On the disk that loses its power, without a sync: it may be lost, whole or in part, as long
    /// as nobody else was told of it.
    Loose,
}

/// A change that is not settled.
#[derive(Clone, Debug)]
struct Change {
    before: Content,
    after: Content,
    keeping: Keeping,
    /// The other node has shown it.
    witnessed: bool,
    /// All of what was written loosely, to tell what is left of it from an invention.
    written: Vec<u8>,
    /// What was left of it when the power was back, if that was no whole content.
    torn: Content,
}

/// The book of one folder that two nodes share.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    settled: BTreeMap<PathBuf, String>,
    changes: BTreeMap<PathBuf, Change>,
    dirs: BTreeSet<PathBuf>,
}

/// What a cut has left of the changes that nobody had synced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remains {
    /// Gone without a trace.
    pub lost: u64,
    /// There in part.
    pub torn: u64,
}

impl Ledger {
    /// Enters that `path` is about to hold these bytes.
    pub fn write(&mut self, path: &Path, bytes: &[u8], keeping: Keeping) {
        let after = Some(blake3::hash(bytes).to_hex().to_string());
        let written = if keeping == Keeping::Loose { bytes.to_vec() } else { Vec::new() };
        self.change(path, after, keeping, written);
    }

    /// Enters that `path` is about to be removed.
    pub fn remove(&mut self, path: &Path, keeping: Keeping) {
        self.change(path, None, keeping, Vec::new());
    }

    /// Enters that a settled file is about to get a name that is free.
    pub fn rename(&mut self, from: &Path, to: &Path, keeping: Keeping) {
        let content = self.settled.get(from).cloned();
        self.change(from, None, keeping, Vec::new());
        self.change(to, content, keeping, Vec::new());
    }

    fn change(&mut self, path: &Path, after: Content, keeping: Keeping, written: Vec<u8>) {
        let before = self.settled.remove(path);
        self.dirs.extend(path.ancestors().skip(1).map(Path::to_owned));
        let change = Change { before, after, keeping, witnessed: false, written, torn: None };
        let earlier = self.changes.insert(path.to_owned(), change);
        assert!(earlier.is_none(), "{} is changed twice before it settles", path.display());
    }

    /// The files that nobody is changing.
    pub fn at_rest(&self) -> impl ExactSizeIterator<Item = &PathBuf> {
        self.settled.keys()
    }

    /// Whether somebody is changing a file in this directory.
    pub fn is_changing_in(&self, dir: &Path) -> bool {
        self.changes.keys().any(|path| path.parent() == Some(dir))
    }

    /// The other node shows this: whatever is in it was told, and can no longer be taken back. How
    /// many loose changes that makes certain.
    pub fn witnessed_by(&mut self, tree: &Tree) -> u64 {
        let mut more = 0;
        for (path, change) in &mut self.changes {
            let shown = hash_at(tree, path) == change.after;
            if shown && change.keeping == Keeping::Loose && !change.witnessed {
                change.witnessed = true;
                more += 1;
            }
        }
        more
    }

    /// Judges what a cut left on the disk, before a node has touched it. `read` gives the bytes of
    /// a file.
    ///
    /// # Errors
    /// What must not be there, or must not be missing.
    pub fn judge_remains(
        &mut self,
        tree: &Tree,
        read: impl Fn(&Path) -> Result<Vec<u8>>,
    ) -> Result<Remains> {
        let mut wrong = self.strangers(tree);
        wrong.extend(self.unsettled(tree));
        let mut remains = Remains::default();
        for (path, change) in &mut self.changes {
            let found = hash_at(tree, path);
            let whole = found == change.after || found == change.before;
            let kept = match change.keeping {
                Keeping::Elsewhere => whole,
                Keeping::Synced => found == change.after,
                Keeping::Loose if whole => true,
                Keeping::Loose => found.is_none() || is_part(&read(path)?, &change.written),
            };
            if !kept {
                wrong.push(describe(path, change, &found));
            } else if change.keeping == Keeping::Loose && found != change.after {
                remains.lost += u64::from(whole || found.is_none());
                remains.torn += u64::from(!whole && found.is_some());
                change.torn = found;
            }
        }
        demand_nothing(&wrong, "after the cut, before the node started")?;
        Ok(remains)
    }

    /// Judges what stands in the end, and settles it.
    ///
    /// # Errors
    /// What was lost, what came back, what nobody wrote.
    pub fn judge_outcome(&mut self, tree: &Tree) -> Result<()> {
        let mut wrong = self.strangers(tree);
        wrong.extend(self.unsettled(tree));
        for (path, change) in &self.changes {
            let found = hash_at(tree, path);
            let certain = change.keeping != Keeping::Loose || change.witnessed;
            let right = found == change.after
                || (!certain && (found == change.before || found == change.torn));
            if !right {
                wrong.push(describe(path, change, &found));
            }
        }
        demand_nothing(&wrong, "in the end")?;
        for path in std::mem::take(&mut self.changes).into_keys() {
            if let Some(hash) = hash_at(tree, &path) {
                self.settled.insert(path, hash);
            }
        }
        Ok(())
    }

    /// Files that are settled and not what they were.
    fn unsettled(&self, tree: &Tree) -> Vec<String> {
        let differs = |(path, hash): (&PathBuf, &String)| {
            let found = hash_at(tree, path);
            let name = path.display();
            (found.as_ref() != Some(hash)).then(|| match found {
                Some(found) => format!("{name}: held {hash}, now {found}"),
                None => format!("{name}: held {hash}, now missing"),
            })
        };
        self.settled.iter().filter_map(differs).collect()
    }

    /// What stands where nobody ever put anything.
    fn strangers(&self, tree: &Tree) -> Vec<String> {
        let known = |path: &Path, found: &Found| match found {
            Found::File { .. } => {
                self.settled.contains_key(path) || self.changes.contains_key(path)
            }
            Found::Dir { .. } => self.dirs.contains(path),
            Found::Symlink { .. } | Found::Special => false,
        };
        let strange = tree.iter().filter(|(path, found)| !known(path, found));
        strange.map(|(path, found)| format!("{}: nobody put {found:?}", path.display())).collect()
    }
}

fn hash_at(tree: &Tree, path: &Path) -> Content {
    match tree.get(path) {
        Some(Found::File { hash, .. }) => Some(hash.clone()),
        _ => None,
    }
}

/// Whether `found` is what a file system may keep of `written`: as much of it as there is is equal,
/// or was never written and reads as zeros.
fn is_part(found: &[u8], written: &[u8]) -> bool {
    const BLOCK: usize = 4096;
    let in_blocks = found.chunks(BLOCK).zip(written.chunks(BLOCK));
    found.len() <= written.len()
        && in_blocks.into_iter().all(|(found, written)| {
            written.starts_with(found) || found.iter().all(|&byte| byte == 0)
        })
}

fn describe(path: &Path, change: &Change, found: &Content) -> String {
    let Change { before, after, keeping, witnessed, torn, .. } = change;
    let told = if *witnessed { ", witnessed by the other node" } else { "" };
    format!(
        "{}: {keeping:?}{told}, before {before:?}, after {after:?}, left {torn:?}, now {found:?}",
        path.display()
    )
}

fn demand_nothing(wrong: &[String], when: &str) -> Result<()> {
    let shown = wrong.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n  ");
    ensure!(wrong.is_empty(), "{} paths are wrong {when}:\n  {shown}", wrong.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> Tree {
        let found = |bytes: &[u8]| Found::File {
            mode: 0o644,
            modified: (0, 0),
            size: bytes.len() as u64,
            hash: blake3::hash(bytes).to_hex().to_string(),
        };
        files.iter().map(|(path, bytes)| (PathBuf::from(path), found(bytes))).collect()
    }

    /// `a` is settled as `old` and written over with `new`.
    fn book(keeping: Keeping) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.write(Path::new("a"), b"old", Keeping::Elsewhere);
        ledger.judge_outcome(&tree(&[("a", b"old")])).expect("as written");
        ledger.write(Path::new("a"), b"new", keeping);
        ledger
    }

    fn remains(ledger: &Ledger, files: &[(&str, &[u8])]) -> Result<Remains> {
        let bytes = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            Ok(file.map(|(_, bytes)| bytes.to_vec()).unwrap_or_default())
        };
        ledger.clone().judge_remains(&tree(files), bytes)
    }

    /// Each row: how a change was kept, what is found, whether that may be found right after a cut.
    #[test]
    fn after_a_cut_every_file_is_whole_unless_nobody_ever_synced_it() {
        type Row = (Keeping, &'static [(&'static str, &'static [u8])], bool);
        let rows: [Row; 13] = [
            (Keeping::Elsewhere, &[("a", b"old")], true),
            (Keeping::Elsewhere, &[("a", b"new")], true),
            (Keeping::Elsewhere, &[("a", b"")], false),
            (Keeping::Elsewhere, &[("a", b"ne")], false),
            (Keeping::Elsewhere, &[], false),
            (Keeping::Synced, &[("a", b"new")], true),
            (Keeping::Synced, &[("a", b"old")], false),
            (Keeping::Loose, &[("a", b"old")], true),
            (Keeping::Loose, &[("a", b"ne")], true),
            (Keeping::Loose, &[("a", b"\0\0")], true),
            (Keeping::Loose, &[("a", b"nx")], false),
            (Keeping::Loose, &[("a", b"newer")], false),
            (Keeping::Elsewhere, &[("a", b"new"), ("b", b"new")], false),
        ];
        for (keeping, files, allowed) in rows {
            let judged = remains(&book(keeping), files);
            assert_eq!(judged.is_ok(), allowed, "{keeping:?} {files:?}: {judged:?}");
        }
    }

    #[test]
    fn a_loose_change_that_the_other_node_has_shown_must_be_there_in_the_end() {
        let mut ledger = book(Keeping::Loose);
        ledger.clone().judge_outcome(&tree(&[("a", b"old")])).expect("nobody was told");
        assert_eq!(ledger.witnessed_by(&tree(&[("a", b"new")])), 1);
        assert!(ledger.clone().judge_outcome(&tree(&[("a", b"old")])).is_err());
        ledger.judge_outcome(&tree(&[("a", b"new")])).expect("as witnessed");
    }

    #[test]
    fn what_is_settled_must_neither_change_nor_vanish() {
        let mut ledger = book(Keeping::Elsewhere);
        ledger.judge_outcome(&tree(&[("a", b"new")])).expect("as written");
        assert!(ledger.judge_outcome(&tree(&[("a", b"old")])).is_err());
        assert!(ledger.judge_outcome(&tree(&[])).is_err());
        ledger.judge_outcome(&tree(&[("a", b"new")])).expect("as settled");
    }
}
