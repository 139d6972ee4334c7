//! What fires, kept over restarts: `alerts.json` in the home, replaced as a whole.
//!
//! It is a convenience: without it, what fires is told again. So nothing that is wrong with the file
//! stops a node.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use highwater_core::alert::{Alert, Alerts, RECENT_MAX, SUBJECTS_MAX, TEXT_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// Longest file that is read: every alert at its longest.
const BYTES_MAX: u64 = ((SUBJECTS_MAX + RECENT_MAX) * 4 * TEXT_BYTES_MAX) as u64;

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Memory {
    last_id: u64,
    firing: Vec<Alert>,
    recent: Vec<Alert>,
}

pub(super) fn load(path: &Path) -> Alerts {
    let memory = match read(path) {
        Ok(memory) => memory,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Memory::default(),
        Err(e) => {
            tracing::warn!("cannot read {}: {e}; what fires is told again", path.display());
            Memory::default()
        }
    };
    Alerts::restore(memory.firing, memory.recent, memory.last_id)
}

fn read(path: &Path) -> std::io::Result<Memory> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

pub(super) fn save(path: &Path, alerts: &Alerts) {
    let memory = Memory {
        last_id: alerts.last_id(),
        firing: alerts.firing().cloned().collect(),
        recent: alerts.recent().cloned().collect(),
    };
    let written = serde_json::to_vec(&memory).map_err(Into::into);
    if let Err(e) = written.and_then(|text| replace(path, &text)) {
        tracing::warn!("cannot write {}: {e}; what fires is told again later", path.display());
    }
}

/// Replaces a private file in one step.
pub(super) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::WallTime;
    use highwater_core::alert::{Measured, Rule};

    use super::*;

    #[test]
    fn what_fires_is_known_after_a_restart_and_a_spoilt_file_stops_nothing() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("alerts.json");
        assert_eq!(load(&path).firing().count(), 0);
        let mut alerts = Alerts::default();
        let figure =
            Measured { rule: Rule::BitRot, subject: "x".into(), value: 1.0, cause: "it is".into() };
        let levels = |rule: Rule| Some(rule.levels_default());
        alerts.look(highwater_core::Time::default(), WallTime(5), vec![figure], levels);
        save(&path, &alerts);
        let known = load(&path);
        assert_eq!(known.firing().collect::<Vec<_>>(), alerts.firing().collect::<Vec<_>>());
        assert_eq!(known.last_id(), 1);
        fs::write(&path, b"{\"last_id\":").expect("written");
        assert_eq!(load(&path).firing().count(), 0);
    }
}
