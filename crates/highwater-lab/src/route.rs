//! A way between two nodes on which segments are lost: two network namespaces with a router between
//! them that drops packets at random.
//!
//! A proxy cannot do this: what it takes is taken, and TCP sees a line that loses nothing. Here the
//! kernel's own TCP at either end loses segments and sends them again. Dropping is done where packets
//! are forwarded, never at a node's own interface, whose losses TCP is told of. It needs root, `ip`
//! and `tc`; no netem, which many kernels lack: a filter sends a part of the packets, drawn by lot,
//! into a queue that has room for none. The rate of a direction can be bounded there too, and an end
//! can be given another address while connections are open.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::net::{Place, run};

/// The interface of a node, inside its namespace.
const INTERFACE: &str = "hw0";
/// How a filter's program loads a random number: the instruction (a word at an absolute place), and
/// the place, `SKF_AD_OFF + SKF_AD_RANDOM` as the kernel's `linux/filter.h` has them.
const RANDOM: (u16, u32) = (0x20, 0xffff_f000 + 56);
/// How it loads the length of the packet, its Ethernet header included.
const LENGTH: (u16, u32) = (0x80, 0);
/// The classes of packets that pass, and of those that do not: `1:1` and `1:2`.
const PASS: u32 = 0x1_0001;
const DROP: u32 = 0x1_0002;

/// Two ends and the router between them. Dropping it takes the namespaces away.
#[derive(Debug)]
pub struct Route(String);

