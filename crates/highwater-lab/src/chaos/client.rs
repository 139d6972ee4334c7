//! The scripted clients: one at each node's folder, working as people and programs do.
//!
//! Each client writes, edits in four ways, deletes, renames files and directories, links, and now
//! and then writes or patches a large file. A part of its work is on paths of its own (`nX/`,
//! `ownX…/`), where the outcome is certain; the rest on paths that all clients share, where they
//! meet. Now and then it clears up a conflict copy that it sees. Work goes on only while the gate is
//! open.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::audit::conflict_of;
use super::hands::Hands;
use super::history::LIVE;
use crate::dice::Dice;

/// Most files that a client leaves on disk before it rather deletes: a folder must not grow over
/// hours, or rounds become longer and longer.
const FILES_MAX: usize = 320;
/// The same for large files.
const LARGE_FILES_MAX: usize = 7;
/// Paths of their own that each client begins with: enough for an accident to be a mass delete.
const FIRST_FILES: u64 = 40;
/// What a large file has: from a transfer of a moment to one that most faults fall into.
const LARGE_MIB: std::ops::Range<u64> = 2..20;
const MIB: u64 = 1024 * 1024;

/// What lets clients work, and knows when they rest.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    /// Clients that may work.
    open: Vec<bool>,
    working: usize,
    over: bool,
}

impl Gate {
    /// A closed gate for so many clients.
    pub(crate) fn new(clients: usize) -> Gate {
        let state = GateState { open: vec![false; clients], ..GateState::default() };
        Gate { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets one client work, or no longer.
    pub(crate) fn set(&self, client: usize, open: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open[client] = open;
        self.changed.notify_all();
    }

    /// Lets nobody work, and waits until everybody rests.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.fill(false);
        while state.working > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends everybody home.
    pub(crate) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }

    /// Waits to be let in; false when it is over.
    fn enter(&self, client: usize) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .changed
            .wait_while(state, |state| !state.over && !state.open[client])
            .unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return false;
        }
        state.working += 1;
        true
    }

    fn leave(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).working -= 1;
        self.changed.notify_all();
    }
}

/// How the clients fared.
#[derive(Debug, Default)]
pub(crate) struct Efforts {
    pub(crate) done: AtomicU64,
    /// What could not be done: the path was gone or taken, the disk full, the folder away.
    pub(crate) failed: AtomicU64,
}

/// One client.
pub(crate) struct Client {
    pub(crate) hands: Hands,
    pub(crate) dice: Dice,
    pub(crate) gate: Arc<Gate>,
    pub(crate) efforts: Arc<Efforts>,
    /// Longest pause between two operations.
    pub(crate) pause_max: Duration,
    /// How many operations of a hundred are on paths that all clients share.
    pub(crate) sharing: u64,
}

impl Client {
    /// Works until the gate says that it is over.
    pub(crate) fn work(mut self) {
        while self.gate.enter(self.hands.node) {
            let result = self.act();
            let count = if result.is_ok() { &self.efforts.done } else { &self.efforts.failed };
            count.fetch_add(1, Ordering::Relaxed);
            self.gate.leave();
            let pause = self.dice.below(self.pause_max.as_millis() as u64 + 1);
            std::thread::sleep(Duration::from_millis(pause));
        }
    }

    /// What each client has from the beginning.
    pub(crate) fn settle_in(&mut self) -> io::Result<()> {
        let own = format!("n{}", self.hands.node);
        self.make_dir(&own)?;
        for number in 0..FIRST_FILES {
            let size = self.size();
            self.hands.put(&format!("{own}/k{number:02}"), size)?;
        }
        Ok(())
    }

