//! Crash consistency, with the real program, a real file system and real deaths.
//!
//! - [`power`]: the power of a node's disk is cut at commit points and at any moment.
//! - [`images`]: its disk is copied at instants of a run, and the copies are started.
//! - [`kill`]: a node is killed at each system call of a transfer that changes its disk.
//! - [`errno`]: its syncs fail, once and for ever, and its writes find no room.
//! - [`full`]: its disk is really full, and has room again.
//!
//! What was written is in the [`ledger`], kept by the hands of the [`workload`]; what a node
//! promised is kept in [`promise`]. Both are judged against what is on the disks, before and after
//! the node has started again. On a violation everything stays where it lies, and one command is
//! printed that plays it again.

pub mod disk;
pub mod errno;
pub mod full;
pub mod images;
pub mod kill;
pub mod ledger;
pub mod pair;
pub mod points;
pub mod power;
pub mod promise;
pub mod tally;
pub mod trace;
pub mod workload;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use clap::{Args, Subcommand};

use disk::FileSystem;
use errno::Errors;
use full::FullDisks;
use images::Images;
use kill::Kills;
use power::PowerCuts;
use tally::Tally;

/// What a node is doing when it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The peer's changes come in.
    Receiver,
    /// Its own user's changes go out.
    Sender,
    /// It was killed in the middle of receiving and starts again.
    Recovering,
}

/// What is to be tried.
#[derive(Debug, Subcommand)]
pub enum CrashWork {
    /// Power cuts: a node's disk is shut down while it works
    Power {
        /// How often
        #[arg(long, default_value_t = 30)]
        cycles: u64,
        /// The file system of that disk
        #[arg(long, value_enum, default_value = "ext4")]
        fs: FileSystem,
        /// What every work has
        #[command(flatten)]
        common: Common,
    },
    /// Copies of a node's disk, taken while it works, and started
    Images {
        /// How many copies
        #[arg(long, default_value_t = 20)]
        copies: u64,
        /// The file system of that disk
        #[arg(long, value_enum, default_value = "ext4")]
        fs: FileSystem,
        /// What every work has
        #[command(flatten)]
        common: Common,
    },
    /// Full disks: home, store and share lie on one that has no room
    Full {
        /// How often
        #[arg(long, default_value_t = 10)]
        times: u64,
        /// The file system of that disk
        #[arg(long, value_enum, default_value = "ext4")]
        fs: FileSystem,
        /// What every work has
        #[command(flatten)]
        common: Common,
    },
    /// Failing calls: syncs that fail once and for ever, writes that find no room
    Errno {
        /// How often
        #[arg(long, default_value_t = 60)]
        iterations: u64,
        /// What every work has
        #[command(flatten)]
        common: Common,
    },
    /// Deaths: a node is killed at each system call of a transfer
    Kill {
        /// How often
        #[arg(long, default_value_t = 60)]
        iterations: u64,
        /// What every work has
        #[command(flatten)]
        common: Common,
    },
}

/// What all of these have in common.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The highwater program
    #[arg(long, env = "HIGHWATER_EXE", default_value = "target/release/highwater")]
    pub exe: PathBuf,
    /// Where chance begins
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many pairs of nodes are tried side by side, each with a seed of its own
    #[arg(long, default_value_t = 1)]
    pub lanes: u64,
    /// Keep everything, also when nothing was found
    #[arg(long)]
    pub keep: bool,
}

/// Does the work and prints one line of JSON; whether everything held.
pub fn run(work: CrashWork) -> Result<bool> {
    let began = Instant::now();
    let (mut tally, required): (Tally, &[&str]) = match work {
        CrashWork::Power { cycles, fs, common } => {
            (power_cuts(&common, cycles, fs)?, &power::REQUIRED)
        }
        CrashWork::Images { copies, fs, common } => {
            (disk_copies(&common, copies, fs)?, &images::REQUIRED)
        }
        CrashWork::Full { times, fs, common } => (full_disks(&common, times, fs)?, &full::REQUIRED),
        CrashWork::Errno { iterations, common } => {
            (failing_calls(&common, iterations)?, &errno::REQUIRED)
        }
        CrashWork::Kill { iterations, common } => (kills(&common, iterations)?, &kill::REQUIRED),
    };
    tally.close(began, required);
    println!("{}", serde_json::to_string(&tally)?);
    Ok(tally.held())
}

