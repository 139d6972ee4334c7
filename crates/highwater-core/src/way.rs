//! How a check reaches every node that holds a share: those that the leading node is linked with, and
//! those that only others are.
//!
//! A node that is asked about everything also tells which nodes it exchanges the share with
//! ([`Near`]). From that the leading node draws its map, from near to far ([`Survey`]). A question for
//! a node that it has no link with is passed on by those that have one ([`Onward`]); each of them
//! passes on only what is about a share that it lists for both its neighbours, so nothing is told to
//! anybody who does not get it by syncing.
//!
//! A question names its whole way, no node twice, and loses one at every step: it cannot go round in
//! circles. A node that lies about its neighbours makes a check incomplete, or longer by no more than
//! [`NODES_MAX`] questions, and never makes it say that all is the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::CheckAsk;
use crate::id::NodeId;

/// Most neighbours that a node tells: as many peers as a cluster has, with room.
pub const NEAR_MAX: usize = 1024;
/// Most nodes that a question is passed to: 300 nodes with sixteen links each are joined in 5 steps.
pub const STEPS_MAX: usize = 8;
/// Most nodes of one check: what a cluster remembers of members.
pub const NODES_MAX: usize = 2048;
/// Ways to one node that are remembered; when none of them leads there, it is not reached.
const WAYS_MAX: usize = 4;

/// A node that another one exchanges the share with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Near {
    /// Which.
    pub node: NodeId,
    /// Whether the two are linked now, and both list the share for each other.
    pub linked: bool,
}

/// A question for a node that the asker has no link with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Onward {
    /// The nodes that it is still to be passed to, the one that is to answer last: 1 to [`STEPS_MAX`].
    pub way: Vec<NodeId>,
    /// What that one is asked; itself nothing to be passed on.
    pub ask: Box<CheckAsk>,
}

impl Onward {
    /// To whom the node `own` passes on what `asker` has asked of it, and as which question. `None` when
    /// the way is none, or leads back.
    pub fn step(mut self, own: NodeId, asker: NodeId) -> Option<(NodeId, CheckAsk)> {
        let leads_on =
            leads_on(&self.way) && !self.way.contains(&own) && !self.way.contains(&asker);
        if !leads_on || matches!(*self.ask, CheckAsk::Onward(_)) {
            return None;
        }
        let next = self.way.remove(0);
        let ask = if self.way.is_empty() { *self.ask } else { CheckAsk::Onward(self) };
        Some((next, ask))
    }
}

/// Whether a way is one: not too long, and no node on it twice.
pub fn leads_on(way: &[NodeId]) -> bool {
    let nodes: BTreeSet<&NodeId> = way.iter().collect();
    (1..=STEPS_MAX).contains(&way.len()) && nodes.len() == way.len()
}

/// Finds all nodes that hold a share, and a way to each, from what they tell of their neighbours.
#[derive(Debug)]
pub struct Survey {
    own: NodeId,
    /// The nodes that are looked for; empty for all.
    chosen: BTreeSet<NodeId>,
    places: BTreeMap<NodeId, Place>,
}

/// What is known of one node.
#[derive(Debug, Default)]
struct Place {
    /// Whether the leading node lists it: it may be linked with any moment.
    listed: bool,
    /// The ways that are not tried in vain yet, the best first: whom to pass through.
    ways: Vec<Vec<NodeId>>,
    asked: bool,
    answered: bool,
}

impl Survey {
    /// Begins with the peers that `own` lists for the share.
    pub fn new(
        own: NodeId,
        listed: impl IntoIterator<Item = NodeId>,
        chosen: BTreeSet<NodeId>,
    ) -> Self {
        let mut survey = Self { own, chosen, places: BTreeMap::new() };
        for node in listed {
            survey.places.entry(node).or_default().listed = true;
        }
        for node in survey.chosen.clone() {
            survey.places.entry(node).or_default();
        }
        survey
    }

    /// There is a link with this node.
    pub fn linked(&mut self, node: NodeId) {
        if let Some(place) = self.places.get_mut(&node)
            && !place.asked
            && place.ways.first().is_none_or(|way| !way.is_empty())
        {
            place.ways.insert(0, Vec::new());
            place.ways.truncate(WAYS_MAX);
        }
    }

