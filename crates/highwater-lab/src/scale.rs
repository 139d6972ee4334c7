//! `highwater-lab scale`: how many nodes one machine carries, and what each of them costs.
//!
//! For each size it makes that many real nodes that share one folder (`scale/crowd.rs`), starts them
//! in waves, and measures from outside: when every node sees every other; what an idle node takes of
//! memory and processor (`scale/kernel.rs`); how many links it keeps; when a small change stands in
//! every folder (`scale/change.rs`); and, with an ear at the events of every node
//! (`scale/ears.rs`), when all have noticed that one node was killed, and ten at once
//! (`scale/deaths.rs`). Whoever is called suspect or failed and was not killed is counted against
//! the product. Instead of killing, it can load the nodes with real transfers (`scale/load.rs`).
//!
//! The figures go to standard output as a table, and on demand to a file as JSON and to another as a
//! plot (`scale/plot.rs`). Every process is on record in the directory of the run, so that what an
//! interrupted run has left is stopped by its recorded ids and nothing else is.

mod change;
mod crowd;
mod deaths;
mod ears;
mod kernel;
mod load;
mod plot;
mod spread;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use change::ChangeReport;
use crowd::{Crowd, Listing};
use deaths::DeathReport;
use ears::Ears;
use kernel::{Cost, Machine};
use load::LoadReport;
pub(crate) use spread::Spread;

/// Links are settled and freed memory is given back this long after all see each other: the overlay
/// lets go of spare links for the first time after 15 s.
const SETTLE: Duration = Duration::from_secs(30);
/// Nodes that are killed at once.
const KILLED_AT_ONCE: usize = 10;
/// Most nodes: a node remembers 1024 members.
const NODES_MAX: usize = 1000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct ScaleOptions {
    /// The highwater program, from a release build
    #[arg(long, default_value = "target/release/highwater")]
    pub exe: PathBuf,
    /// How many nodes, one size after another
    #[arg(long, value_delimiter = ',', default_value = "50,100,200,300")]
    pub nodes: Vec<usize>,
    /// Peers that each node lists; without it everyone lists everyone
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..))]
    pub peers: Option<u16>,
    /// How many nodes are started at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub wave: u16,
    /// How long each wave has for its handshakes before the next is started
    #[arg(long, default_value_t = 2000)]
    pub wave_pause_ms: u64,
    /// How long the idle nodes are watched
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_seconds: u64,
    /// How many small changes are made, one after another
    #[arg(long, default_value_t = 30)]
    pub changes: usize,
    /// Load the nodes with transfers for this long instead of killing some
    #[arg(long)]
    pub load_minutes: Option<u64>,
    /// Write the figures to this file as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Draw the figures into this file as SVG
    #[arg(long)]
    pub plot: Option<PathBuf>,
    /// Where the nodes lie; a temporary directory without it
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Only stop the processes that an interrupted run has left on record in this directory
    #[arg(long, conflicts_with = "dir")]
    pub stop: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct ScaleReport {
    /// The command.
    pub command: String,
    /// When, by the clock of the first node, RFC 3339.
    pub date: String,
    /// The commit that this directory is at, and what the program says of itself.
    pub commit: String,
    /// The machine.
    pub machine: Machine,
    /// One row for each size.
    pub rows: Vec<Row>,
}

/// What was measured with one number of nodes. Times are milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How many nodes.
    pub nodes: usize,
    /// Peers that each lists, at most.
    pub peers_listed_max: usize,
    /// From the first start to the last node that serves.
    pub started_ms: u64,
    /// From the first start until every node sees every other.
    pub all_seen_ms: u64,
    /// How often a living node was called suspect while they came up, by the nodes' logs.
    pub suspected_at_start: u64,
    /// How often one was called failed.
    pub failed_at_start: u64,
    /// Links of a node.
    pub links: Spread,
    /// What idle nodes take.
    pub idle: Cost,
    /// Small changes to everybody.
    pub changes: Option<ChangeReport>,
    /// One node killed.
    pub one_killed: Option<DeathReport>,
    /// Many killed at once.
    pub many_killed: Option<DeathReport>,
    /// Work under load.
    pub load: Option<LoadReport>,
    /// How often a living node was called suspect after that.
    pub false_suspicions: u64,
    /// How often a living node was called failed.
    pub false_failures: u64,
    /// Nodes that did not stop in order.
    pub not_stopped: Vec<String>,
}

impl Row {
    /// Whether nobody was wrong about anybody, and all ended as told.
    fn held(&self) -> bool {
        let nobody_wronged = self.failed_at_start == 0 && self.false_failures == 0;
        let moved = self.load.as_ref().is_none_or(LoadReport::held);
        nobody_wronged && moved && self.not_stopped.is_empty()
    }
}

