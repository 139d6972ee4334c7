//! `highwater-lab http-bench`: how fast a node answers people while a large transfer runs.
//!
//! Two nodes on the loopback, one large file. While it goes over, one client at each node asks for
//! one document after another, each over a connection of its own as `curl` does it, and the time is
//! taken from before it connects until it has read the last byte. The same is done before, with
//! nothing under way, for comparison.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::cluster::{Cluster, SHARE};
use crate::http;
use crate::scale::Spread;
use crate::status::Status;
use crate::tree;

/// What is asked for, in turn.
const PATHS: [&str; 8] = [
    "/health",
    "/api/v1/status",
    "/api/v1/shares",
    "/api/v1/transfers",
    "/api/v1/peers",
    "/api/v1/cluster/nodes",
    "/api/v1/alerts",
    "/metrics",
];
/// Between two requests of a client: a busy dashboard with several viewers.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the idle nodes are asked.
const IDLE: Duration = Duration::from_secs(5);
/// Longest wait for one transfer.
const PATIENCE: Duration = Duration::from_secs(900);
/// The bar for 99 of 100 answers, in milliseconds.
const BAR_MS: f64 = 50.0;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct HttpBenchOptions {
    /// The highwater program, from a release build
    #[arg(long, default_value = "target/release/highwater")]
    pub exe: PathBuf,
    /// Size of the file in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    pub mib: u64,
    /// How many files, one after another
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
}

/// Milliseconds that answers took, by path.
type Answers = BTreeMap<&'static str, Vec<f64>>;

/// Measures and prints a table; whether 99 of 100 answers during the transfers came within the bar,
/// at either node.
///
/// # Errors
/// When a node does not answer, or the file does not arrive.
pub fn run(options: &HttpBenchOptions) -> Result<bool> {
    let cluster = Cluster::new(&options.exe, &["from", "to"], &[])?;
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    // Without a proxy between them, which would take its part of the processors.
    from.add_peer(to.id(), Some(to.spec().sync), &[SHARE])?;
    to.add_peer(from.id(), Some(from.spec().sync), &[SHARE])?;
    let mut cluster = cluster;
    cluster.start_all()?;
    cluster.wait_in_sync(PATIENCE)?;
    let idle = asking(&cluster, || {
        thread::sleep(IDLE);
        Ok(())
    })?;
    println!("answers in milliseconds, one client at each node, a request every {PAUSE:?}");
    table("nothing under way", &idle);
    let (mut all, mut seconds) = ([Answers::new(), Answers::new()], Vec::new());
    for number in 0..options.runs {
        tree::write_file(&cluster.dir().join("file"), options.mib << 20, number)?;
        let began = Instant::now();
        let answers = asking(&cluster, || transfer(&cluster, number, options.mib << 20))?;
        seconds.push(began.elapsed().as_secs_f64());
        for (all, answers) in all.iter_mut().zip(answers) {
            answers
                .into_iter()
                .for_each(|(path, times)| all.entry(path).or_default().extend(times));
        }
    }
    table(&format!("while {} MiB go over, {} times", options.mib, options.runs), &all);
    println!("a transfer took {:.1} s (middle)", Spread::of(seconds).p50);
    Ok(all.iter().all(|answers| spread(answers.values()).p99 <= BAR_MS))
}

/// Lets one file appear at the first node and waits until the second has all of it.
fn transfer(cluster: &Cluster, number: u64, bytes: u64) -> Result<()> {
    let name = format!("file-{number}");
    std::fs::rename(cluster.dir().join("file"), cluster.folder(0).join(&name))?;
    let there = cluster.folder(1).join(&name);
    let arrived = |status: &Status| {
        status.in_sync() && std::fs::metadata(&there).is_ok_and(|file| file.len() == bytes)
    };
    cluster.nodes[1].wait_until("the file is there", PATIENCE, arrived).map(drop)
}

/// What both nodes' clients met while `work` went on.
fn asking(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<[Answers; 2]> {
    let stop = AtomicBool::new(false);
    let addrs = [cluster.nodes[0].spec().http, cluster.nodes[1].spec().http];
    thread::scope(|scope| {
        let clients = addrs.map(|addr| {
            let stop = &stop;
            scope.spawn(move || ask_on(addr, stop))
        });
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let answers =
            clients.map(|client| client.join().unwrap_or_else(|_| Err(anyhow!("a panic"))));
        worked?;
        let [from, to] = answers;
        Ok([from?, to?])
    })
}

fn ask_on(addr: SocketAddr, stop: &AtomicBool) -> Result<Answers> {
    let mut answers = Answers::new();
    for path in PATHS.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        ensure!(!http::get(addr, path)?.is_empty(), "{path} is empty at {addr}");
        answers.entry(path).or_default().push(began.elapsed().as_secs_f64() * 1000.0);
        thread::sleep(PAUSE);
    }
    Ok(answers)
}

fn spread<'a>(times: impl Iterator<Item = &'a Vec<f64>>) -> Spread {
    Spread::of(times.flatten().copied())
}

fn table(what: &str, answers: &[Answers; 2]) {
    println!("\n| {what} | answers | p50 | p99 | most |\n| --- | ---: | ---: | ---: | ---: |");
    for (node, answers) in ["sending", "receiving"].into_iter().zip(answers) {
        println!("{}", Line(&format!("{node} node"), spread(answers.values())));
        for (path, times) in answers {
            println!("{}", Line(path, Spread::of(times.iter().copied())));
        }
    }
}

/// One line of the table.
struct Line<'a>(&'a str, Spread);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { count, p50, p99, max, .. } = self.1;
        write!(f, "| {} | {count} | {p50:.1} | {p99:.1} | {max:.1} |", self.0)
    }
}
