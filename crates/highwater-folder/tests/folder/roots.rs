//! When a directory is the share, and when it only stands where the share was.

use highwater_core::NodeId;
use highwater_folder::{Marker, Root, RootError, ScanError, Scope};

use crate::share::{Share, gone, marker};

fn refusal(share: &Share) -> RootError {
    Root::open(share.dir.path(), &marker().identity()).expect_err("a refusal")
}

#[test]
fn a_root_opens_again_with_the_generation_it_was_given() {
    let share = Share::new();
    let raised = Marker { generation: 9, ..marker() };
    share.root.set_marker(&raised).expect("written");
    let again = Root::open(share.dir.path(), &marker().identity()).expect("a root");
    assert_eq!(again.marker(), raised);
    again.verify().expect("in order");
}

#[test]
fn a_directory_marked_by_another_node_is_not_taken_over() {
    let share = Share::new();
    let other = Marker { node: NodeId::from_bytes([8; 32]), ..marker() };
    let error = Root::create(share.dir.path(), &other).expect_err("a refusal");
    assert!(matches!(error, RootError::Foreign { .. }), "{error}");
    share.root.verify().expect("the marker is as it was");
    let error = Root::open(share.dir.path(), &other.identity()).expect_err("a refusal");
    assert!(matches!(error, RootError::Foreign { .. }), "{error}");
}

#[test]
fn a_root_that_is_missing_or_a_file_or_without_marker_is_refused() {
    let share = Share::new();
    let expect = marker().identity();
    let missing = Root::open(&share.path("nowhere"), &expect).expect_err("a refusal");
    assert!(matches!(missing, RootError::Missing(_)), "{missing}");
    share.write("file", "x");
    let file = Root::open(&share.path("file"), &expect).expect_err("a refusal");
    assert!(matches!(file, RootError::NotADirectory(_)), "{file}");
    std::fs::remove_file(share.path(".highwater/marker")).expect("removed");
    assert!(matches!(refusal(&share), RootError::NoMarker(_)));
    std::fs::write(share.path(".highwater/marker"), "zeros").expect("written");
    assert!(matches!(refusal(&share), RootError::NoMarker(_)));
    std::fs::remove_dir_all(share.path(".highwater")).expect("removed");
    assert!(matches!(refusal(&share), RootError::NoMarker(_)));
}

#[test]
fn a_control_directory_that_is_a_link_is_not_entered() {
    let share = Share::new();
    let outside = tempfile::TempDir::new().expect("a directory");
    std::fs::rename(share.path(".highwater"), outside.path().join("own")).expect("moved");
    std::os::unix::fs::symlink(outside.path().join("own"), share.path(".highwater"))
        .expect("linked");
    assert!(matches!(refusal(&share), RootError::NoMarker(_)));
    assert!(matches!(share.root.verify(), Err(RootError::NoMarker(_))));
}

/// Rows of "the folder is not there any more", each of which once made some program delete
/// everything everywhere.
#[test]
fn a_share_whose_root_is_not_the_same_loses_nothing() {
    type Harm = fn(&Share);
    let rows: [(&str, Harm); 6] = [
        ("another share is mounted there", |share| {
            let other = Marker { node: NodeId::from_bytes([8; 32]), ..marker() };
            std::fs::remove_dir_all(share.dir.path()).expect("removed");
            std::fs::create_dir(share.dir.path()).expect("made");
            Root::create(share.dir.path(), &other).expect("a root");
        }),
        ("the marker became another share's", |share| {
            let other = Marker { node: NodeId::from_bytes([8; 32]), ..marker() };
            std::fs::remove_file(share.path(".highwater/marker")).expect("removed");
            Root::create(share.dir.path(), &other).expect("a root");
            std::fs::remove_dir_all(share.path("a")).expect("removed");
        }),
        ("the marker is gone", |share| {
            std::fs::remove_dir_all(share.dir.path()).expect("removed");
            std::fs::create_dir(share.dir.path()).expect("made");
        }),
        ("only the files and the marker are gone", |share| {
            std::fs::remove_file(share.path("a/b")).expect("removed");
            std::fs::remove_file(share.path(".highwater/marker")).expect("removed");
        }),
        ("the root is missing", |share| {
            std::fs::remove_dir_all(share.dir.path()).expect("removed");
        }),
        ("the root is a file", |share| {
            std::fs::remove_dir_all(share.dir.path()).expect("removed");
            std::fs::write(share.dir.path(), "x").expect("written");
        }),
    ];
    for (what, harm) in rows {
        let mut share = Share::new();
        share.write("a/b", "x");
        share.scan();
        harm(&share);
        let result = share.try_scan(&Scope::Whole);
        assert!(matches!(result, Err(ScanError::Root(_))), "{what}: {result:?}");
        assert_eq!(share.index.0.len(), 2, "{what}");
        let _ = std::fs::remove_file(share.dir.path());
    }
}

#[test]
fn a_root_that_is_replaced_during_a_scan_loses_nothing() {
    let mut share = Share::new();
    for name in ["a", "b", "c"] {
        share.write(name, name);
    }
    share.scan();
    std::fs::remove_file(share.path("b")).expect("removed");
    share.write("a", "changed");
    let progress = highwater_folder::ScanProgress::default();
    let mut findings = Vec::new();
    let result = highwater_folder::scan(
        &share.root,
        &Scope::Whole,
        &share.rules,
        &share.index,
        &progress,
        &mut |finding| {
            let _ = std::fs::remove_file(share.path(".highwater/marker"));
            findings.push(finding);
            std::ops::ControlFlow::Continue(())
        },
    );
    assert!(matches!(result, Err(ScanError::Root(RootError::NoMarker(_)))), "{result:?}");
    assert_eq!(findings.len(), 1, "the change was seen, and the marker gone before the end");
    assert_eq!(gone(&findings), [""; 0]);
}
