//! How each fault falls.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::{Kind, Nemesis, Undo};
use crate::chaos::ground::Ground;
use crate::faults::{CutKind, Direction, EndAfter, Faults, Flip, Newcomers};

/// Processor time that a starved node has: one part in a hundred.
const STARVED: (&str, &str) = ("100000", "1000");
/// Where processor time is given out.
pub(super) const CPU_GROUP: &str = "/sys/fs/cgroup/cpu";
/// How often a disk is tried to be made read-only, and how long after each other.
const READ_ONLY_TRIES: u32 = 40;
const READ_ONLY_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes that a filler is written in.
const FILL_BYTES: usize = 1024 * 1024;

impl Nemesis {
    pub(super) fn strike_link(&mut self, kind: Kind, link: usize, ground: &Ground) -> Undo {
        let proxy = &ground.links[link].proxy;
        let direction = Direction::BOTH[self.index(2)];
        let set = |faults: Faults| {
            proxy.set_both(faults);
            Undo::HealLinks
        };
        match kind {
            Kind::Silent => {
                let newcomers = [Newcomers::Held, Newcomers::Refused][self.index(2)];
                proxy.cut_with(CutKind::Silent, newcomers);
                Undo::HealLinks
            }
            Kind::Reset | Kind::Close => {
                let how = if kind == Kind::Reset { CutKind::Reset } else { CutKind::Close };
                proxy.cut(how);
                Undo::HealLinks
            }
            Kind::OneWay => {
                proxy.set(direction, Faults::frozen());
                Undo::HealLinks
            }
            Kind::Flap => {
                let every = Duration::from_millis(50 + self.dice.below(2_500));
                Undo::Flap { every, next: Instant::now(), cut: false }
            }
            Kind::Delay => set(Faults::delay(Duration::from_millis(20 + self.dice.below(1_500)))),
            Kind::Slow => set(Faults::rate(8_000 + self.dice.below(2_000_000))),
            Kind::Falsified => {
                let flip = Flip::Every(20_000 + self.dice.below(4_000_000));
                set(Faults { flip, ..Faults::default() })
            }
            Kind::Slices => set(Faults { one_byte_slices: true, ..Faults::default() }),
            _ => {
                let bytes = self.dice.below(3_000_000);
                let how = [CutKind::Silent, CutKind::Reset, CutKind::Close][self.index(3)];
                let at_record = self.dice.below(2) == 0;
                let end_after = Some(EndAfter { bytes, kind: how, at_record });
                proxy.set(direction, Faults { end_after, ..Faults::default() });
                Undo::HealLinks
            }
        }
    }

    pub(super) fn strike_node(
        &mut self,
        kind: Kind,
        node: usize,
        ground: &mut Ground,
    ) -> Result<Undo> {
        match kind {
            Kind::Blackhole => {
                let outgoing = self.dice.below(2) == 0;
                ground.lose(node, outgoing, true)?;
                return Ok(Undo::Deliver { outgoing });
            }
            Kind::LineDown => {
                ground.line(node, false)?;
                return Ok(Undo::LineUp);
            }
            Kind::WrongClock => {
                let shift = [-3_600, -300, -61, 61, 300, 3_600, 315_360_000][self.index(7)];
                self.clocks_differ = true;
                ground.shift_clock(node, shift)?;
                return Ok(Undo::SetClock);
            }
            _ => {}
        }
        if kind >= Kind::FullDisk {
            self.strike_disk(kind, node, ground)
        } else {
            self.strike_process(kind, node, ground)
        }
    }

