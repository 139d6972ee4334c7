//! This node's log, given out to one peer in batches.

use std::collections::VecDeque;

use highwater_core::log::Actor;
use highwater_core::wire::{BATCH_ENTRIES_MAX, BATCHES_IN_FLIGHT_MAX, Batch};
use highwater_core::{Epoch, Seq};
use highwater_net::entry_bytes_max;
use highwater_store::{EntryRow, StoreError};

use super::replica::Replica;

/// Entries of a batch on the wire: well below the longest message.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// How far one peer has been told.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// The peer's own actor: what was learned from it need not be told to it.
    actor: Actor,
    /// Up to here it is told that too.
    echoes: Seq,
    epoch: Epoch,
    pub(crate) acked: Seq,
    sent: Seq,
    /// Ends of the batches that are not acknowledged.
    in_flight: VecDeque<Seq>,
}

impl Outlet {
    /// Goes on behind `from`. Up to `echoes` the peer is also told what was learned from it.
    pub(crate) fn new(actor: Actor, epoch: Epoch, from: Seq, echoes: Seq) -> Self {
        Self { actor, echoes, epoch, acked: from, sent: from, in_flight: VecDeque::new() }
    }

    /// The peer has durably taken in everything up to `seq`. Whether that can be.
    pub(crate) fn acknowledged(&mut self, epoch: Epoch, seq: Seq) -> bool {
        if epoch != self.epoch || seq > self.sent || seq < self.acked {
            return false;
        }
        self.acked = seq;
        while self.in_flight.front().is_some_and(|&end| end <= seq) {
            self.in_flight.pop_front();
        }
        true
    }

    /// The next batch, if there is something to tell and the peer keeps up.
    pub(crate) fn next(&mut self, replica: &Replica) -> Result<Option<Batch>, StoreError> {
        let head = replica.head();
        if self.sent >= head || self.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            return Ok(None);
        }
        let (store, share) = (replica.store(), replica.number());
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let (mut upto, mut digest) = (head, replica.checkpoint().digest);
        for log in store.log_after(share, self.sent) {
            let (seq, log) = log?;
            if seq > head {
                break;
            }
            // An entry that has moved on since comes with its later position.
            let row = store.entry(share, &log.key)?.filter(|row| row.seq == seq);
            let is_told =
                |row: &EntryRow| seq <= self.echoes || row.learned_from != Some(self.actor);
            if let Some(row) = row.filter(is_told) {
                bytes += entry_bytes_max(&row.entry);
                entries.push((seq, row.entry));
            }
            if entries.len() == BATCH_ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                (upto, digest) = (seq, log.digest);
                break;
            }
        }
        let share = replica.name().clone();
        let after = self.sent;
        self.sent = upto;
        self.in_flight.push_back(upto);
        Ok(Some(Batch { share, epoch: self.epoch, after, upto, digest, head, entries }))
    }
}