    /// Whom to ask now, each by passing through these nodes. While `patient`, a listed node is only asked
    /// over a link with it, which may yet come up.
    pub fn ask(&mut self, patient: bool) -> Vec<(NodeId, Vec<NodeId>)> {
        let spreads = self.chosen.is_empty() || self.lacks_chosen(patient);
        let mut asks = Vec::new();
        for (node, place) in &mut self.places {
            let Some(way) = place.ways.first().filter(|_| !place.asked) else { continue };
            let waits = patient && place.listed && !way.is_empty();
            let wanted = spreads || self.chosen.contains(node);
            if wanted && !waits {
                place.asked = true;
                asks.push((*node, way.clone()));
            }
        }
        asks
    }

    /// Whether a chosen node has to be found through others.
    fn lacks_chosen(&self, patient: bool) -> bool {
        let mut chosen = self.chosen.iter().filter_map(|node| self.places.get(node));
        chosen.any(|place| !place.answered && place.ways.is_empty() && !(patient && place.listed))
    }

    /// A node has answered, and told whom it exchanges the share with.
    pub fn answered(&mut self, node: NodeId, near: &[Near]) {
        let Some(place) = self.places.get_mut(&node) else { return };
        place.answered = true;
        let mut through = place.ways.first().cloned().unwrap_or_default();
        through.push(node);
        for Near { node, linked } in near {
            let is_full = self.places.len() >= NODES_MAX && !self.places.contains_key(node);
            if *node == self.own || is_full {
                continue;
            }
            let place = self.places.entry(*node).or_default();
            let fits = place.ways.len() < WAYS_MAX && through.len() < STEPS_MAX;
            if *linked && fits && !through.contains(node) {
                place.ways.push(through.clone());
            }
        }
    }

    /// A node did not answer on the way it was asked: the next one is tried.
    pub fn silent(&mut self, node: NodeId) {
        if let Some(place) = self.places.get_mut(&node) {
            place.asked = false;
            if !place.ways.is_empty() {
                place.ways.remove(0);
            }
        }
    }

