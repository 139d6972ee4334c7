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
/// this is far beyond any honest history, and it bounds what a peer can make us keep. No operation
/// here makes a version that exceeds it: other nodes would refuse it, and everything behind it.
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

    /// The last change by `actor` that is included, if any is.
    pub fn last_of(&self, actor: Actor) -> Option<Seq> {
        self.0.get(&actor).copied()
    }

    /// This version with a new change by `actor`, logged at `seq`. When no further actor fits, the
    /// change stands alone: it conflicts with what it was made on, and both stay.
    #[must_use]
    pub fn with_change(&self, actor: Actor, seq: Seq) -> Self {
        let fits = self.0.len() < ACTORS_MAX || self.0.contains_key(&actor);
        let mut next = if fits { self.clone() } else { Self::default() };
        next.0.insert(actor, seq);
        next
    }

    /// The smallest version that includes both; when that would name too many actors, this one.
    #[must_use]
    pub fn join(&self, other: &Version) -> Self {
        let mut joined = self.clone();
        for (actor, seq) in other.counters() {
            let counter = joined.0.entry(actor).or_insert(seq);
            *counter = (*counter).max(seq);
        }
        if joined.0.len() <= ACTORS_MAX { joined } else { self.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn full(first: u64) -> Version {
        Version::from_counters((0..ACTORS_MAX as u64).map(|n| (Actor(first + n), Seq(1))))
    }

    /// A peer sent two concurrent versions of 256 actors each. Their join named 512, every other
    /// node took it for misbehaviour, and the innocent one in between was cut off for good.
    #[test]
    fn no_version_grows_beyond_what_other_nodes_take_in() {
        let (one, other) = (full(0), full(1000));
        assert_eq!(one.join(&other), one);
        assert_eq!(one.with_change(Actor(7), Seq(9)).counters().len(), ACTORS_MAX);
        let edited = one.with_change(Actor(5000), Seq(9));
        assert_eq!(edited.counters().collect::<Vec<_>>(), [(Actor(5000), Seq(9))]);
        assert_eq!(edited.compare(&one), VersionOrder::Concurrent);
    }
}
