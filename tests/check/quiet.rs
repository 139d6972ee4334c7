//! Checks where nothing is wrong, and those that nobody asks for.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::dice::Dice;
use highwater_lab::{http, oracle, tree};
use highwater_tests::with_cluster;
use serde_json::Value;

use crate::{MESH, PATIENCE, check, configure};

#[test]
fn identical_copies_cost_one_question_and_hash_alike_everywhere() {
    with_cluster(&["a", "b", "c"], &MESH, |cluster| {
        tree::write_lifelike(&cluster.folder(0), 500, 9)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let mut roots = Vec::new();
        for node in 0..3 {
            let (code, report) = check(cluster, node, &[])?;
            ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
            let wire = report["wire_bytes"].as_u64().context("no wire bytes")?;
            ensure!(wire < 1024, "{wire} bytes for nothing: {report}");
            let root = cluster.nodes[node].run(&["hash", "--share", SHARE])?;
            ensure!(report["nodes"][0]["root"] == root.split(' ').next().unwrap_or(""), "{root}");
            roots.push(root);
        }
        ensure!(roots.windows(2).all(|pair| pair[0] == pair[1]), "{roots:?}");
        fs::write(cluster.folder(1).join("one more"), "x")?;
        cluster.wait_agreed(PATIENCE)?;
        let root = cluster.nodes[2].run(&["hash", "--share", SHARE])?;
        ensure!(root != roots[0], "the root does not tell one file more");
        Ok(())
    });
}

/// People write, replace and delete all the time; a check may say that things are on their way, and
/// nothing else.
#[test]
fn nothing_is_reported_falsely_while_people_write() {
    /// Files that are written again and again.
    const WRITTEN: u64 = 1000;
    with_cluster(&["a", "b", "c"], &MESH, |cluster| {
        tree::write_lifelike(&cluster.folder(0), 200, 9)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let folders: Vec<_> = (0..3).map(|node| cluster.folder(node)).collect();
        let (stop, written) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| -> Result<()> {
                let mut dice = Dice::new(3);
                while !stop.load(Ordering::Relaxed) {
                    // One folder at a time, so that nothing is in conflict.
                    let folder = &folders[0];
                    // Among so many that each rests for a moment: whoever writes the same few without a
                    // pause keeps a check waiting for as long as it waits at all.
                    let path = folder.join(format!("w{}", dice.below(WRITTEN)));
                    match dice.below(4) {
                        0 => drop(fs::remove_file(&path)),
                        _ => fs::write(&path, dice.bytes(dice.clone().below(9000) as usize))?,
                    }
                    written.store(true, Ordering::Relaxed);
                    thread::yield_now();
                }
                Ok(())
            });
            let outcome = (0..6).try_for_each(|round| {
                let how: &[&str] = if round % 2 == 0 { &["--deep"] } else { &[] };
                let (code, report) = check(cluster, round % 3, how)?;
                ensure!(code == 0, "a false report: {report}");
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            outcome
        })?;
        ensure!(written.load(Ordering::Relaxed), "nobody wrote");
        cluster.wait_agreed(PATIENCE)?;
        let (code, report) = check(cluster, 1, &["--deep"])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        oracle::demand_equal(&folders)
    });
}

/// A disk that rots is noticed in the background, mended from a peer, and told of.
#[test]
fn a_scrub_finds_rot_mends_it_and_is_told_in_the_status() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        tree::write_many(&cluster.folder(0), 30, 5000, 5)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let before = oracle::read_tree(&cluster.folder(1))?;
        cluster.nodes[1].stop()?;
        let rotten = cluster.folder(1).join("d0000/f000007");
        highwater_lab::damage::rot_unnoticed(&cluster.nodes[1], SHARE, "d0000/f000007", 77)?;
        ensure!(oracle::read_tree(&cluster.folder(1))? != before, "nothing was damaged");
        configure(cluster, 1, "[check]\nscrub_interval = \"3s\"")?;
        cluster.nodes[1].start()?;
        let http = cluster.nodes[1].spec().http;
        let scrubbed = || -> Result<Value> {
            let status: Value = serde_json::from_slice(&http::get(http, "/api/v1/status")?)?;
            Ok(status["shares"][0]["check"]["scrub"].clone())
        };
        let began = std::time::Instant::now();
        while scrubbed()?["differences"] != 1 {
            ensure!(began.elapsed() < PATIENCE, "no scrub found it: {}", scrubbed()?);
            thread::sleep(std::time::Duration::from_millis(50));
        }
        ensure!(oracle::read_tree(&cluster.folder(1))? == before, "it was not mended");
        ensure!(fs::File::open(rotten)?.read_at(&mut [0], 77)? == 1);
        let id = scrubbed()?["id"].as_str().context("no id")?.to_owned();
        let report: Value =
            serde_json::from_slice(&http::get(http, &format!("/api/v1/checks/{id}"))?)?;
        ensure!(report["differences"][0]["kind"] == "corrupt", "{report}");
        ensure!(report["differences"][0]["repair"] == "done", "{report}");
        Ok(())
    });
}
