//! What a node remembers of its own log beyond what is in it: the histories before the current one,
//! and what stood at positions that their entries have left.
//!
//! Both serve one question: does what a peer has read of this log belong to this copy of the store,
//! or to a later one that was lost when this one was put back? A position that was given out twice
//! would make a new change pass for one that everybody knows.

use std::collections::VecDeque;

use highwater_core::intake::{self, OwnLog, Standing};
use highwater_core::log::Checkpoint;
use highwater_core::{Entry, Epoch, LogDigest, NodeId, Seq};
use highwater_store::{Commit, EntryRow, PastRow, RetiredRow, ShareNumber, Store, StoreError};

use super::Replica;

/// Histories that are remembered. A node begins one for each restore; who has read in one that was
/// forgotten makes it begin another.
const EPOCHS_MAX: usize = 64;
/// Positions of which is kept what stood there after their entries have left them. Where a peer that
/// is behind all of them is, was mostly recorded, so that nothing rests on this.
const RETIRED_MAX: usize = 1024;

/// What is remembered of a share's own log.
#[derive(Debug, Default)]
pub(super) struct Past {
    row: PastRow,
    /// The positions that are remembered, the one that goes first in front.
    retired: VecDeque<Seq>,
}

impl Past {
    pub(super) fn read(store: &Store, share: ShareNumber) -> Result<Self, StoreError> {
        let row = store.past(share)?.unwrap_or_default();
        Ok(Self { row, retired: store.retired(share)?.into() })
    }
}

impl Replica {
    /// What a peer's checkpoint in this log says about this log.
    pub(crate) fn judge(
        &mut self,
        peer: &NodeId,
        pulled: Option<Checkpoint>,
    ) -> Result<Standing, StoreError> {
        self.flush()?;
        let pushed = self.peer(peer)?.pushed.filter(|pushed| pushed.epoch == self.epoch());
        let acked = pushed.map_or(Seq::ZERO, |pushed| pushed.seq);
        let (epoch, head, past) = (self.epoch(), self.head(), &self.past.row.epochs[..]);
        let digest = match pulled {
            Some(pulled) => self.digest_at(pulled.seq)?,
            None => None,
        };
        Ok(intake::judge(pulled, OwnLog { epoch, head, acked, past }, |_| digest))
    }

    fn digest_at(&self, seq: Seq) -> Result<Option<LogDigest>, StoreError> {
        match self.store.log_at(self.number(), seq)? {
            Some(row) => Ok(Some(row.digest)),
            None => Ok(self.store.retired_at(self.number(), seq)?.map(|row| row.digest)),
        }
    }

    /// Whether an entry is a change of this node under a position where this node made another one.
    /// A position that is not remembered tells nothing.
    pub(crate) fn is_contradicted_by(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let own = entry.version.last_of(self.actor).filter(|_| entry.author == self.node.tag());
        let Some(seq) = own else { return Ok(false) };
        self.flush()?;
        let made = match self.store.log_at(self.number(), seq)? {
            Some(log) => self.entry(&log.key)?.filter(|row| row.seq == seq).map(|row| row.entry),
            None => self.store.retired_at(self.number(), seq)?.map(|row| row.entry),
        };
        Ok(made.is_some_and(|made| intake::contradicts(entry, &made, self.actor)))
    }

    /// A history is over, whether it was known here before or not.
    pub(crate) fn remember_past(&mut self, epoch: Epoch) -> Result<(), StoreError> {
        let epochs = &mut self.past.row.epochs;
        if epochs.contains(&epoch) {
            return Ok(());
        }
        if epochs.len() >= EPOCHS_MAX {
            epochs.remove(0);
        }
        epochs.push(epoch);
        let mut commit = Commit::new();
        commit.put_past(self.number(), &self.past.row);
        self.store.commit(commit)
    }

    /// This history was begun by this very process.
    pub(crate) fn mark_begun_here(&mut self) {
        self.begun_here = true;
    }

    /// An entry leaves its position: what stood there can still be compared for a while.
    pub(super) fn retire(&mut self, left: &EntryRow) -> Result<(), StoreError> {
        let Some(log) = self.store.log_at(self.number(), left.seq)? else { return Ok(()) };
        let row = RetiredRow { digest: log.digest, entry: left.entry.clone() };
        self.pending.put_retired(self.number(), left.seq, &row);
        self.past.retired.push_back(left.seq);
        if self.past.retired.len() > RETIRED_MAX
            && let Some(oldest) = self.past.retired.pop_front()
        {
            self.pending.delete_retired(self.number(), oldest);
        }
        Ok(())
    }
}
