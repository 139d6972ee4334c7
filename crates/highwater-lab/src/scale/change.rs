//! Small changes, one after another, each made at another node: the moments at which each stands
//! whole in every other folder, as seen on disk.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::crowd::Crowd;
use super::ears::Ears;
use super::spread::Spread;
use crate::cluster::SHARE;

/// Longest wait for one change. The bar is 5 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the folders that do not have it yet.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Between two changes, so that each is measured by itself.
const PAUSE: Duration = Duration::from_millis(500);
/// Which node is next: a step that shares no factor with the usual sizes.
const STEP: usize = 37;

/// How fast changes reach everybody. Times are milliseconds from before the file was written.
#[derive(Clone, Debug, Serialize)]
pub struct ChangeReport {
    /// How many changes were made.
    pub changes: usize,
    /// One figure for each change and each other node.
    pub arrivals: Spread,
    /// One figure for each change: until the last node had it.
    pub last_arrivals: Spread,
}

/// Makes so many changes.
pub(crate) fn measure(crowd: &Crowd, ears: &mut Ears, changes: usize) -> Result<ChangeReport> {
    let running: Vec<usize> = crowd.running().map(|(number, _)| number).collect();
    let (mut arrivals, mut last) = (Vec::new(), Vec::new());
    for change in 0..changes {
        let writer = running[change * STEP % running.len()];
        let times = one(crowd, writer, &format!("change-{change}.txt"))?;
        last.extend(times.iter().copied().reduce(f64::max));
        arrivals.extend(times);
        ears.listen_for(PAUSE)?;
    }
    Ok(ChangeReport { changes, arrivals: Spread::of(arrivals), last_arrivals: Spread::of(last) })
}

/// Writes a small file at one node and waits until all others have it.
fn one(crowd: &Crowd, writer: usize, name: &str) -> Result<Vec<f64>> {
    let content = format!("{name} was written at node {writer}\n");
    let others = crowd.running().filter(|(number, _)| *number != writer);
    let mut left: Vec<PathBuf> = others.map(|(_, node)| node.folder(SHARE).join(name)).collect();
    let path = crowd.nodes()[writer].folder(SHARE).join(name);
    let began = Instant::now();
    fs::write(&path, &content).with_context(|| format!("writing {}", path.display()))?;
    let mut times = Vec::with_capacity(left.len());
    while !left.is_empty() {
        // A file appears whole, in one step: its length tells.
        left.retain(|path| {
            let there = fs::metadata(path).is_ok_and(|file| file.len() == content.len() as u64);
            if there {
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            !there
        });
        if began.elapsed() > PATIENCE {
            bail!("{} nodes do not have {name} after {PATIENCE:?}", left.len());
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(times)
}
