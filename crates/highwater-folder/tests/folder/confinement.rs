//! Nobody who can write in a share leads Highwater outside it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_core::EntryKind;
use highwater_folder::{Expect, Placed, Scope};
use rustix::fs::RenameFlags;
use tempfile::TempDir;

use crate::share::{Share, key};

fn canary(beside: &Share) -> TempDir {
    let outside = TempDir::new_in(beside.dir.path().parent().expect("a parent")).expect("made");
    std::fs::write(outside.path().join("f"), "canary").expect("written");
    outside
}

fn assert_untouched(outside: &Path) {
    let names: Vec<_> =
        std::fs::read_dir(outside).expect("listed").map(|e| e.expect("e").file_name()).collect();
    assert_eq!(names, ["f"]);
    assert_eq!(std::fs::read_to_string(outside.join("f")).expect("read"), "canary");
}

#[test]
fn nothing_is_placed_deleted_or_read_through_a_link() {
    let mut share = Share::new();
    let outside = canary(&share);
    symlink(outside.path(), share.path("d")).expect("linked");
    std::fs::create_dir(share.path("real")).expect("made");
    symlink(
        format!("../../{}", outside.path().file_name().expect("n").display()),
        share.path("real/d"),
    )
    .expect("linked");
    for path in ["d/f", "d/new", "real/d/f", "real/d/new"] {
        assert!(matches!(share.place_file(path, "x", Expect::Absent), Placed::ParentMissing));
        assert!(matches!(share.place(path, EntryKind::Tombstone, Expect::Absent), Placed::Gone));
        assert!(share.root.open_content(&key(path)).is_err());
    }
    assert_untouched(outside.path());
}

/// The classic: a directory of the share is swapped for a link to elsewhere between the check and
/// the use.
#[test]
fn a_directory_swapped_for_a_link_all_the_time_leads_nowhere() {
    let mut share = Share::new();
    let outside = canary(&share);
    share.write("d/f", "inside");
    symlink(outside.path(), share.path("swap")).expect("linked");
    let done = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    let mut read = std::collections::BTreeSet::new();
    let (d, swap) = (share.path("d"), share.path("swap"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let at = rustix::fs::CWD;
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(at, &d, at, &swap, RenameFlags::EXCHANGE)
                    .expect("swapped");
            }
        });
        for round in 0..10_000 {
            match share.root.open_content(&key("d/f")) {
                Ok(file) => {
                    let mut bytes = [0; 16];
                    let length = file.read_at(0, &mut bytes).unwrap_or(0);
                    read.insert(bytes[..length].to_vec());
                    inside += 1;
                }
                Err(_) => refused += 1,
            }
            if round % 10 == 0 {
                let path = format!("d/new{round}");
                drop(share.place_file(&path, "x", Expect::Absent));
                drop(share.place(&path, EntryKind::Tombstone, share.expect(&path)));
            }
            if round % 100 == 0 {
                drop(share.try_scan(&Scope::Paths([key("d/f")].into())));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_untouched(outside.path());
    assert!(!read.contains(b"canary".as_slice()), "the file outside was read");
    assert!(inside > 0 && refused > 0, "no race: {inside} inside, {refused} refused");
}
