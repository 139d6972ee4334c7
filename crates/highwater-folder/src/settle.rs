//! Making things durable, many at a time.
//!
//! A sync costs the same for one file as for a hundred. A few files are synced each for itself;
//! from [`SYNCFS_FROM`] on, one `syncfs` takes them all. It also takes everything else that is dirty
//! on that file system, so where others write heavily it is slow: then each is synced for itself
//! until that has taken as long, [`SYNCS_AT_ONCE`] at a time, because one commit of a journal serves
//! all who wait for it. So neither way costs more than twice what the better one would have.
//!
//! That goes for what Highwater writes, and for what it finds: nothing that a scan found is told to
//! anybody before it is durable.
//!
//! After a failed sync nobody knows what is on the disk, and a second try may well succeed without
//! having written anything. A root on which a sync has failed refuses to sync until it is reopened.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use highwater_core::Key;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::{Root, open_beneath, proves_absence};
use crate::stage::{Slot, StageError};

/// From this many files on, one `syncfs` is cheaper than as many `fsync`s.
pub const SYNCFS_FROM: usize = 16;
/// Syncs that wait for the disk together: a quarter of what a cheap disk queues. Each is a thread as
/// long as there is something to sync.
pub const SYNCS_AT_ONCE: usize = 8;
/// Fewer are synced on the thread that asks: starting others would take as long.
const SYNCS_ALONE: usize = 4;
/// A `syncfs` that took longer wrote other people's data too.
const SYNCFS_SLOW: Duration = Duration::from_millis(500);

