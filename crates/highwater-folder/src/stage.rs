//! Where contents land before they are whole: `.highwater/stage`, on the file system of the share,
//! so that a finished content is renamed into place and never copied.
//!
//! Names in the stage tell what a crash left behind:
//! - `part-<content hash>`: a large content in transfer. Long-lived; resumed after a restart.
//! - `in-<n>`: a content that arrives in one go. Worth nothing after a restart.
//! - `new-<n>`: a directory or link about to be renamed into place. Worth nothing after a restart.
//! - `out-<n>`: one end of an exchange with a file of the share. After a crash it may be a user's
//!   file, so it is never removed unless its content is known (see [`Root::recover`]).
//!
//! A staged file is opened without following links and must be a regular file of ours with one name:
//! a link planted here would make Highwater write into somebody else's file.
//!
//! [`Root::recover`]: crate::Root::recover

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use highwater_core::{ContentHash, Mode, Mtime};
use rustix::fs::{AtFlags, Dir, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::print::{Class, StatPrint};
use crate::read::{ContentFile, read_full};
use crate::root::{LEAF, open_beneath};

/// The name of a staged file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(String);

const PARTIAL: &str = "part-";
const FRESH: &str = "in-";
const OUT: &str = "out-";
const NEW: &str = "new-";

impl Slot {
    /// The slot of a content whose transfer survives a restart.
    pub fn partial(content: ContentHash) -> Self {
        Self(format!("{PARTIAL}{content}"))
    }

    /// The slot of a content that arrives in one go. The caller never reuses `number` in one run.
    pub fn fresh(number: u64) -> Self {
        Self(format!("{FRESH}{number}"))
    }

    pub(crate) fn out(number: u64) -> Self {
        Self(format!("{OUT}{number}"))
    }

    pub(crate) fn new_entry(number: u64) -> Self {
        Self(format!("{NEW}{number}"))
    }

    /// Whether this is the slot of a transfer that survives a restart.
    pub fn is_partial(&self) -> bool {
        self.0.starts_with(PARTIAL)
    }

    pub(crate) fn is_out(&self) -> bool {
        self.0.starts_with(OUT)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why something could not be done in the stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Nothing is staged under that name.
    #[error("nothing is staged as {0}; fetch it from its beginning")]
    Missing(Slot),
    /// What was staged there was not a plain file of ours, and was removed.
    #[error("{0} in the stage was not a plain file of ours and was removed; fetch it again")]
    Discarded(Slot),
    /// Nothing more will fit until someone makes room.
    #[error("no room to {attempt} {slot} in the stage: {source}; free some space on that disk")]
    NoRoom {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        slot: Slot,
        /// Full disk or full quota.
        source: io::Error,
    },
    /// The file that bytes were copied from ended before the range did.
    #[error("the file to copy into {0} is shorter than it was; fetch that range from a peer")]
    SourceShrunk(Slot),
    /// The disk, or its permissions, do not let us.
    #[error("cannot {attempt} {slot} in the stage: {source}; check the disk")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        slot: Slot,
        /// Why it failed.
        source: io::Error,
    },
}

impl StageError {
    fn new(attempt: &'static str, slot: &Slot, source: impl Into<io::Error>) -> Self {
        let (slot, source) = (slot.clone(), source.into());
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT) => StageError::Missing(slot),
            Some(errno) if is_no_room(errno) => StageError::NoRoom { attempt, slot, source },
            _ => StageError::Io { attempt, slot, source },
        }
    }
}

/// Whether an error means that the disk or the quota is full.
pub(crate) fn is_no_room(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT)
}

/// The stage of one share.
#[derive(Debug)]
pub struct Stage {
    dir: OwnedFd,
}

/// From this size on the free space is asked for before a transfer begins.
const ROOM_ASKED_FROM: u64 = 1 << 20;

const STAGED_MODE: rustix::fs::Mode = rustix::fs::Mode::from_raw_mode(0o600);

