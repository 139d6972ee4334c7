//! Hundreds of nodes in one thread, over links that are cut, lose one direction, and heal; nodes that
//! are killed and restarted; partitions. A seed decides everything.
//!
//! A link here is what a TCP connection is: messages arrive in order, after a delay, or the link
//! breaks. One direction that loses everything leaves the link up for a while, silent on both sides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::tests::{card, id};
use super::*;

/// How long a link takes to notice that it is dead.
const DEAD_AFTER: u64 = 12_000;
const SILENT_AFTER: u64 = 2500;

struct Crowd {
    seed: u64,
    now: u64,
    nodes: Vec<Option<Membership>>,
    incarnations: Vec<u64>,
    memory: Vec<(Vec<Saved>, Vec<Order>)>,
    links: Vec<Line>,
    /// By arrival time: to, from, what.
    mail: BTreeMap<u64, VecDeque<(usize, usize, Message)>>,
    ever_failed: Vec<(usize, usize)>,
}

struct Line {
    ends: (usize, usize),
    up: bool,
    /// Since when a direction has lost everything.
    mute_since: Option<u64>,
    /// Whether it may come up again.
    whole: bool,
}

impl Crowd {
    /// Nodes in a ring with shortcuts: each has about `degree` links.
    fn new(seed: u64, size: usize, degree: usize) -> Self {
        let mut crowd = Self {
            seed,
            now: 0,
            nodes: (0..size).map(|_| None).collect(),
            incarnations: vec![0; size],
            memory: vec![Default::default(); size],
            links: Vec::new(),
            mail: BTreeMap::new(),
            ever_failed: Vec::new(),
        };
        for from in 0..size {
            for reach in 0..degree / 2 {
                let to = (from + (1 << reach)) % size;
                let ends = (from.min(to), from.max(to));
                if from != to && !crowd.links.iter().any(|line| line.ends == ends) {
                    crowd.links.push(Line { ends, up: false, mute_since: None, whole: true });
                }
            }
        }
        (0..size).for_each(|node| crowd.start(node));
        crowd
    }

    fn chance(&mut self, of: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % of
    }

    fn time(&self) -> Time {
        Time::since_start(Duration::from_millis(self.now))
    }

    fn start(&mut self, node: usize) {
        self.incarnations[node] += 1;
        let (members, orders) = std::mem::take(&mut self.memory[node]);
        let own = card(node as u16, self.incarnations[node]);
        self.nodes[node] = Some(Membership::new(self.time(), own, members, orders));
    }

    fn kill(&mut self, node: usize) {
        if let Some(machine) = self.nodes[node].take() {
            self.memory[node] = machine.saved();
        }
        for line in 0..self.links.len() {
            if self.links[line].up && self.touches(line, node) {
                self.drop_link(line);
            }
        }
    }

    fn touches(&self, line: usize, node: usize) -> bool {
        self.links[line].ends.0 == node || self.links[line].ends.1 == node
    }

    fn drop_link(&mut self, line: usize) {
        let (a, b) = self.links[line].ends;
        self.links[line].up = false;
        for queue in self.mail.values_mut() {
            queue.retain(|(to, from, _)| (*to, *from) != (a, b) && (*to, *from) != (b, a));
        }
        self.tell(a, Event::LinkDown(id(b as u16)));
        self.tell(b, Event::LinkDown(id(a as u16)));
    }

