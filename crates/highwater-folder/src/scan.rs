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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use highwater_core::key::KeyError;
use highwater_core::{EntryKind, Key, Manifest};
use rustix::fs::{AtFlags, Dir, OFlags, Stat};
use rustix::io::Errno;

use crate::ignore::IgnoreRules;
use crate::print::{Class, StatPrint, TICK_MAX};
use crate::problem::{Problem, ProblemKind};
use crate::read::{ReadError, read_content_watched};
use crate::root::{Root, RootError, open_beneath, proves_absence};

/// What the index knows of a share. Implemented by whoever keeps the index.
pub trait Known {
    /// The entry under `key`.
    fn get(&self, key: &Key) -> Option<KnownEntry>;
    /// The live entries inside the directory `dir` at any depth, not `dir` itself, in key order;
    /// `None` for the whole share.
    fn under(&self, dir: Option<&Key>) -> Box<dyn Iterator<Item = KnownEntry> + '_>;
}

/// One entry of the index, as far as a scan needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownEntry {
    /// Its key.
    pub key: Key,
    /// What the index says stands there.
    pub kind: EntryKind,
    /// Its print when that was last read; `None` when it must be read again.
    pub print: Option<StatPrint>,
}

/// Which part of a share to scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All of it.
    Whole,
    /// These paths, each with everything below it. They may be files, directories or gone.
    Paths(BTreeSet<Key>),
}

impl Scope {
    /// Whether a scan of it looks at this key.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Scope::Whole => true,
            Scope::Paths(paths) => std::iter::successors(Some(key.clone()), Key::parent)
                .any(|key| paths.contains(&key)),
        }
    }
}

/// What stands under a key now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    /// The key.
    pub key: Key,
    /// What stands there.
    pub kind: EntryKind,
    /// Its print.
    pub print: StatPrint,
    /// The chunks of a file larger than [`SMALL_BYTES_MAX`](highwater_core::SMALL_BYTES_MAX).
    pub manifest: Option<Manifest>,
}

/// One difference between the share and the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Something new, or other than the index says.
    Changed(Observation),
    /// Other bytes than the index says, under the same inode, size and modification time: whoever
    /// edits moves one of them. The disk, or something that hides its traces, changed it.
    Altered(Observation),
    /// All as the index says, only the print is another.
    Touched {
        /// The key.
        key: Key,
        /// Its print now.
        print: StatPrint,
    },
    /// Nothing stands there any more. Comes after all other findings, children before parents.
    Gone(Key),
    /// It cannot be synced, or not now. What the index says of it, and of what is below, stays.
    Problem(Problem),
}

/// How far a scan is, for whoever watches it from another thread.
#[derive(Debug, Default)]
pub struct ScanProgress {
    /// Files whose content was read.
    pub files_hashed: AtomicU64,
    /// Bytes of content read.
    pub bytes_hashed: AtomicU64,
    cancelled: AtomicBool,
}

impl ScanProgress {
    /// Makes the scan stop soon. What it found so far remains true.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> ControlFlow<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// What a finished scan met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanSummary {
    /// Entries found as the index says, not even touched.
    pub unchanged: u64,
    /// [`Finding::Changed`] and [`Finding::Altered`] reported.
    pub changed: u64,
    /// [`Finding::Touched`] reported.
    pub touched: u64,
    /// [`Finding::Gone`] reported.
    pub gone: u64,
    /// [`Finding::Problem`] reported.
    pub problems: u64,
}

/// Why a scan ended before its end. Nothing was reported as gone.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The share's root cannot be trusted.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root itself cannot be listed.
    #[error("cannot list the folder {}: {source}; correct its permissions or check the disk", path.display())]
    Unreadable {
        /// The share's root.
        path: std::path::PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Someone called [`ScanProgress::cancel`], or the receiver of the findings wants no more.
    #[error("the scan was stopped before its end; the next one starts over")]
    Stopped,
}

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

/// Files put aside before they are gone back to: bounds memory when a million files are fresh.
const DEFERRED_MAX: usize = 4096;

