//! Hints come for every change, soon, and too many rather than too few.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use highwater_core::Key;
use highwater_folder::{Hint, IgnoreRules, Watcher};

use crate::share::{Share, key};

/// Only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Watched {
    pub(crate) share: Share,
    hints: Receiver<Hint>,
    watcher: Watcher,
}

pub(crate) fn watch(share: Share) -> Watched {
    let (send, hints) = channel();
    let rules = Arc::new(share.rules.clone());
    let on_hint = Box::new(move |hint| drop(send.send(hint)));
    let watcher = Watcher::start(Arc::clone(&share.root), rules, on_hint).expect("a watcher");
    Watched { share, hints, watcher }
}

impl Watched {
    /// Waits for one hint and passes over others.
    pub(crate) fn await_hint(&self, wanted: impl Fn(&Hint) -> bool) {
        while !wanted(&self.hints.recv_timeout(PATIENCE).expect("the hint comes")) {}
    }

    /// Waits until all these paths were hinted at, themselves or by a directory above them.
    pub(crate) fn await_hints(&self, paths: &[&str]) -> BTreeSet<Key> {
        let mut left: BTreeSet<Key> = paths.iter().map(|path| key(path)).collect();
        let mut hinted = BTreeSet::new();
        while !left.is_empty() {
            match self.hints.recv_timeout(PATIENCE) {
                Ok(Hint::Paths(keys)) => {
                    left.retain(|k| !keys.iter().any(|hint| k == hint || k.is_inside(hint)));
                    hinted.extend(keys);
                }
                other => panic!("{other:?} while waiting for {left:?}"),
            }
        }
        hinted
    }
}

#[test]
fn every_kind_of_change_is_hinted_at() {
    let share = Share::new();
    for path in ["d/changed", "d/removed", "d/renamed", "d/chmod"] {
        share.write(path, "x");
    }
    let watched = watch(share);
    let share = &watched.share;
    share.write("d/new", "x");
    share.write("d/changed", "y");
    std::fs::remove_file(share.path("d/removed")).expect("removed");
    std::fs::rename(share.path("d/renamed"), share.path("moved")).expect("renamed");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(share.path("d/chmod"), mode).expect("set");
    symlink("x", share.path("link")).expect("linked");
    std::fs::hard_link(share.path("d/changed"), share.path("hard")).expect("linked");
    watched.await_hints(&[
        "d/new",
        "d/changed",
        "d/removed",
        "d/renamed",
        "moved",
        "d/chmod",
        "link",
        "hard",
    ]);
}

#[test]
fn a_file_that_stays_open_is_hinted_at_too() {
    use std::io::Write;
    let watched = watch(Share::new());
    let mut file = std::fs::File::create(watched.share.path("open")).expect("created");
    file.write_all(b"x").expect("written");
    watched.await_hints(&["open"]);
    file.write_all(b"y").expect("written");
    watched.await_hints(&["open"]);
}

#[test]
fn a_tree_that_is_moved_in_is_watched_and_one_moved_away_has_its_new_name() {
    let share = Share::new();
    share.write("old/deep/f", "x");
    let watched = watch(share);
    let share = &watched.share;
    let outside = tempfile::TempDir::new_in(share.dir.path().parent().expect("a parent"))
        .expect("a directory");
    std::fs::create_dir_all(outside.path().join("tree/deep")).expect("made");
    std::fs::rename(outside.path().join("tree"), share.path("tree")).expect("moved in");
    std::fs::rename(share.path("old"), share.path("new")).expect("renamed");
    watched.await_hints(&["tree", "old", "new"]);
    share.write("tree/deep/f", "x");
    share.write("new/deep/g", "x");
    let hinted = watched.await_hints(&["tree/deep/f", "new/deep/g"]);
    assert!(!hinted.iter().any(|k| k.is_inside(&key("old"))), "{hinted:?}");
}

