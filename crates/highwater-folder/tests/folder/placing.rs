//! Putting entries in place, next to people who edit them.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_core::{EntryKind, Mode};
use highwater_folder::{Expect, PlaceError, Placed, Placement, Slot};
use rustix::fs::RenameFlags;

use crate::share::{OLD, Share, changed, file_kind, key};

fn directory(mode: u32) -> EntryKind {
    EntryKind::Directory { mode: Mode::new(mode) }
}

fn link(target: &str) -> EntryKind {
    EntryKind::Symlink { target: target.into(), mtime: OLD }
}

fn is_done(placed: &Placed) -> bool {
    matches!(placed, Placed::Done { print: Some(_) })
}

#[test]
fn what_is_placed_is_found_by_the_next_scan_exactly_as_it_was_sent() {
    let mut share = Share::new();
    assert!(is_done(&share.place("d", directory(0o750), Expect::Absent)));
    let Placed::Done { print } = share.place_file("d/f", "content", Expect::Absent) else {
        panic!("placed")
    };
    assert!(is_done(&share.place("d/l", link("../nowhere"), Expect::Absent)));
    assert_eq!(changed(&share.scan()).len(), 3);
    let kind = |path: &str| share.index.0[&key(path)].kind.clone();
    assert_eq!(kind("d"), directory(0o750));
    assert_eq!(kind("d/f"), file_kind("content", 0o640));
    assert_eq!(kind("d/l"), link("../nowhere"));
    assert_eq!(share.index.0[&key("d/f")].print, print);
    assert_eq!(share.staged(), []);
}

#[test]
fn every_kind_replaces_every_kind() {
    let kinds = [file_kind("new", 0o640), link("new"), directory(0o700)];
    for (before, make) in [
        ("file", &(|share: &Share| share.write("x", "old")) as &dyn Fn(&Share)),
        ("link", &|share: &Share| symlink("old", share.path("x")).expect("linked")),
        ("directory", &|share: &Share| std::fs::create_dir(share.path("x")).expect("made")),
    ] {
        for kind in &kinds {
            let mut share = Share::new();
            make(&share);
            share.scan();
            let slot = kind.content().map(|_| share.stage("new"));
            let expect = share.expect("x");
            let placement = Placement { key: key("x"), kind: kind.clone(), slot, expect };
            let placed = share.root.place(&placement);
            assert!(is_done(&placed), "{before} to {kind:?}: {placed:?}");
            share.scan();
            assert_eq!(share.index.0[&key("x")].kind, *kind, "after {before}");
            assert_eq!(share.staged(), [], "{before} to {kind:?}");
        }
    }
}

#[test]
fn an_edit_that_came_first_stays_and_the_staged_content_too() {
    let mut share = Share::new();
    share.write("f", "first");
    share.scan();
    let expect = share.expect("f");
    share.write("f", "edited");
    for expect in [expect, Expect::Absent] {
        let placement = share.file("f", "incoming", expect);
        let placed = share.root.place(&placement);
        assert!(matches!(placed, Placed::LocallyChanged), "{placed:?}");
        assert_eq!(share.read("f"), "edited");
        assert!(share.staged().contains(&placement.slot.expect("a slot")));
    }
}

#[test]
fn a_file_that_the_user_removed_is_not_silently_put_back() {
    let mut share = Share::new();
    share.write("f", "first");
    share.scan();
    let expect = share.expect("f");
    std::fs::remove_file(share.path("f")).expect("removed");
    assert!(matches!(share.place_file("f", "incoming", expect), Placed::LocallyChanged));
    assert!(!share.path("f").exists());
}

