//! The reports of checks, one file each in the home: they outlive restarts, and an operator can read
//! them without the daemon.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use highwater_core::check::CheckId;

use super::report::CheckReport;

/// Reports that are kept, the latest: a monthly check of a few shares goes back for years.
const REPORTS_MAX: usize = 100;
/// Longest report that is read back: the longest list of differences with long names.
const REPORT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The kept reports.
#[derive(Debug)]
pub(crate) struct History {
    dir: PathBuf,
    /// Held while files are written and removed.
    writing: Mutex<()>,
}

impl History {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, writing: Mutex::default() }
    }

    /// Writes a report in place of its earlier self, and drops the oldest beyond [`REPORTS_MAX`].
    pub(crate) fn keep(&self, report: &CheckReport) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.dir)?;
        let path = self.dir.join(format!("{}.json", report.id));
        let part = self.dir.join(format!("{}.part", report.id));
        let mut file = File::create(&part)?;
        file.write_all(&serde_json::to_vec(report)?)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(&self.dir)?.sync_all()?;
        let mut files = self.files();
        while files.len() > REPORTS_MAX {
            fs::remove_file(files.remove(0).1)?;
        }
        Ok(())
    }

    /// All reports that can be read.
    pub(crate) fn all(&self) -> Vec<CheckReport> {
        self.files().iter().filter_map(|(_, path)| read(path)).collect()
    }

    pub(crate) fn get(&self, id: CheckId) -> Option<CheckReport> {
        read(&self.dir.join(format!("{id}.json")))
    }

    /// The files, the oldest first.
    fn files(&self) -> Vec<(std::time::SystemTime, PathBuf)> {
        let Ok(listing) = fs::read_dir(&self.dir) else { return Vec::new() };
        let mut files: Vec<_> = listing
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        files
    }
}

/// A report that is damaged is as if it were not there: it can be made again.
fn read(path: &Path) -> Option<CheckReport> {
    if fs::metadata(path).ok()?.len() > REPORT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::{Origin, Repair};
    use crate::check::{CheckSpec, begun};

    fn report(number: u8) -> CheckReport {
        let spec = CheckSpec {
            share: "docs".parse().expect("a name"),
            peers: Vec::new(),
            deep: true,
            from_disk: false,
            repair: Repair::Yes,
            origin: Origin::Scrub,
        };
        begun(CheckId([number; 16]), &spec, format!("2026-01-01T00:00:{number:02}Z"))
    }

    #[test]
    fn the_latest_reports_are_kept_and_damaged_ones_passed_over() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let history = History::new(dir.path().join("checks"));
        assert!(history.all().is_empty());
        for number in 0..u8::try_from(REPORTS_MAX + 5).expect("small") {
            history.keep(&report(number)).expect("kept");
        }
        assert_eq!(history.all().len(), REPORTS_MAX);
        assert_eq!(history.get(CheckId([50; 16])), Some(report(50)));
        fs::write(dir.path().join("checks").join(format!("{}.json", CheckId([50; 16]))), "{")
            .expect("written");
        assert_eq!(history.get(CheckId([50; 16])), None);
        assert_eq!(history.all().len(), REPORTS_MAX - 1);
    }
}
