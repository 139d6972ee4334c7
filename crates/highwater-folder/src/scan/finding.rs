//! What a scan is told, and what it tells.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use highwater_core::{EntryKind, Key, Manifest};

use crate::print::StatPrint;
use crate::problem::Problem;
use crate::root::RootError;

/// What the index knows of a share. Implemented by whoever keeps the index.
pub trait Known {
    /// The entry under `key`.
    fn get(&self, key: &Key) -> Option<KnownEntry>;
    /// The live entries inside the directory `dir` at any depth, not `dir` itself, in key order;
    /// `None` for the whole share.
    fn under(&self, dir: Option<&Key>) -> Box<dyn Iterator<Item = KnownEntry> + '_>;
}

/// One entry of the index, as far as a scan needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownEntry {
    /// Its key.
    pub key: Key,
    /// What the index says stands there.
    pub kind: EntryKind,
    /// Its print when that was last read; `None` when it must be read again.
    pub print: Option<StatPrint>,
}

/// Which part of a share to scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All of it.
    Whole,
    /// These paths, each with everything below it. They may be files, directories or gone.
    Paths(BTreeSet<Key>),
}

impl Scope {
    /// Whether a scan of it looks at this key.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Scope::Whole => true,
            Scope::Paths(paths) => std::iter::successors(Some(key.clone()), Key::parent)
                .any(|key| paths.contains(&key)),
        }
    }
}

/// What stands under a key now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    /// The key.
    pub key: Key,
    /// What stands there.
    pub kind: EntryKind,
    /// Its print.
    pub print: StatPrint,
    /// The chunks of a file larger than [`SMALL_BYTES_MAX`](highwater_core::SMALL_BYTES_MAX).
    pub manifest: Option<Manifest>,
}

/// One difference between the share and the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Something new, or other than the index says.
    Changed(Observation),
    /// Other bytes than the index says, under the same inode, size and modification time: whoever
    /// edits moves one of them. The disk, or something that hides its traces, changed it.
    Altered(Observation),
    /// All as the index says, only the print is another.
    Touched {
        /// The key.
        key: Key,
        /// Its print now.
        print: StatPrint,
    },
    /// Nothing stands there any more. Comes after all other findings, children before parents.
    Gone(Key),
    /// It cannot be synced, or not now. What the index says of it, and of what is below, stays.
    Problem(Problem),
}

/// How far a scan is, for whoever watches it from another thread.
#[derive(Debug, Default)]
pub struct ScanProgress {
    /// Files whose content was read.
    pub files_hashed: AtomicU64,
    /// Bytes of content read.
    pub bytes_hashed: AtomicU64,
    cancelled: AtomicBool,
}

impl ScanProgress {
    /// Makes the scan stop soon. What it found so far remains true.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn goes_on(&self) -> ControlFlow<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// What a finished scan met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanSummary {
    /// Entries found as the index says, not even touched.
    pub unchanged: u64,
    /// [`Finding::Changed`] and [`Finding::Altered`] reported.
    pub changed: u64,
    /// [`Finding::Touched`] reported.
    pub touched: u64,
    /// [`Finding::Gone`] reported.
    pub gone: u64,
    /// [`Finding::Problem`] reported.
    pub problems: u64,
}

/// Why a scan ended before its end. Nothing was reported as gone.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The share's root cannot be trusted.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root itself cannot be listed.
    #[error("cannot list the folder {}: {source}; correct its permissions or check the disk", path.display())]
    Unreadable {
        /// The share's root.
        path: std::path::PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Someone called [`ScanProgress::cancel`], or the receiver of the findings wants no more.
    #[error("the scan was stopped before its end; the next one starts over")]
    Stopped,
}
