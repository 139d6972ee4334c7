//! The `highwater-lab` program: the fault proxy, the demo and the bench, by hand.
//!
//! Results go to standard output; `0` says that what was asked for held, `1` that it did not.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use highwater_lab::bench::{self, BenchOptions};
use highwater_lab::chaos::{self, ChaosOptions};
use highwater_lab::checkbench::{self, CheckBenchOptions};
use highwater_lab::crash::{self, CrashWork};
use highwater_lab::cuts::{self, CutOptions};
use highwater_lab::damage::{self, DamageOptions};
use highwater_lab::demo::{self, DemoOptions};
use highwater_lab::fuzz::{self, FuzzOptions};
use highwater_lab::httpbench::{self, HttpBenchOptions};
use highwater_lab::merge;
use highwater_lab::scale::{self, ScaleOptions};
use highwater_lab::script;
use highwater_lab::simulate::{self, SimulateOptions};

/// From this length on a run of chaos must have met every rare event.
const RARE_FROM_MINUTES: u64 = 20;

#[derive(Parser)]
#[command(about = "Breaks and measures highwater nodes", version)]
struct Lab {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// A link that can be spoiled: orders are read from standard input, one JSON object a line
    ///
    /// Orders: {"set":{"direction":"forward","faults":{"delay_ms":20}}}, {"cut":"silent"},
    /// {"sever":"reset"}, {"heal":"resume"}, {"wait_ms":500}, {"wait_bytes":{"direction":"forward",
    /// "bytes":1000000}}, "report". Every order is answered by one line. The link ends with the
    /// input.
    Proxy {
        /// Where the link is dialled
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Where it leads
        #[arg(long)]
        target: SocketAddr,
    },
    /// Tries inputs that nobody thought of on everything that reads what comes from outside
    Fuzz {
        /// Only these targets, by name
        #[arg(long, value_delimiter = ',')]
        target: Vec<String>,
        /// How long, shared among the targets
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// What the inputs are drawn from
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where the inputs lie that are known to be worth trying
        #[arg(long, default_value = "tests/fuzz/corpus")]
        corpus: PathBuf,
        /// Keep inputs there that did something new
        #[arg(long)]
        keep: bool,
        /// Only list the targets
        #[arg(long)]
        list: bool,
    },
    /// What a check costs, beside rsync, rclone and b3sum
    CheckBench {
        /// The highwater program
        #[arg(long, default_value = "target/release/highwater")]
        exe: PathBuf,
        /// Entries of the large share; 0 leaves it out
        #[arg(long, default_value_t = 1_000_000)]
        entries: u64,
        /// How often each process is run
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Damages one node of three and asks the consistency checker what is wrong
    Damage {
        /// The highwater program
        #[arg(long, default_value = "target/release/highwater")]
        exe: PathBuf,
        /// What everything is drawn from
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How often a node is damaged
        #[arg(long, default_value_t = 40)]
        rounds: u64,
        /// How many damages each time
        #[arg(long, default_value_t = 26)]
        each: usize,
        /// How many bits are flipped in a node's store, one at a time, before all that
        #[arg(long, default_value_t = 20)]
        flips: u64,
    },
    /// What `highwater demo` does, with any build of the program
    Demo {
        /// The highwater program
        #[arg(long)]
        exe: PathBuf,
        /// Print the figures as JSON
        #[arg(long)]
        json: bool,
        /// Leave the nodes running
        #[arg(long)]
        keep: bool,
    },
    /// Whole clusters played in memory: the real decisions on played disks, links and clocks
    ///
    /// A seed decides everything. A story that breaks a rule is shrunk to the events it needs.
    Sim(SimulateOptions),
    /// Power cuts, deaths and failing disks, and what must hold after them
    Crash {
        #[command(subcommand)]
        work: CrashWork,
    },
    /// The core's judgement of concurrent changes: case after case until one fails
    Merge {
        /// The seed of the first case; one that failed is played again by its seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many
        #[arg(long, default_value_t = 1_000_000)]
        cases: u64,
    },
    /// Speed and size, beside rsync and Syncthing where they are installed
    Bench {
        /// The highwater program, from a release build
        #[arg(long, default_value = "target/release/highwater")]
        exe: PathBuf,
        /// Only these rows, by name
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Only these contenders: highwater, rsync, syncthing
        #[arg(long, value_delimiter = ',')]
        contenders: Vec<String>,
        /// How often each row is run; the median counts
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
        /// Write the figures to this file as JSON
        #[arg(long)]
        json: Option<PathBuf>,
        /// Only list the rows
        #[arg(long)]
        list: bool,
    },
    /// How many real nodes one machine carries, and what each costs
    Scale(ScaleOptions),
    /// How fast a node answers people while a large transfer runs
    HttpBench(HttpBenchOptions),
    /// Cuts a link inside transfers, again and again, in every way
    Cuts {
        /// The highwater program
        #[arg(long, default_value = "target/release/highwater")]
        exe: PathBuf,
        /// How many cuts inside a transfer
        #[arg(long, default_value_t = 60)]
        count: u64,
        /// What everything is drawn from
        #[arg(long)]
        seed: u64,
        /// How many pairs of nodes work at once
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=8))]
        pairs: u64,
    },
    /// Real nodes with clients at work and everything going wrong, audited round by round
    Chaos {
        /// The highwater program
        #[arg(long, default_value = "target/release/highwater")]
        exe: PathBuf,
        /// What everything is drawn from
        #[arg(long)]
        seed: u64,
        /// How long to go on
        #[arg(long, default_value_t = 1)]
        minutes: u64,
        /// How many nodes; drawn from the seed if not said
        #[arg(long, value_parser = clap::value_parser!(u8).range(3..=5))]
        nodes: Option<u8>,
        /// How long things go wrong before everything is healed and audited
        #[arg(long, default_value_t = 40)]
        storm_seconds: u64,
        /// How many operations of a hundred are on paths that all clients share
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(..=100))]
        sharing: u64,
        /// Where everything lies and is kept
        #[arg(long)]
        keep: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Lab::parse().work) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the work; whether everything held.
