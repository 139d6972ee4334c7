//! What the folders of a world must hold: kept by the hands that write, and held against the disks by
//! plain reading. Nothing here asks the product.
//!
//! A path is written, renamed or deleted only on a node whose disk has its newest version, so every
//! change has seen the one before: in the end every folder is exactly what was last written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_lab::dice::Dice;

/// The directory of a share that is the product's own.
const OWN: &str = ".highwater";

/// The files and directories that must be, and contents by path.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) files: BTreeMap<String, Arc<Vec<u8>>>,
    dirs: BTreeSet<String>,
    written: u64,
}

impl Truth {
    /// Something is done in `folder`, with the help of a file `aside` on the same disk; what it was.
    pub(crate) fn change(&mut self, folder: &Path, aside: &Path, dice: &mut Dice) -> String {
        let known = self.newest_in(folder, dice);
        match (dice.below(8), known) {
            (0, Some(path)) => {
                fs::remove_file(folder.join(&path)).expect("it was there");
                self.files.remove(&path);
                format!("deletes {path}")
            }
            (1, Some(path)) => {
                let to = self.fresh_path(folder, dice);
                fs::rename(folder.join(&path), folder.join(&to)).expect("it was there");
                let content = self.files.remove(&path).expect("it is known");
                self.files.insert(to.clone(), content);
                format!("renames {path} to {to}")
            }
            (2..5, Some(path)) => {
                let content = edited(&self.files[&path], dice);
                self.put(folder, aside, path, content)
            }
            _ => {
                let size = match dice.below(20) {
                    0..12 => dice.between(0, 60_000),
                    12..18 => dice.between(65_000, 1_200_000),
                    _ => dice.between(2_000_000, 3_500_000),
                };
                self.write(folder, aside, size, dice)
            }
        }
    }

    /// A new file of that many bytes.
    pub(crate) fn write(
        &mut self,
        folder: &Path,
        aside: &Path,
        size: u64,
        dice: &mut Dice,
    ) -> String {
        let (path, content) = (self.fresh_path(folder, dice), dice.bytes(size as usize));
        self.put(folder, aside, path, content)
    }

    /// The path that was written last.
    pub(crate) fn last_path(&self) -> Option<&String> {
        let suffix = format!("f{}", self.written);
        self.files.keys().find(|path| path.ends_with(&suffix))
    }

    fn put(&mut self, folder: &Path, aside: &Path, path: String, content: Vec<u8>) -> String {
        fs::write(aside, &content).expect("a disk with room");
        fs::rename(aside, folder.join(&path)).expect("one disk");
        let what = format!("writes {path}, {} bytes", content.len());
        self.files.insert(path, Arc::new(content));
        what
    }

    fn fresh_path(&mut self, folder: &Path, dice: &mut Dice) -> String {
        self.written += 1;
        let dir = *dice.pick(&["", "a/", "a/b/", "c/"]);
        fs::create_dir_all(folder.join(dir)).expect("a disk with room");
        let above = Path::new(dir).ancestors().filter_map(Path::to_str);
        self.dirs.extend(
            above.filter(|dir| !dir.is_empty()).map(|dir| dir.trim_end_matches('/').to_owned()),
        );
        format!("{dir}f{}", self.written)
    }

    /// Some path whose newest version lies in this folder.
    fn newest_in(&self, folder: &Path, dice: &mut Dice) -> Option<String> {
        let paths: Vec<&String> = self.files.keys().collect();
        if paths.is_empty() {
            return None;
        }
        let path = *dice.pick(&paths);
        self.stands_in(folder, path).then(|| path.clone())
    }

    /// Whether the newest version under this path lies in the folder.
    pub(crate) fn stands_in(&self, folder: &Path, path: &str) -> bool {
        let content = self.files.get(path);
        content.is_some_and(|content| {
            let place = folder.join(path);
            let length = fs::metadata(&place).map(|meta| meta.len());
            length.is_ok_and(|length| length == content.len() as u64)
                && fs::read(&place).is_ok_and(|bytes| bytes == **content)
        })
    }

    /// What is wrong with a folder; nothing when it is exactly what was written.
    pub(crate) fn differences(&self, folder: &Path) -> Vec<String> {
        let mut found = Found::default();
        if let Err(error) = found.walk(folder, Path::new("")) {
            return vec![format!("it cannot be read: {error}")];
        }
        let mut wrong = Vec::new();
        for path in found.files.iter().filter(|path| !self.files.contains_key(*path)) {
            wrong.push(format!("{path} is there"));
        }
        for path in self.files.keys().filter(|path| !self.stands_in(folder, path)) {
            let how =
                if found.files.contains(path) { "is not what was written" } else { "is missing" };
            wrong.push(format!("{path} {how}"));
        }
        if found.dirs != self.dirs {
            wrong.push(format!("directories {:?}, not {:?}", found.dirs, self.dirs));
        }
        wrong
    }
}

fn edited(content: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut content = content.to_vec();
    let at = dice.below(content.len() as u64 + 1) as usize;
    let end = content.len().min(at + 1000);
    dice.fill(&mut content[at..end]);
    let more = dice.between(1, 20_000) as usize;
    content.extend(dice.bytes(more));
    content
}

/// What lies in a folder.
#[derive(Default)]
struct Found {
    files: BTreeSet<String>,
    dirs: BTreeSet<String>,
}

impl Found {
    fn walk(&mut self, folder: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder.join(below))? {
            let entry = entry?;
            let path: PathBuf = below.join(entry.file_name());
            let name = path.to_string_lossy().into_owned();
            if name == OWN {
                continue;
            }
            if entry.file_type()?.is_dir() {
                self.dirs.insert(name);
                self.walk(folder, &path)?;
            } else {
                self.files.insert(name);
            }
        }
        Ok(())
    }
}
