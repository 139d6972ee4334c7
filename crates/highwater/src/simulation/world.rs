//! A whole cluster in one thread: what happens next, in order of time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use highwater_core::wire::Control;
use highwater_core::{ContentHash, Key};
use highwater_folder::Hint;

mod content;
mod lines;

use super::chance::Chance;
use super::clock::PlayedClock;
use super::crew::Crew;
use super::judge::Judge;
use super::network::Wire;
use super::node::{Node, share};
use super::scan::scan;
use super::story::{Habits, SECOND, Story, seconds};
use crate::fetch::source::LinkId;
use crate::share::Event;
use crate::share::actor::Turn;
use crate::share::scanner::{Index, ReadJob, ScanEvent};

/// Longest time between a change and the watcher's word of it.
const HINT_MAX: u64 = 40_000;
/// Longest time that a scan takes before it looks, and from its look to its word.
const SCAN_MAX: u64 = 60_000;
/// Longest time between an event and the turn that follows from it.
const TURN_MAX: u64 = 300;
/// Longest time before a link that could be is.
const DIAL_MAX: u64 = 3 * SECOND;
/// Longest time before a node's share learns that a link is up.
const LINK_UP_MAX: u64 = 1_000;
/// Longest time before a side learns that its link is gone, as the net promises.
const SILENCE_MAX: u64 = 12 * SECOND;
/// How often the kernel writes back what nobody synced, at most.
const WRITE_BACK: u64 = 30 * SECOND;
/// Far more events than the busiest story has: a node that acts again and again for nothing is found
/// by it.
const EVENTS_MAX: u64 = 3_000_000;
/// How long one chunk is on its way.
const CHUNK_TIME: u64 = 150_000;
/// Chunks that become durable together.
const CHUNKS_A_SYNC: usize = 4;

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// The story's next action.
    Action(usize),
    /// A node's share takes its turn.
    Act { node: usize, life: u64 },
    /// A node's share learns of something; if a helper found it, only while that one is in its pay.
    Told { node: usize, life: u64, shift: Option<u64>, turn: Box<Turn> },
    /// A scan or another read begins to look.
    Look { node: usize, life: u64, shift: u64, job: ReadJob },
    /// A message arrives at the end `link` of a wire.
    Arrives { wire: usize, link: LinkId, to: usize, message: Box<Control> },
    /// Somebody dials.
    Dial { wire: usize },
    /// A request for a content arrives at the other end of `link`.
    Asked { wire: usize, link: LinkId, content: ContentHash, request: u64 },
    /// An answer comes back: the next chunk, or that the peer lacks it.
    Answered { node: usize, life: u64, content: ContentHash, request: u64, has: bool },
    /// The kernel writes back.
    WriteBack { node: usize },
}

/// A cluster that is played.
pub(super) struct World {
    pub(super) clock: PlayedClock,
    pub(super) habits: Habits,
    pub(super) nodes: Vec<Node>,
    pub(super) wires: Vec<Wire>,
    pub(super) pairs: Vec<(usize, usize)>,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    links: u64,
    requests: u64,
    pub(super) chance: Chance,
    pub(super) judge: Judge,
    /// Trouble is over: nothing breaks any more.
    pub(super) healed: bool,
    pub(super) story: Story,
}

impl World {
    pub(super) fn new(story: &Story, with_lines: bool) -> Self {
        let mut chance = Chance::new(story.seed ^ 0x5eed);
        let (clock, habits) = (PlayedClock::new(), story.habits.clone());
        let node = |number| Node::new(number, &habits, &clock, chance.split());
        let nodes: Vec<Node> = (0..habits.nodes).map(node).collect();
        let pairs = habits.pairs();
        let wires = pairs.iter().map(|_| Wire::default()).collect();
        let mut world = Self {
            clock,
            nodes,
            wires,
            pairs,
            queue: BTreeMap::new(),
            queued: 0,
            links: 0,
            requests: 0,
            chance,
            judge: Judge::new(with_lines, habits.one_writer),
            healed: false,
            story: story.clone(),
            habits,
        };
        for (index, (at, _)) in story.actions.iter().enumerate() {
            world.at(*at, Happening::Action(index));
        }
        for node in 0..world.nodes.len() {
            world.start(node);
            world.at(WRITE_BACK, Happening::WriteBack { node });
        }
        world
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.micros()
    }

    fn at(&mut self, time: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((time.max(self.now()), self.queued), happening);
    }

    fn soon(&mut self, longest: u64, happening: Happening) {
        let time = self.now() + 1 + self.chance.below(longest);
        self.at(time, happening);
    }

