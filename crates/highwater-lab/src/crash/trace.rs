//! Faults at exactly one system call, by `strace`: the process is killed on entering it, or it is
//! told that the call failed.
//!
//! `strace` counts the calls of each thread on its own, and so does this: "the third `pwrite64`" is
//! the first third one of any thread. Its log is the proof that the fault fell.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long `strace` may take to end. One that hangs is killed, which lets everybody go.
const END_PATIENCE: Duration = Duration::from_secs(5);
const END_INTERVAL: Duration = Duration::from_millis(2);

/// The calls by which a node changes what is on its disk, in the words of `strace`.
pub const CALLS: [&str; 13] = [
    "write",
    "pwrite64",
    "copy_file_range",
    "fallocate",
    "ftruncate",
    "mkdirat",
    "renameat2",
    "rename",
    "unlinkat",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "syncfs",
];

/// Those by which it reads it.
pub const READS: [&str; 6] = ["openat", "getdents64", "newfstatat", "statx", "read", "pread64"];

/// Why no fault can be injected on this machine, if none can.
pub fn missing() -> Option<&'static str> {
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", "inject=fsync:error=EIO", "true"]);
    let works = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!works.is_ok_and(|status| status.success())).then_some("strace is missing or may not trace")
}

/// What is done to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process is killed on entering it.
    Kill,
    /// It fails with this error and is not carried out.
    Error(&'static str),
}

/// Which of a thread's calls are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// This one alone, counted from 1.
    Call(u32),
    /// This one and all that follow.
    From(u32),
}

/// A fault at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// The call's name.
    pub call: &'static str,
    /// What is done to it.
    pub fault: Fault,
    /// Which of them.
    pub when: When,
}

impl Injection {
    fn argument(self) -> String {
        let when = match self.when {
            When::Call(number) => format!("{number}"),
            When::From(number) => format!("{number}+"),
        };
        match self.fault {
            Fault::Kill => format!("inject={}:signal=KILL:when={when}", self.call),
            Fault::Error(errno) => format!("inject={}:error={errno}:when={when}", self.call),
        }
    }
}

/// The options for `strace` that follow a process with all its threads and do this to it.
pub fn options(log: &Path, injection: Option<Injection>) -> Vec<String> {
    let all = || [CALLS.join(","), READS.join(",")].join(",");
    let calls = injection.map_or_else(all, |injection| injection.call.to_owned());
    let mut options = vec!["-f".into(), "-y".into(), "-o".into(), log.display().to_string()];
    options.extend(["-e".into(), format!("trace={calls}")]);
    if let Some(injection) = injection {
        options.extend(["-e".into(), injection.argument()]);
    }
    options
}

/// A program in `dir` that is `exe`, and runs under `strace` as long as there is [`ORDERS`] beside
/// it: a file with the options.
pub fn traceable(exe: &Path, dir: &Path) -> Result<PathBuf> {
    let exe = exe.canonicalize().with_context(|| format!("looking for {}", exe.display()))?;
    let (script, orders) = (dir.join("highwater"), dir.join(ORDERS));
    let (exe, orders) = (exe.display(), orders.display());
    // `-D`: the tracer stands aside, and the process itself is the child that is waited for.
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *\\ run)\n[ -f '{orders}' ] && \
         exec strace -D $(cat '{orders}') '{exe}' \"$@\"\nesac\nexec '{exe}' \"$@\"\n"
    );
    fs::create_dir_all(dir)?;
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// The name of the file that has a [`traceable`] program traced.
pub const ORDERS: &str = "strace-options";

/// A process that is being traced.
#[derive(Debug)]
pub struct Tracer {
    process: Child,
    traced: u32,
    log: PathBuf,
}

impl Tracer {
    /// Attaches to a running process. Without a fault it only counts.
    pub fn attach(pid: u32, log: &Path, injection: Option<Injection>) -> Result<Tracer> {
        Tracer::attach_with(pid, log, options(log, injection))
    }

    /// Attaches to a running process and does this to its calls on one file, which must be there.
    pub fn attach_to_file(
        pid: u32,
        log: &Path,
        injection: Injection,
        file: &Path,
    ) -> Result<Tracer> {
        let file = file.to_str().context("the path is not UTF-8")?;
        let mut options = options(log, Some(injection));
        options.extend(["-P".to_owned(), file.to_owned()]);
        Tracer::attach_with(pid, log, options)
    }

