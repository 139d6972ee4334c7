//! Reading every byte of a share again, for the consistency checker: does the folder hold what the
//! index says?
//!
//! This is a walk of its own beside the scan's, on purpose. The scan believes a file whose print is
//! the recorded one without opening it; this opens everything, hashes every byte itself, and only
//! then looks at what was recorded. It changes nothing, and takes nothing for an edit or a delete: it
//! says what stands where, and how that differs from the record.
//!
//! A file whose bytes differ though its inode, size and modification time are the recorded ones was
//! not edited: the disk, or something that hides its traces, changed it. Everything else that
//! differs may be an edit that no scan has met yet; whoever asked looks again after a scan.

use std::fs::File;
use std::io;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use highwater_core::content::CONTENT_BYTES_MAX;
use highwater_core::{ContentHash, EntryKind, Key};
use rustix::fs::{Advice, AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use crate::ignore::IgnoreRules;
use crate::print::{Class, StatPrint};
use crate::read::read_full;
use crate::root::{Root, RootError, open_beneath, proves_absence};
use crate::scan::{Known, KnownEntry};

/// Bytes read at a time: what was just read is still in the processor's cache when it is hashed.
const READ_BYTES: usize = 256 * 1024;

/// What is to be read.
#[derive(Clone, Copy)]
pub struct Audit<'a> {
    /// The share's folder.
    pub root: &'a Root,
    /// What is not synced is not read.
    pub rules: &'a IgnoreRules,
    /// What was recorded.
    pub known: &'a dyn Known,
    /// Whether to drop what the kernel has cached of a file before it is read, so that it comes from
    /// the disk.
    pub from_disk: bool,
}

/// How what stands under a key differs from what was recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discord {
    /// Where.
    pub key: Key,
    /// What stands there.
    pub found: Found,
    /// How that came about, as far as it can be told.
    pub cause: DiscordCause,
}

/// What stands under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// This, with this print.
    State(EntryKind, StatPrint),
    /// Nothing.
    Absent,
    /// Something that changed while it was read.
    Changing,
    /// Something that cannot be read, and why.
    Unreadable(String),
}

/// Why what stands in the folder is not what was recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiscordCause {
    /// The bytes are others, and every fact by which an edit is known is as recorded.
    Rot,
    /// The bytes are others, under the recorded inode, size and modification time; only the change
    /// time moved, which metadata alone moves too.
    Hidden,
    /// The record contradicts the facts that were recorded with it: not the file but the record was
    /// changed.
    Record,
    /// It may be an edit that no scan has met yet.
    Edit,
    /// It cannot be read.
    Unreadable,
}

/// Who watches an audit.
pub trait AuditSink {
    /// So many bytes were read, up to this key. Answers whether to go on, and may take its time.
    fn read(&mut self, key: &Key, bytes: u64) -> ControlFlow<()>;
    /// This key was looked at to the end.
    fn passed(&mut self, key: &Key) -> ControlFlow<()>;
    /// This key differs.
    fn differs(&mut self, discord: Discord) -> ControlFlow<()>;
}

/// Why an audit ended before its end. What it told before remains true.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The share's root cannot be trusted.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root itself cannot be listed.
    #[error("cannot list the folder {}: {source}; correct its permissions or check the disk", path.display())]
    Unreadable {
        /// The share's root.
        path: std::path::PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The sink wanted no more.
    #[error("the check was stopped before its end; it goes on where it was")]
    Stopped,
}

impl From<ControlFlow<()>> for Step {
    fn from(flow: ControlFlow<()>) -> Self {
        Step(match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(AuditError::Stopped),
        })
    }
}

/// An answer of the sink.
struct Step(Result<(), AuditError>);

type Expected<'a> = Peekable<Box<dyn Iterator<Item = KnownEntry> + 'a>>;

