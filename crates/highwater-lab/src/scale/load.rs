//! Real transfers for a long time: some nodes write large and small files, over and over, and the
//! next is written as soon as the last stands in every folder. At the end all folders are equal.
//!
//! Every writer has a directory of its own, so nobody is in anybody's way. Content is new each time
//! and cannot be compressed, so all of it has to be moved.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::crowd::Crowd;
use super::ears::Ears;
use super::kernel::{self, Cost};
use crate::cluster::SHARE;
use crate::dice::Dice;
use crate::oracle;

/// Nodes that write.
const WRITERS_MAX: usize = 3;
/// A large file: many chunks, and with so many nodes a transfer of some seconds.
const LARGE_BYTES: usize = 16 << 20;
/// Large files of each writer, written in turn.
const LARGE_FILES: u64 = 2;
/// Small files beside each large one.
const SMALL_FILES: u64 = 20;
const SMALL_BYTES: usize = 4096;
/// What tells one content from the next: its first bytes.
const MARK_BYTES: usize = 16;
/// Longest wait for one file to be everywhere.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was moved, and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// For how long.
    pub seconds: f64,
    /// Nodes that wrote.
    pub writers: usize,
    /// Files written, large and small.
    pub files: u64,
    /// Content that reached other nodes, in bytes.
    pub bytes_arrived: u64,
    /// What the nodes took meanwhile.
    pub cost: Cost,
    /// Whether all folders were equal at the end.
    pub equal: bool,
}

/// Writes for so long.
pub(crate) fn run(crowd: &Crowd, ears: &mut Ears, time: Duration) -> Result<LoadReport> {
    let folders: Vec<PathBuf> = crowd.running().map(|(_, node)| node.folder(SHARE)).collect();
    let writers = WRITERS_MAX.min(folders.len());
    let (stop, files) = (AtomicBool::new(false), AtomicU64::new(0));
    let (began, before) = (Instant::now(), kernel::look(&crowd.pids())?);
    let after = thread::scope(|scope| {
        let (stop, files, folders) = (&stop, &files, &folders);
        let work: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write_on(writer, folders, stop, files)))
            .collect();
        let mut heard = Ok(());
        while heard.is_ok() && began.elapsed() < time && !work.iter().any(|w| w.is_finished()) {
            heard = ears.listen_for(Duration::from_secs(1).min(time));
        }
        let after = kernel::look(&crowd.pids());
        stop.store(true, Ordering::Relaxed);
        for writer in work {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        heard.and(after)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    oracle::wait_equal(&folders, PATIENCE)?;
    ears.listen_for(Duration::from_secs(10))?;
    let files = files.into_inner();
    let rounds = files / (SMALL_FILES + 1);
    let round_bytes = LARGE_BYTES as u64 + SMALL_FILES * SMALL_BYTES as u64;
    Ok(LoadReport {
        seconds,
        writers,
        files,
        bytes_arrived: rounds * round_bytes * (folders.len() as u64 - 1),
        cost: Cost::between(&before, &after),
        equal: oracle::demand_equal(&folders).is_ok(),
    })
}

/// What one writer does until it is told to stop.
fn write_on(
    writer: usize,
    folders: &[PathBuf],
    stop: &AtomicBool,
    files: &AtomicU64,
) -> Result<()> {
    let mut dice = Dice::new(writer as u64);
    let own = &folders[writer * folders.len() / WRITERS_MAX.min(folders.len())];
    let dir = PathBuf::from(format!("writer-{writer}"));
    fs::create_dir_all(own.join(&dir))?;
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for small in 0..SMALL_FILES {
            fs::write(own.join(&dir).join(format!("small-{small}")), dice.bytes(SMALL_BYTES))?;
        }
        let name = dir.join(format!("large-{}", round % LARGE_FILES));
        let content = dice.bytes(LARGE_BYTES);
        fs::write(own.join(&name), &content)
            .with_context(|| format!("writing {}", own.join(&name).display()))?;
        wait_everywhere(folders, &name, &content[..MARK_BYTES])?;
        files.fetch_add(SMALL_FILES + 1, Ordering::Relaxed);
    }
    Ok(())
}

fn wait_everywhere(folders: &[PathBuf], name: &Path, mark: &[u8]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).collect();
    loop {
        left.retain(|path| !begins_with(path, mark));
        let Some(first) = left.first() else { return Ok(()) };
        if Instant::now() > deadline {
            bail!("{} was not there after {PATIENCE:?}", first.display());
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn begins_with(path: &Path, mark: &[u8]) -> bool {
    let mut found = [0; MARK_BYTES];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut found));
    read.is_ok() && found == *mark
}

impl LoadReport {
    /// Content that arrived in a second, at all nodes together, in MB.
    pub(crate) fn rate_mb(&self) -> f64 {
        self.bytes_arrived as f64 / 1e6 / self.seconds.max(1.0)
    }

    /// Whether something was written and all of it arrived.
    pub(crate) fn held(&self) -> bool {
        self.equal && self.files > 0
    }
}
