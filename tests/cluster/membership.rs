//! Every node knows every other, on every node alike.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_lab::cluster::Cluster;
use highwater_lab::node::Node;
use highwater_tests::with_cluster;
use serde_json::Value;

/// Far longer than anything here takes; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(crate) const MESH: [(usize, usize); 3] = [(0, 1), (1, 2), (2, 0)];

pub(crate) fn ask(node: &Node, args: &[&str]) -> Result<Value> {
    let said = node.run(&[args, &["--json"]].concat())?;
    serde_json::from_str(&said).with_context(|| format!("{args:?} said {said:?}"))
}

/// How a node sees the cluster: states by name.
pub(crate) fn states(node: &Node) -> Result<BTreeMap<String, String>> {
    let nodes = ask(node, &["cluster", "nodes"])?;
    let nodes = nodes["nodes"].as_object().context("nodes")?.clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let state =
        |node: &Value| (text(&node["config"]["metadata"]["name"]), text(&node["config"]["status"]));
    Ok(nodes.values().map(state).collect())
}

pub(crate) fn expected(states: &[(&str, &str)]) -> BTreeMap<String, String> {
    states.iter().map(|(name, state)| (name.to_string(), state.to_string())).collect()
}

/// Waits until each of `nodes` sees just these states.
pub(crate) fn wait_seen(
    cluster: &Cluster,
    nodes: &[usize],
    states_wanted: &[(&str, &str)],
) -> Result<()> {
    let wanted = expected(states_wanted);
    wait(&format!("{nodes:?} see {wanted:?}"), || {
        let seen = nodes.iter().map(|node| states(&cluster.nodes[*node]));
        let seen = seen.collect::<Result<Vec<_>>>()?;
        Ok((seen.iter().all(|seen| *seen == wanted), seen))
    })
}

pub(crate) fn wait<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> Result<(bool, T)>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (holds, seen) = look()?;
        if holds {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} until {what}; last seen: {seen:#?}");
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until all three see all three at work.
pub(crate) fn wait_all_active(cluster: &Cluster) -> Result<()> {
    wait_seen(cluster, &[0, 1, 2], &[("a", "active"), ("b", "active"), ("c", "active")])
}

pub(crate) fn incarnation(node: &Node, about: &str) -> Result<u64> {
    let nodes = ask(node, &["cluster", "nodes"])?;
    nodes["nodes"][about]["config"]["metadata"]["incarnation"].as_u64().context("incarnation")
}

#[test]
fn every_node_sees_every_other_and_a_killed_one_fails_and_comes_back_to_its_place() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        let all = [("a", "active"), ("b", "active"), ("c", "active")];
        wait_seen(cluster, &[0, 1, 2], &all)?;
        let lost = cluster.nodes[2].id().to_owned();
        let before = incarnation(&cluster.nodes[0], &lost)?;
        cluster.nodes[2].kill()?;
        wait_seen(cluster, &[0, 1], &[("a", "active"), ("b", "active"), ("c", "failed")])?;
        cluster.nodes[2].start()?;
        wait_seen(cluster, &[0, 1, 2], &all)?;
        let after = incarnation(&cluster.nodes[0], &lost)?;
        ensure!(after > before, "its incarnation is {after} after {before}");
        Ok(())
    });
}

#[test]
fn a_node_that_was_removed_stays_removed_until_it_is_added_again() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        let all = [("a", "active"), ("b", "active"), ("c", "active")];
        wait_seen(cluster, &[0, 1, 2], &all)?;
        let id = cluster.nodes[2].id().to_owned();
        let refused = cluster.nodes[0].try_run(&["cluster", "remove", &id])?;
        ensure!(refused.status.code() == Some(1), "a node that works was removed");
        cluster.nodes[2].kill()?;
        wait_seen(cluster, &[0, 1], &[("a", "active"), ("b", "active"), ("c", "failed")])?;
        cluster.nodes[0].run(&["cluster", "remove", &id])?;
        let without = [("a", "active"), ("b", "active"), ("c", "left")];
        wait_seen(cluster, &[0, 1], &without)?;
        // It is refused at the door, and its files stay its own.
        fs::write(cluster.folder(2).join("from-c"), "c")?;
        cluster.nodes[2].start()?;
        fs::write(cluster.folder(0).join("from-a"), "a")?;
        wait("b has what a wrote", || Ok((cluster.folder(1).join("from-a").exists(), ())))?;
        wait_seen(cluster, &[0, 1], &without)?;
        // Whoever removed it need not be there: a restarted node remembers.
        cluster.nodes[1].stop()?;
        cluster.nodes[1].start()?;
        wait_seen(cluster, &[0, 1], &without)?;
        ensure!(!cluster.folder(1).join("from-c").exists(), "a removed node was listened to");
        cluster.nodes[0].run(&["peer", "add", &id])?;
        wait_seen(cluster, &[0, 1, 2], &all)?;
        cluster.wait_agreed(PATIENCE)
    });
}

#[test]
fn all_nodes_tell_the_same_figures_which_are_counted_from_real_requests() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        fs::write(cluster.folder(0).join("small"), "hello")?;
        fs::write(cluster.folder(1).join("large"), vec![7; 3 << 20])?;
        cluster.wait_agreed(PATIENCE)?;
        let figures = |node: &Node| -> Result<Value> {
            let mut status = ask(node, &["cluster", "status"])?["status"].take();
            status.as_object_mut().context("status")?.remove("last_updated");
            Ok(status)
        };
        wait("all tell the same", || {
            let told = cluster.nodes.iter().map(figures).collect::<Result<Vec<_>>>()?;
            let alike = told.windows(2).all(|pair| pair[0] == pair[1]);
            let counted = told[0]["total_requests"].as_u64() >= Some(4)
                && told[0]["total_nodes"] == 3
                && told[0]["average_response_time"].as_f64() > Some(0.0);
            Ok((alike && counted, told))
        })
    });
}

#[test]
fn members_that_are_no_peers_of_each_other_know_each_other_through_others() {
    with_cluster(&["a", "b", "c", "d"], &[(0, 1), (1, 2), (2, 3)], |cluster| {
        cluster.start_all()?;
        let all = [("a", "active"), ("b", "active"), ("c", "active"), ("d", "active")];
        wait_seen(cluster, &[0, 1, 2, 3], &all)?;
        cluster.nodes[3].kill()?;
        let without = [("a", "active"), ("b", "active"), ("c", "active"), ("d", "failed")];
        wait_seen(cluster, &[0, 1, 2], &without)
    });
}
