//! The transfers that people see: what is in flight, how far it is, where it resumed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_core::{ContentHash, Key, NodeId, ShareName};

use crate::report::{self, TransferState};

/// Every transfer of a node.
#[derive(Debug, Default)]
pub(crate) struct Transfers(Mutex<BTreeMap<(ShareName, ContentHash), Arc<Transfer>>>);

/// One content on its way here.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) share: ShareName,
    pub(crate) key: Key,
    pub(crate) content: ContentHash,
    pub(crate) size: u64,
    acked: AtomicU64,
    resumed_from: AtomicU64,
    rate: AtomicU64,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
struct Phase {
    state: TransferState,
    peer: Option<NodeId>,
}

impl Transfers {
    /// Begins to show a transfer, until the answer is dropped.
    pub(crate) fn begin(
        self: &Arc<Self>,
        share: &ShareName,
        key: &Key,
        content: ContentHash,
        size: u64,
    ) -> Shown {
        let phase = Mutex::new(Phase { state: TransferState::Waiting, peer: None });
        let transfer = Arc::new(Transfer {
            share: share.clone(),
            key: key.clone(),
            content,
            size,
            acked: AtomicU64::new(0),
            resumed_from: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            phase,
        });
        self.all().insert((share.clone(), content), Arc::clone(&transfer));
        Shown { transfers: Arc::clone(self), transfer }
    }

    pub(crate) fn report(&self) -> Vec<report::Transfer> {
        self.all().values().map(|transfer| transfer.report()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<(ShareName, ContentHash), Arc<Transfer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows a transfer as long as it lives.
#[derive(Debug)]
pub(crate) struct Shown {
    transfers: Arc<Transfers>,
    transfer: Arc<Transfer>,
}

impl std::ops::Deref for Shown {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        &self.transfer
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut all = self.transfers.all();
        let place = (self.transfer.share.clone(), self.transfer.content);
        // The same content may have been begun again before this one was let go of.
        if all.get(&place).is_some_and(|shown| Arc::ptr_eq(shown, &self.transfer)) {
            all.remove(&place);
        }
    }
}

impl Transfer {
    /// Everything before `offset` is durable.
    pub(crate) fn acked(&self, offset: u64) {
        self.acked.store(offset, Ordering::Relaxed);
    }

    pub(crate) fn acked_offset(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// It goes on at its acknowledged offset, after a break.
    pub(crate) fn resumed(&self) {
        self.resumed_from.store(self.acked_offset(), Ordering::Relaxed);
    }

    pub(crate) fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: TransferState, peer: Option<NodeId>) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase { state, peer };
    }

    fn report(&self) -> report::Transfer {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        report::Transfer {
            share: self.share.clone(),
            key: self.key.clone(),
            peer: phase.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            size: self.size,
            acked_offset: self.acked_offset(),
            resumed_from: self.resumed_from.load(Ordering::Relaxed),
            bytes_per_second: self.rate.load(Ordering::Relaxed),
            state: phase.state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transfer that was taken up anew while the one before was still on its way out vanished
    /// from `status` for the rest of its life.
    #[test]
    fn the_end_of_an_earlier_transfer_does_not_hide_a_later_one_of_the_same_content() {
        let transfers = Arc::new(Transfers::default());
        let (share, key) = ("docs".parse().expect("name"), Key::new("a").expect("key"));
        let content = ContentHash::from_bytes([7; 32]);
        let earlier = transfers.begin(&share, &key, content, 10);
        let later = transfers.begin(&share, &key, content, 10);
        drop(earlier);
        assert_eq!(transfers.report().len(), 1);
        drop(later);
        assert_eq!(transfers.report().len(), 0);
    }
}
