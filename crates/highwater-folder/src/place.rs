//! Putting entries in place, so that the path always shows one whole state, and nobody's edit is
//! lost.
//!
//! A new file is renamed to a name that must be free. A file that replaces another is *exchanged*
//! with it in one step: the path is never absent, and what came out is then in the stage, where it
//! is compared with what was expected. An edit that slipped in between the check and the exchange
//! is put back by a second exchange. Deleting works alike: the file is renamed into the stage, looked
//! at, and removed only if it is what was to be deleted.
//!
//! Renaming moves a file's ctime, so what came out is compared by inode, size, mode and
//! modification time; before the exchange the ctime counts too.
//!
//! After a crash the stage may hold an `out-<n>`: see [`Root::recover`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use highwater_core::{EntryKind, Key, Mode, Mtime};
use rustix::fs::{AtFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::print::{Class, StatPrint};
use crate::problem::Problem;
use crate::root::{Root, open_beneath, proves_absence};
use crate::stage::{Slot, StageError, is_no_room, only_mtime};

/// One entry to be put in place.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Where.
    pub key: Key,
    /// What is to stand there; a tombstone removes what does.
    pub kind: EntryKind,
    /// The staged content of a file, whole, verified and durable. `None` when the file that is
    /// there has the right content and only its metadata changes.
    pub slot: Option<Slot>,
    /// What must stand there now.
    pub expect: Expect,
}

/// What the index believes to stand under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// This, as it was last seen.
    Present {
        /// What it is.
        kind: EntryKind,
        /// Its print.
        print: StatPrint,
    },
}

/// How placing one entry went.
#[derive(Debug)]
pub enum Placed {
    /// It is in place, and not yet durable: see [`Root::settle_dirs`]. Without a print it must be
    /// read again, for somebody may have touched it meanwhile.
    Done {
        /// Its print now.
        print: Option<StatPrint>,
    },
    /// It was deleted, or was gone already.
    Gone,
    /// Something else than expected stands there. Nothing was changed; scan the path.
    LocallyChanged,
    /// As `LocallyChanged`, and a second edit came during the first look: it was kept aside.
    Kept(Problem),
    /// The directory that is to hold it is not there. Place that first.
    ParentMissing,
    /// The directory that is to go still holds something.
    NotEmpty,
    /// It could not be done. Nothing was changed.
    Failed(PlaceError),
}

/// Why an entry could not be put in place. What stood there before still does.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing will fit until someone makes room.
    #[error("no room to place '{key}': {source}; free some space on that disk")]
    NoRoom {
        /// Which entry.
        key: Key,
        /// Full disk or full quota.
        source: io::Error,
    },
    /// The directory, or the file, may not be changed.
    #[error("not allowed to place '{key}': {source}; correct the permissions of its directory")]
    Permission {
        /// Which entry.
        key: Key,
        /// What the system said.
        source: io::Error,
    },
    /// This file system does not allow the name, or the path became too long.
    #[error("the name '{0}' is not possible on this file system; rename it where it comes from")]
    Name(Key),
    /// Another file system is mounted in the way.
    #[error("'{0}' lies in another file system that is mounted in the share; unmount it there")]
    MountPoint(Key),
    /// The staged content is not what the entry says, or was not there.
    #[error("the staged content of '{key}' cannot be used: {why}; fetch it again")]
    Staged {
        /// Which entry.
        key: Key,
        /// What is wrong with it.
        why: String,
    },
    /// Anything else that the system refused.
    #[error("cannot place '{key}': {source}; check the disk")]
    Io {
        /// Which entry.
        key: Key,
        /// What the system said.
        source: io::Error,
    },
}

impl PlaceError {
    fn new(key: &Key, errno: Errno) -> Self {
        let (key, source) = (key.clone(), errno.into());
        match errno {
            errno if is_no_room(errno) => PlaceError::NoRoom { key, source },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => PlaceError::Permission { key, source },
            Errno::NAMETOOLONG | Errno::ILSEQ => PlaceError::Name(key),
            Errno::XDEV => PlaceError::MountPoint(key),
            _ => PlaceError::Io { key, source },
        }
    }
}

