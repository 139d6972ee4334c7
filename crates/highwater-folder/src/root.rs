//! The root of a share: one descriptor, beneath which everything else happens.
//!
//! A root is opened by its path once. From then on directories are opened beneath its descriptor
//! with `openat2`, which refuses to pass a symbolic link, a `..`, or a mount, so nobody who can
//! write in the share can make Highwater read or write outside it. The path is looked at again
//! only to answer one question: does it still lead to the same directory, and is the marker still
//! there? Before that is answered, nothing that seems to be missing is believed to be deleted.
//!
//! Inside the root, `.highwater` (mode 0700) belongs to Highwater: `marker` (see [`Marker`]),
//! `stage` (contents that are not whole yet, see [`Stage`]), `kept` (what may be a user's edit and
//! had to be moved out of the way). No key lies in it, so no peer can name it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use highwater_core::key::RESERVED_DIR;
use highwater_core::{Key, Mtime};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::marker::{MARKER_BYTES_MAX, Marker, MarkerIdentity};
use crate::print::{Class, StatPrint};
use crate::settle::SyncHealth;
use crate::stage::Stage;

const MARKER: &str = "marker";
const MARKER_NEW: &str = "marker.new";
const STAGE: &str = "stage";
const KEPT: &str = "kept";

/// Why a share's root cannot be used. Nothing in the share may be taken for deleted.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Nothing is there.
    #[error("the folder {} does not exist; create it, mount its disk, or correct the path", .0.display())]
    Missing(PathBuf),
    /// Something else is there.
    #[error("{} is not a directory; correct the path of the share", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is not marked as this share: an empty mount point, most often.
    #[error(
        "the folder {} lacks its marker '.highwater/marker'; mount its disk, or remove the share \
         and add it again", .0.display()
    )]
    NoMarker(PathBuf),
    /// The directory belongs to another share or node, or to another start of this node.
    #[error("the folder {} is marked as {found}; choose another folder", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What its marker says.
        found: Box<Marker>,
    },
    /// The path leads to another directory than it did when the root was opened.
    #[error("the folder {} was replaced by another; put it back, or restart", .0.display())]
    Replaced(PathBuf),
    /// The disk, or its permissions, do not let us.
    #[error("cannot {attempt} in the folder {}: {source}", path.display())]
    Unreadable {
        /// What was attempted.
        attempt: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// An open share. Shared between threads behind an `Arc`.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    control: OwnedFd,
    kept: OwnedFd,
    stage: Stage,
    /// Device and inode of the directory, by which a replaced one is told.
    place: (u64, u64),
    marker: Mutex<Marker>,
    pub(crate) names: AtomicU64,
    pub(crate) sync: SyncHealth,
}

impl Root {
    /// Marks the directory at `path` as a share and opens it. A directory that already carries a
    /// marker of the same share and node is taken over, and keeps its generation if that is higher.
    ///
    /// # Errors
    /// [`RootError::Foreign`] when it is marked as something else; no marker is changed then.
    pub fn create(path: &Path, marker: &Marker) -> Result<Root, RootError> {
        let dir = open_root(path)?;
        let fails = |attempt| move |errno: Errno| unreadable(path, attempt, errno);
        make_private_dir(dir.as_fd(), RESERVED_DIR).map_err(fails("create '.highwater'"))?;
        let control = open_own(&dir, RESERVED_DIR).map_err(fails("open '.highwater'"))?;
        let mut marker = marker.clone();
        match read_marker(&control) {
            Ok(Some(found)) if found.identity() != marker.identity() => {
                let found = Box::new(found);
                return Err(RootError::Foreign { path: path.into(), found });
            }
            // A copy of the folder from before may still be put back some day.
            Ok(Some(found)) => marker.generation = marker.generation.max(found.generation),
            Ok(None) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(unreadable(path, "read the marker", errno)),
        }
        for name in [STAGE, KEPT] {
            make_private_dir(control.as_fd(), name).map_err(fails("create '.highwater'"))?;
        }
        let root = Self::assemble(path, dir, control, marker.clone())?;
        root.set_marker(&marker)?;
        Ok(root)
    }

