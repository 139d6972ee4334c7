//! What a run of chaos did, and what did not hold.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::limits::Peak;
use super::nemesis::{Count, Kind};
use crate::void;

/// Part of the changes of which a client may not know whether they happened.
const UNSURE_MAX: f64 = 0.2;

/// The figures of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChaosReport {
    /// What everything was drawn from.
    pub seed: u64,
    /// How many nodes, and how they were joined.
    pub nodes: usize,
    /// `mesh`, `chain` or `star`.
    pub shape: String,
    /// How long it took.
    pub minutes: f64,
    /// Rounds that were audited.
    pub rounds: u64,
    /// Changes that clients made.
    pub changes: u64,
    /// Of those, the ones of which the client cannot know whether they happened.
    pub unsure: u64,
    /// What clients could not do because the path, the folder or the room was gone.
    pub refused: u64,
    /// Whole files that readers read.
    pub readings: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, Count>,
    /// Faults that fell on something, and on nothing.
    pub fell: u64,
    /// Faults that fell on nothing.
    pub void: u64,
    /// Versions that had to be found at the ends of rounds, and were.
    pub versions_found: u64,
    /// Contested paths.
    pub contested: u64,
    /// Transfers taken up at an offset above 0.
    pub resumed: usize,
    /// Conflict copies that were made.
    pub conflicts: u64,
    /// Mass deletes that were held back.
    pub mass_delete_holds: u64,
    /// Times that a full disk was reported.
    pub full_disk_pauses: u64,
    /// Nodes that were started again.
    pub restarts: u64,
    /// Problems that nodes reported, by kind.
    pub problems: BTreeMap<String, u64>,
    /// The slowest convergence.
    pub slowest_convergence_seconds: f64,
    /// The most that a node used.
    pub peak: Peak,
    /// What this machine did not let the run do.
    pub skipped: BTreeSet<String>,
    /// What did not hold.
    pub violations: Vec<String>,
    /// Runs this seed again.
    pub replay: String,
}

impl ChaosReport {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.violations.is_empty()
    }

    /// Judges the run as a whole: that its faults fell, and, if demanded, that what is rare came up.
    pub(crate) fn judge_itself(&mut self, demand_rare: bool, roots: bool, sharing: bool) {
        self.fell = self.faults.values().map(|count| count.fell).sum();
        self.void = self.faults.values().map(|count| count.void).sum();
        if void::is_too_much(self.void, self.fell) {
            let what = format!("{} of {} faults fell on nothing", self.void, self.fell);
            self.violations.push(what);
        }
        if self.unsure as f64 > self.changes as f64 * UNSURE_MAX {
            let what = format!("{} of {} changes are not certain", self.unsure, self.changes);
            self.violations.push(what);
        }
        if !demand_rare {
            return;
        }
        let rare = [
            ("transfer resumed at an offset above 0", self.resumed as u64, true),
            ("conflict copy", self.conflicts, sharing),
            ("mass delete held back", self.mass_delete_holds, true),
            ("pause on a full disk", self.full_disk_pauses, roots),
            ("restart", self.restarts, true),
        ];
        for (what, count, possible) in rare {
            if possible && count == 0 {
                self.violations.push(format!("never came up: {what}"));
            }
        }
    }
}
