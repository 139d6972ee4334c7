//! Opens and commits; `reads.rs` reads.
//!
//! Reads see what is written, which may be ahead of what is durable: whoever tells the world about
//! a row waits for the commit that wrote it. Commits of several shares that come at the same time
//! are made durable by one sync. After a failed sync the store refuses all further commits until
//! it is opened again: nobody knows what the disk holds then, and trying again would make the
//! kernel forget the error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use highwater_core::ShareName;
use highwater_core::content::Manifest;

use crate::backend::{Backend, DatabaseError};
use crate::commit::Commit;
use crate::memory::MemoryDisk;
use crate::rows::{
    MANIFEST_PART_CHUNKS, SHARE_KINDS, SHARES, ShareNumber, ShareRow, in_share, share_key,
};
use crate::sled::Database;

mod reads;

use reads::decode;

/// The format of the rows. A store of a newer format is refused, never guessed at.
const FORMAT: &[u8] = b"highwater store 1";
const FORMAT_KEY: &[u8] = b"format";
/// Rows of a dropped share that go in one commit.
const DROP_ROWS_MAX: usize = 4096;
/// Parts of a manifest that go in one commit: 300 KiB, for 8,192 chunks. The manifests of most
/// contents are shorter and take one commit, which costs a sync.
const MANIFEST_PARTS_A_COMMIT: usize = 128;

/// Why the store did not open. What is on disk is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be used.
    #[error("cannot open the store in {}: {source}; check the disk and the permissions", dir.display())]
    Io {
        /// Where the store lies.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database is damaged.
    #[error("the store in {} is damaged ({reason}); move that directory away and start again: it is rebuilt from the shares and from peers, and no data is lost", dir.display())]
    Damaged {
        /// Where the store lies.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It was written by another version.
    #[error("the store in {} has the format {found:?}, this version reads 'highwater store 1'; use the version that wrote it", dir.display())]
    OtherFormat {
        /// Where the store lies.
        dir: PathBuf,
        /// What it says of itself.
        found: String,
    },
}

/// Why a read or a commit failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("the store cannot be written or read: {0}")]
    Io(String),
    /// A row is not what it should be.
    #[error("a row of the store is damaged: {0}")]
    Damaged(String),
    /// An earlier sync failed; nothing is accepted until the store is opened again.
    #[error("the store stopped after a failed sync ({0}); restart the node once the disk is well")]
    Stopped(String),
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Io(error) => StoreError::Io(error.to_string()),
            DatabaseError::Damaged(reason) => StoreError::Damaged(reason),
        }
    }
}

/// Which commits are written and which durable, by their running number.
#[derive(Debug, Default)]
struct Progress {
    written: u64,
    durable: u64,
    /// Somebody is syncing; others wait for the outcome.
    syncing: bool,
}

/// The store of one node. Shared by reference; every method may be called from any thread, and
/// blocks on the disk.
#[derive(Debug)]
pub struct Store {
    database: Box<dyn Backend>,
    /// Held while a commit is written, which may wait for the disk.
    progress: Mutex<Progress>,
    synced: Condvar,
    /// Why nothing is accepted any more. Not behind the lock: whoever only asks waits for no disk.
    failed: OnceLock<String>,
}

