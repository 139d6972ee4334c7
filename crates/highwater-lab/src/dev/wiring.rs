//! Which nodes of a development cluster are peers, and that each lists the other.
//!
//! Up to [`MESH_NODES_MAX`] nodes everyone is everyone's peer. Beyond that node `i` meets
//! `i + 1, i + 2, i + 4, …` around the ring, so that nobody has more than [`PEERS_MAX`] and a change
//! still reaches all in a few steps. Of two peers the later one dials.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::ledger::Ledger;
use crate::node::Node;

/// Most peers of one node: what a node keeps links to.
const PEERS_MAX: usize = 16;
/// Largest cluster in which everyone is everyone's peer.
const MESH_NODES_MAX: usize = PEERS_MAX + 1;
/// Steps around the ring that make a peer, in powers of two; each makes two for every node.
const RING_STEPS: u32 = 8;
const _: () = assert!(RING_STEPS as usize * 2 == PEERS_MAX);

/// The pairs of peers among `count` nodes: who dials, and whom.
pub(super) fn pairs(count: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for later in 0..count {
        pairs.extend((0..later).filter(|&earlier| met(count, later, earlier)).map(|e| (later, e)));
    }
    pairs
}

fn met(count: usize, later: usize, earlier: usize) -> bool {
    let step = later - earlier;
    let on_ring = |step: usize| step.is_power_of_two() && step < 1 << RING_STEPS;
    count <= MESH_NODES_MAX || on_ring(step) || on_ring(count - step)
}

/// What `peer list --json` says of one peer.
#[derive(Deserialize)]
struct Listed {
    node_id: String,
    addr: Option<String>,
    shares: Vec<String>,
}

#[derive(Deserialize)]
struct Listing {
    peers: Vec<Listed>,
}

/// Makes every pair list each other for every share, at their own addresses. What is so already is
/// left alone.
pub(super) fn wire(ledger: &Ledger, dir: &Path) -> Result<()> {
    let shares: Vec<&str> = ledger.shares.iter().map(String::as_str).collect();
    let nodes: Vec<Node> = (0..ledger.nodes.len()).map(|index| ledger.node(dir, index)).collect();
    let listings = nodes.iter().map(listing).collect::<Result<Vec<_>>>()?;
    for (dialler, listener) in pairs(nodes.len()) {
        for (here, there, addr) in
            [(listener, dialler, None), (dialler, listener, Some(ledger.nodes[listener].sync))]
        {
            let known = listings[here].get(nodes[there].id());
            if known.is_some_and(|known| stands(known, addr, &shares)) {
                continue;
            }
            // A link that stands would go on over the old address.
            if known.is_some() {
                nodes[here].run(&["peer", "remove", nodes[there].id()])?;
            }
            add_peer(&nodes[here], &nodes[there], addr, &shares)?;
        }
    }
    Ok(())
}

fn stands(known: &Listed, addr: Option<SocketAddr>, shares: &[&str]) -> bool {
    let listed = |share: &&str| known.shares.iter().any(|known| known == share);
    known.addr == addr.map(|addr| addr.to_string()) && shares.iter().all(listed)
}

fn listing(node: &Node) -> Result<BTreeMap<String, Listed>> {
    let said = node.run(&["peer", "list", "--json"])?;
    let listing: Listing = serde_json::from_str(&said)
        .with_context(|| format!("{}: reading {said:?}", node.spec().name))?;
    Ok(listing.peers.into_iter().map(|peer| (peer.node_id.clone(), peer)).collect())
}

/// Lists `peer` at `node`, at this address instead of any other.
pub(super) fn add_peer(
    node: &Node,
    peer: &Node,
    addr: Option<SocketAddr>,
    shares: &[&str],
) -> Result<()> {
    let addr = addr.map(|addr| addr.to_string());
    let mut args = vec!["peer", "add", peer.id()];
    args.extend(addr.as_deref());
    args.extend(["--name", &peer.spec().name]);
    args.extend(shares.iter().flat_map(|share| ["--share", share]));
    node.run(&args).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_is_reached_and_nobody_has_too_many_peers() {
        for count in [1, 2, 3, 17, 18, 33, 100, 300, 571] {
            let pairs = pairs(count);
            let mut peers = vec![0; count];
            for &(later, earlier) in &pairs {
                assert!(earlier < later, "the later one dials");
                peers[later] += 1;
                peers[earlier] += 1;
            }
            assert!(peers.iter().all(|&peers| peers <= PEERS_MAX), "{count}: {peers:?}");
            let mut reached = vec![false; count];
            reached[0] = true;
            for _ in 0..count {
                for &(a, b) in &pairs {
                    let either = reached[a] || reached[b];
                    (reached[a], reached[b]) = (either, either);
                }
            }
            assert!(reached.iter().all(|&reached| reached), "{count} nodes fall apart");
        }
        assert_eq!(pairs(3), [(1, 0), (2, 0), (2, 1)]);
    }
}
