//! What a run has done: how often, how often in vain, and the rare events that must not be absent.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::void;

/// The figures of one run, printed as one line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    /// What was run.
    pub suite: &'static str,
    /// What it began with.
    pub seed: u64,
    /// Iterations whose fault fell where it was meant to.
    pub iterations: u64,
    /// Iterations whose fault did not.
    pub void: u64,
    /// Rules that did not hold, with all that is needed to look at them.
    pub violations: Vec<String>,
    /// Wall time.
    pub seconds: f64,
    /// How often each of the events came about that the suite is there for.
    pub events: BTreeMap<String, u64>,
    /// Events that never came about and had to.
    pub missing: Vec<String>,
}

impl Tally {
    /// Nothing has happened yet. Each of `events` is counted from 0.
    pub fn new(suite: &'static str, seed: u64, events: &[&str]) -> Tally {
        let events = events.iter().map(|&event| (event.to_owned(), 0)).collect();
        Tally {
            suite,
            seed,
            iterations: 0,
            void: 0,
            violations: Vec::new(),
            seconds: 0.0,
            events,
            missing: Vec::new(),
        }
    }

    /// Counts an event.
    pub fn count(&mut self, event: impl Into<String>) {
        self.add(event, 1);
    }

    /// Counts an event that came about so often.
    pub fn add(&mut self, event: impl Into<String>, times: u64) {
        *self.events.entry(event.into()).or_default() += times;
    }

    /// Adds what another lane of the same run has done.
    pub fn join(&mut self, other: Tally) {
        self.iterations += other.iterations;
        self.void += other.void;
        self.violations.extend(other.violations);
        for (event, times) in other.events {
            self.add(event, times);
        }
    }

    /// Closes the book: how long it took, and which of `required` never happened.
    pub fn close(&mut self, began: Instant, required: &[&str]) {
        self.seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let absent = |event: &&&str| self.events.get(**event).is_none_or(|&times| times == 0);
        self.missing = required.iter().filter(absent).map(|&event| event.to_owned()).collect();
    }

    /// Whether too much of the run was in vain.
    pub fn is_void(&self) -> bool {
        void::is_too_much(self.void, self.iterations + self.void)
    }

    /// Whether everything held, and was tried.
    pub fn held(&self) -> bool {
        self.violations.is_empty() && self.missing.is_empty() && !self.is_void()
    }
}
