//! `highwater dev`: a development cluster, N real daemons on this machine that live on after the
//! command that started them.
//!
//! Every node has a user's name, a home and folders of its own below one directory, ports a hundred
//! apart, and goes through the program's own commands to get them. What was started is on record
//! (`dev/ledger.rs`), each process with its id, its start and its boot (`dev/process.rs`), so that
//! stopping can never hit another process. Whatever ends a command in the middle, the next `up`
//! goes on from the record.
//!
//! [`fault_test`] tries such a cluster: it cuts a real transfer and judges what comes of it.

pub mod fault_test;
mod ledger;
mod ports;
mod probe;
pub(crate) mod process;
mod wiring;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Serialize;

use crate::http;
use crate::node::{Node, Resident, STOP_PATIENCE};
use crate::status::Status;
pub use probe::LinkProbes;

use ledger::{Ledger, NodeRecord};
use process::ProcessRecord;

/// Nodes of a cluster unless told otherwise.
pub const NODES_DEFAULT: usize = 3;
/// The HTTP port of the first node.
pub const HTTP_PORT: u16 = 8080;
/// The sync port of the first node.
pub const SYNC_PORT: u16 = 7420;
/// From one node's port to the next one's.
const PORT_STEP: usize = 100;
/// Longest wait for a cluster to see itself: a node needs well under a second, and two cores have
/// to start them all.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
/// Added to it for each node.
const SETTLE_PATIENCE_EACH: Duration = Duration::from_secs(2);
/// How often the nodes are asked meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);
/// Users, in the order of their nodes; beyond them they have numbers.
const USERS: [&str; 26] = [
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "karl",
    "lena", "mike", "nina", "oscar", "peggy", "quinn", "rupert", "sybil", "trent", "ursula",
    "victor", "walter", "xenia", "yvonne", "zoe",
];

/// What `up` is to make.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The program.
    pub exe: PathBuf,
    /// The cluster's directory.
    pub dir: PathBuf,
    /// How many nodes; `None` for as many as there are already, or [`NODES_DEFAULT`].
    pub nodes: Option<usize>,
    /// What they share. Empty for what they share already, or one share named `docs`.
    pub shares: Vec<String>,
    /// The HTTP port of the first node; `None` for what there is already, or [`HTTP_PORT`].
    pub http_port: Option<u16>,
    /// The sync port of the first node; `None` for what there is already, or [`SYNC_PORT`].
    pub sync_port: Option<u16>,
}

/// A development cluster as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct DevReport {
    /// Where it lies.
    pub directory: PathBuf,
    /// Whether every node runs, is healthy, and is in sync with all its peers.
    pub well: bool,
    /// Names of the nodes that this command started.
    pub started: Vec<String>,
    /// The nodes.
    pub nodes: Vec<DevNode>,
}

/// One node of it.
#[derive(Clone, Debug, Serialize)]
pub struct DevNode {
    /// Its name, and its user's.
    pub name: String,
    /// Its id.
    pub node_id: String,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// Where it serves people.
    pub http: SocketAddr,
    /// Where it serves nodes.
    pub sync: SocketAddr,
    /// Its home.
    pub home: PathBuf,
    /// Its folders.
    pub folders: Vec<PathBuf>,
    /// Memory of the process, in bytes.
    pub resident_bytes: Option<u64>,
    /// What `/health` says; `None` when nothing answers.
    pub healthy: Option<bool>,
    /// What keeps it from answering, for people.
    pub error: Option<String>,
    /// Peers that it shares something with, and those that it is connected to.
    pub peers: usize,
    /// Peers that it is connected to for every share.
    pub connected: usize,
    /// Whether it is in sync with all of them.
    pub in_sync: bool,
    /// Entries of all shares.
    pub entries: u64,
    /// Entries that it still needs.
    pub needed: u64,
}

/// What `down` did.
#[derive(Clone, Debug, Serialize)]
pub struct DownReport {
    /// Where the cluster lies, or lay.
    pub directory: PathBuf,
    /// Nodes that were stopped.
    pub stopped: Vec<String>,
    /// Those of them that did not stop in order and were killed.
    pub killed: Vec<String>,
    /// Whether the directory was removed.
    pub purged: bool,
}

