//! Where a node lives: on the machine itself, or in a network namespace of its own.
//!
//! A thread that has entered a namespace opens its sockets there, and an open socket stays where
//! it was opened; so the bench asks nodes in other namespaces over their own loopback.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Ports that nodes are given: below the range from which Linux picks ports for outgoing
/// connections, so that none is taken while its node is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A place with a network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// This process's own network.
    #[default]
    Here,
    /// The network namespace of this name, as `ip netns` knows it.
    Namespace(String),
}

impl Place {
    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Place::Here => Command::new(program),
            Place::Namespace(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }

    /// Does `work` with this place's network.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Place::Namespace(name) = self else { return work() };
        let path = PathBuf::from("/run/netns").join(name);
        let namespace = File::open(&path)
            .with_context(|| format!("opening the network namespace {}", path.display()))?;
        let enter = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("entering the network namespace {name}"))?;
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join())
            .map_err(|_| anyhow!("work in the network namespace {name} panicked"))?
    }
}

/// A loopback address with a port that nobody listens on now.
pub fn free_loopback() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    let seed = u16::try_from(std::process::id() % u32::from(count)).unwrap_or(0);
    for _ in 0..count {
        let offset = (u32::from(seed) * 37 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed)))
            % u32::from(count);
        let port = PORTS.start + u16::try_from(offset).unwrap_or(0);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(addr).is_ok() {
            return Ok(addr);
        }
    }
    Err(anyhow!("no port between {} and {} is free", PORTS.start, PORTS.end))
}

/// Runs a program of the system to its end, which must be a success.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("starting {program} {args:?}"))?;
    if !output.status.success() {
        bail!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
