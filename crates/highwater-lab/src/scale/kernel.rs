//! What the kernel says of processes and of the machine, from `/proc`.
//!
//! Processor time is what the kernel has accounted to a process, so a figure over a minute is exact
//! to some ten microseconds a second. The proportional set counts a page that several processes
//! share, such as the program itself, in parts; the resident set counts it in full for each.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::spread::Spread;

/// Clock ticks in a second, as Linux shows processor time on every platform that it runs on.
const TICKS_A_SECOND: f64 = 100.0;
/// Watch instances that are not the nodes' own: a desktop has some dozens.
const WATCHES_SPARE: usize = 16;

/// The machine, for the record.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// Their model.
    pub processor: String,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    pub(crate) fn here() -> Result<Self> {
        let cpus = read("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned()),
            memory_bytes: kib(&read("/proc/meminfo")?, "MemTotal:")?,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

/// Some processes, and the machine, at one moment.
#[derive(Debug)]
pub(crate) struct Look {
    at: Instant,
    processes: BTreeMap<u32, Process>,
    busy_ticks: u64,
    available_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Process {
    ticks: u64,
    rss: u64,
    pss: u64,
    anonymous: u64,
    threads: u64,
    files: u64,
    /// How often it has gone to sleep, and so been woken.
    sleeps: u64,
}

/// What processes took between two looks: a figure for each process, spread.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// How long they were watched.
    pub seconds: f64,
    /// Of one core, in percent.
    pub cpu_percent: Spread,
    /// Resident set, in MB of a million bytes.
    pub rss_mb: Spread,
    /// Proportional set, in MB.
    pub pss_mb: Spread,
    /// Memory that is no file's, in MB.
    pub anonymous_mb: Spread,
    /// Threads.
    pub threads: Spread,
    /// Open files and sockets.
    pub files: Spread,
    /// Times woken in a second, all threads together.
    pub wakes_a_second: Spread,
    /// Time of all cores that was not idle, in percent of all of it; everything that runs counts.
    pub machine_busy_percent: f64,
    /// Memory that the machine has left, in MB.
    pub machine_available_mb: f64,
}

impl Cost {
    /// From one look to a later one, over the processes that are in both.
    pub(crate) fn between(before: &Look, after: &Look) -> Self {
        let seconds =
            after.at.duration_since(before.at).max(Duration::from_millis(1)).as_secs_f64();
        let both: Vec<(&Process, &Process)> = before
            .processes
            .iter()
            .filter_map(|(pid, process)| Some((process, after.processes.get(pid)?)))
            .collect();
        let now = |of: fn(&Process) -> f64| Spread::of(both.iter().map(|(_, after)| of(after)));
        let rate = |of: fn(&Process) -> u64| {
            let grown = both.iter().map(|(before, after)| of(after).saturating_sub(of(before)));
            Spread::of(grown.map(|grown| grown as f64 / seconds).collect::<Vec<_>>())
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let busy = after.busy_ticks.saturating_sub(before.busy_ticks) as f64 / TICKS_A_SECOND;
        Self {
            seconds,
            // Ticks in a second, of a hundred, are percent.
            cpu_percent: rate(|process| process.ticks),
            rss_mb: now(|process| mb(process.rss)),
            pss_mb: now(|process| mb(process.pss)),
            anonymous_mb: now(|process| mb(process.anonymous)),
            threads: now(|process| process.threads as f64),
            files: now(|process| process.files as f64),
            wakes_a_second: rate(|process| process.sleeps),
            machine_busy_percent: busy * 100.0 / (seconds * cores),
            machine_available_mb: mb(after.available_bytes),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} % of a core, {:.1} MB resident, {:.1} MB proportional (means); machine {:.0} % \
             busy",
            self.cpu_percent.mean, self.rss_mb.mean, self.pss_mb.mean, self.machine_busy_percent
        )
    }
}

/// Looks at these processes and at the machine.
pub(crate) fn look(pids: &[u32]) -> Result<Look> {
    let processes = pids.iter().map(|&pid| Ok((pid, process(pid)?)));
    let processes = processes.collect::<Result<BTreeMap<_, _>>>()?;
    Ok(Look {
        at: Instant::now(),
        processes,
        busy_ticks: busy_ticks(&read("/proc/stat")?)?,
        available_bytes: kib(&read("/proc/meminfo")?, "MemAvailable:")?,
    })
}

fn process(pid: u32) -> Result<Process> {
    let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
    let status = read(&format!("/proc/{pid}/status"))?;
    let (mut sleeps, tasks) = (0, format!("/proc/{pid}/task"));
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))?.flatten() {
        // A thread may have ended meanwhile.
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        sleeps += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    let files = format!("/proc/{pid}/fd");
    Ok(Process {
        ticks: own_ticks(&read(&format!("/proc/{pid}/stat"))?)?,
        rss: kib(&rollup, "Rss:")?,
        pss: kib(&rollup, "Pss:")?,
        anonymous: kib(&rollup, "Anonymous:")?,
        threads: number(&status, "Threads:")?,
        files: fs::read_dir(&files).with_context(|| format!("reading {files}"))?.count() as u64,
        sleeps,
    })
}

/// Ticks that a process has spent, from its line in `stat`.
fn own_ticks(stat: &str) -> Result<u64> {
    // The name, in parentheses, may hold anything. User and system time are fields 14 and 15.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let times: Vec<u64> =
        fields.into_iter().flatten().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    ensure!(times.len() == 2, "the kernel shows no processor time in {stat:?}");
    Ok(times.iter().sum())
}

/// Ticks that all processors together were not idle.
fn busy_ticks(stat: &str) -> Result<u64> {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let fields: Vec<u64> = line
        .context("the kernel shows no processor time")?
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; what guests take is in user already.
    let idle = |at: &usize| matches!(at, 3 | 4);
    Ok(fields.iter().enumerate().take(8).filter(|(at, _)| !idle(at)).map(|(_, t)| t).sum())
}

/// Fails, with what to do, when the kernel's limits do not let so many nodes run.
pub(crate) fn demand_room(nodes: usize) -> Result<()> {
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let instances: usize = read(path)?.trim().parse().with_context(|| format!("reading {path}"))?;
    let needed = nodes + WATCHES_SPARE;
    ensure!(
        instances >= needed,
        "the kernel gives one user {instances} watchers of directories and {nodes} nodes need one \
         each; as root: sysctl fs.inotify.max_user_instances={needed}"
    );
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}

/// The figure behind `name`, which begins its line.
fn number(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    figure.with_context(|| format!("the kernel shows no {name}"))
}

/// The same in bytes, where the kernel shows KiB.
fn kib(text: &str, name: &str) -> Result<u64> {
    Ok(number(text, name)? * 1024)
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_a_program_calls_itself() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 5 0 0 0 250 31 0 0 20 0 13 0 99 1 2";
        assert_eq!(own_ticks(stat).expect("whole"), 281);
        assert!(own_ticks("7 (a) S 1 7").is_err());
    }

    #[test]
    fn idle_and_waiting_for_disks_are_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4\n";
        assert_eq!(busy_ticks(stat).expect("whole"), 171);
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let look = look(&[std::process::id()]).expect("it runs");
        let cost = Cost::between(&look, &look);
        assert!(cost.pss_mb.max > 0.0 && cost.pss_mb.max <= cost.rss_mb.max, "{cost:?}");
        assert!(cost.threads.max >= 1.0 && cost.files.max >= 3.0, "{cost:?}");
    }
}