    /// Plays until `end`, in microseconds since the beginning, or until a rule is broken.
    pub(super) fn play_until(&mut self, end: u64) -> ControlFlow<()> {
        while let Some(entry) = self.queue.first_entry() {
            let (time, _) = *entry.key();
            if time > end {
                break;
            }
            let happening = entry.remove();
            self.clock.set(time);
            self.judge.events += 1;
            self.happen(happening);
            self.fell_dead();
            if self.judge.events > EVENTS_MAX {
                self.judge.broken(time, "L2: the nodes never rest");
            }
            if self.judge.violation.is_some() {
                return ControlFlow::Break(());
            }
        }
        self.clock.set(end.max(self.now()));
        ControlFlow::Continue(())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Action(index) => {
                let action = self.story.actions[index].1.clone();
                self.act_out(action);
            }
            Happening::Act { node, life } => {
                if self.is_life(node, life) {
                    self.take_turn(node, Turn::TimePassed, true);
                }
            }
            Happening::Told { node, life, shift, turn } => {
                let hired = shift.is_none() || shift == self.shift_of(node);
                if self.is_life(node, life) && hired {
                    match &*turn {
                        Turn::Event(Event::LinkUp { source, .. }) => {
                            self.note(node, "has a link", &(source.id, source.peer));
                        }
                        turn => self.note(node, "hears", turn),
                    }
                    self.take_turn(node, *turn, false);
                }
            }
            Happening::Look { node, life, shift, job } => {
                if self.is_life(node, life) && self.shift_of(node) == Some(shift) {
                    self.look(node, job, shift);
                }
            }
            Happening::Arrives { wire, link, to, message } => self.arrives(wire, link, to, message),
            Happening::Dial { wire } => self.dial(wire),
            Happening::Asked { wire, link, content, request } => {
                self.asked(wire, link, content, request);
            }
            Happening::Answered { node, life, content, request, has } => {
                if self.is_life(node, life) {
                    self.answered(node, content, request, has);
                }
            }
            Happening::WriteBack { node } => {
                self.nodes[node].folder.disk().write_back();
                self.at(self.now() + WRITE_BACK, Happening::WriteBack { node });
            }
        }
    }

    pub(super) fn is_life(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life.is_some() && self.nodes[node].lives == life
    }

    /// Which helpers a node's share has now, if it is open.
    fn shift_of(&self, node: usize) -> Option<u64> {
        self.nodes[node].life.as_ref()?.played.with_crew(|crew| crew.shift)
    }

    /// Writes a line of the story as it was played.
    pub(super) fn note(&mut self, node: usize, verb: &str, what: &dyn std::fmt::Debug) {
        let time = self.now();
        self.judge.note(time, node, verb, what);
    }

    // --- a node's turn --------------------------------------------------------------------

    /// Lets a node take in what has happened, and act on it now or a moment later.
    pub(super) fn take_turn(&mut self, node: usize, turn: Turn, acts: bool) {
        let Some(life) = &mut self.nodes[node].life else { return };
        life.actor.take_turn(turn, &mut life.inbox);
        if acts {
            life.actor.act();
            life.acts_at = None;
        }
        let number = self.nodes[node].lives;
        if acts {
            self.collect(node);
        }
        let Some(life) = &mut self.nodes[node].life else { return };
        let due = match acts {
            true => self.clock.micros_at(life.actor.deadline()).max(self.clock.micros() + 50),
            false => self.clock.micros() + 1 + self.chance.below(TURN_MAX),
        };
        if life.acts_at.is_none_or(|at| at > due) {
            life.acts_at = Some(due);
            self.at(due, Happening::Act { node, life: number });
        }
        self.judge.look_at_disk(self.clock.micros(), node, &mut self.nodes[node].folder.disk());
    }

    /// Takes what a share's turn has given to others to do.
    fn collect(&mut self, node: usize) {
        let life = self.nodes[node].lives;
        let Some(played) = self.nodes[node].life.as_ref().map(|life| life.played.clone()) else {
            return;
        };
        let read = |crew: &mut Crew| Some((crew.shift, crew.reads.try_recv().ok()?));
        while let Some((shift, job)) = played.with_crew(read).flatten() {
            self.soon(SCAN_MAX, Happening::Look { node, life, shift, job });
        }
        while let Some(job) = played.with_crew(|crew| crew.jobs.try_recv().ok()).flatten() {
            self.fetch_job(node, job);
        }
        self.ask_for_all(node);
        for wire in 0..self.wires.len() {
            self.carry(wire);
        }
    }

    pub(super) fn tell(&mut self, node: usize, longest: u64, turn: Turn) {
        let life = self.nodes[node].lives;
        let shift = match turn {
            Turn::Event(_) | Turn::TimePassed | Turn::End => None,
            Turn::Scan(_) | Turn::Hint(_) | Turn::Fetched(_) => match self.shift_of(node) {
                None => return,
                shift => shift,
            },
        };
        self.soon(longest, Happening::Told { node, life, shift, turn: Box::new(turn) });
    }

    /// The watcher's word of a change, unless it misses it.
    pub(super) fn hint(&mut self, node: usize, path: &str) {
        let Ok(key) = Key::new(path) else { return };
        if self.nodes[node].life.is_some() && !self.chance.percent(self.habits.blind_percent) {
            self.tell(node, HINT_MAX, Turn::Hint(Hint::Paths([key].into())));
        }
    }

    fn look(&mut self, node: usize, job: ReadJob, shift: u64) {
        let Some(life) = &self.nodes[node].life else { return };
        let stock = life.played.with_crew(|crew| (crew.number, Arc::clone(&crew.catalogue)));
        let Some((share, catalogue)) = stock else { return };
        let events = match job {
            ReadJob::Scan(job) => {
                let index = Index { store: Arc::clone(&life.store), share, catalogue };
                let mut disk = self.nodes[node].folder.disk();
                if disk.vanished {
                    let gone = highwater_folder::RootError::Missing(super::folder::path());
                    let outcome = Err(highwater_folder::ScanError::Root(gone));
                    vec![ScanEvent::Done { scope: job.scope, gone: Vec::new(), outcome }]
                } else {
                    let findings = scan(&disk, &job.scope, &index);
                    // As a scanner does: nothing is told that a power cut could take back.
                    let (new, names) = index.undurable(&findings.found);
                    new.iter().for_each(|key| disk.sync_below(key.as_str()));
                    let dirs = names.iter().map(|key| key.parent());
                    dirs.for_each(|dir| disk.sync_dir(dir.as_ref().map_or("", Key::as_str)));
                    findings.gone.iter().for_each(|key| disk.sync_below(key.as_str()));
                    let done =
                        ScanEvent::Done { scope: job.scope, gone: findings.gone, outcome: Ok(()) };
                    vec![ScanEvent::Found(findings.found), done]
                }
            }
            ReadJob::Verify { key, content } => {
                let disk = self.nodes[node].folder.disk();
                let seen = disk.get(key.as_str());
                let found = seen.map(|(thing, print)| (print, thing.content() == Some(content)));
                vec![ScanEvent::Verified { key, content, found }]
            }
        };
        let first = self.now() + 1 + self.chance.below(SCAN_MAX);
        let life = self.nodes[node].lives;
        for (time, event) in (first..).zip(events) {
            let (shift, turn) = (Some(shift), Box::new(Turn::Scan(event)));
            self.at(time, Happening::Told { node, life, shift, turn });
        }
    }

    // --- links ----------------------------------------------------------------------------

    // --- content --------------------------------------------------------------------------

    // --- for the cast ---------------------------------------------------------------------

    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].life.is_some() {
            return;
        }
        if let Err(error) = self.nodes[node].start() {
            // A disk that fails at the start is an error that an operator sees.
            if self.healed {
                let said = format!("L8: node {node} does not start: {error}");
                self.judge.broken(self.clock.micros(), &said);
            }
            return;
        }
        self.judge.count("starts", 1);
        let life = self.nodes[node].lives;
        self.soon(1_000, Happening::Act { node, life });
        for wire in 0..self.wires.len() {
            self.dial_later(wire);
        }
    }

    /// Ends a node's process without a word to anybody.
    pub(super) fn end(&mut self, node: usize, in_order: bool) {
        let Some(mut life) = self.nodes[node].life.take() else { return };
        if in_order {
            life.actor.end();
        }
        drop(life);
        for wire in 0..self.wires.len() {
            let (a, b) = self.pairs[wire];
            if a == node || b == node {
                let longest = [1_000, SILENCE_MAX][self.chance.index(2)];
                self.break_wire(wire, longest);
            }
        }
    }

    pub(super) fn silence(&mut self) -> u64 {
        [1_000, SILENCE_MAX][self.chance.index(2)]
    }

    /// What is going on, for a failure's report.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("at {}:", seconds(self.now()))];
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(life) = &node.life else {
                lines.push(format!("node {number} is down"));
                continue;
            };
            let status = life.actor.snapshot();
            lines.push(format!(
                "node {number}: {:?}, head {}, needed {:?}, problems {:?}",
                status.state, status.head_seq, status.needed, status.problems
            ));
            if let Some(open) = &life.actor.open {
                lines.push(format!("  at work: {:?}", open.work));
            }
            for peer in &status.peers {
                lines.push(format!(
                    "  with {}: connected {}, in sync {}, pull {:?}, push {:?}",
                    peer.name, peer.connected, peer.in_sync, peer.pull, peer.push
                ));
            }
            for (key, kind) in node.tree() {
                lines.push(format!("  {key}: {kind:?}"));
            }
        }
        lines.push(format!("share {}", share()));
        lines
    }
}
