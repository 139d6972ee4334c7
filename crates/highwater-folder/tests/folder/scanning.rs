//! What scans find, and what they must not.

use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_core::{ContentHash, EntryKind};
use highwater_folder::{Finding, IgnoreRules, ProblemKind, ScanProgress, Scope, scan};
use rustix::fs::{AtFlags, Timespec, Timestamps};

use crate::share::{Share, changed, gone, key, problems};

#[test]
fn a_first_scan_finds_everything_in_key_order_and_a_second_one_nothing() {
    let mut share = Share::new();
    for path in ["a/b", "a/b.txt", "a-b", "a.b", "z/y/x", "é", "with\nnewline", "-rf"] {
        share.write(path, path);
    }
    std::fs::create_dir(share.path("empty")).expect("made");
    symlink("nowhere", share.path("link")).expect("linked");
    std::thread::sleep(2 * highwater_folder::print::TICK_MAX);
    let findings = share.scan();
    let found = changed(&findings);
    let mut sorted: Vec<_> = found.iter().map(|path| key(path)).collect();
    sorted.sort();
    assert_eq!(found, sorted.iter().map(|k| k.as_str()).collect::<Vec<_>>());
    assert_eq!(found.len(), 13, "{found:?}");
    assert_eq!(share.files_hashed, 8);
    assert_eq!(share.scan(), []);
    assert_eq!(share.files_hashed, 0);
}

#[test]
fn a_scan_of_20000_unchanged_files_reads_none_of_them() {
    let mut share = Share::new();
    for dir in 0..100 {
        std::fs::create_dir(share.path(&format!("d{dir}"))).expect("made");
        for file in 0..200 {
            std::fs::write(share.path(&format!("d{dir}/f{file}")), "x").expect("written");
        }
    }
    assert_eq!(share.scan().len(), 20_100);
    assert_eq!(share.files_hashed, 20_000);
    assert_eq!(share.scan(), []);
    assert_eq!(share.files_hashed, 0);
    share.write("d7/f7", "y");
    assert_eq!(changed(&share.scan()), ["d7/f7"]);
    assert_eq!(share.files_hashed, 1);
}

#[test]
fn a_file_written_twice_at_once_is_found_with_its_last_content() {
    for round in 0..50 {
        let mut share = Share::new();
        share.write("a", "first ");
        share.scan();
        share.write("a", "second");
        share.scan();
        let Some(EntryKind::File { content, .. }) = share.index.0.get(&key("a")).map(|e| &e.kind)
        else {
            panic!("a file")
        };
        assert_eq!(*content, ContentHash::of(b"second"), "round {round}");
    }
}

#[test]
fn a_touched_file_is_told_from_a_changed_one() {
    let mut share = Share::new();
    share.write("a", "one");
    share.write("b", "one");
    share.scan();
    // Replaced by an equal file: another inode, the same content, mode and time.
    let copied = share.path("copy");
    std::fs::copy(share.path("a"), &copied).expect("copied");
    let time = std::fs::metadata(share.path("a")).expect("facts").modified().expect("a time");
    std::fs::File::options()
        .write(true)
        .open(&copied)
        .expect("open")
        .set_modified(time)
        .expect("set");
    std::fs::rename(&copied, share.path("a")).expect("renamed");
    std::fs::set_permissions(share.path("b"), PermissionsExt::from_mode(0o600)).expect("set");
    let findings = share.scan();
    assert!(
        matches!(&findings[..], [
        Finding::Touched { key: a, .. },
        Finding::Changed(b),
    ] if a.as_str() == "a" && b.key.as_str() == "b"),
        "{findings:?}"
    );
    assert_eq!(share.scan(), []);
}

#[test]
fn what_is_gone_is_reported_last_and_children_before_parents() {
    let mut share = Share::new();
    for path in ["a/b/c", "a/b/d", "e", "z"] {
        share.write(path, path);
    }
    share.scan();
    std::fs::remove_dir_all(share.path("a")).expect("removed");
    std::fs::remove_file(share.path("e")).expect("removed");
    share.write("z", "other");
    let findings = share.scan();
    assert_eq!(changed(&findings), ["z"]);
    assert_eq!(gone(&findings), ["e", "a/b/d", "a/b/c", "a/b", "a"]);
    assert!(matches!(findings[0], Finding::Changed(_)));
}