/// Makes the cluster where there is none, starts the nodes of it that do not run, and waits until
/// every node is in sync with all its peers. `say` takes a line for people now and then.
///
/// # Errors
/// What stands in the way. Nodes that this call started are stopped again.
pub fn up(options: &UpOptions, say: &dyn Fn(&str)) -> Result<DevReport> {
    fs::create_dir_all(&options.dir)
        .with_context(|| format!("making the directory {}", options.dir.display()))?;
    let dir = fs::canonicalize(&options.dir)?;
    let _lock = ledger::lock(&dir)?;
    let mut ledger = match Ledger::load(&dir)? {
        Some(ledger) => known(ledger, options)?,
        None => planned(options)?,
    };
    ledger.exe.clone_from(&options.exe);
    let missing: Vec<usize> =
        (0..ledger.nodes.len()).filter(|&at| ledger.nodes[at].running().is_none()).collect();
    let wanted = missing.iter().flat_map(|&at| [ledger.nodes[at].http, ledger.nodes[at].sync]);
    ports::demand_free(wanted)?;
    make(&mut ledger, &dir, say)?;
    wiring::wire(&ledger, &dir)?;
    let begun = start(&mut ledger, &dir, &missing, say).and_then(|()| settle(&ledger, &dir, say));
    if let Err(error) = begun {
        let stopped = stop(&mut ledger, &missing);
        ledger.save(&dir)?;
        let again = match stopped.0.as_slice() {
            [] => "no node runs that did not before".to_owned(),
            names => format!("{} stopped again", names.join(", ")),
        };
        let what = format!("the cluster in {} was not brought up ({again})", dir.display());
        return Err(error).context(what);
    }
    let mut report = report(&ledger, &dir);
    report.started = missing.iter().map(|&at| ledger.nodes[at].name.clone()).collect();
    Ok(report)
}

/// The cluster in `dir` as it is now.
///
/// # Errors
/// When there is none.
pub fn status(dir: &Path) -> Result<DevReport> {
    let (ledger, dir) = existing(dir)?;
    Ok(report(&ledger, &dir))
}

/// Stops every process on record, and removes the directory if asked to.
///
/// # Errors
/// When there is no cluster, or its files cannot be removed.
pub fn down(dir: &Path, purge: bool) -> Result<DownReport> {
    let (_, dir) = existing(dir)?;
    let lock = ledger::lock(&dir)?;
    // Read again under the lock: another command may have changed it meanwhile.
    let (mut ledger, _) = existing(&dir)?;
    let all: Vec<usize> = (0..ledger.nodes.len()).collect();
    let (stopped, killed) = stop(&mut ledger, &all);
    ledger.save(&dir)?;
    if purge {
        remove(&ledger, &dir)?;
    }
    drop(lock);
    Ok(DownReport { directory: dir, stopped, killed, purged: purge })
}

/// Removes the nodes and the record, and then the directory, unless it holds something else.
fn remove(ledger: &Ledger, dir: &Path) -> Result<()> {
    for node in &ledger.nodes {
        let own = dir.join(&node.name);
        match fs::remove_dir_all(&own) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", own.display()));
            }
            _ => {}
        }
    }
    ledger::remove(dir)?;
    fs::remove_dir(dir)
        .with_context(|| format!("{} holds more than the cluster; look at it", dir.display()))
}

fn existing(dir: &Path) -> Result<(Ledger, PathBuf)> {
    let none = || {
        let shown = dir.display();
        format!("there is no development cluster in {shown}; start one with `highwater dev up`")
    };
    let real = fs::canonicalize(dir).with_context(none)?;
    let ledger = Ledger::load(&real)?.with_context(none)?;
    Ok((ledger, real))
}

/// What the user asked for, held against what there is.
fn known(ledger: Ledger, options: &UpOptions) -> Result<Ledger> {
    let (have, dir) = (ledger.nodes.len(), options.dir.display());
    if let Some(wanted) = options.nodes.filter(|&wanted| wanted != have) {
        bail!(
            "the cluster in {dir} has {have} nodes, not {wanted}; `highwater dev down --purge` \
             removes it, and --dir makes another beside it"
        );
    }
    for (wanted, addr) in
        [(options.http_port, ledger.nodes[0].http), (options.sync_port, ledger.nodes[0].sync)]
    {
        let have = addr.port();
        if let Some(wanted) = wanted.filter(|&wanted| wanted != have) {
            bail!(
                "the first node in {dir} has port {have}, not {wanted}; `highwater dev down \
                 --purge` removes the cluster, and --dir makes another beside it"
            );
        }
    }
    if !options.shares.is_empty() && options.shares != ledger.shares {
        let shares = ledger.shares.join(", ");
        bail!("the cluster in {dir} shares {shares}; `highwater dev down --purge` removes it");
    }
    Ok(ledger)
}