#[test]
fn deletions_take_what_was_meant_and_nothing_else() {
    let mut share = Share::new();
    share.write("d/f", "x");
    share.write("edited", "x");
    symlink("x", share.path("l")).expect("linked");
    share.scan();
    let tombstone = || EntryKind::Tombstone;
    let expect_d = share.expect("d");
    assert!(matches!(share.place("d", tombstone(), expect_d.clone()), Placed::NotEmpty));
    for path in ["d/f", "d", "l"] {
        let placed = share.place(path, tombstone(), share.expect(path));
        assert!(matches!(placed, Placed::Gone), "{path}: {placed:?}");
        let again = share.place(path, tombstone(), share.expect(path));
        assert!(matches!(again, Placed::Gone), "{path}: {again:?}");
    }
    let expect = share.expect("edited");
    share.write("edited", "y");
    assert!(matches!(share.place("edited", tombstone(), expect), Placed::LocallyChanged));
    assert!(matches!(share.place("edited", tombstone(), Expect::Absent), Placed::LocallyChanged));
    assert_eq!(share.read("edited"), "y");
    assert_eq!(share.staged(), []);
}

/// Only the change time, which nobody can set back, tells such an edit.
#[test]
fn an_edit_that_kept_its_size_and_time_stays_too() {
    let mut share = Share::new();
    share.write("f", "one");
    share.scan();
    let time = std::fs::metadata(share.path("f")).expect("facts").modified().expect("a time");
    let expect = share.expect("f");
    share.write("f", "two");
    let file = std::fs::File::options().write(true).open(share.path("f")).expect("open");
    file.set_modified(time).expect("set");
    let deleted = share.place("f", EntryKind::Tombstone, expect.clone());
    assert!(matches!(deleted, Placed::LocallyChanged), "{deleted:?}");
    let placed = share.place("f", file_kind("one", 0o600), expect.clone());
    assert!(matches!(placed, Placed::LocallyChanged), "{placed:?}");
    let placed = share.place_file("f", "incoming", expect);
    assert!(matches!(placed, Placed::LocallyChanged), "{placed:?}");
    assert_eq!(share.read("f"), "two");
}

#[test]
fn a_directory_with_something_in_it_gives_way_to_nothing() {
    let mut share = Share::new();
    share.write("d/unknown", "mine");
    share.scan();
    let expect = share.expect("d");
    assert!(matches!(share.place_file("d", "a file", expect.clone()), Placed::NotEmpty));
    assert!(matches!(share.place("d", link("x"), expect), Placed::NotEmpty));
    assert_eq!(share.read("d/unknown"), "mine");
}

#[test]
fn a_place_without_its_directory_is_told_so() {
    let mut share = Share::new();
    share.write("file", "x");
    symlink("/tmp", share.path("link")).expect("linked");
    for path in ["missing/f", "file/f", "link/f"] {
        let placed = share.place_file(path, "x", Expect::Absent);
        assert!(matches!(placed, Placed::ParentMissing), "{path}: {placed:?}");
        let placed = share.place(path, EntryKind::Tombstone, Expect::Absent);
        assert!(matches!(placed, Placed::Gone), "{path}: {placed:?}");
    }
}

#[test]
fn metadata_changes_without_touching_the_content() {
    let mut share = Share::new();
    share.write("f", "content");
    std::fs::create_dir(share.path("d")).expect("made");
    share.scan();
    let inode = std::fs::metadata(share.path("f")).expect("facts").ino();
    let placed = share.place("f", file_kind("content", 0o400), share.expect("f"));
    assert!(matches!(placed, Placed::Done { print: None }), "its time changed: {placed:?}");
    assert!(is_done(&share.place("d", directory(0o711), share.expect("d"))));
    share.scan();
    assert_eq!(share.index.0[&key("f")].kind, file_kind("content", 0o400));
    assert_eq!(share.index.0[&key("d")].kind, directory(0o711));
    assert_eq!(std::fs::metadata(share.path("f")).expect("facts").ino(), inode);
    let placed = share.place("f", file_kind("content", 0o600), share.expect("f"));
    assert!(is_done(&placed), "only its mode changed: {placed:?}");
}

#[test]
fn bits_beyond_the_nine_are_never_set_and_modes_never_wider() {
    let mut share = Share::new();
    for mode in [0o7777, 0o000, 0o200, 0o4711] {
        let slot = share.stage("x");
        let kind = file_kind("x", mode);
        let expect = Expect::Absent;
        let path = format!("m{mode:o}");
        let placed =
            share.root.place(&Placement { key: key(&path), kind, slot: Some(slot), expect });
        assert!(is_done(&placed), "{placed:?}");
        let found = std::fs::metadata(share.path(&path)).expect("facts").permissions().mode();
        assert_eq!(found & 0o7777, mode & 0o777);
    }
}

