//! Many real nodes on one machine that share one folder: made, wired, started in waves, asked, and
//! stopped by their recorded processes.
//!
//! Peers are written into the nodes' configurations, as an administrator with a script would do it:
//! with hundreds of nodes that list each other, a command for each pair would take an hour.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use super::wait_for;
use crate::cluster::SHARE;
use crate::dev::process::ProcessRecord;
use crate::http;
use crate::node::{Node, NodeSpec, STOP_PATIENCE};

/// The record of what was started, in the directory of a run.
const RECORD: &str = "processes.json";
/// Longest wait until all see each other: some handshakes and a table of members for each node, on
/// however few cores there are.
const SEEN_PATIENCE: Duration = Duration::from_secs(120);
/// Added to it for each node.
const SEEN_PATIENCE_EACH: Duration = Duration::from_secs(2);
/// Between two rounds of asking those who do not see all yet.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Longest wait for nodes that stop all at once, for each of them.
const STOP_PATIENCE_EACH: Duration = Duration::from_millis(500);
/// How the log of a node tells that a member is in another state.
const CALLED_SUSPECT: &str = "a member of the cluster is suspect";
const CALLED_FAILED: &str = "a member of the cluster is failed";

/// Who lists whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listing {
    /// Everyone lists everyone, with an address; the nodes choose with whom they keep links.
    Everybody,
    /// Each lists about so many, those at distances 1, 2, 4 … around a ring, and learns of the rest
    /// through them.
    Few(usize),
}

impl Listing {
    /// Whom the node at `own` lists, of so many.
    fn of(self, own: usize, count: usize) -> Vec<usize> {
        let Listing::Few(peers) = self else {
            return (0..count).filter(|other| *other != own).collect();
        };
        let steps = (0..peers.div_ceil(2)).map(|finger| 1_usize << finger.min(32));
        let both = steps
            .filter(|step| *step < count)
            .flat_map(|step| [(own + step) % count, (own + count - step) % count]);
        let mut listed: Vec<usize> = both.filter(|other| *other != own).collect();
        listed.sort_unstable();
        listed.dedup();
        listed
    }
}

/// The nodes. Dropping them kills those that still run.
#[derive(Debug)]
pub(crate) struct Crowd {
    nodes: Vec<Node>,
    dir: PathBuf,
    peers_listed_max: usize,
    records: Vec<ProcessRecord>,
}

/// What `/api/v1/cluster/nodes` says of a node, as far as it is asked for here.
#[derive(Deserialize)]
struct Listed {
    connections: u64,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: BTreeMap<String, Listed>,
}

impl Crowd {
    /// Makes nodes below `dir`, none running.
    pub(crate) fn make(exe: &Path, dir: &Path, count: usize, listing: Listing) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let mut nodes = Vec::with_capacity(count);
        for number in 0..count {
            let node = Node::init(NodeSpec::on_loopback(exe, &format!("n{number:04}"))?, dir)?;
            node.add_share(SHARE)?;
            nodes.push(node);
        }
        let mut peers_listed_max = 0;
        for (own, node) in nodes.iter().enumerate() {
            let listed = listing.of(own, count);
            peers_listed_max = peers_listed_max.max(listed.len());
            list(node, listed.iter().map(|other| &nodes[*other]))?;
        }
        Ok(Self { nodes, dir: dir.to_owned(), peers_listed_max, records: Vec::new() })
    }

    /// Starts all, `wave` at a time; each wave serves, and has had `pause` for its handshakes, before
    /// the next begins.
    pub(crate) fn start(&mut self, wave: usize, pause: Duration) -> Result<()> {
        for nodes in self.nodes.chunks_mut(wave) {
            let started: Vec<Result<()>> = thread::scope(|scope| {
                let starts: Vec<_> =
                    nodes.iter_mut().map(|node| scope.spawn(|| node.start())).collect();
                let joined = starts.into_iter().map(|start| start.join());
                joined.map(|start| start.unwrap_or_else(|_| Err(anyhow!("a panic")))).collect()
            });
            for node in nodes.iter() {
                // One that ended at once is told of below, by its own last words.
                self.records.extend(node.pid().and_then(|pid| ProcessRecord::of(pid).ok()));
            }
            record(&self.dir, &self.records)?;
            started.into_iter().collect::<Result<()>>()?;
            thread::sleep(pause);
        }
        Ok(())
    }

    /// Waits until every node holds all of them for active.
    pub(crate) fn wait_all_seen(&self) -> Result<()> {
        let count = self.nodes.len();
        let each = SEEN_PATIENCE_EACH * u32::try_from(count).unwrap_or(u32::MAX);
        let mut left: Vec<&Node> = self.nodes.iter().collect();
        let all_see = || {
            left.retain(|node| active(node.spec().http) != Some(count));
            if !left.is_empty() {
                return Ok(None);
            }
            // Who saw all once may have lost sight of some since: they are all asked again.
            left = self.nodes.iter().collect();
            left.retain(|node| active(node.spec().http) != Some(count));
            Ok(left.is_empty().then_some(()))
        };
        wait_for("that all nodes see each other", SEEN_PATIENCE + each, ASK_EVERY, all_see)
    }

    /// The nodes, running or not.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Those that run, by their places.
    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some())
    }

    /// The processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Node::pid).collect()
    }

    /// Most peers that one of them lists.
    pub(crate) fn peers_listed_max(&self) -> usize {
        self.peers_listed_max
    }

    /// Links of each node, as it counts them itself.
    pub(crate) fn links(&self) -> Result<Vec<f64>> {
        let links = self.running().map(|(_, node)| {
            let body = http::get(node.spec().http, "/api/v1/cluster/nodes")?;
            let nodes: Nodes = serde_json::from_slice(&body)?;
            let own = nodes.nodes.get(node.id());
            own.map(|own| own.connections as f64).context("a node does not list itself")
        });
        links.collect()
    }

    /// The date by the first node's clock.
    pub(crate) fn date(&self) -> Result<String> {
        let first = self.nodes.first().context("there is no node")?;
        let body = http::get(first.spec().http, "/health")?;
        let health: serde_json::Value = serde_json::from_slice(&body)?;
        Ok(health["timestamp"].as_str().unwrap_or_default().to_owned())
    }

    /// How often nodes have called each other suspect and failed so far, by their logs.
    pub(crate) fn wrongly_called(&self) -> Result<(u64, u64)> {
        let (mut suspect, mut failed) = (0, 0);
        for node in &self.nodes {
            let path = node.log_path();
            let log = fs::read_to_string(&path);
            let log = log.with_context(|| format!("reading {}", path.display()))?;
            suspect += log.matches(CALLED_SUSPECT).count() as u64;
            failed += log.matches(CALLED_FAILED).count() as u64;
        }
        Ok((suspect, failed))
    }

    /// Kills one node outright.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        self.nodes[number].kill()
    }

    /// Stops all that run, at once; the names of those that did not end in order.
    pub(crate) fn stop(&mut self) -> Result<Vec<String>> {
        for (_, node) in self.running() {
            node.signal(Signal::TERM)?;
        }
        let each = STOP_PATIENCE_EACH * u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + STOP_PATIENCE + each;
        let mut not_stopped = Vec::new();
        for node in &mut self.nodes {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(error) = node.wait_stopped(left) {
                eprintln!("{error:#}");
                not_stopped.push(node.spec().name.clone());
            }
        }
        self.records.retain(ProcessRecord::is_running);
        record(&self.dir, &self.records)?;
        ensure!(self.records.is_empty(), "{} processes still run", self.records.len());
        Ok(not_stopped)
    }
}

