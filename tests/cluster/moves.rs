//! Nodes that move: to another port and name, to another network in the middle of a transfer; and a
//! cluster that is parted and comes together again.

use std::fs;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::CutKind;
use highwater_lab::net::free_loopback;
use highwater_lab::node::Node;
use highwater_lab::oracle;
use highwater_lab::route::Route;
use highwater_lab::status::Status;
use highwater_tests::{Slot, with_cluster};

use crate::lines::{MB, noise, over};
use crate::membership::{
    MESH, NAMES, PATIENCE, ask, expected, incarnation, states, wait, wait_all_active, wait_seen,
};

/// Rewrites a part of a node's configuration, which must stand there.
fn reconfigure(node: &Node, from: &str, to: &str) -> Result<()> {
    let path = node.home().join("config.toml");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{from:?} is not in {text}");
    fs::write(&path, text.replace(from, to)).context("writing the configuration")
}

/// Whether `node` has a link with the peer.
fn linked(node: &Node, peer: &str) -> Result<bool> {
    let net = ask(node, &["net"])?;
    let peers = net["peers"].as_array().context("peers")?;
    Ok(peers.iter().any(|found| found["node_id"] == peer && found["connected"] == true))
}

#[test]
fn a_node_that_moved_under_another_name_keeps_its_place() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        wait_all_active(cluster)?;
        let moved = cluster.nodes[2].id().to_owned();
        let before = incarnation(&cluster.nodes[0], &moved)?;
        cluster.nodes[2].stop()?;
        let (old, new) = (cluster.nodes[2].spec().sync, free_loopback()?);
        reconfigure(&cluster.nodes[2], &old.to_string(), &new.to_string())?;
        reconfigure(&cluster.nodes[2], "name = \"c\"", "name = \"carol\"")?;
        cluster.nodes[2].start()?;
        // It dials a, from where b hears of it.
        let renamed = [("a", "active"), ("b", "active"), ("carol", "active")];
        wait_seen(cluster, &[0, 1, 2], &renamed)?;
        for node in &cluster.nodes[..2] {
            let after = incarnation(node, &moved)?;
            ensure!(after > before, "its incarnation is {after} after {before}");
        }
        fs::write(cluster.folder(2).join("from its new place"), "c")?;
        wait("b has it through a", || {
            Ok((cluster.folder(1).join("from its new place").exists(), ()))
        })?;
        // b dials it, and where to is for people to say.
        ensure!(!linked(&cluster.nodes[1], &moved)?, "b dialled an address that nobody gave it");
        cluster.nodes[1].add_peer(&moved, Some(new), &[SHARE])?;
        wait("b has found it", || Ok((linked(&cluster.nodes[1], &moved)?, ())))?;
        cluster.wait_agreed(PATIENCE)?;
        wait_seen(cluster, &[0, 1, 2], &renamed)
    });
}

/// How large the content is that is under way while something happens, and how fast it comes.
const SIZE: u64 = 48 * MB;
const RATE: u64 = 6 * MB;
/// Most content that may cross twice: what was on its way and not yet acknowledged.
const RESENT_MAX: u64 = 4 * MB;
/// What the node that dials calls the other one.
const HOST: &str = "b.example";

/// Content crosses from b to a, which dials b by name. Something happens to the way between them in
/// the middle of it, once and for all or until a has noticed, and the transfer goes on where it was.
fn struck_midway(
    strike: impl FnOnce(&Route) -> Result<()>,
    noticed: impl FnOnce(&Node, &Route) -> Result<()>,
) -> Result<()> {
    if let Some(why) = Route::missing() {
        eprintln!("skipped: {why}");
        return Ok(());
    }
    let _slot = Slot::take();
    let dir = tempfile::tempdir()?;
    let route = Route::lay()?;
    route.name(0, HOST, route.ip(1))?;
    let nodes = over(&route, dir.path(), HOST)?;
    route.limit(0, RATE)?;
    fs::write(nodes[1].folder(SHARE).join("large"), noise(SIZE, "moves"))?;
    let transfer = |status: &Status| status.transfer("large").cloned().unwrap_or_default();
    let within = nodes[0]
        .wait_until("a part is here", PATIENCE, |now| transfer(now).acked_offset > 0)
        .map(|status| transfer(&status).acked_offset)?;
    strike(&route)?;
    ensure!(within < SIZE, "it happened after the transfer, at {within}");
    noticed(&nodes[0], &route)?;
    let resumed = nodes[0]
        .wait_until("it goes on", PATIENCE, |now| transfer(now).resumed_from > 0)
        .map(|status| transfer(&status).resumed_from)?;
    ensure!((within..SIZE).contains(&resumed), "resumed at {resumed}, not behind {within}");
    oracle::wait_equal(&[nodes[0].folder(SHARE), nodes[1].folder(SHARE)], PATIENCE)?;
    let received = nodes[0].status()?.counters.content_bytes_received;
    ensure!(received <= SIZE + RESENT_MAX, "{received} bytes came for {SIZE}");
    let all = expected(&[("a", "active"), ("b", "active")]);
    wait("both are at work", || {
        let seen = nodes.iter().map(states).collect::<Result<Vec<_>>>()?;
        Ok((seen.iter().all(|seen| *seen == all), seen))
    })
}