#[test]
fn a_directory_replaced_by_a_file_and_a_file_by_a_directory_are_both_found() {
    let mut share = Share::new();
    share.write("dir/child", "x");
    share.write("file", "x");
    share.scan();
    std::fs::remove_dir_all(share.path("dir")).expect("removed");
    std::fs::remove_file(share.path("file")).expect("removed");
    share.write("dir", "now a file");
    share.write("file/child", "now a directory");
    let findings = share.scan();
    let mut found = changed(&findings);
    found.sort_unstable();
    assert_eq!(found, ["dir", "file", "file/child"]);
    assert_eq!(gone(&findings), ["dir/child"]);
}

#[test]
fn links_are_found_as_text_and_followed_nowhere() {
    let outside = tempfile::TempDir::new().expect("a directory");
    std::fs::write(outside.path().join("secret"), "s").expect("written");
    let mut share = Share::new();
    let long = "x".repeat(4000);
    let targets =
        ["nowhere", "/", "..", "../..", "loop", ".highwater/marker", "/proc/self/mem", &long];
    for (number, target) in targets.iter().enumerate() {
        symlink(target, share.path(&format!("l{number}"))).expect("linked");
    }
    symlink("loop", share.path("loop")).expect("linked");
    symlink(outside.path(), share.path("out")).expect("linked");
    share.scan();
    assert_eq!(share.index.0.len(), targets.len() + 2);
    for (number, target) in targets.iter().enumerate() {
        let entry = &share.index.0[&key(&format!("l{number}"))];
        let EntryKind::Symlink { target: found, .. } = &entry.kind else { panic!("a link") };
        assert_eq!(found, target);
    }
    assert_eq!(share.files_hashed, 0);
}

#[test]
fn a_directory_replaced_by_a_link_takes_nothing_from_where_it_points() {
    let outside = tempfile::TempDir::new().expect("a directory");
    std::fs::write(outside.path().join("f"), "outside").expect("written");
    let mut share = Share::new();
    share.write("d/f", "inside");
    share.scan();
    std::fs::remove_dir_all(share.path("d")).expect("removed");
    symlink(outside.path(), share.path("d")).expect("linked");
    let findings = share.scan_paths(&["d/f"]);
    assert_eq!(changed(&findings), ["d"]);
    assert_eq!(gone(&findings), ["d/f"]);
}

#[test]
fn what_cannot_be_synced_is_listed_and_the_rest_goes_on() {
    use std::os::unix::ffi::OsStrExt;
    let mut share = Share::new();
    let odd = std::ffi::OsStr::from_bytes(b"bad-\xff");
    std::fs::write(share.dir.path().join(odd), "x").expect("written");
    rustix::fs::mkfifoat(rustix::fs::CWD, share.path("fifo"), rustix::fs::Mode::from(0o600))
        .expect("made");
    std::os::unix::net::UnixListener::bind(share.path("socket")).expect("bound");
    share.write("good", "x");
    let findings = share.scan();
    assert_eq!(changed(&findings), ["good"]);
    let kinds: Vec<_> = problems(&findings).iter().map(|problem| problem.kind).collect();
    let special = ProblemKind::SpecialFile;
    assert_eq!(kinds, [ProblemKind::BadName, special, special]);
    assert_eq!(share.files_hashed, 1);
}

#[test]
fn a_known_file_replaced_by_a_fifo_is_a_problem_and_not_a_deletion() {
    let mut share = Share::new();
    share.write("d/f", "x");
    share.scan();
    std::fs::remove_dir_all(share.path("d")).expect("removed");
    rustix::fs::mkfifoat(rustix::fs::CWD, share.path("d"), rustix::fs::Mode::from(0o600))
        .expect("made");
    let findings = share.scan();
    assert_eq!(problems(&findings)[0].kind, ProblemKind::SpecialFile);
    assert_eq!(gone(&findings), [""; 0]);
}

#[test]
fn a_tree_too_deep_for_a_key_is_listed_and_hurts_nobody() {
    let mut share = Share::new();
    share.write("good", "x");
    let mut dir = rustix::fs::open(
        share.dir.path(),
        rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .expect("open");
    for _ in 0..400 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::from(0o700)).expect("made");
        let flags = rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).expect("open");
    }
    let findings = share.scan();
    assert_eq!(changed(&findings).len(), 257);
    assert_eq!(problems(&findings)[0].kind, ProblemKind::BadName);
}

