//! How far peers are, and what of that holds when a history ends and another begins.

use std::sync::Arc;

use highwater_core::log::Checkpoint;
use highwater_core::{Entry, Epoch, NodeId, Seq, Version};
use highwater_store::{PeerRow, StoreError, WantClass};

use super::{Replica, decode_print};

/// Wants that are forgotten in one commit, after a restore.
const FORGOTTEN_AT_ONCE: usize = 1000;

impl Replica {
    pub(crate) fn peer(&self, node: &NodeId) -> Result<PeerRow, StoreError> {
        match self.peers.get(node) {
            Some(row) => Ok(*row),
            None => self.store.peer(self.number(), node),
        }
    }

    pub(crate) fn put_peer(&mut self, node: &NodeId, row: PeerRow) {
        self.peers.insert(*node, row);
        self.pending.put_peer(self.number(), node, &row);
    }

    /// Forgets how far this node is in the logs of all peers, those that are not listed now
    /// included, and how far they are in this one. The last position that one of them was sure to
    /// have.
    pub(crate) fn forget_peers(&mut self) -> Result<Seq, StoreError> {
        self.flush()?;
        let (epoch, mut known) = (self.epoch(), Seq::ZERO);
        for peer in self.store.peers(self.number())? {
            let pushed = self.peer(&peer)?.pushed.filter(|pushed| pushed.epoch == epoch);
            known = known.max(pushed.map_or(Seq::ZERO, |pushed| pushed.seq));
            self.put_peer(&peer, PeerRow::default());
        }
        Ok(known)
    }

    /// Forgets what is wanted, in a store that is older than the folder: what is wanted may long
    /// have come, been edited by its user, and be known to peers as that edit. Whatever still is to
    /// come is heard of again, as every peer's log is read from its start. What is staged stays.
    pub(crate) fn forget_wants(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        let store = Arc::clone(&self.store);
        for class in WantClass::ALL {
            for want in store.wants(self.number(), class, None) {
                self.unwant(class, &want?.entry);
                if self.unwanted.len() >= FORGOTTEN_AT_ONCE {
                    self.unwanted.clear();
                    self.flush()?;
                }
            }
        }
        self.unwanted.clear();
        self.flush()
    }

    /// The checkpoint that a peer holds who has taken in everything.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { epoch: self.row.epoch, seq: self.head, digest: self.digest }
    }

    /// Begins another history: peers have seen more of this one than there is, so the store was
    /// restored from an older copy. What was changed here behind `known`, the last position that a
    /// peer is sure to have from before, may have been given positions that were given out already.
    /// Such changes are made anew: where a peer knows something else by the same name, both stay.
    pub(crate) fn take_new_epoch(&mut self, epoch: Epoch, known: Seq) -> Result<(), StoreError> {
        self.flush()?;
        let old = self.actor;
        self.remember_past(self.row.epoch)?;
        self.row.epoch = epoch;
        (self.begun_here, self.begun_anew) = (true, true);
        self.actor = self.row.epoch.actor(&self.node, &self.name);
        self.pending.put_share(&self.name, &self.row);
        let store = Arc::clone(&self.store);
        for log in store.log_after(self.number(), known) {
            let (seq, log) = log?;
            let Some(row) = store.entry(self.number(), &log.key)?.filter(|row| row.seq == seq)
            else {
                continue;
            };
            let others = row.entry.version.counters().filter(|(actor, _)| *actor != old);
            let others = Version::from_counters(others);
            let own = row.entry.version.counters().find(|(actor, _)| *actor == old);
            if own.is_some_and(|(_, counter)| counter > known) {
                let version = others.with_change(self.actor, self.head.next());
                let print = decode_print(row.print.as_deref());
                let entry = Entry { version, ..row.entry.clone() };
                self.append(entry, print.as_ref(), None, Some(row))?;
            }
        }
        self.flush()
    }
}
