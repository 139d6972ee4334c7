//! `highwater demo`: the main job on one machine, with a severed link.
//!
//! Three per-user nodes stand in a row: Alice (A), Bob (B), Carol (C). A and C never meet; a fault
//! proxy lies in both links. Alice's folder holds one big file and many small ones. When Bob has
//! acknowledged half of the big one the link between Alice and Bob goes silent, for a few seconds;
//! when it returns, what was connected over it has been forgotten, so that only what both nodes
//! hold durably can carry on. At the end all three folders are compared on disk.
//!
//! The demo holds if the cut fell inside the transfer, the transfer went on where it had been
//! acknowledged, next to nothing crossed twice, data flowed soon after the return, and the three
//! folders are identical. Everything lies in a temporary directory.

mod show;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tempfile::TempDir;

use crate::cluster::SHARE;
use crate::faults::{CutKind, Faults, Survivors};
use crate::net::{Place, free_loopback};
use crate::node::{Node, NodeSpec};
use crate::oracle;
use crate::proxy::Proxy;
use crate::status::Status;
use crate::tree;

use show::Show;

/// The big file.
const BIG_BYTES: u64 = 256 * 1024 * 1024;
/// Its name.
const BIG_KEY: &str = "big.bin";
/// The small files: how many, and of how many bytes each.
const SMALL_FILES: u64 = 500;
const SMALL_BYTES: usize = 4096;
/// How fast the links are: slow enough that the transfer and its cut can be watched.
const LINK_BYTES_PER_SECOND: u64 = 64_000_000;
/// How long the link is silent.
const SILENCE: Duration = Duration::from_secs(4);
/// Most content that may cross twice. What was acknowledged never does; this is for what was on
/// its way.
const RESENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest wait for data after the link's return.
const RETURN_SECONDS_MAX: f64 = 1.0;
/// Longest wait for any step before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the nodes are asked while something is watched.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);
/// The seed of the data: everyone sees the same demo.
const SEED: u64 = 1966;
/// Who takes part, and the port that each is shown on where it is free.
const CAST: [(&str, &str, u16); 3] =
    [("A", "alice", 8080), ("B", "bob", 8180), ("C", "carol", 8280)];

/// How to run the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The `highwater` program.
    pub exe: PathBuf,
    /// Whether to print the figures as one JSON document and nothing else on standard output.
    pub json: bool,
    /// Whether to leave the nodes running and their files in place.
    pub keep: bool,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Whether everything held.
    pub held: bool,
    /// What did not, a sentence each.
    pub failures: Vec<String>,
    /// The size of the big file.
    pub big_bytes: u64,
    /// How much of it Bob had acknowledged when the link went silent.
    pub cut_at_bytes: u64,
    /// Where it went on after the return.
    pub resumed_at_bytes: Option<u64>,
    /// Content bytes that Bob was sent although he had them.
    pub resent_bytes: u64,
    /// Bytes that the link had carried towards Bob in all, encryption and protocol included.
    pub link_bytes: u64,
    /// How long the link was silent.
    pub silent_seconds: f64,
    /// From the return of the link to the first new content.
    pub link_up_to_data_seconds: f64,
    /// From start to identical folders.
    pub seconds: f64,
    /// The nodes.
    pub nodes: Vec<DemoNode>,
    /// Where everything lies, if it was kept.
    pub directory: Option<PathBuf>,
}

/// One node of the demo.
#[derive(Clone, Debug, Serialize)]
pub struct DemoNode {
    /// `A`, `B` or `C`.
    pub name: String,
    /// Whom it serves.
    pub user: String,
    /// Its id.
    pub node_id: String,
    /// Its HTTP address.
    pub http: SocketAddr,
    /// What its folder on disk comes to.
    pub tree_hash: String,
    /// Its process, if it was left running.
    pub pid: Option<u32>,
}

/// Runs the demo from beginning to end. An error means that it could not be carried out; what it
/// found is in the report.
pub fn run(options: DemoOptions) -> Result<DemoReport> {
    let show = Show::new();
    let mut stage = Stage::set(&options.exe, &show)?;
    let report = stage.play(&show)?;
    let report = if options.keep { stage.leave(report)? } else { report };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", show::table(&report));
    }
    Ok(report)
}

