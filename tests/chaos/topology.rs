//! Who is linked with whom: chains, stars, meshes, late joiners, a source that dies.

use std::fs;

use anyhow::{Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::{Direction, Faults};
use highwater_lab::node::NodeSpec;
use highwater_lab::oracle;
use highwater_lab::status::Status;
use highwater_lab::tree;
use highwater_tests::{highwater, with_cluster};

use crate::PATIENCE;

const MIB: u64 = 1024 * 1024;

/// Every node of a topology writes, and every node ends with everything.
fn everyone_gets_everything(names: &[&str], links: &[(usize, usize)]) {
    with_cluster(names, links, |cluster| {
        for node in 0..names.len() {
            let folder = cluster.folder(node).join(format!("from {node}"));
            fs::create_dir(&folder)?;
            tree::write_lifelike(&folder, 60, node as u64)?;
        }
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        fs::write(cluster.folder(0).join("later"), "written while all were running")?;
        fs::remove_dir_all(cluster.folder(names.len() - 1).join("from 0"))?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(!cluster.folder(0).join("from 0").exists(), "what was deleted is back");
        no_conflicts(cluster)
    });
}

fn no_conflicts(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let status = node.status()?;
        let conflicts: u64 = status.shares.iter().map(|share| share.conflicts).sum();
        ensure!(conflicts == 0, "{} has {conflicts} conflicts", node.spec().name);
    }
    Ok(())
}

#[test]
fn a_chain_carries_every_change_to_its_other_end() {
    everyone_gets_everything(&["a", "b", "c", "d"], &[(1, 0), (2, 1), (3, 2)]);
}

#[test]
fn a_star_carries_every_change_through_its_centre() {
    everyone_gets_everything(&["hub", "x", "y", "z"], &[(1, 0), (2, 0), (3, 0)]);
}

#[test]
fn a_full_mesh_agrees_without_conflicts() {
    everyone_gets_everything(&["a", "b", "c"], &[(1, 0), (2, 0), (2, 1)]);
}

#[test]
fn a_change_crosses_a_mesh_once() {
    const SIZE: u64 = 16 * MIB;
    with_cluster(&["a", "b", "c"], &[(1, 0), (2, 0), (2, 1)], |cluster| {
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        tree::write_file(&cluster.folder(0).join("big"), SIZE, 1)?;
        cluster.wait_agreed(PATIENCE)?;
        let carried: u64 = cluster
            .proxies()
            .map(|proxy| {
                let report = proxy.report();
                report.bytes(Direction::Forward) + report.bytes(Direction::Backward)
            })
            .sum();
        // Two nodes lacked it; a third copy on any link would be one too many.
        ensure!(carried < 2 * SIZE + SIZE / 2, "{carried} bytes crossed for two copies of {SIZE}");
        Ok(())
    });
}

#[test]
fn another_peer_finishes_the_transfer_of_a_source_that_dies() {
    const SIZE: u64 = 48 * MIB;
    with_cluster(&["a", "b", "c"], &[(1, 0), (2, 0), (2, 1)], |cluster| {
        tree::write_file(&cluster.folder(0).join("big"), SIZE, 1)?;
        cluster.nodes[0].start()?;
        cluster.nodes[1].start()?;
        let has_it = |status: &Status| {
            status.share(SHARE).is_some_and(|share| share.entries > 0 && share.needed.entries == 0)
        };
        cluster.nodes[1].wait_until("b has the file", PATIENCE, has_it)?;
        for other in [0, 1] {
            cluster.proxy(2, other).set_both(Faults::rate(12_000_000));
        }
        cluster.nodes[2].start()?;
        let half = |status: &Status| {
            status.transfer("big").is_some_and(|transfer| transfer.acked_offset >= SIZE / 2)
        };
        let status = cluster.nodes[2].wait_until("c has half", PATIENCE, half)?;
        ensure!(!has_it(&status), "the source died too late");
        cluster.nodes[0].kill()?;
        cluster.nodes[2].wait_until("c has the file", PATIENCE, has_it)?;
        let resent = cluster.nodes[2].status()?.counters.content_bytes_resent;
        ensure!(resent <= 4 * MIB, "{resent} bytes were sent again");
        cluster.nodes[0].start()?;
        cluster.wait_agreed(PATIENCE)
    });
}

/// A file was saved as editors do: the old one became the backup, a new one took its name. The node
/// in the middle copied the backup from the old file, and with the old file went the record of its
/// chunks. Whoever asked the node in the middle for the backup heard that it had none.
#[test]
fn what_a_node_copied_within_its_share_can_be_fetched_from_it() {
    const LARGER_THAN_SMALL: u64 = 300_000;
    with_cluster(&["a", "middle", "c"], &[(1, 0), (2, 1)], |cluster| {
        for number in 0..20 {
            let path = cluster.folder(0).join(format!("f{number}"));
            tree::write_file(&path, LARGER_THAN_SMALL, number)?;
        }
        for node in [0, 1] {
            cluster.nodes[node].start()?;
        }
        oracle::wait_equal(&[cluster.folder(0), cluster.folder(1)], PATIENCE)?;
        for number in 0..20 {
            let path = cluster.folder(0).join(format!("f{number}"));
            fs::rename(&path, path.with_extension("backup"))?;
            fs::write(&path, format!("the new one, {number}"))?;
        }
        oracle::wait_equal(&[cluster.folder(0), cluster.folder(1)], PATIENCE)?;
        cluster.nodes[2].start()?;
        cluster.wait_agreed(PATIENCE)
    });
}

#[test]
fn a_node_that_joins_late_gets_everything_and_deletes_stay_deleted() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        tree::write_lifelike(&cluster.folder(0), 200, 1)?;
        fs::write(cluster.folder(0).join("doomed"), "x")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        fs::remove_file(cluster.folder(1).join("doomed"))?;
        cluster.wait_agreed(PATIENCE)?;
        let late = cluster.add_node(NodeSpec::on_loopback(&highwater(), "late")?)?;
        cluster.link(late, 1)?;
        cluster.nodes[late].start()?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(!cluster.folder(late).join("doomed").exists(), "what was deleted is back");
        no_conflicts(cluster)
    });
}

#[test]
fn equal_folders_that_meet_cost_no_conflict_and_no_content() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        for node in [0, 1] {
            fs::write(cluster.folder(node).join("same"), vec![7; 3_000_000])?;
            let file = fs::File::options().append(true).open(cluster.folder(node).join("same"))?;
            file.set_modified(
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
            )?;
        }
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        for node in &cluster.nodes {
            let received = node.status()?.counters.content_bytes_received;
            ensure!(received == 0, "{received} content bytes crossed");
        }
        no_conflicts(cluster)
    });
}