#[test]
fn a_transfer_goes_on_where_it_was_when_its_receiver_has_another_address() -> Result<()> {
    struck_midway(|route| route.readdress(0).map(drop), |_, _| Ok(()))
}

#[test]
fn a_transfer_goes_on_where_it_was_when_the_name_of_its_source_leads_elsewhere() -> Result<()> {
    struck_midway(|route| route.name(0, HOST, route.readdress(1)?), |_, _| Ok(()))
}

/// Small packets pass, so that both ends seem to be there.
#[test]
fn a_line_that_swallows_long_packets_is_said_to_be_down_and_used_again_afterwards() -> Result<()> {
    struck_midway(
        |route| route.swallow(0, 600),
        |receiver, route| {
            wait("the line is said to be down, and why", || {
                let net = ask(receiver, &["net"])?;
                Ok((net["peers"][0]["connected"] == false, net))
            })?;
            route.lose_nothing(0);
            route.limit(0, RATE)
        },
    )
}

/// Cuts or heals every line of a node.
fn part(cluster: &Cluster, node: usize, cut: bool) {
    for other in (0..cluster.nodes.len()).filter(|other| *other != node) {
        match cut {
            true => cluster.proxy(node, other).cut(CutKind::Silent),
            false => cluster.proxy(node, other).heal(),
        }
    }
}

#[test]
fn parts_of_a_parted_cluster_go_on_and_agree_again_once_it_is_healed() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        wait_all_active(cluster)?;
        for round in 0..2 {
            part(cluster, 2, true);
            wait_seen(cluster, &[0, 1], &[("a", "active"), ("b", "active"), ("c", "failed")])?;
            wait_seen(cluster, &[2], &[("a", "failed"), ("b", "failed"), ("c", "active")])?;
            for node in 0..3 {
                fs::write(cluster.folder(node).join(format!("{round} by {node}")), "apart")?;
            }
            wait("a and b go on", || {
                let crossed = cluster.folder(1).join(format!("{round} by 0")).exists();
                Ok((crossed, ()))
            })?;
            let leaked = cluster.folder(2).join(format!("{round} by 0")).exists();
            ensure!(!leaked, "the cluster was not parted");
            part(cluster, 2, false);
            wait_all_active(cluster)?;
            cluster.wait_agreed(PATIENCE)?;
        }
        Ok(())
    });
}

#[test]
fn nodes_that_come_and_go_all_at_once_leave_a_cluster_that_agrees() {
    let names = ["a", "b", "c", "d", "e", "f"];
    // A ring with every second neighbour.
    let links: Vec<_> =
        (0..6).flat_map(|node| [(node, (node + 1) % 6), (node, (node + 2) % 6)]).collect();
    with_cluster(&names, &links, |cluster| {
        let all = names.map(|name| (name, "active"));
        cluster.start_all()?;
        wait_seen(cluster, &[0, 1, 2, 3, 4, 5], &all)?;
        let before: Vec<u64> = of_all(cluster)?;
        // Three times all but two go at once, killed or in order, and come again at once.
        for (round, staying) in [[0, 3], [1, 4], [2, 5]].into_iter().enumerate() {
            let going: Vec<usize> = (0..6).filter(|node| !staying.contains(node)).collect();
            for &node in &going {
                match (round + node) % 2 {
                    0 => cluster.nodes[node].kill()?,
                    _ => cluster.nodes[node].stop()?,
                }
            }
            fs::write(cluster.folder(staying[0]).join(format!("round {round}")), "meanwhile")?;
            going.iter().try_for_each(|&node| cluster.nodes[node].start())?;
        }
        wait_seen(cluster, &[0, 1, 2, 3, 4, 5], &all)?;
        let after = of_all(cluster)?;
        // Each was started three times in all, and a number that was used is not used again.
        ensure!(before.iter().zip(&after).all(|(before, after)| after > before), "{after:?}");
        cluster.wait_agreed(PATIENCE)
    });
}

/// The incarnation of every node, as its successor sees it.
fn of_all(cluster: &Cluster) -> Result<Vec<u64>> {
    let nodes = &cluster.nodes;
    let seen = |node: usize| incarnation(&nodes[(node + 1) % nodes.len()], nodes[node].id());
    (0..nodes.len()).map(seen).collect()
}