fn run(work: Work) -> Result<bool> {
    match work {
        Work::Proxy { listen, target } => script::run(listen, target).map(|()| true),
        Work::Demo { exe, json, keep } => {
            demo::run(DemoOptions { exe, json, keep }).map(|report| report.held)
        }
        Work::Sim(options) => simulate::run(&options),
        Work::Crash { work } => crash::run(work),
        Work::Scale(options) => scale::run(&options),
        Work::HttpBench(options) => httpbench::run(&options),
        Work::Merge { seed, cases } => {
            let played = merge::run(seed, cases);
            match &played {
                Ok(report) => println!("{report}"),
                Err(failure) => println!("{failure}"),
            }
            Ok(played.is_ok())
        }
        Work::Fuzz { list: true, .. } => {
            fuzz::targets()
                .iter()
                .for_each(|target| println!("{:<16}{}", target.name, target.reads));
            Ok(true)
        }
        Work::Fuzz { target, seconds, seed, corpus, keep, list: false } => {
            let seconds = Duration::from_secs(seconds);
            fuzz::run(&FuzzOptions { targets: target, seconds, seed, corpus, keep })
        }
        Work::Bench { list: true, .. } => {
            for (name, work) in bench::rows() {
                println!("{name:<16}{work}");
            }
            Ok(true)
        }
        Work::Cuts { exe, count, seed, pairs } => {
            let report = cuts::run(&CutOptions { exe, count, seed, pairs })?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(report.held())
        }
        Work::CheckBench { exe, entries, runs } => {
            checkbench::run(&CheckBenchOptions { exe, entries, runs: runs.max(1) })?;
            Ok(true)
        }
        Work::Damage { exe, seed, rounds, each, flips } => {
            let report = damage::run(&DamageOptions { exe, seed, rounds, each, flips })?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(report.held())
        }
        Work::Chaos { exe, seed, minutes, nodes, storm_seconds, sharing, keep } => {
            let options = ChaosOptions {
                exe,
                seed,
                time: Duration::from_secs(minutes * 60),
                nodes: nodes.map(usize::from),
                storm: Duration::from_secs(storm_seconds),
                sharing,
                keep,
                demand_rare: minutes >= RARE_FROM_MINUTES,
            };
            let report = chaos::run(&options)?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(report.held())
        }
        Work::Bench { exe, only, contenders, runs, json, list: false } => {
            let options = BenchOptions { exe, only, contenders, runs: runs.into(), json };
            bench::run(&options).map(|report| report.rows.iter().all(|row| row.failed.is_empty()))
        }
    }
}
