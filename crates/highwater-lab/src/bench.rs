//! `highwater-lab bench`: how fast and how large, beside rsync and Syncthing, in one run.
//!
//! Two ends lie in two network namespaces joined by a veth pair when this runs as root, else on
//! the loopback (`arena`). Every contender (`contender`) keeps one folder at one end equal with
//! one at the other; every row (`rows`) puts the same work before each, in fresh directories, and
//! takes the time from the change at the one end to its whole arrival at the other, seen on disk.
//! Figures are medians. What a row cannot measure here it says, and measures the rest.

mod arena;
mod contender;
mod faults;
mod ours;
mod rows;
mod rsync;
mod syncthing;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use arena::Arena;
use contender::{Contender, Kind};
use rows::{ROWS, Row};

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The `highwater` program.
    pub exe: PathBuf,
    /// The rows by name; empty for all.
    pub only: Vec<String>,
    /// The contenders by name; empty for all that are installed.
    pub contenders: Vec<String>,
    /// How often each row is run.
    pub runs: usize,
    /// Where to write the figures as JSON.
    pub json: Option<PathBuf>,
}

/// The figures of one run of one row: by name, the unit in the name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BenchReport {
    /// Where the ends lay.
    pub arena: String,
    /// How often each row was run.
    pub runs: usize,
    /// The rows, in order.
    pub rows: Vec<RowReport>,
}

/// What was measured for one row.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    /// The row's name.
    pub name: &'static str,
    /// What the work was.
    pub work: &'static str,
    /// What is demanded.
    pub bar: &'static str,
    /// By contender and figure: the median, and every run.
    pub figures: BTreeMap<String, BTreeMap<&'static str, Measured>>,
    /// By contender: why there are no figures.
    pub failed: BTreeMap<String, String>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The median of the runs.
    pub median: f64,
    /// Every run.
    pub runs: Vec<f64>,
}

/// The names of all rows, with what they measure.
pub fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROWS.iter().map(|row| (row.name, row.work))
}

/// Measures, prints a table and writes the figures.
pub fn run(options: &BenchOptions) -> Result<BenchReport> {
    let exe = fs::canonicalize(&options.exe)
        .with_context(|| format!("finding the program {}", options.exe.display()))?;
    let wanted = wanted_rows(&options.only)?;
    let mut report = BenchReport { runs: options.runs, ..BenchReport::default() };
    for row in wanted {
        let mut measured = RowReport {
            name: row.name,
            work: row.work,
            bar: row.bar,
            figures: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        for kind in contender::installed(&exe, &options.contenders) {
            report.arena = measure(row, &kind, options.runs, &mut measured)?;
        }
        println!("{}", table::row(&measured));
        report.rows.push(measured);
        if let Some(path) = &options.json {
            fs::write(path, serde_json::to_vec_pretty(&report)?)
                .with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(report)
}

fn wanted_rows(only: &[String]) -> Result<Vec<&'static Row>> {
    if let Some(unknown) = only.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        bail!("there is no row {unknown}; there are {}", known.join(", "));
    }
    let chosen = |row: &&Row| only.is_empty() || only.iter().any(|name| name == row.name);
    Ok(ROWS.iter().filter(chosen).collect())
}

/// Runs one row with one contender; where it was run.
fn measure(row: &Row, kind: &Kind, runs: usize, report: &mut RowReport) -> Result<String> {
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut place = String::new();
    for number in 1..=runs {
        eprintln!("{} with {}, run {number} of {runs}", row.name, kind.name());
        let arena = Arena::new()?;
        place = arena.describe();
        match run_once(row, kind, &arena) {
            Ok(figures) => {
                for (name, value) in figures {
                    all.entry(name).or_default().push(value);
                }
            }
            Err(error) => {
                eprintln!("  failed: {error:#}");
                report.failed.insert(kind.name().to_owned(), format!("{error:#}"));
                break;
            }
        }
    }
    if !all.is_empty() {
        let measured = all.into_iter().map(|(name, runs)| (name, Measured::of(runs)));
        report.figures.insert(kind.name().to_owned(), measured.collect());
    }
    Ok(place)
}

fn run_once(row: &Row, kind: &Kind, arena: &Arena) -> Result<Figures> {
    let dir = tempfile::Builder::new().prefix("highwater-bench-").tempdir()?;
    let mut contender: Box<dyn Contender> = kind.make(arena, dir.path())?;
    contender.start().with_context(|| format!("starting {}", kind.name()))?;
    (row.measure)(arena, contender.as_mut())
}

impl Measured {
    fn of(runs: Vec<f64>) -> Measured {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        Measured { median: f64::midpoint(sorted[low], sorted[high]), runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert!((Measured::of(vec![9.0, 1.0, 2.0]).median - 2.0).abs() < f64::EPSILON);
        assert!((Measured::of(vec![4.0, 1.0, 2.0, 9.0]).median - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn an_unknown_row_is_an_error_that_names_the_known_ones() {
        let error = wanted_rows(&["cold-1gb".to_owned()]).expect_err("unknown").to_string();
        assert!(error.contains("cold-1gib"), "{error}");
    }
}