    /// Opens a share that was created before.
    ///
    /// # Errors
    /// Whatever speaks against it being the same directory still.
    pub fn open(path: &Path, expect: &MarkerIdentity) -> Result<Root, RootError> {
        let dir = open_root(path)?;
        let control = match open_own(&dir, RESERVED_DIR) {
            Ok(control) => control,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(RootError::NoMarker(path.into()));
            }
            Err(errno) => return Err(unreadable(path, "open '.highwater'", errno)),
        };
        let marker = match read_marker(&control) {
            Ok(Some(marker)) => marker,
            Ok(None) | Err(Errno::NOENT) => return Err(RootError::NoMarker(path.into())),
            Err(errno) => return Err(unreadable(path, "read the marker", errno)),
        };
        if marker.identity() != *expect {
            return Err(RootError::Foreign { path: path.into(), found: Box::new(marker) });
        }
        for name in [STAGE, KEPT] {
            make_private_dir(control.as_fd(), name)
                .map_err(|errno| unreadable(path, "create '.highwater'", errno))?;
        }
        Self::assemble(path, dir, control, marker)
    }

    fn assemble(
        path: &Path,
        dir: OwnedFd,
        control: OwnedFd,
        marker: Marker,
    ) -> Result<Root, RootError> {
        let fails = |errno| unreadable(path, "open '.highwater'", errno);
        let stage = open_own(&control, STAGE).map_err(fails)?;
        let kept = open_own(&control, KEPT).map_err(fails)?;
        let stat = rustix::fs::fstat(&dir).map_err(fails)?;
        Ok(Root {
            path: path.into(),
            dir,
            control,
            kept,
            stage: Stage::new(stage),
            place: (stat.st_dev, stat.st_ino),
            marker: Mutex::new(marker),
            names: AtomicU64::new(0),
            sync: SyncHealth::default(),
        })
    }

    /// Whether the path still leads to this directory and its marker is what this node wrote.
    /// Asked before anything is believed to be deleted, and before anything is put in place.
    ///
    /// # Errors
    /// What is no longer as it was.
    pub fn verify(&self) -> Result<(), RootError> {
        let stat = rustix::fs::stat(&self.path).map_err(|errno| match errno {
            Errno::NOENT => RootError::Missing(self.path.clone()),
            Errno::NOTDIR => RootError::NotADirectory(self.path.clone()),
            errno => unreadable(&self.path, "look", errno),
        })?;
        if Class::of(&stat) != Class::Directory {
            return Err(RootError::NotADirectory(self.path.clone()));
        }
        if (stat.st_dev, stat.st_ino) != self.place {
            return Err(RootError::Replaced(self.path.clone()));
        }
        match open_own(&self.dir, RESERVED_DIR).and_then(|control| read_marker(&control)) {
            Ok(Some(found)) if found == self.marker() => Ok(()),
            Ok(Some(found)) => {
                Err(RootError::Foreign { path: self.path.clone(), found: Box::new(found) })
            }
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Err(RootError::NoMarker(self.path.clone()))
            }
            Err(errno) => Err(unreadable(&self.path, "read the marker", errno)),
        }
    }

    /// What the marker says.
    pub fn marker(&self) -> Marker {
        self.marker.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// When the marker's file was made, if the file system keeps that. No program can set it, so a
    /// marker that was copied back from a backup is told from the one that stood here.
    pub fn marker_born(&self) -> Option<Mtime> {
        let (flags, wanted) = (AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME);
        let stat = rustix::fs::statx(&self.control, MARKER, flags, wanted).ok()?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let born = stat.stx_btime;
        known.then_some(Mtime { seconds: born.tv_sec, nanos: born.tv_nsec })
    }

    /// Replaces the marker; durable when this returns.
    ///
    /// # Errors
    /// When it could not be written or synced; the old one is then still in place.
    pub fn set_marker(&self, marker: &Marker) -> Result<(), RootError> {
        self.write_marker(marker)
            .map_err(|source| unreadable_io(&self.path, "write the marker", source))?;
        let mut current = self.marker.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        current.clone_from(marker);
        Ok(())
    }

    fn write_marker(&self, marker: &Marker) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.control, MARKER_NEW, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | LEAF;
        let file = rustix::fs::openat(&self.control, MARKER_NEW, flags, PRIVATE_FILE)?;
        let mut file = File::from(file);
        file.write_all(marker.to_text().as_bytes())?;
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(&self.control, MARKER_NEW, &self.control, MARKER)?;
        rustix::fs::fsync(&self.control)?;
        // The directory `.highwater` itself may be new.
        rustix::fs::fsync(&self.dir)?;
        Ok(())
    }

    /// Where the share lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where contents land before they are whole.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Bytes that can still be written on the file system of the share.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The print of what stands under `key`; `None` when it is proved that nothing does.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn print_of(&self, key: &Key) -> io::Result<Option<StatPrint>> {
        let looked = self
            .open_parent(key)
            .and_then(|dir| rustix::fs::statat(dir, key.name(), AtFlags::SYMLINK_NOFOLLOW));
        match looked {
            Ok(stat) => Ok(Some(StatPrint::of(&stat))),
            Err(errno) if proves_absence(errno) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn kept(&self) -> BorrowedFd<'_> {
        self.kept.as_fd()
    }

    /// Opens a directory of the share for listing and syncing; `None` is the root itself.
    pub(crate) fn open_dir(&self, key: Option<&Key>) -> Result<OwnedFd, Errno> {
        let path = key.map_or(".", Key::as_str);
        open_beneath(self.dir.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens the directory that holds `key`, for work on its entries. Needs no right to list it.
    pub(crate) fn open_parent(&self, key: &Key) -> Result<OwnedFd, Errno> {
        let parent = key.parent();
        let path = parent.as_ref().map_or(".", Key::as_str);
        open_beneath(self.dir.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)
    }
}

const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);
const PRIVATE_DIR: Mode = Mode::from_raw_mode(0o700);

