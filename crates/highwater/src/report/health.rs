//! The health document.

use highwater_core::WallTime;
use highwater_core::health::{self, Cause, Signs};
use serde::{Deserialize, Serialize};

use super::{VERSION, rfc3339};

/// `GET /health`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Whether every check holds.
    pub status: bool,
    /// The version of the program.
    pub version: String,
    /// How the node runs: `cluster`, or `standalone` while it lists no peer for a share.
    pub mode: String,
    /// When this was found, RFC 3339.
    pub timestamp: String,
    /// What was looked at.
    pub checks: HealthChecks,
    /// What runs.
    pub services: HealthServices,
    /// Why the status is false; empty when it is true.
    #[serde(default)]
    pub reasons: Vec<HealthReason>,
}

/// Something that is wrong with a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthReason {
    /// `store`, `disk`, `share`, `progress`, `clock` or `certificate`.
    pub kind: String,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// The checks behind [`Health::status`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthChecks {
    /// The store takes writes.
    pub store: StoreCheck,
    /// The store's disk has room.
    pub disk: DiskCheck,
    /// No share is stopped by a problem.
    pub shares: HoldsCheck,
    /// Nothing that could go on stands still.
    pub progress: HoldsCheck,
    /// The clock is about where most peers have theirs.
    pub clock: HoldsCheck,
    /// No https receiver of alerts has an expired certificate.
    #[serde(default = "HoldsCheck::holding")]
    pub certificates: HoldsCheck,
    /// The cluster can be reached, where there is one.
    pub cluster: ClusterCheck,
}

/// Whether the store takes writes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreCheck {
    /// Whether it does.
    pub status: bool,
    /// Which store it is.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whether the store's disk has room.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskCheck {
    /// Whether it has.
    pub status: bool,
    /// How much.
    pub free_bytes: u64,
}

/// Whether something holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HoldsCheck {
    /// Whether it does.
    pub status: bool,
}

impl HoldsCheck {
    /// What an older node, which does not look at it, is taken to say.
    fn holding() -> Self {
        Self { status: true }
    }
}

/// Whether the cluster can be reached. A node that is alone is not unwell for that.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterCheck {
    /// Whether the node is in a cluster.
    pub enabled: bool,
    /// False while no other member can be reached. True where there is none.
    pub status: bool,
}

/// What runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthServices {
    /// Node to node.
    pub sync: String,
    /// The HTTP API.
    pub http: String,
}

impl Health {
    /// The verdict on what was found at `now`, on a node that is in a cluster or not.
    pub(crate) fn judge(signs: &Signs, cluster: ClusterCheck, now: WallTime) -> Self {
        let causes = health::causes(signs);
        let free_bytes = signs.disks.first().map_or(0, |(_, free)| *free);
        let holds = |kind: &str| causes.iter().all(|cause| cause.kind() != kind);
        let running = || "running".to_owned();
        Self {
            status: causes.is_empty(),
            version: VERSION.to_owned(),
            mode: if cluster.enabled { "cluster" } else { "standalone" }.to_owned(),
            timestamp: rfc3339(now),
            checks: HealthChecks {
                store: StoreCheck { status: holds("store"), kind: "sled".to_owned() },
                disk: DiskCheck { status: holds("disk"), free_bytes },
                shares: HoldsCheck { status: holds("share") },
                progress: HoldsCheck { status: holds("progress") },
                clock: HoldsCheck { status: holds("clock") },
                certificates: HoldsCheck { status: holds("certificate") },
                cluster,
            },
            services: HealthServices { sync: running(), http: running() },
            reasons: causes.iter().map(HealthReason::from).collect(),
        }
    }
}

impl From<&Cause> for HealthReason {
    fn from(cause: &Cause) -> Self {
        Self { kind: cause.kind().to_owned(), message: cause.to_string() }
    }
}