/// A cluster that is to be made.
fn planned(options: &UpOptions) -> Result<Ledger> {
    let count = options.nodes.unwrap_or(NODES_DEFAULT);
    ensure!(count > 0, "a cluster has at least one node; give -n 1 or more");
    let record = |index: usize| {
        let addr = |first: u16| {
            let port = usize::from(first) + index * PORT_STEP;
            let port = u16::try_from(port).ok().with_context(|| {
                format!("node {} of {count} would need port {port}; have fewer nodes", index + 1)
            })?;
            Ok::<_, anyhow::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let name = USERS.get(index).map_or_else(|| format!("user{}", index + 1), |&n| n.to_owned());
        let http = addr(options.http_port.unwrap_or(HTTP_PORT))?;
        let sync = addr(options.sync_port.unwrap_or(SYNC_PORT))?;
        Ok(NodeRecord { name, http, sync, node_id: String::new(), process: None })
    };
    let nodes = (0..count).map(record).collect::<Result<Vec<_>>>()?;
    let ports: BTreeSet<u16> = nodes.iter().flat_map(|n| [n.http.port(), n.sync.port()]).collect();
    ensure!(
        ports.len() == 2 * count,
        "the ports of --http and --sync meet when each grows by {PORT_STEP}; choose others"
    );
    let shares = match options.shares.as_slice() {
        [] => vec![crate::cluster::SHARE.to_owned()],
        shares => shares.to_vec(),
    };
    Ok(Ledger::new(options.exe.clone(), shares, nodes))
}

/// Makes the nodes that have no home yet.
fn make(ledger: &mut Ledger, dir: &Path, say: &dyn Fn(&str)) -> Result<()> {
    for index in 0..ledger.nodes.len() {
        if !ledger.nodes[index].node_id.is_empty() {
            continue;
        }
        let name = &ledger.nodes[index].name;
        say(&format!("making {name} in {}", dir.join(name).display()));
        // What an interrupted command left of the node has never been in use.
        let left = dir.join(name).join("home");
        if left.exists() {
            fs::remove_dir_all(&left).with_context(|| format!("removing {}", left.display()))?;
        }
        let node = Node::init(ledger.spec(index), dir)?;
        for share in &ledger.shares {
            node.add_share(share)?;
        }
        ledger.nodes[index].node_id = node.id().to_owned();
        ledger.save(dir)?;
    }
    Ok(())
}

/// Starts these nodes, each on record as soon as it runs.
fn start(ledger: &mut Ledger, dir: &Path, which: &[usize], say: &dyn Fn(&str)) -> Result<()> {
    for &index in which {
        let mut node = ledger.node(dir, index);
        let started = node.start();
        let name = &node.spec().name;
        if started.is_err() {
            bail!(
                "{name} did not start: {}; its log is {}",
                last_words(&node),
                node.log_path().display()
            );
        }
        let pid = node.pid().with_context(|| format!("{name} has no process"))?;
        ledger.nodes[index].process = Some(ProcessRecord::of(pid)?);
        ledger.save(dir)?;
        say(&format!("{name} serves http://{}", node.spec().http));
        node.leave_running();
    }
    Ok(())
}

/// What a daemon said last: when it did not start, the reason.
fn last_words(node: &Node) -> String {
    let log = fs::read_to_string(node.log_path()).unwrap_or_default();
    let last = log.lines().last().unwrap_or("it said nothing");
    last.trim_start_matches("highwater: ").to_owned()
}

/// Waits until every node is in sync with all its peers and knows all the others as active.
fn settle(ledger: &Ledger, dir: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let count = ledger.nodes.len();
    if count == 1 {
        return Ok(());
    }
    say(&format!("waiting until all {count} see each other"));
    let each = SETTLE_PATIENCE_EACH * u32::try_from(count).unwrap_or(u32::MAX);
    let deadline = Instant::now() + SETTLE_PATIENCE + each;
    for index in 0..count {
        let node = ledger.node(dir, index);
        let sees_all = || {
            node.status().is_ok_and(|status| status.in_sync()) && active_nodes(&node) == Some(count)
        };
        while !sees_all() {
            let name = &node.spec().name;
            let (gone, log) = (ledger.nodes[index].running().is_none(), node.log_path());
            ensure!(!gone, "{name} has ended; see {}", log.display());
            ensure!(
                Instant::now() < deadline,
                "{name} does not see all the others; see `highwater dev status` and {}",
                log.display()
            );
            thread::sleep(SETTLE_INTERVAL);
        }
    }
    Ok(())
}

/// How many nodes of the cluster, itself included, a node holds for active.
fn active_nodes(node: &Node) -> Option<usize> {
    let body = http::get(node.spec().http, "/api/v1/cluster/nodes").ok()?;
    let document: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let nodes = document["nodes"].as_object()?;
    Some(nodes.values().filter(|node| node["config"]["status"] == "active").count())
}

/// Stops these nodes, all at once; the names of those that ran, and of those that had to be killed.
fn stop(ledger: &mut Ledger, which: &[usize]) -> (Vec<String>, Vec<String>) {
    let held: Vec<_> = which
        .iter()
        .filter_map(|&index| Some((index, ledger.nodes[index].process.as_ref()?.hold()?)))
        .collect();
    held.iter().for_each(|(_, process)| process.signal(Signal::TERM));
    let deadline = Instant::now() + STOP_PATIENCE;
    let (mut stopped, mut killed) = (Vec::new(), Vec::new());
    for (index, process) in held {
        let name = ledger.nodes[index].name.clone();
        if !process.wait(deadline.saturating_duration_since(Instant::now())) {
            process.signal(Signal::KILL);
            process.wait(STOP_PATIENCE);
            killed.push(name.clone());
        }
        stopped.push(name);
    }
    for &index in which {
        ledger.nodes[index].process = None;
    }
    (stopped, killed)
}

fn report(ledger: &Ledger, dir: &Path) -> DevReport {
    let nodes: Vec<DevNode> = thread::scope(|scope| {
        let asked: Vec<_> = (0..ledger.nodes.len())
            .map(|index| scope.spawn(move || seen(ledger, dir, index)))
            .collect();
        asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
    });
    let well = |node: &DevNode| {
        node.pid.is_some()
            && node.healthy == Some(true)
            && (node.in_sync || ledger.nodes.len() == 1)
    };
    DevReport {
        directory: dir.to_owned(),
        well: nodes.len() == ledger.nodes.len() && nodes.iter().all(well),
        started: Vec::new(),
        nodes,
    }
}

/// One node as it shows itself now.
fn seen(ledger: &Ledger, dir: &Path, index: usize) -> DevNode {
    let (record, node) = (&ledger.nodes[index], ledger.node(dir, index));
    let pid = record.running().map(|process| process.pid);
    let status = match pid {
        Some(_) => node.status().and_then(|status| own(status, &record.node_id)),
        None => Err(anyhow::anyhow!("it does not run; `highwater dev up` starts it")),
    };
    let (error, status) = match status {
        Ok(status) => (None, status),
        Err(error) => (Some(format!("{error:#}")), Status::default()),
    };
    let healthy = error.is_none().then(|| http::get(record.http, "/health").is_ok());
    let all = |of: fn(&crate::status::ShareStatus) -> u64| status.shares.iter().map(of).sum();
    let (peers, connected) = met(&status);
    DevNode {
        name: record.name.clone(),
        node_id: record.node_id.clone(),
        pid,
        http: record.http,
        sync: record.sync,
        home: node.home(),
        folders: ledger.shares.iter().map(|share| node.folder(share)).collect(),
        resident_bytes: pid.and_then(|pid| Resident::of(pid).ok()).map(|memory| memory.now),
        healthy,
        error,
        peers,
        connected,
        in_sync: status.in_sync(),
        entries: all(|share| share.entries),
        needed: all(|share| share.needed.entries),
    }
}

/// A status, if it is that of the node that is on record and not of another program on its port.
fn own(status: Status, node_id: &str) -> Result<Status> {
    ensure!(
        status.node_id == node_id,
        "another node, {}, answers on its HTTP port; stop that one",
        status.node_id
    );
    Ok(status)
}

/// How many peers a status names, and how many of them are connected for all that they share.
fn met(status: &Status) -> (usize, usize) {
    let peers = || status.shares.iter().flat_map(|share| &share.peers);
    let all: BTreeSet<&str> = peers().map(|peer| peer.node_id.as_str()).collect();
    let away: BTreeSet<&str> =
        peers().filter(|peer| !peer.connected).map(|peer| peer.node_id.as_str()).collect();
    (all.len(), all.difference(&away).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(nodes: usize) -> UpOptions {
        UpOptions {
            exe: "highwater".into(),
            dir: "/nowhere".into(),
            nodes: Some(nodes),
            shares: Vec::new(),
            http_port: None,
            sync_port: None,
        }
    }

    #[test]
    fn nodes_have_users_names_and_ports_a_hundred_apart() {
        let ledger = planned(&options(28)).expect("planned");
        let shown: Vec<_> = [0, 1, 2, 27]
            .map(|at| &ledger.nodes[at])
            .map(|node| format!("{} {} {}", node.name, node.http.port(), node.sync.port()))
            .to_vec();
        assert_eq!(
            shown,
            ["alice 8080 7420", "bob 8180 7520", "carol 8280 7620", "user28 10780 10120"]
        );
        assert_eq!(ledger.shares, ["docs"]);
    }

    #[test]
    fn a_cluster_that_cannot_be_is_refused_before_anything_is_made() {
        for (nodes, sync_port, why) in
            [(0, None, "at least one"), (600, None, "fewer nodes"), (3, Some(8280), "meet")]
        {
            let refused = planned(&UpOptions { sync_port, ..options(nodes) });
            let refused = refused.expect_err("refused").to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
