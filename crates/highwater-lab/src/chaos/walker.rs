//! The readers: they open every file of a folder again and again, and know whether what they read
//! is one whole version.
//!
//! A file is judged by what was read through one descriptor whose file did not change meanwhile.
//! What nobody announced is torn or invented, unless the file is one that a client writes in
//! place and the bytes are the beginning of what it writes. A file that looks as it did is not read
//! again.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::audit::is_live;
use super::history::{Content, History};

/// Pause between two walks of a folder.
const WALK_INTERVAL: Duration = Duration::from_millis(30);

/// What a file looks like from outside: inode, size, times.
type Look = (u64, u64, i64, i64, i64, i64);

/// What readers found.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// Files that were read whole.
    pub(crate) read: AtomicU64,
    /// What was neither a version nor the beginning of one in the making.
    torn: Mutex<Vec<String>>,
}

impl Readings {
    /// What no reader should have met.
    pub(crate) fn torn(&self) -> Vec<String> {
        self.torn.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn report(&self, what: String) {
        self.torn.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// The reader of one folder.
pub(crate) struct Walker {
    pub(crate) node: usize,
    pub(crate) folder: PathBuf,
    pub(crate) history: Arc<History>,
    pub(crate) readings: Arc<Readings>,
    pub(crate) over: Arc<AtomicBool>,
}

impl Walker {
    /// Reads until it is over.
    pub(crate) fn work(self) {
        let mut seen = BTreeMap::new();
        while !self.over.load(Ordering::Relaxed) {
            let mut met = BTreeMap::new();
            self.walk(&self.folder, &seen, &mut met);
            seen = met;
            thread::sleep(WALK_INTERVAL);
        }
    }

    fn walk(&self, dir: &Path, seen: &BTreeMap<PathBuf, Look>, met: &mut BTreeMap<PathBuf, Look>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                if entry.file_name() != ".highwater" {
                    self.walk(&path, seen, met);
                }
                continue;
            }
            let known = seen.get(&path) == Some(&look(&metadata));
            if known || (metadata.is_file() && self.read(&path)) {
                met.insert(path, look(&metadata));
            }
        }
    }

    /// Reads one file; whether there is no need to read it again as long as it looks the same.
    fn read(&self, path: &Path) -> bool {
        let Ok(Some(bytes)) = read_still(path) else { return false };
        self.readings.read.fetch_add(1, Ordering::Relaxed);
        if self.history.is_known(Content::of(&bytes)) {
            return true;
        }
        let live = path.to_str().is_some_and(is_live);
        if !live || !self.history.is_piece(&bytes) {
            let (node, path, size) = (self.node, path.display(), bytes.len());
            let hash = Content::of(&bytes).hex();
            self.readings.report(format!(
                "node {node}: {path} held {size} bytes that nobody wrote ({hash})"
            ));
        }
        true
    }
}

/// The bytes of a file, if it did not change while they were read.
fn read_still(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let before = look(&file.metadata()?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let still = look(&file.metadata()?) == before && bytes.len() as u64 == before.1;
    Ok(still.then_some(bytes))
}

fn look(metadata: &Metadata) -> Look {
    let (modified, changed) = (metadata.mtime_nsec(), metadata.ctime_nsec());
    (metadata.ino(), metadata.size(), metadata.mtime(), modified, metadata.ctime(), changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_flags_what_is_not_one_whole_version() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).expect("free");
        let history = History::begin(3, &dir.path().join("log")).expect("writable");
        let whole = history.compose(1, 0, "whole", 9_000);
        let live = history.compose_pieces(2, 0, "live1", 9_000);
        let walker = Walker {
            node: 0,
            folder: folder.clone(),
            history: Arc::new(history),
            readings: Arc::default(),
            over: Arc::default(),
        };
        let judge = |name: &str, bytes: &[u8]| {
            fs::write(folder.join(name), bytes).expect("writable");
            walker.walk(&folder, &BTreeMap::new(), &mut BTreeMap::new());
            fs::remove_file(folder.join(name)).expect("there");
            let mut torn = walker.readings.torn.lock().expect("no reader panicked");
            std::mem::take(&mut *torn).len()
        };
        assert_eq!(judge("whole", &whole), 0);
        assert_eq!(judge("live1", &live), 0);
        assert_eq!(judge("live1", &live[..4_000]), 0);
        assert_eq!(judge("whole", &whole[..4_000]), 1, "a part");
        assert_eq!(judge("whole", &[]), 1, "nothing yet");
        assert_eq!(judge("whole", &live[..4_000]), 1, "a part of something else");
        let mut mixed = whole.clone();
        mixed[4_000..].copy_from_slice(&live[4_000..]);
        assert_eq!(judge("whole", &mixed), 1, "two halves");
    }
}
