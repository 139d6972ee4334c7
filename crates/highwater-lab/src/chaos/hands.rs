//! The hands of a client: changes of a folder that know exactly what they displaced.
//!
//! Whatever a client replaces or removes is exchanged with, or renamed into, a scratch directory
//! beside the folder, on the same file system, in one step; what came out is read there. So the
//! history knows what a client really displaced, whatever the product put in place a moment before.
//! A file that is written in place is read through the descriptor that it is written through, and
//! the path must still lead to it when it is written; otherwise nobody knows what became of it.
//!
//! Every step may fail, as on a full or vanished disk. Then nothing was changed, and nothing is
//! recorded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::history::{Change, Content, History};

/// How often a path that comes and goes is tried before a client leaves it alone.
const TRIES_MAX: usize = 8;

/// A client's access to one node's folder.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    pub(crate) node: usize,
    pub(crate) folder: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) history: Arc<History>,
}

/// A place in the history's order, taken before a step; the change is complete when it is used.
struct Step {
    op: u64,
    began: u64,
}

impl Hands {
    /// Puts a whole file under `path`, replacing what stands there.
    pub(crate) fn put(&self, path: &str, size: usize) -> io::Result<()> {
        let op = self.history.operation();
        let bytes = self.history.compose(op, self.node, path, size);
        self.put_bytes(op, path, &bytes)
    }

    /// Puts these bytes, already announced, under `path`.
    pub(crate) fn put_bytes(&self, op: u64, path: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.scratch(op);
        if let Err(error) = fs::write(&new, bytes) {
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        self.exchange(op, path, &new, Content::of(bytes))
    }

    /// Puts a symbolic link under `path`.
    pub(crate) fn put_link(&self, path: &str) -> io::Result<()> {
        let op = self.history.operation();
        let target = PathBuf::from(format!("nowhere {op}"));
        self.history.announce(Content::of_link(&target), op, None);
        let new = self.scratch(op);
        symlink(&target, &new)?;
        self.exchange(op, path, &new, Content::of_link(&target))
    }

    /// Exchanges `new` with what is under `path`, or puts it there if nothing is.
    fn exchange(&self, op: u64, path: &str, new: &Path, content: Content) -> io::Result<()> {
        let target = self.folder.join(path);
        let result = (0..TRIES_MAX).find_map(|_| {
            let step = self.begin(op);
            match rename(new, &target, RenameFlags::EXCHANGE) {
                Ok(()) => {
                    let ended = self.history.now();
                    return Some(content_at(new).map(|was| (step, ended, Some(was))));
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Some(Err(errno.into())),
            }
            let step = self.begin(op);
            match rename(new, &target, RenameFlags::NOREPLACE) {
                Ok(()) => Some(Ok((step, self.history.now(), None))),
                Err(Errno::EXIST) => None,
                Err(errno) => Some(Err(errno.into())),
            }
        });
        let result = result.unwrap_or_else(|| Err(Errno::AGAIN.into()));
        if let Ok((step, ended, was)) = &result {
            self.record(step, *ended, path, *was, Some(content), true);
        }
        let _ = fs::remove_file(new);
        result.map(drop)
    }

    /// Removes what is under `path`.
    pub(crate) fn take(&self, path: &str) -> io::Result<()> {
        let op = self.history.operation();
        let out = self.scratch(op);
        let step = self.begin(op);
        rename(&self.folder.join(path), &out, RenameFlags::NOREPLACE)?;
        let ended = self.history.now();
        let was = content_at(&out);
        let _ = fs::remove_file(&out);
        self.record(&step, ended, path, Some(was?), None, true);
        Ok(())
    }

    /// Moves a file to a path that is free.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let op = self.history.operation();
        let (source, target) = (self.folder.join(from), self.folder.join(to));
        let (inode, content) = (fs::symlink_metadata(&source)?.ino(), content_at(&source)?);
        let step = self.begin(op);
        rename(&source, &target, RenameFlags::NOREPLACE)?;
        let ended = self.history.now();
        let sure = fs::symlink_metadata(&target).is_ok_and(|found| found.ino() == inode);
        self.moved(&step, ended, (from, to), content, sure);
        Ok(())
    }

    /// Saves as editors do: a new file beside the old one, which then takes its name. With
    /// `backup`, the old one keeps a name too.
    pub(crate) fn save(&self, path: &str, size: usize, backup: Option<&str>) -> io::Result<()> {
        let op = self.history.operation();
        let new = format!("{path}.new{op}");
        self.put(&new, size)?;
        if let Some(backup) = backup {
            match self.take(backup) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            match self.rename(path, backup) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.swap(&new, path) {
            Ok(()) => self.take(&new),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.rename(&new, path),
            Err(error) => Err(error),
        }
    }

    /// Exchanges a file that only this client knows with another one.
    fn swap(&self, own: &str, path: &str) -> io::Result<()> {
        let op = self.history.operation();
        let (source, target) = (self.folder.join(own), self.folder.join(path));
        let content = content_at(&source)?;
        let step = self.begin(op);
        rename(&source, &target, RenameFlags::EXCHANGE)?;
        let ended = self.history.now();
        let was = content_at(&source)?;
        self.record(&step, ended, path, Some(was), Some(content), true);
        self.record(&step, ended, own, Some(content), Some(was), true);
        Ok(())
    }

    /// Moves a directory to a path that is free, with what is in it.
    pub(crate) fn rename_dir(&self, from: &str, to: &str) -> io::Result<()> {
        let op = self.history.operation();
        let before = self.inside(from)?;
        let step = self.begin(op);
        rename(&self.folder.join(from), &self.folder.join(to), RenameFlags::NOREPLACE)?;
        let ended = self.history.now();
        let after = self.inside(to)?;
        for (name, inode, content) in &before {
            let sure = after.iter().any(|(n, i, _)| (n, i) == (name, inode));
            let paths = (format!("{from}/{name}"), format!("{to}/{name}"));
            self.moved(&step, ended, (&paths.0, &paths.1), *content, sure);
        }
        for (name, inode, content) in &after {
            if !before.iter().any(|(n, i, _)| (n, i) == (name, inode)) {
                let paths = (format!("{from}/{name}"), format!("{to}/{name}"));
                self.moved(&step, ended, (&paths.0, &paths.1), *content, false);
            }
        }
        Ok(())
    }

    /// The files and links directly in a directory, with their inodes.
    fn inside(&self, dir: &str) -> io::Result<Vec<(String, u64, Content)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder.join(dir))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                return Err(Errno::ISDIR.into());
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            // What vanishes while it is listed was replaced; the second list tells.
            if let Ok(content) = content_at(&entry.path()) {
                found.push((name, entry.metadata()?.ino(), content));
            }
        }
        Ok(found)
    }

    fn moved(&self, step: &Step, ended: u64, paths: (&str, &str), content: Content, sure: bool) {
        self.record(step, ended, paths.0, Some(content), None, sure);
        self.record(step, ended, paths.1, None, Some(content), sure);
    }

    /// Empties a file and writes it anew in so many pieces, with pauses between them.
    pub(crate) fn write_in_place(
        &self,
        path: &str,
        size: usize,
        pieces: usize,
        pause: Duration,
    ) -> io::Result<()> {
        let op = self.history.operation();
        let bytes = self.history.compose_pieces(op, self.node, path, size);
        let target = self.folder.join(path);
        let step = self.begin(op);
        let (mut file, was) = open_or_create(&target)?;
        let result = refill(&mut file, &bytes, pieces, pause);
        let ended = self.history.now();
        let inode = file.metadata()?.ino();
        let there = fs::symlink_metadata(&target).is_ok_and(|found| found.ino() == inode);
        let sure = there && result.is_ok();
        self.record(&step, ended, path, was, Some(Content::of(&bytes)), sure);
        result
    }

    /// Replaces a part of a large file, by a new file in its place.
    pub(crate) fn patch(&self, path: &str, at: u64, length: usize) -> io::Result<()> {
        let op = self.history.operation();
        let mut bytes = fs::read(self.folder.join(path))?;
        let patch = self.history.compose(op, self.node, path, length);
        let room = bytes.len().saturating_sub(patch.len());
        let at = usize::try_from(at).unwrap_or(0) % (room + 1);
        let end = (at + patch.len()).min(bytes.len());
        bytes.splice(at..end, patch);
        self.history.announce(Content::of(&bytes), op, None);
        self.put_bytes(op, path, &bytes)
    }

    fn scratch(&self, op: u64) -> PathBuf {
        self.scratch.join(op.to_string())
    }

    fn begin(&self, op: u64) -> Step {
        Step { op, began: self.history.now() }
    }

    fn record(
        &self,
        step: &Step,
        ended: u64,
        path: &str,
        was: Option<Content>,
        now: Option<Content>,
        sure: bool,
    ) {
        let (node, path) = (self.node, path.to_owned());
        let (op, began) = (step.op, step.began);
        self.history.record(Change { op, node, path, was, now, sure, began, ended });
    }
}

