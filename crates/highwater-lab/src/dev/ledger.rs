//! What is on record about a development cluster: `cluster.json` in its directory.
//!
//! It is replaced as a whole whenever a node is made, started or stopped, so that whatever ends a
//! command in the middle, the next one knows every process that was started.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::process::ProcessRecord;
use crate::net::Place;
use crate::node::{Node, NodeSpec};

/// The version of the file's layout.
const LAYOUT: u32 = 1;
const FILE: &str = "cluster.json";
const LOCK: &str = "lock";
/// A cluster of a thousand nodes fits; anything longer is not such a file.
const LEDGER_BYTES_MAX: u64 = 1024 * 1024;

/// A development cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    layout: u32,
    /// The program that the nodes run.
    pub(super) exe: PathBuf,
    /// What they share.
    pub(super) shares: Vec<String>,
    /// The nodes, in the order of their ports.
    pub(super) nodes: Vec<NodeRecord>,
}

/// One node of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeRecord {
    /// Its name and its user's.
    pub(super) name: String,
    /// Where it serves people.
    pub(super) http: SocketAddr,
    /// Where it serves nodes.
    pub(super) sync: SocketAddr,
    /// Its id; empty until it has been made.
    pub(super) node_id: String,
    /// The process that was last started for it, if it was not stopped since.
    pub(super) process: Option<ProcessRecord>,
}

impl NodeRecord {
    /// The process, if it runs.
    pub(super) fn running(&self) -> Option<&ProcessRecord> {
        self.process.as_ref().filter(|process| process.is_running())
    }
}

impl Ledger {
    pub(super) fn new(exe: PathBuf, shares: Vec<String>, nodes: Vec<NodeRecord>) -> Self {
        Self { layout: LAYOUT, exe, shares, nodes }
    }

    /// The cluster in `dir`, if there is one.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        if length > LEDGER_BYTES_MAX {
            bail!("{} is no record of a development cluster; move it away", path.display());
        }
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let ledger: Self = serde_json::from_slice(&text).with_context(|| {
            format!("{} is no record of a development cluster; move it away", path.display())
        })?;
        if ledger.layout != LAYOUT || ledger.nodes.is_empty() {
            bail!("{} was not written by this version; use the one that did", path.display());
        }
        Ok(Some(ledger))
    }

    /// Replaces the record in `dir`.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        let (path, aside) = (dir.join(FILE), dir.join("cluster.json.new"));
        let mut file =
            File::create(&aside).with_context(|| format!("writing {}", aside.display()))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&aside, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// A hand on the node at `index`, for commands and questions. It owns no process.
    pub(super) fn node(&self, dir: &Path, index: usize) -> Node {
        let record = &self.nodes[index];
        Node::existing(self.spec(index), dir, &record.node_id)
    }

    pub(super) fn spec(&self, index: usize) -> NodeSpec {
        let record = &self.nodes[index];
        NodeSpec {
            exe: self.exe.clone(),
            name: record.name.clone(),
            user: record.name.clone(),
            place: Place::Here,
            sync: record.sync,
            http: record.http,
        }
    }
}

/// Keeps other commands away from a cluster's directory until it is dropped.
#[derive(Debug)]
pub(super) struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

/// Takes the directory for one command that changes something.
pub(super) fn lock(dir: &Path) -> Result<DirLock> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!("another `highwater dev` command works on {}; let it finish", dir.display())
    })?;
    Ok(DirLock(file))
}

/// Removes the record and the lock of a cluster that is no more.
pub(super) fn remove(dir: &Path) -> Result<()> {
    for name in [FILE, LOCK] {
        let path = dir.join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