    fn attach_with(pid: u32, log: &Path, options: Vec<String>) -> Result<Tracer> {
        let mut command = Command::new("strace");
        command.args(options).args(["-p", &pid.to_string()]);
        let mut process = command.stderr(Stdio::piped()).spawn().context("starting strace")?;
        let mut said = BufReader::new(process.stderr.take().context("strace is mute")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line.contains("attached"), "strace did not attach: {line}");
        // Read to its end, so that it never waits for a reader.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(Tracer { process, traced: pid, log: log.to_owned() })
    }

    /// Lets the process go, if it still lives; what was seen.
    pub fn detach(mut self) -> Result<Seen> {
        self.end()?;
        Seen::read(&self.log)
    }

    /// A process that is dying is not let go: `strace` waits for its threads in the order in which
    /// it knows them, and if it is told to let go meanwhile, it waits for the wrong one, for ever.
    fn end(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_none() && !is_dying(self.traced) {
            let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
            kill_process(pid.context("no such pid")?, Signal::INT)?;
        }
        let began = Instant::now();
        while self.process.try_wait()?.is_none() {
            if began.elapsed() > END_PATIENCE {
                self.process.kill()?;
                self.process.wait()?;
            }
            thread::sleep(END_INTERVAL);
        }
        Ok(())
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Result<Seen> {
        Seen::read(&self.log)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Whether a process is gone, or is only waited for.
fn is_dying(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// What `strace` saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// For each call, how often the thread that made most of them made it.
    pub calls: BTreeMap<&'static str, u32>,
    /// The calls that failed because they were made to.
    pub injected: Vec<String>,
    /// Whether the process was killed.
    pub killed: bool,
}

impl Seen {
    /// Reads a log.
    pub fn read(log: &Path) -> Result<Seen> {
        let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
        Ok(Seen::parse(&String::from_utf8_lossy(&text)))
    }

    /// How often each call will be made again, going by two runs of the same. Which thread makes
    /// how many is chance, so not quite as often as in the run with fewer.
    pub fn in_both([one, other]: &[Seen; 2]) -> BTreeMap<&'static str, u32> {
        let least = |(&call, &times): (&&'static str, &u32)| {
            let times = times.min(*other.calls.get(call)?);
            Some((call, times - times / 4))
        };
        one.calls.iter().filter_map(least).collect()
    }

    /// A call during which another thread's is written down stands in two lines, and what it was
    /// about, the path above all, only in the first.
    fn parse(text: &str) -> Seen {
        let mut by_thread: BTreeMap<(&str, &'static str), u32> = BTreeMap::new();
        let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
        let mut seen = Seen::default();
        for line in text.lines() {
            let Some((thread, event)) = line.split_once(' ') else { continue };
            let event = event.trim_start();
            seen.killed |= event.contains("killed by SIGKILL");
            if let Some(begun) = event.strip_suffix("<unfinished ...>") {
                unfinished.insert(thread, begun);
            }
            if event.ends_with("(INJECTED)") {
                let begun = unfinished.remove(thread).filter(|_| event.starts_with("<..."));
                seen.injected.push(format!("{}{event}", begun.unwrap_or_default()));
            }
            let name = event.split('(').next().unwrap_or_default();
            if let Some(&call) = CALLS.iter().chain(&READS).find(|&&call| call == name) {
                *by_thread.entry((thread, call)).or_default() += 1;
            }
        }
        for ((_, call), times) in by_thread {
            let most = seen.calls.entry(call).or_default();
            *most = times.max(*most);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_that_stands_in_two_lines_tells_its_path() {
        let seen = Seen::parse(
            "7 fdatasync(5</store/db> <unfinished ...>\n8 fdatasync(6</folder/f>) = 0\n\
             7 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)\n",
        );
        assert_eq!(seen.injected.len(), 1);
        assert!(seen.injected[0].contains("/store/"), "{:?}", seen.injected);
    }

    #[test]
    fn a_log_says_how_often_the_busiest_thread_made_each_call_and_what_became_of_it() {
        let seen = Seen::parse(
            "7 fsync(5</a>) = 0\n8 fsync(5</a>) = -1 EIO (Input/output error) (INJECTED)\n\
             8 fsync(5</a> <unfinished ...>\n8 <... fsync resumed>) = 0\n\
             7 write(3</b>, \"fsync(\", 6) = 6\n7 +++ killed by SIGKILL +++\n",
        );
        assert_eq!(seen.calls.into_iter().collect::<Vec<_>>(), [("fsync", 2), ("write", 1)]);
        assert_eq!(seen.injected.len(), 1);
        assert!(seen.killed);
    }
}
