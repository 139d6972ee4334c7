//! The nemesis: what goes wrong, when, and for how long, as the seed says.
//!
//! Each round first draws which kinds of fault it has and how densely they fall, so that some
//! rounds have one fault over and over and others a bit of everything. A link or a node suffers one
//! fault at a time. Whatever was begun is undone at its end, or when the round is healed. A fault
//! whose target turned out not to be there, such as a cut of a link that carried nothing, is void
//! and counted apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde::Serialize;

use super::ground::Ground;
use crate::dice::Dice;
use crate::faults::{CutKind, Direction, EndAfter, Faults, Flip, Newcomers, Survivors};

/// Processor time that a starved node has: one part in a hundred.
const STARVED: (&str, &str) = ("100000", "1000");
/// Where processor time is given out.
const CPU_GROUP: &str = "/sys/fs/cgroup/cpu";
/// How often a disk is tried to be made read-only, and how long after each other.
const READ_ONLY_TRIES: u32 = 40;
const READ_ONLY_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes that a filler is written in.
const FILL_BYTES: usize = 1024 * 1024;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Silent,
    Reset,
    Close,
    OneWay,
    Flap,
    Delay,
    Slow,
    Falsified,
    Slices,
    EndAfter,
    Partition,
    Blackhole,
    LineDown,
    Kill,
    Restart,
    Freeze,
    CrashLoop,
    Starve,
    FewFiles,
    FullDisk,
    ReadOnly,
    RootAway,
    Unreadable,
    WrongClock,
}

impl Kind {
    pub(crate) const ALL: [Kind; 24] = [
        Kind::Silent,
        Kind::Reset,
        Kind::Close,
        Kind::OneWay,
        Kind::Flap,
        Kind::Delay,
        Kind::Slow,
        Kind::Falsified,
        Kind::Slices,
        Kind::EndAfter,
        Kind::Partition,
        Kind::Blackhole,
        Kind::LineDown,
        Kind::Kill,
        Kind::Restart,
        Kind::Freeze,
        Kind::CrashLoop,
        Kind::Starve,
        Kind::FewFiles,
        Kind::FullDisk,
        Kind::ReadOnly,
        Kind::RootAway,
        Kind::Unreadable,
        Kind::WrongClock,
    ];

    /// What it needs that is not there, if anything.
    pub(crate) fn lacks(self, ground: &Ground) -> Option<&'static str> {
        let namespaces = ground.has_namespaces();
        match self {
            Kind::Blackhole | Kind::LineDown if !namespaces => Some("network namespaces (root)"),
            Kind::FullDisk | Kind::ReadOnly if !namespaces => Some("a small disk (root)"),
            Kind::Unreadable if !namespaces => Some("setpriv (root)"),
            Kind::Starve
                if !namespaces || !Path::new(CPU_GROUP).join("cpu.cfs_quota_us").exists() =>
            {
                Some("the cpu control group (root)")
            }
            Kind::WrongClock if !ground.has_wrong_clocks() => Some("libfaketime"),
            _ => None,
        }
    }

    fn of_link(self) -> bool {
        self <= Kind::EndAfter
    }
}

/// What a fault fell on.
#[derive(Clone, Debug)]
enum Target {
    Link(usize),
    Links(Vec<usize>),
    Node(usize),
}

/// A fault that has begun.
#[derive(Debug)]
struct Active {
    kind: Kind,
    target: Target,
    until: Instant,
    undo: Undo,
    /// What its link had carried and lost when it began.
    traffic: (u64, usize),
}

/// What ends a fault.
#[derive(Debug)]
enum Undo {
    Nothing,
    HealLinks,
    /// Cut and healed again and again, so often.
    Flap {
        every: Duration,
        next: Instant,
        cut: bool,
    },
    Deliver {
        outgoing: bool,
    },
    LineUp,
    Start,
    Thaw,
    Feed,
    ManyFiles {
        limit: Rlimit,
    },
    RemoveFiller,
    Writable,
    PutRootBack,
    Readable {
        dir: File,
    },
    SetClock,
}

/// How often a kind fell, and fell on nothing.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Count {
    pub(crate) fell: u64,
    pub(crate) void: u64,
}

/// The nemesis of one run.
#[derive(Debug)]
pub(crate) struct Nemesis {
    dice: Dice,
    kinds: Vec<Kind>,
    density: Duration,
    active: Vec<Active>,
    next: Instant,
    pub(crate) counts: BTreeMap<Kind, Count>,
    pub(crate) restarts: u64,
    /// Nodes that were killed or could not write in this round.
    pub(crate) disturbed: BTreeSet<usize>,
    /// Whether a clock was wrong in this round.
    pub(crate) clocks_differ: bool,
    /// What was done, for people.
    pub(crate) diary: Vec<String>,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Nemesis {
        Nemesis {
            dice: Dice::new(seed),
            kinds: Vec::new(),
            density: Duration::from_secs(1),
            active: Vec::new(),
            next: Instant::now(),
            counts: BTreeMap::new(),
            restarts: 0,
            disturbed: BTreeSet::new(),
            clocks_differ: false,
            diary: Vec::new(),
        }
    }

