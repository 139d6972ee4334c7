//! Files and links are read, now or after a wait, and compared with what the index says of them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::thread;

use highwater_core::{EntryKind, Key, Manifest};
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::{Finding, KnownEntry, Observation, Scan, ScanError};
use crate::print::{Class, StatPrint, TICK_MAX};
use crate::problem::{Problem, ProblemKind};
use crate::read::{ReadError, read_content_watched};
use crate::root::proves_absence;

/// Files put aside before they are gone back to: bounds memory when a million files are fresh.
const DEFERRED_MAX: usize = 4096;

/// How often a file that changes while it is read is read again, before it counts as changing.
const READ_AGAIN_MAX: usize = 3;

impl Scan<'_> {
    pub(super) fn visit_file(
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

    pub(super) fn visit_symlink(
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

    pub(super) fn compare(
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
    pub(super) fn revisit(&mut self) -> Result<(), ScanError> {
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
    pub(super) fn look_again(
        &mut self,
        key: &Key,
        known: Option<KnownEntry>,
    ) -> Result<(), ScanError> {
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