#[test]
fn ignored_paths_are_neither_found_nor_gone() {
    let mut share = Share::new();
    share.write("build/out", "x");
    share.write("src/main", "x");
    share.write("gone.tmp", "x");
    share.scan();
    std::fs::remove_file(share.path("gone.tmp")).expect("removed");
    share.write("build/out", "changed");
    share.write("new.tmp", "x");
    share.write(".highwaterignore", "/build/\n*.tmp\n");
    let (rules, problems) = IgnoreRules::load(&share.root);
    assert_eq!(problems, []);
    share.rules = rules;
    let findings = share.scan();
    assert_eq!(changed(&findings), [".highwaterignore"]);
    assert_eq!(gone(&findings), [""; 0]);
    assert_eq!(share.scan_paths(&["build/out", "new.tmp"]), []);
    std::fs::remove_dir_all(share.path("build")).expect("removed");
    assert_eq!(share.scan(), []);
}

#[test]
fn ignore_rules_that_cannot_be_read_hold_everything_back() {
    let mut share = Share::new();
    share.write("secret", "x");
    let outside = tempfile::NamedTempFile::new().expect("a file");
    type Harm = fn(&Share, &std::path::Path);
    let rows: [Harm; 3] = [
        |share, outside| symlink(outside, share.path(".highwaterignore")).expect("linked"),
        |share, _| share.write(".highwaterignore", "x\n".repeat(40_000)),
        |share, _| share.write(".highwaterignore", b"\xff\xfe"),
    ];
    for harm in rows {
        let _ = std::fs::remove_file(share.path(".highwaterignore"));
        harm(&share, outside.path());
        let (rules, problems) = IgnoreRules::load(&share.root);
        assert_eq!(problems[0].kind, ProblemKind::IgnoreRules);
        share.rules = rules;
        assert!(!changed(&share.scan()).contains(&"secret"));
    }
}

#[test]
fn a_hint_at_a_path_finds_the_directories_that_lead_to_it() {
    let mut share = Share::new();
    share.write("a/b/c/file", "x");
    share.write("other", "x");
    let findings = share.scan_paths(&["a/b/c/file"]);
    assert_eq!(changed(&findings).len(), 4);
    assert!(!share.index.0.contains_key(&key("other")));
    std::fs::remove_dir_all(share.path("a/b")).expect("removed");
    let findings = share.scan_paths(&["a/b/c/file"]);
    assert_eq!(gone(&findings), ["a/b/c/file", "a/b/c", "a/b"]);
    assert_eq!(share.scan_paths(&["nowhere", "nowhere/at/all"]), []);
}

#[test]
fn a_file_that_is_written_without_a_pause_is_put_off_and_found_once_it_is_calm() {
    use std::os::unix::fs::FileExt;
    let mut share = Share::new();
    share.write("busy", "0".repeat(300_000));
    share.write("calm", "x");
    let stop = Arc::new(AtomicBool::new(false));
    let file = std::fs::File::options().write(true).open(share.path("busy")).expect("open");
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let offset = round * 4096 % 300_000;
                file.write_all_at(&round.to_be_bytes(), offset).expect("written");
            }
        }
    });
    let findings = share.scan();
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    assert!(changed(&findings).contains(&"calm"));
    share.scan();
    let content = std::fs::read(share.path("busy")).expect("read");
    let Some(EntryKind::File { content: found, .. }) =
        share.index.0.get(&key("busy")).map(|entry| &entry.kind)
    else {
        panic!("found once it is calm")
    };
    assert_eq!(*found, ContentHash::of(&content));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_and_never_reported_torn() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = 256 << 20;
    let share = Share::new();
    share.write("big", "");
    let file = std::fs::File::options().write(true).open(share.path("big")).expect("open");
    file.set_len(SIZE).expect("extended");
    let progress = ScanProgress::default();
    let mut findings = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while progress.bytes_hashed.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            // One end has been read, the other has not.
            file.write_all_at(b"new", 0).expect("written");
            file.write_all_at(b"new", SIZE - 3).expect("written");
        });
        let (root, rules, index) = (&share.root, &share.rules, &share.index);
        let found = &mut |finding| {
            findings.push(finding);
            ControlFlow::Continue(())
        };
        scan(root, &Scope::Whole, rules, index, &progress, found).expect("a scan");
    });
    assert_eq!(progress.files_hashed.load(Ordering::Relaxed), 2, "read twice");
    let hash = highwater_folder::hash_file(&share.path("big")).expect("a hash");
    let [Finding::Changed(seen)] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(seen.kind.content(), Some((hash, SIZE)));
}

