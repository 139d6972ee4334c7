//! The course of a run: rounds of storm, healing, agreement, silence and audit.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

mod agreement;

use super::ChaosOptions;
use super::audit::{self, Files, Round};
use super::client::{Client, Efforts, Gate};
use super::ground::{Ground, Shape};
use super::hands::Hands;
use super::history::{Change, Content, History};
use super::limits::{Sampler, Seen};
use super::nemesis::Nemesis;
use super::report::ChaosReport;
use super::walker::{Readings, Walker};
use crate::cluster::SHARE;
use crate::dice::Dice;
use crate::node::Node;
use crate::oracle::{Found, Tree};
use crate::status::Status;

/// How often the nemesis looks at the time.
const TICK: Duration = Duration::from_millis(20);
/// One round in so many begins with an accident.
const ACCIDENT_ONE_IN: u64 = 4;
/// How long a mass delete may take to be noticed and held back.
const ACCIDENT_PATIENCE: Duration = Duration::from_secs(60);
/// Longest pause between two operations of a client.
const PAUSE_MAX: Duration = Duration::from_millis(220);

/// A run under way.
pub(crate) struct Run {
    options: ChaosOptions,
    ground: Ground,
    nemesis: Nemesis,
    dice: Dice,
    gate: Arc<Gate>,
    history: Arc<History>,
    efforts: Arc<Efforts>,
    readings: Arc<Readings>,
    seen: Arc<Seen>,
    pids: Vec<Arc<AtomicU32>>,
    over: Arc<AtomicBool>,
    helpers: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
    files: Files,
    report: ChaosReport,
    kept: bool,
}

impl Run {
    /// Lays the ground and starts every node.
    pub(crate) fn begin(options: &ChaosOptions) -> Result<Run> {
        let mut dice = Dice::new(options.seed);
        let drawn = 3 + usize::try_from(dice.below(3))?;
        let nodes = options.nodes.unwrap_or(drawn);
        let shape =
            [Shape::Mesh, Shape::Mesh, Shape::Chain, Shape::Star][usize::try_from(dice.below(4))?];
        let dir = match &options.keep {
            Some(dir) => dir.clone(),
            None => tempfile::Builder::new().prefix("highwater-chaos-").tempdir()?.keep(),
        };
        fs::create_dir_all(&dir)?;
        let history = Arc::new(History::begin(options.seed, &dir.join("history.jsonl"))?);
        let mut ground = Ground::lay(&options.exe, &dir, nodes, shape)?;
        ground.nodes.iter_mut().try_for_each(Node::start)?;
        let report = ChaosReport {
            seed: options.seed,
            nodes,
            shape: format!("{shape:?}").to_lowercase(),
            skipped: ground.skipped.clone(),
            replay: format!(
                "highwater-lab chaos --exe {} --seed {} --minutes {} --nodes {nodes} \
                 --storm-seconds {} --sharing {}",
                options.exe.display(),
                options.seed,
                options.time.as_secs().div_ceil(60).max(1),
                options.storm.as_secs(),
                options.sharing,
            ),
            ..ChaosReport::default()
        };
        let mut run = Run {
            options: options.clone(),
            nemesis: Nemesis::new(dice.roll()),
            gate: Arc::new(Gate::new(nodes)),
            history,
            efforts: Arc::default(),
            readings: Arc::default(),
            seen: Arc::default(),
            pids: (0..nodes).map(|_| Arc::default()).collect(),
            over: Arc::default(),
            helpers: Vec::new(),
            clients: Vec::new(),
            files: Files::new(),
            report,
            kept: options.keep.is_some(),
            ground,
            dice,
        };
        run.note_pids();
        run.hire();
        Ok(run)
    }

