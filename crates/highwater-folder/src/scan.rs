//! Finding what changed: a walk over the share, side by side with what the index knows.
//!
//! Both sides come in key order, so they are merged like two sorted lists, in memory bounded by the
//! directories on the way down. A file whose print is the recorded one is not opened.
//!
//! Absence is the one finding that can do harm, so it is the hardest to make. A known entry that
//! the walk did not meet is first looked for by its own name; only "no such file" counts, any other
//! error leaves it untouched. Then the root must prove once more that it is the same directory. Only
//! after everything else is it reported as gone, children before their parents. What lies below an
//! unreadable directory, a mount, or an ignored path is never reported at all.
//!
//! A file is read between two looks at its print; if they differ it is read again later. A file
//! that changed within the last tick of the kernel's clock could change again and look the same
//! (see [`print`](crate::print)), so it is put aside, and one short wait serves all of those.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use highwater_core::key::KeyError;
use highwater_core::{EntryKind, Key};
use rustix::fs::{AtFlags, Dir, OFlags};
use rustix::io::Errno;

use crate::ignore::IgnoreRules;
use crate::print::{Class, StatPrint};
use crate::problem::{Problem, ProblemKind};
use crate::read::ReadError;
use crate::root::{Root, open_beneath, proves_absence};

mod absence;
mod content;
mod finding;

pub use finding::{
    Finding, Known, KnownEntry, Observation, ScanError, ScanProgress, ScanSummary, Scope,
};

/// Compares a share with what the index knows and reports every difference, as it is found.
///
/// # Errors
/// [`ScanError`]. Findings that were reported before remain true.
pub fn scan(
    root: &Root,
    scope: &Scope,
    rules: &IgnoreRules,
    known: &dyn Known,
    progress: &ScanProgress,
    found: &mut dyn FnMut(Finding) -> ControlFlow<()>,
) -> Result<ScanSummary, ScanError> {
    root.verify()?;
    let device = rustix::fs::fstat(root.dir()).map_err(|e| unreadable_root(root, e))?.st_dev;
    let summary = ScanSummary::default();
    let (deferred, missing) = (Vec::new(), Vec::new());
    let mut scan = Scan { root, device, rules, known, progress, found, summary, deferred, missing };
    match scope {
        Scope::Whole => scan.whole()?,
        Scope::Paths(keys) => {
            for key in scan.starting_points(keys) {
                scan.path(&key)?;
            }
        }
    }
    scan.revisit()?;
    scan.report_gone()?;
    Ok(scan.summary)
}

type Expected<'a> = Peekable<Box<dyn Iterator<Item = KnownEntry> + 'a>>;

struct Scan<'a> {
    root: &'a Root,
    device: u64,
    rules: &'a IgnoreRules,
    known: &'a dyn Known,
    progress: &'a ScanProgress,
    found: &'a mut dyn FnMut(Finding) -> ControlFlow<()>,
    summary: ScanSummary,
    /// Files to read after a short wait.
    deferred: Vec<(Key, Option<KnownEntry>)>,
    /// Known entries that the walk did not meet.
    missing: Vec<KnownEntry>,
}

impl<'a> Scan<'a> {
    fn whole(&mut self) -> Result<(), ScanError> {
        let dir = self.root.open_dir(None).map_err(|e| unreadable_root(self.root, e))?;
        let names = list(&dir).map_err(|e| unreadable_root(self.root, e))?;
        let mut expected = self.known.under(None).peekable();
        self.walk(&dir, None, names, &mut expected)?;
        self.miss_all(expected);
        Ok(())
    }

    /// Where to begin for these paths: at the highest directory above each that the index lacks, or
    /// that is gone. No starting point lies inside another.
    fn starting_points(&self, keys: &BTreeSet<Key>) -> Vec<Key> {
        let all: BTreeSet<Key> = keys.iter().filter_map(|key| self.starting_point(key)).collect();
        let mut points: Vec<Key> = Vec::new();
        for key in all {
            if !points.last().is_some_and(|last| key.is_inside(last)) {
                points.push(key);
            }
        }
        points
    }

    fn starting_point(&self, key: &Key) -> Option<Key> {
        let mut above: Vec<Key> = std::iter::successors(key.parent(), Key::parent).collect();
        above.reverse();
        for dir in &above {
            if self.rules.ignores_itself(dir.as_str(), true) {
                return None;
            }
            let is_known = self
                .known
                .get(dir)
                .is_some_and(|entry| matches!(entry.kind, EntryKind::Directory { .. }));
            if !is_known || self.root.open_dir(Some(dir)).is_err_and(proves_absence) {
                return Some(dir.clone());
            }
        }
        Some(key.clone())
    }

    fn path(&mut self, key: &Key) -> Result<(), ScanError> {
        let known = self.known;
        let own = known.get(key).filter(|entry| entry.kind.is_live());
        let all: Box<dyn Iterator<Item = KnownEntry> + 'a> =
            Box::new(own.into_iter().chain(known.under(Some(key))));
        let mut expected = all.peekable();
        match self.root.open_parent(key) {
            Ok(parent) => self.visit(parent.as_fd(), key, &mut expected)?,
            Err(errno) if proves_absence(errno) => {}
            Err(errno) => return self.problem(key, errno),
        }
        self.miss_all(expected);
        Ok(())
    }

