//! Damage that nothing but reading everything again can notice.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::damage::{self, DamageOptions};
use highwater_lab::{oracle, tree};
use highwater_tests::{highwater, with_cluster};
use serde_json::{Value, json};

use crate::{MESH, PATIENCE, check, demand};

/// Changes one byte in place, and puts the modification time back.
fn rot(path: &Path, at: u64) -> Result<()> {
    let modified = fs::metadata(path)?.modified()?;
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(file.set_times(fs::FileTimes::new().set_modified(modified))?)
}

#[test]
fn every_damage_is_named_with_its_node_and_kind_and_nothing_else_is() {
    let options =
        DamageOptions { exe: highwater(), seed: 20_261_123, rounds: 3, each: 34, flips: 0 };
    let report = damage::run(&options).expect("the rounds came to their end");
    assert!(report.held(), "{report:#?}");
    assert_eq!(report.damages.len(), 15, "a kind of damage was never inflicted: {report:#?}");
}

#[test]
fn a_bit_that_flips_in_a_store_changes_no_file_and_fools_no_check() {
    let options =
        DamageOptions { exe: highwater(), seed: 20_261_124, rounds: 0, each: 0, flips: 8 };
    let report = damage::run(&options).expect("the rounds came to their end");
    assert!(report.held(), "{report:#?}");
    assert_eq!(report.store_flips.values().sum::<u64>(), 8, "{report:#?}");
}

/// A byte that changes in a running node, with size and time preserved, used to be taken for an edit
/// and sent to everybody.
#[test]
fn bytes_that_change_behind_their_facts_are_held_reported_and_mended_and_never_spread() {
    with_cluster(&["a", "b", "c"], &MESH, |cluster| {
        tree::write_file(&cluster.folder(0).join("large"), 3 << 20, 1)?;
        fs::write(cluster.folder(0).join("small"), "a few bytes")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let before = oracle::read_tree(&cluster.folder(0))?;
        for (name, at) in [("large", 2_000_000), ("small", 3)] {
            rot(&cluster.folder(2).join(name), at)?;
        }
        cluster.nodes[2].wait_until("the damage is told", PATIENCE, |status| {
            let share = status.share(SHARE);
            share.is_some_and(|share| {
                share.problems.iter().filter(|problem| problem.kind == "corrupt").count() == 2
            })
        })?;
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 3, "{report}");
        demand(&report, &[("large", "corrupt"), ("small", "corrupt")])?;
        let rows = report["differences"].as_array().cloned().unwrap_or_default();
        for row in &rows {
            ensure!(row["at"] == json!([cluster.nodes[2].id()]), "{row}");
        }
        let (from, to) = (rows[0]["range"][0].as_u64(), rows[0]["range"][1].as_u64());
        let holds =
            from.is_some_and(|from| from <= 2_000_000) && to.is_some_and(|to| to > 2_000_000);
        ensure!(holds, "the range does not hold the damage: {}", rows[0]);
        for node in [0, 1] {
            ensure!(oracle::read_tree(&cluster.folder(node))? == before, "it spread to {node}");
        }
        let (_, plan) = check(cluster, 1, &["--repair", "--dry-run"])?;
        ensure!(plan["differences"][0]["repair"] == "planned", "{plan}");
        ensure!(oracle::read_tree(&cluster.folder(2))? != before, "a dry run repaired");
        let (code, report) = check(cluster, 1, &["--repair"])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        cluster.wait_agreed(PATIENCE)?;
        ensure!(oracle::read_tree(&cluster.folder(2))? == before, "the repair is not what it was");
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 0 && report["differences"] == json!([]), "{report}");
        Ok(())
    });
}

/// Whoever edits what was damaged wins: the edit goes out, and nothing is fetched over it.
#[test]
fn an_edit_of_a_damaged_file_is_an_edit() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join("text"), "as it was")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        rot(&cluster.folder(1).join("text"), 2)?;
        let (code, report) = check(cluster, 1, &["--deep"])?;
        ensure!(code == 3, "{report}");
        fs::write(cluster.folder(1).join("text"), "as it is to be")?;
        cluster.wait_agreed(PATIENCE)?;
        let (code, report) = check(cluster, 0, &["--deep", "--repair"])?;
        ensure!(code == 0, "{report}");
        ensure!(fs::read_to_string(cluster.folder(0).join("text"))? == "as it is to be");
        Ok(())
    });
}

#[test]
fn where_nobody_has_the_right_bytes_nothing_is_changed_and_it_is_said() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join("text"), "as it was")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        rot(&cluster.folder(0).join("text"), 1)?;
        rot(&cluster.folder(1).join("text"), 2)?;
        let trees = [0, 1].map(|node| oracle::read_tree(&cluster.folder(node)));
        let (code, report) = check(cluster, 0, &["--deep", "--repair"])?;
        ensure!(code == 3, "{report}");
        demand(&report, &[("text", "corrupt")])?;
        let row = &report["differences"][0];
        ensure!(row["at"].as_array().is_some_and(|at| at.len() == 2), "{row}");
        ensure!(row["repair"] == "none", "{row}");
        for (node, tree) in trees.into_iter().enumerate() {
            ensure!(oracle::read_tree(&cluster.folder(node))? == tree?, "{node} was changed");
        }
        Ok(())
    });
}

#[test]
fn two_of_four_nodes_damaged_differently_are_each_named_and_mended_from_the_others() {
    let links = [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2)];
    with_cluster(&["a", "b", "c", "d"], &links, |cluster| {
        tree::write_lifelike(&cluster.folder(0), 60, 4)?;
        tree::write_file(&cluster.folder(0).join("one"), 500_000, 1)?;
        tree::write_file(&cluster.folder(0).join("two"), 70_000, 2)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        rot(&cluster.folder(1).join("one"), 7)?;
        rot(&cluster.folder(1).join("two"), 7)?;
        rot(&cluster.folder(3).join("two"), 60_000)?;
        let (_, report) = check(cluster, 2, &["--deep"])?;
        demand(&report, &[("one", "corrupt"), ("two", "corrupt")])?;
        let ids = |nodes: &[usize]| {
            let mut ids: Vec<String> =
                nodes.iter().map(|node| cluster.nodes[*node].id().to_owned()).collect();
            ids.sort();
            ids
        };
        for (row, nodes) in [(0, ids(&[1])), (1, ids(&[1, 3]))] {
            let at = report["differences"][row]["at"].as_array().cloned().unwrap_or_default();
            let mut at: Vec<String> =
                at.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
            at.sort();
            ensure!(at == nodes, "{report}");
        }
        let (code, report) = check(cluster, 0, &["--repair"])?;
        ensure!(code == 0, "{report}");
        cluster.wait_agreed(PATIENCE)
    });
}