/// A file to be written in place, and what it holds; nothing if it was created just now. One that a full
/// disk left empty holds an empty version.
fn open_or_create(path: &Path) -> io::Result<(File, Option<Content>)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    for _ in 0..TRIES_MAX {
        match options.create_new(false).open(path) {
            Ok(mut file) => {
                let mut old = Vec::new();
                file.read_to_end(&mut old)?;
                return Ok((file, Some(Content::of(&old))));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match options.create_new(true).open(path) {
            Ok(file) => return Ok((file, None)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::AGAIN.into())
}

fn refill(file: &mut File, bytes: &[u8], pieces: usize, pause: Duration) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    for piece in bytes.chunks(bytes.len().div_ceil(pieces.max(1)).max(1)) {
        file.write_all(piece)?;
        thread::sleep(pause);
    }
    Ok(())
}

/// The content of a file or link.
pub(crate) fn content_at(path: &Path) -> io::Result<Content> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(Content::of_link(&fs::read_link(path)?));
    }
    Ok(Content::of(&fs::read(path)?))
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_says_what_it_displaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [folder, scratch] = ["folder", "scratch"].map(|name| dir.path().join(name));
        for made in [&folder, &scratch] {
            fs::create_dir(made).expect("free");
        }
        let history = Arc::new(History::begin(1, &dir.path().join("log")).expect("writable"));
        let hands = Hands { node: 0, folder: folder.clone(), scratch, history };
        hands.put("a", 10).expect("free");
        let first = content_at(&folder.join("a")).expect("there");
        hands.put("a", 10).expect("there");
        let second = content_at(&folder.join("a")).expect("there");
        hands.rename("a", "b").expect("free");
        hands.write_in_place("b", 100, 3, Duration::ZERO).expect("there");
        let third = content_at(&folder.join("b")).expect("there");
        hands.take("b").expect("there");
        let steps: Vec<_> = hands
            .history
            .take_changes()
            .into_iter()
            .map(|change| (change.path, change.was, change.now))
            .collect();
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let expected = vec![
            (a.clone(), None, Some(first)),
            (a.clone(), Some(first), Some(second)),
            (a, Some(second), None),
            (b.clone(), None, Some(second)),
            (b.clone(), Some(second), Some(third)),
            (b, Some(third), None),
        ];
        assert_eq!(steps, expected);
    }
}
