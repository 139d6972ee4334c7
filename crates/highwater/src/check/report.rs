//! What a check found, as people and scripts are told: `highwater check --json` and
//! `GET /api/v1/checks/{id}`. Field names are a promise: fields may be added, never renamed.

use std::collections::BTreeMap;

pub use highwater_core::verdict::Cause as Kind;
use highwater_core::{Key, NodeId, ShareName};
use serde::{Deserialize, Serialize};

use super::member::Member;
use crate::report::as_text;

/// One check, under way or done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CheckReport {
    /// Names the check: 32 hexadecimal digits.
    pub id: String,
    /// Which share.
    pub share: ShareName,
    /// Whether every byte was read again.
    pub deep: bool,
    /// Whether that was to come from the disk rather than from the system's cache.
    #[serde(default)]
    pub from_disk: bool,
    /// Who was to be asked; none for all that have the share.
    #[serde(default, with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<NodeId>,
    /// What was to be done about differences.
    pub repair: Repair,
    /// Who asked for it.
    pub origin: Origin,
    /// Whether it is done.
    pub state: CheckState,
    /// What came of it.
    pub outcome: Outcome,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took, or has taken so far.
    pub seconds: f64,
    /// Whether every node was reached, and all have the same.
    pub identical: bool,
    /// Entries that the largest copy has.
    pub entries_compared: u64,
    /// Content bytes read again, on all nodes.
    pub bytes_hashed: u64,
    /// Bytes of questions and answers.
    pub wire_bytes: u64,
    /// How far it is.
    pub progress: Progress,
    /// The nodes that were asked, this one first.
    pub nodes: Vec<NodeReport>,
    /// What differs, by key; at most [`DIFFERENCES_MAX`](super::DIFFERENCES_MAX).
    pub differences: Vec<Difference>,
    /// Keys that differ beyond those.
    pub more: u64,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a check is to do about what it finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repair {
    /// Nothing.
    #[default]
    No,
    /// Say what would be done.
    DryRun,
    /// Mend what is proved.
    Yes,
    /// Mend bit rot on this node, and nothing else.
    Rot,
}

/// Who asked for a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Somebody.
    #[default]
    Operator,
    /// The node itself, in the background.
    Scrub,
}

/// Whether a check is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// It goes on, after a restart too.
    Running,
    /// It came to its end.
    Done,
    /// It could not be carried out; `error` says why.
    Failed,
}

/// What came of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not known yet, or it failed.
    Unknown,
    /// All nodes were reached and have the same.
    Identical,
    /// All that differs is on its way.
    Pending,
    /// Something differs.
    Different,
    /// A node was not reached; what was reached is the same.
    Incomplete,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Outcome::Unknown => "unknown",
            Outcome::Identical => "identical",
            Outcome::Pending => "pending",
            Outcome::Different => "different",
            Outcome::Incomplete => "incomplete",
        })
    }
}

/// How far a check is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// `finding`, `reading`, `comparing`, `settling`, `repairing` or `done`.
    pub phase: String,
    /// Bytes read again so far, on all nodes.
    pub bytes: u64,
    /// Bytes that there are to read.
    pub total: u64,
}

/// One node of a check.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// Which.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it answered to the end.
    pub reachable: bool,
    /// The root hash of its share, if it told.
    pub root: Option<String>,
    /// Its entries.
    pub entries: u64,
    /// Bytes that it read again.
    pub bytes_hashed: u64,
    /// The nodes that it was asked through, having no link with this one.
    #[serde(default, with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<NodeId>,
    /// Why it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl NodeReport {
    /// Of a node that has told nothing yet.
    pub(crate) fn of(member: &Member) -> Self {
        Self {
            node_id: member.node,
            name: member.name.clone(),
            reachable: true,
            root: None,
            entries: 0,
            bytes_hashed: 0,
            through: Vec::new(),
            error: None,
        }
    }
}

/// One key that differs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// Which.
    pub key: Key,
    /// `missing`, `extra`, `content`, `metadata`, `corrupt` or `pending`.
    pub kind: Kind,
    /// What each node that was reached holds: a content hash, what else stands there, or nothing.
    pub nodes: BTreeMap<String, Option<String>>,
    /// The nodes that are not as they should be.
    #[serde(with = "texts")]
    pub at: Vec<NodeId>,
    /// Where the differing bytes lie: from, to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
    /// What the evidence says.
    pub verdict: String,
    /// What keeps it so on purpose: `ignored`, `send-only`, `receive-only`, `mass-delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// `none`, `planned`, `done` or `failed`.
    pub repair: RepairState,
    /// What to do, for people.
    pub message: String,
}

/// What became of a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairState {
    /// None was made.
    None,
    /// It would be made.
    Planned,
    /// It was made, and looked at again.
    Done,
    /// It could not be made.
    Failed,
}

impl CheckReport {
    /// Works out what came of it, from what is in it.
    pub(crate) fn conclude(&mut self) {
        let open = |d: &&Difference| d.repair != RepairState::Done;
        let counts = |d: &Difference| d.kind != Kind::Pending;
        let differs = self.more > 0 || self.differences.iter().filter(open).any(counts);
        let pending = self.differences.iter().any(|difference| open(&difference));
        let all_reached = self.nodes.iter().all(|node| node.reachable);
        self.outcome = match (differs, all_reached, pending) {
            (true, ..) => Outcome::Different,
            (_, false, _) => Outcome::Incomplete,
            (_, _, true) => Outcome::Pending,
            _ => Outcome::Identical,
        };
        self.identical = self.outcome == Outcome::Identical;
    }
}

mod texts {
    use highwater_core::NodeId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(ids: &[NodeId], to: S) -> Result<S::Ok, S::Error> {
        ids.iter().map(NodeId::to_string).collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NodeId>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}