impl Route {
    /// Why there cannot be one on this machine, if so.
    pub fn missing() -> Option<&'static str> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root");
        }
        let found = |program: &str| {
            ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
                .iter()
                .any(|dir| Path::new(dir).join(program).exists())
        };
        match (found("ip"), found("tc")) {
            (true, true) => None,
            _ => Some("ip and tc (Debian's iproute2) are not installed"),
        }
    }

    /// Lays one that loses nothing yet.
    ///
    /// # Errors
    /// When the kernel does not grant what it takes.
    pub fn lay() -> Result<Route> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let route = Route(format!("hwr{}-{number}", std::process::id()));
        route.build().context("laying a route through network namespaces")?;
        Ok(route)
    }

    fn build(&self) -> Result<()> {
        let router = self.router();
        run("ip", &["netns", "add", &router])?;
        for end in 0..2 {
            let (name, outer) = (self.namespace(end), outer(end));
            run("ip", &["netns", "add", &name])?;
            let pair = ["type", "veth", "peer", "name", INTERFACE, "netns", &name];
            run("ip", &[&["-n", &router, "link", "add", &outer][..], &pair].concat())?;
            let rows = [(&router, outer.as_str(), gateway(end)), (&name, INTERFACE, address(end))];
            for (at, interface, ip) in rows {
                run("ip", &["-n", at, "addr", "add", &format!("{ip}/24"), "dev", interface])?;
                run("ip", &["-n", at, "link", "set", interface, "up"])?;
                // One packet is one segment, so that a loss is the loss of one.
                run("ip", &["-n", at, "link", "set", "dev", interface, "gso_max_segs", "1"])?;
            }
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
            let via = gateway(end).to_string();
            run("ip", &["-n", &name, "route", "add", "default", "via", &via])?;
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run("ip", &["netns", "exec", &router, "sh", "-c", forward])
    }

    /// The network of an end, 0 or 1.
    pub fn place(&self, end: usize) -> Place {
        Place::Namespace(self.namespace(end))
    }

    /// Its address, for the other end.
    pub fn ip(&self, end: usize) -> IpAddr {
        IpAddr::V4(address(end))
    }

    /// Loses this part of all packets that go to `end`, from 0 to 1.
    ///
    /// # Errors
    /// When the kernel knows no such queue or filter.
    pub fn lose(&self, end: usize, part: f64) -> Result<()> {
        if part <= 0.0 {
            self.lose_nothing(end);
            return Ok(());
        }
        let limit = (part * f64::from(u32::MAX)) as u32;
        self.lose_where(end, RANDOM, limit, (PASS, DROP))
    }

    /// Loses every packet of more than this many bytes that goes to `end`, and tells nobody: a tunnel
    /// on the way is narrower than either end knows.
    ///
    /// # Errors
    /// When the kernel knows no such queue or filter.
    pub fn swallow(&self, end: usize, longer_than: u32) -> Result<()> {
        self.lose_where(end, LENGTH, longer_than, (DROP, PASS))
    }

    /// Loses nothing any more of what goes to `end`, and bounds its rate no longer.
    pub fn lose_nothing(&self, end: usize) {
        // There may be no queue.
        let _ = self.tc(&["qdisc", "del", "dev", &outer(end), "root"]);
    }

    /// Sends what goes to `end` to the class `beyond` where a value of the packet is above the limit,
    /// else to the other.
    fn lose_where(
        &self,
        end: usize,
        (instruction, offset): (u16, u32),
        limit: u32,
        (beyond, else_to): (u32, u32),
    ) -> Result<()> {
        self.lose_nothing(end);
        let dev = outer(end);
        self.tc(&["qdisc", "add", "dev", &dev, "root", "handle", "1:", "htb", "default", "1"])?;
        for class in ["1:1", "1:2"] {
            self.tc(&[
                "class", "add", "dev", &dev, "parent", "1:", "classid", class, "htb", "rate",
                "10gbit", "quantum", "60000",
            ])?;
        }
        self.tc(&["qdisc", "add", "dev", &dev, "parent", "1:2", "bfifo", "limit", "1"])?;
        // Load the value; compare it; the one class or the other.
        let program =
            format!("4,{instruction} 0 0 {offset},37 0 1 {limit},6 0 0 {beyond},6 0 0 {else_to}");
        self.tc(&["filter", "add", "dev", &dev, "parent", "1:", "bpf", "bytecode", &program])
    }

    fn tc(&self, args: &[&str]) -> Result<()> {
        run("tc", &[&["-n", &self.router()][..], args].concat())
    }

    /// Carries no more than this many bytes a second to `end`.
    ///
    /// # Errors
    /// When the kernel knows no such queue.
    pub fn limit(&self, end: usize, bytes_per_second: u64) -> Result<()> {
        let (dev, rate) = (outer(end), format!("{bytes_per_second}bps"));
        let queue = ["root", "tbf", "rate", &rate, "burst", "64kb", "latency", "50ms"];
        self.tc(&[&["qdisc", "replace", "dev", &dev][..], &queue].concat())
    }

    /// Takes the address of `end` away and gives it the next one of its network, which is returned.
    /// What was connected with the old one is left without an answer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn readdress(&self, end: usize) -> Result<IpAddr> {
        let (name, old) = (self.namespace(end), address(end));
        let new = Ipv4Addr::from_bits(old.to_bits() + 1);
        let addr = |verb: &str, ip: Ipv4Addr| {
            run("ip", &["-n", &name, "addr", verb, &format!("{ip}/24"), "dev", INTERFACE])
        };
        addr("del", old)?;
        addr("add", new)?;
        // The way out went with the last address.
        let via = gateway(end).to_string();
        run("ip", &["-n", &name, "route", "replace", "default", "via", &via])?;
        Ok(IpAddr::V4(new))
    }

    /// What `end` takes a host name for, from now on: for programs that were started there after the
    /// first time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn name(&self, end: usize, host: &str, ip: IpAddr) -> Result<()> {
        let dir = self.etc(end);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let text = format!("127.0.0.1 localhost\n{ip} {host}\n");
        // In place: what is mounted over /etc/hosts is this very file.
        fs::write(dir.join("hosts"), text).context("writing the names of a namespace")
    }

    /// Files that `ip netns exec` mounts over those of `/etc`.
    fn etc(&self, end: usize) -> PathBuf {
        Path::new("/etc/netns").join(self.namespace(end))
    }

    fn namespace(&self, end: usize) -> String {
        format!("{}-{end}", self.0)
    }

    fn router(&self) -> String {
        format!("{}-r", self.0)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        for name in [self.namespace(0), self.namespace(1), self.router()] {
            let _ = run("ip", &["netns", "del", &name]);
        }
        for end in 0..2 {
            let _ = fs::remove_dir_all(self.etc(end));
        }
    }
}

/// The router's interface to an end.
fn outer(end: usize) -> String {
    format!("to{end}")
}

fn address(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, u8::try_from(end).unwrap_or(u8::MAX), 2)
}

fn gateway(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, u8::try_from(end).unwrap_or(u8::MAX), 1)
}