/// Measures all sizes; whether nobody was falsely taken for failed and all nodes stopped in order.
///
/// # Errors
/// What stands in the way. Every node is stopped then.
pub fn run(options: &ScaleOptions) -> Result<bool> {
    if let Some(dir) = &options.stop {
        let stopped = crowd::stop_left(dir)?;
        println!("{stopped} processes were stopped");
        return Ok(true);
    }
    ensure!(
        options.nodes.iter().all(|nodes| (2..=NODES_MAX).contains(nodes)),
        "--nodes takes numbers from 2 to {NODES_MAX}"
    );
    let exe = fs::canonicalize(&options.exe)
        .with_context(|| format!("finding the program {}", options.exe.display()))?;
    let options = ScaleOptions { exe, ..options.clone() };
    kernel::demand_room(options.nodes.iter().copied().max().unwrap_or(0))?;
    let mut report = ScaleReport {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        date: String::new(),
        commit: commit(),
        machine: Machine::here()?,
        rows: Vec::new(),
    };
    for &nodes in &options.nodes {
        let row = measure(&options, nodes, &mut report.date)?;
        println!("{}", table::row(&row));
        report.rows.push(row);
        if let Some(path) = &options.json {
            write(path, &serde_json::to_vec_pretty(&report)?)?;
        }
        if let Some(path) = &options.plot {
            write(path, plot::draw(&report).as_bytes())?;
        }
    }
    println!("{}", table::all(&report));
    Ok(report.rows.iter().all(Row::held))
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Measures one size.
fn measure(options: &ScaleOptions, nodes: usize, date: &mut String) -> Result<Row> {
    let listing = options.peers.map_or(Listing::Everybody, |peers| Listing::Few(peers.into()));
    let temporary = match &options.dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("highwater-scale-").tempdir()?),
    };
    let dir = temporary.as_ref().map(|dir| dir.path().to_owned());
    let dir = dir.or_else(|| options.dir.clone()).context("there is no directory")?;
    say(&format!("making {nodes} nodes in {}", dir.display()));
    let mut crowd = Crowd::make(&options.exe, &dir.join(nodes.to_string()), nodes, listing)?;
    let began = Instant::now();
    crowd.start(options.wave.into(), Duration::from_millis(options.wave_pause_ms))?;
    let started = began.elapsed();
    say(&format!("{nodes} nodes serve after {started:.1?}; waiting until all see each other"));
    crowd.wait_all_seen()?;
    let all_seen = began.elapsed();
    say(&format!("all {nodes} see each other after {all_seen:.1?}"));
    *date = crowd.date()?;
    let (suspected_at_start, failed_at_start) = crowd.wrongly_called()?;
    let mut ears = Ears::at(&crowd)?;
    ears.listen_for(SETTLE)?;
    let links = Spread::of(crowd.links()?);
    say(&format!("links: {links}; watching idle nodes for {} s", options.idle_seconds));
    let idle = watch_idle(&crowd, &mut ears, Duration::from_secs(options.idle_seconds))?;
    say(&format!("idle: {idle}"));
    let mut row = Row {
        nodes,
        peers_listed_max: crowd.peers_listed_max(),
        started_ms: millis(started),
        all_seen_ms: millis(all_seen),
        suspected_at_start,
        failed_at_start,
        links,
        idle,
        changes: None,
        one_killed: None,
        many_killed: None,
        load: None,
        false_suspicions: 0,
        false_failures: 0,
        not_stopped: Vec::new(),
    };
    work(options, &mut crowd, &mut ears, &mut row)?;
    row.not_stopped = crowd.stop()?;
    ears.close();
    (row.false_suspicions, row.false_failures) = ears.false_words();
    Ok(row)
}

/// What is done with the nodes once they stand.
fn work(options: &ScaleOptions, crowd: &mut Crowd, ears: &mut Ears, row: &mut Row) -> Result<()> {
    if options.changes > 0 {
        let report = change::measure(crowd, ears, options.changes)?;
        say(&format!("changes: {}", report.arrivals));
        row.changes = Some(report);
    }
    if let Some(minutes) = options.load_minutes {
        row.load = Some(load::run(crowd, ears, Duration::from_secs(minutes * 60))?);
        return Ok(());
    }
    // The nodes that list each other are spread over the whole, and so are those that die.
    let one = deaths::measure(crowd, ears, &[row.nodes / 2])?;
    say(&format!("one killed: suspect {}, failed {}", one.suspect, one.failed));
    row.one_killed = Some(one);
    let many = KILLED_AT_ONCE.min(row.nodes / 4);
    if many > 0 {
        let chosen: Vec<usize> =
            (0..many).map(|number| number * row.nodes / many + row.nodes / (3 * many)).collect();
        let many = deaths::measure(crowd, ears, &chosen)?;
        say(&format!("{} killed: suspect {}, failed {}", chosen.len(), many.suspect, many.failed));
        row.many_killed = Some(many);
    }
    Ok(())
}

fn watch_idle(crowd: &Crowd, ears: &mut Ears, time: Duration) -> Result<Cost> {
    let before = kernel::look(&crowd.pids())?;
    ears.listen_for(time)?;
    let after = kernel::look(&crowd.pids())?;
    Ok(Cost::between(&before, &after))
}

/// What `git` says of the working directory, for the record.
fn commit() -> String {
    let asked = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).output();
    let said = asked.ok().filter(|output| output.status.success());
    said.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn say(line: &str) {
    eprintln!("{line}");
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Asks again and again until the answer is there, up to `patience`.
fn wait_for<T>(
    what: &str,
    patience: Duration,
    every: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what} did not come about within {patience:?}");
        }
        thread::sleep(every);
    }
}
