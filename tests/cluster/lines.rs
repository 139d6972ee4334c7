//! What a node says about its lines, against lines whose delay and rate are known; and that it asks
//! the better one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::faults::Faults;
use highwater_lab::node::{Node, NodeSpec};
use highwater_lab::route::Route;
use highwater_tests::{Slot, highwater, with_cluster};
use rustix::process::Signal;
use serde_json::Value;

use crate::membership::{PATIENCE, ask, wait};

pub(crate) const MB: u64 = 1_000_000;

/// Content that neither compresses nor repeats.
pub(crate) fn noise(bytes: u64, seed: &str) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut content);
    content
}

/// Whether what was said lies within a fifth of what is so.
fn close(said: f64, so: f64) -> bool {
    (said - so).abs() <= so / 5.0
}

fn line(node: &Node, peer: &str) -> Result<Value> {
    let peers = ask(node, &["net"])?;
    let peers = peers["peers"].as_array().context("peers")?.clone();
    let found = peers.into_iter().find(|found| found["node_id"] == peer);
    Ok(found.context("the peer is listed")?["quality"].take())
}

#[test]
fn the_delay_of_a_line_is_reported_as_it_is() {
    with_cluster(&["near", "far"], &[(0, 1)], |cluster| {
        cluster.proxy(0, 1).set_both(Faults::delay(Duration::from_millis(60)));
        cluster.start_all()?;
        let far = cluster.nodes[1].id().to_owned();
        // The worst ones are a busy machine's, and so is jitter; none is shorter than the line.
        wait("the round trip is 120 ms", || {
            let quality = line(&cluster.nodes[0], &far)?;
            let trip = |part: &str| quality["rtt_ms"][part].as_f64();
            let right = trip("p50").is_some_and(|trip| close(trip, 120.0) && trip >= 119.0)
                && trip("p95") >= trip("p50");
            Ok((right, quality))
        })
    });
}

#[test]
fn the_rate_of_a_line_is_reported_by_transfers_and_by_a_test_of_it() {
    with_cluster(&["a", "b"], &[(0, 1)], |cluster| {
        cluster.proxy(0, 1).set_both(Faults::rate(4 * MB));
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        let (a, b) = (cluster.nodes[0].id().to_owned(), cluster.nodes[1].id().to_owned());
        fs::write(cluster.folder(0).join("large"), noise(20 * MB, "large"))?;
        cluster.wait_agreed(PATIENCE)?;
        let quality = line(&cluster.nodes[1], &a)?;
        let rate = quality["receive_bytes_per_second"].as_f64().context("measured")?;
        ensure!(close(rate, 4e6), "b receives {quality}");
        let quality = line(&cluster.nodes[0], &b)?;
        let rate = quality["send_bytes_per_second"].as_f64().context("measured")?;
        ensure!(close(rate, 4e6), "a sends {quality}");
        let test = ask(&cluster.nodes[0], &["net", "test", &b])?;
        for way in ["receive_bytes_per_second", "send_bytes_per_second"] {
            let rate = test[way].as_f64().context("measured")?;
            ensure!(close(rate, 4e6), "{way} of {test}");
        }
        Ok(())
    });
}

#[test]
fn most_of_a_content_comes_over_the_faster_of_two_lines() {
    with_cluster(&["fast", "slow", "new"], &[(0, 1), (2, 0), (2, 1)], |cluster| {
        cluster.nodes[0].start()?;
        cluster.nodes[1].start()?;
        fs::write(cluster.folder(0).join("large"), noise(40 * MB, "large"))?;
        for n in 0..500 {
            fs::write(cluster.folder(0).join(format!("small-{n}")), noise(8000, &n.to_string()))?;
        }
        wait("both have it all", || {
            let agreed =
                highwater_lab::oracle::demand_equal(&[cluster.folder(0), cluster.folder(1)]);
            Ok((agreed.is_ok(), ()))
        })?;
        cluster.proxy(2, 0).set_both(Faults::rate(20 * MB));
        cluster.proxy(2, 1).set_both(Faults::rate(MB));
        cluster.nodes[2].start()?;
        let folders: Vec<_> = (0..3).map(|node| cluster.folder(node)).collect();
        highwater_lab::oracle::wait_equal(&folders, PATIENCE)?;
        // The new node dials: content comes back.
        let came = |to| -> u64 {
            let report = cluster.proxy(2, to).report();
            report.connections.iter().map(|connection| connection.backward_bytes).sum()
        };
        let (fast, slow) = (came(0), came(1));
        // Blind to the lines it would be as much over either; a part of all requests explores the slow
        // one, and what it was asked for at first comes too.
        ensure!(fast > 4 * slow, "{fast} bytes came over the fast line, {slow} over the slow one");
        Ok(())
    });
}

/// Two nodes with a router between them, the first of which dials the second under this host name or
/// address; both running.
pub(crate) fn over(route: &Route, dir: &std::path::Path, host: &str) -> Result<Vec<Node>> {
    let make = |(end, name): (usize, &str)| {
        let spec = NodeSpec::on_loopback(&highwater(), name)?;
        let sync = SocketAddr::from((Ipv4Addr::UNSPECIFIED, spec.sync.port()));
        let node = Node::init(NodeSpec { place: route.place(end), sync, ..spec }, dir)?;
        node.add_share(SHARE)?;
        Ok(node)
    };
    let mut nodes = ["a", "b"].into_iter().enumerate().map(make).collect::<Result<Vec<_>>>()?;
    let listens = format!("{host}:{}", nodes[1].spec().sync.port());
    nodes[0].run(&["peer", "add", nodes[1].id(), &listens, "--share", SHARE])?;
    nodes[1].add_peer(nodes[0].id(), None, &[SHARE])?;
    nodes.iter_mut().try_for_each(Node::start)?;
    nodes.iter().try_for_each(|node| node.wait_in_sync(PATIENCE).map(drop))?;
    Ok(nodes)
}

