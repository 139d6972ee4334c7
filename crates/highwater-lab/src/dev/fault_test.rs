//! `highwater dev fault-test`: the fault-tolerance test, on a development cluster that runs.
//!
//! It looks at the health of every node, probes every link, carries one file to everyone, and then
//! cuts the last node off for ten seconds in the middle of another one: all its links are led
//! through fault proxies of this process, which let nothing pass and tell nobody. When the links
//! return, what was connected over them has been forgotten, so that only what both sides hold
//! durably can carry the transfer on. At the end the files are compared on disk, byte by byte, and
//! the links are led directly again.
//!
//! Every line that is shown with a mark is one [`Check`], decided from what was measured. A cut
//! that fell outside the transfer, or let anything through, fails the test: then nothing was shown.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

mod judge;
mod report;

use judge::judge;
pub use report::{Arrival, Check, CutRun, FaultReport, Sample, SyncRun};

use super::ledger::{self, Ledger};
use super::probe::{LinkProbes, PROBES};
use super::{existing, report, settle, wiring};
use crate::faults::{CutKind, Direction, Faults, Survivors};
use crate::node::Node;
use crate::proxy::Proxy;
use crate::status::{Status, TransferStatus};
use crate::tree;

/// The file that is carried without a fault.
const PLAIN_BYTES: u64 = 64 * 1024 * 1024;
/// The file whose transfer is cut.
const CUT_BYTES: u64 = 128 * 1024 * 1024;
/// How fast each link of the receiver is while the second file travels: slow enough that a cut
/// falls inside the transfer on any machine.
const LINK_BYTES_PER_SECOND: u64 = 16_000_000;
/// How long the receiver is cut off.
const CUT_FOR: Duration = Duration::from_secs(10);
/// What a proxy had taken in before the cut may still be handed over for a moment.
const CUT_TAKES_HOLD: Duration = Duration::from_millis(500);
/// Longest wait for any step before the test gives up: far beyond what a loaded machine takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the nodes are asked while something is watched.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);
/// How often progress is written down.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Where the test keeps its files inside the share.
const OWN_DIR: &str = "fault-test";

/// Runs the test on the cluster in `dir`. `say` takes a line for people now and then.
///
/// # Errors
/// When it could not be carried out. What it found is in the report.
pub fn fault_test(dir: &Path, say: &dyn Fn(&str)) -> Result<FaultReport> {
    let (_, dir) = existing(dir)?;
    let _lock = ledger::lock(&dir)?;
    let (ledger, _) = existing(&dir)?;
    ensure!(ledger.nodes.len() > 1, "a cluster of one has no link that could be cut; make more");
    let down: Vec<&str> =
        ledger.nodes.iter().filter(|n| n.running().is_none()).map(|n| &*n.name).collect();
    ensure!(down.is_empty(), "{} does not run; `highwater dev up` starts it", down.join(", "));
    let began = Instant::now();
    // A test that was interrupted may have left files, and links that lead into its proxies.
    clear_away(&ledger, &dir, say)?;
    say("health of every node");
    let nodes = report(&ledger, &dir).nodes;
    let bench = Bench::set(&ledger, &dir, say)?;
    let found = bench.play(say);
    say("leading the links directly again");
    clear_away(&ledger, &dir, say)?;
    let (links, sync, cut) = found?;
    let checks = judge(&nodes, &links, &sync, &cut);
    let held = checks.iter().all(|check| check.holds);
    let seconds = began.elapsed().as_secs_f64();
    Ok(FaultReport { held, checks, nodes, links, sync, cut, seconds })
}

/// Takes proxies out of the links again, removes the test's files everywhere, and waits until that
/// is so.
fn clear_away(ledger: &Ledger, dir: &Path, say: &dyn Fn(&str)) -> Result<()> {
    wiring::wire(ledger, dir)?;
    let share = ledger.shares.first().map_or("", String::as_str);
    let folders: Vec<PathBuf> = (0..ledger.nodes.len())
        .map(|at| ledger.node(dir, at).folder(share).join(OWN_DIR))
        .collect();
    settle(ledger, dir, say)?;
    match fs::remove_dir_all(&folders[0]) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", folders[0].display()));
        }
        _ => {}
    }
    let deadline = Instant::now() + PATIENCE;
    while let Some(left) = folders.iter().find(|folder| folder.exists()) {
        ensure!(Instant::now() < deadline, "{} was not removed", left.display());
        thread::sleep(WATCH_INTERVAL);
    }
    settle(ledger, dir, &|_| {})
}

/// What the test is carried out with: the nodes, and a proxy in every link of the last one.
struct Bench<'a> {
    ledger: &'a Ledger,
    dir: &'a Path,
    share: &'a str,
    nodes: Vec<Node>,
    /// The links of the receiver: the node at the other end, and what lies in between.
    links: Vec<(usize, Proxy)>,
}

