//! Serving contents.

use highwater_core::ContentHash;
use highwater_folder::{ReadError, hash_file};

use crate::share::{Share, key};

#[test]
fn a_content_is_read_at_any_offset_and_its_print_tells_of_edits() {
    let share = Share::new();
    share.write("d/f", "0123456789");
    let file = share.root.open_content(&key("d/f")).expect("open");
    let before = file.print().expect("a print");
    let mut buffer = [0; 4];
    assert_eq!(file.read_at(3, &mut buffer).expect("read"), 4);
    assert_eq!(&buffer, b"3456");
    assert_eq!(file.read_at(8, &mut buffer).expect("read"), 2);
    assert_eq!(file.read_at(100, &mut buffer).expect("read"), 0);
    assert_eq!(file.print().expect("a print"), before);
    share.write("d/f", "01234567890");
    assert_ne!(file.print().expect("a print"), before);
}

#[test]
fn only_regular_files_inside_the_share_are_opened() {
    let share = Share::new();
    share.write("file", "x");
    std::fs::create_dir(share.path("dir")).expect("made");
    std::os::unix::fs::symlink("/etc/passwd", share.path("link")).expect("linked");
    std::os::unix::fs::symlink("/etc", share.path("etc")).expect("linked");
    rustix::fs::mkfifoat(rustix::fs::CWD, share.path("fifo"), rustix::fs::Mode::from(0o600))
        .expect("made");
    for path in ["dir", "link", "etc/passwd", "fifo"] {
        let error = share.root.open_content(&key(path)).expect_err("a refusal");
        assert!(matches!(error, ReadError::NotAFile(_)), "{path}: {error}");
    }
    for path in ["nothing", "file/below"] {
        let error = share.root.open_content(&key(path)).expect_err("a refusal");
        assert!(matches!(error, ReadError::Missing(_)), "{path}: {error}");
    }
}

#[test]
fn any_file_of_a_user_has_a_plain_hash() {
    let share = Share::new();
    share.write("f", "x".repeat(100_000));
    let hash = hash_file(&share.path("f")).expect("a hash");
    assert_eq!(hash, ContentHash::of("x".repeat(100_000).as_bytes()));
    assert!(matches!(hash_file(share.dir.path()), Err(ReadError::NotAFile(_))));
    let error = hash_file(&share.path("nothing")).expect_err("an error");
    assert!(error.to_string().contains("nothing"), "{error}");
}
