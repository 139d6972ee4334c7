//! Real daemons, real sockets, a fault proxy in every link, and a judge that reads the disks.

#![forbid(unsafe_code)]

mod conflicts;
mod edits;
mod folder;
mod identity;
mod restore;
mod resume;
mod scale;
mod storms;
mod topology;

use std::time::Duration;

/// Longest wait for anything that must come about. Only a failure reaches it.
const PATIENCE: Duration = Duration::from_secs(90);
/// The same, where tens of thousands of files move.
const LONG_PATIENCE: Duration = Duration::from_secs(300);