    fn tell(&mut self, node: usize, event: Event) {
        let now = self.time();
        let Some(machine) = &mut self.nodes[node] else { return };
        let mut effects = VecDeque::from([event]);
        while let Some(event) = effects.pop_front() {
            let mut out = Vec::new();
            machine.handle(now, event, &mut out);
            for effect in out {
                match effect {
                    Effect::Send(to, message) => {
                        let to = number(&to);
                        let delay = 1 + (self.now * 31 + node as u64 * 17 + to as u64) % 20;
                        let arrival = self.now + delay;
                        self.mail.entry(arrival).or_default().push_back((to, node, message));
                    }
                    Effect::Sign(incarnation) => {
                        self.incarnations[node] = self.incarnations[node].max(incarnation);
                        let own = card(node as u16, self.incarnations[node]);
                        effects.push_back(Event::OwnCard(own));
                    }
                    Effect::Changed(about, _, State::Failed) => {
                        self.ever_failed.push((node, number(&about)));
                    }
                    Effect::Changed(..) | Effect::Save | Effect::Admissions => {}
                }
            }
        }
    }

    fn deliver(&mut self, to: usize, from: usize, message: Message) {
        let line = self.links.iter().position(|line| {
            line.up && line.ends == (to.min(from), to.max(from)) && line.mute_since.is_none()
        });
        if line.is_none() {
            return;
        }
        let sender = id(from as u16);
        match message {
            Message::Roll(rows) => self.tell(to, Event::Roll(sender, rows)),
            Message::News(gossip) => {
                let cards = gossip.cards.into_iter().map(Card::verified).collect();
                let orders = gossip.orders.into_iter().map(Order::verified).collect();
                self.tell(to, Event::News(sender, cards, gossip.claims, orders));
            }
            Message::Probe { target, number: probe } => {
                let target = number(&target);
                let ends = (to.min(target), to.max(target));
                let reached = self.nodes[target].is_some()
                    && self.links.iter().any(|l| l.ends == ends && l.up && l.mute_since.is_none());
                self.tell(from, Event::Probed { number: probe, alive: reached });
            }
            Message::Vitals(vitals) => self.tell(to, Event::Vitals(sender, vitals)),
        }
    }

    /// Ten milliseconds of everybody's life.
    fn step(&mut self) {
        self.now += 10;
        let due = self.mail.split_off(&(self.now + 1));
        let due = std::mem::replace(&mut self.mail, due);
        for (to, from, message) in due.into_values().flatten() {
            self.deliver(to, from, message);
        }
        if self.now.is_multiple_of(250) {
            self.look_at_links();
        }
        let time = self.time();
        for node in 0..self.nodes.len() {
            if self.nodes[node].as_ref().is_some_and(|machine| machine.deadline() <= time) {
                self.tell(node, Event::TimePassed);
            }
        }
    }

