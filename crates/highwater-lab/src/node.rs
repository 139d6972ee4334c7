//! A real node: a `highwater run` process with a home and folders in a directory of its own.
//!
//! Everything goes through the program's own commands, as a user would do it. A node can be
//! stopped in order, killed outright, frozen and thawed, and started again; its log is appended to
//! one file over all its lives. Waiting means asking for the node's status again and again until a
//! condition holds, up to a deadline that only a failure reaches.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::http;
use crate::net::{Place, free_loopback};
use crate::status::Status;

/// Longest wait for a started node to serve. A debug build with a large store takes seconds.
pub const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for a node to stop in order; the contract says 5 s, a loaded machine doubles it.
pub const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// How often a waiting test asks for status.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How much of a node's log is shown with a failure.
const LOG_TAIL_LINES: usize = 40;

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The program.
    pub exe: PathBuf,
    /// Its name, and that of its directory.
    pub name: String,
    /// The user it serves.
    pub user: String,
    /// Where it runs.
    pub place: Place,
    /// Where other nodes reach it.
    pub sync: SocketAddr,
    /// Where people and tests reach it.
    pub http: SocketAddr,
}

impl NodeSpec {
    /// A node on free ports of the loopback.
    pub fn on_loopback(exe: &Path, name: &str) -> Result<NodeSpec> {
        Ok(NodeSpec {
            exe: exe.to_owned(),
            name: name.to_owned(),
            user: name.to_owned(),
            place: Place::Here,
            sync: free_loopback()?,
            http: free_loopback()?,
        })
    }
}

/// A node, running or not. Dropping it kills its process.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    dir: PathBuf,
    id: String,
    process: Option<Child>,
}

/// The line with which a daemon says that it serves.
#[derive(Deserialize)]
struct Ready {
    event: String,
    node_id: String,
}

impl Node {
    /// Makes the node's home below `parent`; it is not running yet.
    pub fn init(spec: NodeSpec, parent: &Path) -> Result<Node> {
        let dir = parent.join(&spec.name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut node = Node { spec, dir, id: String::new(), process: None };
        let (sync, http) = (node.spec.sync.to_string(), node.spec.http.to_string());
        let (name, user) = (node.spec.name.clone(), node.spec.user.clone());
        node.run(&["init", "--name", &name, "--user", &user, "--sync", &sync, "--http", &http])?;
        node.id = node.run(&["id"])?.trim().to_owned();
        Ok(node)
    }

    /// A node that was made before. Its process, if it has one, is not this value's.
    pub(crate) fn existing(spec: NodeSpec, parent: &Path, id: &str) -> Node {
        Node { dir: parent.join(&spec.name), spec, id: id.to_owned(), process: None }
    }

    /// This node as another one that has been given a copy of `other`'s home.
    pub fn with_identity_of(mut self, other: &Node) -> Result<Node> {
        self.id = self.run(&["id"])?.trim().to_owned();
        if self.id != other.id {
            bail!("the copy of the home of {} has another identity", other.spec.name);
        }
        Ok(self)
    }

    /// The node's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the node is.
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// The node's home.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Where the folder of a share lies.
    pub fn folder(&self, share: &str) -> PathBuf {
        self.dir.join(share)
    }

    /// The log of all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Runs a command of the program on this node's home; its standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.try_run(args)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: highwater {}: {}: {said}", self.spec.name, args.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command and returns how it went, whatever that is.
    pub fn try_run(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null());
        command.output().with_context(|| format!("starting {}", self.spec.exe.display()))
    }

    /// Adds a share in [`Node::folder`], which is created if need be.
    pub fn add_share(&self, share: &str) -> Result<()> {
        let folder = self.folder(share);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.to_str().context("the folder's path is not UTF-8")?;
        self.run(&["share", "add", share, path]).map(drop)
    }

    /// Lists another node for these shares: dialled at `addr`, or waited for.
    pub fn add_peer(&self, id: &str, addr: Option<SocketAddr>, shares: &[&str]) -> Result<()> {
        let addr = addr.map(|addr| addr.to_string());
        let mut args = vec!["peer", "add", id];
        args.extend(addr.as_deref());
        for share in shares {
            args.extend(["--share", share]);
        }
        self.run(&args).map(drop)
    }