/// How the last component of a path is opened, always: never through a link, never waiting for
/// whoever holds the other end of a FIFO, never inherited by a child.
pub(crate) const LEAF: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// `openat2` gives up when something was renamed while it resolved: with EAGAIN, or, when it was
/// renamed out of the share, with the EXDEV that otherwise means a mount. Nobody wins that race a
/// hundred times in a row by accident.
const RESOLVE_TRIES_MAX: usize = 100;

/// Opens `path` beneath `dir`: through no link, no `..`, no mount.
pub(crate) fn open_beneath(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = if flags.contains(OFlags::PATH) {
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC
    } else {
        flags | LEAF
    };
    let mut last = Errno::AGAIN;
    for _ in 0..RESOLVE_TRIES_MAX {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(errno @ (Errno::AGAIN | Errno::XDEV | Errno::INTR)) => last = errno,
            opened => return opened,
        }
    }
    Err(last)
}

/// The errors that prove that nothing stands under a path: a component is missing, is not a
/// directory, or is a symbolic link.
pub(crate) fn proves_absence(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

fn open_root(path: &Path) -> Result<OwnedFd, RootError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => RootError::Missing(path.into()),
        Errno::NOTDIR => RootError::NotADirectory(path.into()),
        errno => unreadable(path, "look", errno),
    })
}

/// Makes a directory that only its owner can enter, or narrows one that is there to that.
fn make_private_dir(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(parent, name, PRIVATE_DIR) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let dir = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::fchmod(dir, PRIVATE_DIR)
}

/// Opens one of our own directories. Somebody else's could be filled with surprises.
fn open_own(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let dir = open_beneath(parent.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    if rustix::fs::fstat(&dir)?.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::PERM);
    }
    Ok(dir)
}

/// The marker in a `.highwater` directory; `None` for a file that is not one.
fn read_marker(control: &OwnedFd) -> Result<Option<Marker>, Errno> {
    let file = File::from(open_beneath(control.as_fd(), MARKER, OFlags::RDONLY)?);
    let mut text = String::new();
    match file.take(MARKER_BYTES_MAX as u64).read_to_string(&mut text) {
        Ok(_) => Ok(Marker::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

fn unreadable(path: &Path, attempt: &'static str, errno: Errno) -> RootError {
    unreadable_io(path, attempt, errno.into())
}

fn unreadable_io(path: &Path, attempt: &'static str, source: io::Error) -> RootError {
    RootError::Unreadable { attempt, path: path.into(), source }
}