impl<'a> Bench<'a> {
    /// Leads the last node's links through proxies and waits until they stand again.
    fn set(ledger: &'a Ledger, dir: &'a Path, say: &dyn Fn(&str)) -> Result<Self> {
        let nodes: Vec<Node> = (0..ledger.nodes.len()).map(|at| ledger.node(dir, at)).collect();
        let receiver = nodes.len() - 1;
        let shares: Vec<&str> = ledger.shares.iter().map(String::as_str).collect();
        say(&format!("leading the links of {} through fault proxies", nodes[receiver].spec().name));
        let mut links = Vec::new();
        for (dialler, listener) in wiring::pairs(nodes.len()) {
            if dialler == receiver {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let proxy = Proxy::start(any, nodes[listener].spec().sync)
                    .context("starting a fault proxy")?;
                // The link that stands goes with the peer; the next one takes the new address.
                nodes[dialler].run(&["peer", "remove", nodes[listener].id()])?;
                wiring::add_peer(&nodes[dialler], &nodes[listener], Some(proxy.addr()), &shares)?;
                links.push((listener, proxy));
            }
        }
        let bench =
            Self { ledger, dir, share: shares.first().copied().unwrap_or_default(), nodes, links };
        let ready = settle(ledger, dir, say).and_then(|()| bench.demand_proxied());
        if ready.is_err() {
            clear_away(ledger, dir, say)?;
        }
        ready.map(|()| bench)
    }

    fn demand_proxied(&self) -> Result<()> {
        for (other, proxy) in &self.links {
            let name = &self.nodes[*other].spec().name;
            ensure!(proxy.report().connections_used() > 0, "the link to {name} avoids its proxy");
        }
        Ok(())
    }

    fn play(&self, say: &dyn Fn(&str)) -> Result<(Vec<LinkProbes>, SyncRun, CutRun)> {
        let links = self.probe(say);
        let sync = self.sync(say)?;
        let cut = self.cut(say)?;
        Ok((links, sync, cut))
    }

    fn probe(&self, say: &dyn Fn(&str)) -> Vec<LinkProbes> {
        say(&format!("{PROBES} probes of every link"));
        let pairs = wiring::pairs(self.nodes.len());
        let probe = |(a, b): (usize, usize)| LinkProbes::measure(&self.nodes[a], &self.nodes[b]);
        pairs.into_iter().map(probe).collect()
    }

    /// Carries a file from the first node to all others.
    fn sync(&self, say: &dyn Fn(&str)) -> Result<SyncRun> {
        say(&format!("a file of {} MiB to everyone", PLAIN_BYTES >> 20));
        let file = self.write("plain.bin", PLAIN_BYTES)?;
        let hash = hash(&file)?;
        let (began, mut progress) = (Instant::now(), Vec::new());
        let mut arrivals: Vec<Option<Arrival>> = vec![None; self.nodes.len()];
        let deadline = began + PATIENCE;
        while arrivals[1..].iter().any(Option::is_none) {
            self.sample(&mut progress, began, "plain.bin");
            for (index, node) in self.nodes.iter().enumerate().skip(1) {
                let there = node.folder(self.share).join(OWN_DIR).join("plain.bin");
                if arrivals[index].is_none() && there.exists() {
                    let seconds = began.elapsed().as_secs_f64();
                    let identical = self::hash(&there)? == hash;
                    let node = node.spec().name.clone();
                    arrivals[index] = Some(Arrival { node, seconds, identical });
                }
            }
            ensure!(Instant::now() < deadline, "the file did not arrive within {PATIENCE:?}");
            thread::sleep(WATCH_INTERVAL);
        }
        let from = self.nodes[0].spec().name.clone();
        Ok(SyncRun {
            from,
            bytes: PLAIN_BYTES,
            arrivals: arrivals.into_iter().flatten().collect(),
            progress,
        })
    }

