//! The workload: folders and edits made from a seed, the same for the same seed.
//!
//! Names come in several scripts and with the characters that break careless programs; sizes range
//! from nothing to a few hundred kilobytes; there are executable files, symbolic links and empty
//! directories. Content does not compress and does not repeat, so nothing can look fast by luck.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::dice::Dice;

/// Bytes made and written at a time.
const BLOCK_BYTES: usize = 1024 * 1024;
/// Files to a directory, about.
const FILES_PER_DIR: u64 = 40;

/// Words that names are made of: scripts, spaces, a leading dash and dot, quotes, a backslash, a
/// newline, an emoji with a joiner, a letter in its two Unicode forms.
const WORDS: [&str; 16] = [
    "report",
    "Änderung",
    "日本語",
    "привет",
    "שלום",
    "with space",
    "-dash",
    ".hidden",
    "it's \"quoted\"",
    "back\\slash",
    "new\nline",
    "👩‍🔧",
    "é",
    "e\u{301}",
    "UPPER",
    "a.b.c",
];

/// Writes a file of `size` bytes that only look random.
pub fn write_file(path: &Path, size: u64, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut writer = BufWriter::new(file);
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        dice.fill(&mut block[..length]);
        writer.write_all(&block[..length])?;
        left -= length as u64;
    }
    writer.flush().with_context(|| format!("writing {}", path.display()))
}

/// Writes `count` files of `size` bytes each, in directories of a hundred.
pub fn write_many(root: &Path, count: u64, size: usize, seed: u64) -> Result<()> {
    const HUNDRED: u64 = 100;
    let mut dice = Dice::new(seed);
    for number in 0..count {
        let dir = root.join(format!("d{:04}", number / HUNDRED));
        if number.is_multiple_of(HUNDRED) {
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let path = dir.join(format!("f{number:06}"));
        fs::write(&path, dice.bytes(size))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Makes a tree of about `files` files as people have them, of every kind that is synced.
pub fn write_lifelike(root: &Path, files: u64, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let mut dirs = vec![root.to_owned()];
    for number in 0..files.div_ceil(FILES_PER_DIR) {
        let parent = dirs[pick(&mut dice, dirs.len())].clone();
        let dir = parent.join(name(&mut dice, number));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        dirs.push(dir);
    }
    for number in 0..files {
        let dir = dirs[pick(&mut dice, dirs.len())].clone();
        write_one(&mut dice, &dir, number)?;
    }
    fs::create_dir_all(root.join("empty"))?;
    Ok(())
}

fn write_one(dice: &mut Dice, dir: &Path, number: u64) -> Result<()> {
    let path = dir.join(name(dice, number));
    match dice.below(40) {
        0 => symlink("../somewhere else", &path)?,
        1 => fs::create_dir(&path)?,
        kind => {
            let size = match kind {
                2..=4 => 0,
                5 => dice.below(400_000),
                6..=12 => dice.below(20_000),
                _ => dice.below(2_000),
            };
            fs::write(&path, dice.bytes(usize::try_from(size).unwrap_or(0)))?;
            let mode = [0o644, 0o644, 0o755, 0o600][pick(dice, 4)];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Edits some files of a tree: rewrites, appends, deletes, renames, as the seed says.
pub fn edit(root: &Path, edits: u64, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    for number in 0..edits {
        let mut files = Vec::new();
        list_files(root, &mut files)?;
        files.sort();
        if files.is_empty() {
            return Ok(());
        }
        let path = &files[pick(&mut dice, files.len())];
        match dice.below(4) {
            0 => fs::write(path, dice.bytes(500))?,
            1 => File::options().append(true).open(path)?.write_all(&dice.bytes(100))?,
            2 => fs::remove_file(path)?,
            _ => fs::rename(path, root.join(name(&mut dice, 1_000_000 + number)))?,
        }
    }
    Ok(())
}

fn list_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != ".highwater" {
            list_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn name(dice: &mut Dice, number: u64) -> String {
    format!("{} {number}", WORDS[pick(dice, WORDS.len())])
}

fn pick(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(dice.below(count as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;

    #[test]
    fn one_seed_makes_one_tree() {
        let [left, right, other] = [7, 7, 8].map(|seed| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            write_lifelike(dir.path(), 300, seed).expect("writable");
            edit(dir.path(), 20, seed).expect("writable");
            let tree = oracle::read_tree(dir.path()).expect("readable");
            (dir, tree.into_iter().map(|(path, found)| (path, timeless(found))).collect::<Vec<_>>())
        });
        assert_eq!(left.1, right.1);
        assert_ne!(left.1, other.1);
        assert!(left.1.len() > 250, "{}", left.1.len());
    }

    fn timeless(found: oracle::Found) -> String {
        match found {
            oracle::Found::File { mode, size, hash, .. } => format!("{mode:o} {size} {hash}"),
            other => format!("{other:?}"),
        }
    }
}
