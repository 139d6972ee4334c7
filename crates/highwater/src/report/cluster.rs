//! The documents about the cluster: `GET /api/v1/cluster/status` and `/nodes`, and what `highwater
//! cluster` prints.

use std::collections::BTreeMap;

use highwater_core::member::State;
use highwater_core::{NodeId, WallTime};
use serde::{Deserialize, Serialize};

use super::{as_text, rfc3339};
use crate::cluster::{Picture, Seen};

/// `GET /api/v1/cluster/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Whether this node lists any other for a share.
    pub enabled: bool,
    /// The figures.
    pub status: ClusterFigures,
}

/// The cluster in figures, summed over all nodes that are not removed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterFigures {
    /// The same on every node once they agree on who is in the cluster.
    pub cluster_id: String,
    /// Nodes that are not removed.
    pub total_nodes: u64,
    /// Those that answer.
    pub active_nodes: u64,
    /// Those that may have failed.
    #[serde(default)]
    pub suspect_nodes: u64,
    /// Those that have failed.
    pub failed_nodes: u64,
    /// Requests for content that the nodes have answered to each other, since each was started. What
    /// people ask is not counted: asking would change the answer.
    pub total_requests: u64,
    /// Those that were answered as asked.
    pub successful_requests: u64,
    /// Those that were not.
    pub failed_requests: u64,
    /// From a request to the last byte of its answer, in milliseconds.
    pub average_response_time: f64,
    /// When these were put together, RFC 3339.
    pub last_updated: String,
}

/// `GET /api/v1/cluster/nodes`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterNodes {
    /// Every node that is known, by its id.
    pub nodes: BTreeMap<String, ClusterNode>,
}

/// One node of the cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Who and where it is.
    pub config: ClusterNodeConfig,
    /// When it last gave a sign of life, RFC 3339, by this node's clock.
    pub last_seen: String,
    /// Links that it has.
    pub connections: u64,
    /// Its mean time from a request to the last byte of the answer, in milliseconds.
    pub response_time: f64,
    /// The part of requests that it answered as asked, in percent.
    pub success_rate: f64,
}

/// What a node says about itself, and how it stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterNodeConfig {
    /// Its id.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Where it says it is.
    pub host: String,
    /// Its port for people and programs.
    pub port: u16,
    /// All nodes weigh the same.
    pub weight: u32,
    /// How it stands.
    pub status: State,
    /// The rest of what it says.
    pub metadata: ClusterNodeMetadata,
}

/// What a node says about itself, for people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterNodeMetadata {
    /// Its name.
    pub name: String,
    /// Whose data it keeps.
    pub user: String,
    /// Always `highwater`.
    pub service: String,
    /// The version of its program.
    pub version: String,
    /// `cluster` or `standalone`.
    pub mode: String,
    /// Its port for other nodes.
    #[serde(default)]
    pub sync_port: u16,
    /// How often it has come back or contradicted a false report.
    #[serde(default)]
    pub incarnation: u64,
}

impl ClusterStatus {
    pub(crate) fn of(enabled: bool, picture: &Picture, now: WallTime) -> Self {
        let present = || picture.members.iter().filter(|seen| seen.view.state != State::Left);
        let count = |state| present().filter(|seen| seen.view.state == state).count() as u64;
        let sum = |part: fn(&Seen) -> u64| present().map(part).fold(0, u64::saturating_add);
        let requests = sum(|seen| seen.view.load.requests);
        let failures = sum(|seen| seen.view.load.failures).min(requests);
        let micros = sum(|seen| seen.view.load.answer_micros);
        let figures = ClusterFigures {
            cluster_id: cluster_id(picture),
            total_nodes: present().count() as u64,
            active_nodes: count(State::Active),
            suspect_nodes: count(State::Suspect),
            failed_nodes: count(State::Failed),
            total_requests: requests,
            successful_requests: requests - failures,
            failed_requests: failures,
            average_response_time: mean_millis(micros, requests),
            last_updated: rfc3339(now),
        };
        Self { enabled, status: figures }
    }
}

impl ClusterNodes {
    pub(crate) fn of(picture: &Picture, now: WallTime) -> Self {
        let nodes = picture.members.iter().map(|seen| {
            let node = ClusterNode::of(seen, now);
            (node.config.node_id.to_string(), node)
        });
        Self { nodes: nodes.collect() }
    }
}

impl ClusterNode {
    fn of(seen: &Seen, now: WallTime) -> Self {
        let (facts, load) = (seen.view.card.facts(), seen.view.load);
        let ago = seen.ago.as_millis() as u64;
        let failures = load.failures.min(load.requests);
        let success_rate = match load.requests {
            0 => 100.0,
            requests => (requests - failures) as f64 * 100.0 / requests as f64,
        };
        Self {
            config: ClusterNodeConfig {
                node_id: facts.id,
                host: facts.host.clone(),
                port: facts.http_port,
                weight: 100,
                status: seen.view.state,
                metadata: ClusterNodeMetadata {
                    name: facts.name.clone(),
                    user: facts.user.clone(),
                    service: "highwater".to_owned(),
                    version: facts.version.clone(),
                    mode: facts.mode.clone(),
                    sync_port: facts.sync_port,
                    incarnation: facts.incarnation,
                },
            },
            last_seen: rfc3339(WallTime(now.0.saturating_sub(ago))),
            connections: load.connections.into(),
            response_time: mean_millis(load.answer_micros, load.requests),
            success_rate,
        }
    }
}

/// Made of the smallest node id that is not removed: the same for all who agree on the members.
fn cluster_id(picture: &Picture) -> String {
    let present = picture.members.iter().filter(|seen| seen.view.state != State::Left);
    let first = present.map(|seen| seen.view.card.facts().id).min();
    let named = first.map(|id| *id.as_bytes()).unwrap_or_default();
    let hash = blake3::derive_key("highwater 2026 cluster id", &named);
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mean_millis(micros: u64, requests: u64) -> f64 {
    let mean = micros as f64 / 1000.0 / requests.max(1) as f64;
    (mean * 1000.0).round() / 1000.0
}
