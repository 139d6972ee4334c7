//! Hints that something changed, as soon as the kernel says so.
//!
//! A hint is never believed: it only says where to scan. So the watcher may say too much, and it
//! says "everything" as soon as it may have missed something: when the kernel's queue overflows, or
//! when more paths are dirty than it keeps count of.
//!
//! It asks the kernel (inotify) for the events that matter and no others; above all not for files
//! being opened, or scanning would wake the watcher. A file that was closed after writing, renamed,
//! removed or given other metadata is hinted at after [`GATHER`], so that what happens together is
//! scanned together. A file that stays open is hinted at when it has been quiet for [`QUIET`], and
//! every [`QUIET_MAX`] if it never is. A file that was only created waits for its close.
//!
//! A new directory is watched first and hinted at as a whole then, so what was put into it before
//! the watch began is found by the scan of it. So is one that could not be read until now. When the
//! kernel grants no more watches or files, the rest of the tree is left to the regular scans, and
//! that is said. All of the tree is tried again after [`RETRY_MIN`], and then less and less often.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_core::Key;
use highwater_core::key::KeyError;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use crate::ignore::IgnoreRules;
use crate::print::Class;
use crate::problem::{Problem, ProblemKind};
use crate::root::{Root, open_beneath, proves_absence};

/// How long a finished change waits for others. Also lets the file grow older than a tick of the
/// kernel's clock, so that the scan need not wait for that.
pub const GATHER: Duration = Duration::from_millis(10);
/// A file that is still open is read when it was not written for this long.
pub const QUIET: Duration = Duration::from_millis(500);
/// A file that is written all the time is read this often.
pub const QUIET_MAX: Duration = Duration::from_secs(2);
/// How long a created file waits for its close.
pub const CREATED_WAIT: Duration = Duration::from_secs(1);
/// Most dirty paths kept count of; beyond that their directories stand for them, and beyond that
/// the whole share does.
pub const DIRTY_MAX: usize = 4096;
/// When a tree that could not be watched as a whole is tried again. Files run out for a moment.
pub const RETRY_MIN: Duration = Duration::from_secs(5);
/// The longest wait until then: watches run out for good, and each try walks the tree.
pub const RETRY_MAX: Duration = Duration::from_secs(600);
/// Room for a few hundred events in one read.
const EVENT_BUFFER_BYTES: usize = 64 * 1024;

/// Where to scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hint {
    /// These paths, each with everything below it.
    Paths(BTreeSet<Key>),
    /// All of the share: something may have been missed.
    Everything,
    /// The root was removed, renamed or unmounted. No more hints come.
    RootGone,
    /// Not all of the share can be watched. Hints still come for the rest.
    Degraded(Problem),
    /// All of the share is watched again. It has to be scanned, and that is hinted at too.
    Restored,
}

/// Why a share cannot be watched. Scans find its changes all the same.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} for {}: {source}; changes are found by regular scans only", path.display())]
pub struct WatchError {
    attempt: &'static str,
    path: std::path::PathBuf,
    source: std::io::Error,
}

/// Watches one share until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to watch. When this returns, every change from now on leads to a hint. `on_hint` is
    /// called on the watcher's thread and holds up the next hint until it returns.
    ///
    /// # Errors
    /// [`WatchError`] when the kernel grants no watch at all.
    pub fn start(
        root: Arc<Root>,
        rules: Arc<IgnoreRules>,
        on_hint: Box<dyn Fn(Hint) + Send>,
    ) -> Result<Watcher, WatchError> {
        let path = root.path().to_owned();
        let fails = |attempt, source| WatchError { attempt, path: path.clone(), source };
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| fails("make a wake-up call", errno.into()))?;
        let stop = Arc::new(stop);
        let mut tree = WatchedTree::new(root, rules)
            .map_err(|errno| fails("ask the kernel for watches", errno.into()))?;
        tree.watch(None);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("highwater-watch".into())
            .spawn(move || Loop { tree, dirty: Dirty::default(), on_hint }.run(&stopped))
            .map_err(|source| fails("start a thread", source))?;
        Ok(Watcher { stop, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // An eventfd that cannot take this is already full, and so wakes the thread as well.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed where it happened.
            let _ = thread.join();
        }
    }
}

struct Loop {
    tree: WatchedTree,
    dirty: Dirty,
    on_hint: Box<dyn Fn(Hint) + Send>,
}

/// What one round of events asks for beyond dirty paths.
enum Next {
    GoOn,
    /// The queue overflowed.
    StartOver,
    RootGone,
}

impl Loop {
    fn run(mut self, stop: &OwnedFd) {
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        loop {
            if let Some(problem) = self.tree.trouble.take() {
                (self.on_hint)(Hint::Degraded(problem));
            }
            let retry = self.tree.retry.map(|retry| retry.at);
            if !wait(&self.tree.inotify, stop, self.dirty.deadline().into_iter().chain(retry).min())
            {
                return;
            }
            if retry.is_some_and(|at| at <= Instant::now()) && self.tree.try_again() {
                self.dirty.everything(Instant::now());
                (self.on_hint)(Hint::Restored);
            }
            match self.read_events(&mut buffer) {
                Next::GoOn => {}
                Next::StartOver => {
                    self.tree.start_over();
                    self.dirty.everything(Instant::now());
                }
                Next::RootGone => return (self.on_hint)(Hint::RootGone),
            }
            if let Some(hint) = self.dirty.take_due(Instant::now()) {
                (self.on_hint)(hint);
            }
        }
    }