    /// The nodes of the check, and whether each has answered.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, bool)> {
        let belongs = |node: &NodeId| self.chosen.is_empty() || self.chosen.contains(node);
        let nodes = self.places.iter().filter(move |(node, _)| belongs(node));
        nodes.map(|(node, place)| (*node, place.answered))
    }

    /// Whether every node of the check has answered.
    pub fn is_complete(&self) -> bool {
        self.nodes().all(|(_, answered)| answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckAsk;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn ids<const N: usize>(numbers: [u8; N]) -> Vec<NodeId> {
        numbers.map(id).to_vec()
    }

    fn near<const N: usize>(linked: [u8; N]) -> Vec<Near> {
        linked.map(|n| Near { node: id(n), linked: true }).to_vec()
    }

    fn question() -> CheckAsk {
        CheckAsk::Found { check: None, after: None }
    }

    /// Asks everybody in a cluster of these links until nobody is left; who answered, and how.
    fn survey(mut survey: Survey, links: &[(u8, u8)]) -> BTreeMap<NodeId, Vec<NodeId>> {
        let neighbours = |node: NodeId| {
            let other = |(a, b): &(u8, u8)| match node {
                node if node == id(*a) => Some(id(*b)),
                node if node == id(*b) => Some(id(*a)),
                _ => None,
            };
            links
                .iter()
                .filter_map(other)
                .map(|node| Near { node, linked: true })
                .collect::<Vec<_>>()
        };
        for Near { node, .. } in neighbours(survey.own) {
            survey.linked(node);
        }
        let mut ways = BTreeMap::new();
        loop {
            let asks = survey.ask(false);
            if asks.is_empty() {
                return ways;
            }
            for (node, way) in asks {
                assert!(ways.insert(node, way).is_none(), "{node:?} was asked twice");
                survey.answered(node, &neighbours(node));
            }
        }
    }

    #[test]
    fn a_chain_is_followed_to_its_end_and_each_node_asked_once() {
        let ways = survey(Survey::new(id(1), ids([2]), BTreeSet::new()), &[(1, 2), (2, 3), (3, 4)]);
        let expected = [(id(2), vec![]), (id(3), ids([2])), (id(4), ids([2, 3]))];
        assert_eq!(ways, expected.into());
    }

    #[test]
    fn a_ring_is_walked_by_the_shorter_side_and_never_back() {
        let links = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 1)];
        let ways = survey(Survey::new(id(1), ids([2, 5]), BTreeSet::new()), &links);
        assert_eq!(ways.len(), 4);
        assert!(ways.values().all(|way| way.len() < 2 && !way.contains(&id(1))), "{ways:?}");
    }

    #[test]
    fn what_is_too_far_is_known_and_not_reached() {
        let links: Vec<(u8, u8)> = (1..20).map(|n| (n, n + 1)).collect();
        let mut found = Survey::new(id(1), ids([2]), BTreeSet::new());
        found.linked(id(2));
        for n in 2..=9 {
            assert_eq!(found.ask(false).len(), 1, "node {n}");
            found.answered(id(n), &near([n - 1, n + 1]));
        }
        assert!(found.ask(false).is_empty());
        assert!(found.nodes().any(|node| node == (id(10), false)) && !found.is_complete());
        assert_eq!(survey(Survey::new(id(1), ids([2]), BTreeSet::new()), &links).len(), STEPS_MAX);
    }

    #[test]
    fn a_node_that_nobody_is_linked_with_leaves_the_survey_incomplete() {
        let mut survey = Survey::new(id(1), ids([2]), BTreeSet::new());
        survey.linked(id(2));
        survey.ask(true);
        survey.answered(id(2), &[Near { node: id(3), linked: false }]);
        assert!(survey.ask(false).is_empty() && !survey.is_complete());
    }

    #[test]
    fn a_listed_node_is_asked_directly_while_that_may_come_about_and_else_through_others() {
        let mut survey = Survey::new(id(1), ids([2, 3]), BTreeSet::new());
        survey.linked(id(2));
        assert_eq!(survey.ask(true), [(id(2), vec![])]);
        survey.answered(id(2), &near([3]));
        assert!(survey.ask(true).is_empty());
        assert_eq!(survey.ask(false), [(id(3), ids([2]))]);
        survey.silent(id(3));
        assert!(survey.ask(false).is_empty());
        survey.linked(id(3));
        assert_eq!(survey.ask(true), [(id(3), vec![])]);
    }

    #[test]
    fn only_the_chosen_are_asked_unless_one_has_to_be_found() {
        let chosen = BTreeSet::from([id(2)]);
        let mut near_by = Survey::new(id(1), ids([2, 3]), chosen);
        near_by.linked(id(2));
        near_by.linked(id(3));
        assert_eq!(near_by.ask(false), [(id(2), vec![])]);
        near_by.answered(id(2), &near([9]));
        assert!(near_by.is_complete() && near_by.ask(false).is_empty());
        let ways = survey(Survey::new(id(1), ids([2]), [id(3)].into()), &[(1, 2), (2, 3), (3, 4)]);
        assert_eq!(ways.get(&id(3)), Some(&ids([2])));
        assert!(!ways.contains_key(&id(4)));
    }

    #[test]
    fn a_crowd_that_is_made_up_is_bounded() {
        let mut survey = Survey::new(id(1), ids([2]), BTreeSet::new());
        survey.linked(id(2));
        survey.ask(false);
        let made_up = |n: usize| NodeId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let crowd: Vec<Near> =
            (0..3 * NODES_MAX).map(|n| Near { node: made_up(n), linked: true }).collect();
        survey.answered(id(2), &crowd);
        assert_eq!(survey.nodes().count(), NODES_MAX);
    }

    #[test]
    fn a_question_loses_a_node_at_every_step_and_is_never_passed_back() {
        let onward = |way: Vec<NodeId>| Onward { way, ask: Box::new(question()) };
        let (own, asker) = (id(1), id(2));
        let step = |way: Vec<NodeId>| onward(way).step(own, asker);
        assert_eq!(step(ids([3])), Some((id(3), question())));
        let rest = CheckAsk::Onward(onward(ids([4, 5])));
        assert_eq!(step(ids([3, 4, 5])), Some((id(3), rest)));
        let long: Vec<NodeId> = (10..=10 + STEPS_MAX as u8).map(id).collect();
        for way in [vec![], ids([1]), ids([3, 2]), ids([3, 4, 3]), long] {
            assert_eq!(step(way.clone()), None, "{way:?}");
        }
        let within = Onward { way: ids([3]), ask: Box::new(CheckAsk::Onward(onward(ids([4])))) };
        assert_eq!(within.step(own, asker), None);
    }
}