#[test]
fn a_tree_that_was_moved_away_is_no_longer_listened_to() {
    let share = Share::new();
    share.write("away/deep/f", "x");
    let watched = watch(share);
    let share = &watched.share;
    let outside = tempfile::TempDir::new_in(share.dir.path().parent().expect("a parent"))
        .expect("a directory");
    std::fs::rename(share.path("away"), outside.path().join("away")).expect("moved away");
    watched.await_hints(&["away"]);
    std::fs::write(outside.path().join("away/deep/f"), "y").expect("written");
    share.write("last", "x");
    let hinted = watched.await_hints(&["last"]);
    assert_eq!(hinted, BTreeSet::from([key("last")]));
}

#[test]
fn nothing_is_missed_in_directories_that_are_made_and_filled_at_once() {
    let watched = watch(Share::new());
    let mut paths = Vec::new();
    for round in 0..100 {
        let path = format!("r{round}/a/b/c/file");
        watched.share.write(&path, "x");
        paths.push(path);
    }
    watched.await_hints(&paths.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn scanning_and_our_own_directory_give_no_hints() {
    let mut share = Share::new();
    share.write("f", "x");
    share.rules = IgnoreRules::parse("*.tmp\n/build/\n").0;
    std::fs::create_dir(share.path("build")).expect("made");
    let mut watched = watch(share);
    watched.share.scan();
    watched.share.stage("staged");
    watched.share.write("ignored.tmp", "x");
    watched.share.write("build/out", "x");
    watched.share.write("last", "x");
    let hinted = watched.await_hints(&["last"]);
    assert_eq!(hinted, BTreeSet::from([key("last")]));
}

#[test]
fn lost_events_mean_that_everything_is_scanned_and_watching_goes_on() {
    let share = Share::new();
    let (send, hints) = channel();
    let (release, held) = channel::<()>();
    // The first hint is held until more has happened than the kernel keeps for us.
    let held = std::sync::Mutex::new(Some(held));
    let on_hint = Box::new(move |hint| {
        drop(send.send(hint));
        if let Some(held) = held.lock().expect("a lock").take() {
            held.recv().expect("released");
        }
    });
    let rules = Arc::new(IgnoreRules::none());
    let watcher = Watcher::start(Arc::clone(&share.root), rules, on_hint).expect("a watcher");
    share.write("first", "x");
    hints.recv_timeout(PATIENCE).expect("a hint");
    std::fs::create_dir(share.path("many")).expect("made");
    for number in 0..20_000 {
        let (from, to) = (share.path(&format!("many-{number}")), share.path("many"));
        std::fs::write(&from, "x").expect("written");
        std::fs::rename(&from, to.join("x")).expect("renamed");
    }
    release.send(()).expect("held");
    while hints.recv_timeout(PATIENCE).expect("a hint") != Hint::Everything {}
    let watched = Watched { share, hints, watcher };
    loop {
        watched.share.write("many/later", "x");
        match watched.hints.recv_timeout(PATIENCE).expect("a hint") {
            Hint::Paths(keys) if keys.contains(&key("many/later")) => break,
            _ => {}
        }
    }
}

#[test]
fn a_root_that_is_removed_or_renamed_is_said_to_be_gone() {
    type Harm = fn(&Share);
    let rows: [Harm; 2] = [
        |share| std::fs::remove_dir_all(share.dir.path()).expect("removed"),
        |share| {
            let away = share.dir.path().with_extension("away");
            std::fs::rename(share.dir.path(), &away).expect("renamed");
            std::fs::remove_dir_all(away).expect("removed");
        },
    ];
    for harm in rows {
        let watched = watch(Share::new());
        harm(&watched.share);
        while watched.hints.recv_timeout(PATIENCE).expect("a hint") != Hint::RootGone {}
    }
}

#[test]
fn a_dropped_watcher_is_a_stopped_one() {
    let watched = watch(Share::new());
    let Watched { share, hints, watcher } = watched;
    drop(watcher);
    share.write("f", "x");
    assert!(hints.recv().is_err(), "the thread and its end of the channel are gone");
}
