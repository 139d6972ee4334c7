//! Nodes that share one folder, and the links between them.
//!
//! Every link has a fault proxy in it: the first node of a pair dials the second through it, and
//! the second waits for the first. All of a cluster lies in one temporary directory, which is kept
//! and named when the test that owns it fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::node::{Node, NodeSpec};
use crate::oracle;
use crate::proxy::Proxy;

/// The name of the one share of a cluster.
pub const SHARE: &str = "docs";

/// Some nodes and the links between them.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order of their names.
    pub nodes: Vec<Node>,
    links: Vec<(usize, usize, Proxy)>,
    dir: Option<TempDir>,
}

impl Cluster {
    /// Makes nodes of these names, none running, linked pairwise as `links` says: (who dials, who
    /// listens).
    pub fn new(exe: &Path, names: &[&str], links: &[(usize, usize)]) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("highwater-").tempdir()?;
        let specs = names.iter().map(|name| NodeSpec::on_loopback(exe, name));
        let specs = specs.collect::<Result<Vec<_>>>()?;
        let mut cluster = Cluster { nodes: Vec::new(), links: Vec::new(), dir: Some(dir) };
        for spec in specs {
            cluster.add_node(spec)?;
        }
        for &(dialler, listener) in links {
            cluster.link(dialler, listener)?;
        }
        Ok(cluster)
    }

    /// Makes nodes as [`Cluster::new`] does and starts them all.
    pub fn start(exe: &Path, names: &[&str], links: &[(usize, usize)]) -> Result<Cluster> {
        let mut cluster = Cluster::new(exe, names, links)?;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Adds a node with the share; its place among the nodes.
    pub fn add_node(&mut self, spec: NodeSpec) -> Result<usize> {
        let node = Node::init(spec, &self.dir())?;
        node.add_share(SHARE)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Links two nodes, running or not, through a proxy of their own.
    pub fn link(&mut self, dialler: usize, listener: usize) -> Result<()> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let proxy = Proxy::start(any, self.nodes[listener].spec().sync)
            .context("starting a fault proxy")?;
        let (a, b) = (&self.nodes[dialler], &self.nodes[listener]);
        b.add_peer(a.id(), None, &[SHARE])?;
        a.add_peer(b.id(), Some(proxy.addr()), &[SHARE])?;
        self.links.push((dialler, listener, proxy));
        Ok(())
    }

    /// Starts every node.
    pub fn start_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::start)
    }

    /// The proxy between two nodes, whoever dials.
    pub fn proxy(&self, a: usize, b: usize) -> Proxy {
        let joins = |link: &&(usize, usize, Proxy)| {
            (link.0, link.1) == (a, b) || (link.0, link.1) == (b, a)
        };
        let link = self.links.iter().find(joins);
        link.unwrap_or_else(|| panic!("nodes {a} and {b} are not linked")).2.clone()
    }

    /// Every proxy.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.links.iter().map(|(_, _, proxy)| proxy)
    }

    /// The folder of a node.
    pub fn folder(&self, node: usize) -> PathBuf {
        self.nodes[node].folder(SHARE)
    }

    /// Where everything lies.
    pub fn dir(&self) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default()
    }

    /// Stops every node and leaves everything where it lies; where that is.
    pub fn keep(&mut self) -> PathBuf {
        self.nodes.clear();
        self.dir.take().map(TempDir::keep).unwrap_or_default()
    }

    /// Waits until every node says that it is in sync.
    pub fn wait_in_sync(&self, patience: Duration) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.wait_in_sync(patience).map(drop))
    }

    /// Waits until every node says that it is in sync and the folders are equal on disk, in
    /// whatever order edits, scans and links come about.
    pub fn wait_agreed(&self, patience: Duration) -> Result<()> {
        let folders: Vec<PathBuf> = (0..self.nodes.len()).map(|node| self.folder(node)).collect();
        oracle::wait_equal(&folders, patience)?;
        self.wait_in_sync(patience)?;
        oracle::demand_equal(&folders)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        if thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("the nodes' directories are kept in {}", dir.keep().display());
        }
    }
}
