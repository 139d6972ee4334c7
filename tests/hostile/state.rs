//! Damage to what a node keeps on disk: P1, P2, P5-P7, P9, P10, P12, P14.
//!
//! Whatever stands in its files, a node either starts and says so, or ends in order and names what
//! is wrong and what to do. It never panics, never makes itself another identity, and never touches
//! the user's files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::dice::Dice;
use highwater_lab::node::{Node, NodeSpec, clone_home};
use highwater_lab::oracle::{self, Tree};
use highwater_tests::{Slot, highwater};

use crate::stage::PATIENCE;

/// A node that has run and was stopped, and a copy of all of it to go back to.
struct Kept {
    node: Node,
    template: PathBuf,
    tree: Tree,
    dir: tempfile::TempDir,
    _slot: Slot,
}

impl Kept {
    fn new() -> Result<Kept> {
        let slot = Slot::take();
        let dir = tempfile::tempdir()?;
        let mut node = Node::init(NodeSpec::on_loopback(&highwater(), "n")?, dir.path())?;
        node.add_share(SHARE)?;
        for number in 0..40 {
            fs::write(node.folder(SHARE).join(format!("file-{number}")), [number; 3000])?;
        }
        // Two lives: a snapshot and a generation to go back from.
        for _ in 0..2 {
            run_until_scanned(&mut node)?;
        }
        let template = dir.path().join("template");
        clone_home(&dir.path().join("n"), &template)?;
        let tree = oracle::read_tree(&node.folder(SHARE))?;
        Ok(Kept { node, template, tree, dir, _slot: slot })
    }

