//! Why the engine did not start, and why it refuses.

use highwater_core::ShareName;
use highwater_store::StoreError;

use crate::home::IdentityError;

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key pair cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] highwater_store::OpenError),
    /// The store was opened and failed.
    #[error("cannot prepare the store: {0}; check the disk")]
    Prepare(#[from] StoreError),
    /// Peers cannot be listened for.
    #[error(transparent)]
    Net(#[from] highwater_net::StartError),
    /// The system gives no random numbers or no threads.
    #[error("the system refuses what every daemon needs: {0}; free some of it and start again")]
    System(String),
}

/// Why a request to the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such share.
    #[error("there is no share {0} here; `highwater share list` shows which there are")]
    UnknownShare(ShareName),
    /// The share cannot do this now.
    #[error("{0}")]
    Refused(String),
    /// The share ended while it was asked.
    #[error("the share {0} was stopped before it could answer; ask again")]
    Stopped(ShareName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refuses a thread.
    #[error("the system refuses a thread: {0}; raise the limit of processes")]
    Thread(std::io::Error),
}
