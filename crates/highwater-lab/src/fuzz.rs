//! Inputs that nobody thought of, for everything that reads what comes from outside.
//!
//! Each [`Target`] is one reader with its properties: it never panics, what it accepts it writes
//! again, and what it wrote it reads as the same. Inputs are made from a kept corpus by mutation:
//! of bytes, of lines, and of protobuf messages field by field with their lengths kept right
//! (`mutate`). Without a nightly compiler there is no coverage to go by; a target says instead
//! what it made of an input, and an input that made something new is mutated further.
//!
//! An input that breaks a property is written to `failing/TARGET/` beside the corpus, and found
//! there by the test that replays everything kept.

mod mutate;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::dice::Dice;
use crate::node::Resident;
pub use targets::{Made, Target, targets};

/// Inputs that are mutated at a time; beyond it a new one takes the place of another.
const POOL_MAX: usize = 4096;
/// Longest input: that of a message is a megabyte, but what breaks does so sooner.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Executions between two looks at the clock and at the memory.
const ROUND: u64 = 512;
/// Most that the process may grow while it tries. Everything that is read is far smaller.
const GROWTH_MAX: u64 = 256 * 1024 * 1024;

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct FuzzOptions {
    /// Only these targets, by name; all when empty.
    pub targets: Vec<String>,
    /// How long, shared among the targets.
    pub seconds: Duration,
    /// What the inputs are drawn from.
    pub seed: u64,
    /// Where the kept inputs lie, a directory for each target.
    pub corpus: PathBuf,
    /// Whether inputs that did something new are kept there.
    pub keep: bool,
}

/// How it went with one target.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Inputs tried.
    pub executions: u64,
    /// Inputs that were read as something.
    pub accepted: u64,
    /// Things that inputs were made of, all different.
    pub shapes: usize,
    /// Inputs that broke a property.
    pub failures: Vec<Vec<u8>>,
}

/// Tries all that is asked for; whether every property held.
pub fn run(options: &FuzzOptions) -> Result<bool> {
    let chosen: Vec<Target> = targets()
        .into_iter()
        .filter(|t| options.targets.is_empty() || options.targets.iter().any(|n| n == t.name))
        .collect();
    if chosen.is_empty() {
        bail!("there is no such target; `--list` names them all");
    }
    quieten_panics();
    let (mut held, mut total) = (true, 0);
    let each = options.seconds / u32::try_from(chosen.len())?;
    for target in &chosen {
        let began = Instant::now();
        let goes_on = |executions: u64| executions == 0 || began.elapsed() < each;
        let tally = try_target(target, options, goes_on)?;
        total += tally.executions;
        held &= tally.failures.is_empty();
        println!(
            "{:<16} {:>11} executions {:>10} accepted {:>6} shapes {:>3} failures {:>6.1} s",
            target.name,
            tally.executions,
            tally.accepted,
            tally.shapes,
            tally.failures.len(),
            began.elapsed().as_secs_f64(),
        );
    }
    println!("{total} executions, seed {}", options.seed);
    Ok(held)
}

/// Tries the kept inputs of a target, then mutations of them as long as `goes_on` says so.
pub fn try_target(
    target: &Target,
    options: &FuzzOptions,
    goes_on: impl Fn(u64) -> bool,
) -> Result<Tally> {
    let mut attempt = Attempt::begin(target, options)?;
    let before = Resident::of(std::process::id())?.now;
    let mut dice = Dice::new(options.seed);
    while goes_on(attempt.tally.executions) {
        for _ in 0..ROUND {
            let input = attempt.next(&mut dice);
            attempt.take(input)?;
        }
        let growth = Resident::of(std::process::id())?.peak.saturating_sub(before);
        if growth > GROWTH_MAX {
            bail!("{} has grown the process by {growth} bytes", target.name);
        }
    }
    attempt.tally.shapes = attempt.shapes.len();
    Ok(attempt.tally)
}

/// The kept inputs of a target: its own examples and those in the corpus.
pub fn kept(target: &Target, corpus: &Path) -> Result<Vec<Vec<u8>>> {
    let mut inputs = (target.examples)();
    for dir in [corpus.join(target.name), corpus.join("failing").join(target.name)] {
        let Ok(listing) = fs::read_dir(&dir) else { continue };
        for file in listing {
            let path = file?.path();
            inputs.push(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
        }
    }
    Ok(inputs)
}

/// Tries one input; `None` when it broke a property.
pub fn holds(target: &Target, input: &[u8]) -> Option<Made> {
    catch_unwind(AssertUnwindSafe(|| (target.reader)(input))).ok()
}

/// One target being tried.
struct Attempt<'a> {
    target: &'a Target,
    options: &'a FuzzOptions,
    pool: Vec<Vec<u8>>,
    shapes: BTreeMap<u64, usize>,
    tally: Tally,
}

impl<'a> Attempt<'a> {
    fn begin(target: &'a Target, options: &'a FuzzOptions) -> Result<Self> {
        let (pool, shapes) = (Vec::new(), BTreeMap::new());
        let mut attempt = Self { target, options, pool, shapes, tally: Tally::default() };
        for input in kept(target, &options.corpus)? {
            attempt.pool.push(input.clone());
            attempt.take(input)?;
        }
        if attempt.pool.is_empty() {
            bail!("{} has no examples", target.name);
        }
        Ok(attempt)
    }

    fn next(&self, dice: &mut Dice) -> Vec<u8> {
        let pick = |dice: &mut Dice| &self.pool[dice.below(self.pool.len() as u64) as usize];
        let mut input = pick(dice).clone();
        let other = pick(dice);
        for _ in 0..=dice.below(4) {
            mutate::mutate(&mut input, other, self.target.language, dice);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn take(&mut self, input: Vec<u8>) -> Result<()> {
        self.tally.executions += 1;
        let Some(made) = holds(self.target, &input) else {
            self.keep("failing", &input)?;
            self.tally.failures.push(input);
            return Ok(());
        };
        self.tally.accepted += u64::from(made.accepted);
        let seen = self.shapes.len();
        let smallest = self.shapes.entry(made.shape).or_insert(usize::MAX);
        if input.len() >= *smallest {
            return Ok(());
        }
        *smallest = input.len();
        if self.options.keep && self.shapes.len() > seen {
            self.keep("", &input)?;
        }
        if self.pool.len() < POOL_MAX {
            self.pool.push(input);
        } else {
            self.pool[self.tally.executions as usize % POOL_MAX] = input;
        }
        Ok(())
    }

    fn keep(&self, below: &str, input: &[u8]) -> Result<()> {
        let dir = self.options.corpus.join(below).join(self.target.name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let name = &blake3::hash(input).to_hex()[..16];
        fs::write(dir.join(name), input).with_context(|| format!("writing to {}", dir.display()))
    }
}

/// A property that breaks is counted and its input kept; the first of each place is shown.
fn quieten_panics() {
    let shown = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if shown.lock().is_ok_and(|mut shown| shown.insert(place)) {
            eprintln!("{panic}");
        }
    }));
}