/// A step that ends the placing early: with an answer, or with an error of the system.
enum Stop {
    Answer(Placed),
    Errno(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Errno(errno)
    }
}

type Step<T> = Result<T, Stop>;

impl Root {
    /// Puts one entry in place. The caller has asked [`Root::verify`] for the batch it belongs to.
    pub fn place(&self, placement: &Placement) -> Placed {
        let key = &placement.key;
        let placed = Site::open(self, key, &placement.kind).and_then(|site| site.place(placement));
        match placed {
            Ok(placed) | Err(Stop::Answer(placed)) => placed,
            Err(Stop::Errno(errno)) => Placed::Failed(PlaceError::new(key, errno)),
        }
    }
}

/// The place of one key: its directory, open, and its name in it.
struct Site<'a> {
    root: &'a Root,
    key: &'a Key,
    parent: OwnedFd,
}

impl<'a> Site<'a> {
    fn open(root: &'a Root, key: &'a Key, kind: &EntryKind) -> Step<Self> {
        match root.open_parent(key) {
            Ok(parent) => Ok(Self { root, key, parent }),
            Err(errno) if proves_absence(errno) && !kind.is_live() => {
                Err(Stop::Answer(Placed::Gone))
            }
            Err(errno) if proves_absence(errno) => Err(Stop::Answer(Placed::ParentMissing)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn place(&self, placement: &Placement) -> Step<Placed> {
        match &placement.kind {
            EntryKind::Tombstone => self.delete(&placement.expect),
            EntryKind::File { size, mode, mtime, .. } => match &placement.slot {
                Some(slot) => {
                    self.prepare(slot, *size, *mode, *mtime)?;
                    self.bring_in(slot, &placement.expect)
                }
                None => self.change_metadata(*mode, Some(*mtime), &placement.expect),
            },
            EntryKind::Symlink { target, mtime } => {
                let slot = Slot::new_entry(self.root.names.fetch_add(1, Ordering::Relaxed));
                let stage = self.root.stage().dir();
                rustix::fs::symlinkat(target.as_str(), stage, slot.as_str())?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(stage, slot.as_str(), &only_mtime(*mtime), flags)?;
                self.bring_in_or_drop(&slot, &placement.expect)
            }
            EntryKind::Directory { mode } => self.place_directory(*mode, &placement.expect),
        }
    }

    /// Gives a staged file its metadata, and makes sure that it is what the entry says.
    fn prepare(&self, slot: &Slot, size: u64, mode: Mode, mtime: Mtime) -> Step<()> {
        let staged = |why: String| {
            Stop::Answer(Placed::Failed(PlaceError::Staged { key: self.key.clone(), why }))
        };
        let file = self.root.stage().open(slot).map_err(|error| match error {
            StageError::NoRoom { .. } => Stop::Errno(Errno::NOSPC),
            error => staged(error.to_string()),
        })?;
        let found = file.len().map_err(|error| staged(error.to_string()))?;
        if found != size {
            return Err(staged(format!("it has {found} bytes instead of {size}")));
        }
        file.set_metadata(mode, mtime).map_err(|error| staged(error.to_string()))
    }

    fn place_directory(&self, mode: Mode, expect: &Expect) -> Step<Placed> {
        if let Expect::Present { kind: EntryKind::Directory { .. }, .. } = expect {
            return self.change_metadata(mode, None, expect);
        }
        let slot = Slot::new_entry(self.root.names.fetch_add(1, Ordering::Relaxed));
        let stage = self.root.stage().dir();
        rustix::fs::mkdirat(stage, slot.as_str(), rustix::fs::Mode::from_raw_mode(0o700))?;
        let dir = open_beneath(stage, slot.as_str(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let wanted = rustix::fs::Mode::from_raw_mode(mode.bits());
        // A crash between the two steps must not leave a mode that looks like somebody's edit.
        if wanted.contains(rustix::fs::Mode::RWXU) {
            rustix::fs::fchmod(&dir, wanted)?;
        }
        match self.bring_in_or_drop(&slot, expect)? {
            Placed::Done { .. } => {}
            other => return Ok(other),
        }
        // Only now: a directory that its owner may not write in cannot be moved.
        rustix::fs::fchmod(&dir, wanted)?;
        let print = StatPrint::of(&rustix::fs::fstat(&dir)?);
        Ok(Placed::Done { print: Some(print) })
    }

    fn bring_in_or_drop(&self, slot: &Slot, expect: &Expect) -> Step<Placed> {
        let placed = self.bring_in(slot, expect);
        if !matches!(placed, Ok(Placed::Done { .. })) {
            // What stays is swept at the next start.
            let _ = self.root.stage().remove(slot);
        }
        placed
    }

    /// Renames what is staged to where it belongs.
    fn bring_in(&self, slot: &Slot, expect: &Expect) -> Step<Placed> {
        let staged = StatPrint::of(&self.root.stage().stat(slot)?);
        match expect {
            Expect::Absent => self.bring_in_new(slot)?,
            Expect::Present { kind: EntryKind::Directory { .. }, print } => {
                self.check(print)?;
                self.remove_directory()?;
                self.bring_in_new(slot)?;
            }
            Expect::Present { print, .. } => {
                self.check(print)?;
                self.exchange(slot, print, &staged)?;
            }
        }
        Ok(Placed::Done { print: self.print_if_ours(&staged) })
    }

    fn bring_in_new(&self, slot: &Slot) -> Step<()> {
        let name = self.key.name();
        let moved = self.writable(|| {
            rustix::fs::renameat_with(
                self.root.stage().dir(),
                slot.as_str(),
                &self.parent,
                name,
                RenameFlags::NOREPLACE,
            )
        });
        match moved {
            Err(Errno::EXIST) => Err(Stop::Answer(Placed::LocallyChanged)),
            moved => Ok(moved?),
        }
    }

    /// Swaps what is staged with what stands there, and looks at what came out.
    fn exchange(&self, slot: &Slot, expected: &StatPrint, staged: &StatPrint) -> Step<()> {
        let stage = self.root.stage().dir();
        let out = Slot::out(self.root.names.fetch_add(1, Ordering::Relaxed));
        let rename = |from: &Slot, to: &Slot| {
            let no_replace = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(stage, from.as_str(), stage, to.as_str(), no_replace)
        };
        rename(slot, &out)?;
        if let Err(errno) = self.swap(&out) {
            rename(&out, slot)?;
            return Err(gone_means_changed(errno));
        }
        if self.stage_holds(&out, expected) {
            // What stays is swept at the next start.
            let _ = self.root.stage().remove(&out);
            return Ok(());
        }
        if self.swap(&out).is_ok() && self.stage_holds(&out, staged) {
            rename(&out, slot)?;
            return Err(Stop::Answer(Placed::LocallyChanged));
        }
        // Someone replaced or removed our file between the two swaps. Whatever is in the stage now
        // is one of their states, and is never thrown away.
        let problem = self.root.keep(&out, self.key.name());
        Err(Stop::Answer(Placed::Kept(problem)))
    }

    fn swap(&self, out: &Slot) -> Result<(), Errno> {
        let (stage, name) = (self.root.stage().dir(), self.key.name());
        self.writable(|| {
            let exchange = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(stage, out.as_str(), &self.parent, name, exchange)
        })
    }

    fn stage_holds(&self, slot: &Slot, expected: &StatPrint) -> bool {
        let found = self.root.stage().stat(slot);
        found.is_ok_and(|stat| StatPrint::of(&stat).same_but_for_ctime(expected))
    }

    fn delete(&self, expect: &Expect) -> Step<Placed> {
        let Some(found) = self.stat()? else { return Ok(Placed::Gone) };
        let Expect::Present { print, .. } = expect else { return Ok(Placed::LocallyChanged) };
        if StatPrint::of(&found) != *print {
            return Ok(Placed::LocallyChanged);
        }
        if Class::of(&found) == Class::Directory {
            self.remove_directory()?;
            return Ok(Placed::Gone);
        }
        let (stage, name) = (self.root.stage().dir(), self.key.name());
        let out = Slot::out(self.root.names.fetch_add(1, Ordering::Relaxed));
        let no_replace = RenameFlags::NOREPLACE;
        let moved = self.writable(|| {
            rustix::fs::renameat_with(&self.parent, name, stage, out.as_str(), no_replace)
        });
        match moved {
            Err(Errno::NOENT) => return Ok(Placed::Gone),
            moved => moved?,
        }
        if self.stage_holds(&out, print) {
            let _ = self.root.stage().remove(&out);
            return Ok(Placed::Gone);
        }
        let back = self.writable(|| {
            rustix::fs::renameat_with(stage, out.as_str(), &self.parent, name, no_replace)
        });
        match back {
            Ok(()) => Ok(Placed::LocallyChanged),
            Err(_) => Ok(Placed::Kept(self.root.keep(&out, name))),
        }
    }

    fn remove_directory(&self) -> Step<()> {
        let name = self.key.name();
        let removed =
            self.writable(|| rustix::fs::unlinkat(&self.parent, name, AtFlags::REMOVEDIR));
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Stop::Answer(Placed::NotEmpty)),
            Err(Errno::NOTDIR) => Err(Stop::Answer(Placed::LocallyChanged)),
            Err(Errno::BUSY) => Err(Stop::Errno(Errno::XDEV)),
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Changes the mode, and the modification time, of what is there and stays.
    fn change_metadata(&self, mode: Mode, mtime: Option<Mtime>, expect: &Expect) -> Step<Placed> {
        let Expect::Present { print, .. } = expect else {
            return Ok(Placed::LocallyChanged);
        };
        // `O_PATH` needs no right to read the file, and the way over `/proc/self/fd` leads to this
        // very inode, whatever its name leads to by then.
        let target = open_beneath(self.parent.as_fd(), self.key.name(), OFlags::PATH)
            .map_err(gone_means_changed)?;
        let found = StatPrint::of(&rustix::fs::fstat(&target)?);
        if found != *print {
            return Ok(Placed::LocallyChanged);
        }
        let own = format!("/proc/self/fd/{}", target.as_raw_fd());
        if found.mode != mode {
            rustix::fs::chmod(own.as_str(), rustix::fs::Mode::from_raw_mode(mode.bits()))?;
        }
        if let Some(mtime) = mtime
            && found.mtime != mtime
        {
            rustix::fs::utimensat(
                rustix::fs::CWD,
                own.as_str(),
                &only_mtime(mtime),
                AtFlags::empty(),
            )?;
            // An edit just before this call would now carry our time and look like our doing.
            return Ok(Placed::Done { print: None });
        }
        let after = StatPrint::of(&rustix::fs::fstat(&target)?);
        let ours = StatPrint { mode, ..found }.same_but_for_ctime(&after);
        Ok(Placed::Done { print: ours.then_some(after) })
    }

    fn check(&self, expected: &StatPrint) -> Step<()> {
        match self.stat()? {
            Some(stat) if StatPrint::of(&stat) == *expected => Ok(()),
            _ => Err(Stop::Answer(Placed::LocallyChanged)),
        }
    }

    fn stat(&self) -> Step<Option<rustix::fs::Stat>> {
        match rustix::fs::statat(&self.parent, self.key.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The print of what stands there now, if it is what was staged.
    fn print_if_ours(&self, staged: &StatPrint) -> Option<StatPrint> {
        let print = StatPrint::of(&self.stat().ok()??);
        print.same_but_for_ctime(staged).then_some(print)
    }

    /// Runs `change`; when it is refused because our own directory is read-only, once more with the
    /// directory writable. A read-only directory still takes part in syncing, as its mode does.
    fn writable(&self, change: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        let refused = match change() {
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => errno,
            result => return result,
        };
        let mode = rustix::fs::fstat(&self.parent)?.st_mode & 0o7777;
        if mode & 0o200 != 0 {
            return Err(refused);
        }
        let own = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let set = |bits| rustix::fs::chmod(own.as_str(), rustix::fs::Mode::from_raw_mode(bits));
        set(mode | 0o200).map_err(|_| refused)?;
        let result = change();
        set(mode)?;
        result
    }
}

fn gone_means_changed(errno: Errno) -> Stop {
    match errno {
        Errno::NOENT | Errno::LOOP => Stop::Answer(Placed::LocallyChanged),
        errno => Stop::Errno(errno),
    }
}
