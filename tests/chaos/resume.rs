//! A transfer is broken in every way at every place, and goes on where it was acknowledged.
//!
//! B dials A, which has the file: content travels backward over the link, acknowledgements forward.
//! The proof that a fault fell inside the transfer is what B had acknowledged; the proof that
//! nothing was sent twice is the proxy's own count of what it delivered, beside B's counters.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::{CutKind, Direction, Faults, Flip, Survivors};
use highwater_lab::node::Node;
use highwater_lab::status::Status;
use highwater_lab::tree;
use highwater_tests::with_cluster;

use crate::PATIENCE;

const A: usize = 0;
const B: usize = 1;
const KEY: &str = "big.bin";
const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 64 * MIB;
/// Slow enough that a fault meant for a place falls there.
const RATE: u64 = 24_000_000;
/// Most content that may cross twice: what was on its way and not yet acknowledged.
const RESENT_MAX: u64 = 4 * MIB;
/// What TLS, HTTP/2 and the messages around the content may add on the wire.
const OVERHEAD_MAX: u64 = SIZE / 50 + MIB;
/// How much content passes while no acknowledgement gets back, before a fault between the two: less
/// than the receiver asks for ahead.
const UNACKNOWLEDGED: u64 = MIB / 4;

/// What breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    SilentCut,
    Reset,
    KillReceiver,
    KillSender,
    KillBothReceiverBackFirst,
    KillBothSenderBackFirst,
}

/// Where in the transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Once so much has been acknowledged.
    Acknowledged(u64),
    /// The same, and then content passes whose acknowledgement does not.
    BetweenDataAndAck(u64),
    /// In the last chunks, on a line that is slow enough to meet them.
    End,
}

/// Where the line becomes slow: what is on its way then ends before the last chunks.
const NEAR_END: u64 = SIZE - 6 * MIB;
const SLOW: u64 = 1_000_000;
/// The last chunks take seconds, so that several acknowledgements fall into them on a busy machine.
const SLOWEST: u64 = 250_000;

const PLACES: [Place; 5] = [
    Place::Acknowledged(1),
    Place::Acknowledged(SIZE / 2),
    Place::BetweenDataAndAck(SIZE / 3),
    Place::Acknowledged(SIZE - 9 * MIB),
    Place::End,
];

#[test]
fn a_transfer_resumes_after_a_silent_cut() {
    break_everywhere(Fault::SilentCut);
}

#[test]
fn a_transfer_resumes_after_a_reset() {
    break_everywhere(Fault::Reset);
}

#[test]
fn a_transfer_resumes_after_the_receiver_is_killed() {
    break_everywhere(Fault::KillReceiver);
}

#[test]
fn a_transfer_resumes_after_the_sender_is_killed() {
    break_everywhere(Fault::KillSender);
}

#[test]
fn a_transfer_resumes_after_both_are_killed_and_the_receiver_is_back_first() {
    break_everywhere(Fault::KillBothReceiverBackFirst);
}

#[test]
fn a_transfer_resumes_after_both_are_killed_and_the_sender_is_back_first() {
    break_everywhere(Fault::KillBothSenderBackFirst);
}

fn break_everywhere(fault: Fault) {
    for place in PLACES {
        with_cluster(&["a", "b"], &[(B, A)], |cluster| {
            break_and_resume(cluster, fault, place)
                .with_context(|| format!("{fault:?} at {place:?}"))
        });
    }
}

fn break_and_resume(cluster: &mut Cluster, fault: Fault, place: Place) -> Result<()> {
    tree::write_file(&cluster.folder(A).join(KEY), SIZE, 1)?;
    let proxy = cluster.proxy(A, B);
    proxy.set_both(Faults::rate(RATE));
    cluster.start_all()?;
    let before = reach(cluster, place)?;
    strike(cluster, fault)?;
    let after = cluster.nodes[B].status().unwrap_or(before);
    let acked = acked(&after).context("the transfer was over before the fault")?;
    ensure!(acked > 0 && acked < SIZE, "the fault fell at {acked}, outside the transfer");
    proxy.set(Direction::Forward, Faults::rate(RATE));
    recover(cluster, fault)?;
    let resumed = |status: &Status| {
        status.transfer(KEY).is_some_and(|transfer| transfer.resumed_from >= acked)
    };
    cluster.nodes[B].wait_until("the transfer says where it resumed", PATIENCE, resumed)?;
    cluster.wait_agreed(PATIENCE)?;
    judge(cluster, fault, acked)
}

/// Waits until the transfer has come to `place`; B's last word there.
fn reach(cluster: &Cluster, place: Place) -> Result<Status> {
    let reached = |offset: u64| {
        let here = move |status: &Status| acked(status).is_some_and(|acked| acked >= offset);
        cluster.nodes[B].wait_until("the place is reached", PATIENCE, here)
    };
    let proxy = cluster.proxy(A, B);
    match place {
        Place::Acknowledged(offset) => return reached(offset),
        Place::End => {
            reached(NEAR_END)?;
            proxy.set(Direction::Backward, Faults::rate(SLOW));
            reached(SIZE - 2 * MIB)?;
            proxy.set(Direction::Backward, Faults::rate(SLOWEST));
            return reached(SIZE - MIB);
        }
        Place::BetweenDataAndAck(offset) => reached(offset)?,
    };
    proxy.set(Direction::Forward, Faults::frozen());
    let carried = proxy.report().bytes(Direction::Backward);
    wait_for(|| proxy.report().bytes(Direction::Backward) >= carried + UNACKNOWLEDGED)?;
    cluster.nodes[B].status()
}

