//! Trees of the size that people have.

use std::fs;

use anyhow::ensure;
use highwater_lab::faults::CutKind;
use highwater_lab::status::Status;
use highwater_lab::{oracle, tree};
use highwater_tests::with_cluster;

use crate::LONG_PATIENCE;

#[test]
fn a_tree_of_more_than_twenty_thousand_files_arrives_whole_over_a_link_that_breaks() {
    const FILES: u64 = 20_500;
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        tree::write_lifelike(&cluster.folder(0), FILES, 1)?;
        cluster.start_all()?;
        for part in [FILES / 8, FILES / 2] {
            let reached = |status: &Status| status.counters.entries_applied >= part;
            let status = cluster.nodes[1].wait_until("some are here", LONG_PATIENCE, reached)?;
            ensure!(status.counters.entries_applied < FILES, "the link broke too late");
            cluster.proxy(0, 1).sever(CutKind::Reset);
        }
        cluster.wait_agreed(LONG_PATIENCE)?;
        let entries = oracle::read_tree(&cluster.folder(1))?.len() as u64;
        ensure!(entries > FILES, "only {entries} entries");
        let resent = cluster.nodes[1].status()?.counters.content_bytes_resent;
        ensure!(resent < 4 * 1024 * 1024, "{resent} content bytes were sent again");
        fs::remove_dir_all(cluster.folder(1).join("empty"))?;
        cluster.wait_agreed(LONG_PATIENCE)
    });
}
