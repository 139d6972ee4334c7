//! Alerts as `highwater alerts` and the API show them.

use highwater_core::alert::{Alert, Rule, Severity};
use highwater_core::{NodeId, ShareName};
use serde::{Deserialize, Serialize};

use super::{as_text, rfc3339};

/// What fires: `highwater alerts --json` and `GET /api/v1/alerts`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AlertsReport {
    /// What fires, in the order of the rules.
    pub firing: Vec<AlertRow>,
    /// What was resolved lately, the latest first.
    pub recent: Vec<AlertRow>,
    /// How many figures are bad, and not for long enough yet.
    pub pending: u64,
    /// What was posted to the webhook since the daemon started.
    pub webhook: Delivery,
    /// What the Alertmanager was told since the daemon started.
    pub alertmanager: Delivery,
}

/// One alert.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AlertRow {
    /// Its number on this node.
    pub id: u64,
    /// By which rule it fires, as in the configuration.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// `firing` or `resolved`.
    pub state: String,
    /// What it is about: a peer, a share, an entry.
    pub subject: String,
    /// Since when the figure has been bad, RFC 3339.
    pub since: String,
    /// When it was over, RFC 3339.
    pub resolved: Option<String>,
    /// The latest figure: seconds, entries, bytes or a count, as the rule has it.
    pub value: f64,
    /// The figure at which it fires.
    pub threshold: f64,
    /// What it is, for people.
    pub cause: String,
    /// What to do about it.
    pub what_to_do: String,
}

impl AlertRow {
    /// The row for `alert`.
    pub fn of(alert: &Alert) -> Self {
        Self {
            id: alert.id,
            rule: alert.rule,
            severity: alert.severity,
            state: if alert.resolved.is_some() { "resolved" } else { "firing" }.to_owned(),
            subject: alert.subject.clone(),
            since: rfc3339(alert.since),
            resolved: alert.resolved.map(rfc3339),
            value: alert.value,
            threshold: alert.threshold,
            cause: alert.cause.clone(),
            what_to_do: alert.rule.what_to_do().to_owned(),
        }
    }
}

/// What became of what was sent to one receiver of alerts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Delivery {
    /// What waits.
    pub queued: u64,
    /// What was taken.
    pub sent: u64,
    /// Attempts that failed; each is made again.
    pub failed: u64,
    /// What was given up.
    pub dropped: u64,
    /// Whether the last attempt failed.
    pub failing: bool,
}

/// How far one side of a share is behind the other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LagRow {
    /// Which share.
    pub share: ShareName,
    /// Which peer.
    #[serde(with = "as_text")]
    pub peer: NodeId,
    /// `pull`: this node is behind the peer; `push`: the peer behind this node.
    pub way: String,
    /// Entries that are not acknowledged.
    pub entries: u64,
    /// How long the oldest of them has been waiting.
    pub seconds: f64,
}