impl Store {
    /// Opens the store in `dir`, or makes one.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is changed on disk then.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let database = Database::open(dir).map_err(|error| open_error(dir, error))?;
        Self::on(Box::new(database), dir)
    }

    /// Opens the store that lies in a simulated memory, or makes one.
    ///
    /// # Errors
    /// As [`Store::open`]; the place is called `memory`.
    pub fn open_in_memory(disk: &MemoryDisk) -> Result<Self, OpenError> {
        Self::on(Box::new(disk.clone()), Path::new("memory"))
    }

    fn on(database: Box<dyn Backend>, dir: &Path) -> Result<Self, OpenError> {
        let open_error = |error| open_error(dir, error);
        match database.get(FORMAT_KEY).map_err(open_error)? {
            Some(found) if found == FORMAT => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(OpenError::OtherFormat { dir: dir.into(), found });
            }
            None => {
                let format = vec![(FORMAT_KEY.to_vec(), Some(FORMAT.to_vec()))];
                database.apply(format).and_then(|()| database.sync()).map_err(open_error)?;
            }
        }
        Ok(Self {
            database,
            progress: Mutex::default(),
            synced: Condvar::new(),
            failed: OnceLock::new(),
        })
    }

    /// Writes the changes, atomically, and returns once they are durable.
    ///
    /// # Errors
    /// When the disk fails; the store accepts nothing more then.
    pub fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        if commit.is_empty() {
            return self.working().map(drop);
        }
        let number = {
            let mut progress = self.working()?;
            self.database.apply(commit.changes).map_err(|error| self.stop(&error))?;
            progress.written += 1;
            progress.written
        };
        self.make_durable(number)
    }

    /// Records a manifest durably, ahead of the entry that needs it. A long one takes several
    /// commits, or it would be in memory twice more. What a crash leaves of it has not the size of
    /// its content, and [`Store::manifest`] takes it for none.
    ///
    /// # Errors
    /// When the disk fails; the store accepts nothing more then.
    pub fn record_manifest(
        &self,
        share: ShareNumber,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        let parts = manifest.chunks().len().div_ceil(MANIFEST_PART_CHUNKS);
        for first in (0..parts).step_by(MANIFEST_PARTS_A_COMMIT) {
            let mut commit = Commit::new();
            commit.put_manifest_parts(share, manifest, first, MANIFEST_PARTS_A_COMMIT);
            self.commit(commit)?;
        }
        Ok(())
    }

    /// Waits until commit `number` is durable, syncing for everybody who waits when nobody is.
    fn make_durable(&self, number: u64) -> Result<(), StoreError> {
        let mut progress = self.working()?;
        while progress.durable < number {
            if progress.syncing {
                progress = self.synced.wait(progress).unwrap_or_else(PoisonError::into_inner);
            } else {
                progress.syncing = true;
                let covered = progress.written;
                drop(progress);
                let outcome = self.database.sync();
                progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.syncing = false;
                match outcome {
                    Ok(()) => progress.durable = progress.durable.max(covered),
                    Err(error) => drop(self.stop(&error)),
                }
                self.synced.notify_all();
            }
            self.check_working()?;
        }
        Ok(())
    }

    /// Whether the store accepts commits. Never waits for the disk.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check_working(&self) -> Result<(), StoreError> {
        let stopped = self.failed.get().map(|reason| StoreError::Stopped(reason.clone()));
        stopped.map_or(Ok(()), Err)
    }

    fn working(&self) -> Result<MutexGuard<'_, Progress>, StoreError> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_working().map(|()| progress)
    }

    /// Accepts nothing from here on; the first reason stands.
    fn stop(&self, error: &DatabaseError) -> StoreError {
        StoreError::Stopped(self.failed.get_or_init(|| error.to_string()).clone())
    }

    /// The share with this name, if it was ever recorded.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn share(&self, name: &ShareName) -> Result<Option<ShareRow>, StoreError> {
        self.row(&share_key(name))
    }

    /// The shares that something is remembered of.
    ///
    /// # Errors
    /// When the store fails.
    pub fn shares(&self) -> Result<Vec<ShareName>, StoreError> {
        let mut names = Vec::new();
        for row in self.database.rows(SHARES, SHARES) {
            let (key, _) = row?;
            let name = key.get(SHARES.len()..).and_then(|name| std::str::from_utf8(name).ok());
            names.extend(name.and_then(|name| name.parse().ok()));
        }
        Ok(names)
    }

    /// A number that no share has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn unused_share_number(&self) -> Result<ShareNumber, StoreError> {
        let mut highest = 0;
        for row in self.database.rows(SHARES, SHARES) {
            let row: ShareRow = decode(&row?.1)?;
            highest = highest.max(row.number.0);
        }
        Ok(ShareNumber(highest + 1))
    }

    /// Forgets a share and every row of it.
    ///
    /// # Errors
    /// When the disk fails. Dropping again goes on where it stopped.
    pub fn drop_share(&self, name: &ShareName) -> Result<(), StoreError> {
        let Some(share) = self.share(name)? else { return Ok(()) };
        for kind in SHARE_KINDS {
            let prefix = in_share(kind, share.number, &[]);
            loop {
                let mut commit = Commit::new();
                for row in self.database.rows(&prefix, &prefix).take(DROP_ROWS_MAX) {
                    commit.delete(row?.0);
                }
                if commit.is_empty() {
                    break;
                }
                self.commit(commit)?;
            }
        }
        let mut last = Commit::new();
        last.delete(share_key(name));
        self.commit(last)
    }
}

fn open_error(dir: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::Io(source) => OpenError::Io { dir: dir.into(), source },
        DatabaseError::Damaged(reason) => OpenError::Damaged { dir: dir.into(), reason },
    }
}

#[cfg(test)]
mod tests;
