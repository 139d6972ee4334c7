//! The database underneath. The only file that names it, and the one that knows its traps, all
//! found in the source of sled 0.34.7:
//!
//! - On Linux, `flush()` ends in `sync_file_range`: that survives a killed process, not a power
//!   cut. So every commit is followed by an `fdatasync` of the database file through a descriptor
//!   of our own, and only then called durable.
//! - An interrupted snapshot leaves `snap.*.generating`, which the next open takes for the newest
//!   snapshot and refuses. It is removed before opening.
//! - Its background flusher logs errors and drops them. We flush ourselves and see them.
//! - When one of its own threads fails to write, it notes the error and wakes nobody: whoever waits
//!   for that write waits for ever, in `flush()` or in reading what was in it. Who flushes next finds
//!   the error and wakes all, so while anything takes long, a [`Nudger`] comes by and flushes. No
//!   other call would do: they take a lock that the one who waits may hold.
//! - A leaf of more than 128 KiB goes to a separate file that is never synced. A leaf holds
//!   16 values, so they should stay below 7 KiB; an entry with the longest key, the longest link
//!   target and hundreds of actors can be larger, and that is not prevented.
//! - Damage can panic instead of returning an error, so opening is wrapped.
//! - Its seven threads look for work once a second, though whoever brings some wakes them. They get
//!   time-outs that may come late, or more than a third of an idle node's wakes would be theirs.
//! - It opens its files through links, and writes over what they lead to. Links are refused.
//! - A damaged record ends the log: what stands behind it is gone, and no error says so. The store
//!   is an older copy of itself then, which generations and digests are there to notice.

use std::fs::{DirEntry, File};
use std::io;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::thread::set_current_timer_slack;

use crate::backend::{Backend, Changes, DatabaseError, Row, Rows};
use crate::nudge::{Nudger, Watch};

/// Page cache of the database in bytes. The rows that are hot are few; the file system caches too.
const CACHE_BYTES: u64 = 2 << 20;
/// How often sled's own flusher runs. It also collects garbage, so it must run; durability does
/// not wait for it, and on an idle machine it may come later by [`TIMER_SLACK_NANOS`].
const FLUSH_EVERY_MS: u64 = 5_000;
/// After a close, a pool thread may hold the lock for a moment longer (sled issue 1289).
const LOCK_RETRIES: u32 = 20;
/// How the error begins when the lock is held. Its kind is `Other`, whatever the system said.
const LOCKED: &str = "could not acquire lock";
const LOCK_RETRY_WAIT: Duration = Duration::from_millis(50);
/// How much later than asked for a wait of sled's threads may time out, in nanoseconds: 10 s. On an
/// idle node that takes them from 7.0 wakes a second to 0.6 (measured, `docs/decisions`, 2026-11-30).
const TIMER_SLACK_NANOS: Option<NonZeroU64> = NonZeroU64::new(10_000_000_000);

/// An ordered map of bytes whose commits are durable.
#[derive(Debug)]
pub(crate) struct Database {
    db: sled::Db,
    /// Our own descriptor of the database file, for `fdatasync`.
    file: File,
    nudger: Nudger,
}

impl From<sled::Error> for DatabaseError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => DatabaseError::Io(error),
            other => DatabaseError::Damaged(other.to_string()),
        }
    }
}

impl Database {
    /// Opens or makes the database in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, DatabaseError> {
        refuse_links(dir)?;
        remove_interrupted_snapshots(dir)?;
        let db = match open_patiently(dir) {
            Err(DatabaseError::Damaged(_)) if set_snapshots_aside(dir)? => open_patiently(dir)?,
            other => other?,
        };
        let file = File::open(dir.join("db"))?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        let nudged = db.clone();
        let nudger = Nudger::start(move || {
            // An error is the same one that is returned to whoever is woken.
            let _ = nudged.flush();
        })?;
        Ok(Self { db, file, nudger })
    }
}

impl Backend for Database {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError> {
        Ok(self.nudger.during(|| self.db.get(key))?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: Vec<u8>, end: Option<Vec<u8>>) -> Rows {
        let rows = match end {
            Some(end) => self.db.range(from..end),
            None => self.db.range(from..),
        };
        Box::new(Scan { rows, watch: self.nudger.watch() })
    }

