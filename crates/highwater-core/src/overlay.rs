//! With whom to keep a link when there are more peers than links.
//!
//! All nodes of a share stand on a ring, in the order of their ids. Each keeps links with those at
//! distances 1, 2, 4, 8 … both ways round (as the fingers of Chord: Stoica et al., 2001), so every
//! node has about as many links, every two are joined by few, and both ends of a link agree that they
//! want it without asking each other. Those that failed are stepped over. Whatever the ring does not
//! reach, such as a node that lists nobody but this one, is dialled in turn until it is known to be
//! reached by others.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::member::State;

/// Links that a node keeps when it has more peers for a share than this, unless its owner says
/// otherwise: 300 nodes are joined in 5 steps.
pub const LINKS_MAX_DEFAULT: usize = 16;
/// The fewest that hold together when some break: two neighbours each way round.
pub const LINKS_MAX_LEAST: usize = 4;
/// The most: each costs a socket, memory and a ping every few seconds.
pub const LINKS_MAX_MOST: usize = 128;
/// A link that the ring does not want is closed once the other side has this many: it would still be
/// reached if two of them broke.
const ENOUGH: u32 = 3;

/// What is known of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// How it stands in the cluster, if it is known there.
    pub state: Option<State>,
    /// Whether there is a link to it now.
    pub linked: bool,
    /// How many links it says it has.
    pub connections: u32,
}

/// Whom to dial, and which links to let go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Links {
    /// Peers to dial, as far as they have an address.
    pub wanted: BTreeSet<NodeId>,
    /// Links that are not needed.
    pub spare: BTreeSet<NodeId>,
}

/// Whom the node `own` keeps links with: `links_max` of each share where there are more. `shares` are
/// the peers listed for each share; `turn` counts up now and then, and tells which of those that nobody
/// is known to reach is tried: none without it, as at the start, when nobody is known yet.
pub fn choose(
    own: NodeId,
    links_max: usize,
    peers: &BTreeMap<NodeId, Peer>,
    shares: &[BTreeSet<NodeId>],
    turn: Option<usize>,
) -> Links {
    let mut wanted = BTreeSet::new();
    for listed in shares {
        if listed.len() <= links_max {
            wanted.extend(listed);
        } else {
            wanted.extend(fingers(own, links_max, listed, |_| true));
            let works = |id: &NodeId| {
                let state = peers.get(id).and_then(|peer| peer.state);
                !matches!(state, Some(State::Failed | State::Left))
            };
            wanted.extend(fingers(own, links_max, listed, works));
        }
    }
    let known = |id: &NodeId| peers.get(id).copied().unwrap_or_default();
    let all: BTreeSet<NodeId> = shares.iter().flatten().copied().collect();
    let spare = all.iter().filter(|id| {
        let peer = known(id);
        !wanted.contains(id) && peer.linked && peer.connections >= ENOUGH
    });
    let spare: BTreeSet<NodeId> = spare.copied().collect();
    let unreached: Vec<&NodeId> = all
        .iter()
        .filter(|id| !wanted.contains(id) && !known(id).linked)
        .filter(|id| matches!(known(id).state, None | Some(State::Failed)))
        .collect();
    // The suspect are asked after by those who have a link to them: if everybody dialled them too, an
    // overloaded cluster would spend its last strength on links that nobody needs. Each node begins
    // elsewhere, so that not all try the same one at once.
    let begin = usize::from(own.as_bytes()[0]);
    let turn = turn.map(|turn| turn.wrapping_add(begin) % unreached.len().max(1));
    wanted.extend(turn.and_then(|turn| unreached.get(turn)).copied());
    // One that would be closed again as soon as it is up is not dialled.
    wanted.extend(all.iter().filter(|id| known(id).linked && !spare.contains(id)));
    Links { wanted, spare }
}