    /// Engages clients, readers and samplers; clients wait at the gate.
    fn hire(&mut self) {
        for node in 0..self.ground.nodes.len() {
            let (folder, history) = (self.ground.folder(node), Arc::clone(&self.history));
            let scratch = self.ground.scratch(node);
            let hands = Hands { node, folder: folder.clone(), scratch, history };
            self.clients.push(Client {
                hands,
                dice: Dice::new(self.dice.roll()),
                gate: Arc::clone(&self.gate),
                efforts: Arc::clone(&self.efforts),
                pause_max: PAUSE_MAX,
                sharing: self.options.sharing,
            });
            let walker = Walker {
                node,
                folder: folder.clone(),
                history: Arc::clone(&self.history),
                readings: Arc::clone(&self.readings),
                over: Arc::clone(&self.over),
            };
            let sampler = Sampler {
                node,
                pid: Arc::clone(&self.pids[node]),
                folder,
                home: self.ground.nodes[node].home(),
                status: self.ground.nodes[node].status_source(),
                seen: Arc::clone(&self.seen),
                over: Arc::clone(&self.over),
            };
            self.helpers.push(thread::spawn(|| walker.work()));
            self.helpers.push(thread::spawn(|| sampler.work()));
        }
    }

    /// Runs the rounds; the report of the whole.
    pub(crate) fn go(mut self) -> Result<ChaosReport> {
        let began = Instant::now();
        let outcome = self.rounds(began);
        self.dismiss();
        self.report.minutes = began.elapsed().as_secs_f64() / 60.0;
        self.fill_report();
        if let Err(error) = outcome {
            self.report.violations.push(format!("{error:#}"));
        }
        let roots = self.ground.has_namespaces();
        self.report.judge_itself(self.options.demand_rare, roots, self.options.sharing > 0);
        self.keep_or_clear();
        Ok(self.report.clone())
    }

    fn rounds(&mut self, began: Instant) -> Result<()> {
        for client in &mut self.clients {
            client.settle_in().context("the first files")?;
        }
        for client in std::mem::take(&mut self.clients) {
            self.helpers.push(thread::spawn(|| client.work()));
        }
        self.settle("the beginning")?;
        while began.elapsed() < self.options.time {
            let number = self.report.rounds + 1;
            let plan = self.nemesis.draw(&self.ground);
            eprintln!("round {number}: {plan}");
            let accident = (number.is_multiple_of(ACCIDENT_ONE_IN))
                .then(|| self.accident().context("a mass delete by accident"))
                .transpose()?;
            self.storm(accident)?;
            self.settle(&format!("round {number}"))?;
            self.report.rounds = number;
        }
        Ok(())
    }

