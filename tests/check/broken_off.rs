//! Checks that are cut, that lose a node, and that outlive the node that leads them.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::CutKind;
use highwater_lab::http;
use highwater_lab::tree;
use highwater_tests::with_cluster;
use serde_json::{Value, json};

use crate::{MESH, PATIENCE, check, configure};

/// So large, and read so slowly, that a check can be broken off in its middle.
const FILES: u64 = 40;
const FILE_BYTES: usize = 250_000;
const SLOWLY: &str = "[check]\ndeep_rate = \"3MB/s\"";

/// A cluster whose second node reads slowly, in agreement.
fn with_slow_reader(story: impl FnOnce(&mut Cluster) -> Result<()>) {
    with_cluster(&["a", "b", "c"], &MESH, |cluster| {
        tree::write_many(&cluster.folder(0), FILES, FILE_BYTES, 5)?;
        configure(cluster, 1, SLOWLY)?;
        configure(cluster, 0, SLOWLY)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        story(cluster)
    });
}

/// Begins a deep check over HTTP; where its report is.
pub(crate) fn begin(cluster: &Cluster, node: usize) -> Result<String> {
    let http = cluster.nodes[node].spec().http;
    let order = json!({"share": SHARE, "deep": true});
    let begun = http::post(http, "/api/v1/checks", &order)?;
    let report: Value = serde_json::from_slice(&begun)?;
    Ok(format!("/api/v1/checks/{}", report["id"].as_str().context("no id")?))
}

fn report(cluster: &Cluster, node: usize, path: &str) -> Result<Value> {
    let answer = http::get(cluster.nodes[node].spec().http, path)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Waits until the report of the check fits.
pub(crate) fn until(
    cluster: &Cluster,
    node: usize,
    path: &str,
    what: &str,
    fits: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let began = Instant::now();
    loop {
        let told = report(cluster, node, path);
        if let Ok(told) = &told
            && fits(told)
        {
            return Ok(told.clone());
        }
        if began.elapsed() > PATIENCE {
            bail!("waiting until {what}: {told:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

pub(crate) fn read_by(report: &Value, node: &str) -> u64 {
    let rows = report["nodes"].as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["node_id"] == node);
    row.and_then(|row| row["bytes_hashed"].as_u64()).unwrap_or(0)
}

#[test]
fn a_deep_check_that_is_cut_in_its_middle_goes_on_where_it_was() {
    with_slow_reader(|cluster| {
        let path = begin(cluster, 0)?;
        let b = cluster.nodes[1].id().to_owned();
        let all = FILES * FILE_BYTES as u64;
        let told = until(cluster, 0, &path, "the peer reads", |told| read_by(told, &b) > 0)?;
        ensure!(read_by(&told, &b) < all, "the cut would come too late: {told}");
        cluster.proxy(0, 1).cut(CutKind::Silent);
        std::thread::sleep(std::time::Duration::from_secs(2));
        cluster.proxy(0, 1).heal();
        let told = until(cluster, 0, &path, "it is done", |told| told["state"] == "done")?;
        ensure!(told["identical"] == Value::Bool(true), "{told}");
        ensure!(read_by(&told, &b) == all, "the peer read {} of {all}", read_by(&told, &b));
        Ok(())
    });
}

#[test]
fn a_deep_check_goes_on_when_a_node_is_killed_and_returns() {
    with_slow_reader(|cluster| {
        let path = begin(cluster, 0)?;
        let b = cluster.nodes[1].id().to_owned();
        let all = FILES * FILE_BYTES as u64;
        let some = |told: &Value| read_by(told, &b) > all / 3;
        let told = until(cluster, 0, &path, "the peer has read a third", some)?;
        let (before, pid) = (read_by(&told, &b), cluster.nodes[1].pid());
        ensure!(before < all, "the kill would come too late: {told}");
        cluster.nodes[1].kill()?;
        cluster.nodes[1].start()?;
        ensure!(cluster.nodes[1].pid() != pid, "it was not killed");
        let told = until(cluster, 0, &path, "it is done", |told| told["state"] == "done")?;
        ensure!(told["identical"] == Value::Bool(true), "{told}");
        ensure!(read_by(&told, &b) >= all, "{told}");
        // The position is recorded every second: that much and a file may be read twice.
        let twice = 3_000_000 + 2 * FILE_BYTES as u64;
        ensure!(read_by(&told, &b) <= all + twice, "it began anew: {told}");
        Ok(())
    });
}

#[test]
fn a_check_outlives_the_node_that_leads_it() {
    with_slow_reader(|cluster| {
        let path = begin(cluster, 0)?;
        let a = cluster.nodes[0].id().to_owned();
        let told = until(cluster, 0, &path, "it reads", |told| read_by(told, &a) > 0)?;
        ensure!(told["state"] == "running", "the stop would come too late: {told}");
        cluster.nodes[0].stop()?;
        cluster.nodes[0].start()?;
        let told = until(cluster, 0, &path, "it is done", |told| told["state"] == "done")?;
        ensure!(told["identical"] == Value::Bool(true), "{told}");
        Ok(())
    });
}

#[test]
fn a_node_that_is_away_makes_the_check_incomplete_and_never_identical() {
    with_cluster(&["a", "b", "c"], &MESH, |cluster| {
        tree::write_many(&cluster.folder(0), 20, 1000, 5)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        cluster.nodes[2].stop()?;
        let (code, report) = check(cluster, 0, &[])?;
        ensure!(code == 1 && report["outcome"] == "incomplete", "{code}: {report}");
        ensure!(report["identical"] == Value::Bool(false), "{report}");
        let away = cluster.nodes[2].id();
        let rows = report["nodes"].as_array().context("no nodes")?;
        for row in rows {
            ensure!(row["reachable"] == Value::Bool(row["node_id"] != away), "{report}");
        }
        // Of those that are asked about, all are there.
        let (code, report) = check(cluster, 0, &["--peer", cluster.nodes[1].id()])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        Ok(())
    });
}