    fn act(&mut self) -> io::Result<()> {
        let seen = self.look();
        if seen.len() > FILES_MAX && self.dice.below(2) == 0 {
            let path = self.pick(&seen, |_| true)?;
            return self.hands.take(&path);
        }
        match self.dice.below(100) {
            0..27 => self.write(),
            27..40 => self.save(None),
            40..48 => self.save(Some(())),
            48..60 => self.write_in_place(),
            60..74 => {
                let path = self.pick(&seen, is_small)?;
                self.hands.take(&path)
            }
            74..82 => self.rename(&seen),
            82..85 => self.rename_dir(),
            85..88 => {
                let path = format!("{}link{}", self.place()?, self.dice.below(3));
                self.hands.put_link(&path)
            }
            88..92 => self.write_large(&seen),
            92..96 => self.patch_large(&seen),
            _ => {
                let path = self.pick(&seen, |path| conflict_of(path).is_some())?;
                self.hands.take(&path)
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let (path, size) = (self.path()?, self.size());
        self.hands.put(&path, size)
    }

    fn save(&mut self, backup: Option<()>) -> io::Result<()> {
        let (path, size) = (self.path()?, self.size());
        let backup = backup.map(|()| format!("{path}~"));
        self.hands.save(&path, size, backup.as_deref())
    }

    fn write_in_place(&mut self) -> io::Result<()> {
        let path = format!("{}{LIVE}{}", self.place()?, self.dice.below(3));
        let (size, pieces) = (self.size() * 4, 1 + self.dice.below(6));
        let pause = Duration::from_millis(self.dice.below(60));
        self.hands.write_in_place(&path, size, usize::try_from(pieces).unwrap_or(1), pause)
    }

    fn rename(&mut self, seen: &[String]) -> io::Result<()> {
        let from = self.pick(seen, |path| !is_live(path) && conflict_of(path).is_none())?;
        let number = self.dice.below(6);
        let to = format!("{}{}{number}", self.place()?, if is_small(&from) { "r" } else { "bigr" });
        self.hands.rename(&from, &to)
    }

    /// Renames a directory to a name that nobody has used.
    fn rename_dir(&mut self) -> io::Result<()> {
        let dirs = self.dirs()?;
        let own = format!("own{}", self.hands.node);
        let wanted = |dir: &&String| {
            dir.starts_with(&own) || (dir.starts_with('d') && !self.is_foreign(dir))
        };
        let dirs: Vec<&String> = dirs.iter().filter(wanted).collect();
        let from = self.choose(&dirs).ok_or(io::ErrorKind::NotFound)?.to_owned();
        let stem = from.split('-').next().unwrap_or("d").to_owned();
        let to = format!("{stem}-{}", self.hands.history.operation());
        self.hands.rename_dir(&from, &to)
    }

    fn write_large(&mut self, seen: &[String]) -> io::Result<()> {
        if seen.iter().filter(|path| !is_small(path)).count() >= LARGE_FILES_MAX {
            let path = self.pick(seen, |path| !is_small(path))?;
            return self.hands.take(&path);
        }
        let path = format!("{}big{}", self.place()?, self.dice.below(3));
        let span = LARGE_MIB.end - LARGE_MIB.start;
        let size = (LARGE_MIB.start + self.dice.below(span)) * MIB + self.dice.below(MIB);
        self.hands.put(&path, usize::try_from(size).unwrap_or(0))
    }

    fn patch_large(&mut self, seen: &[String]) -> io::Result<()> {
        let path = self.pick(seen, |path| !is_small(path) && conflict_of(path).is_none())?;
        let (at, length) = (self.dice.roll(), 1 + self.dice.below(200_000));
        self.hands.patch(&path, at >> 1, usize::try_from(length).unwrap_or(1))
    }

    /// A path to write at; its directory is there when this was last seen.
    fn path(&mut self) -> io::Result<String> {
        Ok(format!("{}f{}.txt", self.place()?, self.dice.below(8)))
    }

    /// Where to work: the client's own directories, or what all share; with the `/`.
    fn place(&mut self) -> io::Result<String> {
        let node = self.hands.node;
        let dir = if self.dice.below(100) < self.sharing {
            match self.dice.below(4) {
                0 => return Ok(String::new()),
                number => format!("d{number}"),
            }
        } else if self.dice.below(2) == 0 {
            format!("n{node}")
        } else {
            let dirs = self.dirs()?;
            let own: Vec<&String> =
                dirs.iter().filter(|dir| dir.starts_with(&format!("own{node}"))).collect();
            match self.choose(&own) {
                Some(dir) if self.dice.below(4) > 0 => dir.to_owned(),
                _ => format!("own{node}"),
            }
        };
        self.make_dir(&dir)?;
        Ok(format!("{dir}/"))
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.hands.folder.join(dir)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Mostly small, now and then beyond what is sent in one piece.
    fn size(&mut self) -> usize {
        let size = match self.dice.below(10) {
            0 => self.dice.below(300_000),
            1..4 => self.dice.below(30_000),
            _ => self.dice.below(2_000),
        };
        usize::try_from(size).unwrap_or(0)
    }

    fn dirs(&self) -> io::Result<Vec<String>> {
        let mut dirs = Vec::new();
        for entry in fs::read_dir(&self.hands.folder)?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name != ".highwater" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(name);
            }
        }
        dirs.sort();
        Ok(dirs)
    }

    /// Every path that can be seen now.
    fn look(&self) -> Vec<String> {
        let mut seen = Vec::new();
        list(&self.hands.folder, "", &mut seen);
        seen.sort();
        seen
    }

    fn pick(&mut self, seen: &[String], wanted: impl Fn(&str) -> bool) -> io::Result<String> {
        let foreign = |path: &str| self.is_foreign(path);
        let wanted: Vec<&String> =
            seen.iter().filter(|path| wanted(path) && !foreign(path)).collect();
        self.choose(&wanted).map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether a path is none of this client's business: it lies in what another one has for
    /// itself, or nothing is shared.
    fn is_foreign(&self, path: &str) -> bool {
        let node = self.hands.node.to_string();
        match path.strip_prefix("own").or_else(|| path.strip_prefix('n')) {
            Some(rest) => !rest.starts_with(&node),
            None => self.sharing == 0,
        }
    }

    fn choose<'a>(&mut self, from: &[&'a String]) -> Option<&'a str> {
        let index = usize::try_from(self.dice.below(from.len() as u64)).unwrap_or(0);
        from.get(index).map(|chosen| chosen.as_str())
    }
}

fn is_small(path: &str) -> bool {
    !path.starts_with("big") && !path.contains("/big")
}

fn is_live(path: &str) -> bool {
    super::audit::is_live(path)
}

/// Files and links below a folder, by their path.
fn list(folder: &std::path::Path, below: &str, seen: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder.join(below)) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if below.is_empty() && name == ".highwater" {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(folder, &path, seen),
            Ok(_) => seen.push(path),
            Err(_) => {}
        }
    }
}
