//! Brings content into the stage of one share.
//!
//! The share says which contents it wants; each comes back as a staged slot, whole and verified, or
//! with the reason why not. Contents that stand elsewhere in the share are copied; small ones are
//! asked for in bulk (`smalls.rs`); large ones chunk by chunk, from every peer that has them
//! (`large.rs`). Which peers are connected comes in through a watch: when one goes, what it owed is
//! asked of the others.
//!
//! Nothing here decides what is wanted, and nothing here touches a name that users see.

pub(crate) mod copy;
pub(crate) mod large;
pub(crate) mod smalls;
pub(crate) mod source;
pub(crate) mod transfer;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_core::{ContentHash, Key, Manifest, SMALL_BYTES_MAX, ShareName};
use highwater_folder::{Root, Slot};
use highwater_store::{ShareNumber, Store};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::counters::Counters;
use crate::share::catalogue::Catalogue;
use source::Source;
use transfer::Transfers;

/// Large contents in flight at once, for each share. Each may hold a window of bytes in memory.
const LARGE_MAX: usize = 8;

/// What a share wants to have staged.
#[derive(Debug)]
pub(crate) enum Job {
    /// A content of any size, from peers.
    Fetch { content: ContentHash, size: u64, key: Key },
    /// Contents that stand in the share already, or are empty.
    Copy(Vec<copy::Copy>),
    /// A content is not wanted any more.
    Forget(ContentHash),
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The content lies in the stage.
    Staged(Staged),
    /// It could not be staged now. What was staged of it stays.
    Failed { content: ContentHash, why: FetchError },
}

/// A content in the stage, verified.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) content: ContentHash,
    pub(crate) slot: Slot,
    /// Its chunks, where it is large enough to have some.
    pub(crate) manifest: Option<Arc<Manifest>>,
    /// Keeps the transfer of a large content on show until it is in place.
    #[expect(dead_code, reason = "held for what its drop does")]
    pub(crate) transfer: Option<transfer::Shown>,
}

/// Why a content is not staged.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FetchError {
    /// The file in the share was not what the index says; try another, or ask a peer.
    #[error("{0} changed while it was copied within the share")]
    SourceChanged(Key),
    /// No peer that is connected has it now.
    #[error("no connected peer has this content")]
    Unavailable,
    /// The disk has no room for it.
    #[error("{0}")]
    NoRoom(String),
    /// The disk, the store, or the stage failed.
    #[error("{0}")]
    Local(String),
    /// What the peers call by this hash is something else.
    #[error("the chunks that a peer named do not make up this content")]
    WrongManifest,
}

impl From<highwater_folder::StageError> for FetchError {
    fn from(error: highwater_folder::StageError) -> Self {
        match error {
            highwater_folder::StageError::NoRoom { .. } => FetchError::NoRoom(error.to_string()),
            other => FetchError::Local(other.to_string()),
        }
    }
}

impl From<writer::WriteError> for FetchError {
    fn from(error: writer::WriteError) -> Self {
        match error {
            writer::WriteError::Stage(error) => error.into(),
            other => FetchError::Local(other.to_string()),
        }
    }
}

/// What every fetch of a share needs.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) share: ShareName,
    pub(crate) number: ShareNumber,
    pub(crate) root: Arc<Root>,
    pub(crate) store: Arc<Store>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) slots: Arc<SlotNumbers>,
    pub(crate) sources: watch::Receiver<Vec<Arc<Source>>>,
    pub(crate) outcomes: mpsc::Sender<Vec<Fetched>>,
}

/// Gives out the numbers of fresh slots.
#[derive(Debug, Default)]
pub(crate) struct SlotNumbers(AtomicU64);

impl SlotNumbers {
    pub(crate) fn next(&self) -> Slot {
        Slot::fresh(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Runs the jobs of one share until the share drops its end.
pub(crate) async fn run(ground: Ground, mut jobs: mpsc::Receiver<Job>) {
    let permits = Arc::new(Semaphore::new(LARGE_MAX));
    let (small, small_jobs) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut large: BTreeMap<ContentHash, AbortHandle> = BTreeMap::new();
    tasks.spawn(smalls::run(ground.clone(), small_jobs));
    while let Some(job) = jobs.recv().await {
        while tasks.try_join_next().is_some() {}
        large.retain(|_, task| !task.is_finished());
        match job {
            Job::Fetch { content, size, .. } if size <= SMALL_BYTES_MAX => {
                // The receiver lives as long as this task.
                let _ = small.send(smalls::Wish::Fetch(content, size));
            }
            Job::Fetch { content, size, key } => {
                let task = large::fetch(ground.clone(), Arc::clone(&permits), content, size, key);
                large.insert(content, tasks.spawn(task));
            }
            Job::Copy(copies) => {
                tasks.spawn(copy::run(ground.clone(), copies));
            }
            Job::Forget(content) => {
                let _ = small.send(smalls::Wish::Forget(content));
                if let Some(task) = large.remove(&content) {
                    task.abort();
                }
            }
        }
    }
    tasks.shutdown().await;
}