    fn apply(&self, changes: Changes) -> Result<(), DatabaseError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(self.nudger.during(|| self.db.apply_batch(batch))?)
    }

    fn sync(&self) -> Result<(), DatabaseError> {
        self.nudger.during(|| self.db.flush())?;
        Ok(self.file.sync_data()?)
    }
}

/// Rows, each of which may have to be waited for.
struct Scan {
    rows: sled::Iter,
    watch: Watch,
}

impl Iterator for Scan {
    type Item = Result<Row, DatabaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.watch.during(|| self.rows.next()).map(owned)
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.watch.during(|| self.rows.next_back()).map(owned)
    }
}

fn owned(row: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Row, DatabaseError> {
    let (key, value) = row?;
    Ok((key.to_vec(), value.to_vec()))
}

fn open_patiently(dir: &Path) -> Result<sled::Db, DatabaseError> {
    let mut tries = 0;
    loop {
        match open_once(dir) {
            Err(DatabaseError::Io(error))
                if error.to_string().starts_with(LOCKED) && tries < LOCK_RETRIES =>
            {
                tries += 1;
                thread::sleep(LOCK_RETRY_WAIT);
            }
            other => return other,
        }
    }
}

fn open_once(dir: &Path) -> Result<sled::Db, DatabaseError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    match with_patient_threads(|| catch_unwind(AssertUnwindSafe(|| config.open()))) {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(DatabaseError::Damaged("opening it panicked".into())),
    }
}

/// Threads inherit the timer slack of the one that starts them (prctl(2), `PR_SET_TIMERSLACK`). Where
/// the system refuses it they wake as often as they like, which costs processor time and nothing else.
fn with_patient_threads<T>(open: impl FnOnce() -> T) -> T {
    let _ = set_current_timer_slack(TIMER_SLACK_NANOS);
    let opened = open();
    let _ = set_current_timer_slack(None);
    opened
}

/// The directory itself may be a link: somebody keeps it on another disk. What is in it is ours.
fn refuse_links(dir: &Path) -> io::Result<()> {
    for file in files(dir)? {
        if file.file_type()?.is_symlink() {
            let path = file.path();
            let why = format!("{} is a link, which is not followed; remove it", path.display());
            return Err(io::Error::other(why));
        }
    }
    Ok(())
}

/// What is in the directory; nothing when it is not there.
fn files(dir: &Path) -> io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listing => listing?.collect(),
    }
}

fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in files(dir)? {
        let path = file.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}

fn remove_interrupted_snapshots(dir: &Path) -> io::Result<()> {
    for path in snapshots(dir)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Without a snapshot, sled replays its log from the beginning. Whether there was one to set aside.
fn set_snapshots_aside(dir: &Path) -> io::Result<bool> {
    let found = snapshots(dir)?;
    for path in &found {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        let name = PathBuf::from(aside);
        let hidden = dir.join(format!(
            "aside-{}",
            name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        ));
        std::fs::rename(path, hidden)?;
    }
    Ok(!found.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// A pipe can be flushed by nobody, so whoever asks the disk through it hears of an error.
    #[test]
    fn a_sync_ends_in_one_through_a_descriptor_of_our_own() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let mut database = Database::open(dir.path()).expect("opened");
        database.apply(vec![(b"key".to_vec(), Some(b"value".to_vec()))]).expect("applied");
        database.sync().expect("the database file can be synced");
        let (pipe, _other_end) = io::pipe().expect("a pipe");
        database.file = File::from(OwnedFd::from(pipe));
        assert!(database.sync().is_err(), "sled alone was believed");
    }

    #[test]
    fn threads_of_the_database_may_wake_late_and_no_others() {
        let slack = || {
            let own = rustix::thread::gettid().as_raw_nonzero();
            let told = std::fs::read_to_string(format!("/proc/{own}/timerslack_ns"));
            told.expect("told").trim().parse::<u64>().expect("nanoseconds")
        };
        let ours = slack();
        let theirs = with_patient_threads(|| thread::spawn(slack).join().expect("joined"));
        assert_eq!(Some(theirs), TIMER_SLACK_NANOS.map(NonZeroU64::get));
        assert_eq!((slack(), thread::spawn(slack).join().expect("joined")), (ours, ours));
    }
}