/// Those at distances 1, 2, 4 … both ways among those that `counts` and this node, at most `links_max`.
fn fingers(
    own: NodeId,
    links_max: usize,
    listed: &BTreeSet<NodeId>,
    counts: impl Fn(&NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let ring: Vec<NodeId> = listed
        .iter()
        .copied()
        .filter(|id| counts(id) && *id != own)
        .chain([own])
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let place = ring.binary_search(&own).unwrap_or_default();
    let distances = (0..links_max / 2).map_while(|finger| 1_usize.checked_shl(finger as u32));
    let distances = distances.take_while(|distance| *distance < ring.len());
    let both = distances.flat_map(|distance| {
        [(place + distance) % ring.len(), (place + ring.len() - distance) % ring.len()]
    });
    both.map(|place| ring[place]).filter(|id| *id != own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    /// What everybody wants in a mesh of `size` nodes of which some have failed.
    fn mesh(
        size: usize,
        links_max: usize,
        failed: &BTreeSet<usize>,
    ) -> BTreeMap<usize, BTreeSet<usize>> {
        let number: BTreeMap<NodeId, usize> = (0..size).map(|n| (id(n), n)).collect();
        let state = |n: &usize| if failed.contains(n) { State::Failed } else { State::Active };
        let wants = |own: usize| {
            let others = (0..size).filter(|n| *n != own);
            let known = |n: usize| {
                let peer = Peer { state: Some(state(&n)), ..Peer::default() };
                (id(n), peer)
            };
            let peers = others.clone().map(known).collect();
            let listed = others.map(id).collect();
            let links = choose(id(own), links_max, &peers, &[listed], None);
            links.wanted.iter().map(|id| number[id]).filter(|n| !failed.contains(n)).collect()
        };
        (0..size).filter(|n| !failed.contains(n)).map(|own| (own, wants(own))).collect()
    }

    /// The most steps from the first node to any.
    fn reach(mesh: &BTreeMap<usize, BTreeSet<usize>>) -> Option<usize> {
        let first = *mesh.keys().next()?;
        let (mut seen, mut edge, mut steps) = (BTreeSet::from([first]), vec![first], 0);
        while !edge.is_empty() {
            let next: BTreeSet<usize> = edge.iter().flat_map(|n| mesh[n].clone()).collect();
            edge = next.into_iter().filter(|n| seen.insert(*n)).collect();
            steps += 1;
        }
        (seen.len() == mesh.len()).then_some(steps - 1)
    }

    #[test]
    fn a_mesh_of_any_size_hangs_together_with_few_links_each_that_both_sides_want() {
        // Links, and the most steps that any of the sizes takes with them.
        for (links_max, steps_max) in [(4, 75), (5, 75), (8, 20), (16, 5), (128, 5)] {
            for size in [2, 3, 16, 17, 18, 30, 64, 100, 257, 300] {
                let mesh = mesh(size, links_max, &BTreeSet::new());
                for (own, wanted) in &mesh {
                    assert!(wanted.len() <= links_max, "{size}: {}", wanted.len());
                    for other in wanted {
                        assert!(mesh[other].contains(own), "{size}: {other} does not want {own}");
                    }
                }
                let steps = reach(&mesh);
                let near = steps.is_some_and(|steps| steps <= steps_max);
                assert!(near, "{size} nodes with {links_max} links: {steps:?} steps");
            }
        }
    }

    #[test]
    fn a_mesh_still_hangs_together_when_a_third_of_it_has_failed() {
        for seed in 0..10_usize {
            let failed = (0..100).filter(|n| id(n * 1000 + seed).as_bytes()[0] < 85).collect();
            let mesh = mesh(100, LINKS_MAX_DEFAULT, &failed);
            assert!(reach(&mesh).is_some(), "seed {seed}: {} failed", failed.len());
        }
    }

    #[test]
    fn few_peers_are_all_linked_with() {
        let listed: BTreeSet<NodeId> = (1..=LINKS_MAX_DEFAULT).map(id).collect();
        let links =
            choose(id(0), LINKS_MAX_DEFAULT, &BTreeMap::new(), std::slice::from_ref(&listed), None);
        assert_eq!(links, Links { wanted: listed, spare: BTreeSet::new() });
    }

    #[test]
    fn a_suspicion_makes_nobody_dial() {
        let listed: BTreeSet<NodeId> = (1..100).map(id).collect();
        let suspect = Peer { state: Some(State::Suspect), ..Peer::default() };
        let peers: BTreeMap<NodeId, Peer> = listed.iter().map(|id| (*id, suspect)).collect();
        let ring = choose(id(0), LINKS_MAX_DEFAULT, &peers, std::slice::from_ref(&listed), None);
        for turn in 0..100 {
            let links =
                choose(id(0), LINKS_MAX_DEFAULT, &peers, std::slice::from_ref(&listed), Some(turn));
            assert_eq!(links, ring, "turn {turn}");
        }
    }

    #[test]
    fn whoever_nobody_is_known_to_reach_is_tried_in_turn_and_kept_while_it_has_few_links() {
        let listed: BTreeSet<NodeId> = (1..100).map(id).collect();
        let shares = [listed.clone()];
        let active = Peer { state: Some(State::Active), ..Peer::default() };
        let mut peers: BTreeMap<NodeId, Peer> = listed.iter().map(|id| (*id, active)).collect();
        let ring = choose(id(0), LINKS_MAX_DEFAULT, &peers, &shares, None).wanted;
        let lonely: Vec<NodeId> = listed.difference(&ring).take(2).copied().collect();
        for id in &lonely {
            peers.insert(*id, Peer::default());
        }
        let tried: BTreeSet<NodeId> = (0..2)
            .flat_map(|turn| choose(id(0), LINKS_MAX_DEFAULT, &peers, &shares, Some(turn)).wanted)
            .collect();
        assert_eq!(tried.difference(&ring).copied().collect::<Vec<_>>(), lonely);
        let linked = Peer { linked: true, connections: 1, ..active };
        peers.insert(lonely[0], linked);
        let links = choose(id(0), LINKS_MAX_DEFAULT, &peers, &shares, None);
        assert!(links.wanted.contains(&lonely[0]) && links.spare.is_empty());
        peers.insert(lonely[0], Peer { connections: ENOUGH, ..linked });
        let links = choose(id(0), LINKS_MAX_DEFAULT, &peers, &shares, None);
        assert_eq!(links.spare, BTreeSet::from([lonely[0]]));
        assert!(!links.wanted.contains(&lonely[0]));
    }
}
