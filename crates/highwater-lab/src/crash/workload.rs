//! The hands that change a folder while its node is about to fail: new files, edits, deletes and
//! renames from a seed, each entered into the ledger before it is made.
//!
//! Every file is written whole under a name outside the share and renamed to its place, so that no
//! scan sees less than a whole file; the only parts of files that can ever be seen are the ones
//! that somebody else left.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::ledger::{Keeping, Ledger};
use crate::dice::Dice;

/// Files that the folder holds, about: enough for every operation, few enough to be read often.
const FILES_GOAL: usize = 48;
/// Directories that new files go to.
const DIRS: u64 = 6;
/// Large enough to be staged and resumed rather than sent whole, with room for several records.
const LARGE_BYTES_MIN: u64 = 6 << 20;
const LARGE_BYTES_SPREAD: u64 = 6 << 20;
/// Large files that the folder holds at most.
const LARGE_FILES_MAX: usize = 2;
/// Where large files lie.
const LARGE_DIR: &str = "large";

/// A hand that writes into one node's folder.
#[derive(Debug)]
pub struct Hand {
    /// The folder.
    folder: PathBuf,
    /// A directory on the same file system, outside the folder.
    scratch: PathBuf,
    /// How its changes are kept.
    pub keeping: Keeping,
}

impl Hand {
    /// A hand in `folder` that prepares its files in `scratch`.
    pub fn new(folder: &Path, scratch: &Path, keeping: Keeping) -> Result<Hand> {
        fs::create_dir_all(scratch).with_context(|| format!("creating {}", scratch.display()))?;
        Ok(Hand { folder: folder.to_owned(), scratch: scratch.to_owned(), keeping })
    }

    /// Makes `count` changes to files that nobody else is changing.
    pub fn change(&self, ledger: &mut Ledger, dice: &mut Dice, count: u64) -> Result<()> {
        for _ in 0..count {
            let small = |path: &&PathBuf| !path.starts_with(LARGE_DIR);
            let files: Vec<PathBuf> = ledger.at_rest().filter(small).cloned().collect();
            let many = files.len() >= FILES_GOAL;
            let picked = match files.len() {
                0 => None,
                count => files.get(usize::try_from(dice.below(count as u64)).unwrap_or(0)),
            };
            match (picked, dice.below(11)) {
                (Some(path), 10) => self.rename_dir_of(ledger, path)?,
                (Some(path), 0..=2) => self.write(ledger, path, &small_content(dice))?,
                (Some(path), 3) => self.remove(ledger, path)?,
                (Some(path), 4..=5) if many => self.remove(ledger, path)?,
                (Some(path), 6) => self.rename(ledger, path, &free_name(dice))?,
                _ => self.create(ledger, dice)?,
            }
        }
        Ok(())
    }

    /// Makes one small file that was not there: the one change that is never refused.
    pub fn create(&self, ledger: &mut Ledger, dice: &mut Dice) -> Result<()> {
        self.write(ledger, &free_name(dice), &small_content(dice))
    }

    /// Writes a large file, making room for it first; its name.
    pub fn write_large(&self, ledger: &mut Ledger, dice: &mut Dice) -> Result<PathBuf> {
        let large = |path: &&PathBuf| path.starts_with(LARGE_DIR);
        let old: Vec<PathBuf> = ledger.at_rest().filter(large).cloned().collect();
        for path in old.iter().rev().skip(LARGE_FILES_MAX - 1) {
            self.remove(ledger, path)?;
        }
        let path = Path::new(LARGE_DIR).join(format!("{:012x}", dice.below(1 << 48)));
        let size = LARGE_BYTES_MIN + dice.below(LARGE_BYTES_SPREAD);
        let bytes = dice.bytes(usize::try_from(size)?);
        self.write(ledger, &path, &bytes)?;
        Ok(path)
    }

    /// Removes `count` files that nobody else is changing, or as many as there are.
    pub fn remove_some(&self, ledger: &mut Ledger, dice: &mut Dice, count: usize) -> Result<()> {
        let mut files: Vec<PathBuf> = ledger.at_rest().cloned().collect();
        dice.shuffle(&mut files);
        files.iter().take(count).try_for_each(|path| self.remove(ledger, path))
    }

    /// Puts a file in place, whole.
    pub fn write(&self, ledger: &mut Ledger, path: &Path, bytes: &[u8]) -> Result<()> {
        ledger.write(path, bytes, self.keeping);
        let (draft, place) = (self.scratch.join("draft"), self.folder.join(path));
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        if self.keeping == Keeping::Synced {
            file.sync_all()?;
        }
        self.make_parent(path)?;
        fs::rename(&draft, &place).with_context(|| format!("writing {}", place.display()))?;
        self.sync_parent(path)
    }

    fn remove(&self, ledger: &mut Ledger, path: &Path) -> Result<()> {
        ledger.remove(path, self.keeping);
        let place = self.folder.join(path);
        fs::remove_file(&place).with_context(|| format!("removing {}", place.display()))?;
        self.sync_parent(path)
    }

    fn rename(&self, ledger: &mut Ledger, from: &Path, to: &Path) -> Result<()> {
        ledger.rename(from, to, self.keeping);
        self.make_parent(to)?;
        let (from_place, to_place) = (self.folder.join(from), self.folder.join(to));
        fs::rename(&from_place, &to_place)
            .with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
        self.sync_parent(to)?;
        self.sync_parent(from)
    }

    /// Renames the directory of a file with all that is in it, if nobody is changing any of that.
    fn rename_dir_of(&self, ledger: &mut Ledger, path: &Path) -> Result<()> {
        let Some(from) = path.parent() else { return Ok(()) };
        let mut names = (0..2 * DIRS).map(|number| PathBuf::from(format!("d{number}")));
        let free = |to: &PathBuf| !self.folder.join(to).exists() && !ledger.is_changing_in(to);
        let Some(to) = names.find(free) else { return Ok(()) };
        if ledger.is_changing_in(from) {
            return Ok(());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(from);
        let moved: Vec<PathBuf> = ledger.at_rest().filter(inside).cloned().collect();
        for path in &moved {
            let name = path.file_name().context("a file without a name")?;
            ledger.rename(path, &to.join(name), self.keeping);
        }
        fs::rename(self.folder.join(from), self.folder.join(&to))
            .with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
        self.sync(&self.folder)
    }

    fn make_parent(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        fs::create_dir_all(self.folder.join(parent))?;
        self.sync(&self.folder)
    }

    fn sync_parent(&self, path: &Path) -> Result<()> {
        self.sync(&self.folder.join(path.parent().unwrap_or(Path::new(""))))
    }

    fn sync(&self, dir: &Path) -> Result<()> {
        if self.keeping == Keeping::Synced {
            File::open(dir).and_then(|dir| dir.sync_all())?;
        }
        Ok(())
    }
}

/// Mostly a page or two, sometimes more; never nothing, which a torn file would look like.
fn small_content(dice: &mut Dice) -> Vec<u8> {
    let size = match dice.below(8) {
        0 => 1 + dice.below(16),
        7 => 1 + dice.below(200_000),
        _ => 1 + dice.below(12_000),
    };
    dice.bytes(usize::try_from(size).unwrap_or(1))
}

/// A name that was never used.
fn free_name(dice: &mut Dice) -> PathBuf {
    PathBuf::from(format!("d{}/{:012x}", dice.below(DIRS), dice.below(1 << 48)))
}