impl Audit<'_> {
    /// Reads the whole share, or what lies behind `after` in key order.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn whole(&self, after: Option<&Key>, sink: &mut dyn AuditSink) -> Result<(), AuditError> {
        self.root.verify()?;
        let unreadable = |errno: Errno| AuditError::Unreadable {
            path: self.root.path().into(),
            source: errno.into(),
        };
        let device = rustix::fs::fstat(self.root.dir()).map_err(unreadable)?.st_dev;
        let dir = self.root.open_dir(None).map_err(unreadable)?;
        let names = list(&dir).map_err(unreadable)?;
        let known: Box<dyn Iterator<Item = KnownEntry> + '_> = match after.cloned() {
            None => self.known.under(None),
            Some(after) => Box::new(self.known.under(None).filter(move |one| one.key > after)),
        };
        let mut expected = known.peekable();
        let mut walk = Walk { audit: self, device, after, sink, buffer: Vec::new() };
        walk.directory(&dir, None, names, &mut expected)?;
        expected.try_for_each(|entry| walk.missing(&entry))
    }

    /// Reads what stands under one key, and says how it differs from the record.
    pub fn one(&self, key: &Key) -> Option<Discord> {
        let known = self.known.get(key).filter(|entry| entry.kind.is_live());
        let mut quiet = Quiet;
        let device = rustix::fs::fstat(self.root.dir()).map_or(0, |stat| stat.st_dev);
        let mut walk =
            Walk { audit: self, device, after: None, sink: &mut quiet, buffer: Vec::new() };
        let found = match self.root.open_parent(key) {
            Ok(parent) => {
                let looked = walk.look(parent.as_fd(), key, None, known.as_ref());
                looked.map_or(Found::Changing, |(it, _)| it)
            }
            Err(errno) if proves_absence(errno) => Found::Absent,
            Err(errno) => Found::Unreadable(errno.to_string()),
        };
        judge(key, found, known.as_ref())
    }
}

/// A sink for one key.
struct Quiet;

