//! Nodes are killed, and the moments are taken at which each of the others calls each of them
//! suspect, and failed.
//!
//! A node that calls another failed at once has suspected it as well.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::crowd::Crowd;
use super::ears::{Called, Calls, Ears};
use super::spread::Spread;

/// Longest wait until all have noticed. The bar is 10 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing else happens for this long afterwards, so that one death is not taken for another's.
const QUIET: Duration = Duration::from_secs(5);

/// What became of it. Times are milliseconds from before the first was killed, one for each of the
/// living and each of the dead; the most is when all knew of all.
#[derive(Clone, Debug, Serialize)]
pub struct DeathReport {
    /// How many were killed.
    pub killed: usize,
    /// How many were left to notice.
    pub left: usize,
    /// Until called suspect.
    pub suspect: Spread,
    /// Until called failed.
    pub failed: Spread,
}

/// Kills these nodes and waits until all others call each of them failed.
pub(crate) fn measure(
    crowd: &mut Crowd,
    ears: &mut Ears,
    victims: &[usize],
) -> Result<DeathReport> {
    ears.bury(victims);
    let began = Instant::now();
    victims.iter().try_for_each(|&victim| crowd.kill(victim))?;
    let living: Vec<usize> = crowd.running().map(|(number, _)| number).collect();
    let pairs: Vec<(usize, usize)> =
        living.iter().flat_map(|&by| victims.iter().map(move |&about| (by, about))).collect();
    let knows = |calls: &Calls, &(by, about): &(usize, usize)| {
        calls.contains_key(&(by, about, Called::Failed))
    };
    ears.listen_until(began + PATIENCE, |calls| pairs.iter().all(|pair| knows(calls, pair)))?;
    if let Some((by, about)) = pairs.iter().find(|pair| !knows(ears.calls(), pair)) {
        bail!("node {by} does not know after {PATIENCE:?} that node {about} has failed");
    }
    let when = |(by, about): &(usize, usize), least: Called| {
        let said = [Called::Suspect, Called::Failed].into_iter().filter(|called| *called >= least);
        let said = said.filter_map(|called| ears.calls().get(&(*by, *about, called)));
        said.min().map(|at| at.duration_since(began).as_secs_f64() * 1000.0)
    };
    let spread = |least| Spread::of(pairs.iter().filter_map(|pair| when(pair, least)));
    let report = DeathReport {
        killed: victims.len(),
        left: living.len(),
        suspect: spread(Called::Suspect),
        failed: spread(Called::Failed),
    };
    ears.listen_for(QUIET)?;
    Ok(report)
}
