//! The proxy's log: what was done to a link, when, and the bytes each connection carried.
//!
//! It is the test's witness that a fault fell where it was meant to, and its own count of the
//! bytes that crossed, independent of what the nodes say about themselves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::faults::Direction;

/// The log of one link.
#[derive(Debug)]
pub(crate) struct Record {
    began: Instant,
    events: Mutex<Vec<LinkEvent>>,
    connections: Mutex<Vec<Arc<Carried>>>,
}

/// The log of one connection.
#[derive(Debug)]
pub(crate) struct Carried {
    link_began: Instant,
    opened: Duration,
    bytes: [AtomicU64; 2],
    ended: Mutex<Option<(Duration, String)>>,
}

impl Record {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), events: Mutex::default(), connections: Mutex::default() }
    }

    pub(crate) fn note(&self, what: String) {
        let event = LinkEvent { at_ms: millis(self.began.elapsed()), what };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(crate) fn open(&self) -> Arc<Carried> {
        let carried = Arc::new(Carried {
            link_began: self.began,
            opened: self.began.elapsed(),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            ended: Mutex::default(),
        });
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&carried));
        carried
    }

    pub(crate) fn report(&self) -> LinkReport {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        LinkReport { events, connections: all.iter().map(|carried| carried.report()).collect() }
    }
}

impl Carried {
    pub(crate) fn add(&self, direction: Direction, bytes: usize) {
        self.bytes[direction.index()].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, how: &str) {
        let ended = (self.link_began.elapsed(), how.to_owned());
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }

    fn report(&self) -> ConnectionReport {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ConnectionReport {
            opened_ms: millis(self.opened),
            forward_bytes: self.bytes[0].load(Ordering::Relaxed),
            backward_bytes: self.bytes[1].load(Ordering::Relaxed),
            ended_ms: ended.as_ref().map(|(at, _)| millis(*at)),
            ended_how: ended.map(|(_, how)| how),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What was done to a link and what it carried. Times are milliseconds since the link began.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LinkReport {
    /// What was done, in order.
    pub events: Vec<LinkEvent>,
    /// Every connection, in the order of their opening.
    pub connections: Vec<ConnectionReport>,
}

/// One thing that was done to a link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkEvent {
    /// When.
    pub at_ms: u64,
    /// What, for people.
    pub what: String,
}

/// One connection over a link.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionReport {
    /// When it was accepted.
    pub opened_ms: u64,
    /// Bytes delivered from the dialling to the listening node.
    pub forward_bytes: u64,
    /// Bytes delivered from the listening to the dialling node.
    pub backward_bytes: u64,
    /// When it ended; `None` while it is open.
    pub ended_ms: Option<u64>,
    /// How it ended, for people.
    pub ended_how: Option<String>,
}

impl LinkReport {
    /// Bytes delivered in one direction over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        let of = |connection: &ConnectionReport| match direction {
            Direction::Forward => connection.forward_bytes,
            Direction::Backward => connection.backward_bytes,
        };
        self.connections.iter().map(of).sum()
    }

    /// How many connections carried anything at all.
    pub fn connections_used(&self) -> usize {
        let used = |c: &&ConnectionReport| c.forward_bytes + c.backward_bytes > 0;
        self.connections.iter().filter(used).count()
    }
}
