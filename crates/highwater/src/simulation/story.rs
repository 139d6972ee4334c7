//! What happens in a simulation: drawn from a seed before it begins, so that a story can be told
//! again, and told again without some of its events.
//!
//! Each story first draws which kinds of faults it has at all (Groce et al., "Swarm Testing", 2012):
//! some bugs only show where others do not get in the way.

use highwater_core::Mode;
use highwater_store::FuseEnd;

use super::chance::Chance;

/// One second, in the unit of a story's time.
pub(super) const SECOND: u64 = 1_000_000;
/// How long anything may break.
pub(super) const TROUBLE: u64 = 500 * SECOND;

/// The paths that users work on: few, so that they meet; some inside others, some that a file
/// system without case or with composed letters would take for one.
pub(super) const NAMES: [&str; 12] =
    ["a", "b.txt", "d", "d/x", "d/y", "d/e/z", "E", "e", "caf\u{e9}", "cafe\u{301}", "big", "f/g"];

/// How the nodes are linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Topology {
    Mesh,
    Chain,
    Star,
}

/// What a story is like throughout.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    pub(super) nodes: usize,
    pub(super) topology: Topology,
    /// Only the first node's user changes anything.
    pub(super) one_writer: bool,
    /// Users do not sync what they write.
    pub(super) careless: bool,
    /// The watcher misses this many of a hundred changes; the next scan finds them.
    pub(super) blind_percent: u64,
    /// Longest time that a message travels.
    pub(super) latency_max: u64,
    /// Deletes of more than so many entries at once are held back.
    pub(super) mass_delete_min: u64,
    /// A folder that is put back comes as the image of its disk, and not file by file. Only stories that are
    /// told by hand have that: of an image from before the last deletes, put back under a node that
    /// was killed in the same run, nothing can tell.
    pub(super) folder_images: bool,
}

/// Something that happens to the cluster from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    User(usize, Deed),
    Cut(usize, usize),
    Mend(usize, usize),
    /// The process dies; what it wrote is in the kernel's hands.
    Kill(usize),
    /// The machine dies, and with it what was not synced.
    PowerCut(usize),
    /// The process ends in order.
    Stop(usize),
    Start(usize),
    /// The folder's disk is gone, for a while.
    Vanish(usize),
    Return(usize),
    Full(usize),
    Room(usize),
    FailFolderSync(usize),
    FailStoreSync(usize),
    /// The disk dies, or is full, after so many steps of the node on it.
    FailWithin(usize, u32, FuseEnd),
    /// The wall clock goes wrong by so many milliseconds.
    Clock(usize, i64),
    /// A copy of the node's disks is made.
    Backup(usize),
    /// The copy is put back while the node is down.
    Restore(usize, Part),
    /// The store is deleted while the node is down.
    LoseStore(usize),
}

/// Which part of a node is put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Both,
    Store,
    Folder,
}

/// What a user does with a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Write { name: usize, size: u64, in_place: bool },
    Delete { name: usize },
    Rename { from: usize, to: usize },
    Copy { from: usize, to: usize },
    MakeDir { name: usize },
    ChangeMode { name: usize, mode: u32 },
}

/// A story, ready to be told.
#[derive(Clone, Debug)]
pub struct Story {
    pub(super) seed: u64,
    pub(super) habits: Habits,
    /// When, in microseconds, and what, in order of time.
    pub(super) actions: Vec<(u64, Action)>,
}

/// From this seed on, so many stories in a hundred have disks that fail between two steps of a node.
/// The stories before, some of which are kept because they found a bug, are what they always were.
const WITHIN_FROM: u64 = 10_000_000;
const WITHIN_PERCENT: u64 = 40;

/// The kinds of faults that a story has.
struct Kinds(u64);

impl Kinds {
    fn has(&self, kind: u32) -> bool {
        self.0 >> kind & 1 == 1
    }
}

impl Story {
    /// The story of this seed.
    pub fn of_seed(seed: u64) -> Story {
        let mut chance = Chance::new(seed);
        let habits = Habits::draw(&mut chance);
        let mut actions = Vec::new();
        draw_deeds(&mut chance.split(), &habits, &mut actions);
        draw_faults(&mut chance.split(), &habits, &mut actions);
        if seed >= WITHIN_FROM && chance.percent(WITHIN_PERCENT) {
            draw_failures_within(&mut chance.split(), &habits, &mut actions);
        }
        actions.sort_by_key(|(at, _)| *at);
        Story { seed, habits, actions }
    }

    /// How many things happen in it.
    pub fn length(&self) -> usize {
        self.actions.len()
    }

    /// The story without the things in a range.
    pub(super) fn without(&self, from: usize, end: usize) -> Story {
        let kept = self.actions.iter().enumerate().filter(|(i, _)| !(from..end).contains(i));
        Story { actions: kept.map(|(_, action)| action.clone()).collect(), ..self.clone() }
    }

    /// What happens, one line each.
    pub fn lines(&self) -> Vec<String> {
        let line = |(at, action): &(u64, Action)| format!("{:>12} {action:?}", seconds(*at));
        self.actions.iter().map(line).collect()
    }
}

/// A time as people read it.
pub(super) fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / SECOND, micros % SECOND)
}

impl Habits {
    fn draw(chance: &mut Chance) -> Self {
        let topologies = [Topology::Mesh, Topology::Mesh, Topology::Chain, Topology::Star];
        Self {
            nodes: chance.between(2, 6).min(chance.between(2, 7)) as usize,
            topology: topologies[chance.index(4)],
            one_writer: chance.percent(30),
            careless: chance.percent(25),
            blind_percent: [0, 0, 10, 60][chance.index(4)],
            latency_max: [2_000, 30_000, 300_000, 2 * SECOND][chance.index(4)],
            mass_delete_min: if chance.percent(25) { 3 } else { 1000 },
            folder_images: false,
        }
    }