#[test]
fn replacing_one_of_two_hard_links_leaves_the_other_alone() {
    let mut share = Share::new();
    let outside = tempfile::TempDir::new_in(share.dir.path().parent().expect("a parent"))
        .expect("a directory");
    let other = outside.path().join("other");
    std::fs::write(&other, "shared").expect("written");
    std::fs::hard_link(&other, share.path("f")).expect("linked");
    share.scan();
    let expect = share.expect("f");
    assert!(is_done(&share.place_file("f", "incoming", expect)));
    assert_eq!(share.read("f"), "incoming");
    assert_eq!(std::fs::read_to_string(&other).expect("read"), "shared");
}

#[test]
fn a_staged_content_that_is_not_whole_is_refused() {
    let mut share = Share::new();
    let slot = share.stage("half");
    let kind = file_kind("a whole content", 0o600);
    let placement = |slot| Placement {
        key: key("f"),
        kind: kind.clone(),
        slot: Some(slot),
        expect: Expect::Absent,
    };
    for slot in [slot, Slot::fresh(999)] {
        let placed = share.root.place(&placement(slot));
        assert!(matches!(placed, Placed::Failed(PlaceError::Staged { .. })), "{placed:?}");
    }
    assert!(!share.path("f").exists());
}

#[test]
fn a_name_that_the_file_system_refuses_is_one_entrys_problem() {
    let mut share = Share::new();
    let too_long_a_target = link(&"x".repeat(5000));
    let placed = share.place("l", too_long_a_target, Expect::Absent);
    assert!(matches!(placed, Placed::Failed(PlaceError::Name(_))), "{placed:?}");
    assert!(is_done(&share.place_file(&"n".repeat(255), "x", Expect::Absent)));
}

/// A user exchanges the file for the next version as fast as possible and looks at what came out;
/// the engine replaces it all the while. Every version of the user's must be accounted for: it came
/// out again, or the engine had read it before it replaced it, or it was kept.
#[test]
fn no_version_is_lost_between_an_edit_and_an_exchange() {
    const VERSIONS: usize = 3000;
    let mut share = Share::new();
    let own = tempfile::TempDir::new_in(share.dir.path().parent().expect("a parent"))
        .expect("a directory");
    share.write("f", "user 0");
    for version in 1..VERSIONS {
        let path = own.path().join(version.to_string());
        std::fs::write(path, format!("user {version}")).expect("written");
    }
    let done = AtomicBool::new(false);
    let mut seen = BTreeSet::new();
    let (mut replaced, mut refused) = (0, 0);
    let target = share.path("f");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let at = rustix::fs::CWD;
            for version in 1..VERSIONS {
                let next = own.path().join(version.to_string());
                rustix::fs::renameat_with(at, &next, at, &target, RenameFlags::EXCHANGE)
                    .expect("exchanged");
                // Now and then long enough for the engine to get through.
                (0..version % 20 * 1000).for_each(|_| std::hint::spin_loop());
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let file = share.root.open_content(&key("f")).expect("never absent");
            let print = file.print().expect("a print");
            let mut bytes = [0; 32];
            let length = file.read_at(0, &mut bytes).expect("read");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let expect = Expect::Present { kind: file_kind(&text, 0o600), print };
            match share.place_file("f", "engine", expect) {
                Placed::Done { .. } => {
                    replaced += 1;
                    seen.insert(text);
                }
                Placed::LocallyChanged | Placed::Kept(_) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    });
    let left = std::fs::read_dir(own.path()).expect("a directory").map(|e| e.expect("e").path());
    for path in left.chain(share.kept()).chain([share.path("f")]) {
        seen.insert(std::fs::read_to_string(path).expect("read"));
    }
    for version in 0..VERSIONS {
        assert!(seen.contains(&format!("user {version}")), "version {version} was lost");
    }
    assert!(replaced > 0 && refused > 0, "no race: {replaced} replaced, {refused} refused");
}
