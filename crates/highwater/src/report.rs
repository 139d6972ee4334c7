//! What a node says about itself: the documents of the interface contract, as types.
//!
//! The engine fills them; the control socket, the HTTP API and the command line pass them on
//! unchanged, so that all three tell the same story. Their field names are a promise to scripts:
//! fields may be added, never renamed or removed.

mod alert;
pub mod cluster;
pub mod event;
mod health;
pub mod net;

use std::collections::BTreeMap;
use std::path::PathBuf;

use highwater_core::{Entry, EntryKind, Key, NodeId, Seq, ShareName, WallTime};
use serde::{Deserialize, Serialize};

pub use self::alert::{AlertRow, AlertsReport, Delivery, LagRow};
pub use self::health::{
    ClusterCheck, DiskCheck, Health, HealthChecks, HealthReason, HealthServices, HoldsCheck,
    StoreCheck,
};
use crate::config::ShareMode;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything about a node: `highwater status --json` and `GET /api/v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Which node this is.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Whose data it keeps.
    pub user: String,
    /// The version of its program.
    pub version: String,
    /// How long the daemon has been running.
    pub uptime_seconds: u64,
    /// Its shares, by name.
    pub shares: Vec<ShareStatus>,
    /// The contents in flight to this node.
    pub transfers: Vec<Transfer>,
    /// What has happened since the daemon started.
    pub counters: Counters,
    /// What is wrong with the node itself or its peers, beside the problems of its shares.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Why the node is not well, as `GET /health` has it; empty while it is.
    #[serde(default)]
    pub unwell: Vec<HealthReason>,
}

/// What a share is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareState {
    /// Nothing to do.
    Idle,
    /// The folder is being read.
    Scanning,
    /// Entries are being fetched or applied.
    Syncing,
    /// Stopped by its owner.
    Paused,
    /// Stopped by a problem, which is listed.
    Error,
}

impl std::fmt::Display for ShareState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            ShareState::Idle => "idle",
            ShareState::Scanning => "scanning",
            ShareState::Syncing => "syncing",
            ShareState::Paused => "paused",
            ShareState::Error => "error",
        })
    }
}

/// One share as this node has it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShareStatus {
    /// Its name, the same on every node.
    pub name: ShareName,
    /// Where it lies here.
    pub path: PathBuf,
    /// Which ways changes travel.
    pub mode: ShareMode,
    /// What it is doing.
    pub state: ShareState,
    /// Live entries.
    pub entries: u64,
    /// Content bytes of the live entries.
    pub bytes: u64,
    /// The last durable position of this node's own log.
    pub head_seq: Seq,
    /// What peers have and this node has not applied.
    pub needed: Needed,
    /// Preserved losing versions.
    pub conflicts: u64,
    /// What is wrong, and with which path.
    pub problems: Vec<Problem>,
    /// The peers that this share is exchanged with.
    pub peers: Vec<PeerStatus>,
    /// The latest check that this node led, and the latest that it made by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<LastChecks>,
}

/// The latest checks of a share.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LastChecks {
    /// The one under way.
    pub running: Option<CheckBrief>,
    /// The latest that came to its end.
    pub last: Option<CheckBrief>,
    /// The latest in the background, in which every byte here was read again.
    pub scrub: Option<CheckBrief>,
}

/// A check in a line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CheckBrief {
    /// Which: `GET /api/v1/checks/{id}` tells all of it.
    pub id: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Whether every byte was read again.
    pub deep: bool,
    /// `identical`, `pending`, `different`, `incomplete` or `unknown`.
    pub outcome: String,
    /// Keys that differed.
    pub differences: u64,
}

/// What is still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Needed {
    /// How many entries.
    pub entries: u64,
    /// How many content bytes they hold.
    pub bytes: u64,
}

/// Something that keeps an entry, or a whole share, from being synced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The entry's key, or empty when it is the whole share.
    pub path: String,
    /// A short word that scripts can match on.
    pub kind: String,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// One share between this node and one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Which peer.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Its name in this node's configuration.
    pub name: String,
    /// Whether a link to it is up.
    pub connected: bool,
    /// Whether both checkpoints are at their heads and nothing is needed on either side.
    pub in_sync: bool,
    /// This node's checkpoint in the peer's log.
    pub pull: Position,
    /// The peer's checkpoint in this node's log.
    pub push: Position,
}

/// A checkpoint, beside the end of the log it is in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// The log's epoch in hexadecimal; empty before the first exchange.
    pub epoch: String,
    /// Everything up to here is durable on the reading side.
    pub acked_seq: Seq,
    /// The last position of the log, as far as this node knows.
    pub head_seq: Seq,
}

/// How far a transfer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferState {
    /// No connected peer can send it now.
    Waiting,
    /// Bytes are coming in.
    Receiving,
    /// All bytes are here and are being put in place.
    Applying,
}

impl std::fmt::Display for TransferState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            TransferState::Waiting => "waiting",
            TransferState::Receiving => "receiving",
            TransferState::Applying => "applying",
        })
    }
}

/// One content on its way to this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// The share it belongs to.
    pub share: ShareName,
    /// An entry that wants it.
    pub key: Key,
    /// The id of the peer it comes from; empty while there is none.
    pub peer: String,
    /// Its size in bytes.
    pub size: u64,
    /// Everything before this offset is durable here.
    pub acked_offset: u64,
    /// The acknowledged offset at which the transfer was last taken up again; 0 when it never was.
    pub resumed_from: u64,
    /// The recent rate.
    pub bytes_per_second: u64,
    /// How far it has come.
    pub state: TransferState,
}

/// What has happened since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Content bytes that came over the network.
    pub content_bytes_received: u64,
    /// Content bytes found on this node instead of being asked for.
    pub content_bytes_reused: u64,
    /// Content bytes received that were already durable here: the price of resuming, ideally 0.
    pub content_bytes_resent: u64,
    /// Entries put in place.
    pub entries_applied: u64,
    /// Links that came up again after they had been lost.
    pub reconnects: u64,
    /// Chunks refused because their bytes did not fit their hash.
    pub hash_mismatches: u64,
    /// Files of the shares that were read and hashed; 0 after a restart over unchanged files.
    #[serde(default)]
    pub files_hashed: u64,
}

/// One row of `highwater log`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogRow {
    /// Its position.
    pub seq: Seq,
    /// Which entry changed.
    pub key: Key,
    /// `file`, `directory`, `symlink` or `tombstone`.
    pub kind: String,
    /// Content bytes; 0 for anything but a file.
    pub size: u64,
    /// The content hash of a file.
    pub content: Option<String>,
    /// The version vector: counters by actor.
    pub version: BTreeMap<String, u64>,
    /// When the change was made, by its author's clock.
    pub stamp: String,
    /// The short id of the node that made it.
    pub author: String,
}

impl LogRow {
    /// The row for `entry`, logged at `seq`.
    pub fn of(seq: Seq, entry: &Entry) -> Self {
        Self {
            seq,
            key: entry.key.clone(),
            kind: kind_name(&entry.kind).to_owned(),
            size: entry.kind.size(),
            content: entry.kind.content().map(|(hash, _)| hash.to_string()),
            version: entry
                .version
                .counters()
                .map(|(actor, seq)| (format!("{:016x}", actor.0), seq.0))
                .collect(),
            stamp: rfc3339(entry.stamp.wall()),
            author: entry.author.to_string(),
        }
    }
}

/// One preserved losing version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConflictRow {
    /// The share it lies in.
    pub share: ShareName,
    /// The conflict copy.
    pub key: Key,
    /// The entry that it lost to.
    pub of: Key,
    /// Its content bytes.
    pub size: u64,
    /// When the losing change was made, by its author's clock.
    pub stamp: String,
    /// The short id of the node that made it.
    pub author: String,
}

/// A wall-clock time as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(time: WallTime) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    let stamp = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{stamp:.3}")
}

/// A time that was printed by [`rfc3339`]; `None` for other texts and for times before 1970.
pub fn parse_rfc3339(text: &str) -> Option<WallTime> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(stamp.as_millisecond()).ok().map(WallTime)
}

fn kind_name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Tombstone => "tombstone",
        EntryKind::File { .. } => "file",
        EntryKind::Symlink { .. } => "symlink",
        EntryKind::Directory { .. } => "directory",
    }
}

/// Values that are printed and parsed, where serde would show their insides.
pub(crate) mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_in_utc_to_the_millisecond() {
        assert_eq!(rfc3339(WallTime(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(WallTime(1_795_425_707_123)), "2026-11-23T09:21:47.123Z");
        assert!(rfc3339(WallTime(u64::MAX)).starts_with("9999-12-30"));
        let time = WallTime(1_795_425_707_123);
        assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
