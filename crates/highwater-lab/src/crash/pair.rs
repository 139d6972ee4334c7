//! Two nodes that share a folder: the victim, on a disk of its own if its power is to be cut, and
//! the peer, which stays up and remembers. The victim dials, so that it is back at once.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::disk::{Disk, FileSystem};
use super::ledger::{Keeping, Ledger};
use super::trace::{self, Injection};
use super::workload::Hand;
use crate::cluster::{Cluster, SHARE};
use crate::faults::{CutKind, Survivors};
use crate::node::{Node, NodeSpec};
use crate::oracle::{self, Tree};
use crate::proxy::Proxy;
use crate::status::Status;

/// Longest wait for anything that must come about. Only a failure reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PEER: usize = 0;
const VICTIM: usize = 1;
/// The victim's name, and that of its directory.
const VICTIM_NAME: &str = "victim";

/// The two nodes, in sync and running, and the book of what they share.
#[derive(Debug)]
pub struct Pair {
    /// What their folders hold.
    pub ledger: Ledger,
    /// The victim's disk, if it has one of its own.
    pub disk: Option<Disk>,
    cluster: Cluster,
    proxy: Proxy,
}

impl Pair {
    /// Makes the nodes and starts them.
    pub fn start(exe: &Path, disk: Option<FileSystem>) -> Result<Pair> {
        let mut cluster = Cluster::new(exe, &["peer"], &[])?;
        let victim = trace::traceable(exe, &cluster.dir().join("traceable"))?;
        let home = cluster.dir().join(VICTIM_NAME);
        let make = |kind| Disk::make(kind, &cluster.dir(), &home);
        let disk = disk.map(make).transpose()?;
        fs::create_dir_all(&home)?;
        // The log must not be lost with the disk.
        symlink(cluster.dir().join("victim-log.txt"), home.join("log.txt"))?;
        cluster.add_node(NodeSpec::on_loopback(&victim, VICTIM_NAME)?)?;
        cluster.link(VICTIM, PEER)?;
        let proxy = cluster.proxy(VICTIM, PEER);
        cluster.start_all()?;
        let pair = Pair { ledger: Ledger::default(), disk, cluster, proxy };
        pair.wait_in_sync()?;
        Ok(pair)
    }

    /// The node that fails.
    pub fn victim(&mut self) -> &mut Node {
        &mut self.cluster.nodes[VICTIM]
    }

    /// Starts the victim with a fault waiting for it. It may die of it before it is ready.
    pub fn start_traced(&mut self, log: &Path, injection: Option<Injection>) -> Result<()> {
        let orders = self.dir().join("traceable").join(trace::ORDERS);
        fs::write(&orders, trace::options(log, injection).join("\n"))?;
        let started = self.victim().start();
        fs::remove_file(&orders)?;
        started
    }

    /// Starts the victim with no line to anybody, and waits until its share is at work: what it has
    /// then, it has from its own disk.
    pub fn start_alone(&mut self) -> Result<Status> {
        self.part();
        self.victim().start()?;
        let at_work = |status: &Status| {
            status.share(SHARE).is_some_and(|share| ["idle", "syncing"].contains(&&*share.state))
        };
        self.victim().wait_until("the share is at work", PATIENCE, at_work)
    }

    /// The victim's status, if it answers.
    pub fn victim_status(&self) -> Result<Status> {
        self.cluster.nodes[VICTIM].status()
    }

    /// The peer's status.
    pub fn peer_status(&self) -> Result<Status> {
        self.cluster.nodes[PEER].status()
    }

    /// Waits until the peer's status meets `condition`.
    pub fn wait_peer(&self, what: &str, condition: impl FnMut(&Status) -> bool) -> Result<Status> {
        self.cluster.nodes[PEER].wait_until(what, PATIENCE, condition)
    }

    /// The link between the two.
    pub fn link(&self) -> &Proxy {
        &self.proxy
    }

    /// Takes the line away.
    pub fn part(&self) {
        self.proxy.cut(CutKind::Reset);
    }

    /// Gives it back.
    pub fn meet(&self) {
        self.proxy.heal_with(Survivors::Reset);
    }

    /// Where everything lies.
    pub fn dir(&self) -> PathBuf {
        self.cluster.dir()
    }

    /// The victim's folder.
    pub fn victim_folder(&self) -> PathBuf {
        self.cluster.folder(VICTIM)
    }

    /// The peer's folder.
    pub fn peer_folder(&self) -> PathBuf {
        self.cluster.folder(PEER)
    }

    /// A hand in the victim's folder.
    pub fn victim_hand(&self, keeping: Keeping) -> Result<Hand> {
        let scratch = self.dir().join(VICTIM_NAME).join("scratch");
        Hand::new(&self.victim_folder(), &scratch, keeping)
    }

    /// A hand in the peer's folder.
    pub fn peer_hand(&self) -> Result<Hand> {
        let scratch = self.dir().join("peer-scratch");
        Hand::new(&self.peer_folder(), &scratch, Keeping::Elsewhere)
    }

    /// What the victim's stage holds of transfers that outlive a restart.
    pub fn staged_parts(&self) -> Result<u64> {
        let stage = self.victim_folder().join(".highwater/stage");
        let mut parts = 0;
        for entry in fs::read_dir(&stage).with_context(|| format!("{}", stage.display()))? {
            parts += u64::from(entry?.file_name().to_string_lossy().starts_with("part-"));
        }
        Ok(parts)
    }

    /// Waits until both are in sync with each other.
    pub fn wait_in_sync(&self) -> Result<()> {
        self.cluster.wait_in_sync(PATIENCE)
    }

    /// Waits until both folders are one, and judges it; what was changing is settled then.
    pub fn settle(&mut self) -> Result<()> {
        self.cluster.wait_agreed(PATIENCE)?;
        let tree = self.victim_tree()?;
        self.ledger.judge_outcome(&tree)
    }

    /// Nobody edited what came in, so nothing may have been set aside as such an edit.
    pub fn demand_nothing_kept(&self) -> Result<()> {
        let kept = fs::read_dir(self.victim_folder().join(".highwater/kept"))?.count();
        ensure!(kept == 0, "{kept} files were set aside as edits that nobody made");
        Ok(())
    }

    /// What the victim's folder holds now.
    pub fn victim_tree(&self) -> Result<Tree> {
        oracle::read_tree(&self.victim_folder())
    }

    /// What the peer's folder holds now.
    pub fn peer_tree(&self) -> Result<Tree> {
        oracle::read_tree(&self.peer_folder())
    }

    /// Whether the two folders hold the same at this moment.
    pub fn agree(&self) -> Result<bool> {
        Ok(self.victim_tree()? == self.peer_tree()?)
    }

    /// Where the victim is asked how it is.
    pub fn victim_http(&self) -> SocketAddr {
        self.cluster.nodes[VICTIM].spec().http
    }

    /// Stops both and leaves everything where it is; where that is.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.cluster.nodes.iter_mut().try_for_each(Node::kill)?;
        if let Some(disk) = &mut self.disk {
            disk.unmount()?;
        }
        Ok(self.cluster.keep())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // A disk cannot be unmounted while its node runs.
        let _ = self.cluster.nodes.iter_mut().try_for_each(Node::kill);
        if let Some(disk) = &mut self.disk {
            let _ = disk.unmount();
        }
    }
}
