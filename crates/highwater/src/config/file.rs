//! The tables of `config.toml` as they are written: every value optional, each checked on its own.
//! Values that later checks may refuse remember where they stood.

use std::path::PathBuf;

use highwater_core::ShareName;
use serde::Deserialize;
use toml::Spanned;

use super::ShareMode;
use super::value::{Address, HostPort, Id, Rate, Size, Wait};
use super::{Endpoint, Network};
use highwater_core::alert::Rule;

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileConfig {
    #[serde(default)]
    pub(super) node: FileNode,
    #[serde(default)]
    pub(super) listen: FileListen,
    #[serde(default)]
    pub(super) alerts: FileAlerts,
    #[serde(default)]
    pub(super) check: FileCheck,
    #[serde(default)]
    pub(super) cluster: FileCluster,
    #[serde(default, rename = "share")]
    pub(super) shares: Vec<FileShare>,
    #[serde(default, rename = "peer")]
    pub(super) peers: Vec<FilePeer>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileNode {
    pub(super) name: Option<String>,
    pub(super) user: Option<String>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileListen {
    pub(super) sync: Option<Address>,
    pub(super) http: Option<Address>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAlerts {
    pub(super) enabled: Option<bool>,
    pub(super) off: Option<Vec<Rule>>,
    pub(super) peer_silent: Option<Spanned<Wait>>,
    pub(super) lag_age: Option<Spanned<Wait>>,
    pub(super) lag_entries: Option<Spanned<u64>>,
    pub(super) transfer_stalled: Option<Spanned<Wait>>,
    pub(super) check_overdue: Option<Spanned<Wait>>,
    pub(super) disk_low: Option<Size>,
    pub(super) clock_skew: Option<Spanned<Wait>>,
    pub(super) certificate_ending: Option<Wait>,
    pub(super) version_skew: Option<Spanned<Wait>>,
    pub(super) webhook: Option<Endpoint>,
    pub(super) webhook_secret_file: Option<Spanned<PathBuf>>,
    pub(super) alertmanager: Option<Endpoint>,
    pub(super) allow: Option<Vec<Network>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCheck {
    pub(super) deep_rate: Option<Rate>,
    pub(super) scrub_interval: Option<Wait>,
    pub(super) scrub_rate: Option<Rate>,
    pub(super) heal: Option<bool>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCluster {
    pub(super) links_max: Option<Spanned<usize>>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FileShare {
    pub(super) name: Option<Spanned<ShareName>>,
    pub(super) path: Option<Spanned<PathBuf>>,
    pub(super) mode: Option<ShareMode>,
    pub(super) rescan_interval: Option<Spanned<Wait>>,
    pub(super) mass_delete_fraction: Option<Spanned<f64>>,
    pub(super) mass_delete_entries_min: Option<u64>,
    pub(super) paused: Option<bool>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePeer {
    pub(super) id: Option<Spanned<Id>>,
    pub(super) name: Option<String>,
    pub(super) addr: Option<HostPort>,
    pub(super) shares: Option<Vec<Spanned<ShareName>>>,
}
