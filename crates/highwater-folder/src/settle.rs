//! Making things durable, many at a time.
//!
//! A sync costs the same for one file as for a hundred. A few files are synced one by one; from
//! [`SYNCFS_FROM`] on, one `syncfs` takes them all. It also takes everything else that is dirty on
//! that file system, so where others write heavily it is slow: then the files are synced one by one
//! for a while.
//!
//! After a failed sync nobody knows what is on the disk, and a second try may well succeed without
//! having written anything. A root on which a sync has failed refuses to sync until it is reopened.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use highwater_core::Key;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::{Root, open_beneath, proves_absence};
use crate::stage::{Slot, StageError};

/// From this many files on, one `syncfs` is cheaper than as many `fsync`s.
pub const SYNCFS_FROM: usize = 16;
/// A `syncfs` that took longer wrote other people's data too.
const SYNCFS_SLOW: Duration = Duration::from_millis(500);
/// How often files are synced one by one after a slow `syncfs` before it is tried again.
const ROUNDS_WITHOUT_SYNCFS: u32 = 32;

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
    rounds_without_syncfs: AtomicU32,
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
        for slot in slots {
            let staged = self.stage().open(slot)?;
            self.synced(rustix::fs::fsync(staged.file()), || format!("{slot} in the stage"))?;
        }
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
        for parent in parents {
            let name = || parent.as_ref().map_or("the share's root".into(), Key::to_string);
            let dir = match self.open_dir(parent.as_ref()) {
                Ok(dir) => dir,
                // A directory that was removed since holds nothing to be made durable.
                Err(errno) if proves_absence(errno) => continue,
                // One that may not be listed can still be synced along with everything else.
                Err(Errno::ACCESS) => {
                    self.synced(rustix::fs::syncfs(self.dir()), name)?;
                    continue;
                }
                Err(errno) => return self.synced(Err(errno), name),
            };
            self.synced(rustix::fs::fsync(dir.as_fd()), name)?;
        }
        self.synced(rustix::fs::fsync(self.stage().dir()), || "the stage".into())
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
        for key in keys {
            let opened = self
                .open_parent(key)
                .and_then(|dir| open_beneath(dir.as_fd(), key.name(), OFlags::RDONLY));
            let synced = match opened {
                Ok(entry) => rustix::fs::fsync(&entry),
                // Gone or replaced since: what stands there now is nothing of ours.
                Err(errno) if proves_absence(errno) || errno == Errno::LOOP => continue,
                // What may not be read can still be synced along with everything else.
                Err(_) => rustix::fs::syncfs(self.dir()),
            };
            self.synced(synced, || key.to_string())?;
        }
        Ok(())
    }

    /// Makes durable what a user did to these keys, before anybody is told of it: what they lead to,
    /// and that they lead there. A file that a peer already has and that a power cut takes away
    /// here would look like the user's next edit.
    ///
    /// # Errors
    /// [`SettleError::SyncFailed`] is final for this root.
    pub fn settle_observed(&self, keys: &[Key]) -> Result<(), SettleError> {
        self.refuse_after_failure()?;
        if keys.len() >= SYNCFS_FROM && self.sync_everything()? {
            return Ok(());
        }
        self.settle_metadata(keys)?;
        self.settle_dirs(keys)
    }

    /// One `syncfs`, unless the last one was slow not long ago. Answers whether it was done.
    fn sync_everything(&self) -> Result<bool, SettleError> {
        let rounds = &self.sync.rounds_without_syncfs;
        let waited =
            rounds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if waited.is_ok() {
            return Ok(false);
        }
        let started = Instant::now();
        // The root's descriptor is older than anything written since, and errors are reported to
        // every descriptor once: none is missed.
        self.synced(rustix::fs::syncfs(self.dir()), || "the file system".into())?;
        if started.elapsed() > SYNCFS_SLOW {
            rounds.store(ROUNDS_WITHOUT_SYNCFS, Ordering::Relaxed);
        }
        Ok(true)
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
