//! The stage, and what is left in it by a crash or a prankster.

use highwater_core::{ContentHash, Mode};
use highwater_folder::{ProblemKind, Slot, StageError};

use crate::share::{OLD, Share, key};

#[test]
fn a_partial_content_is_taken_up_where_it_was_left() {
    let share = Share::new();
    let slot = Slot::partial(ContentHash::of(b"hello world"));
    let staged = share.root.stage().create(&slot, 11).expect("a slot");
    staged.write_at(0, b"hello").expect("written");
    staged.sync_data().expect("synced");
    drop(staged);
    let staged = share.root.stage().open(&slot).expect("open");
    assert_eq!(staged.len().expect("a length"), 5);
    staged.write_at(5, b" world").expect("written");
    let mut buffer = [0; 16];
    assert_eq!(staged.read_at(0, &mut buffer).expect("read"), 11);
    assert_eq!(&buffer[..11], b"hello world");
    share.root.settle_files(std::slice::from_ref(&slot)).expect("durable");
    share.root.stage().remove(&slot).expect("removed");
    assert!(matches!(share.root.stage().open(&slot), Err(StageError::Missing(_))));
}

#[test]
fn ranges_are_copied_from_files_of_the_share() {
    let mut share = Share::new();
    share.write("source", "0123456789");
    let source = share.root.open_content(&key("source")).expect("open");
    let slot = share.stage("..........");
    let staged = share.root.stage().open(&slot).expect("open");
    staged.copy_from(&source, 2, 5, 4).expect("copied");
    let mut buffer = [0; 10];
    staged.read_at(0, &mut buffer).expect("read");
    assert_eq!(&buffer, b".....2345.");
    let error = staged.copy_from(&source, 8, 0, 10).expect_err("too short");
    assert!(matches!(error, StageError::SourceShrunk(_)));
}

#[test]
fn a_planted_link_or_second_name_is_discarded_and_never_written_to() {
    let share = Share::new();
    let outside = tempfile::TempDir::new_in(share.dir.path().parent().expect("a parent"))
        .expect("a directory");
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "untouched").expect("written");
    let slot = Slot::fresh(1);
    let path = share.path(".highwater/stage/in-1");
    type Plant = fn(&std::path::Path, &std::path::Path);
    let rows: [(&str, Plant); 4] = [
        ("symbolic link", |canary, path| std::os::unix::fs::symlink(canary, path).expect("linked")),
        ("hard link", |canary, path| std::fs::hard_link(canary, path).expect("linked")),
        ("directory", |_, path| std::fs::create_dir(path).expect("made")),
        ("fifo", |_, path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from(0o600))
                .expect("made");
        }),
    ];
    for (what, plant) in rows {
        plant(&canary, &path);
        let opened = share.root.stage().open(&slot);
        assert!(matches!(opened, Err(StageError::Discarded(_))), "{what}: {opened:?}");
        plant(&canary, &path);
        let created = share.root.stage().create(&slot, 1).expect("a new file");
        created.write_at(0, b"x").expect("written");
        share.root.stage().remove(&slot).expect("removed");
        assert_eq!(std::fs::read_to_string(&canary).expect("read"), "untouched", "{what}");
    }
}

#[test]
fn a_size_that_cannot_fit_is_refused_before_a_byte_is_written() {
    let share = Share::new();
    let error = share.root.stage().create(&Slot::fresh(1), 1 << 60).expect_err("no room");
    assert!(matches!(error, StageError::NoRoom { .. }), "{error}");
    assert_eq!(share.staged(), []);
}

#[test]
fn metadata_is_set_exactly_and_set_id_bits_never() {
    let share = Share::new();
    let staged = share.root.stage().create(&Slot::fresh(1), 0).expect("a slot");
    staged.set_metadata(Mode::new(0o7755), OLD).expect("set");
    let facts = std::fs::metadata(share.path(".highwater/stage/in-1")).expect("facts");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(facts.mode() & 0o7777, 0o755);
    assert_eq!((facts.mtime(), facts.mtime_nsec()), (OLD.seconds, i64::from(OLD.nanos)));
}

#[test]
fn many_files_and_few_files_can_both_be_made_durable() {
    let mut share = Share::new();
    for count in [0, 1, 15, 16, 100] {
        let slots: Vec<Slot> = (0..count).map(|_| share.stage("x")).collect();
        share.root.settle_files(&slots).expect("durable");
    }
    share.write("d/f", "x");
    let keys = [key("d/f"), key("g"), key("removed/since/x")];
    share.root.settle_dirs(&keys).expect("durable");
    let missing = share.root.settle_files(&[Slot::fresh(9999)]);
    assert!(missing.is_err());
    share.root.settle_dirs(&keys).expect("a missing file is no failed sync");
}

#[test]
fn after_a_crash_the_stage_is_cleared_and_a_possible_edit_is_kept() {
    let share = Share::new();
    let stage = share.path(".highwater/stage");
    let wanted = Slot::partial(ContentHash::of(b"wanted"));
    let unwanted = Slot::partial(ContentHash::of(b"unwanted"));
    for name in [wanted.as_str(), unwanted.as_str(), "in-4", "new-5", "odd"] {
        std::fs::write(stage.join(name), "x").expect("written");
    }
    std::fs::create_dir(stage.join("new-6")).expect("made");
    std::fs::create_dir(stage.join("out-7")).expect("made");
    std::fs::write(stage.join("out-8"), "known").expect("written");
    std::fs::write(stage.join("out-9"), "an edit").expect("written");
    let known = ContentHash::of(b"known");
    let problems =
        share.root.recover(&|content| content == known, &|slot| slot.as_str() == wanted.as_str());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].kind, ProblemKind::Kept);
    assert_eq!(share.staged(), [wanted]);
    let kept = share.kept();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read_to_string(&kept[0]).expect("read"), "an edit");
}
