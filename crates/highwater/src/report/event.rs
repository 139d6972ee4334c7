//! What happens, as it happens: the events of `GET /api/v1/events`.

use highwater_core::member::State;
use highwater_core::{NodeId, ShareName};
use serde::{Deserialize, Serialize};

use super::{ShareState, as_text};

/// Something that happened, and when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Occurrence {
    /// When, RFC 3339.
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Happening {
    /// A member of the cluster is in another state than before.
    Member {
        /// Which.
        #[serde(with = "as_text")]
        node_id: NodeId,
        /// Its name, as it says.
        name: String,
        /// Its state before, if it was known.
        from: Option<State>,
        /// Its state now.
        to: State,
    },
    /// A link came up or went down.
    Link {
        /// Of which peer.
        #[serde(with = "as_text")]
        node_id: NodeId,
        /// Whether it is up.
        connected: bool,
        /// Why it went down.
        reason: String,
    },
    /// A share does something else than before.
    Share {
        /// Which.
        name: ShareName,
        /// What it does now.
        state: ShareState,
    },
    /// The node became unwell, or well again.
    Health {
        /// Whether it is well.
        status: bool,
    },
}
