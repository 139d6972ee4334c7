//! A process that somebody else started and a file remembers: told by its id, the moment it began
//! and the boot it began in, so that another process that was later given the same id is never
//! taken for it, nor signalled in its place.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// What tells one process from every other that ever ran on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessRecord {
    /// Its id.
    pub pid: u32,
    /// When it began, in the kernel's ticks since boot.
    pub started_ticks: u64,
    /// Which boot that was.
    pub boot_id: String,
}

impl ProcessRecord {
    /// The record of a process that runs now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let started_ticks =
            began(pid).with_context(|| format!("process {pid} ended as soon as it began"))?;
        Ok(Self { pid, started_ticks, boot_id: boot_id() })
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&self) -> bool {
        self.boot_id == boot_id() && began(self.pid) == Some(self.started_ticks)
    }

    /// A hand on the process, if it still runs. From here on its id cannot be given to another
    /// without the hand noticing.
    pub(crate) fn hold(&self) -> Option<Held> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Asked after the descriptor was had: it is the recorded process that the descriptor means.
        self.is_running().then_some(Held(fd))
    }
}

/// A hand on one process.
#[derive(Debug)]
pub(crate) struct Held(OwnedFd);

impl Held {
    /// Sends a signal; to a process that has just ended, nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        // It fails only if the process is gone, which is what a signal here is for.
        let _ = pidfd_send_signal(&self.0, signal);
    }

    /// Waits until the process has ended; whether it has.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut ends = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut ends, Some(&left)) {
                Ok(0) => return false,
                Ok(_) => return true,
                // A signal to this process: the rest of the wait is still to come.
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// When a process began, in ticks since boot; `None` if there is none, or only what its parent has
/// not buried yet.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything, parentheses included.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // The state is the third field of the line and the start the twenty-second.
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends_and_no_other_is_taken_for_it() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep is everywhere");
        let record = ProcessRecord::of(child.id()).expect("it runs");
        assert!(record.is_running());
        let recycled = ProcessRecord { started_ticks: record.started_ticks + 1, ..record.clone() };
        assert!(
            !recycled.is_running() && recycled.hold().is_none(),
            "another start, another process"
        );
        let rebooted = ProcessRecord { boot_id: "another".into(), ..record.clone() };
        assert!(rebooted.hold().is_none(), "another boot, another process");
        let held = record.hold().expect("it runs");
        assert!(!held.wait(Duration::ZERO));
        held.signal(Signal::TERM);
        assert!(held.wait(Duration::from_secs(10)));
        assert!(!record.is_running(), "what is not buried yet does not run");
        child.wait().expect("buried");
    }
}
