//! Nobody is taken for failed who works: not over a line that loses one direction, not when it hardly
//! gets a processor.
//!
//! What the others thought meanwhile is in their logs, which note every change of a member's state.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::Cluster;
use highwater_lab::faults::{Direction, Faults};
use highwater_lab::node::Node;
use highwater_tests::with_cluster;
use rustix::process::Signal;

use crate::membership::{MESH, NAMES, PATIENCE, ask, wait, wait_all_active};

/// How long a fault lasts: whoever were suspected at its beginning would have failed twice over.
const FAULT: Duration = Duration::from_secs(20);
/// Pulses of a starved node: nothing of most of two seconds, and then a moment.
const STOPPED: Duration = Duration::from_millis(1800);
const RUNNING: Duration = Duration::from_millis(200);
/// Where processor time is given out, in both of Linux's ways.
const CPU_V1: &str = "/sys/fs/cgroup/cpu";
const CPU_V2: &str = "/sys/fs/cgroup";

/// Demands that no node ever took another for failed.
fn nobody_failed(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let log = fs::read_to_string(node.log_path())?;
        let said = log.lines().find(|line| line.contains("a member of the cluster is failed"));
        ensure!(said.is_none(), "{}: {said:?}", node.spec().name);
    }
    Ok(())
}

#[test]
fn a_line_that_loses_one_direction_makes_nobody_fail() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        wait_all_active(cluster)?;
        for direction in Direction::BOTH {
            cluster.proxy(0, 1).set(direction, Faults::frozen());
            let began = Instant::now();
            let peer = cluster.nodes[1].id().to_owned();
            wait("the line is given up", || {
                let peers = ask(&cluster.nodes[0], &["net"])?;
                let peers = peers["peers"].as_array().context("peers")?;
                let lost = peers.iter().any(|p| p["node_id"] == *peer && p["connected"] == false);
                Ok((lost, ()))
            })?;
            // Changes go round the broken line meanwhile.
            let name = format!("written while {direction:?} is lost");
            fs::write(cluster.folder(0).join(&name), "by a")?;
            wait("b has it from c", || Ok((cluster.folder(1).join(&name).exists(), ())))?;
            thread::sleep(FAULT.saturating_sub(began.elapsed()));
            wait_all_active(cluster)?;
            cluster.proxy(0, 1).set(direction, Faults::default());
            cluster.wait_agreed(PATIENCE)?;
        }
        nobody_failed(cluster)
    });
}

#[test]
fn a_node_that_is_stopped_again_and_again_for_a_moment_does_not_fail() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        wait_all_active(cluster)?;
        let began = Instant::now();
        for number in 0.. {
            cluster.nodes[2].signal(Signal::STOP)?;
            thread::sleep(STOPPED);
            cluster.nodes[2].signal(Signal::CONT)?;
            thread::sleep(RUNNING);
            fs::write(cluster.folder(number % 3).join(format!("written-{number}")), "work")?;
            if began.elapsed() > FAULT {
                break;
            }
        }
        cluster.wait_agreed(PATIENCE)?;
        wait_all_active(cluster)?;
        nobody_failed(cluster)
    });
}

/// A process with a twentieth of a processor, for as long as the value lives.
struct Starved {
    group: String,
    procs: String,
    pid: String,
}

impl Starved {
    /// `None`, with a word on the error output, where this machine does not let it be done.
    fn starve(node: &Node) -> Result<Option<Self>> {
        let pid = node.pid().context("it runs")?.to_string();
        let v1 = Path::new(CPU_V1).join("cgroup.procs").exists();
        let (root, limits) = match v1 {
            true => (CPU_V1, [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "5000")]),
            false => (CPU_V2, [("cpu.max", "5000 100000"), ("cpu.weight", "1")]),
        };
        let group = format!("{root}/highwater-test-{pid}");
        let made = fs::create_dir(&group).and_then(|()| {
            limits
                .iter()
                .try_for_each(|(name, value)| fs::write(format!("{group}/{name}"), value))?;
            fs::write(format!("{group}/cgroup.procs"), &pid)
        });
        if let Err(error) = made {
            eprintln!("skipped: no processor time can be taken away with {group}: {error}");
            let _ = fs::remove_dir(&group);
            return Ok(None);
        }
        Ok(Some(Self { group, procs: format!("{root}/cgroup.procs"), pid }))
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = fs::write(&self.procs, &self.pid);
        let _ = fs::remove_dir(&self.group);
    }
}

#[test]
fn a_node_that_hardly_gets_a_processor_does_not_fail() {
    with_cluster(&NAMES, &MESH, |cluster| {
        cluster.start_all()?;
        wait_all_active(cluster)?;
        let Some(starved) = Starved::starve(&cluster.nodes[2])? else { return Ok(()) };
        let began = Instant::now();
        // More to do than it has time for.
        for number in 0.. {
            fs::write(cluster.folder(number % 2).join(format!("large-{number}")), {
                let mut content = vec![0; 1 << 20];
                blake3::Hasher::new().update(&[number as u8]).finalize_xof().fill(&mut content);
                content
            })?;
            thread::sleep(STOPPED);
            if began.elapsed() > FAULT {
                break;
            }
        }
        drop(starved);
        cluster.wait_agreed(PATIENCE)?;
        wait_all_active(cluster)?;
        nobody_failed(cluster)
    });
}
