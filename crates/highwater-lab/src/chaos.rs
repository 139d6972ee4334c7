//! Chaos: real nodes, scripted clients, everything going wrong as a seed says, and an auditor.
//!
//! A run is a row of rounds over the same state. In a round clients work at every node's folder
//! (`client`, `hands`) while the nemesis breaks links, processes, disks and clocks
//! (`nemesis`), readers look for torn files (`walker`) and samplers hold every node to its
//! limits (`limits`). Then everything is healed: nodes must agree within a deadline, fall silent,
//! and hold exactly what the history (`history`) says they must (`audit`).
//!
//! The first violation ends the run; folders, homes, logs and the history are kept and named, with
//! the command that runs the same seed again. Processes are not deterministic, so the same seed gives
//! the same plan and not the same moments.

mod audit;
mod client;
mod ground;
mod hands;
mod history;
mod limits;
mod nemesis;
mod report;
mod round;
mod walker;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

pub use report::ChaosReport;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// The highwater program.
    pub exe: PathBuf,
    /// What everything is drawn from.
    pub seed: u64,
    /// How long to go on; a round that has begun is finished.
    pub time: Duration,
    /// How many nodes, 3 to 5; `None` lets the seed draw.
    pub nodes: Option<usize>,
    /// How long things go wrong in a round.
    pub storm: Duration,
    /// How many client operations of a hundred are on paths that all clients share.
    pub sharing: u64,
    /// Where everything lies, kept in any case; `None` for a temporary directory that is kept when
    /// something does not hold.
    pub keep: Option<PathBuf>,
    /// Whether every rare event must have come up; for runs long enough for that.
    pub demand_rare: bool,
}

/// Runs it. The report says what was done and what did not hold.
pub fn run(options: &ChaosOptions) -> Result<ChaosReport> {
    round::Run::begin(options)?.go()
}
