//! What happened in one simulated world: every link at both of its ends, every message by its
//! number, and whatever must never happen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One end of one link, named by its node, that node's run and the links it had before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct EndId {
    pub(crate) node: u8,
    pub(crate) run: u8,
    pub(crate) serial: u16,
}

impl EndId {
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.node;
        bytes[1] = self.run;
        bytes[2..4].copy_from_slice(&self.serial.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { node: bytes[0], run: bytes[1], serial: u16::from_be_bytes([bytes[2], bytes[3]]) }
    }
}

/// The two streams of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stream {
    Control,
    Content,
}

/// What one end has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndState {
    pub(crate) peer: u8,
    /// The other end, once a message has told.
    pub(crate) other: Option<EndId>,
    pub(crate) sent: BTreeMap<Stream, u64>,
    pub(crate) received: BTreeMap<Stream, u64>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) ends: BTreeMap<EndId, EndState>,
    /// The newest end at each node for each peer that has not ended.
    pub(crate) current: BTreeMap<(u8, u8), EndId>,
    /// Link events by the simulation's clock, in milliseconds.
    pub(crate) told: Vec<(u64, String)>,
    pub(crate) violations: Vec<String>,
    /// Nodes that have ended politely, with the tasks that were left over.
    pub(crate) left_over: BTreeMap<u8, usize>,
    /// The shortest and smoothed round trips of live links, in milliseconds.
    pub(crate) round_trips: Vec<(u64, u64)>,
}

/// The record of one world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<State>>);

impl Record {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, what: String) {
        let at = now();
        self.state().told.push((at, what));
    }

    pub(crate) fn violation(&self, what: String) {
        let at = now();
        self.state().violations.push(format!("{at} ms: {what}"));
    }

    /// A link has come up.
    pub(crate) fn up(&self, end: EndId, peer: u8, dialled: bool) {
        let how = if dialled { "dialled" } else { "was dialled by" };
        self.tell(format!("node {} {how} {peer}: link {}.{}", end.node, end.run, end.serial));
        let mut state = self.state();
        state.ends.insert(end, EndState { peer, ..EndState::default() });
        state.current.insert((end.node, peer), end);
    }

    /// A link has ended.
    pub(crate) fn down(&self, end: EndId, reason: &str) {
        let mut state = self.state();
        let Some(known) = state.ends.get_mut(&end) else { return };
        known.ended = true;
        let peer = known.peer;
        if state.current.get(&(end.node, peer)) == Some(&end) {
            state.current.remove(&(end.node, peer));
        }
        drop(state);
        let EndId { node, run, serial } = end;
        self.tell(format!("node {node} lost {peer}: link {run}.{serial}: {reason}"));
    }

    /// Everything of a node's run is gone without a word.
    pub(crate) fn crashed(&self, node: u8) {
        let mut state = self.state();
        for (_, end) in state.ends.iter_mut().filter(|(id, _)| id.node == node) {
            end.ended = true;
        }
        state.current.retain(|(of, _), _| *of != node);
    }

    pub(crate) fn sent(&self, end: EndId, stream: Stream, bytes: u64) {
        let mut state = self.state();
        if let Some(end) = state.ends.get_mut(&end) {
            *end.sent.entry(stream).or_default() += 1;
            end.bytes_sent += bytes;
        }
    }

    /// A message with `number` has come in from `from`: on each stream the next of the one link.
    pub(crate) fn received(
        &self,
        end: EndId,
        stream: Stream,
        from: EndId,
        number: u64,
        bytes: u64,
    ) {
        let mut wrong = Vec::new();
        {
            let mut state = self.state();
            let Some(known) = state.ends.get_mut(&end) else { return };
            let expected = known.received.entry(stream).or_default();
            if *expected != number {
                wrong.push(format!("{end:?} expected {stream:?} {expected}, got {number}"));
            }
            *expected = number + 1;
            known.bytes_received += bytes;
            let (peer, first) = (known.peer, *known.other.get_or_insert(from));
            if first != from || from.node != peer {
                wrong.push(format!("{end:?} is linked with {first:?} and hears {from:?}"));
            }
            let theirs = state.ends.get(&from).and_then(|other| other.other);
            if theirs.is_some_and(|theirs| theirs != end) {
                wrong.push(format!("{from:?} is linked with {theirs:?} and heard by {end:?}"));
            }
            let sent = state.ends.get(&from).and_then(|from| from.sent.get(&stream).copied());
            if sent.unwrap_or_default() <= number {
                wrong.push(format!("{end:?} heard {stream:?} {number}, which was never sent"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }
}

/// The simulation's clock, in milliseconds.
pub(crate) fn now() -> u64 {
    turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64
}