    /// Visits every name of an open directory, in order.
    fn walk(
        &mut self,
        dir: &OwnedFd,
        key: Option<&Key>,
        names: Vec<Vec<u8>>,
        expected: &mut Expected<'a>,
    ) -> Result<(), ScanError> {
        for name in names {
            if self.progress.goes_on().is_break() {
                return Err(ScanError::Stopped);
            }
            let joined = |name: &str| key.map_or_else(|| Key::new(name), |key| key.join(name));
            match std::str::from_utf8(&name).map(joined) {
                Ok(Ok(child)) => self.visit(dir.as_fd(), &child, expected)?,
                Ok(Err(KeyError::Reserved)) => {}
                Ok(Err(error)) => self.bad_name(key, &name, &error.to_string())?,
                Err(_) => self.bad_name(key, &name, "its name is not UTF-8")?,
            }
        }
        Ok(())
    }

    /// Compares one name of an open directory with the index.
    fn visit(
        &mut self,
        dir: BorrowedFd<'_>,
        key: &Key,
        expected: &mut Expected<'a>,
    ) -> Result<(), ScanError> {
        while let Some(skipped) = expected.next_if(|entry| entry.key < *key) {
            self.miss(skipped);
        }
        let known = expected.next_if(|entry| entry.key == *key);
        let stat = match rustix::fs::statat(dir, key.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) if proves_absence(errno) => {
                known.into_iter().for_each(|entry| self.miss(entry));
                return Ok(());
            }
            Err(errno) => {
                leave_alone(key, expected);
                return self.problem(key, errno);
            }
        };
        let class = Class::of(&stat);
        if self.rules.ignores_itself(key.as_str(), class == Class::Directory) {
            leave_alone(key, expected);
            return Ok(());
        }
        if stat.st_dev != self.device {
            leave_alone(key, expected);
            return self.problem(key, Errno::XDEV);
        }
        match class {
            Class::Directory => self.visit_directory(dir, key, known, expected),
            Class::File => self.visit_file(key, &stat, known),
            Class::Symlink => self.visit_symlink(dir, key, &stat, known),
            Class::Special => {
                leave_alone(key, expected);
                let message = "devices, FIFOs and sockets are not synced; remove it or ignore it";
                self.report(Finding::Problem(Problem::at(key, ProblemKind::SpecialFile, message)))
            }
        }
    }

    fn visit_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        key: &Key,
        known: Option<KnownEntry>,
        expected: &mut Expected<'a>,
    ) -> Result<(), ScanError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = open_beneath(parent, key.name(), flags)
            .and_then(|dir| Ok((rustix::fs::fstat(&dir)?, list(&dir)?, dir)));
        match opened {
            Ok((stat, names, dir)) => {
                let print = StatPrint::of(&stat);
                let kind = EntryKind::Directory { mode: print.mode };
                self.compare(key, kind, print, None, known.as_ref())?;
                self.walk(&dir, Some(key), names, expected)?;
                while let Some(skipped) = expected.next_if(|entry| entry.key.is_inside(key)) {
                    self.miss(skipped);
                }
                Ok(())
            }
            Err(errno) if proves_absence(errno) => {
                known.into_iter().for_each(|entry| self.miss(entry));
                Ok(())
            }
            Err(errno) => {
                leave_alone(key, expected);
                self.problem(key, errno)
            }
        }
    }

    fn bad_name(&mut self, dir: Option<&Key>, name: &[u8], why: &str) -> Result<(), ScanError> {
        let name = String::from_utf8_lossy(name);
        let path = dir.map_or_else(|| name.to_string(), |dir| format!("{dir}/{name}"));
        let message = format!("not synced, because {why}; rename it");
        self.report(Finding::Problem(Problem::new(path, ProblemKind::BadName, message)))
    }

    fn read_problem(&mut self, key: &Key, error: ReadError) -> Result<(), ScanError> {
        match error {
            ReadError::Io { source, .. } => {
                self.problem(key, Errno::from_io_error(&source).unwrap_or(Errno::IO))
            }
            error => {
                let problem = Problem::at(key, ProblemKind::Unreadable, error.to_string());
                self.report(Finding::Problem(problem))
            }
        }
    }

    fn problem(&mut self, key: &Key, errno: Errno) -> Result<(), ScanError> {
        let (kind, message) = match errno {
            Errno::XDEV => (
                ProblemKind::MountPoint,
                "another file system is mounted here, and is not synced; ignore it, or share it \
                 by itself"
                    .into(),
            ),
            errno => (
                ProblemKind::Unreadable,
                format!("cannot read it: {errno}; correct its permissions or check the disk"),
            ),
        };
        self.report(Finding::Problem(Problem::at(key, kind, message)))
    }

    fn report(&mut self, finding: Finding) -> Result<(), ScanError> {
        match &finding {
            Finding::Changed(_) | Finding::Altered(_) => self.summary.changed += 1,
            Finding::Touched { .. } => self.summary.touched += 1,
            Finding::Gone(_) => self.summary.gone += 1,
            Finding::Problem(_) => self.summary.problems += 1,
        }
        match (self.found)(finding) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ScanError::Stopped),
        }
    }
}

/// Passes over everything that is known inside `key`, so that none of it counts as missing.
fn leave_alone(key: &Key, expected: &mut Expected<'_>) {
    while expected.next_if(|entry| entry.key.is_inside(key)).is_some() {}
}

/// The names in a directory, sorted by their bytes, which is key order.
fn list(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.to_vec()),
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn unreadable_root(root: &Root, errno: Errno) -> ScanError {
    ScanError::Unreadable { path: root.path().into(), source: errno.into() }
}