#[test]
fn a_clock_that_was_set_back_does_not_keep_files_fresh_for_ever() {
    let mut share = Share::new();
    share.write("future", "x");
    let ahead = Timespec { tv_sec: 4_000_000_000, tv_nsec: 5 };
    let times = Timestamps { last_access: ahead, last_modification: ahead };
    rustix::fs::utimensat(rustix::fs::CWD, share.path("future"), &times, AtFlags::empty())
        .expect("set");
    assert_eq!(changed(&share.scan()), ["future"]);
}

#[test]
fn editors_ways_of_saving_are_one_change_each() {
    type Save = fn(&Share);
    let rows: [(&str, Save); 4] = [
        ("truncate and write", |share| share.write("doc", "second")),
        ("rename over", |share| {
            share.write("doc.swp", "second");
            std::fs::rename(share.path("doc.swp"), share.path("doc")).expect("renamed");
        }),
        ("backup and rename", |share| {
            std::fs::rename(share.path("doc"), share.path("doc~")).expect("renamed");
            share.write("doc", "second");
            std::fs::remove_file(share.path("doc~")).expect("removed");
        }),
        ("exchange", |share| {
            share.write("doc.new", "second");
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            let at = rustix::fs::CWD;
            rustix::fs::renameat_with(at, share.path("doc.new"), at, share.path("doc"), exchange)
                .expect("exchanged");
            std::fs::remove_file(share.path("doc.new")).expect("removed");
        }),
    ];
    for (way, save) in rows {
        let mut share = Share::new();
        share.write("doc", "first");
        share.scan();
        save(&share);
        let findings = share.scan();
        assert_eq!(changed(&findings), ["doc"], "{way}");
        assert_eq!(findings.len(), 1, "{way}");
    }
}

#[test]
fn a_scan_stops_when_it_is_told_to_and_takes_nothing_for_gone() {
    let mut share = Share::new();
    share.write("a", "x");
    share.write("b", "x");
    share.scan();
    std::fs::remove_file(share.path("a")).expect("removed");
    let progress = highwater_folder::ScanProgress::default();
    progress.cancel();
    let result = highwater_folder::scan(
        &share.root,
        &Scope::Whole,
        &share.rules,
        &share.index,
        &progress,
        &mut |finding| panic!("{finding:?}"),
    );
    assert!(matches!(result, Err(highwater_folder::ScanError::Stopped)));
}

/// Mounts over a directory of a share, and takes the mount away again whatever happens.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn bind(from: &std::path::Path, over: std::path::PathBuf) -> Self {
        let status =
            std::process::Command::new("mount").arg("--bind").arg(from).arg(&over).status();
        assert!(status.expect("mount").success());
        Self(over)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// Bound from the same file system, so that not even the device number tells.
#[test]
#[ignore = "mounts, so it needs root"]
fn what_a_mount_covers_is_untouched_and_the_mount_is_not_entered() {
    let mut share = Share::new();
    share.write("dir/a/b", "x");
    share.write("file", "x");
    share.scan();
    let outside = tempfile::TempDir::new_in(share.dir.path().parent().expect("a parent"))
        .expect("a directory");
    std::fs::write(outside.path().join("foreign"), "x").expect("written");
    let _over_dir = Mounted::bind(outside.path(), share.path("dir"));
    let _over_file = Mounted::bind(&outside.path().join("foreign"), share.path("file"));
    let _loop = {
        std::fs::create_dir(share.path("loop")).expect("made");
        Mounted::bind(share.dir.path(), share.path("loop"))
    };
    for findings in [share.scan(), share.scan_paths(&["dir/a/b", "file"])] {
        assert_eq!(gone(&findings), [""; 0]);
        assert_eq!(changed(&findings), [""; 0]);
        assert!(problems(&findings).iter().all(|p| p.kind == ProblemKind::MountPoint));
        assert!(problems(&findings).len() >= 2, "{findings:?}");
    }
    let tombstone = highwater_core::EntryKind::Tombstone;
    let placed = share.place("dir/a/b", tombstone, share.expect("dir/a/b"));
    assert!(matches!(placed, highwater_folder::Placed::Failed(_)), "{placed:?}");
    let placed = share.place_file("dir/new", "x", highwater_folder::Expect::Absent);
    assert!(matches!(placed, highwater_folder::Placed::Failed(_)), "{placed:?}");
}
