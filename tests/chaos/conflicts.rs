//! Conflicts whose sides have not arrived yet: neither side may be lost on the way, and a side that
//! was replaced before it arrived is not waited for.

use std::fs;

use anyhow::ensure;
use highwater_lab::cluster::SHARE;
use highwater_lab::faults::{Direction, Faults};
use highwater_lab::oracle::{self, Found};
use highwater_lab::status::Status;
use highwater_lab::tree;
use highwater_tests::with_cluster;

use crate::PATIENCE;

const KEY: &str = "plan.bin";
const MIB: u64 = 1024 * 1024;
/// A second for each MiB or two: what is large is long under way.
const SLOW: u64 = 1_500_000;

fn head(status: &Status) -> u64 {
    status.share(SHARE).map_or(0, |share| share.head_seq)
}

/// A node in the middle learned of both sides of a conflict before it had the content of either. It
/// fetched the winner, which was small, and announced it as the outcome of both. The other side took
/// that over, and with it went the only copy of the loser, which the node in the middle was still
/// fetching.
#[test]
fn the_loser_of_a_conflict_survives_though_the_node_that_settles_it_has_not_got_it_yet() {
    const LOSER: usize = 0;
    const MIDDLE: usize = 1;
    const WINNER: usize = 2;
    with_cluster(&["loser", "middle", "winner"], &[(MIDDLE, LOSER), (MIDDLE, WINNER)], |cluster| {
        let path = |node: usize| cluster.folder(node).join(KEY);
        let (lost, won) = (path(LOSER), path(WINNER));
        cluster.nodes[LOSER].start()?;
        tree::write_file(&lost, 24 * MIB, 1)?;
        cluster.nodes[LOSER].wait_until("it is recorded", PATIENCE, |s| head(s) >= 1)?;
        cluster.nodes[WINNER].start()?;
        fs::write(&won, "the later one")?;
        cluster.nodes[WINNER].wait_until("it is recorded", PATIENCE, |s| head(s) >= 1)?;
        let loser = oracle::read_tree(&cluster.folder(LOSER))?;
        cluster.proxy(MIDDLE, LOSER).set_both(Faults::rate(SLOW));
        cluster.nodes[MIDDLE].start()?;
        cluster.wait_agreed(PATIENCE)?;
        let all = oracle::read_tree(&cluster.folder(MIDDLE))?;
        let hash = |found: &Found| match found {
            Found::File { hash, .. } => Some(hash.clone()),
            _ => None,
        };
        for kept in loser.values().filter_map(hash) {
            let survives = all.values().filter_map(hash).any(|found| found == kept);
            ensure!(survives, "the loser is nowhere; there is {all:#?}");
        }
        Ok(())
    });
}

/// One side of a conflict was replaced by its own author before the other node could fetch it, and
/// before the author knew of the conflict. Its content was nowhere any more, and was waited for as a
/// conflict copy for ever: the share never came into sync again.
#[test]
fn a_side_of_a_conflict_that_was_replaced_before_it_was_fetched_is_not_waited_for() {
    const A: usize = 0;
    const B: usize = 1;
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        let (of_a, of_b) = (cluster.folder(A).join(KEY), cluster.folder(B).join(KEY));
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        // What A says arrives; what B says does not.
        cluster.proxy(A, B).set(Direction::Forward, Faults::frozen());
        fs::write(&of_b, "of b")?;
        cluster.nodes[B].wait_until("it is recorded", PATIENCE, |s| head(s) >= 1)?;
        for (text, heads) in [("of a", 1), ("of a, replaced", 2)] {
            fs::write(&of_a, text)?;
            cluster.nodes[A].wait_until("it is recorded", PATIENCE, |s| head(s) >= heads)?;
            let knows = |status: &Status| {
                let share = status.share(SHARE);
                share.is_some_and(|share| share.peers[0].pull.acked_seq >= heads)
            };
            cluster.nodes[B].wait_until("it is known", PATIENCE, knows)?;
        }
        cluster.proxy(A, B).set(Direction::Forward, Faults::default());
        cluster.wait_agreed(PATIENCE)
    });
}
