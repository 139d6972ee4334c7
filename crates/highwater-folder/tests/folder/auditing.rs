//! Reading everything again: what is found to differ, and how it came about.

use std::fs::{File, FileTimes};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, PermissionsExt};

use highwater_core::{EntryKind, Key, Mode};
use highwater_folder::{
    Audit, AuditSink, Discord, DiscordCause, Finding, Found, Known, KnownEntry, StatPrint,
};

use crate::share::{Share, key};

/// Remembers what it was told.
#[derive(Default)]
struct Told {
    passed: Vec<Key>,
    discords: Vec<Discord>,
    bytes: u64,
    stop_after: Option<usize>,
}

impl AuditSink for Told {
    fn read(&mut self, _: &Key, bytes: u64) -> ControlFlow<()> {
        self.bytes += bytes;
        ControlFlow::Continue(())
    }

    fn passed(&mut self, key: &Key) -> ControlFlow<()> {
        self.passed.push(key.clone());
        match self.stop_after {
            Some(most) if self.passed.len() >= most => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn differs(&mut self, discord: Discord) -> ControlFlow<()> {
        self.discords.push(discord);
        ControlFlow::Continue(())
    }
}

impl Told {
    fn causes(&self) -> Vec<(&str, DiscordCause)> {
        self.discords.iter().map(|discord| (discord.key.as_str(), discord.cause)).collect()
    }
}

fn audit(share: &Share, after: Option<&Key>, told: &mut Told) {
    let known: &dyn Known = &share.index;
    let audit = Audit { root: &share.root, rules: &share.rules, known, from_disk: false };
    // A sink that wants no more ends the audit early, on purpose.
    let _ = audit.whole(after, told);
}

fn audited(share: &Share) -> Told {
    let mut told = Told::default();
    audit(share, None, &mut told);
    told
}

fn record<'a>(share: &'a mut Share, path: &str) -> &'a mut KnownEntry {
    share.index.0.get_mut(&key(path)).expect("known")
}

/// Changes a byte and puts the modification time back.
fn hide(share: &Share, path: &str) {
    let path = share.path(path);
    let modified = path.metadata().and_then(|facts| facts.modified()).expect("facts");
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(b"#", 1).expect("written");
    file.set_times(FileTimes::new().set_modified(modified)).expect("times");
}

/// What stands there now, as it is found.
fn facts(share: &Share, path: &str) -> StatPrint {
    share.root.print_of(&key(path)).expect("readable").expect("there")
}

fn some_share() -> Share {
    let mut share = Share::new();
    for path in ["a/one", "a/two", "a-b", "b/c/three", "four"] {
        share.write(path, format!("what stands in {path}"));
    }
    share.write(".highwaterignore", "*.tmp\n");
    share.write("a/not.tmp", "ignored");
    (share.rules, _) = highwater_folder::IgnoreRules::load(&share.root);
    share.scan();
    share
}

#[test]
fn a_share_that_is_as_recorded_is_read_whole_and_nothing_differs() {
    let share = some_share();
    let told = audited(&share);
    assert_eq!(told.discords, []);
    let keys: Vec<&str> = told.passed.iter().map(Key::as_str).collect();
    let order = [".highwaterignore", "a", "a/one", "a/two", "a-b", "b", "b/c", "b/c/three", "four"];
    assert_eq!(keys, order);
    let bytes: u64 = share.index.0.values().map(|entry| entry.kind.size()).sum();
    assert_eq!(told.bytes, bytes);
}

#[test]
fn each_way_to_differ_is_told_from_the_others() {
    let mut share = some_share();
    hide(&share, "a/one");
    hide(&share, "a/two");
    // What a disk does that rots: no fact moves.
    let print = facts(&share, "a/two");
    record(&mut share, "a/two").print = Some(print);
    std::fs::write(share.path("a-b"), "edited").expect("written");
    std::fs::remove_file(share.path("b/c/three")).expect("removed");
    std::fs::write(share.path("b/new"), "unknown").expect("written");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(share.path("four"), mode).expect("mode");
    let print = facts(&share, "four");
    record(&mut share, "four").print = Some(print);
    let told = audited(&share);
    let expected = [
        ("a/one", DiscordCause::Hidden),
        ("a/two", DiscordCause::Rot),
        ("a-b", DiscordCause::Edit),
        ("b/c/three", DiscordCause::Edit),
        ("b/new", DiscordCause::Edit),
        ("four", DiscordCause::Record),
    ];
    assert_eq!(told.causes(), expected);
    assert_eq!(told.discords[3].found, Found::Absent);
    let Found::State(EntryKind::File { mode, .. }, _) = told.discords[5].found else {
        panic!("{:?}", told.discords[5]);
    };
    assert_eq!(mode, Mode::new(0o600));
}

