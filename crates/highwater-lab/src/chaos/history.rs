//! What the clients did: every change of every file, with what stood there before it.
//!
//! A client changes a folder only in steps that say exactly what they displaced (see
//! [`super::hands`]), so the history knows of every version whether somebody who had it on disk
//! replaced or removed it. No content is written twice: it begins with the number of the
//! operation, the node and the path, and goes on with random bytes. So a version is known by its
//! hash alone, wherever it turns up, and one that is gone is missed.
//!
//! A content is announced before it is written, so that whoever reads a folder meanwhile can tell
//! what nobody wrote. Files whose name begins with `live` are written in place, piece by piece, and
//! may be met half-way; of all others every reader sees a whole version or none.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::dice::Dice;

/// Names of files that are written in place begin with this.
pub(crate) const LIVE: &str = "live";

/// One content, as its hash; of a link, the hash of its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Content([u8; 32]);

impl Content {
    pub(crate) fn of(bytes: &[u8]) -> Content {
        Content(*blake3::hash(bytes).as_bytes())
    }

    pub(crate) fn of_link(target: &Path) -> Content {
        Content(*blake3::hash(format!("link to {}", target.display()).as_bytes()).as_bytes())
    }

    /// The content whose hash is written so.
    pub(crate) fn parse(hex: &str) -> Option<Content> {
        blake3::Hash::from_hex(hex).ok().map(|hash| Content(*hash.as_bytes()))
    }

    pub(crate) fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex()[..10])
    }
}

/// One change of one path by one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) op: u64,
    pub(crate) node: usize,
    pub(crate) path: String,
    /// What stood there and stands there no more.
    pub(crate) was: Option<Content>,
    /// What stands there instead.
    pub(crate) now: Option<Content>,
    /// Whether it certainly happened. A writer whose file was replaced under its hands cannot know.
    pub(crate) sure: bool,
    /// Places in the order of all changes: what it made can have been met from `began` on, what
    /// it displaced was still there until `ended`.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// Where a content came from.
#[derive(Clone, Debug)]
struct Origin {
    op: u64,
    /// The whole of a content that is written piece by piece: the seed of its bytes, its length.
    pieces: Option<(u64, usize)>,
}

/// All that the clients of one run did.
#[derive(Debug)]
pub(crate) struct History {
    seed: u64,
    operations: AtomicU64,
    clock: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: BTreeMap<Content, Origin>,
    changes: Vec<Change>,
    log: BufWriter<File>,
}

impl History {
    /// An empty history, also written to `log`, a line of JSON a change.
    pub(crate) fn begin(seed: u64, log: &Path) -> Result<History> {
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let state = State { known: BTreeMap::new(), changes: Vec::new(), log: BufWriter::new(log) };
        Ok(History {
            seed,
            operations: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    /// The number of a new operation.
    pub(crate) fn operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The next place in the order of all changes.
    pub(crate) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Makes a content that nobody has written yet, and announces it.
    pub(crate) fn compose(&self, op: u64, node: usize, path: &str, size: usize) -> Vec<u8> {
        let bytes = self.bytes(op, node, path, size);
        self.announce(Content::of(&bytes), op, None);
        bytes
    }

    /// The same for a file that will be written piece by piece.
    pub(crate) fn compose_pieces(&self, op: u64, node: usize, path: &str, size: usize) -> Vec<u8> {
        let bytes = self.bytes(op, node, path, size);
        let mut state = self.lock();
        let pieces = Some((mix(self.seed, op), bytes.len()));
        state.known.insert(Content::of(&bytes), Origin { op, pieces });
        drop(state);
        bytes
    }

    /// Announces a content that was made in another way.
    pub(crate) fn announce(&self, content: Content, op: u64, pieces: Option<(u64, usize)>) {
        self.lock().known.insert(content, Origin { op, pieces });
    }

    fn bytes(&self, op: u64, node: usize, path: &str, size: usize) -> Vec<u8> {
        let mut bytes = format!("{op}|{node}|{path}|").into_bytes();
        let head = bytes.len();
        bytes.resize(size.max(head + 8), 0);
        Dice::new(mix(self.seed, op)).fill(&mut bytes[head..]);
        bytes
    }

    /// Keeps what a client did.
    pub(crate) fn record(&self, change: Change) {
        let mut state = self.lock();
        let hex = |content: Option<Content>| content.map(|content| content.hex());
        let line = serde_json::json!({
            "op": change.op, "node": change.node, "path": change.path, "sure": change.sure,
            "was": hex(change.was), "now": hex(change.now), "began": change.began,
            "ended": change.ended,
        });
        // The log is for people; a run is judged by what is in memory.
        let _ = writeln!(state.log, "{line}");
        state.changes.push(change);
    }

    /// What was done since the last call.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        let mut state = self.lock();
        let _ = state.log.flush();
        std::mem::take(&mut state.changes)
    }

    /// Whether somebody wrote exactly this content.
    pub(crate) fn is_known(&self, content: Content) -> bool {
        self.lock().known.contains_key(&content)
    }

    /// Whether these bytes are the beginning of a content that was written piece by piece.
    pub(crate) fn is_piece(&self, bytes: &[u8]) -> bool {
        let state = self.lock();
        let live = state.known.values().filter_map(|origin| Some((origin.op, origin.pieces?)));
        if bytes.is_empty() {
            return live.count() > 0;
        }
        let head_of = |op: u64| format!("{op}|").into_bytes();
        let candidates: Vec<_> = live
            .filter(|(op, (_, length))| {
                let head = head_of(*op);
                let common = head.len().min(bytes.len());
                bytes.len() <= *length && head[..common] == bytes[..common]
            })
            .collect();
        drop(state);
        candidates.into_iter().any(|(_, (seed, length))| begins_with(seed, length, bytes))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `bytes`, behind a head of their own, are the first random ones of a content.
fn begins_with(seed: u64, length: usize, bytes: &[u8]) -> bool {
    let bars = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'|');
    let Some((third, _)) = bars.take(3).nth(2) else { return bytes.len() < length };
    let rest = &bytes[third + 1..];
    let mut expected = vec![0; length.saturating_sub(third + 1)];
    Dice::new(seed).fill(&mut expected);
    expected.starts_with(rest)
}

fn mix(seed: u64, op: u64) -> u64 {
    Dice::new(seed ^ op.rotate_left(32)).roll()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_the_beginning_of_a_content_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let history = History::begin(7, &dir.path().join("log")).expect("writable");
        let live = history.compose_pieces(1, 0, "live", 5_000);
        let whole = history.compose(2, 0, "other", 5_000);
        for length in [0, 1, 4, 9, 100, 4_999] {
            assert!(history.is_piece(&live[..length]), "{length}");
        }
        assert!(!history.is_piece(&whole[..100]));
        let mut torn = live[..4_000].to_vec();
        torn[3_000] ^= 1;
        assert!(!history.is_piece(&torn));
        assert!(history.is_known(Content::of(&live)) && history.is_known(Content::of(&whole)));
    }
}