/// The nodes in their places.
struct Stage {
    dir: TempDir,
    nodes: Vec<Node>,
    /// The link from B to A, and that from C to B.
    links: [Proxy; 2],
    began: Instant,
}

/// What was seen while the link was cut and came back.
struct Cut {
    acked: u64,
    silent: Duration,
    resumed_from: Option<u64>,
    data_after: Duration,
}

impl Stage {
    /// Makes the data and the nodes, and starts them.
    fn set(exe: &Path, show: &Show) -> Result<Stage> {
        let began = Instant::now();
        let dir = tempfile::Builder::new().prefix("highwater-demo-").tempdir()?;
        show.say(&format!(
            "making 256 MiB and {SMALL_FILES} small files in {}",
            dir.path().display()
        ));
        let nodes = CAST.iter().map(|cast| make_node(exe, dir.path(), cast, show));
        let mut nodes = nodes.collect::<Result<Vec<_>>>()?;
        let folder = nodes[0].folder(SHARE);
        tree::write_file(&folder.join(BIG_KEY), BIG_BYTES, SEED)?;
        tree::write_many(&folder.join("small"), SMALL_FILES, SMALL_BYTES, SEED)?;
        let links = [link(&nodes[1], &nodes[0])?, link(&nodes[2], &nodes[1])?];
        show.say("starting Alice (A), Bob (B) and Carol (C): A - B - C, A and C never meet");
        nodes.iter_mut().try_for_each(Node::start)?;
        for node in &nodes {
            show.say(&format!("  {} serves http://{}", node.spec().name, node.spec().http));
        }
        Ok(Stage { dir, nodes, links, began })
    }

    fn play(&mut self, show: &Show) -> Result<DemoReport> {
        let cut = self.cut_at_half(show)?;
        self.watch(show, "everything is in sync", |statuses| statuses.iter().all(Status::in_sync))?;
        show.finish();
        show.say("comparing the three folders on disk");
        self.judge(&cut)
    }

    /// Silences the first link at half of the big file, waits, and lets it return.
    fn cut_at_half(&self, show: &Show) -> Result<Cut> {
        let half = |status: &Status| acked(status).is_some_and(|acked| acked >= BIG_BYTES / 2);
        self.watch(show, "Bob has half of the big file", |statuses| half(&statuses[1]))?;
        self.links[0].cut(CutKind::Silent);
        let cut_at = Instant::now();
        show.say("the link between A and B has gone silent; nobody was told");
        let resumes = |_: &[Status]| cut_at.elapsed() >= SILENCE;
        let statuses = self.watch(show, "the silence is over", resumes)?;
        let at_cut = acked(&statuses[1]);
        let silent = cut_at.elapsed();
        self.links[0].heal_with(Survivors::Reset);
        let healed = Instant::now();
        show.say("the link is back; what was connected over it is forgotten");
        // Small contents may come before, while the transfer that was broken is still listed.
        let flows = |statuses: &[Status]| acked(&statuses[1]) > at_cut;
        let statuses = self.watch(show, "data flows again", flows)?;
        let data_after = healed.elapsed();
        let resumed_from = statuses[1].transfer(BIG_KEY).map(|transfer| transfer.resumed_from);
        let acked =
            at_cut.context("the big file was no longer on its way when the link was cut")?;
        Ok(Cut { acked, silent, resumed_from, data_after })
    }

