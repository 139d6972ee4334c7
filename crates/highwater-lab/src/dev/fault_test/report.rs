//! What the fault-tolerance test found.

use serde::Serialize;

use crate::dev::DevNode;
use crate::dev::probe::LinkProbes;

/// Everything that the test found.
#[derive(Clone, Debug, Serialize)]
pub struct FaultReport {
    /// Whether every check holds.
    pub held: bool,
    /// What was demanded, and whether it was so.
    pub checks: Vec<Check>,
    /// The nodes before the test.
    pub nodes: Vec<DevNode>,
    /// The probes of every link.
    pub links: Vec<LinkProbes>,
    /// The transfer without a fault.
    pub sync: SyncRun,
    /// The transfer that was cut.
    pub cut: CutRun,
    /// How long all of it took.
    pub seconds: f64,
}

/// One thing that was demanded.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What, as a sentence.
    pub what: String,
    /// Whether it was so.
    pub holds: bool,
    /// What was measured.
    pub found: String,
}

/// How far a transfer was at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Since the file was there to be sent, in seconds.
    pub seconds: f64,
    /// Bytes that were durable at the receiver.
    pub acked_offset: u64,
}

/// A file on its way to everyone, undisturbed.
#[derive(Clone, Debug, Serialize)]
pub struct SyncRun {
    /// Who had it.
    pub from: String,
    /// Its size.
    pub bytes: u64,
    /// Until it stood under its name, for each other node.
    pub arrivals: Vec<Arrival>,
    /// How far the last node was, over time.
    pub progress: Vec<Sample>,
}

/// A file that has arrived.
#[derive(Clone, Debug, Serialize)]
pub struct Arrival {
    /// Where.
    pub node: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether what lies on the disk there is what was written here.
    pub identical: bool,
}

/// A transfer that was cut and went on.
#[derive(Clone, Debug, Serialize)]
pub struct CutRun {
    /// Who had the file.
    pub from: String,
    /// Who was cut off.
    pub receiver: String,
    /// The size of the file.
    pub bytes: u64,
    /// Bytes that were durable at the receiver when its links went silent.
    pub before: u64,
    /// The same at the end of the cut: what had come through before it was still written.
    pub at_return: u64,
    /// Bytes that passed the links during the cut, both ways, as the proxies counted.
    pub passed_during_cut: u64,
    /// How long the links were silent, in seconds.
    pub cut_seconds: f64,
    /// From their return to the first new content, in seconds.
    pub return_to_data_seconds: f64,
    /// Where the transfer went on.
    pub resumed_from: Option<u64>,
    /// Content bytes that the receiver was sent although it had them durably.
    pub resent_bytes: u64,
    /// The rest of the way: from the first new content to the whole file, in seconds.
    pub rest_seconds: f64,
    /// How far the receiver was, over time.
    pub progress: Vec<Sample>,
    /// Whether what lies on every disk is what was written.
    pub identical: bool,
}
