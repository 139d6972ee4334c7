//! The consistency checker, asked of real nodes: damage of every kind, cuts and restarts in the middle,
//! writing meanwhile, policy, and checks that the node makes by itself. The judge reads the disks.

#![forbid(unsafe_code)]

mod broken_off;
mod damages;
mod far;
mod held;
mod names;
mod quiet;
mod scarce;

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use serde_json::Value;

/// Longest wait for anything that must come about. Only a failure reaches it.
const PATIENCE: Duration = Duration::from_secs(90);
/// All that three nodes can be linked.
const MESH: [(usize, usize); 3] = [(1, 0), (2, 0), (2, 1)];

/// A check that `node` leads, to its end: the exit code and the report.
fn check(cluster: &Cluster, node: usize, how: &[&str]) -> Result<(i32, Value)> {
    let args: Vec<&str> = ["check", SHARE, "--json"].iter().chain(how).copied().collect();
    let output = cluster.nodes[node].try_run(&args)?;
    let code = output.status.code().context("it was killed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("highwater {} ended with {code}: {said}", args.join(" ")))?;
    Ok((code, report))
}

/// Demands a report of these keys, each of its kind, and of no other.
fn demand(report: &Value, expected: &[(&str, &str)]) -> Result<()> {
    let rows = report["differences"].as_array().context("no differences")?;
    let found: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["key"].as_str().unwrap_or(""), row["kind"].as_str().unwrap_or("")))
        .collect();
    ensure!(found == expected, "expected {expected:?}, and it reports {report}");
    Ok(())
}

/// Adds settings to a node that is not running.
fn configure(cluster: &Cluster, node: usize, text: &str) -> Result<()> {
    let path = cluster.nodes[node].home().join("config.toml");
    let mut file = fs::File::options().append(true).open(path)?;
    Ok(writeln!(file, "\n{text}")?)
}
