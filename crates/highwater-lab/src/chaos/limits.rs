//! What a node may use, whatever happens to it, and the sampler that holds it to that.
//!
//! All bounds of the long runs are here. Each is two to three times the most that was measured with
//! nothing broken, so that a leak shows within minutes and a busy machine does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cluster::SHARE;
use crate::node::Resident;
use crate::status::Status;

/// Memory of a node: eight transfers with full windows, a scan, and what sled caches.
pub(crate) const RESIDENT_BYTES_MAX: u64 = 400 * MIB;
/// Open files: links, their doubles while they are made anew, stages, the store, the scan.
pub(crate) const OPEN_FILES_MAX: u64 = 256;
/// Threads: workers, blocking ones, the share's, sled's.
pub(crate) const THREADS_MAX: u64 = 64;
/// What is staged: eight large contents, and small ones on their way.
pub(crate) const STAGED_BYTES_MAX: u64 = 320 * MIB;
/// The home: the store of some hundreds of entries, before sled cleans up behind itself.
pub(crate) const HOME_BYTES_MAX: u64 = 256 * MIB;
/// Connections that a link may see in a second, over a round: what the table of waits allows, with
/// attempts beside a silent one.
pub(crate) const DIALS_PER_SECOND_MAX: f64 = 6.0;
/// What a link may carry in a second when there is nothing to say: signs of life, and no content.
pub(crate) const IDLE_BYTES_PER_SECOND_MAX: u64 = 2 * 1024;

const MIB: u64 = 1024 * 1024;
/// How often status is asked for: often enough to meet a transfer that resumes.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);
/// How often the process is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The most that was seen of everything bounded.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Peak {
    pub(crate) resident_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) threads: u64,
    pub(crate) staged_bytes: u64,
    pub(crate) home_bytes: u64,
}

/// What was seen of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    state: Mutex<SeenState>,
}

#[derive(Debug, Default)]
struct SeenState {
    peak: Peak,
    breaches: Vec<String>,
    /// Transfers taken up at an offset above 0: node, key, offset.
    resumed: BTreeSet<(usize, String, u64)>,
    /// How often each kind of problem came up, by node.
    problems: BTreeMap<(usize, String), u64>,
    standing: BTreeMap<usize, BTreeSet<String>>,
    samples: u64,
}

impl Seen {
    /// The most that any node used.
    pub(crate) fn peak(&self) -> Peak {
        self.with(|state| state.peak)
    }

    /// Bounds that were passed.
    pub(crate) fn breaches(&self) -> Vec<String> {
        self.with(|state| state.breaches.clone())
    }

    /// How many transfers were taken up at an offset above 0.
    pub(crate) fn resumed(&self) -> usize {
        self.with(|state| state.resumed.len())
    }

    /// How often a problem of this kind came up, on all nodes.
    pub(crate) fn problems(&self, kind: &str) -> u64 {
        self.with(|state| {
            state.problems.iter().filter(|((_, k), _)| k == kind).map(|(_, count)| count).sum()
        })
    }

    /// Every kind of problem that came up, and how often.
    pub(crate) fn all_problems(&self) -> BTreeMap<String, u64> {
        self.with(|state| {
            let mut all = BTreeMap::new();
            for ((_, kind), count) in &state.problems {
                *all.entry(kind.clone()).or_insert(0) += count;
            }
            all
        })
    }

    fn take_status(&self, node: usize, status: &Status) {
        let mut kinds: BTreeSet<String> = BTreeSet::new();
        for share in &status.shares {
            kinds.extend(share.problems.iter().map(|problem| problem.kind.clone()));
        }
        self.with(|state| {
            for transfer in status.transfers.iter().filter(|t| t.resumed_from > 0) {
                state.resumed.insert((node, transfer.key.clone(), transfer.resumed_from));
            }
            let standing = state.standing.entry(node).or_default();
            for kind in kinds.difference(standing) {
                *state.problems.entry((node, kind.clone())).or_insert(0) += 1;
            }
            *standing = kinds;
        });
    }

    fn take_look(&self, node: usize, look: &Peak) {
        let bounds = [
            ("resident bytes", look.resident_bytes, RESIDENT_BYTES_MAX),
            ("open files", look.open_files, OPEN_FILES_MAX),
            ("threads", look.threads, THREADS_MAX),
            ("staged bytes", look.staged_bytes, STAGED_BYTES_MAX),
            ("bytes of the home", look.home_bytes, HOME_BYTES_MAX),
        ];
        self.with(|state| {
            state.samples += 1;
            let peak = &mut state.peak;
            peak.resident_bytes = peak.resident_bytes.max(look.resident_bytes);
            peak.open_files = peak.open_files.max(look.open_files);
            peak.threads = peak.threads.max(look.threads);
            peak.staged_bytes = peak.staged_bytes.max(look.staged_bytes);
            peak.home_bytes = peak.home_bytes.max(look.home_bytes);
            for (what, value, most) in bounds {
                if value > most {
                    state.breaches.push(format!("node {node}: {value} {what}, at most {most}"));
                }
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut SeenState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What looks at one node.
pub(crate) struct Sampler<F> {
    pub(crate) node: usize,
    /// The process, 0 while there is none.
    pub(crate) pid: Arc<AtomicU32>,
    pub(crate) folder: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) status: F,
    pub(crate) seen: Arc<Seen>,
    pub(crate) over: Arc<AtomicBool>,
}

impl<F: Fn() -> Option<Status>> Sampler<F> {
    /// Looks until it is over.
    pub(crate) fn work(self) {
        let mut looked = Instant::now();
        while !self.over.load(Ordering::Relaxed) {
            let pid = self.pid.load(Ordering::Relaxed);
            if pid != 0 {
                if let Some(status) = (self.status)() {
                    self.seen.take_status(self.node, &status);
                }
                if looked.elapsed() >= LOOK_INTERVAL {
                    looked = Instant::now();
                    self.look(pid);
                }
            }
            thread::sleep(STATUS_INTERVAL);
        }
    }

    /// A process that dies while it is looked at is left out.
    fn look(&self, pid: u32) {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count);
        let (Ok(resident), Ok(files), Ok(threads)) =
            (Resident::of(pid), count("fd"), count("task"))
        else {
            return;
        };
        let look = Peak {
            resident_bytes: resident.now,
            open_files: files as u64,
            threads: threads as u64,
            staged_bytes: bytes_below(&self.folder.join(".highwater/stage")),
            home_bytes: bytes_below(&self.home),
        };
        self.seen.take_look(self.node, &look);
    }
}

/// Bytes of all files below a directory; 0 where there is none.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// The share of a status that the runs are about.
pub(crate) fn share_state(status: &Status) -> &str {
    status.share(SHARE).map_or("", |share| &share.state)
}
