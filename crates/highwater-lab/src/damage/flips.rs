//! A bit that flips in a file of a stopped node's store.
//!
//! The node either starts, on what it takes for an older copy of its store, or ends and names the
//! store. Whatever it does, nobody's files change, and the check is not fooled: it calls copies
//! identical only when all nodes answered, and those of one content on disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{DamageReport, PATIENCE, check};
use crate::cluster::{Cluster, SHARE};
use crate::dice::Dice;
use crate::node::clone_home;
use crate::oracle::{self, Tree};

/// Flips one bit of one node, and judges what node and check make of it. The node is left as it was.
pub(super) fn one_flip(
    cluster: &mut Cluster,
    dice: &mut Dice,
    report: &mut DamageReport,
) -> Result<()> {
    let victim = dice.below(3) as usize;
    let leader = (victim + dice.between(1, 2) as usize) % 3;
    let before = oracle::read_tree(&cluster.folder(victim))?;
    cluster.nodes[victim].stop()?;
    let store = cluster.nodes[victim].home().join("store");
    let aside = cluster.dir().join("store-aside");
    clone_home(&store, &aside)?;
    let flipped = flip_one(&store, dice)?;
    fs::write(cluster.nodes[victim].log_path(), "")?;
    let name = if cluster.nodes[victim].start().is_ok() {
        after_a_start(cluster, victim, leader, &before)
    } else {
        after_a_refusal(cluster, victim, leader, &before).and_then(|name| {
            cluster.nodes[victim].kill()?;
            // As its owner would: the store is put back.
            fs::remove_dir_all(&store)?;
            clone_home(&aside, &store)?;
            cluster.nodes[victim].start()?;
            Ok(name)
        })
    };
    let name = name.with_context(|| format!("a bit flipped at {flipped}"))?;
    fs::remove_dir_all(&aside)?;
    *report.store_flips.entry(name.to_owned()).or_default() += 1;
    cluster.wait_agreed(PATIENCE)?;
    let healed = oracle::read_tree(&cluster.folder(victim))?;
    report.ill_repaired.extend(oracle::differences(&before, &healed));
    Ok(())
}

/// Which bit of which file was flipped: any of those that hold something.
fn flip_one(store: &Path, dice: &mut Dice) -> Result<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for file in fs::read_dir(store)? {
        let file = file?;
        if file.file_type()?.is_file() && file.metadata()?.len() > 0 {
            files.push(file.path());
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "there is no store in {}", store.display());
    let path = dice.pick(&files);
    let mut bytes = fs::read(path)?;
    let at = dice.below(bytes.len() as u64) as usize;
    // A database file is longer than what is in it, and nobody reads its zeros.
    let at = bytes[at..].iter().position(|&byte| byte != 0).map_or(at, |on| at + on);
    bytes[at] ^= 1 << dice.below(8);
    fs::write(path, &bytes)?;
    Ok(format!("{at} of {}", path.display()))
}

/// It serves. Either its share does as well, and what the check says is what lies on the disks; or
/// the share stands still, and the check says that it did not see this copy.
fn after_a_start(
    cluster: &Cluster,
    victim: usize,
    leader: usize,
    before: &Tree,
) -> Result<&'static str> {
    let status =
        cluster.nodes[victim].wait_until("the share is up or in error", PATIENCE, |it| {
            it.share(SHARE).is_some_and(|share| share.state == "error") || it.in_sync()
        })?;
    let stands = status.share(SHARE).is_some_and(|share| share.state == "error");
    let kept = oracle::differences(before, &oracle::read_tree(&cluster.folder(victim))?);
    ensure!(kept.is_empty(), "files of its user changed: {kept:?}");
    if stands {
        demand_incomplete(cluster, victim, leader)?;
        return Ok("its share stood still");
    }
    cluster.wait_in_sync(PATIENCE)?;
    let told = check(cluster, leader, &["--deep"])?;
    let trees = [0, 1, 2].map(|node| oracle::read_tree(&cluster.folder(node)));
    let [one, two, three] = trees;
    let (one, two, three) = (one?, two?, three?);
    let equal =
        oracle::differences(&one, &two).is_empty() && oracle::differences(&one, &three).is_empty();
    ensure!(told["identical"] == Value::Bool(equal), "the folders are equal: {equal}; {told}");
    Ok("it started")
}

/// It does not serve: it has said of which file and what to do, and a check counts it as missing.
fn after_a_refusal(
    cluster: &Cluster,
    victim: usize,
    leader: usize,
    before: &Tree,
) -> Result<&'static str> {
    let node = &cluster.nodes[victim];
    let log = fs::read_to_string(node.log_path())?;
    let last = log.lines().last().unwrap_or_default();
    let store = node.home().join("store");
    let named = store.to_str().is_some_and(|store| last.contains(store));
    ensure!(
        named && last.starts_with("highwater: "),
        "it ended, and does not name its store: {last}"
    );
    let kept = oracle::differences(before, &oracle::read_tree(&cluster.folder(victim))?);
    ensure!(kept.is_empty(), "files of its user changed: {kept:?}");
    demand_incomplete(cluster, victim, leader)?;
    Ok("it refused its store")
}

/// A check without one copy is never "identical", and names whose copy it did not see.
fn demand_incomplete(cluster: &Cluster, victim: usize, leader: usize) -> Result<()> {
    let output = cluster.nodes[leader].try_run(&["check", SHARE, "--json", "--deep"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value =
        serde_json::from_str(&said).with_context(|| format!("the report is not JSON: {said}"))?;
    let code = output.status.code();
    ensure!(code != Some(0), "a check that misses a copy ended with 0: {report}");
    ensure!(report["identical"] != Value::Bool(true), "identical without a copy: {report}");
    ensure!(said.contains(cluster.nodes[victim].id()), "it is not said who is missing: {report}");
    Ok(())
}
