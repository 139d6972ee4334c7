//! What a node has promised before it failed, as others heard it, and whether it holds afterwards.
//!
//! A position that was acknowledged to a peer, a change that a peer took in, an offset that was
//! shown: each was said to be durable. After the failure the node is asked again, before it has
//! met its peer, and may have more, never less.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::cluster::SHARE;
use crate::status::{PeerStatus, Status};

/// Everything that was promised so far.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// The node's own history.
    epoch: String,
    /// The end of it.
    head: u64,
    /// The history of the peer.
    peer_epoch: String,
    /// How far the node has it.
    pulled: u64,
    /// The acknowledged offset of each transfer.
    pub offsets: BTreeMap<String, u64>,
}

/// The only peer of the only share.
pub fn only_peer(status: &Status) -> Option<&PeerStatus> {
    status.share(SHARE)?.peers.first()
}

impl Promises {
    /// Takes in what the node says of itself.
    pub fn said(&mut self, status: &Status) {
        let (Some(share), Some(peer)) = (status.share(SHARE), only_peer(status)) else { return };
        if peer.push.epoch.is_empty() {
            return;
        }
        self.own(&peer.push.epoch, share.head_seq);
        self.of_peer(&peer.pull.epoch, peer.pull.acked_seq);
        for transfer in &status.transfers {
            let offset = self.offsets.entry(transfer.key.clone()).or_default();
            *offset = (*offset).max(transfer.acked_offset);
        }
    }

    /// Takes in what the peer has heard from the node.
    pub fn heard(&mut self, status: &Status) {
        let Some(peer) = only_peer(status) else { return };
        self.own(&peer.pull.epoch, peer.pull.acked_seq);
        self.of_peer(&peer.push.epoch, peer.push.acked_seq);
    }

    fn own(&mut self, epoch: &str, head: u64) {
        raise((&mut self.epoch, &mut self.head), epoch, head);
    }

    fn of_peer(&mut self, epoch: &str, pulled: u64) {
        raise((&mut self.peer_epoch, &mut self.pulled), epoch, pulled);
    }

    /// Whether the node, alone again with its disk, still has all that it promised.
    ///
    /// # Errors
    /// What it has lost.
    pub fn demand_kept(&self, status: &Status) -> Result<()> {
        let share = status.share(SHARE).context("the share is gone")?;
        let peer = only_peer(status).context("the peer is gone")?;
        ensure!(
            self.epoch.is_empty() || peer.push.epoch == self.epoch,
            "the node began another history: {} was {}",
            peer.push.epoch,
            self.epoch
        );
        ensure!(
            share.head_seq >= self.head,
            "the node's log ends at {}, and {} was announced",
            share.head_seq,
            self.head
        );
        ensure!(
            self.pulled == 0 || peer.pull.epoch == self.peer_epoch,
            "the checkpoint is in the history {:?}, and was in {}",
            peer.pull.epoch,
            self.peer_epoch
        );
        ensure!(
            peer.pull.acked_seq >= self.pulled,
            "the checkpoint is {}, and {} was acknowledged",
            peer.pull.acked_seq,
            self.pulled
        );
        Ok(())
    }
}

/// Raises a position within its history; another history begins anew.
fn raise((epoch, position): (&mut String, &mut u64), said: &str, upto: u64) {
    if said.is_empty() {
        return;
    }
    if *epoch != said {
        said.clone_into(epoch);
        *position = 0;
    }
    *position = (*position).max(upto);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Position, ShareStatus};

    fn status(epoch: &str, head_seq: u64, pulled: u64) -> Status {
        let position =
            |epoch: &str, acked_seq| Position { epoch: epoch.into(), acked_seq, head_seq };
        let peer = PeerStatus {
            pull: position("peer's", pulled),
            push: position(epoch, 0),
            ..PeerStatus::default()
        };
        let share = ShareStatus {
            name: SHARE.into(),
            head_seq,
            peers: vec![peer],
            ..ShareStatus::default()
        };
        Status { shares: vec![share], ..Status::default() }
    }

    #[test]
    fn a_node_that_has_less_than_it_promised_is_caught() {
        let mut promises = Promises::default();
        promises.said(&status("own", 7, 5));
        promises.demand_kept(&status("own", 7, 5)).expect("the same");
        promises.demand_kept(&status("own", 8, 9)).expect("more");
        for lost in [status("own", 6, 5), status("own", 7, 4), status("another", 7, 5)] {
            assert!(promises.demand_kept(&lost).is_err(), "{lost:?}");
        }
    }

    #[test]
    fn what_only_the_peer_has_heard_counts_as_well() {
        let mut heard = status("peer's", 0, 9);
        heard.shares[0].peers[0].pull = Position { epoch: "own".into(), acked_seq: 9, head_seq: 9 };
        heard.shares[0].peers[0].push.acked_seq = 4;
        let mut promises = Promises::default();
        promises.heard(&heard);
        assert!(promises.demand_kept(&status("own", 8, 4)).is_err());
        assert!(promises.demand_kept(&status("own", 9, 3)).is_err());
        promises.demand_kept(&status("own", 9, 4)).expect("all that was heard");
    }
}
