//! The store against plain maps. Random histories of commits, closings, drops of shares and crashes
//! are played on a store and on a model; after every few steps every read of the store must say
//! what the model says. A crash is a copy of the directory, taken while the store is open, right
//! after a commit returned. Life goes on in the copy, so what was committed and is missing there is
//! found.
//!
//! It proves that the changes of a commit take effect in their order, that rows of one kind, share
//! or content are never taken for another's, that keys come in the order of their components, that
//! nothing of a dropped share is left, and that what is stored in parts is put together again. The
//! model sorts keys as lists of names, so it shares no ordering with the store. What a power cut
//! leaves of unsynced pages it cannot show: a copy reads through the page cache.

mod rows;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use highwater_core::{Key, ShareName};
use highwater_store::{Commit, ShareNumber, ShareRow, Store, WantClass};
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;

use crate::rows::{CLASSES, STAGED_CHUNKS, keys, share_name};
use crate::share::Share;

/// A name, one that begins with it, and one before both.
const SHARES: [&str; 3] = ["docs", "docs-2", "D"];
/// Steps from one comparison of everything to the next.
const STEPS_UNCHECKED: usize = 3;

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Append,
    PutEntry,
    ForgetEntry,
    PutWant(WantClass),
    DeleteWant(WantClass),
    PutPeer,
    PutManifest,
    DeleteManifest,
    PutStage,
    DeleteStage,
}

/// One change of a commit. Whatever a row holds beside its key is drawn from `salt`.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    what: What,
    key: Key,
    /// Which of the contents, by its index in [`STAGED_CHUNKS`].
    content: usize,
    salt: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Commit(&'static str, Vec<Change>),
    Reopen,
    Crash,
    DropShare(&'static str),
}

fn change() -> impl Strategy<Value = Change> {
    let class = select(CLASSES.to_vec());
    let what = prop_oneof![
        6 => Just(What::Append),
        1 => Just(What::PutEntry),
        1 => Just(What::ForgetEntry),
        3 => class.clone().prop_map(What::PutWant),
        2 => class.prop_map(What::DeleteWant),
        1 => Just(What::PutPeer),
        1 => Just(What::PutManifest),
        1 => Just(What::DeleteManifest),
        5 => Just(What::PutStage),
        3 => Just(What::DeleteStage),
    ];
    (what, select(keys()), 0..STAGED_CHUNKS.len(), any::<u64>())
        .prop_map(|(what, key, content, salt)| Change { what, key, content, salt })
}

fn step() -> impl Strategy<Value = Step> {
    let share = select(SHARES.to_vec());
    let changes = prop::collection::vec(change(), 0..16);
    prop_oneof![
        20 => (share.clone(), changes).prop_map(|(share, changes)| Step::Commit(share, changes)),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
        1 => share.prop_map(Step::DropShare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_reads_like_maps_through_commits_reopenings_crashes_and_drops(
        steps in prop::collection::vec(step(), 1..=40),
    ) {
        let mut world = World::new();
        for (count, step) in steps.into_iter().enumerate() {
            world.play(step);
            if count % STEPS_UNCHECKED == 0 {
                world.check();
            }
        }
        world.reopen();
        world.check();
    }
}

/// The store, and what should be in it.
struct World {
    dir: TempDir,
    store: Option<Store>,
    shares: BTreeMap<&'static str, Share>,
    /// Numbers that shares once had.
    numbers: BTreeSet<ShareNumber>,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let store = Some(Store::open(dir.path()).expect("a new store"));
        Self { dir, store, shares: BTreeMap::new(), numbers: BTreeSet::new() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between the steps")
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Commit(name, changes) => self.commit(name, &changes),
            Step::Reopen => self.reopen(),
            Step::Crash => self.crash(),
            Step::DropShare(name) => {
                self.store().drop_share(&share_name(name)).expect("dropped");
                self.shares.remove(name);
            }
        }
    }

    fn commit(&mut self, name: &'static str, changes: &[Change]) {
        let mut commit = Commit::new();
        let unused = self.store().unused_share_number().expect("a number");
        let taken = self.shares.values().any(|share| share.row.number == unused);
        assert!(!taken, "{unused:?} is in use");
        let share = self.shares.entry(name).or_insert_with(|| Share::new(unused));
        share.row.generation += 1;
        commit.put_share(&share_name(name), &share.row);
        self.numbers.insert(share.row.number);
        for change in changes {
            share.apply(change, &mut commit);
        }
        self.store().commit(commit).expect("committed");
    }

    fn reopen(&mut self) {
        drop(self.store.take());
        self.store = Some(Store::open(self.dir.path()).expect("opened again"));
    }

    fn crash(&mut self) {
        let after = TempDir::new().expect("a temporary directory");
        copy(self.dir.path(), after.path());
        self.store = Some(Store::open(after.path()).expect("opened after a crash"));
        self.dir = after;
        self.check();
    }

    fn check(&self) {
        let store = self.store();
        let named = |(name, share): (&&str, &Share)| (share_name(name), share.row.clone());
        let expected: BTreeMap<ShareName, ShareRow> = self.shares.iter().map(named).collect();
        let names = store.shares().expect("the shares");
        assert!(names.iter().eq(expected.keys()), "{names:?}");
        for name in SHARES.map(share_name) {
            assert_eq!(store.share(&name).expect("readable"), expected.get(&name).cloned());
        }
        for &number in &self.numbers {
            let dropped = Share::new(number);
            let live = self.shares.values().find(|share| share.row.number == number);
            live.unwrap_or(&dropped).check(store);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("an entry");
        let target = to.join(file.file_name());
        if file.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("made");
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("copied");
        }
    }
}