    /// Cuts the receiver off in the middle of a file, for ten seconds.
    fn cut(&self, say: &dyn Fn(&str)) -> Result<CutRun> {
        self.each(|proxy| proxy.set_both(Faults::rate(LINK_BYTES_PER_SECOND)));
        let receiver = &self.nodes[self.receiver()];
        let resent = receiver.status()?.counters.content_bytes_resent;
        say(&format!("a file of {} MiB, to be cut", CUT_BYTES >> 20));
        let file = self.write("cut.bin", CUT_BYTES)?;
        let hash = hash(&file)?;
        let (began, mut progress) = (Instant::now(), Vec::new());
        let mut watch = |what: &str, done: &mut dyn FnMut(&Status) -> bool| {
            self.watch(what, "cut.bin", began, &mut progress, done)
        };
        let third = |status: &Status| acked(status).is_some_and(|acked| acked >= CUT_BYTES / 3);
        watch("a third of the file was acknowledged", &mut |status| third(status))?;
        self.each(|proxy| proxy.cut(CutKind::Silent));
        let cut_at = Instant::now();
        let before = acked(&receiver.status()?).context("the transfer ended before the cut")?;
        say(&format!("the links are silent at {} MiB; nobody was told", before >> 20));
        watch("the cut took hold", &mut |_| cut_at.elapsed() >= CUT_TAKES_HOLD)?;
        let carried = self.carried();
        watch("the cut was over", &mut |_| cut_at.elapsed() >= CUT_FOR)?;
        let passed = self.carried() - carried;
        let silent = receiver.status()?;
        let received = silent.counters.content_bytes_received;
        let at_return = acked(&silent).context("the transfer ended during the cut")?;
        let cut_seconds = cut_at.elapsed().as_secs_f64();
        self.each(|proxy| proxy.heal_with(Survivors::Reset));
        let healed = Instant::now();
        say("the links are back; what was connected over them is forgotten");
        watch("data flowed again", &mut |status| {
            status.counters.content_bytes_received > received
        })?;
        let return_to_data_seconds = healed.elapsed().as_secs_f64();
        let resumed_from = watch("the transfer was taken up", &mut |status| {
            acked(status).is_none_or(|acked| acked > at_return)
        })?
        .transfer(&key("cut.bin"))
        .map(|transfer| transfer.resumed_from);
        let flowing = Instant::now();
        watch("the file was whole", &mut |status| {
            status.transfer(&key("cut.bin")).is_none() && status.in_sync()
        })?;
        let rest_seconds = flowing.elapsed().as_secs_f64();
        let identical = self.identical_everywhere("cut.bin", &hash)?;
        Ok(CutRun {
            from: self.nodes[0].spec().name.clone(),
            receiver: receiver.spec().name.clone(),
            bytes: CUT_BYTES,
            before,
            at_return,
            passed_during_cut: passed,
            cut_seconds,
            return_to_data_seconds,
            resumed_from,
            resent_bytes: receiver.status()?.counters.content_bytes_resent - resent,
            rest_seconds,
            progress,
            identical,
        })
    }
}

/// The small tools of the test.
impl Bench<'_> {
    fn receiver(&self) -> usize {
        self.nodes.len() - 1
    }

    fn each(&self, act: impl Fn(&Proxy)) {
        self.links.iter().for_each(|(_, proxy)| act(proxy));
    }

    /// Bytes that all proxies have passed on, both ways.
    fn carried(&self) -> u64 {
        let bytes = |proxy: &Proxy| {
            let report = proxy.report();
            Direction::BOTH.into_iter().map(|direction| report.bytes(direction)).sum::<u64>()
        };
        self.links.iter().map(|(_, proxy)| bytes(proxy)).sum()
    }

    /// Writes a file that was never there before into the first node's folder, in one step.
    fn write(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let (outside, dir) =
            (self.dir.join("new.bin"), self.nodes[0].folder(self.share).join(OWN_DIR));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let mut seed = [0; 8];
        fs::File::open("/dev/urandom")
            .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut seed))?;
        tree::write_file(&outside, bytes, u64::from_ne_bytes(seed))?;
        let file = dir.join(name);
        fs::rename(&outside, &file).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    fn sample(&self, progress: &mut Vec<Sample>, began: Instant, name: &str) {
        let seconds = began.elapsed().as_secs_f64();
        let due = progress
            .last()
            .is_none_or(|last| seconds - last.seconds >= SAMPLE_INTERVAL.as_secs_f64());
        if due
            && let Ok(status) = self.nodes[self.receiver()].status()
            && let Some(transfer) = status.transfer(&key(name))
        {
            progress.push(Sample { seconds, acked_offset: transfer.acked_offset });
        }
    }

    /// Asks the receiver until `done`, writing its progress down; what it said last.
    fn watch(
        &self,
        what: &str,
        name: &str,
        began: Instant,
        progress: &mut Vec<Sample>,
        done: &mut dyn FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.sample(progress, began, name);
            let status = self.nodes[self.receiver()].status()?;
            if done(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// Whether the file is the same on every disk, waiting for the nodes in between.
    fn identical_everywhere(&self, name: &str, expected: &str) -> Result<bool> {
        settle(self.ledger, self.dir, &|_| {})?;
        let path = |node: &Node| node.folder(self.share).join(OWN_DIR).join(name);
        let hashes = self.nodes.iter().map(|node| hash(&path(node))).collect::<Result<Vec<_>>>()?;
        Ok(hashes.iter().all(|hash| hash == expected))
    }
}

fn key(name: &str) -> String {
    format!("{OWN_DIR}/{name}")
}

fn acked(status: &Status) -> Option<u64> {
    status.transfer(&key("cut.bin")).map(|TransferStatus { acked_offset, .. }| *acked_offset)
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let read = fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    read.with_context(|| format!("reading {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}