    /// Asks and shows all nodes until `done`; what they said last.
    fn watch(
        &self,
        show: &Show,
        what: &str,
        done: impl Fn(&[Status]) -> bool,
    ) -> Result<Vec<Status>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let statuses = self.nodes.iter().map(Node::status).collect::<Result<Vec<_>>>()?;
            show.progress(&statuses);
            if done(&statuses) {
                return Ok(statuses);
            }
            ensure!(
                Instant::now() < deadline,
                "gave up after {PATIENCE:?} waiting until {what}; the nodes said {statuses:#?}"
            );
            thread::sleep(WATCH_INTERVAL);
        }
    }

    fn judge(&self, cut: &Cut) -> Result<DemoReport> {
        let trees = self.nodes.iter().map(|node| oracle::read_tree(&node.folder(SHARE)));
        let hashes = trees.map(|tree| tree.map(|tree| oracle::tree_hash(&tree)));
        let hashes = hashes.collect::<Result<Vec<_>>>()?;
        let seconds = self.began.elapsed().as_secs_f64();
        let counters = self.nodes[1].status()?.counters;
        let nodes = self.nodes.iter().zip(hashes).map(|(node, tree_hash)| DemoNode {
            name: node.spec().name.clone(),
            user: node.spec().user.clone(),
            node_id: node.id().to_owned(),
            http: node.spec().http,
            tree_hash,
            pid: None,
        });
        let mut report = DemoReport {
            held: false,
            failures: Vec::new(),
            big_bytes: BIG_BYTES,
            cut_at_bytes: cut.acked,
            resumed_at_bytes: cut.resumed_from,
            resent_bytes: counters.content_bytes_resent,
            link_bytes: self.links[0].report().bytes(crate::faults::Direction::Backward),
            silent_seconds: cut.silent.as_secs_f64(),
            link_up_to_data_seconds: cut.data_after.as_secs_f64(),
            seconds,
            nodes: nodes.collect(),
            directory: None,
        };
        report.failures = failures(&report);
        report.held = report.failures.is_empty();
        Ok(report)
    }

    /// Links the nodes directly, since the proxies end with this process, and lets them live on.
    fn leave(self, mut report: DemoReport) -> Result<DemoReport> {
        for (dialler, listener) in [(1, 0), (2, 1)] {
            let (dialler, listener) = (&self.nodes[dialler], &self.nodes[listener]);
            dialler.run(&["peer", "remove", listener.id()])?;
            dialler.add_peer(listener.id(), Some(listener.spec().sync), &[SHARE])?;
        }
        for (node, shown) in self.nodes.into_iter().zip(&mut report.nodes) {
            shown.pid = node.leave_running();
        }
        report.directory = Some(self.dir.keep());
        Ok(report)
    }
}

/// What of the demo did not hold.
fn failures(report: &DemoReport) -> Vec<String> {
    let mut failures = Vec::new();
    let mut demand = |held: bool, failure: String| {
        if !held {
            failures.push(failure);
        }
    };
    let (cut, big) = (report.cut_at_bytes, report.big_bytes);
    demand(cut > 0 && cut < big, format!("the cut at {cut} fell outside the transfer of {big}"));
    let resumed = report.resumed_at_bytes;
    demand(
        resumed.is_some_and(|resumed| resumed >= cut),
        format!("the transfer was cut at {cut} and resumed at {resumed:?}"),
    );
    demand(
        report.resent_bytes <= RESENT_BYTES_MAX,
        format!("{} content bytes were sent again", report.resent_bytes),
    );
    demand(
        report.link_up_to_data_seconds <= RETURN_SECONDS_MAX,
        format!("data flowed only {:.2} s after the return", report.link_up_to_data_seconds),
    );
    let first = &report.nodes[0].tree_hash;
    for node in &report.nodes[1..] {
        demand(node.tree_hash == *first, format!("the folder of {} differs", node.name));
    }
    failures
}

fn acked(status: &Status) -> Option<u64> {
    status.transfer(BIG_KEY).map(|transfer| transfer.acked_offset)
}

fn make_node(
    exe: &Path,
    parent: &Path,
    &(name, user, port): &(&str, &str, u16),
    show: &Show,
) -> Result<Node> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let http = if TcpListener::bind(wanted).is_ok() { wanted } else { free_loopback()? };
    if http != wanted {
        show.say(&format!("port {port} is taken: {name} will be on {http} instead"));
    }
    let spec = NodeSpec {
        exe: exe.to_owned(),
        name: name.to_owned(),
        user: user.to_owned(),
        place: Place::Here,
        sync: free_loopback()?,
        http,
    };
    let node = Node::init(spec, parent)?;
    node.add_share(SHARE)?;
    fs::create_dir_all(node.folder(SHARE))?;
    Ok(node)
}

/// Lets `dialler` reach `listener` through a proxy.
fn link(dialler: &Node, listener: &Node) -> Result<Proxy> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let proxy = Proxy::start(any, listener.spec().sync).context("starting a fault proxy")?;
    proxy.set_both(Faults::rate(LINK_BYTES_PER_SECOND));
    listener.add_peer(dialler.id(), None, &[SHARE])?;
    dialler.add_peer(listener.id(), Some(proxy.addr()), &[SHARE])?;
    Ok(proxy)
}
