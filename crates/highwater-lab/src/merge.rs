//! The core's judgement of concurrent changes, tried by the million.
//!
//! A case is a short history: two to four nodes have one tree or none, their users change it, each
//! side knowing some of what the others did, and in the end everybody hears everything. The entries
//! are made and merged by `highwater_core`; that the outcome is right is judged by what each user
//! saw ([`judge`](self), after "what is promised": nothing lost, no false conflict, one tree).
//!
//! A case is its seed. One that fails is shortened and told, with the command that plays it again.

mod judge;
mod play;
mod steps;
mod tree;

use std::fmt;
use std::ops::AddAssign;

use crate::dice::Dice;
use judge::{Seen, judge};
use play::{Play, Pool};
use steps::Story;
use tree::shown;

/// How many cases had what. A campaign in which something never happened has not tried it.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // the names say it
pub struct MergeReport {
    pub cases: u64,
    pub sequential: u64,
    pub with_copies: u64,
    pub with_copies_of_copies: u64,
    pub edits_kept_over_deletes: u64,
    pub files_beside_directories: u64,
    pub grouped_differently: u64,
    pub back_by_resolution: u64,
    pub rounds_most: usize,
}

/// A case in which something did not hold.
#[derive(Clone, Debug)]
pub struct MergeFailure {
    /// What plays it again.
    pub seed: u64,
    /// What did not hold.
    pub why: String,
    /// The shortest part of the case that still fails, step by step, and the trees at its end.
    pub told: Vec<String>,
}

/// Plays the cases of `cases` seeds from `seed` on.
///
/// # Errors
/// The first case that fails.
pub fn run(seed: u64, cases: u64) -> Result<MergeReport, Box<MergeFailure>> {
    let pool = Pool::new().map_err(|why| failure(seed, why, Vec::new()))?;
    let mut report = MergeReport::default();
    for seed in (0..cases).map(|n| seed.wrapping_add(n)) {
        let story = Story::draw(seed, pool.keys.len());
        match play(&pool, &story, seed) {
            Ok(seen) => report.count(seen),
            Err(_) => return Err(shortened(&pool, story, seed)),
        }
    }
    Ok(report)
}

fn play(pool: &Pool, story: &Story, seed: u64) -> Result<Seen, String> {
    let mut play = Play::new(pool, story, false);
    play.run()?;
    judge(&mut play, &mut Dice::new(!seed))
}

/// Leaves out every step without which the case still fails, and tells the rest.
fn shortened(pool: &Pool, mut story: Story, seed: u64) -> Box<MergeFailure> {
    let mut at = story.steps.len();
    while at > 0 {
        at -= 1;
        let mut without = story.clone();
        without.steps.remove(at);
        if self::play(pool, &without, seed).is_err() {
            story = without;
        }
    }
    let mut play = Play::new(pool, &story, true);
    let outcome = play.run().and_then(|()| judge(&mut play, &mut Dice::new(!seed)).map(|_| ()));
    let mut told = play.told.take().unwrap_or_default();
    told.push(format!("clocks ahead by {:?} ms", story.ahead_ms));
    for (at, &key) in story.keys.iter().enumerate() {
        told.push(format!("key {at} is {}", shown(&pool.keys[key])));
    }
    for (node, tree) in play.trees.iter().enumerate() {
        for entry in tree.values() {
            let (kind, version) = (&entry.kind, &entry.version);
            told.push(format!("node {node} has {}: {kind:?} {version:?}", shown(&entry.key)));
        }
    }
    failure(seed, outcome.err().unwrap_or_default(), told)
}

fn failure(seed: u64, why: String, told: Vec<String>) -> Box<MergeFailure> {
    Box::new(MergeFailure { seed, why, told })
}

impl MergeReport {
    fn count(&mut self, seen: Seen) {
        self.cases += 1;
        self.sequential += u64::from(seen.sequential);
        self.with_copies += u64::from(seen.copies > 0);
        self.with_copies_of_copies += u64::from(seen.copies_of_copies > 0);
        self.edits_kept_over_deletes += u64::from(seen.edit_kept_over_delete);
        self.files_beside_directories += u64::from(seen.file_beside_directory);
        self.grouped_differently += u64::from(seen.grouped_differently);
        self.back_by_resolution += u64::from(seen.back_by_resolution);
        self.rounds_most = self.rounds_most.max(seen.rounds);
    }

    /// What never happened and should have.
    pub fn never_happened(&self) -> Vec<&'static str> {
        let counts = [
            (self.sequential, "a history without a conflict"),
            (self.with_copies, "a conflict copy"),
            (self.with_copies_of_copies, "a copy of a copy"),
            (self.edits_kept_over_deletes, "an edit kept over a delete"),
            (self.files_beside_directories, "a file beside a directory"),
        ];
        counts.iter().filter(|(count, _)| *count == 0).map(|(_, name)| *name).collect()
    }
}

impl AddAssign for MergeReport {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.sequential += other.sequential;
        self.with_copies += other.with_copies;
        self.with_copies_of_copies += other.with_copies_of_copies;
        self.edits_kept_over_deletes += other.edits_kept_over_deletes;
        self.files_beside_directories += other.files_beside_directories;
        self.grouped_differently += other.grouped_differently;
        self.back_by_resolution += other.back_by_resolution;
        self.rounds_most = self.rounds_most.max(other.rounds_most);
    }
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cases held: {} without a conflict, {} with copies, {} with copies of copies, {} with \
             an edit kept over a delete, {} with a file beside a directory, {} that another order \
             took more exchanges, {} back by a resolution that its deleters had not seen; at \
             most {} rounds",
            self.cases,
            self.sequential,
            self.with_copies,
            self.with_copies_of_copies,
            self.edits_kept_over_deletes,
            self.files_beside_directories,
            self.grouped_differently,
            self.back_by_resolution,
            self.rounds_most
        )
    }
}

impl fmt::Display for MergeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SEED={} {}", self.seed, self.why)?;
        for line in &self.told {
            writeln!(f, "    {line}")?;
        }
        write!(f, "again: highwater-lab merge --seed {} --cases 1", self.seed)
    }
}