    /// Draws what the next round has; what it is, for people.
    pub(crate) fn draw(&mut self, ground: &Ground) -> String {
        let possible: Vec<Kind> =
            Kind::ALL.into_iter().filter(|kind| kind.lacks(ground).is_none()).collect();
        let one_in = 1 + self.dice.below(6);
        self.kinds = possible.iter().copied().filter(|_| self.dice.below(one_in) == 0).collect();
        if self.kinds.is_empty() {
            self.kinds = vec![possible[self.index(possible.len())]];
        }
        self.density = Duration::from_millis(300 + self.dice.below(4_000));
        self.next = Instant::now();
        self.disturbed.clear();
        self.clocks_differ = false;
        self.diary.clear();
        format!("{:?}, one about every {:?}", self.kinds, self.density)
    }

    /// Ends what is due, and begins what comes next.
    pub(crate) fn tick(&mut self, ground: &mut Ground) -> Result<()> {
        let now = Instant::now();
        self.flap(ground, now);
        let (due, on): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.active).into_iter().partition(|active| active.until <= now);
        self.active = on;
        for active in due {
            self.undo(ground, active)?;
        }
        if self.next <= Instant::now() {
            self.strike(ground)?;
            let wait = self.density / 2 + self.density.mul_f64(self.dice.below(100) as f64 / 100.0);
            self.next = Instant::now() + wait;
        }
        Ok(())
    }

    /// Undoes everything.
    pub(crate) fn heal(&mut self, ground: &mut Ground) -> Result<()> {
        for active in std::mem::take(&mut self.active) {
            self.undo(ground, active)?;
        }
        for link in &ground.links {
            link.proxy.set_both(Faults::default());
            link.proxy.heal();
        }
        for node in 0..ground.nodes.len() {
            open_all(&ground.folder(node));
        }
        Ok(())
    }

    /// Lets one fault fall, if something is free for it.
    fn strike(&mut self, ground: &mut Ground) -> Result<()> {
        let drawn = self.index(self.kinds.len());
        let kind = self.kinds[drawn];
        let Some(target) = self.target(kind, ground) else { return Ok(()) };
        let hold = Duration::from_millis(match kind {
            Kind::Silent | Kind::OneWay | Kind::Blackhole | Kind::LineDown | Kind::Freeze => {
                500 + self.dice.below(16_000)
            }
            Kind::Reset | Kind::Close | Kind::Kill | Kind::Restart => self.dice.below(4_000),
            _ => 1_000 + self.dice.below(9_000),
        });
        self.diary.push(format!("{kind:?} on {target:?} for {hold:?}"));
        let undo = match &target {
            Target::Node(node) => self.strike_node(kind, *node, ground)?,
            Target::Link(link) => self.strike_link(kind, *link, ground),
            Target::Links(links) => {
                for &link in links {
                    ground.links[link].proxy.cut(CutKind::Silent);
                }
                Undo::HealLinks
            }
        };
        self.counts.entry(kind).or_default().fell += 1;
        let traffic = traffic(&target, ground);
        self.active.push(Active { kind, target, until: Instant::now() + hold, undo, traffic });
        Ok(())
    }

    /// Whether a fault did nothing: a line was spoiled on which nothing passed and nothing broke, or
    /// a disk could not be spoiled. Cuts fall on open connections only, and processes that are
    /// killed or stopped are known to be.
    fn is_void(active: &Active, ground: &Ground) -> bool {
        match active.kind {
            Kind::Flap
            | Kind::Delay
            | Kind::Slow
            | Kind::Falsified
            | Kind::Slices
            | Kind::EndAfter => traffic(&active.target, ground) == active.traffic,
            Kind::FullDisk | Kind::ReadOnly | Kind::Unreadable => {
                matches!(active.undo, Undo::Nothing)
            }
            _ => false,
        }
    }

    /// Something that the fault can fall on and that suffers nothing yet.
    fn target(&mut self, kind: Kind, ground: &Ground) -> Option<Target> {
        let mut links: BTreeSet<usize> =
            (0..ground.links.len()).filter(|link| is_connected(*link, ground)).collect();
        let mut nodes: BTreeSet<usize> = (0..ground.nodes.len()).collect();
        for active in &self.active {
            match &active.target {
                Target::Link(link) => drop(links.remove(link)),
                Target::Links(cut) => links.retain(|link| !cut.contains(link)),
                Target::Node(node) => {
                    nodes.remove(node);
                    links.retain(|link| !ground.links[*link].joins(*node));
                }
            }
        }
        if kind == Kind::Partition {
            let sides: Vec<u64> = (0..ground.nodes.len()).map(|_| self.dice.below(3)).collect();
            let parted = |link: &usize| {
                let link = &ground.links[*link];
                sides[link.dialler] != sides[link.listener]
            };
            links.retain(parted);
            return (!links.is_empty()).then(|| Target::Links(links.into_iter().collect()));
        }
        if kind.of_link() {
            let links: Vec<usize> = links.into_iter().collect();
            return links.get(self.index(links.len())).map(|link| Target::Link(*link));
        }
        if matches!(kind, Kind::FullDisk | Kind::ReadOnly) {
            return ground.on_small_disk().filter(|node| nodes.contains(node)).map(Target::Node);
        }
        let nodes: Vec<usize> = nodes.into_iter().collect();
        nodes.get(self.index(nodes.len())).map(|node| Target::Node(*node))
    }

    fn strike_link(&mut self, kind: Kind, link: usize, ground: &Ground) -> Undo {
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

    fn strike_node(&mut self, kind: Kind, node: usize, ground: &mut Ground) -> Result<Undo> {
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

    fn undo(&mut self, ground: &mut Ground, active: Active) -> Result<()> {
        if Self::is_void(&active, ground) {
            self.counts.entry(active.kind).or_default().void += 1;
        }
        let Active { kind, target, undo, .. } = active;
        match target {
            Target::Link(link) => self.heal_link(ground, link),
            Target::Links(links) => links.iter().for_each(|link| self.heal_link(ground, *link)),
            Target::Node(node) => self
                .undo_node(ground, node, undo)
                .with_context(|| format!("undoing {kind:?} on node {node}"))?,
        }
        Ok(())
    }

    fn heal_link(&mut self, ground: &Ground, link: usize) {
        let proxy = &ground.links[link].proxy;
        proxy.set_both(Faults::default());
        proxy.heal_with([Survivors::Resume, Survivors::Reset][self.index(2)]);
    }

    fn undo_node(&mut self, ground: &mut Ground, node: usize, undo: Undo) -> Result<()> {
        match undo {
            Undo::Nothing | Undo::HealLinks | Undo::Flap { .. } => Ok(()),
            Undo::Deliver { outgoing } => ground.lose(node, outgoing, false),
            Undo::LineUp => ground.line(node, true),
            Undo::Start => {
                self.restarts += 1;
                ground.nodes[node].start()
            }
            Undo::Thaw => ground.nodes[node].signal(Signal::CONT),
            Undo::Feed => feed(pid_of(ground, node)?),
            Undo::ManyFiles { limit } => {
                prlimit(Some(raw(pid_of(ground, node)?)?), Resource::Nofile, limit)?;
                Ok(())
            }
            Undo::RemoveFiller => Ok(fs::remove_file(ground.volume(node).join("filler"))?),
            Undo::Writable => ground.set_read_only(node, false),
            Undo::PutRootBack => {
                let folder = ground.folder(node);
                Ok(fs::rename(folder.with_extension("away"), &folder)?)
            }
            Undo::Readable { dir } => {
                let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
                Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
            }
            Undo::SetClock => ground.shift_clock(node, 0),
        }
    }

    fn flap(&mut self, ground: &Ground, now: Instant) {
        for active in &mut self.active {
            let (Undo::Flap { every, next, cut }, Target::Link(link)) =
                (&mut active.undo, &active.target)
            else {
                continue;
            };
            if *next > now {
                continue;
            }
            let proxy = &ground.links[*link].proxy;
            if *cut {
                proxy.heal_with(Survivors::Reset);
            } else {
                proxy.cut(CutKind::Silent);
            }
            (*cut, *next) = (!*cut, now + *every);
        }
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.dice.below(count as u64)).unwrap_or(0)
    }
}

