//! The configuration of a node: `config.toml`, strictly read.
//!
//! A key that is unknown, a value of the wrong type, two settings that contradict each other: all
//! are errors that name the key and the line, because a setting that is silently ignored is found
//! out when data is already in the wrong place. Reading has three steps:
//!
//! 1. the file becomes tables of optional values, each checked on its own (`config/file.rs`);
//! 2. variables `HIGHWATER_<SECTION>_<KEY>` replace single values (`config/env.rs`);
//! 3. what is left open gets its default (here), and the whole is checked for contradictions
//!    (`config/check.rs`).
//!
//! `configs/node.toml` explains every key.

mod alerts;
mod check;
mod endpoint;
mod env;
mod file;
mod source;
mod value;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_core::overlay::{LINKS_MAX_DEFAULT, LINKS_MAX_LEAST, LINKS_MAX_MOST};
use highwater_core::{NodeId, ShareName};
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use alerts::AlertsConfig;
pub use endpoint::{Endpoint, Network};
use file::{FileCheck, FileCluster, FileConfig, FilePeer, FileShare};
use source::Source;
pub(crate) use value::check_host_port;

/// What the owner of a node decided.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Who this node is, for people.
    pub node: NodeConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// When alerts fire, and where they are sent.
    pub alerts: AlertsConfig,
    /// How the consistency checker works.
    pub check: CheckConfig,
    /// How it is part of its cluster.
    pub cluster: ClusterConfig,
    /// The folders it shares.
    pub shares: Vec<ShareConfig>,
    /// The nodes it exchanges them with.
    pub peers: Vec<PeerConfig>,
}

/// Who this node is, for people. Trust rests on its id alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// The node's name.
    pub name: String,
    /// Whose data it keeps.
    pub user: String,
}

/// Where a node listens. Port 0 takes any free port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenConfig {
    /// For other nodes.
    pub sync: SocketAddr,
    /// For people and programs.
    pub http: SocketAddr,
}

/// How the consistency checker works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckConfig {
    /// Bytes a second that a deep check reads on this node; 0 for no limit.
    pub deep_rate: u64,
    /// How often every byte of a share is read again in the background; `None` for never.
    pub scrub_interval: Option<Duration>,
    /// Bytes a second that this reads; 0 for no limit.
    pub scrub_rate: u64,
    /// Whether bit rot that it finds is mended from a peer.
    pub heal: bool,
}

/// How a node is part of its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    /// Links that it keeps where a share has more peers than this, from [`LINKS_MAX_LEAST`] to
    /// [`LINKS_MAX_MOST`].
    pub links_max: usize,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { links_max: LINKS_MAX_DEFAULT }
    }
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            deep_rate: DEEP_RATE_DEFAULT,
            scrub_interval: Some(SCRUB_INTERVAL_DEFAULT),
            scrub_rate: SCRUB_RATE_DEFAULT,
            heal: true,
        }
    }
}

/// Faster than memory is read here: an operator who asks for a deep check waits for it, and a faster
/// machine is left some room for others.
const DEEP_RATE_DEFAULT: u64 = 8_000_000_000;
/// Bit rot is found within a month, as disk arrays are checked.
const SCRUB_INTERVAL_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);
/// A fraction of what a hard disk can read; a terabyte takes half a day.
const SCRUB_RATE_DEFAULT: u64 = 20_000_000;

/// One shared folder.
#[derive(Clone, PartialEq, Debug)]
pub struct ShareConfig {
    /// Its name, the same on every node.
    pub name: ShareName,
    /// Where it lies here: an absolute path.
    pub path: PathBuf,
    /// Which ways changes travel.
    pub mode: ShareMode,
    /// How often the whole folder is read, in case the watcher missed something.
    pub rescan_interval: Duration,
    /// Which deletes are held back.
    pub mass_delete: MassDelete,
    /// Stopped by its owner until resumed.
    pub paused: bool,
}

/// Which ways changes travel between a share and its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ShareMode {
    /// Both ways.
    #[default]
    SendReceive,
    /// Local changes go out; others' are not applied.
    SendOnly,
    /// Others' changes are applied; local ones stay here.
    ReceiveOnly,
}

impl ShareMode {
    /// The mode as it is written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            ShareMode::SendReceive => "send-receive",
            ShareMode::SendOnly => "send-only",
            ShareMode::ReceiveOnly => "receive-only",
        }
    }
}

