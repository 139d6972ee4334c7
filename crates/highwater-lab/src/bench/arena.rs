//! Where the contenders meet: two network namespaces joined by a veth pair, or the loopback.
//!
//! The black hole is a wrong link-layer address for the other end, at both ends: packets leave and
//! arrive nowhere, the carrier stays up, no local sender is told. A rate is a token bucket on both
//! ends of the pair. Both need root, as the namespaces do; on the loopback rows that need them
//! cannot be measured.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::net::{Place, free_loopback};

/// One of the two ends: where the change is made, and where it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Source,
    Sink,
}

impl End {
    pub(crate) const BOTH: [End; 2] = [End::Source, End::Sink];

    pub(crate) const fn other(self) -> End {
        match self {
            End::Source => End::Sink,
            End::Sink => End::Source,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            End::Source => "source",
            End::Sink => "sink",
        }
    }
}

/// A link-layer address that nobody has.
const NOBODY: &str = "02:00:00:00:00:fe";
/// The name of the interface at either end, inside its namespace.
const INTERFACE: &str = "hw0";

/// Two ends and what joins them. Dropping it takes the namespaces away.
#[derive(Debug)]
pub(crate) struct Arena {
    /// A number that keeps arenas apart; `None` on the loopback.
    namespaces: Option<String>,
}

impl Arena {
    pub(crate) fn new() -> Result<Arena> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Ok(Arena { namespaces: None });
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let arena = Arena { namespaces: Some(format!("hw{}-{number}", std::process::id())) };
        arena.build().context("making two network namespaces")?;
        Ok(arena)
    }

    fn build(&self) -> Result<()> {
        let [source, sink] = End::BOTH.map(|end| self.namespace(end));
        for name in [&source, &sink] {
            ip(&["netns", "add", name])?;
        }
        ip(&[
            "link", "add", INTERFACE, "netns", &source, "type", "veth", "peer", "name", INTERFACE,
            "netns", &sink,
        ])?;
        for end in End::BOTH {
            let name = self.namespace(end);
            let address = format!("{}/24", self.ip(end));
            ip(&["-n", &name, "addr", "add", &address, "dev", INTERFACE])?;
            ip(&["-n", &name, "link", "set", INTERFACE, "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn namespace(&self, end: End) -> String {
        format!("{}-{}", self.namespaces.as_deref().unwrap_or_default(), end.name())
    }

    /// Where, for people.
    pub(crate) fn describe(&self) -> String {
        match self.namespaces {
            Some(_) => "two network namespaces, veth pair".to_owned(),
            None => "loopback (not root: no namespaces, no rates, no black holes)".to_owned(),
        }
    }

    /// The network of an end.
    pub(crate) fn place(&self, end: End) -> Place {
        match self.namespaces {
            Some(_) => Place::Namespace(self.namespace(end)),
            None => Place::Here,
        }
    }

    /// The address by which the other end reaches this one.
    pub(crate) fn ip(&self, end: End) -> IpAddr {
        IpAddr::V4(match (&self.namespaces, end) {
            (Some(_), End::Source) => Ipv4Addr::new(10, 77, 0, 1),
            (Some(_), End::Sink) => Ipv4Addr::new(10, 77, 0, 2),
            (None, _) => Ipv4Addr::LOCALHOST,
        })
    }

    /// An address for a service that the other end reaches.
    pub(crate) fn service(&self, end: End) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.ip(end), free_loopback()?.port()))
    }

    /// Bytes that have come to an end over the wire, headers included.
    pub(crate) fn received(&self, end: End) -> Result<u64> {
        let interface = if self.namespaces.is_some() { INTERFACE } else { "lo" };
        self.place(end).within(|| received_by(interface))
    }

    /// Bytes over the wire in both directions.
    pub(crate) fn wire_bytes(&self) -> Result<u64> {
        match self.namespaces {
            Some(_) => Ok(self.received(End::Source)? + self.received(End::Sink)?),
            None => self.received(End::Sink),
        }
    }

    /// Limits both directions; fails on the loopback.
    pub(crate) fn limit(&self, bytes_per_second: u64) -> Result<()> {
        self.demand_namespaces()?;
        for end in End::BOTH {
            let (name, rate) = (self.namespace(end), format!("{}bit", bytes_per_second * 8));
            let mut tc = Command::new("tc");
            tc.args(["-n", &name, "qdisc", "replace", "dev", INTERFACE, "root", "tbf"]);
            run(tc.args(["rate", &rate, "burst", "1mb", "latency", "50ms"]))?;
        }
        Ok(())
    }

    /// Lets every packet vanish, at both ends; fails on the loopback.
    pub(crate) fn swallow(&self) -> Result<()> {
        self.demand_namespaces()?;
        for end in End::BOTH {
            let (name, other) = (self.namespace(end), self.ip(end.other()).to_string());
            ip(&[
                "-n",
                &name,
                "neigh",
                "replace",
                &other,
                "lladdr",
                NOBODY,
                "dev",
                INTERFACE,
                "nud",
                "permanent",
            ])?;
        }
        Ok(())
    }

    /// Ends what [`Arena::swallow`] began.
    pub(crate) fn deliver(&self) -> Result<()> {
        for end in End::BOTH {
            let (name, other) = (self.namespace(end), self.ip(end.other()).to_string());
            ip(&["-n", &name, "neigh", "del", &other, "dev", INTERFACE])?;
        }
        Ok(())
    }

    fn demand_namespaces(&self) -> Result<()> {
        ensure!(self.namespaces.is_some(), "this needs network namespaces, and those need root");
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.namespaces.is_some() {
            for end in End::BOTH {
                let _ = ip(&["netns", "del", &self.namespace(end)]);
            }
        }
    }
}

/// Reads `/proc/thread-self/net/dev`: the counters of the namespace that this thread is in.
fn received_by(interface: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let first = line.and_then(|rest| rest.split_whitespace().next());
    Ok(first.with_context(|| format!("no interface {interface}"))?.parse()?)
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