#[test]
fn the_record_of_another_content_is_no_excuse_for_not_reading() {
    let mut share = some_share();
    let content = highwater_core::ContentHash::of(b"something else");
    let EntryKind::File { content: recorded, .. } = &mut record(&mut share, "four").kind else {
        panic!("a file");
    };
    *recorded = content;
    assert_eq!(audited(&share).causes(), [("four", DiscordCause::Rot)]);
}

#[test]
fn an_audit_goes_on_behind_any_key_and_misses_nothing() {
    let mut share = some_share();
    hide(&share, "b/c/three");
    record(&mut share, "a/two").print = None;
    std::fs::remove_file(share.path("four")).expect("removed");
    let whole = audited(&share);
    for stop_after in 1..whole.passed.len() {
        let mut first = Told { stop_after: Some(stop_after), ..Told::default() };
        audit(&share, None, &mut first);
        let mut rest = Told::default();
        audit(&share, first.passed.last(), &mut rest);
        let passed: Vec<Key> = first.passed.iter().chain(&rest.passed).cloned().collect();
        assert_eq!(passed, whole.passed, "after {stop_after}");
        let discords: Vec<Discord> = first.discords.into_iter().chain(rest.discords).collect();
        assert_eq!(discords, whole.discords, "after {stop_after}");
        assert_eq!(first.bytes + rest.bytes, whole.bytes, "after {stop_after}");
    }
}

#[test]
fn one_key_is_looked_at_by_itself() {
    let share = some_share();
    hide(&share, "four");
    let known: &dyn Known = &share.index;
    let audit = Audit { root: &share.root, rules: &share.rules, known, from_disk: true };
    assert_eq!(audit.one(&key("four")).map(|discord| discord.cause), Some(DiscordCause::Hidden));
    assert_eq!(audit.one(&key("a/one")), None);
    assert_eq!(audit.one(&key("no/such")), None);
}

/// A byte changed in place, with size and modification time put back, used to be taken for an edit.
#[test]
fn a_scan_takes_bytes_that_changed_behind_their_facts_for_no_edit() {
    let mut share = some_share();
    hide(&share, "four");
    std::thread::sleep(2 * highwater_folder::print::TICK_MAX);
    let findings = share.scan();
    assert!(
        matches!(&findings[..], [Finding::Altered(seen)] if seen.key == key("four")),
        "{findings:?}"
    );
    let file = File::options().write(true).open(share.path("four")).expect("open");
    file.set_modified(std::time::SystemTime::now()).expect("touched");
    std::thread::sleep(2 * highwater_folder::print::TICK_MAX);
    let findings = share.scan();
    assert!(
        matches!(&findings[..], [Finding::Changed(seen)] if seen.key == key("four")),
        "{findings:?}"
    );
}

/// Moving a file, or putting another of the same size and time in its place, is an edit.
#[test]
fn another_file_with_the_same_size_and_time_is_an_edit() {
    let mut share = some_share();
    let path = share.path("four");
    let modified = path.metadata().and_then(|facts| facts.modified()).expect("facts");
    std::fs::write(share.path("other"), "what_stands_in_four").expect("written");
    let file = File::options().write(true).open(share.path("other")).expect("open");
    file.set_times(FileTimes::new().set_modified(modified)).expect("times");
    std::fs::rename(share.path("other"), path).expect("renamed");
    std::thread::sleep(2 * highwater_folder::print::TICK_MAX);
    let findings = share.scan();
    assert!(
        matches!(&findings[..], [Finding::Changed(seen)] if seen.key == key("four")),
        "{findings:?}"
    );
}