    pub(super) fn pairs(&self) -> Vec<(usize, usize)> {
        let all = (0..self.nodes).flat_map(|a| (a + 1..self.nodes).map(move |b| (a, b)));
        let linked = |&(a, b): &(usize, usize)| match self.topology {
            Topology::Mesh => true,
            Topology::Chain => b == a + 1,
            Topology::Star => a == 0,
        };
        all.filter(linked).collect()
    }
}

fn draw_deeds(chance: &mut Chance, habits: &Habits, actions: &mut Vec<(u64, Action)>) {
    let many = chance.between(5, 70);
    let spread = [20 * SECOND, TROUBLE][chance.index(2)];
    let begin = chance.below(TROUBLE - spread + 1);
    let mut written = Vec::new();
    for _ in 0..many {
        let node = if habits.one_writer { 0 } else { chance.index(habits.nodes) };
        let at = begin + chance.below(spread);
        let deed = draw_deed(chance, &mut written);
        actions.push((at, Action::User(node, deed)));
    }
}

fn draw_deed(chance: &mut Chance, written: &mut Vec<usize>) -> Deed {
    let name = chance.index(NAMES.len());
    let known = chance.pick(written).copied().unwrap_or(name);
    match chance.below(100) {
        0..50 => {
            written.push(name);
            let sizes = [0, 10, 3_000, 50_000, 200_000, 1_500_000];
            Deed::Write { name, size: sizes[chance.index(6)], in_place: chance.percent(50) }
        }
        50..66 => Deed::Delete { name: known },
        66..78 => {
            written.push(name);
            Deed::Rename { from: known, to: name }
        }
        78..84 => {
            written.push(name);
            Deed::Copy { from: known, to: name }
        }
        84..92 => Deed::MakeDir { name },
        _ => Deed::ChangeMode { name: known, mode: [0o600, 0o755, 0o644][chance.index(3)] },
    }
}

fn draw_faults(chance: &mut Chance, habits: &Habits, actions: &mut Vec<(u64, Action)>) {
    let kinds = Kinds(chance.next() & chance.next());
    let many = chance.below(24);
    let pairs = habits.pairs();
    for _ in 0..many {
        let node = chance.index(habits.nodes);
        let at = chance.below(TROUBLE);
        let longest = [3 * SECOND, 60 * SECOND][chance.index(2)];
        let until = (at + chance.between(1, longest)).min(TROUBLE);
        let mut during = |first, then| {
            actions.push((at, first));
            actions.push((until, then));
        };
        match chance.below(12) as u32 {
            0 | 1 => {
                if let Some(&(a, b)) = chance.pick(&pairs) {
                    during(Action::Cut(a, b), Action::Mend(a, b));
                }
            }
            kind if !kinds.has(kind) => {}
            2 => during(Action::Kill(node), Action::Start(node)),
            3 | 4 => during(Action::PowerCut(node), Action::Start(node)),
            5 => during(Action::Stop(node), Action::Start(node)),
            6 => during(Action::Vanish(node), Action::Return(node)),
            7 => during(Action::Full(node), Action::Room(node)),
            8 if chance.percent(50) => actions.push((at, Action::FailFolderSync(node))),
            8 => {
                actions.push((at, Action::FailStoreSync(node)));
                actions.push((until, Action::Stop(node)));
                actions.push((until + 1, Action::Start(node)));
            }
            9 => {
                let days = 86_400_000;
                let wrong = [-3_650 * days, -60_000, 500, 3_600_000, 3_650 * days];
                during(Action::Clock(node, wrong[chance.index(5)]), Action::Clock(node, 0));
            }
            10 => draw_restore(chance, node, at, actions),
            _ => {
                actions.push((at, Action::Stop(node)));
                actions.push((at + 1, Action::LoseStore(node)));
                actions.push((until, Action::Start(node)));
            }
        }
    }
}

/// Disks that fail while their node is at work on them.
fn draw_failures_within(chance: &mut Chance, habits: &Habits, actions: &mut Vec<(u64, Action)>) {
    for _ in 0..chance.between(1, 16) {
        let node = chance.index(habits.nodes);
        let at = chance.below(TROUBLE);
        let until = (at + chance.between(SECOND, 60 * SECOND)).min(TROUBLE);
        let within = [8, 64][chance.index(2)];
        let steps = chance.below(within) as u32;
        let end = [FuseEnd::Dead, FuseEnd::Dead, FuseEnd::Full][chance.index(3)];
        actions.push((at, Action::FailWithin(node, steps, end)));
        // What a full disk stopped is started again, once it has room; what died has it, too.
        actions.push((until, Action::Room(node)));
        actions.push((until + 1, Action::Stop(node)));
        actions.push((until + 2, Action::Start(node)));
    }
}

fn draw_restore(chance: &mut Chance, node: usize, at: u64, actions: &mut Vec<(u64, Action)>) {
    let part = [Part::Both, Part::Store, Part::Folder][chance.index(3)];
    let back = at + chance.between(SECOND, 120 * SECOND);
    let start = back + chance.between(SECOND, 20 * SECOND);
    actions.push((at, Action::Backup(node)));
    if start < TROUBLE {
        actions.push((back, Action::Stop(node)));
        actions.push((back + 1, Action::Restore(node, part)));
        actions.push((start, Action::Start(node)));
    }
}

/// The mode that a deed asks for.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::new(bits)
}
