//! Where a chaos run takes place: the nodes, the links between them, and their disks.
//!
//! As root every node has a network namespace of its own, joined by a veth pair to a hub in which
//! the fault proxies run, so that one direction of a node's line can be lost for good and the line
//! itself be taken down. One node lies on a small disk. Nodes run without the right to pass over
//! permission bits, as they would for an ordinary user. Elsewhere everybody is on the loopback, and
//! what needs more is skipped and says so.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cluster::SHARE;
use crate::net::{Place, free_loopback, run};
use crate::node::{Node, NodeSpec};
use crate::proxy::Proxy;

/// How large the small disk is: enough for the folder and what is staged, not for a filler beside.
const SMALL_DISK: &str = "size=384m";
/// Which node lies on it; every run has that many.
const SMALL_DISK_NODE: usize = 2;
/// From how many lost entries a delete is a mass delete here: fewer than a client has of its own.
const MASS_DELETE_ENTRIES_MIN: u64 = 60;
/// What nodes log: enough to understand a violation afterwards.
const LOG_FILTER: &str = "info,highwater=debug";
/// What shifts a program's wall clock, where it is installed.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A link between two nodes.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) dialler: usize,
    pub(crate) listener: usize,
    pub(crate) proxy: Proxy,
}

impl Link {
    /// Whether it leads to this node.
    pub(crate) fn joins(&self, node: usize) -> bool {
        self.dialler == node || self.listener == node
    }
}

/// Everything of a run. Dropping it kills the nodes and takes namespaces and disks away.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    pub(crate) dir: PathBuf,
    /// What this machine does not let a run do, and why.
    pub(crate) skipped: BTreeSet<String>,
    names: Option<String>,
    disks: Vec<PathBuf>,
}

/// How nodes are joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Mesh,
    Chain,
    Star,
}

impl Shape {
    /// Who dials whom.
    pub(crate) fn links(self, nodes: usize) -> Vec<(usize, usize)> {
        match self {
            Shape::Mesh => (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b))).collect(),
            Shape::Chain => (1..nodes).map(|a| (a, a - 1)).collect(),
            Shape::Star => (1..nodes).map(|a| (a, 0)).collect(),
        }
    }
}

impl Ground {
    /// Lays the ground for so many nodes, none of them running.
    pub(crate) fn lay(exe: &Path, dir: &Path, nodes: usize, shape: Shape) -> Result<Ground> {
        let root = rustix::process::geteuid().is_root();
        let mut ground = Ground {
            nodes: Vec::new(),
            links: Vec::new(),
            dir: dir.to_owned(),
            skipped: BTreeSet::new(),
            names: root.then(|| format!("hwchaos{}", std::process::id())),
            disks: Vec::new(),
        };
        if !root {
            ground.skipped.insert("namespaces and small disks: not root".to_owned());
        }
        if !Path::new(FAKETIME).exists() {
            ground.skipped.insert(format!("wrong clocks: no {FAKETIME}"));
        }
        ground.build_hub()?;
        for node in 0..nodes {
            ground.add_node(exe, node).with_context(|| format!("making node {node}"))?;
        }
        for (dialler, listener) in shape.links(nodes) {
            ground.link(dialler, listener)?;
        }
        Ok(ground)
    }

    /// Whether nodes have namespaces and disks of their own.
    pub(crate) fn has_namespaces(&self) -> bool {
        self.names.is_some()
    }

    /// Whether wall clocks can be shifted.
    pub(crate) fn has_wrong_clocks(&self) -> bool {
        Path::new(FAKETIME).exists()
    }

    /// The node on the small disk.
    pub(crate) fn on_small_disk(&self) -> Option<usize> {
        self.names.is_some().then_some(SMALL_DISK_NODE)
    }

    /// The folder of a node.
    pub(crate) fn folder(&self, node: usize) -> PathBuf {
        self.volume(node).join(SHARE)
    }

    /// Where the client of a node keeps what is on its way in or out.
    pub(crate) fn scratch(&self, node: usize) -> PathBuf {
        self.volume(node).join("scratch")
    }

    /// The file system that a node's folder lies on.
    pub(crate) fn volume(&self, node: usize) -> PathBuf {
        self.dir.join(name_of(node)).join("volume")
    }

    /// Shifts a node's wall clock by so many seconds.
    pub(crate) fn shift_clock(&self, node: usize, seconds: i64) -> Result<()> {
        let path = self.dir.join(name_of(node)).join("clock");
        fs::write(&path, format!("{seconds:+}\n")).context("shifting a clock")
    }

    /// Loses what passes in one direction of a node's line, or no longer.
    pub(crate) fn lose(&self, node: usize, outgoing: bool, lose: bool) -> Result<()> {
        let Some(names) = &self.names else { bail!("no namespaces") };
        let (at, to) = match outgoing {
            true => (format!("{names}-{node}"), hub_ip(node)),
            false => (format!("{names}-hub"), node_ip(node)),
        };
        let verb = if lose { "replace" } else { "del" };
        run("ip", &["-n", &at, "route", verb, "blackhole", &format!("{to}/32")])
    }

    /// Takes a node's line down, or up.
    pub(crate) fn line(&self, node: usize, up: bool) -> Result<()> {
        let Some(names) = &self.names else { bail!("no namespaces") };
        let at = format!("{names}-hub");
        let state = if up { "up" } else { "down" };
        run("ip", &["-n", &at, "link", "set", &format!("n{node}"), state])
    }

