//! The engine of one node.

use std::net::SocketAddr;
use std::time::Duration;

use highwater_core::{NodeId, Seq, ShareName};
use tokio::sync::watch;

use crate::config::Config;
use crate::home::Home;
use crate::report;

/// A running node. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Engine {}

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
#[error("the node cannot start")]
pub struct StartError;

/// Why a request to the engine failed.
#[derive(Debug, thiserror::Error)]
#[error("the engine cannot do this")]
pub struct EngineError;

#[allow(missing_docs, unused_variables, clippy::unimplemented)]
impl Engine {
    pub async fn start(home: Home, config: Config) -> Result<Engine, StartError> {
        unimplemented!()
    }
    pub fn node_id(&self) -> NodeId {
        unimplemented!()
    }
    pub fn sync_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub async fn status(&self) -> report::Status {
        unimplemented!()
    }
    pub async fn log(
        &self,
        share: &ShareName,
        since: Seq,
        limit: usize,
    ) -> Result<Vec<report::LogRow>, EngineError> {
        unimplemented!()
    }
    pub fn changes(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }
    pub async fn conflicts(
        &self,
        share: Option<&ShareName>,
    ) -> Result<Vec<report::ConflictRow>, EngineError> {
        unimplemented!()
    }
    pub async fn reload(&self, config: Config) -> Result<(), EngineError> {
        unimplemented!()
    }
    pub async fn confirm(&self, share: &ShareName) -> Result<u64, EngineError> {
        unimplemented!()
    }
    pub async fn revert(&self, share: &ShareName) -> Result<u64, EngineError> {
        unimplemented!()
    }
    pub async fn rescan(&self, share: Option<&ShareName>) -> Result<(), EngineError> {
        unimplemented!()
    }
    pub async fn health(&self) -> report::Health {
        unimplemented!()
    }
    pub async fn stop(&self, deadline: Duration) {
        unimplemented!()
    }
}
