//! What people ask about the cluster, and what the engine does for its task.

use std::net::SocketAddr;
use std::sync::PoisonError;

use highwater_core::NodeId;
use highwater_net::PeerAddress;

use super::{Engine, EngineError, Inner};
use crate::cluster::{Picture, Told};
use crate::config::PeerConfig;
use crate::report::cluster::{ClusterNodes, ClusterStatus};
use crate::share::machine::wall_now;

impl Engine {
    /// The cluster in figures.
    ///
    /// # Errors
    /// While the node stops.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, EngineError> {
        let picture = self.picture().await?;
        Ok(ClusterStatus::of(self.0.is_in_cluster(), &picture, wall_now()))
    }

    /// Every node of the cluster.
    ///
    /// # Errors
    /// While the node stops.
    pub async fn cluster_nodes(&self) -> Result<ClusterNodes, EngineError> {
        Ok(ClusterNodes::of(&self.picture().await?, wall_now()))
    }

    /// Removes a node that has failed, for good and everywhere.
    ///
    /// # Errors
    /// When it still works, is this node, or is not known.
    pub async fn cluster_remove(&self, node: NodeId) -> Result<(), EngineError> {
        self.0.cluster.decide(node, true).await.map_err(EngineError::Refused)
    }

    /// Lets a node that was removed in again.
    ///
    /// # Errors
    /// When it was not removed.
    pub async fn cluster_readmit(&self, node: NodeId) -> Result<(), EngineError> {
        self.0.cluster.decide(node, false).await.map_err(EngineError::Refused)
    }

    /// Where the HTTP API really listens: others are told.
    pub async fn note_http_addr(&self, addr: SocketAddr) {
        let cluster = &self.0.cluster;
        *cluster.http_port.lock().unwrap_or_else(PoisonError::into_inner) = Some(addr.port());
        cluster.tell(Told::Changed).await;
    }

    pub(super) async fn picture(&self) -> Result<Picture, EngineError> {
        let stopping = || EngineError::Refused("the node is stopping; ask another one".to_owned());
        self.0.cluster.picture().await.ok_or_else(stopping)
    }
}

impl Inner {
    /// Whether this node lists any other for a share.
    pub(super) fn is_in_cluster(&self) -> bool {
        self.config().peers.iter().any(|peer| !peer.shares.is_empty())
    }

    /// Tells the net whom it may talk to: the peers of the configuration that no operator removed; and
    /// whom of them to dial.
    pub(crate) fn set_peers(&self) {
        let addresses = self.addresses();
        self.net.set_peers(addresses);
    }

    pub(super) fn addresses(&self) -> Vec<PeerAddress> {
        let config = self.config();
        let admitted = config.peers.iter().filter(|peer| !self.cluster.is_removed(&peer.id));
        let addr = |peer: &PeerConfig| peer.addr.clone().filter(|_| self.cluster.wants(&peer.id));
        admitted.map(|peer| PeerAddress { id: peer.id, addr: addr(peer) }).collect()
    }

    /// Something that people are told has changed.
    pub(crate) fn tick(&self) {
        self.around.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
