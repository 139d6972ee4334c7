//! Opening a store: what a crash, another descriptor and damage leave in its directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use highwater_core::{Epoch, ShareName};
use highwater_store::{Commit, OpenError, ShareNumber, ShareRow, Store};
use tempfile::TempDir;

/// Shares that every commit of these tests records: enough that they do not fit into one leaf.
const SHARES: u32 = 50;

fn dir() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

fn open(dir: &Path) -> Store {
    Store::open(dir).expect("opened")
}

/// Makes a store in which every share was recorded at each of the generations, one after another.
fn fill(dir: &Path, generations: u64) {
    let store = open(dir);
    for generation in 1..=generations {
        let mut commit = Commit::new();
        for share in 0..SHARES {
            let (number, epoch) = (ShareNumber(share), Epoch([1; 16]));
            let row = ShareRow { number, epoch, generation, raising: generation };
            commit.put_share(&format!("share-{share}").parse().expect("a name"), &row);
        }
        store.commit(commit).expect("committed");
    }
}

/// At which generations the shares are, and how many of them there are.
fn found(store: &Store) -> (BTreeSet<u64>, usize) {
    let names = store.shares().expect("the shares");
    let row = |name: &ShareName| store.share(name).expect("readable").expect("listed");
    (names.iter().map(|name| row(name).generation).collect(), names.len())
}

/// The files whose names contain `part`.
fn files(dir: &Path, part: &str) -> Vec<String> {
    let names =
        fs::read_dir(dir).expect("a directory").map(|file| file.expect("a file").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.contains(part)).collect()
}

#[test]
fn an_interrupted_snapshot_is_removed_and_does_not_stop_the_next_open() {
    for half_written in ["", "half a snapshot"] {
        let dir = dir();
        fill(dir.path(), 3);
        let path = dir.path().join("snap.00000000FFFFFFFF.generating");
        fs::write(&path, half_written).expect("written");
        assert_eq!(found(&open(dir.path())), ([3].into(), 50), "{half_written:?}");
        assert!(!path.exists());
        assert_eq!(files(dir.path(), "aside-"), [""; 0], "nothing was damaged");
    }
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_the_log_is_read_from_its_beginning() {
    let dir = dir();
    fill(dir.path(), 3);
    drop(open(dir.path()));
    let snapshots = files(dir.path(), "snap.");
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    fs::write(dir.path().join(&snapshots[0]), "no snapshot at all").expect("written");
    assert_eq!(found(&open(dir.path())), ([3].into(), 50));
    assert_eq!(files(dir.path(), "aside-"), [format!("aside-{}.damaged", snapshots[0])]);
}

#[test]
fn a_damaged_store_says_where_it_lies_and_what_to_do_and_keeps_its_rows() {
    let dir = dir();
    fill(dir.path(), 3);
    let path = dir.path().join("conf");
    let intact = fs::read(&path).expect("readable");
    fs::write(&path, "not what was written").expect("written");
    let error = Store::open(dir.path()).expect_err("damaged");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    for part in [&*dir.path().to_string_lossy(), "is damaged", "move that directory away"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    fs::write(&path, intact).expect("written");
    assert_eq!(found(&open(dir.path())), ([3].into(), 50));
}

/// The database opened its files through links, and wrote its own header over what they led to.
#[test]
fn a_link_in_the_place_of_a_file_is_refused_and_not_written_through() {
    let (dir, elsewhere) = (dir(), dir());
    fill(dir.path(), 1);
    for name in ["db", "conf"] {
        let (file, other) = (dir.path().join(name), elsewhere.path().join(name));
        fs::write(&other, "yellow").expect("written");
        let kept = fs::read(&file).expect("a file of the store");
        fs::remove_file(&file).expect("removed");
        std::os::unix::fs::symlink(&other, &file).expect("a link");
        let refused = Store::open(dir.path()).expect_err(name).to_string();
        assert!(refused.contains(name) && refused.contains("is a link"), "{refused}");
        assert_eq!(fs::read(&other).expect("still there"), b"yellow", "{name}");
        fs::remove_file(&file).expect("removed");
        fs::write(&file, kept).expect("put back");
    }
    assert_eq!(found(&open(dir.path())), ([1].into(), 50));
}

#[test]
fn a_log_that_ends_early_is_an_older_store_and_never_half_a_commit() {
    let whole = dir();
    fill(whole.path(), 20);
    let log = fs::read(whole.path().join("db")).expect("readable");
    let mut seen = BTreeSet::new();
    for cut in (0..40).map(|part| log.len() * part / 40 + part * 37 % 101) {
        let dir = dir();
        fs::write(dir.path().join("db"), &log[..cut]).expect("written");
        let (generations, shares) = found(&open(dir.path()));
        let whole = (generations.len(), shares) == (1, 50);
        assert!(whole || shares == 0, "cut at {cut}: {shares} shares at {generations:?}");
        seen.extend(generations);
    }
    assert!(seen.len() > 10, "the cuts fell into few commits: {seen:?}");
}

#[test]
fn a_store_that_is_just_being_closed_is_waited_for() {
    let dir = dir();
    for _ in 0..5 {
        let (store, start) = (open(dir.path()), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                drop(store);
            });
            start.wait();
            open(dir.path());
        });
    }
}