/// Why what was written is not known to be durable.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// A sync failed, now or earlier. Acknowledge nothing more until the root was reopened and
    /// what is staged was verified.
    #[error("cannot sync {what}: {source}; check the disk, then restart")]
    SyncFailed {
        /// What was synced.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that was to be made durable could not be opened. Nothing else is affected.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// How syncing on one root has gone so far.
#[derive(Debug, Default)]
pub(crate) struct SyncHealth {
    failed: AtomicBool,
    /// What the last `syncfs` cost, in microseconds, if it was slow, less what was synced one by one
    /// since: as long as something is left of it, another is not worth it.
    owed: AtomicU64,
}

impl Root {
    /// Makes the bytes and metadata of staged files durable, and that they are in the stage.
    ///
    /// # Errors
    /// [`SettleError::SyncFailed`] is final for this root.
    pub fn settle_files(&self, slots: &[Slot]) -> Result<(), SettleError> {
        self.refuse_after_failure()?;
        if slots.is_empty() || (slots.len() >= SYNCFS_FROM && self.sync_everything()?) {
            return Ok(());
        }
        self.one_by_one(slots, |slot| {
            let staged = self.stage().open(slot)?;
            self.synced(rustix::fs::fsync(staged.file()), || format!("{slot} in the stage"))
        })?;
        self.synced(rustix::fs::fsync(self.stage().dir()), || "the stage".into())
    }

    /// Makes durable which entries the directories of `keys` hold: that they were renamed into
    /// place, or removed.
    ///
    /// # Errors
    /// [`SettleError::SyncFailed`] is final for this root.
    pub fn settle_dirs<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Result<(), SettleError> {
        self.refuse_after_failure()?;
        let parents: BTreeSet<Option<Key>> = keys.into_iter().map(Key::parent).collect();
        if parents.is_empty() || (parents.len() >= SYNCFS_FROM && self.sync_everything()?) {
            return Ok(());
        }
        self.sync_dirs(parents)?;
        self.synced(rustix::fs::fsync(self.stage().dir()), || "the stage".into())
    }

    /// Makes durable what a scan found: the bytes and metadata of what stands under the keys `new`,
    /// and that its names, and the `names`, are in their directories, or are not. Programs rarely
    /// sync what they write. If a peer were told of it before, a power cut could take it back, and
    /// what is left would look like a later edit: an empty file, or a delete.
    ///
    /// # Errors
    /// [`SettleError::SyncFailed`] is final for this root.
    pub fn settle_found(
        &self,
        new: &BTreeSet<&Key>,
        names: &BTreeSet<&Key>,
    ) -> Result<(), SettleError> {
        self.refuse_after_failure()?;
        let dirs: BTreeSet<_> = new.iter().chain(names).map(|key| key.parent()).collect();
        let count = new.len() + dirs.len();
        if count == 0 || (count >= SYNCFS_FROM && self.sync_everything()?) {
            return Ok(());
        }
        let new: Vec<&Key> = new.iter().copied().collect();
        self.sync_keys(&new)?;
        self.sync_dirs(dirs)
    }

    /// Makes durable the metadata of what stands under `keys`: what was changed where it stands, or
    /// made there, and not brought in from the stage.
    ///
    /// # Errors
    /// [`SettleError::SyncFailed`] is final for this root.
    pub fn settle_metadata(&self, keys: &[Key]) -> Result<(), SettleError> {
        self.refuse_after_failure()?;
        if keys.is_empty() || (keys.len() >= SYNCFS_FROM && self.sync_everything()?) {
            return Ok(());
        }
        let keys: Vec<&Key> = keys.iter().collect();
        self.sync_keys(&keys)
    }

    fn sync_keys(&self, keys: &[&Key]) -> Result<(), SettleError> {
        self.one_by_one(keys, |key| {
            let found = open_beneath(self.dir(), key.as_str(), OFlags::RDONLY);
            self.sync_if_there(found, || key.to_string())
        })
    }

    fn sync_dirs(&self, dirs: BTreeSet<Option<Key>>) -> Result<(), SettleError> {
        let dirs: Vec<Option<Key>> = dirs.into_iter().collect();
        self.one_by_one(&dirs, |dir| {
            let name = || dir.as_ref().map_or("the share's root".into(), Key::to_string);
            self.sync_if_there(self.open_dir(dir.as_ref()), name)
        })
    }

    fn sync_if_there(
        &self,
        opened: Result<OwnedFd, Errno>,
        name: impl FnOnce() -> String,
    ) -> Result<(), SettleError> {
        match opened {
            Ok(file) => self.synced(rustix::fs::fsync(file), name),
            // What was removed since holds nothing to be made durable.
            Err(errno) if proves_absence(errno) || errno == Errno::LOOP => Ok(()),
            // What may not be opened can still be synced along with everything else.
            Err(Errno::ACCESS) => self.synced(rustix::fs::syncfs(self.dir()), name),
            Err(errno) => self.synced(Err(errno), name),
        }
    }

    /// One `syncfs`, unless the last one was slow and has not been made up for. Answers whether it
    /// was done.
    fn sync_everything(&self) -> Result<bool, SettleError> {
        if self.sync.owed.load(Ordering::Relaxed) > 0 {
            return Ok(false);
        }
        let started = Instant::now();
        // The root's descriptor is older than anything written since, and errors are reported to
        // every descriptor once: none is missed.
        self.synced(rustix::fs::syncfs(self.dir()), || "the file system".into())?;
        let took = started.elapsed();
        if took > SYNCFS_SLOW {
            self.sync.owed.store(micros(took), Ordering::Relaxed);
        }
        Ok(true)
    }

    fn one_by_one<T: Sync>(
        &self,
        items: &[T],
        sync: impl Fn(&T) -> Result<(), SettleError> + Sync,
    ) -> Result<(), SettleError> {
        let started = Instant::now();
        let synced = together(items, sync);
        if items.len() >= SYNCFS_FROM {
            let pay = |owed: u64| Some(owed.saturating_sub(micros(started.elapsed())));
            // Never refused: there is always something to store.
            let _ = self.sync.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
        }
        synced
    }

    fn refuse_after_failure(&self) -> Result<(), SettleError> {
        if self.sync.failed.load(Ordering::Acquire) {
            let source = io::Error::other("an earlier sync failed");
            return Err(SettleError::SyncFailed {
                what: self.path().display().to_string(),
                source,
            });
        }
        Ok(())
    }

    fn synced(
        &self,
        result: Result<(), Errno>,
        what: impl FnOnce() -> String,
    ) -> Result<(), SettleError> {
        result.map_err(|errno| {
            self.sync.failed.store(true, Ordering::Release);
            SettleError::SyncFailed { what: what(), source: errno.into() }
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Syncs each of the items, several of them at a time, in no order. The first error ends it, once
/// what is under way has ended.
fn together<T: Sync>(
    items: &[T],
    sync: impl Fn(&T) -> Result<(), SettleError> + Sync,
) -> Result<(), SettleError> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    let helpers = if items.len() > SYNCS_ALONE { SYNCS_AT_ONCE.min(items.len()) - 1 } else { 0 };
    thread::scope(|scope| {
        // Where no more threads can be had, fewer do it.
        let start = |_| thread::Builder::new().name("sync".into()).spawn_scoped(scope, work).ok();
        let helpers: Vec<_> = (0..helpers).map_while(start).collect();
        let own = work();
        let others = helpers.into_iter().map(|helper| helper.join());
        // A thread that panicked has synced nobody knows what.
        let died = |_| SettleError::SyncFailed {
            what: "the share".into(),
            source: io::Error::other("a thread that synced it failed"),
        };
        others.fold(own, |so_far, other| so_far.and(other.map_err(died).and_then(|synced| synced)))
    })
}
