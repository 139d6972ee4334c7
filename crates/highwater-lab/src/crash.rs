//! Crash consistency, with the real program, a real file system and real deaths.
//!
//! - [`power`]: the power of a node's disk is cut at commit points and at any moment.
//!
//! What was written is in the [`ledger`], kept by the hands of the [`workload`]; what a node
//! promised is kept in [`promise`]. Both are judged against what is on the disks, before and after
//! the node has started again. On a violation everything stays where it lies, and one command is
//! printed that plays it again.

pub mod disk;
pub mod ledger;
pub mod pair;
pub mod power;
pub mod promise;
pub mod tally;
pub mod workload;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use clap::{Args, Subcommand};

use disk::FileSystem;
use power::PowerCuts;
use tally::Tally;

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
    let (mut tally, required) = match work {
        CrashWork::Power { cycles, fs, common } => {
            (power_cuts(&common, cycles, fs)?, power::REQUIRED)
        }
    };
    tally.close(began, &required);
    println!("{}", serde_json::to_string(&tally)?);
    Ok(tally.held())
}

/// Cuts the power so often, in lanes side by side.
pub fn power_cuts(common: &Common, cycles: u64, kind: FileSystem) -> Result<Tally> {
    if let Some(why) = disk::missing() {
        bail!("skipped: {why}");
    }
    let each = cycles.div_ceil(common.lanes.max(1));
    let tally = in_lanes("power", common, |seed| {
        let mut cuts = PowerCuts::start(&common.exe, seed, kind)?;
        let mut failed = None;
        while cuts.tally.iterations + cuts.tally.void < each && failed.is_none() {
            failed = cuts.cycle().err();
        }
        let mut tally = cuts.tally.clone();
        if failed.is_some() || common.keep {
            let (kept, number) = (cuts.keep()?, tally.iterations + tally.void + 1);
            eprintln!("everything is kept in {}", kept.display());
            tally.violations.extend(failed.map(|error| {
                format!(
                    "{error:#}\nagain: highwater-lab crash power --exe {} --seed {seed} --cycles \
                     {number}",
                    common.exe.display()
                )
            }));
        }
        Ok(tally)
    })?;
    ensure!(PowerCuts::cuts_cut(&tally), "the cuts cut nothing: {tally:?}");
    Ok(tally)
}

/// Runs `lane` once for each lane, with a seed of its own, and adds up what they did.
fn in_lanes(
    suite: &'static str,
    common: &Common,
    lane: impl Fn(u64) -> Result<Tally> + Sync,
) -> Result<Tally> {
    let mut sum = Tally::new(suite, common.seed, &[]);
    let lane = &lane;
    thread::scope(|scope| {
        let seeds = (0..common.lanes.max(1)).map(|number| common.seed + number);
        let threads: Vec<_> = seeds.map(|seed| scope.spawn(move || lane(seed))).collect();
        for thread in threads {
            sum.join(thread.join().map_err(|_| anyhow!("a lane panicked"))??);
        }
        Ok(sum)
    })
}