fn strike(cluster: &mut Cluster, fault: Fault) -> Result<()> {
    match fault {
        Fault::SilentCut => cluster.proxy(A, B).cut(CutKind::Silent),
        Fault::Reset => cluster.proxy(A, B).cut(CutKind::Reset),
        Fault::KillReceiver => cluster.nodes[B].kill()?,
        Fault::KillSender => cluster.nodes[A].kill()?,
        Fault::KillBothReceiverBackFirst | Fault::KillBothSenderBackFirst => {
            cluster.nodes[A].kill()?;
            cluster.nodes[B].kill()?;
        }
    }
    Ok(())
}

fn recover(cluster: &mut Cluster, fault: Fault) -> Result<()> {
    let proxy = cluster.proxy(A, B);
    let restart: &[usize] = match fault {
        Fault::SilentCut | Fault::Reset => &[],
        Fault::KillReceiver => &[B],
        Fault::KillSender => &[A],
        Fault::KillBothReceiverBackFirst => &[B, A],
        Fault::KillBothSenderBackFirst => &[A, B],
    };
    for &node in restart {
        cluster.nodes[node].start()?;
    }
    // What a silent cut left open is forgotten, so that nothing but durable state goes on.
    proxy.heal_with(Survivors::Reset);
    Ok(())
}

/// Holds both counts against the bound: the proxy's own, and B's.
fn judge(cluster: &Cluster, fault: Fault, acked: u64) -> Result<()> {
    let report = cluster.proxy(A, B).report();
    let carried = report.bytes(Direction::Backward);
    ensure!(report.connections_used() >= 2, "the link was never broken");
    ensure!(
        carried <= SIZE + RESENT_MAX + OVERHEAD_MAX,
        "the link carried {carried} bytes for a content of {SIZE}, cut at {acked}"
    );
    let counters = cluster.nodes[B].status()?.counters;
    ensure!(counters.content_bytes_resent <= RESENT_MAX, "{counters:?}");
    let restarted = matches!(
        fault,
        Fault::KillReceiver | Fault::KillBothReceiverBackFirst | Fault::KillBothSenderBackFirst
    );
    if restarted {
        // The counters began with the restart: they count the second half alone.
        let left = SIZE - acked;
        ensure!(
            counters.content_bytes_received <= left,
            "{left} bytes were left at {acked}, and {counters:?}"
        );
    }
    Ok(())
}

#[test]
fn a_transfer_finishes_over_a_link_that_is_up_two_seconds_in_three() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        tree::write_file(&cluster.folder(A).join(KEY), SIZE, 2)?;
        let proxy = cluster.proxy(A, B);
        proxy.set_both(Faults::rate(8_000_000));
        cluster.start_all()?;
        let began = Instant::now();
        let mut cuts = 0;
        while !cluster.nodes[B].status()?.in_sync() {
            ensure!(began.elapsed() < PATIENCE, "not finished after {cuts} cuts");
            thread::sleep(Duration::from_secs(2));
            proxy.cut(CutKind::Silent);
            thread::sleep(Duration::from_secs(1));
            proxy.heal_with(Survivors::Reset);
            cuts += 1;
        }
        ensure!(cuts >= 3, "only {cuts} cuts fell into the transfer");
        cluster.wait_agreed(PATIENCE)?;
        let carried = proxy.report().bytes(Direction::Backward);
        let most = SIZE + OVERHEAD_MAX + cuts * RESENT_MAX;
        ensure!(carried <= most, "{carried} bytes for {SIZE} and {cuts} cuts");
        Ok(())
    });
}

#[test]
fn falsified_bytes_on_the_line_never_reach_a_folder() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        tree::write_file(&cluster.folder(A).join(KEY), SIZE, 3)?;
        let proxy = cluster.proxy(A, B);
        let flip = Flip::Every(20 * MIB);
        proxy.set(Direction::Backward, Faults { flip, ..Faults::default() });
        cluster.start_all()?;
        cluster.nodes[B].wait_in_sync(PATIENCE)?;
        ensure!(proxy.report().connections_used() >= 2, "no falsified byte was noticed");
        cluster.wait_agreed(PATIENCE)
    });
}

#[test]
fn a_small_tree_crosses_a_line_that_delivers_single_bytes_late() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        tree::write_lifelike(&cluster.folder(A), 20, 4)?;
        let faults = Faults { one_byte_slices: true, delay_ms: 30, ..Faults::default() };
        cluster.proxy(A, B).set_both(faults);
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)
    });
}

#[test]
fn a_file_under_its_name_is_whole_or_absent_while_its_transfer_is_broken() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        let source = cluster.folder(A).join(KEY);
        tree::write_file(&source, SIZE / 2, 5)?;
        cluster.proxy(A, B).set_both(Faults::rate(RATE));
        cluster.start_all()?;
        let arrived = cluster.folder(B).join(KEY);
        for _ in 0..3 {
            let some = |status: &Status| acked(status).is_some_and(|acked| acked > 0);
            if cluster.nodes[B]
                .wait_until("on its way, or here", PATIENCE, |status| {
                    some(status) || status.in_sync()
                })?
                .in_sync()
            {
                break;
            }
            kill_and_restart(&mut cluster.nodes[B], || {
                let length = fs::metadata(&arrived).map(|metadata| metadata.len()).ok();
                ensure!(length.is_none_or(|length| length == SIZE / 2), "a part: {length:?}");
                Ok(())
            })?;
        }
        cluster.wait_agreed(PATIENCE)
    });
}

fn kill_and_restart(node: &mut Node, between: impl FnOnce() -> Result<()>) -> Result<()> {
    node.kill()?;
    between()?;
    node.start()
}

fn acked(status: &Status) -> Option<u64> {
    let of_share = status.share(SHARE).is_some();
    status.transfer(KEY).filter(|_| of_share).map(|transfer| transfer.acked_offset)
}

fn wait_for(mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "it did not come about within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
