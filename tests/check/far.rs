//! Nodes that the one that leads is not linked with: those that only others know, and those that more
//! peers than links have left without one.

use std::fs;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::CutKind;
use highwater_lab::{damage, oracle, tree};
use highwater_tests::with_cluster;
use serde_json::{Value, json};

use crate::broken_off::{begin, read_by, until};
use crate::{PATIENCE, check, configure, demand};

const CHAIN: [(usize, usize); 3] = [(1, 0), (2, 1), (3, 2)];
/// The fewest links that a node can be told to keep.
const FEW_LINKS: &str = "[cluster]\nlinks_max = 4";

/// What the report says of a node.
fn row(report: &Value, node: &str) -> Result<Value> {
    let rows = report["nodes"].as_array().context("no nodes")?;
    let row = rows.iter().find(|row| row["node_id"] == node);
    row.cloned().with_context(|| format!("nothing of {node}: {report}"))
}

#[test]
fn a_node_that_only_others_are_linked_with_is_checked_through_them_and_mended() {
    with_cluster(&["a", "b", "c", "d"], &CHAIN, |cluster| {
        tree::write_lifelike(&cluster.folder(0), 60, 4)?;
        tree::write_file(&cluster.folder(0).join("large"), 3 << 20, 1)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        let [b, c, d] = [1, 2, 3].map(|node| cluster.nodes[node].id().to_owned());
        ensure!(row(&report, &b)?["through"].is_null(), "{report}");
        ensure!(row(&report, &d)?["through"] == json!([b, c]), "{report}");
        ensure!(row(&report, &d)?["name"] == "d", "{report}");
        ensure!(row(&report, &d)?["root"] == row(&report, &b)?["root"], "{report}");
        let read = row(&report, &d)?["bytes_hashed"].as_u64();
        ensure!(read > Some(3 << 20), "it did not read again: {report}");

        let before = oracle::read_tree(&cluster.folder(3))?;
        cluster.nodes[3].stop()?;
        damage::rot_unnoticed(&cluster.nodes[3], SHARE, "large", 2_000_000)?;
        cluster.nodes[3].start()?;
        cluster.wait_in_sync(PATIENCE)?;
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 3, "{report}");
        demand(&report, &[("large", "corrupt")])?;
        ensure!(report["differences"][0]["at"] == json!([d]), "{report}");
        let (_, plan) = check(cluster, 0, &["--peer", "d", "--repair", "--dry-run"])?;
        let message = plan["differences"][0]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("d fetches what it has on record again"), "no plan: {plan}");
        let (code, report) = check(cluster, 0, &["--peer", &d, "--repair"])?;
        ensure!(code == 0 && report["differences"][0]["repair"] == "done", "{report}");
        ensure!(report["nodes"].as_array().map(Vec::len) == Some(2), "{report}");
        ensure!(oracle::read_tree(&cluster.folder(3))? == before, "the repair is not what it was");
        Ok(())
    });
}

#[test]
fn a_node_behind_others_that_is_away_makes_the_check_incomplete() {
    with_cluster(&["a", "b", "c"], &CHAIN[..2], |cluster| {
        fs::write(cluster.folder(0).join("text"), "as it is")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let c = cluster.nodes[2].id().to_owned();
        cluster.nodes[2].kill()?;
        let (code, report) = check(cluster, 0, &[])?;
        ensure!(code == 1 && report["outcome"] == "incomplete", "{code}: {report}");
        ensure!(row(&report, &c)?["reachable"] == Value::Bool(false), "{report}");
        ensure!(row(&report, &c)?["name"] == "c", "{report}");
        let said = cluster.nodes[0].try_run(&["check", SHARE])?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(said.contains("incomplete: c "), "{said}");
        cluster.nodes[2].start()?;
        cluster.nodes[2].wait_in_sync(PATIENCE)?;
        let (code, report) = check(cluster, 0, &[])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        Ok(())
    });
}

#[test]
fn a_peer_whose_link_is_cut_is_asked_through_another() {
    with_cluster(&["a", "b", "c"], &[(1, 0), (2, 1), (2, 0)], |cluster| {
        fs::write(cluster.folder(0).join("text"), "as it is")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let [b, c] = [1, 2].map(|node| cluster.nodes[node].id().to_owned());
        cluster.proxy(2, 0).cut(CutKind::Reset);
        wait_connected(cluster, 0, |linked| linked == 1)?;
        let (code, report) = check(cluster, 0, &[])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        ensure!(row(&report, &c)?["through"] == json!([b]), "{report}");
        Ok(())
    });
}

/// A hub that keeps four links and lists six peers, each of which knows nobody else: there is nobody
/// through whom the other two could be asked.
#[test]
fn peers_that_no_link_is_kept_with_are_dialled_for_the_check() {
    let names = ["hub", "b", "c", "d", "e", "f", "g"];
    let star: Vec<(usize, usize)> = (1..names.len()).map(|leaf| (0, leaf)).collect();
    with_cluster(&names, &star, |cluster| {
        configure(cluster, 0, FEW_LINKS)?;
        cluster.start_all()?;
        wait_connected(cluster, 0, |linked| linked >= 4)?;
        let (code, report) = check(cluster, 0, &[])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        ensure!(report["nodes"].as_array().map(Vec::len) == Some(names.len()), "{report}");
        for leaf in 1..names.len() {
            let row = row(&report, cluster.nodes[leaf].id())?;
            ensure!(row["through"].is_null() && row["root"].is_string(), "{row}");
        }
        Ok(())
    });
}

/// Waits until a node's share is connected with so many peers.
fn wait_connected(cluster: &Cluster, node: usize, fits: impl Fn(usize) -> bool) -> Result<()> {
    let connected = |status: &highwater_lab::status::Status| {
        let share = status.share(SHARE);
        let peers = share.map(|share| share.peers.iter().filter(|peer| peer.connected).count());
        peers.is_some_and(&fits)
    };
    cluster.nodes[node].wait_until("the links are as expected", PATIENCE, connected).map(drop)
}

/// A node that is killed while it is asked through another is waited for as any.
#[test]
fn a_node_behind_another_that_is_killed_and_returns_goes_on() {
    with_cluster(&["a", "b", "c"], &CHAIN[..2], |cluster| {
        tree::write_many(&cluster.folder(0), 40, 250_000, 5)?;
        configure(cluster, 2, "[check]\ndeep_rate = \"3MB/s\"")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let path = begin(cluster, 0)?;
        let (c, all) = (cluster.nodes[2].id().to_owned(), 40 * 250_000);
        let told = until(cluster, 0, &path, "the far node reads", |told| read_by(told, &c) > 0)?;
        ensure!(read_by(&told, &c) < all, "the kill would come too late: {told}");
        cluster.nodes[2].kill()?;
        cluster.nodes[2].start()?;
        let told = until(cluster, 0, &path, "it is done", |told| told["state"] == "done")?;
        ensure!(told["identical"] == Value::Bool(true) && read_by(&told, &c) >= all, "{told}");
        Ok(())
    });
}
