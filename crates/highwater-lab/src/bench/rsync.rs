//! rsync as a contender: a daemon at the sink, pushed to from the source, every file synced.
//!
//! It does not watch: being told of a change is a run. A run that fails is begun again at once, as
//! a careful administrator's loop would; in place, so that what has arrived is not thrown away.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::arena::{Arena, End};
use super::contender::Contender;
use crate::net::Place;

/// Silence after which a run gives up, in seconds: short, or a black hole would be slept through.
const TIMEOUT_SECONDS: &str = "5";
/// Longest run.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

pub(crate) struct Rsync {
    dir: PathBuf,
    places: [Place; 2],
    addr: SocketAddr,
    daemon: Option<Child>,
    push: Option<Child>,
}

impl Rsync {
    pub(crate) fn new(arena: &Arena, dir: &Path) -> Result<Rsync> {
        for name in ["source", "sink", "workshop"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let addr = arena.service(End::Sink)?;
        let config = format!(
            "use chroot = no\nuid = {}\ngid = {}\n[sink]\npath = {}\nread only = no\n",
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
            dir.join("sink").display()
        );
        fs::write(dir.join("rsyncd.conf"), config)?;
        Ok(Rsync {
            dir: dir.to_owned(),
            places: End::BOTH.map(|end| arena.place(end)),
            addr,
            daemon: None,
            push: None,
        })
    }

    fn start_daemon(&mut self) -> Result<()> {
        let mut command = self.places[1].command("rsync");
        command.args(["--daemon", "--no-detach", "--config"]).arg(self.dir.join("rsyncd.conf"));
        command.arg(format!("--address={}", self.addr.ip()));
        command.arg(format!("--port={}", self.addr.port()));
        self.daemon = Some(quiet(&mut command).spawn().context("starting the rsync daemon")?);
        let deadline = Instant::now() + PATIENCE;
        while self.places[0].within(|| Ok(std::net::TcpStream::connect(self.addr)?)).is_err() {
            if Instant::now() > deadline {
                bail!("the rsync daemon does not listen on {}", self.addr);
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Contender for Rsync {
    fn start(&mut self) -> Result<()> {
        self.start_daemon()
    }

    fn folder(&self, end: End) -> PathBuf {
        self.dir.join(end.name())
    }

    fn workshop(&self) -> PathBuf {
        self.dir.join("workshop")
    }

    fn nudge(&mut self) -> Result<()> {
        let mut command = self.places[0].command("rsync");
        command.args(["-a", "--fsync", "--inplace", "--delete"]);
        command.arg(format!("--timeout={TIMEOUT_SECONDS}"));
        command.arg(format!("--contimeout={TIMEOUT_SECONDS}"));
        command.arg(format!("{}/", self.folder(End::Source).display()));
        command.arg(format!("rsync://{}/sink/", self.addr));
        self.push = Some(quiet(&mut command).spawn().context("starting rsync")?);
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.push.is_some() {
            self.persist()?;
            if Instant::now() > deadline {
                bail!("rsync is not done after {PATIENCE:?}");
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn kill(&mut self, end: End) -> Result<()> {
        let child = match end {
            End::Source => self.push.take(),
            End::Sink => self.daemon.take(),
        };
        let Some(mut child) = child else { return Ok(()) };
        for pid in descendants(child.id()) {
            kill_pid(pid);
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn restart(&mut self, end: End) -> Result<()> {
        match end {
            End::Source => self.nudge(),
            End::Sink => self.start_daemon(),
        }
    }

    fn time_to_rejoin(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn resident(&self, end: End) -> Vec<u32> {
        match end {
            End::Source => Vec::new(),
            End::Sink => self.daemon.iter().map(Child::id).collect(),
        }
    }

    fn watches(&self) -> bool {
        false
    }

    fn resent(&self) -> Option<u64> {
        None
    }

    fn persist(&mut self) -> Result<()> {
        let Some(push) = &mut self.push else { return Ok(()) };
        match push.try_wait()? {
            None => Ok(()),
            Some(status) if status.success() => {
                self.push = None;
                Ok(())
            }
            Some(_) => self.nudge(),
        }
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        for end in End::BOTH {
            let _ = self.kill(end);
        }
    }
}

pub(super) fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// All processes below one.
pub(super) fn descendants(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().filter_map(|c| c.parse().ok()).collect();
    children.iter().flat_map(|&child| [vec![child], descendants(child)].concat()).collect()
}

pub(super) fn kill_pid(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