impl AuditSink for Quiet {
    fn read(&mut self, _: &Key, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn passed(&mut self, _: &Key) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn differs(&mut self, _: Discord) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// One walk under way.
struct Walk<'a> {
    audit: &'a Audit<'a>,
    device: u64,
    after: Option<&'a Key>,
    sink: &'a mut dyn AuditSink,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    /// Visits the names of an open directory in order.
    fn directory(
        &mut self,
        dir: &OwnedFd,
        key: Option<&Key>,
        names: Vec<(Vec<u8>, FileType)>,
        expected: &mut Expected<'_>,
    ) -> Result<(), AuditError> {
        for (name, hint) in names {
            let Ok(name) = std::str::from_utf8(&name) else { continue };
            // What cannot be a key is no entry; the scan lists it among the problems.
            let Ok(child) = key.map_or_else(|| Key::new(name), |key| key.join(name)) else {
                continue;
            };
            self.visit(dir.as_fd(), &child, hint, expected)?;
        }
        Ok(())
    }

    fn visit(
        &mut self,
        dir: BorrowedFd<'_>,
        key: &Key,
        hint: FileType,
        expected: &mut Expected<'_>,
    ) -> Result<(), AuditError> {
        let is_dir = hint == FileType::Directory;
        let done = self.after.is_some_and(|after| key <= after);
        let leads_on = self.after.is_some_and(|after| after == key || after.is_inside(key));
        // Of what was looked at before, only directories lead to something that was not.
        if done && !(leads_on && (is_dir || hint == FileType::Unknown)) {
            return Ok(());
        }
        while let Some(skipped) = expected.next_if(|entry| entry.key < *key) {
            self.missing(&skipped)?;
        }
        let known = expected.next_if(|entry| entry.key == *key);
        if self.audit.rules.ignores_itself(key.as_str(), is_dir) {
            while expected.next_if(|entry| entry.key.is_inside(key)).is_some() {}
            return Ok(());
        }
        let (found, opened) = self.look(dir, key, Some(hint), known.as_ref())?;
        if matches!(found, Found::Unreadable(_)) {
            while expected.next_if(|entry| entry.key.is_inside(key)).is_some() {}
        }
        if !done {
            self.tell(key, found, known.as_ref())?;
        }
        if let Some((dir, names)) = opened {
            self.directory(&dir, Some(key), names, expected)?;
        }
        while let Some(skipped) = expected.next_if(|entry| entry.key.is_inside(key)) {
            self.missing(&skipped)?;
        }
        Ok(())
    }

    fn tell(
        &mut self,
        key: &Key,
        found: Found,
        known: Option<&KnownEntry>,
    ) -> Result<(), AuditError> {
        if let Some(discord) = judge(key, found, known) {
            Step::from(self.sink.differs(discord)).0?;
        }
        Step::from(self.sink.passed(key)).0
    }

    /// The walk did not meet it; looked for by its own name before it counts as absent.
    fn missing(&mut self, entry: &KnownEntry) -> Result<(), AuditError> {
        let is_dir = matches!(entry.kind, EntryKind::Directory { .. });
        if self.audit.rules.ignores(&entry.key, is_dir) {
            return Ok(());
        }
        let found = match self.audit.root.open_parent(&entry.key) {
            Ok(parent) => self.look(parent.as_fd(), &entry.key, None, Some(entry))?.0,
            Err(errno) if proves_absence(errno) => Found::Absent,
            Err(errno) => Found::Unreadable(errno.to_string()),
        };
        self.tell(&entry.key, found, Some(entry))
    }

    /// What stands under a name, read to its last byte; with what a directory holds.
    fn look(
        &mut self,
        dir: BorrowedFd<'_>,
        key: &Key,
        hint: Option<FileType>,
        known: Option<&KnownEntry>,
    ) -> Result<(Found, Option<Listing>), AuditError> {
        let looked = match self.class(dir, key, hint) {
            Ok(Class::File) => return Ok((self.file(dir, key, known)?, None)),
            Ok(Class::Directory) => return Ok(self.opened(dir, key)),
            Ok(Class::Symlink) => link(dir, key),
            Ok(Class::Special) => Ok(Found::Unreadable("it is a device, FIFO or socket".into())),
            Err(errno) => Err(errno),
        };
        Ok((looked.unwrap_or_else(not_found), None))
    }

    fn class(
        &self,
        dir: BorrowedFd<'_>,
        key: &Key,
        hint: Option<FileType>,
    ) -> Result<Class, Errno> {
        match hint {
            Some(FileType::RegularFile) => Ok(Class::File),
            Some(FileType::Directory) => Ok(Class::Directory),
            Some(FileType::Symlink) => Ok(Class::Symlink),
            _ => {
                let stat = rustix::fs::statat(dir, key.name(), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(Class::of(&stat))
            }
        }
    }

    fn opened(&self, dir: BorrowedFd<'_>, key: &Key) -> (Found, Option<Listing>) {
        let opened = open_beneath(dir, key.name(), OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|dir| Ok((rustix::fs::fstat(&dir)?, list(&dir)?, dir)));
        match opened {
            Ok((stat, ..)) if stat.st_dev != self.device => {
                (Found::Unreadable("another file system is mounted here".into()), None)
            }
            Ok((stat, names, dir)) => {
                let print = StatPrint::of(&stat);
                let kind = EntryKind::Directory { mode: print.mode };
                (Found::State(kind, print), Some((dir, names)))
            }
            Err(errno) => (not_found(errno), None),
        }
    }

    /// Reads a file between two looks at its print. What is as recorded needs no second look: nobody
    /// writes the very bytes by chance.
    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        key: &Key,
        known: Option<&KnownEntry>,
    ) -> Result<Found, AuditError> {
        let file = match open_beneath(dir, key.name(), OFlags::RDONLY) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Found::Changing),
            Err(errno) => return Ok(not_found(errno)),
        };
        let print =
            || rustix::fs::fstat(&file).map(|stat| (StatPrint::of(&stat), Class::of(&stat)));
        let before = match print() {
            Ok((print, Class::File)) => print,
            Ok(_) => return Ok(Found::Changing),
            Err(errno) => return Ok(not_found(errno)),
        };
        if before.size > CONTENT_BYTES_MAX {
            return Ok(Found::Unreadable("it is larger than what is synced".into()));
        }
        if self.audit.from_disk {
            // Where it cannot be dropped, the cache is what there is.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        let content = match self.hash(&file, key, before.size)? {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(Found::Changing),
            Err(error) => return Ok(Found::Unreadable(error.to_string())),
        };
        let StatPrint { size, mode, mtime, .. } = before;
        let kind = EntryKind::File { size, content, mode, mtime };
        if known.is_some_and(|known| known.kind == kind) {
            return Ok(Found::State(kind, before));
        }
        Ok(match print() {
            Ok((after, _)) if after == before => Found::State(kind, before),
            Ok(_) => Found::Changing,
            Err(errno) => not_found(errno),
        })
    }

    /// The hash of the first `size` bytes; `None` when there are fewer.
    #[allow(clippy::type_complexity)]
    fn hash(
        &mut self,
        file: &File,
        key: &Key,
        size: u64,
    ) -> Result<io::Result<Option<ContentHash>>, AuditError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BYTES, 0);
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let wanted = (size - at).min(READ_BYTES as u64) as usize;
            match read_full(file, at, &mut buffer[..wanted]) {
                Ok(read) if read == wanted => {}
                Ok(_) => return Ok(Ok(None)),
                Err(error) => return Ok(Err(error)),
            }
            hasher.update(&buffer[..wanted]);
            at += wanted as u64;
            Step::from(self.sink.read(key, wanted as u64)).0?;
        }
        self.buffer = buffer;
        Ok(Ok(Some(ContentHash::from_bytes(*hasher.finalize().as_bytes()))))
    }
}

