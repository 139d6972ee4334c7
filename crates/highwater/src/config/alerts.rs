//! `[alerts]`: when they fire, and where they are sent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use highwater_core::alert::{Levels, Rule};
use toml::Spanned;

use super::file::FileAlerts;
use super::source::Source;
use super::value::Wait;
use super::{ConfigError, Endpoint, Network};

/// When alerts fire, and where they are sent.
#[derive(Clone, PartialEq, Debug)]
pub struct AlertsConfig {
    /// The levels of each rule that is on.
    pub levels: BTreeMap<Rule, Levels>,
    /// Where each turn of an alert is posted, signed.
    pub webhook: Option<Endpoint>,
    /// The file with the key of those signatures; the home has one otherwise.
    pub webhook_secret_file: Option<PathBuf>,
    /// The Alertmanager that is told what fires.
    pub alertmanager: Option<Endpoint>,
    /// Networks that are not public and may be called all the same.
    pub allow: Vec<Network>,
    /// Certificates to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl AlertsConfig {
    /// The levels of a rule; `None` when it is off.
    pub fn levels(&self, rule: Rule) -> Option<Levels> {
        self.levels.get(&rule).copied()
    }
}

pub(super) fn resolve(source: &Source<'_>, file: &FileAlerts) -> Result<AlertsConfig, ConfigError> {
    let off: &[Rule] = file.off.as_deref().unwrap_or_default();
    let on =
        Rule::ALL.into_iter().filter(|rule| file.enabled != Some(false) && !off.contains(rule));
    let mut levels: BTreeMap<Rule, Levels> = on.map(|rule| (rule, rule.levels_default())).collect();
    let waits = [
        ("peer_silent", Rule::PeerSilent, &file.peer_silent),
        ("lag_age", Rule::LagAge, &file.lag_age),
        ("transfer_stalled", Rule::TransferStalled, &file.transfer_stalled),
        ("check_overdue", Rule::CheckOverdue, &file.check_overdue),
        ("clock_skew", Rule::ClockSkew, &file.clock_skew),
    ];
    for (key, rule, wait) in waits {
        let Some(wait) = wait else { continue };
        set(&mut levels, rule, long_enough(source, key, wait)?.as_secs_f64());
    }
    if let (Some(wait), Some(levels)) = (&file.version_skew, levels.get_mut(&Rule::VersionSkew)) {
        levels.hold = long_enough(source, "version_skew", wait)?;
    }
    if let Some(entries) = &file.lag_entries {
        if *entries.get_ref() == 0 {
            return Err(source.error(entries.span(), "lag_entries: at least 1"));
        }
        set(&mut levels, Rule::LagEntries, *entries.get_ref() as f64);
    }
    if let Some(size) = file.disk_low {
        set(&mut levels, Rule::DiskLow, size.0 as f64);
    }
    if let Some(left) = file.certificate_ending {
        set(&mut levels, Rule::CertificateEnding, left.0.as_secs_f64());
    }
    Ok(AlertsConfig {
        levels,
        webhook: file.webhook.clone(),
        webhook_secret_file: absolute(source, "webhook_secret_file", &file.webhook_secret_file)?,
        alertmanager: file.alertmanager.clone(),
        allow: file.allow.clone().unwrap_or_default(),
        ca_file: absolute(source, "ca_file", &file.ca_file)?,
    })
}

/// Shortest time that fires an alert, in seconds.
const WAIT_SECONDS_MIN: u64 = 5;

fn long_enough(
    source: &Source<'_>,
    key: &str,
    wait: &Spanned<Wait>,
) -> Result<Duration, ConfigError> {
    let Wait(length) = *wait.get_ref();
    // A figure is measured every second or two; less would fire on nothing.
    if length.as_secs() < WAIT_SECONDS_MIN {
        let message = format!(
            "{key}: at least \"{WAIT_SECONDS_MIN}s\"; off = [\"{key}\"] switches the alert off"
        );
        return Err(source.error(wait.span(), message));
    }
    Ok(length)
}

fn set(levels: &mut BTreeMap<Rule, Levels>, rule: Rule, fire: f64) {
    if let Some(levels) = levels.get_mut(&rule) {
        *levels = levels.with_fire(fire);
    }
}

fn absolute(
    source: &Source<'_>,
    key: &str,
    path: &Option<Spanned<PathBuf>>,
) -> Result<Option<PathBuf>, ConfigError> {
    match path {
        Some(path) if !path.get_ref().is_absolute() => {
            let message = format!("{key}: {} is not absolute", path.get_ref().display());
            Err(source.error(path.span(), format!("{message}; start it with /")))
        }
        path => Ok(path.as_ref().map(|path| path.get_ref().clone())),
    }
}