    fn strike_process(&mut self, kind: Kind, node: usize, ground: &mut Ground) -> Result<Undo> {
        match kind {
            Kind::Kill => {
                self.disturbed.insert(node);
                ground.nodes[node].kill()?;
                Ok(Undo::Start)
            }
            Kind::Restart => {
                self.disturbed.insert(node);
                ground.nodes[node].stop()?;
                Ok(Undo::Start)
            }
            Kind::CrashLoop => {
                self.disturbed.insert(node);
                for _ in 0..2 + self.dice.below(3) {
                    ground.nodes[node].kill()?;
                    ground.nodes[node].start()?;
                    self.restarts += 1;
                    std::thread::sleep(Duration::from_millis(self.dice.below(400)));
                }
                ground.nodes[node].kill()?;
                Ok(Undo::Start)
            }
            Kind::Freeze => {
                ground.nodes[node].signal(Signal::STOP)?;
                Ok(Undo::Thaw)
            }
            Kind::Starve => {
                starve(pid_of(ground, node)?)?;
                Ok(Undo::Feed)
            }
            _ => {
                let pid = pid_of(ground, node)?;
                let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
                let few = Some(open + self.dice.below(4));
                let process = raw(pid)?;
                let limit = prlimit(
                    Some(process),
                    Resource::Nofile,
                    Rlimit {
                        current: few,
                        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
                    },
                )?;
                Ok(Undo::ManyFiles { limit })
            }
        }
    }

    fn strike_disk(&mut self, kind: Kind, node: usize, ground: &mut Ground) -> Result<Undo> {
        self.disturbed.insert(node);
        match kind {
            Kind::FullDisk => {
                let left = self.dice.below(300_000);
                fill(&ground.volume(node).join("filler"), left)?;
                Ok(Undo::RemoveFiller)
            }
            Kind::ReadOnly => {
                // It is refused while a file is open for writing, as one is now and then.
                let done = (0..READ_ONLY_TRIES).any(|_| {
                    let done = ground.set_read_only(node, true).is_ok();
                    if !done {
                        std::thread::sleep(READ_ONLY_INTERVAL);
                    }
                    done
                });
                Ok(if done { Undo::Writable } else { Undo::Nothing })
            }
            Kind::RootAway => {
                let folder = ground.folder(node);
                fs::rename(&folder, folder.with_extension("away"))?;
                Ok(Undo::PutRootBack)
            }
            _ => {
                let Some(dir) = self.some_dir(&ground.folder(node)) else {
                    return Ok(Undo::Nothing);
                };
                let dir = File::open(dir)?;
                dir.set_permissions(fs::Permissions::from_mode(0o000))?;
                Ok(Undo::Readable { dir })
            }
        }
    }

    fn some_dir(&mut self, folder: &Path) -> Option<std::path::PathBuf> {
        let mut dirs: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
        dirs.retain(|entry| {
            entry.file_name() != ".highwater" && entry.file_type().is_ok_and(|kind| kind.is_dir())
        });
        dirs.sort_by_key(|entry| entry.file_name());
        dirs.get(self.index(dirs.len())).map(fs::DirEntry::path)
    }
}

pub(super) fn pid_of(ground: &Ground, node: usize) -> Result<u32> {
    ground.nodes[node].pid().with_context(|| format!("node {node} is down"))
}

pub(super) fn raw(pid: u32) -> Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).context("no such pid")
}

/// Puts a process into a group with hardly any processor time.
fn starve(pid: u32) -> Result<()> {
    let group = format!("{CPU_GROUP}/hwchaos{pid}");
    fs::create_dir_all(&group)?;
    fs::write(format!("{group}/cpu.cfs_period_us"), STARVED.0)?;
    fs::write(format!("{group}/cpu.cfs_quota_us"), STARVED.1)?;
    Ok(fs::write(format!("{group}/cgroup.procs"), pid.to_string())?)
}

pub(super) fn feed(pid: u32) -> Result<()> {
    fs::write(format!("{CPU_GROUP}/cgroup.procs"), pid.to_string())?;
    Ok(fs::remove_dir(format!("{CPU_GROUP}/hwchaos{pid}"))?)
}

/// Fills a file system but for so many bytes.
fn fill(filler: &Path, left: u64) -> Result<()> {
    let mut file = File::create(filler)?;
    let block = vec![0; FILL_BYTES];
    let mut length = 0;
    loop {
        match file.write(&block) {
            Ok(0) => bail!("a filler takes nothing"),
            Ok(count) => length += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(file.set_len(length.saturating_sub(left))?)
}

/// Gives back the right to read directories that were closed, wherever that has come to.
pub(super) fn open_all(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let closed =
            entry.metadata().is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o700 == 0);
        if closed {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755));
        }
    }
}
