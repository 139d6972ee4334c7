//! Version vectors: who has seen what.
//!
//! A version maps actors to counters. The counter of an actor is the sequence number under which
//! that actor's node logged the change, so a pair (actor, counter) names one state of one entry
//! for ever. Source: Parker et al., "Detection of Mutual Inconsistency in Distributed Systems"
//! (1983).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::log::{Actor, Seq};

/// How two versions stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionOrder {
    /// The same state.
    Equal,
    /// The left one includes the right one and more.
    After,
    /// The right one includes the left one and more.
    Before,
    /// Neither includes the other.
    Concurrent,
}

/// Most actors a version may name. An actor is added by a node's edit and by a node's restore, so
/// this is far beyond any honest history, and it bounds what a peer can make us keep.
pub const ACTORS_MAX: usize = 256;

/// A version vector. Empty only for "never seen".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Version(BTreeMap<Actor, Seq>);

impl Version {
    /// The version with these counters.
    pub fn from_counters(counters: impl IntoIterator<Item = (Actor, Seq)>) -> Self {
        Self(counters.into_iter().collect())
    }

    /// The counters, by actor.
    pub fn counters(&self) -> impl ExactSizeIterator<Item = (Actor, Seq)> + '_ {
        self.0.iter().map(|(&actor, &seq)| (actor, seq))
    }

    /// This version with a new change by `actor`, logged at `seq`.
    #[must_use]
    pub fn with_change(&self, actor: Actor, seq: Seq) -> Self {
        let mut next = self.clone();
        next.0.insert(actor, seq);
        next
    }

    /// The smallest version that includes both.
    #[must_use]
    pub fn join(&self, other: &Version) -> Self {
        let mut joined = self.clone();
        for (actor, seq) in other.counters() {
            let counter = joined.0.entry(actor).or_insert(seq);
            *counter = (*counter).max(seq);
        }
        joined
    }

    /// How `self` stands to `other`.
    pub fn compare(&self, other: &Version) -> VersionOrder {
        match (self.includes(other), other.includes(self)) {
            (true, true) => VersionOrder::Equal,
            (true, false) => VersionOrder::After,
            (false, true) => VersionOrder::Before,
            (false, false) => VersionOrder::Concurrent,
        }
    }

    /// Whether everything in `other` is in `self`.
    pub fn includes(&self, other: &Version) -> bool {
        other.counters().all(|(actor, seq)| self.0.get(&actor).is_some_and(|&own| own >= seq))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter()).finish()
    }
}