    /// Takes in what the kernel hands out in one read. Reading on until nothing is left would hold
    /// up the hints for as long as a storm lasts.
    fn read_events(&mut self, buffer: &mut [MaybeUninit<u8>]) -> Next {
        let mut reader = Reader::new(Arc::clone(&self.tree.inotify), buffer);
        loop {
            let next = match reader.next() {
                Ok(event) => self.take_in(&event),
                Err(Errno::AGAIN | Errno::INTR) => return Next::GoOn,
                Err(_) => Next::StartOver,
            };
            if !matches!(next, Next::GoOn) || reader.is_buffer_empty() {
                return next;
            }
        }
    }

    fn take_in(&mut self, event: &Event<'_>) -> Next {
        let Self { tree, dirty, .. } = self;
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Next::StartOver;
        }
        let Some(dir) = tree.dirs.get(&event.wd()).cloned() else { return Next::GoOn };
        let self_gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
        if dir.is_none() && flags.intersects(self_gone | ReadFlags::IGNORED) {
            return Next::RootGone;
        }
        if flags.contains(ReadFlags::IGNORED) {
            tree.forget(event.wd());
        }
        let Some(Ok(name)) = event.file_name().map(|name| name.to_str()) else {
            return Next::GoOn;
        };
        match dir.map_or_else(|| Key::new(name), |dir| dir.join(name)) {
            Ok(key) => tree.take_in(&key, flags, dirty),
            // The kernel says nothing of a removed directory that is still open, as the root is;
            // but our own directory in it goes first.
            Err(KeyError::Reserved) if tree.root.verify().is_err() => return Next::RootGone,
            // Not to be synced; a scan reports it.
            Err(_) => {}
        }
        Next::GoOn
    }
}

/// Waits for events, the deadline or the end; answers whether to go on.
fn wait(inotify: &OwnedFd, stop: &OwnedFd, deadline: Option<Instant>) -> bool {
    let timeout = deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    let mut fds = [PollFd::new(inotify, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    // An interrupted wait is a short one.
    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    fds[1].revents().is_empty()
}

/// The watches of one share, by number and by directory.
struct WatchedTree {
    root: Arc<Root>,
    rules: Arc<IgnoreRules>,
    inotify: Arc<OwnedFd>,
    /// `None` is the root.
    dirs: HashMap<i32, Option<Key>>,
    numbers: BTreeMap<Key, i32>,
    /// Not all could be watched, which was said once; when it is tried again.
    retry: Option<Retry>,
    trouble: Option<Problem>,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Retry {
    fn after(wait: Duration) -> Self {
        Self { at: Instant::now() + wait, wait }
    }
}

impl WatchedTree {
    fn new(root: Arc<Root>, rules: Arc<IgnoreRules>) -> Result<Self, Errno> {
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
    fn start_over(&mut self) {
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
    fn try_again(&mut self) -> bool {
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
    fn watch(&mut self, top: Option<Key>) {
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

    fn forget(&mut self, number: i32) {
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
    fn take_in(&mut self, key: &Key, flags: ReadFlags, dirty: &mut Dirty) {
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

/// What is dirty, and when it is hinted at.
#[derive(Default)]
struct Dirty {
    paths: BTreeMap<Key, Due>,
    /// When set, everything is dirty.
    everything: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Due {
    since: Instant,
    at: Instant,
}

impl Dirty {
    /// A change that is complete.
    fn finished(&mut self, key: &Key, now: Instant) {
        self.put(key, |due| Due {
            at: due.map_or(now + GATHER, |due| due.at.min(now + GATHER)),
            since: now,
        });
    }

    /// A new file that somebody is about to write.
    fn created(&mut self, key: &Key, now: Instant) {
        self.put(key, |due| due.unwrap_or(Due { since: now, at: now + CREATED_WAIT }));
    }

    /// A file that was written and is still open.
    fn written(&mut self, key: &Key, now: Instant) {
        self.put(key, |due| {
            let since = due.map_or(now, |due| due.since);
            let quiet = (now + QUIET).min(since + QUIET_MAX);
            // A complete change that waits already is not held up.
            let at = match due {
                Some(due) if due.at <= now + GATHER => due.at,
                _ => quiet,
            };
            Due { since, at }
        });
    }

    fn everything(&mut self, now: Instant) {
        self.paths.clear();
        self.everything.get_or_insert(now + GATHER);
    }

    fn put(&mut self, key: &Key, next: impl FnOnce(Option<Due>) -> Due) {
        if self.everything.is_some() {
            return;
        }
        let due = next(self.paths.get(key).copied());
        self.paths.insert(key.clone(), due);
        if self.paths.len() > DIRTY_MAX {
            self.collapse(due.since);
        }
    }

    /// Lets directories stand for what is in them; the root for them when they are too many, too.
    fn collapse(&mut self, now: Instant) {
        let dirs: Option<BTreeSet<Key>> = self.paths.keys().map(Key::parent).collect();
        match dirs {
            Some(dirs) if dirs.len() <= DIRTY_MAX / 2 => {
                let due = Due { since: now, at: now + GATHER };
                self.paths = dirs.into_iter().map(|dir| (dir, due)).collect();
            }
            _ => self.everything(now),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.paths.values().map(|due| due.at).chain(self.everything).min()
    }

    fn take_due(&mut self, now: Instant) -> Option<Hint> {
        if self.everything.is_some_and(|at| at <= now) {
            self.everything = None;
            return Some(Hint::Everything);
        }
        let due: BTreeSet<Key> = self
            .paths
            .iter()
            .filter(|(_, due)| due.at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        self.paths.retain(|key, _| !due.contains(key));
        (!due.is_empty()).then_some(Hint::Paths(due))
    }
}
