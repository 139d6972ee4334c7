//! What a check costs, beside what `rsync -nrc`, `rclone check` and `b3sum` take for the same folders
//! in the same run. Figures of a busy machine say little; the comparison says more.
//!
//! Two nodes on this machine, each with a copy. A run is a whole `highwater check` process, from its
//! start to its end; the others are whole processes too.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, SHARE};
use crate::damage::lose_unnoticed;
use crate::node::Resident;
use crate::tree;

/// Longest wait for two large copies to be read and compared the first time.
const PATIENCE: Duration = Duration::from_secs(1800);
const SMALL_FILES: u64 = 20_000;
const SMALL_BYTES: usize = 4096;
const LARGE_BYTES: u64 = 1 << 30;
/// Differences among the entries of the large share.
const DIFFERENCES: usize = 10;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct CheckBenchOptions {
    /// The highwater program.
    pub exe: std::path::PathBuf,
    /// Entries of the large share; 0 leaves it out.
    pub entries: u64,
    /// How often each process is run.
    pub runs: usize,
}

/// Measures, and prints a line for each row.
///
/// # Errors
/// When nodes do not agree, or a check says what is not so.
pub fn run(options: &CheckBenchOptions) -> Result<()> {
    println!("{:<34} {:>9} {:>9} {:>9}  wire", "work", "min s", "median", "max");
    small(options)?;
    large_file(options)?;
    if options.entries > 0 {
        many(options)?;
    }
    Ok(())
}

fn pair(options: &CheckBenchOptions, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Cluster> {
    let mut cluster = Cluster::new(&options.exe, &["a", "b"], &[(1, 0)])?;
    fill(&cluster.folder(0))?;
    // Equal copies from the start: that is no transfer, only a first meeting.
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(cluster.folder(0).join("."))
        .arg(cluster.folder(1))
        .status()?;
    ensure!(copied.success(), "cp ended with {copied}");
    cluster.start_all()?;
    cluster.wait_in_sync(PATIENCE)?;
    Ok(cluster)
}

fn small(options: &CheckBenchOptions) -> Result<()> {
    let cluster = pair(options, |folder| tree::write_many(folder, SMALL_FILES, SMALL_BYTES, 1))?;
    ours(options, &cluster, "identical, 20,000 entries", &[], 0)?;
    ours(options, &cluster, "deep, 20,000 files of 4 KiB", &["--deep"], 0)?;
    others(options, &cluster)
}

fn large_file(options: &CheckBenchOptions) -> Result<()> {
    let cluster = pair(options, |folder| tree::write_file(&folder.join("large"), LARGE_BYTES, 2))?;
    ours(options, &cluster, "deep, 1 GiB", &["--deep"], 0)?;
    let files = [0, 1].map(|node| cluster.folder(node).join("large"));
    row(options, "  b3sum of both", || {
        Ok(run_quietly(Command::new("b3sum").args(&files))?.map(|time| (time, None)))
    })?;
    others(options, &cluster)
}

fn many(options: &CheckBenchOptions) -> Result<()> {
    let entries = options.entries;
    let mut cluster = pair(options, |folder| {
        for number in 0..entries {
            let dir = folder.join(format!("d{:05}", number / 1000));
            if number.is_multiple_of(1000) {
                fs::create_dir(&dir)?;
            }
            fs::write(dir.join(format!("entry-{number:07}")), [])?;
        }
        Ok(())
    })?;
    let scanned = resident(&cluster)?;
    ours(options, &cluster, &format!("identical, {entries} entries"), &[], 0)?;
    let compared = resident(&cluster)?;
    cluster.nodes[1].stop()?;
    let lost = (0..DIFFERENCES as u64).map(|number| {
        let number = number * entries / DIFFERENCES as u64 + 77;
        format!("d{:05}/entry-{number:07}", number / 1000)
    });
    lose_unnoticed(&cluster.nodes[1], SHARE, &lost.collect::<Vec<_>>())?;
    cluster.nodes[1].start()?;
    cluster.wait_in_sync(PATIENCE)?;
    let before = resident(&cluster)?;
    let name = format!("{entries} entries, {DIFFERENCES} differences");
    ours(options, &cluster, &name, &[], DIFFERENCES)?;
    let after = resident(&cluster)?;
    let mib = [scanned, compared, before, after].map(|bytes| bytes >> 20);
    println!(
        "  most memory of a node: {} MiB before the first check, {} after; {} MiB before the second, \
         {} after",
        mib[0], mib[1], mib[2], mib[3]
    );
    Ok(())
}

/// The larger of both nodes' memory at its height.
fn resident(cluster: &Cluster) -> Result<u64> {
    let bytes = cluster.nodes.iter().map(|node| {
        let pid = node.pid().context("the node is not running")?;
        Ok(Resident::of(pid)?.peak)
    });
    Ok(bytes.collect::<Result<Vec<u64>>>()?.into_iter().max().unwrap_or(0))
}

fn ours(
    options: &CheckBenchOptions,
    cluster: &Cluster,
    name: &str,
    how: &[&str],
    differences: usize,
) -> Result<()> {
    let args: Vec<&str> = ["check", SHARE, "--json"].iter().chain(how).copied().collect();
    row(options, name, || {
        let began = Instant::now();
        let output = cluster.nodes[0].try_run(&args)?;
        let time = began.elapsed();
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let found = report["differences"].as_array().map_or(0, Vec::len);
        ensure!(found == differences, "{found} differences, and not {differences}: {report}");
        Ok(Some((time, report["wire_bytes"].as_u64())))
    })
}

fn others(options: &CheckBenchOptions, cluster: &Cluster) -> Result<()> {
    let folders = [0, 1].map(|node| cluster.folder(node));
    let slashed = folders.each_ref().map(|folder| format!("{}/", folder.display()));
    row(options, "  rsync -nrc", || {
        let mut rsync = Command::new("rsync");
        rsync.args(["-nrc", "--exclude", ".highwater"]).args(&slashed);
        Ok(run_quietly(&mut rsync)?.map(|time| (time, None)))
    })?;
    row(options, "  rclone check", || {
        let mut rclone = Command::new("rclone");
        rclone.args(["check", "--config", "/dev/null", "--exclude", ".highwater/**"]);
        Ok(run_quietly(rclone.args(&slashed))?.map(|time| (time, None)))
    })
}

/// How long a command takes; `None` when it is not installed.
fn run_quietly(command: &mut Command) -> Result<Option<Duration>> {
    let began = Instant::now();
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
            Ok(Some(began.elapsed()))
        }
    }
}

/// Runs something a few times, and prints what it took.
fn row(
    options: &CheckBenchOptions,
    name: &str,
    mut one: impl FnMut() -> Result<Option<(Duration, Option<u64>)>>,
) -> Result<()> {
    let mut times = Vec::new();
    let mut wire = None;
    // The first run finds nothing in any cache, and is not counted.
    for _ in 0..=options.runs {
        let Some((time, bytes)) = one()? else {
            println!("{name:<34} skipped: it is not installed");
            return Ok(());
        };
        times.push(time.as_secs_f64());
        wire = wire.max(bytes);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let (min, max, median) = (times[0], times[times.len() - 1], times[times.len() / 2]);
    let wire = wire.map_or_else(String::new, |bytes| format!("{bytes} B"));
    println!("{name:<34} {min:>9.4} {median:>9.4} {max:>9.4}  {wire}");
    Ok(())
}