    /// Starts the daemon and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("{} is running already", self.spec.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.command();
        command.arg("run").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: an interrupt at the terminal is for the lab, which decides.
        command.process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("starting {}", self.spec.exe.display()))?;
        let stdout = child.stdout.take().context("the daemon has no standard output")?;
        self.process = Some(child);
        let line = first_line(stdout, READY_PATIENCE).with_context(|| self.describe("starting"))?;
        let ready: Ready = serde_json::from_str(&line)
            .with_context(|| format!("{} said {line:?} instead of ready", self.spec.name))?;
        if ready.event != "ready" || (!self.id.is_empty() && ready.node_id != self.id) {
            bail!("{} said {line:?} instead of ready", self.spec.name);
        }
        Ok(())
    }

    /// Stops the daemon in order and demands that it says 0.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_stopped(STOP_PATIENCE)
    }

    /// Waits until the daemon, which was told to stop, has ended, and demands that it says 0. One
    /// that does not end within `patience` is killed.
    pub(crate) fn wait_stopped(&mut self, patience: Duration) -> Result<()> {
        let Some(mut child) = self.process.take() else { return Ok(()) };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait()? {
                return match status.success() {
                    true => Ok(()),
                    false => Err(anyhow!("{} stopped with {status}", self.spec.name)),
                };
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{} did not stop within {patience:?}", self.spec.name);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Kills the daemon outright.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.process.take() else { return Ok(()) };
        child.kill().with_context(|| format!("killing {}", self.spec.name))?;
        child.wait().with_context(|| format!("waiting for {}", self.spec.name)).map(drop)
    }

    /// Whether the daemon that was started has ended by itself, or by somebody else's hand.
    pub fn has_died(&mut self) -> Result<bool> {
        let ended = self.process.as_mut().map(Child::try_wait).transpose()?;
        Ok(ended.flatten().is_some())
    }

    /// Sends a signal to the running daemon.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.process.as_ref().with_context(|| format!("{} is down", self.spec.name))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no such pid")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.spec.name))
    }

    /// Lets the process live on beyond this value.
    pub fn leave_running(mut self) -> Option<u32> {
        self.process.take().map(|child| child.id())
    }

    /// The status document.
    pub fn status(&self) -> Result<Status> {
        status_at(&self.spec.place, self.spec.http)
    }

    /// A function that asks for the status, for triggers and other threads.
    pub fn status_source(&self) -> impl Fn() -> Option<Status> + Send + Clone + 'static {
        let (place, http) = (self.spec.place.clone(), self.spec.http);
        move || status_at(&place, http).ok()
    }

    /// Asks for the status until `condition` holds, up to `patience`; the status it held in.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status();
            if let Ok(status) = &status
                && condition(status)
            {
                return Ok(status.clone());
            }
            if Instant::now() > deadline {
                let doing = format!("waiting {patience:?} until {what}");
                return Err(anyhow!("{}\nlast status: {status:#?}", self.describe(&doing)));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until every share is in sync with every peer.
    pub fn wait_in_sync(&self, patience: Duration) -> Result<Status> {
        self.wait_until("in sync", patience, Status::in_sync)
    }

    /// Most memory the daemon has held at once, and holds now, in bytes.
    pub fn resident_bytes(&self) -> Result<Resident> {
        let pid = self.pid().with_context(|| format!("{} is down", self.spec.name))?;
        Resident::of(pid)
    }

    /// What was attempted, with the end of the log.
    fn describe(&self, doing: &str) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        format!("{}: {doing}; its log ends:\n{tail}", self.spec.name)
    }

    fn command(&self) -> Command {
        let mut command = self.spec.place.command(&self.spec.exe);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("HIGHWATER_") {
                command.env_remove(key);
            }
        }
        command.arg("--home").arg(self.home());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The memory of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// At its highest.
    pub peak: u64,
}

impl Resident {
    /// Reads it from the kernel.
    pub fn of(pid: u32) -> Result<Resident> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("reading the memory of process {pid}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024).with_context(|| format!("no {name} for process {pid}"))
        };
        Ok(Resident { now: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}

fn status_at(place: &Place, addr: SocketAddr) -> Result<Status> {
    let body = place.within(|| http::get(addr, "/api/v1/status"))?;
    serde_json::from_slice(&body).with_context(|| format!("reading the status of {addr}"))
}

/// The first line of a daemon's output. The pipe is read to its end, so that the daemon never
/// finds it full or closed.
fn first_line(stdout: impl std::io::Read + Send + 'static, patience: Duration) -> Result<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver.recv_timeout(patience).map_err(|_| anyhow!("it never said that it is ready"))
}

/// Copies a node's home into another directory, as a careless administrator would.
pub fn clone_home(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            clone_home(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}