    /// Puts everything back as it was kept.
    fn restore(&self) -> Result<()> {
        let live = self.dir.path().join("n");
        // The user's files stay: nothing may have happened to them.
        for part in ["home", &format!("{SHARE}/.highwater")] {
            fs::remove_dir_all(live.join(part))?;
            clone_home(&self.template.join(part), &live.join(part))?;
        }
        set_private(&live.join("home/identity/key.pem"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("n").join(name)
    }

    /// Starts the node on what is there; whether it served. Judges either way.
    fn try_start(&mut self, what: &str, life: fn(&mut Node) -> Result<()>) -> Result<bool> {
        fs::write(self.node.log_path(), "")?;
        let id = self.node.id().to_owned();
        let started = life(&mut self.node);
        let log = fs::read_to_string(self.node.log_path())?;
        ensure!(!log.contains("panicked"), "{what}: a panic:\n{log}");
        let tree = oracle::read_tree(&self.node.folder(SHARE))?;
        let changed = oracle::differences(&self.tree, &tree);
        ensure!(changed.is_empty(), "{what}: the user's files: {changed:?}");
        ensure!(self.node.id() == id);
        match started {
            Ok(()) => Ok(true),
            Err(error) => {
                // What a program says when it gives up is the last that stands in its log.
                let last = log.lines().last().unwrap_or_default();
                let said = last.strip_prefix("highwater: ");
                let said =
                    said.with_context(|| format!("{what}: it ended without a word: {error:?}"))?;
                let ours = self.file("home");
                let named = ours.to_str().is_some_and(|home| said.contains(home));
                ensure!(named, "{what}: nothing of this node is named: {said}");
                // Of a configuration it is the line and the key that are said.
                let advised = said.contains("; ") || said.contains("config.toml");
                ensure!(advised, "{what}: it is not said what to do: {said}");
                Ok(false)
            }
        }
    }
}

fn set_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// One life of the daemon, from its start to the end of its first scan. A share that stands still
/// with an error has said why; one whose store is that of another folder wants what that lacks.
fn run_until_scanned(node: &mut Node) -> Result<()> {
    live(node, |node| {
        let done = |state: &str| matches!(state, "idle" | "syncing" | "error");
        node.wait_until("the share is scanned or in error", PATIENCE, |status| {
            status.share(SHARE).is_some_and(|share| done(&share.state))
        })
        .map(drop)
    })
}

/// One life of the daemon, from its start until it says that it serves. What it serves, and where,
/// is its configuration's to say: an empty one is one of defaults.
fn run_until_ready(node: &mut Node) -> Result<()> {
    live(node, |_| Ok(()))
}

fn live(node: &mut Node, wait: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    let lived = node.start().and_then(|()| wait(node));
    match lived {
        Ok(()) => node.stop(),
        Err(error) => {
            node.kill()?;
            Err(error)
        }
    }
}

/// The files of a node's state, as they lie below its directory.
fn state_files(kept: &Kept) -> Result<Vec<String>> {
    let mut files: Vec<String> =
        ["home/config.toml", "home/identity/key.pem", "home/identity/cert.pem"]
            .map(str::to_owned)
            .to_vec();
    files.push(format!("{SHARE}/.highwater/marker"));
    for entry in fs::read_dir(kept.template.join("home/store"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(format!("home/store/{}", entry.file_name().to_string_lossy()));
        }
    }
    ensure!(files.iter().any(|name| name.contains("snap.")), "no snapshot: {files:?}");
    Ok(files)
}

/// The damage that is no damage: a file that is whole and not this node's.
const FOREIGN: &str = "that of another node";

/// What is done to one file: its name, and its bytes afterwards. `None` removes it.
fn damages(bytes: &[u8], foreign: &[u8], dice: &mut Dice) -> Vec<(String, Option<Vec<u8>>)> {
    let mut rows = vec![
        ("missing".to_owned(), None),
        ("empty".to_owned(), Some(Vec::new())),
        (FOREIGN.to_owned(), Some(foreign.to_vec())),
        ("garbage".to_owned(), Some(dice.bytes(bytes.len().min(100_000)))),
    ];
    let length = bytes.len() as u64;
    for _ in 0..4 {
        let at = dice.below(length) as usize;
        rows.push((format!("cut at {at}"), Some(bytes[..at].to_vec())));
        let at = dice.below(length) as usize;
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << dice.below(8);
        rows.push((format!("a bit at {at}"), Some(flipped)));
    }
    let mut zeroed = bytes.to_vec();
    let at = dice.below(length.div_ceil(4096)) as usize * 4096;
    let end = (at + 4096).min(zeroed.len());
    zeroed[at..end].fill(0);
    rows.push((format!("a page of zeros at {at}"), Some(zeroed)));
    rows
}

#[test]
fn whatever_stands_in_its_files_a_node_starts_or_says_what_is_wrong() {
    let test = || -> Result<()> {
        let mut kept = Kept::new()?;
        let other = Kept::new_beside(&kept)?;
        let mut dice = Dice::new(0x05ee_d0f5);
        let (mut served, mut refused) = (0, 0);
        for file in state_files(&kept)? {
            let bytes = fs::read(kept.template.join(&file))?;
            let foreign = other.like(&file)?;
            for (damage, after) in damages(&bytes, &foreign, &mut dice) {
                kept.restore()?;
                match after {
                    Some(after) => fs::write(kept.file(&file), after)?,
                    None => fs::remove_file(kept.file(&file))?,
                }
                // A whole key is an identity: whoever has it is that node. Parts of one are none.
                if file.ends_with("key.pem") && damage == FOREIGN {
                    ensure!(kept.node.run(&["id"])?.trim() == other.id);
                    continue;
                }
                let life =
                    if file.ends_with("config.toml") { run_until_ready } else { run_until_scanned };
                match kept.try_start(&format!("{file}: {damage}"), life)? {
                    true => served += 1,
                    false => refused += 1,
                }
            }
        }
        ensure!(served > 10 && refused > 10, "{served} served, {refused} refused");
        kept.restore()?;
        ensure!(kept.try_start("all as it was", run_until_scanned)?);
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}

/// The files of another node.
struct Other {
    dir: PathBuf,
    id: String,
}

impl Kept {
    fn new_beside(kept: &Kept) -> Result<Other> {
        let dir = kept.dir.path().join("beside");
        fs::create_dir(&dir)?;
        let mut node = Node::init(NodeSpec::on_loopback(&highwater(), "n")?, &dir)?;
        node.add_share(SHARE)?;
        fs::write(node.folder(SHARE).join("theirs"), "x")?;
        // As many lives as the first has had: its snapshot is to be put in the place of that one's.
        for _ in 0..2 {
            run_until_scanned(&mut node)?;
        }
        Ok(Other { dir: dir.join("n"), id: node.id().to_owned() })
    }
}

impl Other {
    /// Its file of this name, or one of the same kind.
    fn like(&self, file: &str) -> Result<Vec<u8>> {
        if let Ok(bytes) = fs::read(self.dir.join(file)) {
            return Ok(bytes);
        }
        let store = fs::read_dir(self.dir.join("home/store"))?;
        let snapshot =
            store.flatten().find(|e| e.file_name().to_string_lossy().starts_with("snap."));
        Ok(fs::read(snapshot.context("the other node has no snapshot")?.path())?)
    }
}

/// Each byte of the key lost, and each byte of it changed: it is the same identity or none.
#[test]
fn a_damaged_key_never_makes_another_node() {
    let test = || -> Result<()> {
        let dir = tempfile::tempdir()?;
        let node = Node::init(NodeSpec::on_loopback(&highwater(), "n")?, dir.path())?;
        let path = node.home().join("identity/key.pem");
        let key = fs::read(&path)?;
        let (mut same, mut refused) = (0, 0);
        for at in 0..key.len() {
            let mut flipped = key.clone();
            flipped[at] ^= 1;
            for bytes in [flipped, key[..at].to_vec()] {
                fs::write(&path, &bytes)?;
                let outcome = node.try_run(&["id"])?;
                let (out, err) = (
                    String::from_utf8_lossy(&outcome.stdout),
                    String::from_utf8_lossy(&outcome.stderr),
                );
                match outcome.status.code() {
                    Some(0) if out.trim() == node.id() => same += 1,
                    Some(1) if err.contains("key.pem") => refused += 1,
                    other => bail!("byte {at}: {other:?}: {out}{err}"),
                }
            }
        }
        ensure!(refused > key.len(), "{same} the same, {refused} refused");
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}

/// Files of the state that are links to something outside.
#[test]
fn state_that_is_a_link_to_elsewhere_is_not_written_through() {
    let test = || -> Result<()> {
        let mut kept = Kept::new()?;
        let marker = format!("{SHARE}/.highwater/marker");
        let stage = format!("{SHARE}/.highwater/stage");
        for file in ["home/identity/key.pem", &marker, &stage, "home/store/db", "home/lock"] {
            kept.restore()?;
            let canary = kept.dir.path().join("canary");
            fs::remove_dir_all(&canary).ok();
            fs::create_dir(&canary)?;
            fs::write(canary.join("song"), "yellow")?;
            let live = kept.file(file);
            if live.is_dir() {
                fs::remove_dir_all(&live)?
            } else {
                fs::remove_file(&live).unwrap_or(())
            }
            symlink(if file == stage { canary.clone() } else { canary.join("song") }, &live)?;
            kept.try_start(&format!("{file} is a link"), run_until_scanned)?;
            let names: Vec<_> = fs::read_dir(&canary)?.flatten().map(|e| e.file_name()).collect();
            ensure!(names == ["song"], "{file}: beside the canary: {names:?}");
            ensure!(
                fs::read(canary.join("song"))? == b"yellow",
                "{file}: the canary was written to"
            );
        }
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}