/// How often a file that changes while it is read is read again, before it counts as changing.
const READ_AGAIN_MAX: usize = 3;

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

    fn visit_file(
        &mut self,
        key: &Key,
        stat: &Stat,
        known: Option<KnownEntry>,
    ) -> Result<(), ScanError> {
        let print = StatPrint::of(stat);
        let as_known = known.as_ref().is_some_and(|entry| {
            entry.print == Some(print) && matches!(entry.kind, EntryKind::File { .. })
        });
        if as_known {
            self.summary.unchanged += 1;
            return Ok(());
        }
        self.read_file(key, known)?;
        if self.deferred.len() >= DEFERRED_MAX { self.revisit() } else { Ok(()) }
    }

    /// Reads a file between two looks at its print.
    fn read_file(&mut self, key: &Key, known: Option<KnownEntry>) -> Result<(), ScanError> {
        let file = match self.root.open_content(key) {
            Ok(file) => file,
            Err(ReadError::Missing(_)) => {
                known.into_iter().for_each(|entry| self.miss(entry));
                return Ok(());
            }
            Err(ReadError::NotAFile(_)) => return self.defer(key, known),
            Err(error) => return self.read_problem(key, error),
        };
        let before = match file.print() {
            Ok(print) if print.is_fresh() => return self.defer(key, known),
            Ok(print) => print,
            Err(error) => return self.read_problem(key, error),
        };
        let progress = self.progress;
        progress.files_hashed.fetch_add(1, Ordering::Relaxed);
        let read = read_content_watched(&file.file, before.size, &mut |bytes| {
            progress.bytes_hashed.fetch_add(bytes, Ordering::Relaxed);
            progress.goes_on()
        });
        let (content, manifest) = match read {
            Ok(read) => read,
            Err(ReadError::Cancelled) => return Err(ScanError::Stopped),
            Err(ReadError::Shrunk { .. }) => return self.defer(key, known),
            Err(error) => return self.read_problem(key, error),
        };
        match file.print() {
            Ok(after) if after == before => {
                let StatPrint { size, mode, mtime, .. } = before;
                let kind = EntryKind::File { size, content, mode, mtime };
                self.compare(key, kind, before, manifest, known.as_ref())
            }
            Ok(_) => self.defer(key, known),
            Err(error) => self.read_problem(key, error),
        }
    }

    fn visit_symlink(
        &mut self,
        dir: BorrowedFd<'_>,
        key: &Key,
        stat: &Stat,
        known: Option<KnownEntry>,
    ) -> Result<(), ScanError> {
        let print = StatPrint::of(stat);
        let as_known = known.as_ref().is_some_and(|entry| {
            entry.print == Some(print) && matches!(entry.kind, EntryKind::Symlink { .. })
        });
        if as_known {
            self.summary.unchanged += 1;
            return Ok(());
        }
        if print.is_fresh() {
            return self.defer(key, known);
        }
        match rustix::fs::readlinkat(dir, key.name(), Vec::new()).map(|text| text.into_string()) {
            Ok(Ok(target)) => {
                let kind = EntryKind::Symlink { target, mtime: print.mtime };
                self.compare(key, kind, print, None, known.as_ref())
            }
            Ok(Err(_)) => {
                let message = "the target of this link is not UTF-8; change it or ignore it";
                self.report(Finding::Problem(Problem::at(key, ProblemKind::BadName, message)))
            }
            Err(Errno::INVAL) => self.defer(key, known),
            Err(errno) if proves_absence(errno) => {
                known.into_iter().for_each(|entry| self.miss(entry));
                Ok(())
            }
            Err(errno) => self.problem(key, errno),
        }
    }

    fn compare(
        &mut self,
        key: &Key,
        kind: EntryKind,
        print: StatPrint,
        manifest: Option<Manifest>,
        known: Option<&KnownEntry>,
    ) -> Result<(), ScanError> {
        match known {
            Some(entry) if entry.kind == kind && entry.print == Some(print) => {
                self.summary.unchanged += 1;
                Ok(())
            }
            Some(entry) if entry.kind == kind => {
                self.report(Finding::Touched { key: key.clone(), print })
            }
            known => {
                let altered = known.is_some_and(|entry| is_altered(entry, &kind, &print));
                let observation = Observation { key: key.clone(), kind, print, manifest };
                self.report(match altered {
                    true => Finding::Altered(observation),
                    false => Finding::Changed(observation),
                })
            }
        }
    }

    fn defer(&mut self, key: &Key, known: Option<KnownEntry>) -> Result<(), ScanError> {
        self.deferred.push((key.clone(), known));
        Ok(())
    }

    /// Goes back to the files that were put aside.
    fn revisit(&mut self) -> Result<(), ScanError> {
        for _ in 0..READ_AGAIN_MAX {
            if self.deferred.is_empty() {
                return Ok(());
            }
            thread::sleep(TICK_MAX);
            for (key, known) in std::mem::take(&mut self.deferred) {
                self.look_again(&key, known)?;
            }
        }
        for (key, _) in std::mem::take(&mut self.deferred) {
            let message = "it is being written without a pause; it is read again later";
            self.report(Finding::Problem(Problem::at(&key, ProblemKind::Changing, message)))?;
        }
        Ok(())
    }

    /// Looks at one path by its full name.
    fn look_again(&mut self, key: &Key, known: Option<KnownEntry>) -> Result<(), ScanError> {
        if self.progress.goes_on().is_break() {
            return Err(ScanError::Stopped);
        }
        let looked = self.root.open_parent(key).and_then(|parent| {
            let stat = rustix::fs::statat(&parent, key.name(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((parent, stat))
        });
        match looked {
            Ok((parent, stat)) => match Class::of(&stat) {
                Class::File => self.read_file(key, known),
                Class::Symlink => self.visit_symlink(parent.as_fd(), key, &stat, known),
                Class::Directory | Class::Special => self.defer(key, known),
            },
            Err(errno) if proves_absence(errno) => {
                known.into_iter().for_each(|entry| self.miss(entry));
                Ok(())
            }
            Err(errno) => self.problem(key, errno),
        }
    }

    fn miss(&mut self, entry: KnownEntry) {
        let is_dir = matches!(entry.kind, EntryKind::Directory { .. });
        if !self.rules.ignores(&entry.key, is_dir) {
            self.missing.push(entry);
        }
    }

    fn miss_all(&mut self, expected: Expected<'a>) {
        expected.for_each(|entry| self.miss(entry));
    }

    /// Reports what is missing, as far as that can be proved.
    fn report_gone(&mut self) -> Result<(), ScanError> {
        let mut gone = Vec::new();
        let mut parent = OpenParent::default();
        for entry in std::mem::take(&mut self.missing) {
            match parent.stat(self.root, &entry.key) {
                Err(errno) if proves_absence(errno) => gone.push(entry.key),
                Err(errno) => self.problem(&entry.key, errno)?,
                Ok(_) => self.look_again(&entry.key.clone(), Some(entry))?,
            }
        }
        // Reading those may have put some aside, or found them missing after all. The latter wait
        // for the next scan.
        self.revisit()?;
        self.missing.clear();
        if gone.is_empty() {
            return Ok(());
        }
        self.root.verify()?;
        gone.sort();
        for key in gone.into_iter().rev() {
            self.report(Finding::Gone(key))?;
        }
        Ok(())
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

/// Whether a file's bytes changed and nothing else by which an edit is known.
fn is_altered(entry: &KnownEntry, kind: &EntryKind, print: &StatPrint) -> bool {
    let (Some(recorded), EntryKind::File { size, mtime, .. }) = (entry.print, &entry.kind) else {
        return false;
    };
    let same = recorded.ino == print.ino && *size == print.size && *mtime == print.mtime;
    let honest = *size == recorded.size && *mtime == recorded.mtime;
    same && honest && kind.content().is_some() && !kind.same_content(&entry.kind)
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

/// The directory that was asked about last, open: missing entries come in order, and most of them
/// share it.
#[derive(Default)]
struct OpenParent {
    last: Option<(Option<Key>, Result<OwnedFd, Errno>)>,
}

impl OpenParent {
    fn stat(&mut self, root: &Root, key: &Key) -> Result<Stat, Errno> {
        let parent = key.parent();
        if self.last.as_ref().is_none_or(|(last, _)| *last != parent) {
            self.last = Some((parent, root.open_parent(key)));
        }
        match &self.last {
            Some((_, Ok(dir))) => rustix::fs::statat(dir, key.name(), AtFlags::SYMLINK_NOFOLLOW),
            Some((_, Err(errno))) => Err(*errno),
            None => Err(Errno::IO),
        }
    }
}