/// An open directory and the names in it, with what they seem to be.
type Listing = (OwnedFd, Vec<(Vec<u8>, FileType)>);

/// The names in a directory, sorted by their bytes, which is key order.
fn list(dir: &OwnedFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push((name.to_vec(), entry.file_type())),
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}

fn link(dir: BorrowedFd<'_>, key: &Key) -> Result<Found, Errno> {
    let look = || rustix::fs::statat(dir, key.name(), AtFlags::SYMLINK_NOFOLLOW);
    let print = StatPrint::of(&look()?);
    let target = rustix::fs::readlinkat(dir, key.name(), Vec::new())?;
    let Ok(target) = target.into_string() else {
        return Ok(Found::Unreadable("the target of this link is not UTF-8".into()));
    };
    let stands = StatPrint::of(&look()?) == print;
    let kind = EntryKind::Symlink { target, mtime: print.mtime };
    Ok(if stands { Found::State(kind, print) } else { Found::Changing })
}

fn not_found(errno: Errno) -> Found {
    match errno {
        errno if proves_absence(errno) => Found::Absent,
        errno => Found::Unreadable(errno.to_string()),
    }
}

/// How what was found differs from what was recorded; `None` when it does not.
fn judge(key: &Key, found: Found, known: Option<&KnownEntry>) -> Option<Discord> {
    let cause = match (&found, known) {
        (Found::Absent, None) => return None,
        (Found::Unreadable(_), None) => return None,
        (Found::Unreadable(_), Some(_)) => DiscordCause::Unreadable,
        (Found::State(kind, _), Some(known)) if *kind == known.kind => return None,
        (Found::State(kind, print), Some(known)) => cause_of(kind, print, known),
        (Found::Changing | Found::Absent, _) | (Found::State(..), None) => DiscordCause::Edit,
    };
    Some(Discord { key: key.clone(), found, cause })
}

fn cause_of(kind: &EntryKind, print: &StatPrint, known: &KnownEntry) -> DiscordCause {
    let Some(recorded) = known.print else { return DiscordCause::Edit };
    let same_file =
        recorded.ino == print.ino && recorded.size == print.size && recorded.mtime == print.mtime;
    let agrees = match &known.kind {
        EntryKind::File { size, mode, mtime, .. } => {
            *size == recorded.size && *mode == recorded.mode && *mtime == recorded.mtime
        }
        EntryKind::Symlink { mtime, .. } => *mtime == recorded.mtime,
        EntryKind::Directory { mode } => *mode == recorded.mode,
        EntryKind::Tombstone => false,
    };
    let same_class = std::mem::discriminant(kind) == std::mem::discriminant(&known.kind);
    let is_file = matches!(kind, EntryKind::File { .. });
    match (same_file, *print == recorded) {
        (_, true) if !agrees || !same_class || !is_file => DiscordCause::Record,
        (true, true) => DiscordCause::Rot,
        (true, false) if same_class && is_file && !kind.same_content(&known.kind) => {
            DiscordCause::Hidden
        }
        _ => DiscordCause::Edit,
    }
}