impl Stage {
    pub(crate) fn new(dir: OwnedFd) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Makes an empty staged file, in place of whatever had that name. `size_hint` is what will be
    /// written; nothing is reserved, so a peer's claim of a size costs nothing.
    ///
    /// # Errors
    /// [`StageError::NoRoom`] when that much is not free now.
    pub fn create(&self, slot: &Slot, size_hint: u64) -> Result<StageFile, StageError> {
        let fails = |errno: Errno| StageError::new("create", slot, errno);
        if size_hint >= ROOM_ASKED_FROM {
            let stat = rustix::fs::fstatvfs(&self.dir).map_err(fails)?;
            if stat.f_bavail.saturating_mul(stat.f_frsize) < size_hint {
                return Err(fails(Errno::NOSPC));
            }
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | LEAF;
        let open = || rustix::fs::openat(&self.dir, slot.as_str(), flags, STAGED_MODE);
        let file = match open() {
            Err(Errno::EXIST) => {
                self.remove(slot)?;
                open()
            }
            opened => opened,
        };
        Ok(StageFile { file: File::from(file.map_err(fails)?), slot: slot.clone() })
    }

    /// Opens a staged file. Anything but a plain file of ours with one name is removed instead.
    ///
    /// # Errors
    /// [`StageError::Missing`], [`StageError::Discarded`] or [`StageError::Io`].
    pub fn open(&self, slot: &Slot) -> Result<StageFile, StageError> {
        let fails = |errno: Errno| StageError::new("open", slot, errno);
        // Looked at before it is opened, so that not even a device is opened by mistake.
        let stat = self.stat(slot).map_err(fails)?;
        if !is_ours(&stat) {
            self.remove(slot)?;
            return Err(StageError::Discarded(slot.clone()));
        }
        let file = open_beneath(self.dir(), slot.as_str(), OFlags::RDWR).map_err(fails)?;
        let opened = rustix::fs::fstat(&file).map_err(fails)?;
        if !is_ours(&opened) || opened.st_ino != stat.st_ino {
            self.remove(slot)?;
            return Err(StageError::Discarded(slot.clone()));
        }
        Ok(StageFile { file: File::from(file), slot: slot.clone() })
    }

    /// Makes durable which files are staged. What was written into them is not: see
    /// [`StageFile::sync_data`].
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn sync(&self, slot: &Slot) -> Result<(), StageError> {
        rustix::fs::fsync(&self.dir).map_err(|errno| StageError::new("make durable", slot, errno))
    }

    /// Removes a staged file. It is no error when nothing was there.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn remove(&self, slot: &Slot) -> Result<(), StageError> {
        let name = slot.as_str();
        let removed = match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StageError::new("remove", slot, errno)),
        }
    }

    /// Everything in the stage.
    ///
    /// # Errors
    /// When the stage cannot be listed.
    pub fn list(&self) -> io::Result<Vec<Slot>> {
        let mut slots = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => slots.push(Slot(name.to_owned())),
            }
        }
        Ok(slots)
    }

    pub(crate) fn stat(&self, slot: &Slot) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.dir, slot.as_str(), AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn is_ours(stat: &Stat) -> bool {
    Class::of(stat) == Class::File
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
}

/// A staged file, open for reading and writing.
#[derive(Debug)]
pub struct StageFile {
    file: File,
    slot: Slot,
}