    /// Makes the small disk read-only, or writable.
    pub(crate) fn set_read_only(&self, node: usize, read_only: bool) -> Result<()> {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        let volume = self.volume(node);
        run("mount", &["-o", mode, &volume.to_string_lossy()])
    }

    fn build_hub(&self) -> Result<()> {
        let Some(names) = &self.names else { return Ok(()) };
        let hub = format!("{names}-hub");
        run("ip", &["netns", "add", &hub])?;
        run("ip", &["-n", &hub, "link", "set", "lo", "up"])
    }

    fn add_node(&mut self, exe: &Path, number: usize) -> Result<()> {
        let dir = self.dir.join(name_of(number));
        fs::create_dir_all(&dir)?;
        let volume = self.volume(number);
        fs::create_dir_all(&volume)?;
        let mut spec = NodeSpec::on_loopback(&self.wrapper(exe, &dir)?, &name_of(number))?;
        if let Some(names) = &self.names {
            let (hub, name) = (format!("{names}-hub"), format!("{names}-{number}"));
            join(&hub, &name, number)?;
            spec.place = Place::Namespace(name);
            spec.sync = SocketAddr::from((node_ip(number), free_loopback()?.port()));
            if number == SMALL_DISK_NODE {
                let at = volume.to_string_lossy().into_owned();
                run("mount", &["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", &at])?;
                self.disks.push(volume.clone());
            }
        }
        let node = Node::init(spec, &self.dir)?;
        for made in [self.folder(number), self.scratch(number)] {
            fs::create_dir_all(&made)?;
        }
        let folder = self.folder(number);
        node.run(&["share", "add", SHARE, folder.to_str().context("not UTF-8")?])?;
        self.nodes.push(node);
        self.shift_clock(number, 0)
    }

    /// A script that runs the program as an ordinary user would, with a clock that can be wrong.
    fn wrapper(&self, exe: &Path, dir: &Path) -> Result<PathBuf> {
        let exe = exe.canonicalize().with_context(|| format!("finding {}", exe.display()))?;
        let mut for_run = format!(
            "HIGHWATER_SHARE_MASS_DELETE_ENTRIES_MIN={MASS_DELETE_ENTRIES_MIN}; \
             export HIGHWATER_SHARE_MASS_DELETE_ENTRIES_MIN; export HIGHWATER_LOG={LOG_FILTER}"
        );
        if self.has_wrong_clocks() {
            let clock = dir.join("clock");
            for_run += &format!(
                "; export LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={} \
                 FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1",
                clock.display()
            );
        }
        let tamed = match self.names {
            Some(_) => "setpriv --pdeathsig=KILL --bounding-set=-dac_override,-dac_read_search ",
            None => "",
        };
        let exe = exe.display();
        let text = format!(
            "#!/bin/sh\ncase \" $* \" in *\" run \"*) {for_run} ;; esac\nexec {tamed}{exe} \"$@\"\n"
        );
        let path = dir.join("run.sh");
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn link(&mut self, dialler: usize, listener: usize) -> Result<()> {
        let (ip, place) = match &self.names {
            Some(names) => (hub_ip(dialler), Place::Namespace(format!("{names}-hub"))),
            None => (Ipv4Addr::LOCALHOST, Place::Here),
        };
        let target = self.nodes[listener].spec().sync;
        let listen = SocketAddr::from((ip, 0));
        let proxy = place.within(|| Proxy::start(listen, target).context("starting a proxy"))?;
        let (a, b) = (&self.nodes[dialler], &self.nodes[listener]);
        b.add_peer(a.id(), None, &[SHARE])?;
        a.add_peer(b.id(), Some(proxy.addr()), &[SHARE])?;
        self.links.push(Link { dialler, listener, proxy });
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.release();
    }
}

impl Ground {
    /// Kills the nodes and takes namespaces and disks away.
    pub(crate) fn release(&mut self) {
        let count = self.nodes.len();
        self.nodes.clear();
        for disk in std::mem::take(&mut self.disks) {
            let _ = run("umount", &["--lazy", &disk.to_string_lossy()]);
        }
        if let Some(names) = self.names.take() {
            for node in 0..count {
                let _ = run("ip", &["netns", "del", &format!("{names}-{node}")]);
            }
            let _ = run("ip", &["netns", "del", &format!("{names}-hub")]);
        }
    }
}

fn name_of(node: usize) -> String {
    format!("node{node}")
}

/// A node's own address.
fn node_ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, u8::try_from(node).unwrap_or(u8::MAX), 2)
}

/// The hub's address on a node's line.
fn hub_ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, u8::try_from(node).unwrap_or(u8::MAX), 1)
}

/// Makes a node's namespace and the line to the hub.
fn join(hub: &str, name: &str, node: usize) -> Result<()> {
    let (outer, inner) = (format!("n{node}"), "hw0");
    run("ip", &["netns", "add", name])?;
    let pair = ["type", "veth", "peer", "name", inner, "netns", name];
    run("ip", &[&["-n", hub, "link", "add", &outer][..], &pair].concat())?;
    for (at, ip, interface) in [(hub, hub_ip(node), outer.as_str()), (name, node_ip(node), inner)] {
        run("ip", &["-n", at, "addr", "add", &format!("{ip}/24"), "dev", interface])?;
        run("ip", &["-n", at, "link", "set", interface, "up"])?;
    }
    run("ip", &["-n", name, "link", "set", "lo", "up"])
}