    fn look_at_links(&mut self) {
        for line in 0..self.links.len() {
            let (a, b) = self.links[line].ends;
            let alive = self.nodes[a].is_some() && self.nodes[b].is_some();
            let mute = self.links[line].mute_since.map(|since| self.now - since);
            if self.links[line].up && mute.is_some_and(|mute| mute >= DEAD_AFTER) {
                self.drop_link(line);
            } else if self.links[line].up {
                let silent = mute.is_some_and(|mute| mute >= SILENT_AFTER);
                let ago = Duration::from_millis(mute.unwrap_or(0));
                self.tell(a, Event::Heard { peer: id(b as u16), ago, silent });
                self.tell(b, Event::Heard { peer: id(a as u16), ago, silent });
            } else if alive && self.links[line].whole && mute.is_none() {
                self.links[line].up = true;
                self.tell(a, Event::LinkUp(id(b as u16)));
                self.tell(b, Event::LinkUp(id(a as u16)));
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.step();
        }
    }

    /// Demands that every living node sees exactly the living ones as active and others as failed.
    fn demand_truth(&self) {
        for (node, machine) in self.nodes.iter().enumerate() {
            let Some(machine) = machine else { continue };
            for (other, is_alive) in self.nodes.iter().map(Option::is_some).enumerate() {
                let expected = if is_alive { State::Active } else { State::Failed };
                let state = machine.state_of(&id(other as u16));
                assert_eq!(state, Some(expected), "{node} about {other} at {} ms", self.now);
            }
        }
    }

    fn demand_agreement(&mut self) {
        let digests: BTreeSet<u64> =
            self.nodes.iter_mut().flatten().map(Membership::digest).collect();
        assert_eq!(digests.len(), 1, "all have the same picture");
    }
}

fn number(id: &NodeId) -> usize {
    usize::from(u16::from_be_bytes([id.as_bytes()[0], id.as_bytes()[1]]))
}

#[test]
fn two_hundred_nodes_find_each_other_and_ten_kills_are_known_to_all_within_ten_seconds() {
    let mut crowd = Crowd::new(1, 200, 16);
    crowd.run(5000);
    crowd.demand_truth();
    crowd.demand_agreement();
    let killed: BTreeSet<usize> = (0..10).map(|_| crowd.chance(200) as usize).collect();
    killed.iter().for_each(|node| crowd.kill(*node));
    crowd.run(3000);
    for machine in crowd.nodes.iter().flatten() {
        for node in &killed {
            let state = machine.state_of(&id(*node as u16));
            assert!(state >= Some(State::Suspect), "{node}: {state:?} after 3 s");
        }
    }
    crowd.run(7000);
    crowd.demand_truth();
    killed.iter().for_each(|node| crowd.start(*node));
    crowd.run(8000);
    crowd.demand_truth();
    crowd.demand_agreement();
}

#[test]
fn links_that_lose_one_direction_make_nobody_fail() {
    for seed in 0..8 {
        let mut crowd = Crowd::new(seed, 60, 10);
        crowd.run(4000);
        for _ in 0..20 {
            // At most a fifth of the links at once: the rest keeps everybody in reach.
            for _ in 0..crowd.links.len() / 5 {
                let line = crowd.chance(crowd.links.len() as u64) as usize;
                crowd.links[line].mute_since.get_or_insert(crowd.now);
            }
            let wait = 1000 + crowd.chance(9000);
            crowd.run(wait);
            crowd.links.iter_mut().for_each(|line| line.mute_since = None);
            crowd.run(500);
        }
        assert_eq!(crowd.ever_failed, [], "seed {seed}");
        crowd.run(8000);
        crowd.demand_truth();
        crowd.demand_agreement();
    }
}

#[test]
fn halves_that_are_parted_take_each_other_for_failed_and_agree_again_after_it() {
    for seed in 0..4 {
        let mut crowd = Crowd::new(seed, 80, 12);
        crowd.run(4000);
        for line in 0..crowd.links.len() {
            let (a, b) = crowd.links[line].ends;
            if (a < 40) != (b < 40) {
                crowd.links[line].whole = false;
                if crowd.links[line].up {
                    crowd.drop_link(line);
                }
            }
        }
        crowd.run(60_000);
        for (node, machine) in crowd.nodes.iter().enumerate() {
            let machine = machine.as_ref().expect("nobody was killed");
            for other in 0..80 {
                let together = (node < 40) == (other < 40);
                let expected = if together { State::Active } else { State::Failed };
                assert_eq!(machine.state_of(&id(other)), Some(expected), "{node} about {other}");
            }
        }
        crowd.links.iter_mut().for_each(|line| line.whole = true);
        crowd.run(8000);
        crowd.demand_truth();
        crowd.demand_agreement();
    }
}

#[test]
fn storms_of_kills_and_restarts_settle() {
    for seed in 0..4 {
        let mut crowd = Crowd::new(seed, 50, 10);
        for _ in 0..100 {
            let node = crowd.chance(50) as usize;
            match crowd.nodes[node].is_some() {
                true => crowd.kill(node),
                false => crowd.start(node),
            }
            let wait = crowd.chance(1500);
            crowd.run(wait);
        }
        let dead: Vec<usize> = (0..50).filter(|node| crowd.nodes[*node].is_none()).collect();
        dead.into_iter().for_each(|node| crowd.start(node));
        crowd.run(20_000);
        crowd.demand_truth();
        crowd.demand_agreement();
    }
}
