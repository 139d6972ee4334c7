//! Opens, reads and commits.
//!
//! Reads see what is written, which may be ahead of what is durable: whoever tells the world about
//! a row waits for the commit that wrote it. Commits of several shares that come at the same time
//! are made durable by one sync. After a failed sync the store refuses all further commits until
//! it is opened again: nobody knows what the disk holds then, and trying again would make the
//! kernel forget the error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use highwater_core::content::{CHUNKS_MAX, Manifest};
use highwater_core::fetch::ChunkSet;
use highwater_core::{ChunkSizes, ContentHash, Key, LogDigest, NodeId, Seq, ShareName};
use serde::de::DeserializeOwned;

use crate::backend::{Backend, DatabaseError};
use crate::commit::Commit;
use crate::memory::MemoryDisk;
use crate::rows::{
    BITMAP_PART_WORDS, DeepRow, EntryRow, FoundRow, LogRow, MANIFEST_PART_CHUNKS, ManifestPart,
    MarkerRow, PastRow, PeerRow, RetiredRow, SHARE_KINDS, SHARES, ShareNumber, ShareRow, StageRow,
    WantClass, WantRow, content_key, deep_key, entry_key, found_key, in_share, log_key, marker_key,
    part_key, past_key, peer_key, retired_key, share_key, want_key, want_prefix,
};
use crate::sled::Database;

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

    /// The index row of `key`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn entry(&self, share: ShareNumber, key: &Key) -> Result<Option<EntryRow>, StoreError> {
        self.row(&entry_key(share, key))
    }

    /// The index rows in key order: of the whole share, or of what lies inside `dir`.
    pub fn entries(
        &self,
        share: ShareNumber,
        dir: Option<&Key>,
    ) -> impl Iterator<Item = Result<EntryRow, StoreError>> + use<> {
        let prefix = match dir {
            Some(dir) => [entry_key(share, dir), vec![0]].concat(),
            None => in_share(b'e', share, &[]),
        };
        self.database.rows(&prefix, &prefix).map(|row| decode(&row?.1))
    }

    /// The index rows from `from` on and before `before`, in key order.
    pub fn entries_in(
        &self,
        share: ShareNumber,
        from: Option<&Key>,
        before: Option<&Key>,
    ) -> impl Iterator<Item = Result<EntryRow, StoreError>> + use<> {
        let prefix = in_share(b'e', share, &[]);
        let from = from.map_or_else(|| prefix.clone(), |from| entry_key(share, from));
        let before = before.map(|before| entry_key(share, before));
        let rows = self.database.rows(&prefix, &from);
        // An error ends the reading where it is passed on.
        let within = rows.take_while(move |row| match (row, &before) {
            (Ok((key, _)), Some(before)) => key < before,
            _ => true,
        });
        within.map(|row| decode(&row?.1))
    }

    /// How far the latest deep pass of the checker has come.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn deep(&self, share: ShareNumber) -> Result<Option<DeepRow>, StoreError> {
        self.row(&deep_key(share))
    }

    /// What the latest deep pass found under a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn found(&self, share: ShareNumber, key: &Key) -> Result<Option<FoundRow>, StoreError> {
        self.row(&found_key(share, key))
    }

    /// The keys behind `after` under which the latest deep pass found something, in order.
    pub fn found_after(
        &self,
        share: ShareNumber,
        after: Option<&Key>,
    ) -> impl Iterator<Item = Result<Key, StoreError>> + use<> {
        let prefix = in_share(b'f', share, &[]);
        let from = match after {
            Some(key) => [found_key(share, key), vec![0]].concat(),
            None => prefix.clone(),
        };
        self.database.rows(&prefix, &from).map(|row| {
            let (key, _) = row?;
            let key = Key::from_ordered_bytes(key.get(5..).unwrap_or_default());
            key.map_err(|error| StoreError::Damaged(error.to_string()))
        })
    }

    /// The log row at `seq`, unless compaction has removed it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn log_at(&self, share: ShareNumber, seq: Seq) -> Result<Option<LogRow>, StoreError> {
        self.row(&log_key(share, seq))
    }

    /// What stood at a position that its entry has left, if that is still kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn retired_at(
        &self,
        share: ShareNumber,
        seq: Seq,
    ) -> Result<Option<RetiredRow>, StoreError> {
        self.row(&retired_key(share, seq))
    }

    /// The positions that are remembered though their entries have left them, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn retired(&self, share: ShareNumber) -> Result<Vec<Seq>, StoreError> {
        let prefix = in_share(b'v', share, &[]);
        let seq =
            |key: Vec<u8>| Some(Seq(u64::from_be_bytes(key.get(prefix.len()..)?.try_into().ok()?)));
        let rows = self.database.rows(&prefix, &prefix);
        let seqs = rows.map(|row| Ok(seq(row?.0))).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(seqs.into_iter().flatten().collect())
    }

    /// What is remembered of the marker in the share's root.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn marker(&self, share: ShareNumber) -> Result<Option<MarkerRow>, StoreError> {
        self.row(&marker_key(share))
    }

    /// The histories of this node's log that are over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn past(&self, share: ShareNumber) -> Result<Option<PastRow>, StoreError> {
        self.row(&past_key(share))
    }

    /// The log rows behind `after`, in order.
    pub fn log_after(
        &self,
        share: ShareNumber,
        after: Seq,
    ) -> impl Iterator<Item = Result<(Seq, LogRow), StoreError>> + use<> {
        let prefix = in_share(b'l', share, &[]);
        self.database.rows(&prefix, &log_key(share, after.next())).map(decode_log)
    }

    /// The last position of the log and the digest there: the head never is compacted away.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn head(&self, share: ShareNumber) -> Result<(Seq, LogDigest), StoreError> {
        let prefix = in_share(b'l', share, &[]);
        match self.database.rows(&prefix, &prefix).next_back() {
            Some(row) => decode_log(row).map(|(seq, row)| (seq, row.digest)),
            None => Ok((Seq::ZERO, LogDigest::EMPTY)),
        }
    }

    /// What is wanted under `key`, and its class.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn want(
        &self,
        share: ShareNumber,
        key: &Key,
    ) -> Result<Option<(WantClass, WantRow)>, StoreError> {
        for class in WantClass::ALL {
            if let Some(row) = self.row(&want_key(share, class, key))? {
                return Ok(Some((class, row)));
            }
        }
        Ok(None)
    }

    /// The wanted entries of a class behind `after`, in key order; from the other end in reverse.
    pub fn wants(
        &self,
        share: ShareNumber,
        class: WantClass,
        after: Option<&Key>,
    ) -> impl DoubleEndedIterator<Item = Result<WantRow, StoreError>> + use<> {
        let prefix = want_prefix(share, class);
        let from = match after {
            // The next possible key in byte order.
            Some(key) => [want_key(share, class, key), vec![0]].concat(),
            None => prefix.clone(),
        };
        self.database.rows(&prefix, &from).map(|row| decode(&row?.1))
    }

    /// What is remembered of a peer.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn peer(&self, share: ShareNumber, node: &NodeId) -> Result<PeerRow, StoreError> {
        Ok(self.row(&peer_key(share, node))?.unwrap_or_default())
    }

    /// The peers that something is remembered of, listed now or not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn peers(&self, share: ShareNumber) -> Result<Vec<NodeId>, StoreError> {
        let prefix = in_share(b'p', share, &[]);
        let node = |key: Vec<u8>| key.get(prefix.len()..)?.try_into().ok().map(NodeId::from_bytes);
        let rows = self.database.rows(&prefix, &prefix);
        let nodes = rows.map(|row| Ok(node(row?.0))).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(nodes.into_iter().flatten().collect())
    }

    /// The manifest of a content, if it was recorded whole.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn manifest(
        &self,
        share: ShareNumber,
        content: &ContentHash,
        size: u64,
    ) -> Result<Option<Manifest>, StoreError> {
        let prefix = content_key(b'm', share, content);
        // As one piece from the start: growing by and by, a long one would be there twice.
        let expected = (size / ChunkSizes::for_content(size).average as u64).min(CHUNKS_MAX as u64);
        let mut chunks = Vec::with_capacity(expected as usize);
        for row in self.database.rows(&prefix, &prefix) {
            let ManifestPart(part) = decode(&row?.1)?;
            chunks.extend(part);
        }
        Ok(Manifest::new(*content, chunks).filter(|m| m.size() == size && size > 0))
    }

    /// The contents that have a recorded manifest, with the number of their parts.
    pub fn manifests(
        &self,
        share: ShareNumber,
    ) -> impl Iterator<Item = Result<(ContentHash, usize), StoreError>> + use<> {
        let prefix = in_share(b'm', share, &[]);
        let mut rows = self.database.rows(&prefix, &prefix).peekable();
        std::iter::from_fn(move || {
            let first = match rows.next()? {
                Ok((key, _)) => key,
                Err(error) => return Some(Err(error.into())),
            };
            let mut parts = 1;
            while matches!(rows.peek(), Some(Ok((key, _))) if key.get(..37) == first.get(..37)) {
                rows.next();
                parts += 1;
            }
            Some(content_in(&first).map(|content| (content, parts)))
        })
    }

    /// How far a content is staged, if it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stage(
        &self,
        share: ShareNumber,
        content: &ContentHash,
        chunks: usize,
    ) -> Result<Option<(StageRow, ChunkSet)>, StoreError> {
        let Some(row) = self.row::<StageRow>(&content_key(b't', share, content))? else {
            return Ok(None);
        };
        let mut words = Vec::new();
        for part in 0..chunks.div_ceil(64 * BITMAP_PART_WORDS) {
            let part: Option<Vec<u64>> = self.row(&part_key(b'u', share, content, part))?;
            // A part that was empty ever since is not stored, but those behind it may be.
            words.extend(part.unwrap_or_else(|| vec![0; BITMAP_PART_WORDS]));
        }
        Ok(Some((row, ChunkSet::from_words(words, chunks))))
    }

    /// The contents that have something staged.
    pub fn stages(
        &self,
        share: ShareNumber,
    ) -> impl Iterator<Item = Result<(ContentHash, StageRow), StoreError>> + use<> {
        let prefix = in_share(b't', share, &[]);
        self.database.rows(&prefix, &prefix).map(|row| {
            let (key, value) = row?;
            Ok((content_in(&key)?, decode(&value)?))
        })
    }

    fn row<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.database.get(key)?.map(|value| decode(&value)).transpose()
    }
}

