//! Campaigns of simulated clusters: many seeds on all cores, and one seed told in words.
//!
//! A failing seed is shrunk to the events that it needs, and printed with the command that plays
//! it again. One seed in a hundred is played twice and must go the same way.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use highwater::simulation::{Outcome, Story, never_came_up, play, shrink};
use serde_json::json;

/// One seed in this many is played twice.
const TWICE_EVERY: u64 = 100;
/// Failures that are shown; more say nothing new.
const FAILURES_MAX: usize = 5;

/// Which stories to play.
#[derive(Args, Clone, Debug)]
pub struct SimulateOptions {
    /// Play one seed and tell it in words
    #[arg(long)]
    pub seed: Option<u64>,
    /// The first seed of a campaign
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    pub seeds: u64,
    /// Threads that play; each story is played by one
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Do not shrink failures
    #[arg(long)]
    pub whole: bool,
}

/// What a campaign came to.
#[derive(Debug, Default)]
struct Campaign {
    played: u64,
    simulated: Duration,
    events: u64,
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<(u64, String)>,
}

/// Plays; whether no rule was broken.
///
/// # Errors
/// When the summary cannot be written.
pub fn run(options: &SimulateOptions) -> Result<bool> {
    match options.seed {
        Some(seed) => Ok(tell(seed, options.whole)),
        None => campaign(options),
    }
}

fn tell(seed: u64, whole: bool) -> bool {
    let story = Story::of_seed(seed);
    let fails = play(&story, false).violation.is_some();
    let story = if fails && !whole { shrink(&story) } else { story };
    let outcome = play(&story, true);
    outcome.lines.iter().for_each(|line| println!("{line}"));
    println!("\nthe story of seed {seed}, {} events:", story.length());
    story.lines().iter().for_each(|line| println!("{line}"));
    println!("\n{:?}", outcome.counts);
    match &outcome.violation {
        Some(violation) => println!("BROKEN {violation}"),
        None => println!("held"),
    }
    outcome.violation.is_none()
}

fn campaign(options: &SimulateOptions) -> Result<bool> {
    let began = Instant::now();
    let next = AtomicU64::new(options.from);
    let end = options.from + options.seeds;
    let campaign = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let lock = || campaign.lock().unwrap_or_else(PoisonError::into_inner);
                    if seed >= end || lock().failures.len() >= FAILURES_MAX {
                        break;
                    }
                    let outcome = play_one(seed);
                    lock().add(seed, outcome);
                }
            });
        }
    });
    let campaign = campaign.into_inner().unwrap_or_else(PoisonError::into_inner);
    campaign.report(options, began.elapsed());
    Ok(campaign.failures.is_empty() && campaign.missing().is_empty())
}

fn play_one(seed: u64) -> Outcome {
    let story = Story::of_seed(seed);
    let mut outcome = play(&story, false);
    if seed.is_multiple_of(TWICE_EVERY) && outcome.violation.is_none() {
        let again = play(&story, false);
        if again.digest != outcome.digest {
            outcome.violation = Some("it went another way when it was played again".to_owned());
        }
    }
    outcome
}

impl Campaign {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.played += 1;
        self.simulated += outcome.simulated;
        self.events += outcome.events;
        for (what, times) in outcome.counts {
            *self.counts.entry(what).or_default() += times;
        }
        self.failures.extend(outcome.violation.map(|violation| (seed, violation)));
    }

    /// What is rare and never came up, in a campaign that is long enough for it.
    fn missing(&self) -> Vec<&'static str> {
        never_came_up(&self.counts, self.played)
    }

    fn report(&self, options: &SimulateOptions, took: Duration) {
        for (seed, violation) in &self.failures {
            println!("seed {seed}: BROKEN {violation}");
            if !options.whole {
                let story = shrink(&Story::of_seed(*seed));
                println!("  needs {} events:", story.length());
                story.lines().iter().for_each(|line| println!("  {line}"));
            }
            println!("  again: highwater-lab sim --seed {seed}");
        }
        let speed = self.simulated.as_secs_f64() / took.as_secs_f64() / options.threads as f64;
        let summary = json!({
            "seeds": self.played, "from": options.from, "violations": self.failures.len(),
            "simulated_hours": self.simulated.as_secs() / 3600, "seconds": took.as_secs_f64(),
            "times_real_time_per_thread": speed as u64, "events": self.events,
            "counts": self.counts, "missing": self.missing(),
        });
        println!("{summary}");
    }
}
