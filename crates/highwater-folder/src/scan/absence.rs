//! What the walk did not meet is looked for once more, and only then reported as gone.

use std::os::fd::OwnedFd;

use highwater_core::{EntryKind, Key};
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::{Expected, Finding, KnownEntry, Scan, ScanError};
use crate::root::{Root, proves_absence};

impl<'a> Scan<'a> {
    pub(super) fn miss(&mut self, entry: KnownEntry) {
        let is_dir = matches!(entry.kind, EntryKind::Directory { .. });
        if !self.rules.ignores(&entry.key, is_dir) {
            self.missing.push(entry);
        }
    }

    pub(super) fn miss_all(&mut self, expected: Expected<'a>) {
        expected.for_each(|entry| self.miss(entry));
    }

    /// Reports what is missing, as far as that can be proved.
    pub(super) fn report_gone(&mut self) -> Result<(), ScanError> {
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
