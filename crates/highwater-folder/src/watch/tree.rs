//! The directories that are watched, and those that could not be, which are tried again.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_core::Key;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use super::dirty::Dirty;
use super::{RETRY_MAX, RETRY_MIN};
use crate::ignore::IgnoreRules;
use crate::print::Class;
use crate::problem::{Problem, ProblemKind};
use crate::root::{Root, open_beneath, proves_absence};

/// The watches of one share, by number and by directory.
pub(super) struct WatchedTree {
    pub(super) root: Arc<Root>,
    rules: Arc<IgnoreRules>,
    pub(super) inotify: Arc<OwnedFd>,
    /// `None` is the root.
    pub(super) dirs: HashMap<i32, Option<Key>>,
    numbers: BTreeMap<Key, i32>,
    /// Not all could be watched, which was said once; when it is tried again.
    pub(super) retry: Option<Retry>,
    pub(super) trouble: Option<Problem>,
}

#[derive(Clone, Copy)]
pub(super) struct Retry {
    pub(super) at: Instant,
    wait: Duration,
}

impl Retry {
    fn after(wait: Duration) -> Self {
        Self { at: Instant::now() + wait, wait }
    }
}

impl WatchedTree {
    pub(super) fn new(root: Arc<Root>, rules: Arc<IgnoreRules>) -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut tree = Self {
            root,
            rules,
            inotify: Arc::new(inotify),
            dirs: HashMap::new(),
            numbers: BTreeMap::new(),
            retry: None,
            trouble: None,
        };
        let dir = tree.root.open_dir(None)?;
        tree.add(None, &dir)?;
        Ok(tree)
    }

    /// After lost events nobody knows which directory a watch is on: all are made anew.
    pub(super) fn start_over(&mut self) {
        match WatchedTree::new(Arc::clone(&self.root), Arc::clone(&self.rules)) {
            Ok(tree) => {
                let retry = self.retry;
                *self = WatchedTree { retry, ..tree };
                self.watch(None);
            }
            Err(errno) => self.degrade(errno),
        }
    }

    /// Watches the whole tree anew, and takes that over if nothing is missing. Whether it did.
    pub(super) fn try_again(&mut self) -> bool {
        let anew = WatchedTree::new(Arc::clone(&self.root), Arc::clone(&self.rules));
        if let Ok(mut tree) = anew {
            tree.watch(None);
            if tree.retry.is_none() {
                *self = tree;
                return true;
            }
        }
        let wait = self.retry.map_or(RETRY_MIN, |retry| retry.wait);
        self.retry = Some(Retry::after((wait * 2).min(RETRY_MAX)));
        false
    }

    /// Watches a directory and all those below it.
    pub(super) fn watch(&mut self, top: Option<Key>) {
        let mut to_do = vec![top];
        while let Some(key) = to_do.pop() {
            let watched = self.root.open_dir(key.as_ref()).and_then(|dir| {
                self.add(key.as_ref(), &dir)?;
                Ok(dir)
            });
            let dir = match watched {
                Ok(dir) => dir,
                // Gone by now, closed to us, or a mount: not watched, and reported by the scan.
                Err(errno) if proves_absence(errno) => continue,
                Err(Errno::ACCESS | Errno::XDEV) => continue,
                Err(errno) => return self.degrade(errno),
            };
            // Listed after the watch began, so a directory made in between is not missed.
            to_do.extend(self.directories_in(key.as_ref(), &dir).into_iter().map(Some));
        }
    }

    fn add(&mut self, key: Option<&Key>, dir: &OwnedFd) -> Result<(), Errno> {
        let mut flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        if key.is_none() {
            flags |= WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        }
        // There is no call that takes a descriptor. This path leads through ours, and its last
        // component is a plain directory, so no link in the share is ever followed.
        let path = format!("/proc/self/fd/{}/.", dir.as_raw_fd());
        let number = inotify::add_watch(&self.inotify, path.as_str(), flags)?;
        self.dirs.insert(number, key.cloned());
        if let Some(key) = key {
            self.numbers.insert(key.clone(), number);
        }
        Ok(())
    }

    fn directories_in(&self, key: Option<&Key>, dir: &OwnedFd) -> Vec<Key> {
        let mut found = Vec::new();
        // What cannot be listed is not watched; the scan reports it.
        for entry in Dir::read_from(dir).into_iter().flatten().map_while(Result::ok) {
            if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                continue;
            }
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(child) = key.map_or_else(|| Key::new(name), |key| key.join(name)) else {
                continue;
            };
            if !self.rules.ignores_itself(child.as_str(), true) {
                found.push(child);
            }
        }
        found
    }

    /// Takes the watches off a directory and all those below it: they keep their old names after
    /// it was moved.
    fn unwatch(&mut self, top: &Key) {
        let below: Vec<i32> = self
            .numbers
            .range(top.clone()..)
            .take_while(|(key, _)| *key == top || key.is_inside(top))
            .map(|(_, &number)| number)
            .collect();
        for number in below {
            // A directory that was deleted has lost its watch already.
            let _ = inotify::remove_watch(&self.inotify, number);
            self.forget(number);
        }
    }

    pub(super) fn forget(&mut self, number: i32) {
        if let Some(Some(key)) = self.dirs.remove(&number)
            && self.numbers.get(&key) == Some(&number)
        {
            self.numbers.remove(&key);
        }
    }

    fn degrade(&mut self, errno: Errno) {
        if self.retry.is_some() {
            return;
        }
        self.retry = Some(Retry::after(RETRY_MIN));
        let message = format!(
            "cannot watch every directory ({errno}); changes there are found by regular scans \
             only, until there is room: raise fs.inotify.max_user_watches or the limit of open files"
        );
        self.trouble = Some(Problem::new("", ProblemKind::WatchLimit, message));
    }

    /// One event of an entry: what it does to the watches, and when it is hinted at.
    pub(super) fn take_in(&mut self, key: &Key, flags: ReadFlags, dirty: &mut Dirty) {
        let is_dir = flags.contains(ReadFlags::ISDIR);
        // The watched directory itself is not ignored, or it would not be watched.
        if self.rules.ignores_itself(key.as_str(), is_dir) {
            return;
        }
        let now = Instant::now();
        if is_dir {
            if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
                self.unwatch(key);
            }
            if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                self.unwatch(key);
                self.watch(Some(key.clone()));
            }
            // It may have been closed to us, and so not watched, until now.
            if flags.contains(ReadFlags::ATTRIB) && !self.numbers.contains_key(key) {
                self.watch(Some(key.clone()));
            }
            return dirty.finished(key, now);
        }
        let finished = ReadFlags::CLOSE_WRITE
            | ReadFlags::MOVED_FROM
            | ReadFlags::MOVED_TO
            | ReadFlags::DELETE
            | ReadFlags::ATTRIB;
        if flags.intersects(finished) {
            dirty.finished(key, now);
        } else if flags.contains(ReadFlags::CREATE) && self.awaits_close(key) {
            dirty.created(key, now);
        } else if flags.contains(ReadFlags::CREATE) {
            dirty.finished(key, now);
        } else {
            dirty.written(key, now);
        }
    }

    /// Whether what was just created is a file that somebody is about to write. A hard link and a
    /// symbolic link are complete as they are.
    fn awaits_close(&self, key: &Key) -> bool {
        let parent = key.parent();
        let path = parent.as_ref().map_or(".", Key::as_str);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let stat = open_beneath(self.root.dir().as_fd(), path, flags)
            .and_then(|dir| rustix::fs::statat(dir, key.name(), AtFlags::SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| Class::of(&stat) == Class::File && stat.st_nlink == 1)
    }
}
