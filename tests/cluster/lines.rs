//! What a node says about its lines, against lines whose delay and rate are known; and that it asks
//! the better one.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_lab::faults::Faults;
use highwater_lab::node::Node;
use highwater_tests::with_cluster;
use serde_json::Value;

use crate::membership::{PATIENCE, ask, wait};

const MB: u64 = 1_000_000;

/// Content that neither compresses nor repeats.
fn noise(bytes: u64, seed: &str) -> Vec<u8> {
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
        wait("the round trip is 120 ms", || {
            let quality = line(&cluster.nodes[0], &far)?;
            let trips = [&quality["rtt_ms"]["p50"], &quality["rtt_ms"]["p95"]];
            let right = trips.iter().all(|t| t.as_f64().is_some_and(|t| close(t, 120.0)));
            Ok((right && quality["reasons"] == serde_json::json!([]), quality))
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
