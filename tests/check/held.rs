//! What differs on purpose: it is named, with the policy that holds it.

use std::fs;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_tests::with_cluster;
use serde_json::Value;

use crate::{PATIENCE, check, demand};

fn held(report: &Value) -> Result<&str> {
    report["differences"][0]["held"].as_str().with_context(|| format!("not held: {report}"))
}

#[test]
fn a_change_in_a_receive_only_share_is_held_by_policy() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let config = cluster.nodes[1].home().join("config.toml");
        let text = fs::read_to_string(&config)?;
        let (before, after) = text.split_once("[[share]]").context("no share")?;
        fs::write(&config, format!("{before}[[share]]\nmode = \"receive-only\"{after}")).and_then(
            |()| {
                let text = fs::read_to_string(&config)?;
                fs::write(&config, text.replace("mode = \"send-receive\"\n", ""))
            },
        )?;
        fs::write(cluster.folder(0).join("rules"), "of the house")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        fs::write(cluster.folder(1).join("rules"), "of mine")?;
        cluster.nodes[1].wait_until("the change is noted", PATIENCE, |status| {
            status.share(SHARE).is_some_and(|share| !share.problems.is_empty())
        })?;
        let (code, report) = check(cluster, 0, &["--deep", "--repair"])?;
        ensure!(code == 3, "{report}");
        demand(&report, &[("rules", "content")])?;
        ensure!(held(&report)? == "receive-only", "{report}");
        ensure!(fs::read_to_string(cluster.folder(1).join("rules"))? == "of mine", "overwritten");
        Ok(())
    });
}

#[test]
fn what_a_send_only_node_does_not_take_in_is_held_by_policy() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let config = cluster.nodes[0].home().join("config.toml");
        let text = fs::read_to_string(&config)?.replace("mode = \"send-receive\"\n", "");
        fs::write(&config, text.replacen("[[share]]", "[[share]]\nmode = \"send-only\"", 1))?;
        fs::write(cluster.folder(0).join("ours"), "x")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        fs::write(cluster.folder(1).join("theirs"), "y")?;
        let sees = |status: &highwater_lab::status::Status| {
            status.share(SHARE).is_some_and(|share| share.entries == 2)
        };
        cluster.nodes[1].wait_until("the file is on record", PATIENCE, sees)?;
        let (code, report) = check(cluster, 1, &[])?;
        ensure!(code == 3, "{report}");
        demand(&report, &[("theirs", "missing")])?;
        ensure!(held(&report)? == "send-only", "{report}");
        Ok(())
    });
}

/// The rules travel with the share, so what is ignored is asked of nobody and differs nowhere.
#[test]
fn what_is_ignored_everywhere_is_no_difference() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join(".highwaterignore"), "*.tmp\n")?;
        fs::write(cluster.folder(0).join("kept"), "x")?;
        fs::write(cluster.folder(0).join("one.tmp"), "only here")?;
        cluster.start_all()?;
        cluster.nodes[1].wait_in_sync(PATIENCE)?;
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        Ok(())
    });
}
