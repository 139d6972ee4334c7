//! Syncthing as a contender, at its fastest settings: scans are asked for at once, nothing but the
//! other end is talked to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::arena::{Arena, End};
use super::contender::Contender;
use super::rsync::{descendants, kill_pid, quiet};
use crate::http;
use crate::net::{Place, free_loopback};

/// Longest wait for a start, a connection or a whole sync.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The key of both ends' interfaces, which only this machine reaches.
const API_KEY: &str = "bench";

pub(crate) struct Syncthing {
    dir: PathBuf,
    ends: [Instance; 2],
}

/// One end.
struct Instance {
    end: End,
    place: Place,
    device: String,
    sync: SocketAddr,
    api: SocketAddr,
    child: Option<Child>,
}

impl Syncthing {
    pub(crate) fn new(arena: &Arena, dir: &Path) -> Result<Syncthing> {
        fs::create_dir_all(dir.join("workshop"))?;
        let make = |end: End| -> Result<Instance> {
            fs::create_dir_all(dir.join(end.name()))?;
            let port = free_loopback()?.port();
            Ok(Instance {
                end,
                place: arena.place(end),
                device: make_home(&arena.place(end), &home(dir, end))?,
                sync: arena.service(end)?,
                api: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                child: None,
            })
        };
        let ends = [make(End::Source)?, make(End::Sink)?];
        for own in &ends {
            fs::write(home(dir, own.end).join("config.xml"), config(dir, own, &ends))?;
        }
        Ok(Syncthing { dir: dir.to_owned(), ends })
    }

    fn end(&mut self, end: End) -> &mut Instance {
        match end {
            End::Source => &mut self.ends[0],
            End::Sink => &mut self.ends[1],
        }
    }

    /// Whether both ends are connected and the sink has everything, by the source's word.
    fn in_sync(&self) -> bool {
        let sink = &self.ends[1].device;
        let path = format!("/rest/db/completion?folder=bench&device={sink}");
        let complete = self.ends[0].ask("GET", &path).ok();
        let complete = complete.and_then(|answer| answer["completion"].as_f64());
        let connections = self.ends[0].ask("GET", "/rest/system/connections").ok();
        let connected = connections.and_then(|c| c["connections"][sink]["connected"].as_bool());
        let idle = self.ends.iter().all(|end| {
            let status = end.ask("GET", "/rest/db/status?folder=bench").ok();
            status.is_some_and(|status| status["state"] == "idle")
        });
        idle && connected == Some(true) && complete.is_some_and(|percent| percent >= 100.0)
    }
}

fn home(dir: &Path, end: End) -> PathBuf {
    dir.join(format!("{}-home", end.name()))
}

/// Makes keys; the id of the device.
fn make_home(place: &Place, home: &Path) -> Result<String> {
    let mut generate = place.command("syncthing");
    generate.args(["generate", "--no-default-folder", "--home"]).arg(home);
    ensure!(quiet(&mut generate).status()?.success(), "syncthing generate failed");
    let id = place.command("syncthing").arg("--device-id").arg("--home").arg(home).output()?;
    Ok(String::from_utf8(id.stdout)?.trim().to_owned())
}

fn config(dir: &Path, own: &Instance, ends: &[Instance; 2]) -> String {
    let devices = ends.iter().map(|end| {
        format!(
            r#"<device id="{}" name="{}" compression="never"><address>tcp://{}</address></device>"#,
            end.device,
            end.end.name(),
            end.sync
        )
    });
    let members = ends.iter().map(|end| format!(r#"<device id="{}"/>"#, end.device));
    format!(
        r#"<configuration version="36">
  <folder id="bench" path="{path}" type="sendreceive" rescanIntervalS="3600"
      fsWatcherEnabled="true" fsWatcherDelayS="1" ignorePerms="false">
    {members}<minDiskFree unit="%">0</minDiskFree>
  </folder>
  {devices}
  <gui enabled="true" tls="false"><address>{api}</address><apikey>{API_KEY}</apikey></gui>
  <options>
    <listenAddress>tcp://{sync}</listenAddress>
    <globalAnnounceEnabled>false</globalAnnounceEnabled>
    <localAnnounceEnabled>false</localAnnounceEnabled>
    <relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>
    <reconnectionIntervalS>5</reconnectionIntervalS>
    <startBrowser>false</startBrowser><urAccepted>-1</urAccepted>
    <autoUpgradeIntervalH>0</autoUpgradeIntervalH>
    <crashReportingEnabled>false</crashReportingEnabled>
  </options>
</configuration>"#,
        path = dir.join(own.end.name()).display(),
        members = members.collect::<String>(),
        devices = devices.collect::<String>(),
        api = own.api,
        sync = own.sync,
    )
}

impl Instance {
    fn start(&mut self, home: &Path) -> Result<()> {
        let mut command = self.place.command("syncthing");
        command.args(["serve", "--no-browser", "--no-restart", "--home"]).arg(home);
        self.child = Some(quiet(&mut command).spawn().context("starting syncthing")?);
        wait_until(|| self.ask("GET", "/rest/system/ping").is_ok()).context("its interface")
    }

    fn ask(&self, method: &str, path: &str) -> Result<Value> {
        let key = format!("X-API-Key: {API_KEY}\r\n");
        let body = self.place.within(|| http::request(self.api, method, path, &key))?;
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
    }

    fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        for pid in descendants(child.id()) {
            kill_pid(pid);
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Contender for Syncthing {
    fn start(&mut self) -> Result<()> {
        for end in End::BOTH {
            self.restart(end)?;
        }
        self.settle()
    }

    fn folder(&self, end: End) -> PathBuf {
        self.dir.join(end.name())
    }

    fn workshop(&self) -> PathBuf {
        self.dir.join("workshop")
    }

    fn nudge(&mut self) -> Result<()> {
        self.ends[0].ask("POST", "/rest/db/scan?folder=bench").map(drop).or_else(|error| {
            // The answer comes after the scan, which may take longer than an answer may.
            let scanning = self.ends[0].ask("GET", "/rest/system/ping").is_ok();
            if scanning { Ok(()) } else { Err(error) }
        })
    }

    fn settle(&mut self) -> Result<()> {
        wait_until(|| self.in_sync()).context("waiting until syncthing is in sync")
    }

    fn kill(&mut self, end: End) -> Result<()> {
        self.end(end).kill()
    }

    fn restart(&mut self, end: End) -> Result<()> {
        let home = home(&self.dir, end);
        self.end(end).start(&home)
    }

    fn time_to_rejoin(&mut self) -> Result<Option<Duration>> {
        self.ends[0].ask("POST", "/rest/system/shutdown")?;
        if let Some(mut child) = self.ends[0].child.take() {
            child.wait()?;
        }
        let began = Instant::now();
        self.restart(End::Source)?;
        self.settle()?;
        Ok(Some(began.elapsed()))
    }

    fn resident(&self, end: End) -> Vec<u32> {
        let own = if end == End::Source { &self.ends[0] } else { &self.ends[1] };
        let Some(pid) = own.child.as_ref().map(Child::id) else { return Vec::new() };
        [vec![pid], descendants(pid)].concat()
    }

    fn watches(&self) -> bool {
        true
    }

    fn resent(&self) -> Option<u64> {
        None
    }

    fn persist(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Syncthing {
    fn drop(&mut self) {
        for end in &mut self.ends {
            let _ = end.kill();
        }
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}");
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