#[test]
fn the_loss_of_a_line_is_reported_by_transfers_and_by_a_test_of_it() -> Result<()> {
    if let Some(why) = Route::missing() {
        eprintln!("skipped: {why}");
        return Ok(());
    }
    let _slot = Slot::take();
    let dir = tempfile::tempdir()?;
    let route = Route::lay()?;
    let nodes = over(&route, dir.path(), &route.ip(1).to_string())?;
    route.lose(1, 0.05)?;
    fs::write(nodes[0].folder(SHARE).join("large"), noise(60 * MB, "large"))?;
    let folders = [nodes[0].folder(SHARE), nodes[1].folder(SHARE)];
    highwater_lab::oracle::wait_equal(&folders, PATIENCE)?;
    let to = nodes[1].id().to_owned();
    // What the kernel counted is fetched every few seconds.
    wait("5 % are lost on the way to b", || {
        let quality = line(&nodes[0], &to)?;
        let right = quality["loss_percent"].as_f64().is_some_and(|lost| close(lost, 5.0));
        let told = quality["rating"].as_str().is_some_and(|rating| rating.contains("lossy"));
        Ok((right && told, quality))
    })?;
    let back = line(&nodes[1], nodes[0].id())?;
    let lost = back["loss_percent"].as_f64().context("measured")?;
    // A busy machine answers so late that some segments are sent again without being lost.
    ensure!(lost < 4.0, "nothing is lost on the way back: {back}");
    let test = ask(&nodes[0], &["net", "test", &to])?;
    let lost = test["loss_percent"].as_f64().context("measured")?;
    ensure!(close(lost, 5.0), "{test}");
    Ok(())
}

#[test]
fn a_test_of_a_line_yields_to_content() {
    with_cluster(&["a", "b"], &[(0, 1)], |cluster| {
        cluster.proxy(0, 1).set_both(Faults::rate(4 * MB));
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        let file = cluster.folder(0).join("large");
        fs::write(&file, noise(24 * MB, "large"))?;
        cluster.nodes[1].wait_until("it is on its way", PATIENCE, |status| {
            status.transfer("large").is_some_and(|transfer| transfer.acked_offset > 0)
        })?;
        let carried = || -> u64 {
            let report = cluster.proxy(0, 1).report();
            let both = report.connections.iter().map(|c| c.forward_bytes + c.backward_bytes);
            both.sum()
        };
        let (a, b) = (cluster.nodes[0].id().to_owned(), cluster.nodes[1].id().to_owned());
        std::thread::scope(|scope| -> Result<()> {
            // From either end: the one that fetches and the one that serves.
            let tests = [(0, &b), (1, &a)].map(|(node, peer)| {
                let node = &cluster.nodes[node];
                scope.spawn(move || ask(node, &["net", "test", peer]))
            });
            highwater_lab::oracle::wait_equal(&[cluster.folder(0), cluster.folder(1)], PATIENCE)?;
            let carried = carried();
            for test in tests {
                let test = test.join().map_err(|_| anyhow::anyhow!("a test panicked"))??;
                ensure!(test["rtt_ms"].is_object(), "{test}");
            }
            // TLS and frames are a few percent, and on a busy machine a content pauses for longer than a
            // test takes for its end. One that does not yield moves 8 MB from either end.
            ensure!(carried < 30 * MB, "{carried} bytes had passed when 24 MB had arrived");
            Ok(())
        })
    });
}

#[test]
fn a_source_that_dies_in_a_transfer_is_left_before_its_line_is_given_up() {
    with_cluster(&["dies", "stays", "new"], &[(0, 1), (2, 0), (2, 1)], |cluster| {
        cluster.nodes[0].start()?;
        cluster.nodes[1].start()?;
        fs::write(cluster.folder(0).join("large"), noise(40 * MB, "large"))?;
        highwater_lab::oracle::wait_equal(&[cluster.folder(0), cluster.folder(1)], PATIENCE)?;
        for source in [0, 1] {
            cluster.proxy(2, source).set_both(Faults::rate(10 * MB));
        }
        cluster.nodes[2].start()?;
        let dying = cluster.proxy(2, 0);
        let came = || -> u64 { dying.report().connections.iter().map(|c| c.backward_bytes).sum() };
        wait("the one that dies has sent a part", || Ok((came() > 5 * MB, came())))?;
        cluster.nodes[0].signal(Signal::STOP)?;
        let whole =
            cluster.nodes[2].wait_until("the other one sent the rest", PATIENCE, |status| {
                status.counters.entries_applied > 0 && status.transfers.is_empty()
            });
        let listed = line(&cluster.nodes[2], cluster.nodes[0].id());
        cluster.nodes[0].signal(Signal::CONT)?;
        whole?;
        let quality = listed?;
        ensure!(quality["connected_seconds"].is_u64(), "its line was given up first: {quality}");
        highwater_lab::oracle::demand_equal(&[cluster.folder(1), cluster.folder(2)])
    });
}