/// Adds peers to the configuration of a node that does not run.
fn list<'a>(node: &Node, peers: impl Iterator<Item = &'a Node>) -> Result<()> {
    let path = node.home().join("config.toml");
    let mut file = OpenOptions::new()
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let mut text = String::new();
    for peer in peers {
        let (id, name, addr) = (peer.id(), &peer.spec().name, peer.spec().sync);
        text.push_str(&format!(
            "\n[[peer]]\nid = \"{id}\"\nname = \"{name}\"\naddr = \"{addr}\"\nshares = [\"{SHARE}\"]\n"
        ));
    }
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// How many nodes this one holds for active.
fn active(http: SocketAddr) -> Option<usize> {
    let body = http::get(http, "/api/v1/cluster/status").ok()?;
    let document: serde_json::Value = serde_json::from_slice(&body).ok()?;
    usize::try_from(document["status"]["active_nodes"].as_u64()?).ok()
}

fn record(dir: &Path, records: &[ProcessRecord]) -> Result<()> {
    let path = dir.join(RECORD);
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(&serde_json::to_vec(records)?)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Stops the processes on record in `dir` and in the directories in it; how many there were.
pub(crate) fn stop_left(dir: &Path) -> Result<usize> {
    let below = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let below = below.flatten().map(|entry| entry.path().join(RECORD));
    let mut held = Vec::new();
    for path in below.chain([dir.join(RECORD)]).filter(|path| path.is_file()) {
        let shown = path.display().to_string();
        let text = fs::read(&path).with_context(|| format!("reading {shown}"))?;
        let records: Vec<ProcessRecord> = serde_json::from_slice(&text)
            .with_context(|| format!("{shown} is no record of processes; move it away"))?;
        held.extend(records.iter().filter_map(ProcessRecord::hold));
    }
    held.iter().for_each(|process| process.signal(Signal::TERM));
    let each = STOP_PATIENCE_EACH * u32::try_from(held.len()).unwrap_or(u32::MAX);
    let deadline = Instant::now() + STOP_PATIENCE + each;
    for process in &held {
        if !process.wait(deadline.saturating_duration_since(Instant::now())) {
            process.signal(Signal::KILL);
            process.wait(STOP_PATIENCE);
        }
    }
    Ok(held.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_listed_lists_the_other_too() {
        for (listing, count, most) in
            [(Listing::Everybody, 30, 29), (Listing::Few(8), 30, 8), (Listing::Few(16), 5, 4)]
        {
            for own in 0..count {
                let listed = listing.of(own, count);
                assert!(listed.len() <= most && !listed.contains(&own), "{own}: {listed:?}");
                for other in listed {
                    assert!(listing.of(other, count).contains(&own), "{other} does not list {own}");
                }
            }
        }
    }
}
