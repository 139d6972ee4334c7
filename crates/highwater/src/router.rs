//! Brings the parts of an answer to whoever asked for it.
//!
//! Parts wait in an unbounded queue on purpose: the link must go on reading, and what is queued is
//! bounded by what the receiver itself asked for. What a peer sends beyond that is not queued, and
//! the receiver is told that the answer is worthless.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use highwater_core::SMALL_BYTES_MAX;
use highwater_core::content::CHUNKS_MAX;
use highwater_core::wire::{Ask, Refusal, Reply, RequestId};
use tokio::sync::mpsc;

/// What comes back for a request.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A part of the answer.
    Reply(RequestId, Reply),
    /// The link is down; nothing more will come.
    Lost(RequestId),
}

/// Where answers go.
pub(crate) type Inbox = mpsc::UnboundedSender<Arrival>;

/// Numbers are given out once in a process, not once on a link: a transfer has requests open on
/// several links and tells them apart by their numbers alone.
static LAST: AtomicU64 = AtomicU64::new(1);

/// The open requests of one link.
#[derive(Debug, Default)]
pub(crate) struct Router(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    open: BTreeMap<RequestId, Open>,
    down: bool,
}

/// A request that is not answered to its end.
#[derive(Debug)]
struct Open {
    inbox: Inbox,
    /// How much of an answer there can still be.
    owed: u64,
}

/// The most that an honest answer has: bytes, or chunks of a manifest.
fn owed_for(ask: &Ask) -> u64 {
    match ask {
        Ask::Range { length, .. } | Ask::Measure(length) => *length,
        Ask::Smalls(contents) => contents.len() as u64 * (SMALL_BYTES_MAX + 1),
        Ask::Manifest(_) => CHUNKS_MAX as u64,
    }
}

/// What a part takes of what is owed. No part is free, or there could be parts without end.
fn cost(reply: &Reply) -> u64 {
    match reply {
        Reply::Bytes(bytes) => bytes.len() as u64,
        Reply::Small { bytes, .. } => bytes.len() as u64 + 1,
        Reply::Manifest { chunks, .. } => chunks.len().max(1) as u64,
        Reply::SmallRefused { .. } | Reply::Refused(_) => 1,
    }
}

impl Router {
    /// A new request whose answers go to `inbox`; `None` when the link is down.
    pub(crate) fn open(&self, ask: &Ask, inbox: Inbox) -> Option<RequestId> {
        let mut requests = self.requests();
        if requests.down {
            return None;
        }
        let id = RequestId(LAST.fetch_add(1, Ordering::Relaxed));
        requests.open.insert(id, Open { inbox, owed: owed_for(ask) });
        Some(id)
    }

    /// The request needs no more answers.
    pub(crate) fn close(&self, id: RequestId) {
        self.requests().open.remove(&id);
    }

    /// Passes a part of an answer on. Answers to requests that were closed are dropped.
    pub(crate) fn deliver(&self, id: RequestId, reply: Reply) {
        let mut requests = self.requests();
        let Some(open) = requests.open.get_mut(&id) else { return };
        // A receiver that is gone has lost interest in the same moment.
        match open.owed.checked_sub(cost(&reply)) {
            Some(owed) => {
                open.owed = owed;
                let _ = open.inbox.send(Arrival::Reply(id, reply));
            }
            None => {
                let _ = open.inbox.send(Arrival::Reply(id, Reply::Refused(Refusal::Corrupt)));
                requests.open.remove(&id);
            }
        }
    }

    /// Tells everybody who waits that the link is down.
    pub(crate) fn fail_all(&self) {
        let mut requests = self.requests();
        requests.down = true;
        for (id, open) in std::mem::take(&mut requests.open) {
            let _ = open.inbox.send(Arrival::Lost(id));
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::ContentHash;

    use super::*;

    /// A peer answered a request for a kilobyte with gigabytes, and all of it waited in memory.
    #[test]
    fn an_answer_that_is_longer_than_what_was_asked_for_is_cut_off() {
        let (inbox, mut arrivals) = mpsc::unbounded_channel();
        let router = Router::default();
        let ask = Ask::Range { content: ContentHash::of(b""), offset: 0, length: 10 };
        let id = router.open(&ask, inbox).expect("a link that is up");
        for _ in 0..1000 {
            router.deliver(id, Reply::Bytes(vec![0; 4].into()));
        }
        let mut arrived = Vec::new();
        while let Ok(Arrival::Reply(_, reply)) = arrivals.try_recv() {
            arrived.push(reply);
        }
        assert_eq!(arrived.len(), 3, "{arrived:?}");
        assert_eq!(arrived[2], Reply::Refused(Refusal::Corrupt));
    }
}
