//! A whole cluster in one thread: what happens next, in order of time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use highwater_core::wire::Control;
use highwater_core::{ContentHash, Key};
use highwater_folder::{Hint, Slot};
use highwater_store::Commit;

use super::chance::Chance;
use super::clock::PlayedClock;
use super::crew::Crew;
use super::fetch::{Wanted, first_chunks, manifest_of, stage_row};
use super::judge::Judge;
use super::network::{End, Wire};
use super::node::{Node, share};
use super::scan::scan;
use super::story::{Habits, SECOND, Story, seconds};
use crate::fetch::copy::Copy;
use crate::fetch::source::LinkId;
use crate::fetch::{FetchError, Fetched, Job, Staged};
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

    pub(super) fn wire_of(&self, a: usize, b: usize) -> Option<usize> {
        self.pairs.iter().position(|&pair| pair == (a, b))
    }

    /// Lets somebody dial, if the two could be linked and are not.
    pub(super) fn dial_later(&mut self, wire: usize) {
        let (a, b) = self.pairs[wire];
        let up = self.nodes[a].life.is_some() && self.nodes[b].life.is_some();
        let link = &mut self.wires[wire];
        if up && !link.cut && link.ends.is_none() && !link.dialling {
            link.dialling = true;
            self.soon(DIAL_MAX, Happening::Dial { wire });
        }
    }

    fn dial(&mut self, wire: usize) {
        let (a, b) = self.pairs[wire];
        self.wires[wire].dialling = false;
        let up = self.nodes[a].life.is_some() && self.nodes[b].life.is_some();
        if !up || self.wires[wire].cut || self.wires[wire].ends.is_some() {
            return;
        }
        self.links += 2;
        let (ids, lives) =
            ([self.links - 1, self.links], [self.nodes[a].lives, self.nodes[b].lives]);
        let (mut end_a, control_a) = End::new(a, lives[0], ids[0], self.nodes[b].id);
        let (mut end_b, control_b) = End::new(b, lives[1], ids[1], self.nodes[a].id);
        for (end, control) in [(&mut end_a, control_a), (&mut end_b, control_b)] {
            let source = Arc::clone(&end.source);
            let up = Event::LinkUp { source, control, fresh: true };
            self.tell(end.node, LINK_UP_MAX, Turn::Event(up));
            // A node hears of a link before it hears anything through it.
            end.last_arrival = self.clock.micros() + LINK_UP_MAX;
        }
        self.wires[wire].ends = Some([end_a, end_b]);
        self.note(a, "linked to", &b);
    }

    /// Ends a link; each side hears of it within `longest`.
    pub(super) fn break_wire(&mut self, wire: usize, longest: u64) {
        let Some(ends) = self.wires[wire].ends.take() else { return };
        self.judge.count("links broken", 1);
        for end in &ends {
            if self.is_life(end.node, end.life) {
                self.tell(end.node, longest, Turn::Event(Event::LinkDown(end.id)));
            }
        }
        self.dial_later(wire);
    }

    /// Takes what both ends have said and sends it on its way.
    fn carry(&mut self, wire: usize) {
        let Some(mut ends) = self.wires[wire].ends.take() else { return };
        for from in 0..2 {
            let (to, link) = (ends[1 - from].node, ends[1 - from].id);
            while let Ok(message) = ends[from].outgoing.try_recv() {
                let travel = 50 + self.chance.below(self.habits.latency_max);
                let arrival = (self.now() + travel).max(ends[from].last_arrival + 1);
                ends[from].last_arrival = arrival;
                self.look_at_history(ends[from].node, &message);
                let message = Box::new(message);
                self.at(arrival, Happening::Arrives { wire, link, to, message });
            }
        }
        let closed = ends.iter().any(End::is_closed);
        self.wires[wire].ends = Some(ends);
        if closed {
            self.judge.count("links closed by a node", 1);
            self.break_wire(wire, 1_000);
        }
    }

    /// Counts the histories of a node beyond its first. There is none where no older state was put back and
    /// no announced content was lost: what peers had of a history is told to them again as new, and so
    /// what they deleted comes back.
    fn look_at_history(&mut self, node: usize, message: &Control) {
        let Control::Offer(offer) = message else { return };
        let before = self.nodes[node].offered.replace(offer.epoch);
        let anew = before.is_some_and(|before| before != offer.epoch);
        self.judge.count("histories begun anew", u64::from(anew));
        let open = self.nodes[node].life.as_ref().and_then(|life| life.actor.open.as_ref());
        let has_lost = open.is_some_and(|open| open.replica.lost_states().next().is_some());
        let put_back = self.judge.happened("restores") || self.judge.happened("stores lost");
        if anew && !has_lost && !put_back {
            let time = self.now();
            self.judge.broken(time, &format!("V1: node {node} begins a history anew for nothing"));
        }
    }

    fn arrives(&mut self, wire: usize, link: LinkId, to: usize, message: Box<Control>) {
        if self.wires[wire].carries(link) && self.nodes[to].life.is_some() {
            self.note(to, "receives", &message);
            self.take_turn(to, Turn::Event(Event::Control(link, message)), false);
        }
    }

    // --- content --------------------------------------------------------------------------

    fn fetch_job(&mut self, node: usize, job: Job) {
        match job {
            Job::Fetch { content, size, .. } => {
                let wanted = self.resumed(node, content, size);
                if let Some(life) = &mut self.nodes[node].life {
                    life.wanted.insert(content, wanted);
                }
            }
            Job::Forget(content) => {
                if let Some(life) = &mut self.nodes[node].life {
                    life.wanted.remove(&content);
                }
            }
            Job::Copy(copies) => {
                let copied = copies.iter().map(|copy| self.copy(node, copy)).collect();
                self.tell(node, SCAN_MAX, Turn::Fetched(copied));
            }
        }
    }

    /// A content as far as it is staged from before.
    fn resumed(&mut self, node: usize, content: ContentHash, size: u64) -> Wanted {
        let mut wanted = Wanted::new(size);
        let Some(life) = self.nodes[node].life.as_ref().filter(|_| wanted.is_large()) else {
            return wanted;
        };
        let Some(number) = life.played.with_crew(|crew| crew.number) else { return wanted };
        let recorded = life.store.stage(number, &content, wanted.chunks()).ok().flatten();
        let slot = Slot::partial(content);
        let disk = self.nodes[node].folder.disk();
        let there =
            disk.get(&format!("{}/{slot}", super::disk::STAGE)).map(|(_, print)| print.size);
        drop(disk);
        if let (Some((row, held)), Some(there)) = (recorded, there) {
            if there < row.acked {
                let said =
                    format!("{slot} has {there} bytes, {} are on record as staged", row.acked);
                self.judge.broken(self.clock.micros(), &format!("I5: node {node}: {said}"));
            }
            (wanted.staged, wanted.durable) = (held.len(), held.len());
            self.judge.count("resumed at an offset above 0", u64::from(wanted.staged > 0));
        }
        wanted
    }

    fn copy(&mut self, node: usize, copy: &Copy) -> Fetched {
        let (content, size) = (copy.content, copy.size);
        let folder = self.nodes[node].folder.clone();
        let mut disk = folder.disk();
        let there = |key: &Key| disk.get(key.as_str()).and_then(|(thing, _)| thing.content());
        if let Some(from) = copy.from.as_ref().filter(|from| there(from) != Some(content)) {
            return Fetched::Failed { content, why: FetchError::SourceChanged(from.clone()) };
        }
        let wall = self.nodes[node].clock.wall().0;
        let full = disk.full || folder.fuse.grow().is_err();
        let Some(life) = &mut self.nodes[node].life else {
            return Fetched::Failed { content, why: FetchError::Unavailable };
        };
        if full {
            return Fetched::Failed { content, why: FetchError::NoRoom("full".into()) };
        }
        let slot = Slot::fresh(life.slots);
        life.slots += 1;
        disk.stage(slot.as_str(), content, size, wall);
        Fetched::Staged(Staged { content, slot, manifest: None, transfer: None })
    }

    /// Asks for every content that nobody is being asked for.
    pub(super) fn ask_for_all(&mut self, node: usize) {
        let Some(life) = &mut self.nodes[node].life else { return };
        let Some(sources) = life.played.with_crew(|crew| crew.sources.borrow().clone()) else {
            life.wanted.clear();
            return;
        };
        let links: Vec<LinkId> = sources.iter().map(|source| source.id).collect();
        let (mut asks, mut unavailable) = (Vec::new(), Vec::new());
        for (content, wanted) in &mut life.wanted {
            if wanted.asked.is_some_and(|(link, _)| links.contains(&link)) || links.is_empty() {
                continue;
            }
            let able: Vec<LinkId> =
                links.iter().filter(|link| !wanted.lacking.contains(link)).copied().collect();
            match self.chance.pick(&able) {
                Some(&link) => {
                    self.requests += 1;
                    wanted.asked = Some((link, self.requests));
                    asks.push((*content, link, self.requests));
                }
                None => unavailable.push(*content),
            }
        }
        for content in &unavailable {
            life.wanted.remove(content);
        }
        for (content, link, request) in asks {
            let Some(wire) = self.wires.iter().position(|wire| wire.carries(link)) else {
                continue;
            };
            self.soon(self.habits.latency_max, Happening::Asked { wire, link, content, request });
        }
        if !unavailable.is_empty() {
            let failed = |content| Fetched::Failed { content, why: FetchError::Unavailable };
            let failed = unavailable.into_iter().map(failed).collect();
            self.tell(node, 1_000, Turn::Fetched(failed));
        }
    }

    /// A request arrives at the peer of the node that has the end `link`.
    fn asked(&mut self, wire: usize, link: LinkId, content: ContentHash, request: u64) {
        let Some(ends) = &self.wires[wire].ends else { return };
        let asker = usize::from(ends[0].id != link);
        if ends[asker].id != link {
            return;
        }
        let (node, life) = (ends[asker].node, ends[asker].life);
        let peer = ends[1 - asker].node;
        let has = self.serves(peer, content);
        let time = self.chance.below(self.habits.latency_max) + if has { CHUNK_TIME } else { 0 };
        self.soon(time + 1, Happening::Answered { node, life, content, request, has });
    }

    /// Whether a node can send this content: its index has it, and the file is still that one.
    fn serves(&mut self, node: usize, content: ContentHash) -> bool {
        let Some(life) = &self.nodes[node].life else { return false };
        let store = Arc::clone(&life.store);
        let stock = life.played.with_crew(|crew| (crew.number, Arc::clone(&crew.catalogue)));
        let Some((number, catalogue)) = stock else { return false };
        let mut stale = None;
        let disk = self.nodes[node].folder.disk();
        let found = catalogue.find_row(&store, number, &content, |row| {
            let recorded = crate::share::replica::decode_print(row.print.as_deref());
            let there = disk.get(row.entry.key.as_str());
            let stands = !disk.vanished
                && there.is_some_and(|(thing, print)| {
                    thing.content() == Some(content) && recorded == Some(print)
                });
            if !stands {
                stale.get_or_insert_with(|| row.entry.key.clone());
            }
            stands
        });
        drop(disk);
        if let Some(key) = stale {
            self.tell(node, 1_000, Turn::Event(Event::Suspect(key)));
        }
        found.is_ok_and(|row| row.is_some())
    }

    fn answered(&mut self, node: usize, content: ContentHash, request: u64, has: bool) {
        let wall = self.nodes[node].clock.wall().0;
        let folder = self.nodes[node].folder.clone();
        let Some(life) = &mut self.nodes[node].life else { return };
        let Some(wanted) = life.wanted.get_mut(&content) else { return };
        let Some((link, _)) = wanted.asked.filter(|(_, number)| *number == request) else { return };
        if !self.wires.iter().any(|wire| wire.carries(link)) {
            return;
        }
        if !has {
            wanted.asked = None;
            wanted.lacking.insert(link);
            self.ask_for_all(node);
            return;
        }
        if !folder.has_room() {
            self.judge.count("pauses on a full disk", 1);
            life.wanted.remove(&content);
            let why = FetchError::NoRoom("full".into());
            self.tell(node, 1_000, Turn::Fetched(vec![Fetched::Failed { content, why }]));
            return;
        }
        wanted.staged += 1;
        let (size, large) = (wanted.size, wanted.is_large());
        let whole = wanted.staged >= wanted.chunks();
        let slot = if large { Slot::partial(content) } else { Slot::fresh(life.slots) };
        life.slots += u64::from(!large);
        let held = if whole { size } else { stage_row(size, wanted.staged).acked };
        let bytes = if whole { content } else { ContentHash::of(&held.to_be_bytes()) };
        folder.disk().stage(slot.as_str(), bytes, held, wall);
        if large && (whole || wanted.staged - wanted.durable >= CHUNKS_A_SYNC) {
            self.make_stage_durable(node, content);
        }
        self.go_on(node, content, request, slot, whole);
    }

    /// Syncs what is staged of a large content, then records it: in this order.
    fn make_stage_durable(&mut self, node: usize, content: ContentHash) {
        let folder = self.nodes[node].folder.clone();
        let Some(life) = &mut self.nodes[node].life else { return };
        let Some(number) = life.played.with_crew(|crew| crew.number) else { return };
        let Some(wanted) = life.wanted.get_mut(&content) else { return };
        if folder.fuse.step().is_err() {
            return;
        }
        {
            let mut disk = folder.disk();
            disk.sync_file(&format!("{}/{}", super::disk::STAGE, Slot::partial(content)));
            disk.sync_dir(super::disk::STAGE);
        }
        let before = first_chunks(wanted.size, wanted.durable);
        wanted.durable = wanted.staged;
        let now = first_chunks(wanted.size, wanted.staged);
        let mut commit = Commit::new();
        let row = stage_row(wanted.size, wanted.staged);
        commit.put_stage(number, &content, &row, &before, &now);
        // A store that fails stops the share, which hears of it from the store itself.
        let _ = life.store.commit(commit);
    }

    /// The next chunk is on its way, or all of them are there.
    fn go_on(&mut self, node: usize, content: ContentHash, request: u64, slot: Slot, whole: bool) {
        let number = self.nodes[node].lives;
        let Some(life) = &mut self.nodes[node].life else { return };
        if !whole {
            let has = true;
            let next = Happening::Answered { node, life: number, content, request, has };
            self.soon(CHUNK_TIME, next);
            return;
        }
        let Some(wanted) = life.wanted.remove(&content) else { return };
        let manifest = manifest_of(content, wanted.size).map(Arc::new);
        let staged = Staged { content, slot, manifest, transfer: None };
        self.tell(node, 1_000, Turn::Fetched(vec![Fetched::Staged(staged)]));
    }

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