impl StageFile {
    /// Its name.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Writes all of `bytes` at `offset`. Written is not durable: see [`StageFile::sync_data`].
    ///
    /// # Errors
    /// [`StageError::NoRoom`] or [`StageError::Io`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StageError> {
        self.file.write_all_at(bytes, offset).map_err(|e| StageError::new("write", &self.slot, e))
    }

    /// Reads from `offset` until `buffer` is full or the file ends, and says how much that was.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StageError> {
        read_full(&self.file, offset, buffer).map_err(|e| StageError::new("read", &self.slot, e))
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn len(&self) -> Result<u64, StageError> {
        Ok(self.print()?.size)
    }

    /// Whether nothing was written to it.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn is_empty(&self) -> Result<bool, StageError> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends it to `size` bytes.
    ///
    /// # Errors
    /// [`StageError::NoRoom`] or [`StageError::Io`].
    pub fn set_len(&self, size: u64) -> Result<(), StageError> {
        self.file.set_len(size).map_err(|e| StageError::new("cut", &self.slot, e))
    }

    /// Makes what was written durable. An error is final: the bytes may be lost although a second
    /// call would succeed.
    ///
    /// # Errors
    /// [`StageError::NoRoom`] or [`StageError::Io`].
    pub fn sync_data(&self) -> Result<(), StageError> {
        rustix::fs::fdatasync(&self.file).map_err(|e| StageError::new("sync", &self.slot, e))
    }

    /// Gives it the permission bits and the modification time that it will have in the share. Done
    /// before it is synced, so that they are durable together with its bytes.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn set_metadata(&self, mode: Mode, mtime: Mtime) -> Result<(), StageError> {
        let fails = |errno: Errno| StageError::new("set the mode and time of", &self.slot, errno);
        let print = self.print()?;
        if print.mode != mode {
            let bits = rustix::fs::Mode::from_raw_mode(mode.bits());
            rustix::fs::fchmod(&self.file, bits).map_err(fails)?;
        }
        if print.mtime != mtime {
            rustix::fs::futimens(&self.file, &only_mtime(mtime)).map_err(fails)?;
        }
        Ok(())
    }

    /// Copies a range of a file of the share into this one, inside the kernel where it can.
    ///
    /// # Errors
    /// [`StageError::SourceShrunk`], [`StageError::NoRoom`] or [`StageError::Io`].
    pub fn copy_from(
        &self,
        source: &ContentFile,
        from: u64,
        to: u64,
        length: u64,
    ) -> Result<(), StageError> {
        let (mut read_at, mut write_at, mut left) = (from, to, length);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(COPY_BYTES_MAX);
            let copied = rustix::fs::copy_file_range(
                &source.file,
                Some(&mut read_at),
                &self.file,
                Some(&mut write_at),
                wanted,
            );
            match copied {
                Ok(0) => return Err(StageError::SourceShrunk(self.slot.clone())),
                Ok(copied) => left -= copied as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return self.copy_by_hand(source, read_at, write_at, left);
                }
                Err(errno) => return Err(StageError::new("copy into", &self.slot, errno)),
            }
        }
        Ok(())
    }

    fn copy_by_hand(
        &self,
        source: &ContentFile,
        mut from: u64,
        mut to: u64,
        mut left: u64,
    ) -> Result<(), StageError> {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            let found = read_full(&source.file, from, &mut buffer[..wanted])
                .map_err(|e| StageError::new("copy into", &self.slot, e))?;
            if found < wanted {
                return Err(StageError::SourceShrunk(self.slot.clone()));
            }
            self.write_at(to, &buffer[..wanted])?;
            from += wanted as u64;
            to += wanted as u64;
            left -= wanted as u64;
        }
        Ok(())
    }

    pub(crate) fn print(&self) -> Result<StatPrint, StageError> {
        let stat = rustix::fs::fstat(&self.file);
        Ok(StatPrint::of(&stat.map_err(|e| StageError::new("look at", &self.slot, e))?))
    }

    /// The open file itself, for reading all of it.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Bytes copied in one call: the kernel does not let itself be interrupted within one.
const COPY_BYTES_MAX: usize = 16 << 20;
/// Bytes copied at a time where the kernel cannot do it.
const COPY_BUFFER_BYTES: usize = 256 * 1024;

/// Times that set the modification time and leave the access time alone.
pub(crate) fn only_mtime(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanos.min(999_999_999).into(),
        },
    }
}
