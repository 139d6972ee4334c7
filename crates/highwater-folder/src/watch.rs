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

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_core::Key;
use highwater_core::key::KeyError;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{Event, ReadFlags, Reader};
use rustix::io::Errno;

use crate::ignore::IgnoreRules;
use crate::problem::Problem;
use crate::root::Root;

mod dirty;
mod tree;

use dirty::Dirty;
use tree::WatchedTree;

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