/// Cuts the power so often, in lanes side by side.
///
/// # Errors
/// When this machine cannot do it, or the cuts cut nothing.
pub fn power_cuts(common: &Common, cycles: u64, kind: FileSystem) -> Result<Tally> {
    if let Some(why) = disk::missing() {
        bail!("skipped: {why}");
    }
    let start = |seed| PowerCuts::start(&common.exe, seed, kind);
    let tally = in_lanes("power", "cycles", common, cycles, start)?;
    ensure!(PowerCuts::cuts_cut(&tally), "the cuts cut nothing: {tally:?}");
    Ok(tally)
}

/// Kills a node so often, in lanes side by side.
///
/// # Errors
/// When this machine cannot do it.
pub fn kills(common: &Common, iterations: u64) -> Result<Tally> {
    if let Some(why) = trace::missing() {
        bail!("skipped: {why}");
    }
    let start = |seed| Kills::start(&common.exe, seed);
    in_lanes("kill", "iterations", common, iterations, start)
}

/// Copies a disk so often while it is worked on, in lanes side by side.
///
/// # Errors
/// When this machine cannot do it.
pub fn disk_copies(common: &Common, copies: u64, kind: FileSystem) -> Result<Tally> {
    if let Some(why) = disk::missing() {
        bail!("skipped: {why}");
    }
    let start = |seed| Images::start(&common.exe, seed, kind);
    in_lanes("images", "copies", common, copies, start)
}

/// Fills a disk so often, in lanes side by side.
///
/// # Errors
/// When this machine cannot do it.
pub fn full_disks(common: &Common, times: u64, kind: FileSystem) -> Result<Tally> {
    if let Some(why) = disk::missing() {
        bail!("skipped: {why}");
    }
    let start = |seed| FullDisks::start(&common.exe, seed, kind);
    in_lanes("full", "times", common, times, start)
}

/// Makes calls fail so often, in lanes side by side.
///
/// # Errors
/// When this machine cannot do it.
pub fn failing_calls(common: &Common, iterations: u64) -> Result<Tally> {
    if let Some(why) = trace::missing() {
        bail!("skipped: {why}");
    }
    let start = |seed| Errors::start(&common.exe, seed);
    in_lanes("errno", "iterations", common, iterations, start)
}

/// Nodes that are broken again and again.
trait Lane: Send {
    /// Breaks them once, and judges.
    fn iteration(&mut self) -> Result<()>;
    /// What was done so far.
    fn tally(&self) -> &Tally;
    /// Stops and leaves everything where it lies.
    fn keep(&mut self) -> Result<PathBuf>;
}

/// Every suite has the same three methods; this says so once.
macro_rules! lanes {
    ($($suite:ty),+) => {$(
        impl Lane for $suite {
            fn iteration(&mut self) -> Result<()> {
                self.iteration()
            }

            fn tally(&self) -> &Tally {
                &self.tally
            }

            fn keep(&mut self) -> Result<PathBuf> {
                self.keep()
            }
        }
    )+};
}

lanes!(PowerCuts, Images, FullDisks, Errors, Kills);

/// Runs lanes side by side, each with a seed of its own, and adds up what they did. `unit` is the
/// option that says how often.
fn in_lanes<L: Lane>(
    suite: &'static str,
    unit: &str,
    common: &Common,
    times: u64,
    start: impl Fn(u64) -> Result<L> + Sync,
) -> Result<Tally> {
    let each = times.div_ceil(common.lanes.max(1));
    let again = |seed: u64, number: u64| {
        let exe = common.exe.display();
        format!("highwater-lab crash {suite} --exe {exe} --seed {seed} --{unit} {number}")
    };
    let work = |seed| {
        let mut lane = start(seed)?;
        let mut failed = None;
        while lane.tally().iterations + lane.tally().void < each && failed.is_none() {
            failed = lane.iteration().err();
        }
        let mut tally = lane.tally().clone();
        if failed.is_some() || common.keep {
            eprintln!("everything is kept in {}", lane.keep()?.display());
        }
        let number = tally.iterations + tally.void + 1;
        let told = failed.map(|error| format!("{error:#}\nagain: {}", again(seed, number)));
        tally.violations.extend(told);
        Ok(tally)
    };
    let mut sum = Tally::new(suite, common.seed, &[]);
    let work = &work;
    thread::scope(|scope| {
        let seeds = (0..common.lanes.max(1)).map(|number| common.seed + number);
        let threads: Vec<_> = seeds.map(|seed| scope.spawn(move || work(seed))).collect();
        for thread in threads {
            let tally: Result<Tally> = thread.join().map_err(|_| anyhow!("a lane panicked"))?;
            sum.join(tally?);
        }
        Ok(sum)
    })
}
