//! What a node says about itself: `status --json` as the contract has it, read leniently.
//!
//! These types are the lab's own, so that a test fails when the product's document changes instead
//! of changing with it. Fields that nothing here asks for are left out.

use serde::Deserialize;

/// The whole document.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Status {
    /// Whose status this is.
    pub node_id: String,
    /// Every share of the node.
    #[serde(default)]
    pub shares: Vec<ShareStatus>,
    /// Content in flight.
    #[serde(default)]
    pub transfers: Vec<TransferStatus>,
    /// Counters since the daemon started.
    #[serde(default)]
    pub counters: Counters,
}

/// One share of a node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ShareStatus {
    /// Its name.
    pub name: String,
    /// `idle`, `scanning`, `syncing`, `paused` or `error`.
    pub state: String,
    /// Live entries.
    #[serde(default)]
    pub entries: u64,
    /// The head of the node's own log.
    #[serde(default)]
    pub head_seq: u64,
    /// What is not here yet.
    #[serde(default)]
    pub needed: Needed,
    /// Conflict copies.
    #[serde(default)]
    pub conflicts: u64,
    /// What is wrong.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// How it stands with each peer.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
}

/// What a share lacks.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Needed {
    /// Entries not applied.
    pub entries: u64,
    /// Content bytes of those.
    pub bytes: u64,
}

/// Something wrong with a path, or with a share as a whole.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Problem {
    /// Where.
    #[serde(default)]
    pub path: String,
    /// What, for programs.
    #[serde(default)]
    pub kind: String,
    /// What, for people.
    #[serde(default)]
    pub message: String,
}

/// A share and a peer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PeerStatus {
    /// Which peer.
    pub node_id: String,
    /// Whether there is a link now.
    pub connected: bool,
    /// Whether both have everything of each other.
    pub in_sync: bool,
    /// This node's checkpoint in the peer's log.
    #[serde(default)]
    pub pull: Position,
    /// The peer's checkpoint in this node's log.
    #[serde(default)]
    pub push: Position,
}

/// A checkpoint and the head that it is on the way to.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Position {
    /// The history.
    #[serde(default)]
    pub epoch: String,
    /// Durable up to here.
    #[serde(default)]
    pub acked_seq: u64,
    /// What there is.
    #[serde(default)]
    pub head_seq: u64,
}

/// One content in flight.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TransferStatus {
    /// Which entry it is for.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// Everything before this is durable here.
    pub acked_offset: u64,
    /// Where the transfer went on after it was last interrupted.
    #[serde(default)]
    pub resumed_from: u64,
}

/// Counters since the daemon started.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Content bytes that came over a link.
    pub content_bytes_received: u64,
    /// Content bytes that were found here and not asked for.
    pub content_bytes_reused: u64,
    /// Content bytes received that were durably staged already.
    pub content_bytes_resent: u64,
    /// Entries made true on disk.
    pub entries_applied: u64,
    /// Links made again after one was lost.
    pub reconnects: u64,
    /// Chunks that were not what they should be.
    pub hash_mismatches: u64,
    /// Content bytes read and hashed by scans. Beyond the contract; 0 where it is not given.
    pub bytes_hashed: u64,
}

impl Status {
    /// The share of this name.
    pub fn share(&self, name: &str) -> Option<&ShareStatus> {
        self.shares.iter().find(|share| share.name == name)
    }

    /// The transfer for this key.
    pub fn transfer(&self, key: &str) -> Option<&TransferStatus> {
        self.transfers.iter().find(|transfer| transfer.key == key)
    }

    /// Whether every share lacks nothing and every peer of it is connected and in sync.
    pub fn in_sync(&self) -> bool {
        !self.shares.is_empty() && self.shares.iter().all(ShareStatus::in_sync)
    }
}

impl ShareStatus {
    /// Whether nothing is lacking and every peer is connected and in sync.
    pub fn in_sync(&self) -> bool {
        self.state == "idle"
            && self.needed.entries == 0
            && !self.peers.is_empty()
            && self.peers.iter().all(|peer| peer.connected && peer.in_sync)
    }
}
