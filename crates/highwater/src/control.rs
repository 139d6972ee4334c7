//! How the command line talks to a running daemon: over a Unix socket in the node's home.
//!
//! One connection carries one request: the client sends one line of JSON, the daemon answers with
//! lines of JSON, each a [`Reply`]: any number of items, then `done` or `failed`. A request that
//! follows something goes on until the client hangs up.
//!
//! The socket is readable by its owner alone, and the daemon asks the kernel who is at the other
//! end. Lines, connections and waits are bounded, so that no client can hold up the daemon.

mod client;
mod server;

use highwater_core::{NodeId, Seq, ShareName};
use serde::{Deserialize, Serialize};

pub use client::{Client, ControlError, Next};
pub use server::{ControlServer, ReloadError, reload};

/// What a client may ask of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// One item: [`Status`](crate::report::Status).
    Status,
    /// One item: a list of [`Transfer`](crate::report::Transfer); another whenever it changed.
    Transfers {
        /// Whether to go on.
        follow: bool,
    },
    /// An item for each [`LogRow`](crate::report::LogRow).
    Log {
        /// Whose log.
        share: ShareName,
        /// Only rows behind this position.
        since: Seq,
        /// Whether to go on as rows are added.
        follow: bool,
    },
    /// One item: a list of [`ConflictRow`](crate::report::ConflictRow).
    Conflicts {
        /// Of this share only.
        share: Option<ShareName>,
    },
    /// One item: [`AlertsReport`](crate::report::AlertsReport).
    Alerts,
    /// Reads the configuration again.
    Reload,
    /// Lets a held-back mass delete go out. One item: the number of entries.
    Confirm {
        /// Of which share.
        share: ShareName,
    },
    /// Fetches the files of a held-back mass delete again. One item: the number of entries.
    Revert {
        /// Of which share.
        share: ShareName,
    },
    /// An item for each change of the [`CheckReport`](crate::check::report::CheckReport), without its
    /// differences until the last.
    Check {
        /// Which share.
        share: ShareName,
        /// Against which peers; empty for all.
        peers: Vec<String>,
        /// Whether to read every byte again first.
        deep: bool,
        /// Whether files are to come from the disk rather than from the system's cache.
        from_disk: bool,
        /// What to do about differences.
        repair: crate::check::report::Repair,
    },
    /// One item: [`ShareRoot`](crate::engine::ShareRoot).
    Root {
        /// Of which share.
        share: ShareName,
    },
    /// Reads the folders now.
    Rescan {
        /// Of this share only.
        share: Option<ShareName>,
    },
    /// One item: [`ClusterStatus`](crate::report::cluster::ClusterStatus).
    ClusterStatus,
    /// One item: [`ClusterNodes`](crate::report::cluster::ClusterNodes).
    ClusterNodes,
    /// Removes a node that has failed from the cluster.
    ClusterRemove {
        /// Which.
        node: NodeId,
    },
    /// Lets a node that was removed in again.
    ClusterReadmit {
        /// Which.
        node: NodeId,
    },
    /// One item: [`Peers`](crate::report::net::Peers).
    Peers,
    /// One item: [`PeerDetail`](crate::report::net::PeerDetail).
    Peer {
        /// Its id, or its name here.
        node: String,
    },
    /// One item: [`NetTest`](crate::report::net::NetTest), after a few seconds.
    NetTest {
        /// Its id, or its name here.
        node: String,
        /// Only so many pings, and no bytes are moved.
        #[serde(default)]
        pings: Option<u32>,
    },
    /// Stops the daemon.
    Stop,
}

/// One line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A part of the answer.
    Item(serde_json::Value),
    /// That was all.
    Done,
    /// It went wrong; the text is for people.
    Failed(String),
}

/// Longest request, in bytes: a share name and a number, many times over.
const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Longest line of an answer, in bytes: the status of a node with many problems is a few MiB.
const REPLY_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_names_something_unknown_is_refused() {
        for text in [
            r#"{"request":"format_disk"}"#,
            r#"{"request":"confirm"}"#,
            r#"{"request":"confirm","share":"../x"}"#,
            r#"{"request":"transfers","follow":true,"loud":true}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
        let confirm = Request::Confirm { share: "docs".parse().expect("name") };
        let text = serde_json::to_string(&confirm).expect("text");
        assert_eq!(serde_json::from_str::<Request>(&text).expect("own words"), confirm);
    }
}
