//! The nemesis: what goes wrong, when, and for how long, as the seed says.
//!
//! Each round first draws which kinds of fault it has and how densely they fall, so that some
//! rounds have one fault over and over and others a bit of everything. A link or a node suffers one
//! fault at a time. Whatever was begun is undone at its end, or when the round is healed. A fault
//! whose target turned out not to be there, such as a cut of a link that carried nothing, is void
//! and counted apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Rlimit;
use serde::Serialize;

mod blows;
mod undo;

use blows::{CPU_GROUP, open_all};

use super::ground::Ground;
use crate::dice::Dice;
use crate::faults::{CutKind, Direction, Faults, Survivors};

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