impl std::fmt::Display for ShareMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for ShareMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [ShareMode::SendReceive, ShareMode::SendOnly, ShareMode::ReceiveOnly]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                format!("a mode is send-receive, send-only or receive-only, not {text:?}")
            })
    }
}

/// A scan that finds both of these exceeded is held back until its owner confirms it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MassDelete {
    /// The part of the share that is gone, from 0 to 1.
    pub fraction: f64,
    /// How many entries are gone.
    pub entries_min: u64,
}

impl Default for MassDelete {
    fn default() -> Self {
        Self { fraction: 0.25, entries_min: 1000 }
    }
}

/// One other node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// Its id: the only thing that is trusted.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where to dial it, `HOST:PORT`; without it this node waits to be dialled.
    pub addr: Option<String>,
    /// The shares exchanged with it.
    pub shares: Vec<ShareName>,
}

/// Where nodes listen for each other unless told otherwise.
pub const SYNC_ADDR_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7420);
/// Where the HTTP API listens unless told otherwise.
pub const HTTP_ADDR_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The watcher sees changes at once; an hour bounds how long a missed one stays unseen.
const RESCAN_INTERVAL_DEFAULT: Duration = Duration::from_secs(3600);
/// Reading a folder more often than this would be all a node does.
const RESCAN_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A thousand shares and as many peers fit in this many bytes; anything longer is not a
/// configuration.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What is wrong with a configuration: the place, the key, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// The file and line, or the environment variable.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl Config {
    /// Reads the configuration at `path`, with the changes that the environment makes to it.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Self::parse(&text, path, std::env::vars_os())
    }

    /// The configuration in `text`, which came from `path`, changed by the variables `env`.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn parse(
        text: &str,
        path: &Path,
        env: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, ConfigError> {
        let source = Source { text, path };
        let mut file: FileConfig = toml::from_str(text).map_err(|e| source.syntax_error(&e))?;
        env::apply(&mut file, env)?;
        let config = Self {
            node: NodeConfig {
                name: file.node.name.clone().unwrap_or_else(|| "unnamed".to_owned()),
                user: file.node.user.clone().unwrap_or_else(|| "unnamed".to_owned()),
            },
            listen: ListenConfig {
                sync: file.listen.sync.map_or(SYNC_ADDR_DEFAULT, |addr| addr.0),
                http: file.listen.http.map_or(HTTP_ADDR_DEFAULT, |addr| addr.0),
            },
            alerts: alerts::resolve(&source, &file.alerts)?,
            check: resolve_check(&file.check),
            cluster: resolve_cluster(&source, &file.cluster)?,
            shares: resolve_each(&file.shares, |share| resolve_share(&source, share))?,
            peers: resolve_each(&file.peers, |peer| resolve_peer(&source, peer))?,
        };
        check::whole(&source, &config, &file)?;
        Ok(config)
    }

    /// Checks the variables `HIGHWATER_…` alone, for commands that read no configuration: whoever
    /// misspelt one would ask, or make, another node than was meant.
    ///
    /// # Errors
    /// The first variable that is no key, or whose value does not fit.
    pub fn check_environment(
        env: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<(), ConfigError> {
        env::apply(&mut FileConfig::default(), env)
    }

    /// The share with this name.
    pub fn share(&self, name: &ShareName) -> Option<&ShareConfig> {
        self.shares.iter().find(|share| share.name == *name)
    }

    /// Checks what depends on where the node lives and who it is: no share may hold the home or
    /// lie in it, and no peer may be the node itself.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check_against(&self, home_dir: &Path, own_id: &NodeId) -> Result<(), ConfigError> {
        let place = || home_dir.join("config.toml").display().to_string();
        for share in &self.shares {
            if overlap(&share.path, home_dir) {
                let message = format!(
                    "share {} at {} and the node's home {} lie in one another; a node must not \
                     sync its own keys and store, move one of them",
                    share.name,
                    share.path.display(),
                    home_dir.display()
                );
                return Err(ConfigError { place: place(), message });
            }
        }
        if self.peers.iter().any(|peer| peer.id == *own_id) {
            let message = format!("peer {own_id} is this node itself; remove it");
            return Err(ConfigError { place: place(), message });
        }
        Ok(())
    }
}

/// A duration as it is written in the configuration: `"5s"`, `"30d"`.
///
/// # Errors
/// A sentence that says how durations are written.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    text.parse().map(|value::Wait(wait)| wait)
}

