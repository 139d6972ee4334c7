//! Brings the parts of an answer to whoever asked for it.
//!
//! Parts wait in an unbounded queue on purpose: the link must go on reading, and what is queued is
//! bounded by what the receiver itself asked for. A peer that sends more than it was asked for is
//! found out by the receiver.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use highwater_core::wire::{Reply, RequestId};
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
    open: BTreeMap<RequestId, Inbox>,
    down: bool,
}

impl Router {
    /// A new request whose answers go to `inbox`; `None` when the link is down.
    pub(crate) fn open(&self, inbox: Inbox) -> Option<RequestId> {
        let mut requests = self.requests();
        if requests.down {
            return None;
        }
        let id = RequestId(LAST.fetch_add(1, Ordering::Relaxed));
        requests.open.insert(id, inbox);
        Some(id)
    }

    /// The request needs no more answers.
    pub(crate) fn close(&self, id: RequestId) {
        self.requests().open.remove(&id);
    }

    /// Passes a part of an answer on. Answers to requests that were closed are dropped.
    pub(crate) fn deliver(&self, id: RequestId, reply: Reply) {
        if let Some(inbox) = self.requests().open.get(&id) {
            // A receiver that is gone has lost interest in the same moment.
            let _ = inbox.send(Arrival::Reply(id, reply));
        }
    }

    /// Tells everybody who waits that the link is down.
    pub(crate) fn fail_all(&self) {
        let mut requests = self.requests();
        requests.down = true;
        for (id, inbox) in std::mem::take(&mut requests.open) {
            let _ = inbox.send(Arrival::Lost(id));
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
