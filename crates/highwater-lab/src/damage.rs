//! Damaging one node of three, by the thousand, to see whether the consistency checker is fooled.
//!
//! A round stops one node, damages files and records of it in ways that nothing but reading
//! everything again can notice (`damage/wounds.rs`), or flips a bit in its store
//! (`damage/flips.rs`), starts it, and asks any node for a deep check.
//! The check must name every damaged key with its kind and its node, and nothing else. Then it is
//! asked to repair, and the folders are compared with what they held before by the
//! [`crate::oracle`], which shares no code with the checker.

mod flips;
mod wounds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{Cluster, SHARE};
use crate::dice::Dice;
use crate::node::Node;
use crate::oracle::{self, Tree};
use crate::tree;
use wounds::{Patient, Wound};

/// Files of the share that is damaged.
const FILES: u64 = 300;
/// Longest wait for nodes to agree.
const PATIENCE: Duration = Duration::from_secs(90);
/// The exit code of a check that found differences.
const DIFFERENCES: i32 = 3;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct DamageOptions {
    /// The highwater program.
    pub exe: PathBuf,
    /// What everything is drawn from.
    pub seed: u64,
    /// How often files and records of a node are damaged.
    pub rounds: u64,
    /// How many damages each time.
    pub each: usize,
    /// How many bits are flipped in a node's store, one at a time, before all that.
    pub flips: u64,
}

/// How a run went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DamageReport {
    /// Rounds that came to their end.
    pub rounds: u64,
    /// Damages, by kind.
    pub damages: BTreeMap<String, u64>,
    /// Bits that flipped in a store, by what became of them.
    pub store_flips: BTreeMap<String, u64>,
    /// Damages that were not reported, or wrongly.
    pub missed: Vec<String>,
    /// Reports of what was not damaged.
    pub false_reports: Vec<String>,
    /// Folders that were not as before after the repair.
    pub ill_repaired: Vec<String>,
}

impl DamageReport {
    /// Whether everything that had to hold did.
    pub fn held(&self) -> bool {
        self.missed.is_empty() && self.false_reports.is_empty() && self.ill_repaired.is_empty()
    }

    /// All damages to files and records.
    pub fn total(&self) -> u64 {
        self.damages.values().sum()
    }
}

/// Damages and checks.
///
/// # Errors
/// When nodes do not start, or do not agree before they are damaged.
pub fn run(options: &DamageOptions) -> Result<DamageReport> {
    let mut dice = Dice::new(options.seed);
    let links = [(1, 0), (2, 0), (2, 1)];
    let mut cluster = Cluster::new(&options.exe, &["a", "b", "c"], &links)?;
    tree::write_lifelike(&cluster.folder(0), FILES, dice.roll())?;
    cluster.start_all()?;
    cluster.wait_agreed(PATIENCE)?;
    // Leaves holes in the logs, and states that were replaced.
    tree::edit(&cluster.folder(0), FILES / 4, dice.roll())?;
    cluster.wait_agreed(PATIENCE)?;
    let mut report = DamageReport::default();
    for round in 0..options.flips + options.rounds {
        let told = if round < options.flips {
            flips::one_flip(&mut cluster, &mut dice, &mut report)
        } else {
            one_round(&mut cluster, &mut dice, options.each, &mut report)
        };
        if let Err(error) = told {
            let place = cluster.keep();
            return Err(error.context(format!(
                "round {round} of seed {}; the nodes lie in {}",
                options.seed,
                place.display()
            )));
        }
        if !report.held() {
            let place = cluster.keep();
            eprintln!("round {round} of seed {}: kept in {}", options.seed, place.display());
            break;
        }
    }
    Ok(report)
}

/// Flips a bit of a file of a stopped node, so that the node does not notice when it starts.
///
/// # Errors
/// When there is no such file.
pub fn rot_unnoticed(node: &Node, share: &str, key: &str, at: u64) -> Result<()> {
    Patient::open(node, share)?.rot(&key.parse()?, at)
}

/// Takes entries from a stopped node, files and records, as if it had never heard of them.
///
/// # Errors
/// When one is not there.
pub fn lose_unnoticed(node: &Node, share: &str, keys: &[String]) -> Result<()> {
    let patient = Patient::open(node, share)?;
    keys.iter().try_for_each(|key| patient.lose(&key.parse()?))
}

fn one_round(
    cluster: &mut Cluster,
    dice: &mut Dice,
    each: usize,
    report: &mut DamageReport,
) -> Result<()> {
    let victim = dice.below(3) as usize;
    let leader = dice.below(3) as usize;
    let before = oracle::read_tree(&cluster.folder(victim))?;
    cluster.nodes[victim].stop()?;
    let mut patient = Patient::open(&cluster.nodes[victim], SHARE)?;
    let wounds = wounds::inflict(&mut patient, dice, each)?;
    drop(patient);
    cluster.nodes[victim].start()?;
    cluster.wait_in_sync(PATIENCE)?;
    for wound in &wounds {
        *report.damages.entry(wound.name.to_owned()).or_default() += 1;
    }
    let told = check(cluster, leader, &["--deep"])?;
    judge(cluster.nodes[victim].id(), &wounds, &told, report)?;
    check(cluster, leader, &["--deep", "--repair"])?;
    let after = check(cluster, leader, &["--deep"])?;
    if after["identical"] != Value::Bool(true) {
        report.ill_repaired.push(format!("the check after the repair: {after}"));
    }
    cluster.wait_agreed(PATIENCE)?;
    let healed = oracle::read_tree(&cluster.folder(victim))?;
    compare(&before, &healed, &wounds, report);
    report.rounds += 1;
    Ok(())
}

fn check(cluster: &Cluster, leader: usize, how: &[&str]) -> Result<Value> {
    let args: Vec<&str> = ["check", SHARE, "--json"].iter().chain(how).copied().collect();
    let output = cluster.nodes[leader].try_run(&args)?;
    let code = output.status.code();
    ensure!(
        matches!(code, Some(0 | DIFFERENCES)),
        "highwater {} ended with {code:?}: {}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).context("the report is not JSON")?;
    let identical = report["identical"] == Value::Bool(true);
    ensure!(identical == (code == Some(0)), "identical {identical}, and exit code {code:?}");
    Ok(report)
}

/// Every wound must be named with its kind and its node, and nothing else.
fn judge(victim: &str, wounds: &[Wound], told: &Value, report: &mut DamageReport) -> Result<()> {
    let Some(rows) = told["differences"].as_array() else { bail!("no differences: {told}") };
    for row in rows {
        let key = row["key"].as_str().unwrap_or_default();
        if !wounds.iter().any(|wound| wound.key == key) {
            report.false_reports.push(row.to_string());
        }
    }
    for wound in wounds {
        let row = rows.iter().find(|row| row["key"] == wound.key.as_str());
        let right = row.is_some_and(|row| {
            row["kind"] == wound.kind && row["at"] == serde_json::json!([victim])
        });
        if !right {
            let row = row.map_or_else(|| "nothing".to_owned(), Value::to_string);
            report.missed.push(format!("{} of '{}': {row}", wound.name, wound.key));
        }
    }
    Ok(())
}

/// After the repair the folder holds what it held, and what only the damaged node had.
fn compare(before: &Tree, after: &Tree, wounds: &[Wound], report: &mut DamageReport) {
    let mut expected = before.clone();
    for wound in wounds.iter().filter(|wound| wound.kind == "extra") {
        if let Some(found) = after.get(Path::new(&wound.key)) {
            expected.insert(PathBuf::from(&wound.key), found.clone());
        }
    }
    report.ill_repaired.extend(oracle::differences(&expected, after));
}