/// Bytes that the links of a target have carried, and connections that ended on them.
fn traffic(target: &Target, ground: &Ground) -> (u64, usize) {
    let links = match target {
        Target::Link(link) => vec![*link],
        Target::Links(links) => links.clone(),
        Target::Node(_) => Vec::new(),
    };
    let of = |link: usize| {
        let report = ground.links[link].proxy.report();
        let bytes = Direction::BOTH.iter().map(|direction| report.bytes(*direction)).sum::<u64>();
        (bytes, report.connections.iter().filter(|c| c.ended_ms.is_some()).count())
    };
    links.into_iter().map(of).fold((0, 0), |sum, link| (sum.0 + link.0, sum.1 + link.1))
}

fn is_connected(link: usize, ground: &Ground) -> bool {
    let report = ground.links[link].proxy.report();
    report.connections.iter().any(|connection| connection.ended_ms.is_none())
}

fn pid_of(ground: &Ground, node: usize) -> Result<u32> {
    ground.nodes[node].pid().with_context(|| format!("node {node} is down"))
}

fn raw(pid: u32) -> Result<Pid> {
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

fn feed(pid: u32) -> Result<()> {
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
fn open_all(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let closed =
            entry.metadata().is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o700 == 0);
        if closed {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755));
        }
    }
}
