//! Stores that are cut off, that fail, that hold damaged rows.

use std::sync::mpsc;

use highwater_core::content::{Chunk, ChunkId};
use highwater_core::{ContentHash, Epoch, Key, NodeId, Seq};

use super::*;
use crate::memory::DiskFault;
use crate::rows::{WantClass, content_key, entry_key, log_key, part_key, peer_key, want_key};

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
