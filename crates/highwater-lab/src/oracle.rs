//! The judge: what is on disk, found and compared in the slowest, most obvious way.
//!
//! It shares no code with the product and asks no node. It walks each folder, reads every file to
//! its end, and compares names, kinds, permission bits, modification times, link targets and
//! content. `.highwater` at the root is the product's own and is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The product's own directory at the root of a share.
const OWN_DIR: &str = ".highwater";
/// How often two folders are compared while waiting for them to be equal.
const COMPARE_INTERVAL: Duration = Duration::from_millis(100);
/// Most differences that a failure lists.
const SHOWN_MAX: usize = 20;

/// One thing on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A file.
    File {
        /// Its permission bits.
        mode: u32,
        /// Its modification time, in seconds and nanoseconds.
        modified: (i64, i64),
        /// Its length in bytes.
        size: u64,
        /// The BLAKE3 of its bytes.
        hash: String,
    },
    /// A directory.
    Dir {
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: PathBuf,
    },
    /// Something that is not synced.
    Special,
}

/// Everything below a folder, by path.
pub type Tree = BTreeMap<PathBuf, Found>;

/// Reads a folder. Things that vanish while it is read are left out.
pub fn read_tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    read_dir(root, Path::new(""), &mut tree)
        .with_context(|| format!("reading the folder {}", root.display()))?;
    Ok(tree)
}

fn read_dir(root: &Path, below: &Path, tree: &mut Tree) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let name: OsString = entry?.file_name();
        if below.as_os_str().is_empty() && name == OWN_DIR {
            continue;
        }
        let path = below.join(name);
        match read_one(&root.join(&path)) {
            Ok(found) => {
                let is_dir = matches!(found, Found::Dir { .. });
                tree.insert(path.clone(), found);
                if is_dir {
                    read_dir(root, &path, tree)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_one(path: &Path) -> io::Result<Found> {
    let metadata = fs::symlink_metadata(path)?;
    let mode = metadata.mode() & 0o777;
    if metadata.is_symlink() {
        return Ok(Found::Symlink { target: fs::read_link(path)? });
    }
    if metadata.is_dir() {
        return Ok(Found::Dir { mode });
    }
    if !metadata.is_file() {
        return Ok(Found::Special);
    }
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(Found::File {
        mode,
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        size,
        hash: hasher.finalize().to_hex().to_string(),
    })
}

/// What differs between two trees, one line each.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = left.keys().chain(right.keys()).collect();
    let mut lines = Vec::new();
    for path in paths {
        let (l, r) = (left.get(path), right.get(path));
        if l != r {
            lines.push(format!("{}: {l:?} here, {r:?} there", path.display()));
        }
    }
    lines
}

/// One hash for a whole tree: equal only for trees that do not differ.
pub fn tree_hash(tree: &Tree) -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, found) in tree {
        hasher.update(path.as_os_str().as_bytes()).update(&[0]);
        hasher.update(format!("{found:?}").as_bytes()).update(&[0]);
    }
    hasher.finalize().to_hex().to_string()
}

/// Fails, naming the differences, unless all folders are equal.
pub fn demand_equal(folders: &[PathBuf]) -> Result<()> {
    let Some((first, others)) = folders.split_first() else { return Ok(()) };
    let expected = read_tree(first)?;
    for other in others {
        let found = differences(&expected, &read_tree(other)?);
        if !found.is_empty() {
            let shown = found.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n  ");
            let (here, there) = (first.display(), other.display());
            bail!("{here} and {there} differ in {} paths:\n  {shown}", found.len());
        }
    }
    Ok(())
}

/// Waits until all folders are equal; fails with their differences at the deadline.
pub fn wait_equal(folders: &[PathBuf], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match demand_equal(folders) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(COMPARE_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// What is done to one of two folders.
    type Spoil = fn(&Path);

    /// Each row: what one of two equal folders suffers. The judge must see every one.
    #[test]
    fn every_kind_of_difference_is_seen() {
        let spoil: [(&str, Spoil); 7] = [
            ("content", |root| fs::write(root.join("a"), "1bc").expect("writable")),
            ("length", |root| fs::write(root.join("a"), "abcd").expect("writable")),
            ("mode", |root| {
                let executable = fs::Permissions::from_mode(0o755);
                fs::set_permissions(root.join("a"), executable).expect("own file");
            }),
            ("missing", |root| fs::remove_file(root.join("a")).expect("there")),
            ("extra directory", |root| fs::create_dir(root.join("e")).expect("free")),
            ("link", |root| {
                fs::remove_file(root.join("l")).expect("there");
                symlink("b", root.join("l")).expect("free");
            }),
            ("time", |root| {
                let file = File::options().append(true).open(root.join("a")).expect("there");
                file.set_modified(std::time::UNIX_EPOCH).expect("own file");
            }),
        ];
        for (what, spoil) in spoil {
            let folders = [folder(), folder()];
            let paths = folders.each_ref().map(|dir| dir.path().to_owned());
            demand_equal(&paths).expect("equal to begin with");
            spoil(&paths[1]);
            assert!(demand_equal(&paths).is_err(), "{what} was not seen");
        }
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path();
        fs::write(root.join("a"), "abc").expect("writable");
        symlink("a", root.join("l")).expect("free");
        let second = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = File::options().append(true).open(root.join("a")).expect("there");
        file.set_modified(second).expect("own file");
        fs::create_dir(root.join(OWN_DIR)).expect("free");
        fs::write(root.join(OWN_DIR).join("x"), format!("{root:?}")).expect("writable");
        dir
    }
}
