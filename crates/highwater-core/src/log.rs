//! Positions in a change log: sequence numbers, epochs, digests, checkpoints.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::id::{NodeId, ShareName, hex};

/// A position in one node's change log of one share. The first change is 1; 0 is "nothing yet".
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default,
)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first change.
    pub const ZERO: Seq = Seq(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One continuous history of one node's log of one share: 16 random bytes, drawn anew whenever the
/// history may have been broken. Sequence numbers mean something only within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub [u8; 16]);

impl Epoch {
    /// The actor that this epoch of `node` is in the versions of `share`.
    pub fn actor(&self, node: &NodeId, share: &ShareName) -> Actor {
        let mut hasher = blake3::Hasher::new_derive_key("highwater 2026-11 actor");
        hasher.update(node.as_bytes()).update(&self.0).update(share.as_str().as_bytes());
        let mut actor = [0; 8];
        actor.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Actor(u64::from_be_bytes(actor))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// One epoch of one node, as version vectors name it: 64 bits of a hash of both, so that two of
/// them meet by chance in one version only after 2^32 restores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor(pub u64);

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 32)
    }
}

/// A running digest of everything ever appended to a log up to a position, kept with each record.
/// Equal digests at equal positions mean equal histories, whatever compaction removed since.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct LogDigest(pub [u8; 16]);

impl LogDigest {
    /// The digest of an empty log.
    pub const EMPTY: LogDigest = LogDigest([0; 16]);

    /// The digest after `entry` is appended at `seq` to a log with this digest.
    #[must_use]
    pub fn append(&self, seq: Seq, entry: &Entry) -> LogDigest {
        let mut hasher = blake3::Hasher::new_derive_key("highwater 2026-11 log digest");
        hasher.update(&self.0).update(&seq.0.to_be_bytes()).update(entry.fingerprint().as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        LogDigest(digest)
    }
}

impl fmt::Debug for LogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// How far a node has durably taken in another node's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose history the position is in.
    pub epoch: Epoch,
    /// Everything up to here is durable.
    pub seq: Seq,
    /// The log's digest at `seq`, by which a forked history is told from this one.
    pub digest: LogDigest,
}

impl Checkpoint {
    /// The beginning of the history `epoch`.
    pub const fn start(epoch: Epoch) -> Self {
        Self { epoch, seq: Seq::ZERO, digest: LogDigest::EMPTY }
    }
}
