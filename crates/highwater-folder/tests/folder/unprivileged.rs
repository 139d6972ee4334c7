//! What a user who is not root meets: files and directories that they may not read or write. Root
//! may do everything, so these run in a child process of another user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use highwater_core::{EntryKind, Mode};
use highwater_folder::{Expect, Hint, Placed, ProblemKind, Scope};
use tempfile::TempDir;

use crate::share::{Share, gone, key, problems};
use crate::watching::watch;

/// The user that owns nothing, on every Linux.
const NOBODY: u32 = 65534;

/// Runs one of the ignored tests below as a user without rights.
fn as_nobody(test: &str) {
    if !rustix::process::geteuid().is_root() {
        return run_here(test);
    }
    let home = TempDir::new().expect("a directory");
    let program = home.path().join("tests");
    std::fs::copy(std::env::current_exe().expect("a program"), &program).expect("copied");
    for path in [home.path(), &program] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("set");
        chown(path, Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    let output = Command::new(&program)
        .args(["--exact", &format!("unprivileged::{test}"), "--ignored", "--nocapture"])
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

fn run_here(test: &str) {
    match test {
        "unreadable" => unreadable(),
        "closed_then_opened" => closed_then_opened(),
        "without_files" => without_files(),
        _ => read_only(),
    }
}

fn chmod(share: &Share, path: &str, mode: u32) {
    std::fs::set_permissions(share.path(path), PermissionsExt::from_mode(mode)).expect("set");
}

#[test]
fn what_may_not_be_read_is_a_problem_and_never_a_deletion() {
    as_nobody("unreadable");
}

#[test]
fn a_directory_that_is_opened_up_is_watched_from_then_on() {
    as_nobody("closed_then_opened");
}

#[test]
fn a_tree_that_could_not_be_watched_for_want_of_files_is_watched_later() {
    as_nobody("without_files");
}

#[test]
fn a_read_only_directory_takes_changes_and_stays_read_only() {
    as_nobody("read_only");
}

#[test]
#[ignore = "run as another user by the test above"]
fn unreadable() {
    let mut share = Share::new();
    share.write("closed/a/b", "x");
    share.write("blind/a", "x");
    share.write("secret", "x");
    share.write("open", "x");
    share.scan();
    let before = share.index.0.len();
    chmod(&share, "closed", 0o000);
    chmod(&share, "blind", 0o600);
    share.write("secret", "changed");
    chmod(&share, "secret", 0o000);
    let findings = share.scan();
    let found: Vec<_> = problems(&findings).iter().map(|p| (p.path.as_str(), p.kind)).collect();
    let unreadable = ProblemKind::Unreadable;
    assert!(found.contains(&("closed", unreadable)), "{found:?}");
    assert!(found.contains(&("secret", unreadable)), "{found:?}");
    assert_eq!(gone(&findings), [""; 0]);
    for path in ["closed/a/b", "blind/a"] {
        let findings = share.scan_paths(&[path]);
        assert_eq!(gone(&findings), [""; 0], "{path}");
    }
    assert_eq!(share.index.0.len(), before);
    for path in ["closed", "blind"] {
        chmod(&share, path, 0o700);
    }
    share.scan();
    closed_during_a_scan(&mut share);
}

/// What was missing when the directory could be read must be proved missing when it is reported.
fn closed_during_a_scan(share: &mut Share) {
    std::fs::remove_file(share.path("blind/a")).expect("removed");
    share.write("open", "changed");
    let mut findings = Vec::new();
    let progress = highwater_folder::ScanProgress::default();
    let (root, rules, index) = (&share.root, &share.rules, &share.index);
    highwater_folder::scan(root, &Scope::Whole, rules, index, &progress, &mut |finding| {
        chmod(share, "blind", 0o000);
        findings.push(finding);
        std::ops::ControlFlow::Continue(())
    })
    .expect("a scan");
    chmod(share, "blind", 0o700);
    assert_eq!(gone(&findings), [""; 0]);
    let paths: Vec<_> = problems(&findings).iter().map(|p| p.path.as_str()).collect();
    assert!(paths.contains(&"blind/a"), "{findings:?}");
}

/// A directory was closed when the watcher met it, as after a restart, and opened up later. It was
/// scanned then, and never watched: what was changed in it afterwards waited for the next whole
/// scan, an hour.
#[test]
#[ignore = "run as another user by the test above"]
fn closed_then_opened() {
    let share = Share::new();
    share.write("closed/below/a", "x");
    chmod(&share, "closed", 0o000);
    let watched = watch(share);
    chmod(&watched.share, "closed", 0o700);
    watched.await_hints(&["closed"]);
    watched.share.write("closed/b", "x");
    watched.share.write("closed/below/c", "x");
    watched.await_hints(&["closed/b", "closed/below/c"]);
}

/// The process had no open files left for a moment while a directory came up. It was taken for the
/// kernel's limit of watches, and the directory was never watched: its changes waited for the next
/// whole scan.
#[test]
#[ignore = "run as another user by the test above"]
fn without_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let watched = watch(Share::new());
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit { current: Some(0), ..before };
    setrlimit(Resource::Nofile, none).expect("lowered");
    std::fs::create_dir(watched.share.path("d")).expect("made");
    watched.await_hint(|hint| matches!(hint, Hint::Degraded(_)));
    setrlimit(Resource::Nofile, before).expect("raised again");
    watched.await_hint(|hint| matches!(hint, Hint::Restored));
    watched.await_hint(|hint| matches!(hint, Hint::Everything));
    watched.share.write("d/new", "x");
    watched.await_hints(&["d/new"]);
}

#[test]
#[ignore = "run as another user by the test above"]
fn read_only() {
    let mut share = Share::new();
    share.write("d/old", "x");
    share.write("d/doomed", "x");
    share.write("unreadable", "x");
    share.scan();
    chmod(&share, "d", 0o555);
    let (old, doomed) = (share.expect("d/old"), share.expect("d/doomed"));
    assert!(matches!(share.place_file("d/new", "x", Expect::Absent), Placed::Done { .. }));
    assert!(matches!(share.place_file("d/old", "y", old), Placed::Done { .. }));
    assert!(matches!(share.place("d/doomed", EntryKind::Tombstone, doomed), Placed::Gone));
    let sub = EntryKind::Directory { mode: Mode::new(0o500) };
    assert!(matches!(share.place("d/sub", sub, Expect::Absent), Placed::Done { .. }));
    let mode = std::fs::metadata(share.path("d")).expect("facts").permissions().mode();
    assert_eq!(mode & 0o7777, 0o555);
    assert_eq!(share.read("d/old"), "y");
    assert_eq!(share.staged(), []);
    assert!(share.root.open_content(&key("d/doomed")).is_err());
    for path in ["d", "d/sub"] {
        chmod(&share, path, 0o700);
    }
}
