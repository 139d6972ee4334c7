//! With whom links are kept when a share has more peers than a node keeps links: asks core, tells the
//! net whom to dial, and closes what is spare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use highwater_core::NodeId;
use highwater_core::overlay::{Peer, choose};
use highwater_core::wire::Goodbye;
use tokio::time::Instant;

use super::actor::Actor;
use crate::config::Config;
use crate::engine::Inner;

/// How often it is thought over, and how long one that nobody is known to reach is dialled before the
/// next.
const EVERY: Duration = Duration::from_secs(5);
/// Before members have been heard of nobody is tried for being unknown, and no link is closed.
const SETTLE: Duration = Duration::from_secs(15);

/// What is remembered between two choices.
#[derive(Debug)]
pub(super) struct Choosing {
    began: Instant,
    last: Option<Instant>,
    turn: usize,
}

impl Default for Choosing {
    fn default() -> Self {
        Self { began: Instant::now(), last: None, turn: 0 }
    }
}

/// The peers listed for each share.
fn listed(config: &Config) -> Vec<BTreeSet<NodeId>> {
    let names: BTreeSet<_> = config.peers.iter().flat_map(|peer| &peer.shares).collect();
    let list = |name| {
        let peers = config.peers.iter().filter(|peer| peer.shares.contains(name));
        peers.map(|peer| peer.id).collect()
    };
    names.into_iter().map(list).collect()
}

impl Actor {
    /// Chooses anew, if it is time to or something has changed.
    pub(super) fn choose_links(&mut self, engine: &Inner, at_once: bool) {
        let due = self.choosing.last.is_none_or(|last| last.elapsed() >= EVERY);
        if !due && !at_once {
            return;
        }
        self.choosing.last = Some(Instant::now());
        self.choosing.turn += usize::from(due);
        let (shares, links_max) = {
            let config = engine.config();
            (listed(&config), config.cluster.links_max)
        };
        let chosen = if shares.iter().any(|listed| listed.len() > links_max) {
            let settled = self.choosing.began.elapsed() >= SETTLE;
            let turn = settled.then_some(self.choosing.turn);
            let known = self.peers_known(&shares);
            let links = choose(engine.node, links_max, &known, &shares, turn);
            if settled {
                let spare = links.spare.iter().filter(|peer| !engine.cluster.holds(peer));
                spare.for_each(|peer| self.close(peer));
            }
            // A peer without a share exchanges nothing, but whoever listed it wants to see it.
            let idle = engine.config().peers.clone().into_iter().filter(|p| p.shares.is_empty());
            Some(links.wanted.into_iter().chain(idle.map(|peer| peer.id)).collect())
        } else {
            None
        };
        let mut wanted = self.end.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted != chosen {
            *wanted = chosen;
            drop(wanted);
            engine.set_peers();
        }
    }

    fn peers_known(&self, shares: &[BTreeSet<NodeId>]) -> BTreeMap<NodeId, Peer> {
        let known = |id: &NodeId| Peer {
            state: self.machine.state_of(id),
            linked: self.current.contains_key(id),
            connections: self.machine.connections_of(id).unwrap_or(0),
        };
        shares.iter().flatten().map(|id| (*id, known(id))).collect()
    }

    fn close(&self, peer: &NodeId) {
        let line = self.current.get(peer).and_then(|link| self.lines.get(link));
        // A link that the other side has dialled is its to close: it may know nobody else.
        if let Some(line) = line.filter(|line| line.dialled) {
            line.handle.close(Goodbye::NotNeeded);
        }
    }
}