fn open_error(dir: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::Io(source) => OpenError::Io { dir: dir.into(), source },
        DatabaseError::Damaged(reason) => OpenError::Damaged { dir: dir.into(), reason },
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn decode_log(row: Result<(Vec<u8>, Vec<u8>), DatabaseError>) -> Result<(Seq, LogRow), StoreError> {
    let (key, value) = row?;
    let seq = key.get(5..).and_then(|seq| seq.try_into().ok());
    let seq =
        seq.ok_or_else(|| StoreError::Damaged("a log position has the wrong length".into()))?;
    Ok((Seq(u64::from_be_bytes(seq)), decode(&value)?))
}

fn content_in(key: &[u8]) -> Result<ContentHash, StoreError> {
    let bytes = key.get(5..37).and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(ContentHash::from_bytes)
        .ok_or_else(|| StoreError::Damaged("a content hash has the wrong length".into()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use highwater_core::Epoch;
    use highwater_core::content::{Chunk, ChunkId};

    use super::*;
    use crate::memory::DiskFault;

    const SHARE: ShareNumber = ShareNumber(1);
    const NODE: NodeId = NodeId::from_bytes([2; 32]);
    const CONTENT: ContentHash = ContentHash::from_bytes([3; 32]);

    /// A disk that is as slow as the test wants: it says that it was asked to write, and writes when
    /// it may.
    #[derive(Debug)]
    struct SlowDisk {
        asked: mpsc::SyncSender<()>,
        may: Mutex<mpsc::Receiver<()>>,
    }

    impl Backend for SlowDisk {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError> {
            Ok(Some(FORMAT.to_vec()))
        }

        fn scan(&self, _: Vec<u8>, _: Option<Vec<u8>>) -> crate::backend::Rows {
            Box::new(std::iter::empty())
        }

        fn apply(&self, _: crate::backend::Changes) -> Result<(), DatabaseError> {
            self.asked.send(()).expect("the test waits");
            self.may.lock().expect("one writer").recv().expect("the test goes on");
            Ok(())
        }

        fn sync(&self) -> Result<(), DatabaseError> {
            Ok(())
        }
    }

    #[test]
    fn whoever_asks_how_the_store_is_waits_for_no_write() {
        let ((asked, told), (go, may)) = (mpsc::sync_channel(0), mpsc::channel());
        let disk = SlowDisk { asked, may: Mutex::new(may) };
        let store = Store::on(Box::new(disk), Path::new("slow")).expect("opened");
        std::thread::scope(|scope| {
            let commit = Commit { changes: vec![(b"key".to_vec(), None)] };
            let committing = scope.spawn(|| store.commit(commit));
            told.recv().expect("a write that takes long");
            let (answer, answered) = mpsc::channel();
            let store = &store;
            scope.spawn(move || answer.send(store.check_working().is_ok()));
            let within = answered.recv_timeout(std::time::Duration::from_secs(30));
            go.send(()).expect("the write ends");
            committing.join().expect("no panic").expect("committed");
            assert_eq!(within, Ok(true), "it waited for the write");
        });
    }

    /// Writes rows past the store.
    fn write(dir: &Path, rows: impl IntoIterator<Item = (Vec<u8>, &'static [u8])>) {
        let rows = rows.into_iter().map(|(key, value)| (key, Some(value.to_vec())));
        let database = Database::open(dir).expect("opened");
        database.apply(rows.collect()).and_then(|()| database.sync()).expect("written");
    }

    #[test]
    fn a_damaged_row_is_an_error_and_not_a_missing_row() {
        type Read = fn(&Store) -> Option<StoreError>;
        let (name, key): (ShareName, Key) =
            ("docs".parse().expect("a name"), "a".parse().expect("a key"));
        let rows: [(Vec<u8>, Read); 10] = [
            (share_key(&name), |store| store.unused_share_number().err()),
            (entry_key(SHARE, &key), |store| store.entries(SHARE, None).find_map(Result::err)),
            (log_key(SHARE, Seq(1)), |store| store.log_at(SHARE, Seq(1)).err()),
            (in_share(b'l', SHARE, b"short"), |store| store.head(SHARE).err()),
            (want_key(SHARE, WantClass::Held, &key), |store| {
                store.wants(SHARE, WantClass::Held, None).find_map(Result::err)
            }),
            (peer_key(SHARE, &NODE), |store| store.peer(SHARE, &NODE).err()),
            (part_key(b'm', SHARE, &CONTENT, 0), |store| store.manifest(SHARE, &CONTENT, 1).err()),
            (in_share(b'm', SHARE, b"short"), |store| store.manifests(SHARE).find_map(Result::err)),
            (content_key(b't', SHARE, &CONTENT), |store| store.stage(SHARE, &CONTENT, 1).err()),
            (in_share(b't', SHARE, b"short"), |store| store.stages(SHARE).find_map(Result::err)),
        ];
        for (damaged, read) in rows {
            let dir = tempfile::TempDir::new().expect("a temporary directory");
            write(dir.path(), [(damaged.clone(), &[0xff; 3][..])]);
            let error = read(&Store::open(dir.path()).expect("opened"));
            assert!(matches!(error, Some(StoreError::Damaged(_))), "{damaged:?}: {error:?}");
        }
    }

    /// Each commit of it may be the last before a crash.
    #[test]
    fn a_manifest_that_is_recorded_in_part_is_none() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opened");
        let parts = 2 * MANIFEST_PARTS_A_COMMIT + 1;
        let chunk = Chunk { id: ChunkId::of(b"x"), length: 7 };
        let manifest = Manifest::new(CONTENT, vec![chunk; parts * MANIFEST_PART_CHUNKS]);
        let manifest = manifest.expect("a manifest");
        let read = || store.manifest(SHARE, &CONTENT, manifest.size()).expect("readable");
        for first in [0, MANIFEST_PARTS_A_COMMIT] {
            let mut commit = Commit::new();
            commit.put_manifest_parts(SHARE, &manifest, first, MANIFEST_PARTS_A_COMMIT);
            store.commit(commit).expect("committed");
            assert_eq!(read(), None, "after the parts from {first} on");
        }
        store.record_manifest(SHARE, &manifest).expect("recorded");
        assert_eq!(read(), Some(manifest.clone()));
    }

    #[test]
    fn what_was_committed_outlives_a_power_cut() {
        let (disk, name) = (MemoryDisk::default(), "docs".parse().expect("a name"));
        let store = Store::open_in_memory(&disk).expect("a new store");
        let row = ShareRow { number: SHARE, epoch: Epoch([1; 16]), generation: 0, raising: 0 };
        let mut commit = Commit::new();
        commit.put_share(&name, &row);
        store.commit(commit).expect("a disk that works");
        disk.crash(|_| 0);
        assert_eq!(store.share(&name).expect("readable"), Some(row));
    }

    /// The kernel tells of a failed sync once, and forgets what it has not written: a second sync
    /// that goes well proves nothing.
    #[test]
    fn a_store_that_could_not_sync_takes_nothing_more() {
        let disk = MemoryDisk::default();
        let store = Store::open_in_memory(&disk).expect("a new store");
        let name: ShareName = "docs".parse().expect("a name");
        let row = ShareRow { number: SHARE, epoch: Epoch([1; 16]), generation: 0, raising: 0 };
        let commit = || {
            let mut commit = Commit::new();
            commit.put_share(&name, &row);
            store.commit(commit)
        };
        commit().expect("a disk that works");
        disk.set_fault(Some(DiskFault::SyncOnce));
        commit().expect_err("the sync fails");
        commit().expect_err("the disk works again, and nobody knows what is on it");
        store.check_working().expect_err("people are told");
    }

    #[test]
    fn a_store_of_another_format_is_refused_and_stays_as_it_is() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let share = share_key(&"docs".parse().expect("a name"));
        write(dir.path(), [(FORMAT_KEY.to_vec(), &b"highwater store 2"[..]), (share, b"new")]);
        let error = Store::open(dir.path()).expect_err("another format");
        assert!(matches!(error, OpenError::OtherFormat { .. }), "{error:?}");
        assert!(error.to_string().contains("highwater store 2"), "{error}");
        let database = Database::open(dir.path()).expect("opened");
        let rows: Vec<_> =
            database.scan(Vec::new(), None).map(|row| row.expect("readable").1).collect();
        assert_eq!(rows, [&b"highwater store 2"[..], b"new"]);
    }
}