/// The text of the configuration at `path`, refused when it is absurdly long.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let fail = |message: String| ConfigError { place: path.display().to_string(), message };
    let file = std::fs::File::open(path)
        .map_err(|e| fail(format!("cannot open the configuration: {e}")))?;
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| fail(unreadable(&e)))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(fail(format!("a configuration has at most {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn unreadable(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return "this is not UTF-8 text; write it anew, or restore it from a backup".to_owned();
    }
    format!("cannot read the configuration: {error}")
}

/// Whether two directories are the same or one lies in the other, symlinks resolved as far as
/// they exist.
pub(crate) fn overlap(a: &Path, b: &Path) -> bool {
    let (a, b) = (resolved(a), resolved(b));
    a.starts_with(&b) || b.starts_with(&a)
}

/// The directory that a path means, symlinks resolved as far as it exists.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
    match existing {
        Some((dir, real)) => match path.strip_prefix(dir) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_owned(),
    }
}

fn resolve_each<T, R>(
    tables: &[T],
    resolve: impl Fn(&T) -> Result<R, ConfigError>,
) -> Result<Vec<R>, ConfigError> {
    tables.iter().map(resolve).collect()
}

fn resolve_check(check: &FileCheck) -> CheckConfig {
    let defaults = CheckConfig::default();
    let interval = check.scrub_interval.map(|wait| wait.0);
    CheckConfig {
        deep_rate: check.deep_rate.map_or(defaults.deep_rate, |rate| rate.0),
        scrub_interval: interval.or(defaults.scrub_interval).filter(|wait| !wait.is_zero()),
        scrub_rate: check.scrub_rate.map_or(defaults.scrub_rate, |rate| rate.0),
        heal: check.heal.unwrap_or(defaults.heal),
    }
}

fn resolve_cluster(
    source: &Source<'_>,
    cluster: &FileCluster,
) -> Result<ClusterConfig, ConfigError> {
    let Some(links) = &cluster.links_max else { return Ok(ClusterConfig::default()) };
    let links_max = *links.get_ref();
    if !(LINKS_MAX_LEAST..=LINKS_MAX_MOST).contains(&links_max) {
        let message =
            format!("links_max: a node keeps {LINKS_MAX_LEAST} to {LINKS_MAX_MOST} links");
        return Err(source.error(links.span(), message));
    }
    Ok(ClusterConfig { links_max })
}

fn resolve_share(source: &Source<'_>, share: &FileShare) -> Result<ShareConfig, ConfigError> {
    let defaults = MassDelete::default();
    let resolved = ShareConfig {
        name: required(source, "share", "name", share.name.as_ref())?,
        path: required(source, "share", "path", share.path.as_ref())?,
        mode: share.mode.unwrap_or_default(),
        rescan_interval: share
            .rescan_interval
            .as_ref()
            .map_or(RESCAN_INTERVAL_DEFAULT, |wait| wait.get_ref().0),
        mass_delete: MassDelete {
            fraction: share
                .mass_delete_fraction
                .as_ref()
                .map_or(defaults.fraction, |f| *f.get_ref()),
            entries_min: share.mass_delete_entries_min.unwrap_or(defaults.entries_min),
        },
        paused: share.paused.unwrap_or(false),
    };
    let fraction = share.mass_delete_fraction.as_ref().map_or(0..0, Spanned::span);
    if !(0.0..=1.0).contains(&resolved.mass_delete.fraction) {
        return Err(source.error(fraction, "mass_delete_fraction: a part of a share is 0 to 1"));
    }
    if resolved.rescan_interval < RESCAN_INTERVAL_MIN {
        let span = share.rescan_interval.as_ref().map_or(0..0, Spanned::span);
        return Err(source.error(span, "rescan_interval: at least \"1s\""));
    }
    Ok(resolved)
}

fn resolve_peer(source: &Source<'_>, peer: &FilePeer) -> Result<PeerConfig, ConfigError> {
    let id = required(source, "peer", "id", peer.id.as_ref())?.0;
    Ok(PeerConfig {
        id,
        name: peer.name.clone().unwrap_or_else(|| id.tag().to_string()),
        addr: peer.addr.as_ref().map(|addr| addr.0.clone()),
        shares: peer.shares.iter().flatten().map(|share| share.get_ref().clone()).collect(),
    })
}

fn required<T: Clone>(
    source: &Source<'_>,
    section: &str,
    key: &str,
    value: Option<&Spanned<T>>,
) -> Result<T, ConfigError> {
    value.map(|value| value.get_ref().clone()).ok_or_else(|| {
        source.error(0..0, format!("{key}: every [[{section}]] needs this key; add it"))
    })
}

#[cfg(test)]
mod tests;