    /// Lets clients work and the nemesis strike; `absent` has no client in this round.
    fn storm(&mut self, absent: Option<usize>) -> Result<()> {
        for node in (0..self.ground.nodes.len()).filter(|node| Some(*node) != absent) {
            self.gate.set(node, true);
        }
        let until = Instant::now() + self.options.storm;
        while Instant::now() < until {
            self.nemesis.tick(&mut self.ground)?;
            self.note_pids();
            self.demand_no_tears()?;
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Everything is lost from one folder while its node is down: it must be held back, and what
    /// was lost must come back when that is said. The node whose folder it was.
    fn accident(&mut self) -> Result<usize> {
        let node = usize::try_from(self.dice.below(self.ground.nodes.len() as u64))?;
        eprintln!("  node {node} loses its files");
        self.ground.nodes[node].stop()?;
        for entry in fs::read_dir(self.ground.folder(node))? {
            let entry = entry?;
            if entry.file_name() == ".highwater" {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        self.ground.nodes[node].start()?;
        self.note_pids();
        let held = |status: &Status| {
            let share = status.share(SHARE);
            share.is_some_and(|share| share.problems.iter().any(|p| p.kind == "mass_delete"))
        };
        self.ground.nodes[node].wait_until("the deletes are held", ACCIDENT_PATIENCE, held)?;
        self.report.mass_delete_holds += 1;
        for other in (0..self.ground.nodes.len()).filter(|other| *other != node) {
            self.gate.set(other, true);
        }
        thread::sleep(Duration::from_millis(self.dice.below(2_000)));
        self.ground.nodes[node].run(&["share", "revert", SHARE])?;
        Ok(node)
    }

    /// Judges the round that ends with this tree on every node.
    fn audit(&mut self, tree: &Tree) -> Result<()> {
        let after = files_of(tree);
        let changes: Vec<Change> = self.history.take_changes();
        self.report.changes += changes.len() as u64;
        self.report.unsure += changes.iter().filter(|change| !change.sure).count() as u64;
        let pieces = self.pieces(&after);
        let round = Round {
            before: &self.files,
            changes: &changes,
            after: &after,
            disturbed: &self.nemesis.disturbed,
            clocks_differ: self.nemesis.clocks_differ,
        };
        let is_known = |content| self.history.is_known(content);
        let verdict = audit::judge(&round, is_known, |content| pieces.contains(&content));
        self.report.conflicts += verdict.conflicts as u64;
        self.report.versions_found += verdict.kept as u64;
        self.report.contested += verdict.contested as u64;
        if let Some(first) = verdict.violations.first() {
            for found in &verdict.violations {
                eprintln!("violated: {:?}: {}", found.rule, found.what);
            }
            for line in &self.nemesis.diary {
                eprintln!("  {line}");
            }
            bail!("{:?}: {} ({} in all)", first.rule, first.what, verdict.violations.len());
        }
        self.files = after;
        Ok(())
    }

    /// What was found on disk that is the beginning of something that was written in place.
    fn pieces(&self, files: &Files) -> BTreeSet<Content> {
        let folder = self.ground.folder(0);
        let unknown = files
            .iter()
            .filter(|(path, content)| audit::is_live(path) && !self.history.is_known(**content));
        let read = |path: &String| fs::read(folder.join(path)).unwrap_or_default();
        unknown
            .filter(|(path, _)| self.history.is_piece(&read(path)))
            .map(|(_, content)| *content)
            .collect()
    }

    fn note_pids(&self) {
        for (node, pid) in self.ground.nodes.iter().zip(&self.pids) {
            pid.store(node.pid().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Sends clients, readers and samplers home.
    fn dismiss(&mut self) {
        self.gate.end();
        self.over.store(true, Ordering::Relaxed);
        for helper in std::mem::take(&mut self.helpers) {
            // One that panicked has said so.
            if helper.join().is_err() {
                self.report.violations.push("a client, reader or sampler panicked".to_owned());
            }
        }
    }

    fn fill_report(&mut self) {
        let report = &mut self.report;
        report.refused = self.efforts.failed.load(Ordering::Relaxed);
        report.readings = self.readings.read.load(Ordering::Relaxed);
        report.faults = self.nemesis.counts.clone();
        report.restarts = self.nemesis.restarts;
        report.resumed = self.seen.resumed();
        report.full_disk_pauses = self.seen.problems("no_room");
        report.problems = self.seen.all_problems();
        report.peak = self.seen.peak();
    }

    /// Everything is kept when something does not hold, or when that was asked for.
    fn keep_or_clear(&mut self) {
        let dir = self.ground.dir.clone();
        let held = self.report.held();
        if !held {
            // The small disk goes with the run; what was on it is copied first.
            if let Some(node) = self.ground.on_small_disk() {
                let copy = dir.join(format!("node{node}/volume-as-it-was"));
                let _ = crate::net::run(
                    "cp",
                    &["-a", &self.ground.volume(node).to_string_lossy(), &copy.to_string_lossy()],
                );
            }
            eprintln!("kept in {}; again: {}", dir.display(), self.report.replay);
        }
        self.kept |= !held;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.dismiss();
        self.ground.release();
        if !self.kept {
            let _ = fs::remove_dir_all(&self.ground.dir);
        }
    }
}

/// Files and links of a tree.
fn files_of(tree: &Tree) -> Files {
    let content = |found: &Found| match found {
        Found::File { hash, .. } => Content::parse(hash),
        Found::Symlink { target } => Some(Content::of_link(target)),
        Found::Dir { .. } | Found::Special => None,
    };
    tree.iter()
        .filter_map(|(path, found)| Some((path.to_str()?.to_owned(), content(found)?)))
        .collect()
}
