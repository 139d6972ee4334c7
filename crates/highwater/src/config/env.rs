//! Variables `HIGHWATER_<SECTION>_<KEY>` that replace single values of the file.
//!
//! `[node]`, `[listen]`, `[alerts]`, `[check]` and `[cluster]` are there once; lists are separated by
//! commas. A variable for `[[share]]` or `[[peer]]` sets the key in each of them, and makes the first one where the file has none, so that a container needs no
//! file at all.

use std::ffi::OsString;
use std::fmt::Display;
use std::str::FromStr;

use toml::Spanned;

use super::ConfigError;
use super::file::{FileAlerts, FileConfig, FilePeer, FileShare};
use super::source::plain;

const PREFIX: &str = "HIGHWATER_";

/// Variables that other parts of the program read.
const OTHERS: [&str; 2] = ["HIGHWATER_HOME", "HIGHWATER_LOG"];

pub(super) fn apply(
    file: &mut FileConfig,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    let mut ours: Vec<(String, OsString)> = env
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !OTHERS.contains(&name.as_str()))
        .collect();
    ours.sort();
    for (name, value) in ours {
        let place = plain(&format!("environment variable {name}"));
        let set = value
            .into_string()
            .map_err(|_| "its value is not UTF-8".to_owned())
            .and_then(|value| set(file, &name[PREFIX.len()..], &value));
        set.map_err(|message| ConfigError { place, message: plain(&message) })?;
    }
    Ok(())
}

fn set(file: &mut FileConfig, name: &str, value: &str) -> Result<(), String> {
    match name {
        "NODE_NAME" => file.node.name = Some(value.to_owned()),
        "NODE_USER" => file.node.user = Some(value.to_owned()),
        "LISTEN_SYNC" => file.listen.sync = Some(parsed(value)?),
        "LISTEN_HTTP" => file.listen.http = Some(parsed(value)?),
        "CHECK_DEEP_RATE" => file.check.deep_rate = Some(parsed(value)?),
        "CHECK_SCRUB_INTERVAL" => file.check.scrub_interval = Some(parsed(value)?),
        "CHECK_SCRUB_RATE" => file.check.scrub_rate = Some(parsed(value)?),
        "CHECK_HEAL" => file.check.heal = Some(parsed(value)?),
        "CLUSTER_LINKS_MAX" => file.cluster.links_max = Some(placeless(parsed(value)?)),
        _ => {
            if let Some(key) = name.strip_prefix("ALERTS_") {
                return set_alerts(&mut file.alerts, key, value);
            }
            if let Some(key) = name.strip_prefix("SHARE_") {
                return each(&mut file.shares, |share| set_share(share, key, value));
            }
            if let Some(key) = name.strip_prefix("PEER_") {
                return each(&mut file.peers, |peer| set_peer(peer, key, value));
            }
            return Err(unknown());
        }
    }
    Ok(())
}

fn set_alerts(alerts: &mut FileAlerts, key: &str, value: &str) -> Result<(), String> {
    match key {
        "ENABLED" => alerts.enabled = Some(parsed(value)?),
        "OFF" => alerts.off = Some(listed(value)?),
        "PEER_SILENT" => alerts.peer_silent = Some(placeless(parsed(value)?)),
        "LAG_AGE" => alerts.lag_age = Some(placeless(parsed(value)?)),
        "LAG_ENTRIES" => alerts.lag_entries = Some(placeless(parsed(value)?)),
        "TRANSFER_STALLED" => alerts.transfer_stalled = Some(placeless(parsed(value)?)),
        "CHECK_OVERDUE" => alerts.check_overdue = Some(placeless(parsed(value)?)),
        "DISK_LOW" => alerts.disk_low = Some(parsed(value)?),
        "CLOCK_SKEW" => alerts.clock_skew = Some(placeless(parsed(value)?)),
        "CERTIFICATE_ENDING" => alerts.certificate_ending = Some(parsed(value)?),
        "VERSION_SKEW" => alerts.version_skew = Some(placeless(parsed(value)?)),
        "WEBHOOK" => alerts.webhook = Some(parsed(value)?),
        "WEBHOOK_SECRET_FILE" => alerts.webhook_secret_file = Some(placeless(value.into())),
        "ALERTMANAGER" => alerts.alertmanager = Some(parsed(value)?),
        "ALLOW" => alerts.allow = Some(listed(value)?),
        "CA_FILE" => alerts.ca_file = Some(placeless(value.into())),
        _ => return Err(unknown()),
    }
    Ok(())
}

fn listed<T: FromStr<Err: Display>>(value: &str) -> Result<Vec<T>, String> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parsed).collect()
}

fn set_share(share: &mut FileShare, key: &str, value: &str) -> Result<(), String> {
    match key {
        "NAME" => share.name = Some(placeless(parsed(value)?)),
        "PATH" => share.path = Some(placeless(value.into())),
        "MODE" => share.mode = Some(parsed(value)?),
        "RESCAN_INTERVAL" => share.rescan_interval = Some(placeless(parsed(value)?)),
        "MASS_DELETE_FRACTION" => share.mass_delete_fraction = Some(placeless(parsed(value)?)),
        "MASS_DELETE_ENTRIES_MIN" => share.mass_delete_entries_min = Some(parsed(value)?),
        "PAUSED" => share.paused = Some(parsed(value)?),
        _ => return Err(unknown()),
    }
    Ok(())
}

fn set_peer(peer: &mut FilePeer, key: &str, value: &str) -> Result<(), String> {
    match key {
        "ID" => peer.id = Some(placeless(parsed(value)?)),
        "NAME" => peer.name = Some(value.to_owned()),
        "ADDR" => peer.addr = Some(parsed(value)?),
        "SHARES" => {
            let names = value.split(',').map(|name| parsed(name.trim()).map(placeless));
            peer.shares = Some(names.collect::<Result<_, _>>()?);
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

fn each<T: Default>(
    tables: &mut Vec<T>,
    set: impl Fn(&mut T) -> Result<(), String>,
) -> Result<(), String> {
    if tables.is_empty() {
        tables.push(T::default());
    }
    tables.iter_mut().try_for_each(set)
}

fn parsed<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|e: T::Err| format!("{value:?} does not fit: {e}"))
}

/// A value that stands on no line of the file.
fn placeless<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn unknown() -> String {
    "no key of config.toml has this name; configs/node.toml lists them all".to_owned()
}
