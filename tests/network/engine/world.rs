//! One world of engines from its seed: a storm in which files are written, a large content that is
//! struck midway, and what is demanded once everything is healed.
//!
//! Time is the simulation's for whatever waits, and runs no faster than a bounded multiple of real
//! time: the threads of shares and the disk are real. It stands still while a task of the blocking pool
//! is at work. So no demand has a limit in simulated time; each is waited for as long as a failure alone
//! would take.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use highwater::{Config, Home};
use highwater_lab::dice::Dice;
use highwater_net::Identity;
use tempfile::TempDir;
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use super::PATIENCE;
use super::host::{Host, Orders, Seen, software};
use super::line::{Flow, Metered};
use super::plan::{Blow, Plan};
use super::truth::Truth;
use crate::plan::Fault;
use crate::record::Record;
use crate::sockets::Simulated;
use crate::weather::{self, Action, Deaths, name, timetable};

/// The step of the simulation.
const TICK_MS: u64 = 5;
/// What a step takes of real time at least: a thirtieth.
const STEP: Duration = Duration::from_micros(TICK_MS * 1000 / 30);
/// What a node takes in of a second when it is overtaxed.
const OVERTAXED: u64 = 40_000;
/// How long the nodes are watched in the end.
const WATCHED_MS: u64 = 3_000;
/// Beside contents, for each link: handshakes, logs, gossip, probes, and a chunk that was begun.
const BESIDES_BYTES: u64 = 320_000;
/// Frames, ciphers and manifests, in hundredths of the content.
const FRAMING_PERCENT: u64 = 1;
/// The smallest window: what may have been on its way when a line was held, and come again, or be asked of
/// two sources at once.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// What came of one world.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) told: Vec<String>,
    pub(crate) violations: Vec<String>,
    /// Blows by kind that fell while the content was on its way.
    pub(crate) blows: BTreeMap<Blow, u64>,
    /// Blows for which it was too late.
    pub(crate) missed: u64,
    /// After how many of them it went on above offset 0.
    pub(crate) resumed: u64,
    /// How often any transfer was taken up above offset 0.
    pub(crate) taken_up: usize,
    pub(crate) reconnects: u64,
    pub(crate) resent: u64,
    pub(crate) simulated_ms: u64,
}

/// What a node had taken in at some moment, and what of the contents that it lacked was not
/// acknowledged: all that may still cross.
#[derive(Clone, Copy, Debug)]
struct Owed {
    taken: u64,
    bytes: u64,
}

pub(crate) struct World<'a> {
    plan: &'a Plan,
    sim: Sim<'a>,
    hosts: Vec<Arc<Host>>,
    deaths: Deaths,
    truth: Truth,
    dice: Dice,
    record: Record,
    sockets: Simulated,
    outcome: Outcome,
    /// What was owed when all was healed last.
    owed: Vec<Owed>,
    /// Homes and folders; kept when something was wrong.
    dir: TempDir,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, plan: &'a Plan) -> Self {
        let (record, sockets) = (Record::default(), Simulated::default());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(Duration::from_millis(TICK_MS))
            .simulation_duration(Duration::from_secs(36_000))
            .min_message_latency(Duration::from_millis(plan.latency_ms.0))
            .max_message_latency(Duration::from_millis(plan.latency_ms.1))
            .tcp_capacity(plan.segments)
            .build();
        let homes: Vec<(Home, String)> = (0..plan.nodes).map(|node| home(&dir, node)).collect();
        let mut hosts = Vec::new();
        for index in 0..plan.nodes {
            let folder = dir.path().join(name(index)).join("docs");
            fs::create_dir_all(&folder).expect("a disk with room");
            let flow = Arc::new(Flow { rate: plan.rate.into(), ..Flow::default() });
            let host = Arc::new(Host {
                index,
                home: homes[usize::from(index)].0.clone(),
                config: config(plan, index, &homes, &folder),
                folder,
                sockets: Arc::new(Metered { inner: sockets.clone(), flow }),
                orders: watch::Sender::new(Orders::default()),
                record: record.clone(),
                seen: Seen::default().into(),
            });
            hosts.push(Arc::clone(&host));
            sim.host(name(index), move || software(Arc::clone(&host)));
        }
        let (deaths, dice) = (Deaths::none_of(hosts.len()), Dice::new(!seed));
        let (truth, outcome) = (Truth::default(), Outcome::default());
        Self {
            plan,
            sim,
            hosts,
            deaths,
            truth,
            dice,
            record,
            sockets,
            outcome,
            owed: Vec::new(),
            dir,
        }
    }

    /// Plays the world to its end.
    pub(crate) fn play(mut self) -> Outcome {
        self.storm();
        self.calm();
        let large = self.write_large();
        self.note_what_is_owed();
        for &(blow, ms) in &self.plan.blows {
            self.strike(&large, blow, ms);
        }
        if self.until(|world| world.is_settled()) {
            self.demand_that_nothing_came_twice();
            self.run(WATCHED_MS);
            self.demand_rest();
        } else {
            self.tell_what_is_missing();
        }
        self.demand_an_end();
        self.sum_up()
    }

    /// Plays one large content without any fault. Besides, the most bytes that were sent and not yet
    /// acknowledged at any moment.
    pub(crate) fn play_undisturbed(mut self) -> (Outcome, u64) {
        let (writer, size) = self.plan.large;
        self.until(|world| world.is_settled());
        let sent = |world: &Self| world.host(writer).sockets.flow.sent.load(SeqCst);
        let before = sent(&self);
        let (large, most) = (self.write_large(), Cell::new(0));
        self.note_what_is_owed();
        let arrived = self.until(|world| {
            let acked = world.host(1 - writer).acked(&large, size);
            most.set((sent(world) - before).saturating_sub(acked).max(most.get()));
            world.is_settled()
        });
        if arrived {
            self.demand_that_nothing_came_twice();
        } else {
            self.tell_what_is_missing();
        }
        self.demand_an_end();
        (self.sum_up(), most.get())
    }

    /// Faults fall, and files are written, as the plan says.
    fn storm(&mut self) {
        let mut actions = timetable(&self.plan.faults).into_iter().peekable();
        let mut writes = self.plan.writes.iter().copied().peekable();
        while self.elapsed() < self.plan.storm_ms {
            let now = self.elapsed();
            while let Some((_, action)) = actions.next_if(|(at, _)| *at <= now) {
                self.act(action);
            }
            while let Some((_, node)) = writes.next_if(|(at, _)| *at <= now) {
                let (folder, aside) = (self.folder(node), self.aside());
                let what = self.truth.change(&folder, &aside, &mut self.dice);
                self.tell(format!("node {node} {what}"));
            }
            self.step();
        }
    }

    fn act(&mut self, action: Action) {
        self.tell(format!("{action:?}"));
        match action {
            Action::Begin(Fault::Crash { node, silent, .. }) => self.crash(node, silent),
            Action::End(Fault::Crash { node, .. }) => self.bounce(node),
            Action::Begin(Fault::Restart { node }) => self.restart(node),
            Action::Begin(Fault::Stall { node, .. }) => self.set_rate(node, OVERTAXED),
            Action::End(Fault::Stall { node, .. }) => self.set_rate(node, self.plan.rate),
            line => weather::act(&self.sim, line, self.plan.latency_ms),
        }
    }

    /// Everything is healed.
    fn calm(&mut self) {
        self.tell("all is healed".to_owned());
        for pair in self.plan.pairs() {
            weather::calm(&self.sim, pair, self.plan.latency_ms);
        }
        for node in 0..self.plan.nodes {
            self.bounce(node);
            self.set_rate(node, self.plan.rate);
        }
    }

    fn write_large(&mut self) -> String {
        let (node, size) = self.plan.large;
        let (folder, aside) = (self.folder(node), self.aside());
        let what = self.truth.write(&folder, &aside, size, &mut self.dice);
        self.tell(format!("node {node} {what}"));
        self.truth.last_path().cloned().unwrap_or_default()
    }

    /// Waits until the large content is midway to somebody, lets something happen, and heals it.
    fn strike(&mut self, large: &str, blow: Blow, ms: u64) {
        let (writer, size) = self.plan.large;
        let receivers: Vec<u8> = (0..self.plan.nodes).filter(|node| *node != writer).collect();
        let midway = |world: &Self, node: u8| {
            let acked = world.host(node).acked(large, size);
            acked > size / 16 && acked < size / 8 * 7
        };
        let arrived = |world: &Self| {
            receivers.iter().all(|node| world.truth.stands_in(&world.folder(*node), large))
        };
        let begun =
            self.until(|world| receivers.iter().any(|node| midway(world, *node)) || arrived(world));
        let struck = receivers.iter().copied().find(|node| midway(self, *node));
        let Some(node) = struck.filter(|_| begun) else {
            self.outcome.missed += 1;
            return;
        };
        let acked = self.host(node).acked(large, size);
        let known = self.host(node).seen().resumed.len();
        self.tell(format!("{blow:?} at node {node}, {acked} of {size} bytes there"));
        self.begin_blow(blow, node);
        self.run(ms);
        self.calm();
        self.note_what_is_owed();
        *self.outcome.blows.entry(blow).or_default() += 1;
        self.demand_that_it_goes_on(large, node, acked, known);
    }

    fn begin_blow(&mut self, blow: Blow, node: u8) {
        let others = (0..self.plan.nodes).filter(|other| *other != node);
        match blow {
            Blow::CutOff => others.for_each(|other| self.sim.partition(name(node), name(other))),
            Blow::Deaf => {
                others.for_each(|other| self.sim.partition_oneway(name(other), name(node)));
            }
            Blow::Mute => {
                others.for_each(|other| self.sim.partition_oneway(name(node), name(other)));
            }
            Blow::Held => others.for_each(|other| self.sim.hold(name(node), name(other))),
            Blow::ReceiverKilled => self.crash(node, self.plan.large.1.is_multiple_of(2)),
            Blow::SenderKilled => {
                self.crash(self.plan.large.0, self.plan.large.1.is_multiple_of(2))
            }
            Blow::ReceiverRestarted => self.restart(node),
            Blow::Overtaxed => self.set_rate(node, OVERTAXED),
        }
    }

    /// The transfer comes nearer to its end, and where it was taken up again that was at what had been
    /// acknowledged, or later. `known`: how often something had been taken up before.
    fn demand_that_it_goes_on(&mut self, large: &str, node: u8, acked: u64, known: usize) {
        let size = self.plan.large.1;
        let reached = self.host(node).acked(large, size);
        let on = self.until(|world| {
            let arrived = || world.truth.stands_in(&world.folder(node), large);
            world.host(node).acked(large, size) > reached || arrived()
        });
        if !on {
            self.violation(format!("the transfer to node {node} does not go on at {reached}"));
        }
        let resumed = self.host(node).seen().resumed[known..].to_vec();
        for (_, offset) in resumed.iter().filter(|(key, _)| key == large) {
            self.outcome.resumed += 1;
            if *offset < acked {
                self.violation(format!("{acked} bytes were acknowledged, it goes on at {offset}"));
            }
        }
    }

    fn note_what_is_owed(&mut self) {
        let missing = |host: &Host| {
            let missing =
                self.truth.files.iter().map(|(path, content)| (path, content.len() as u64));
            let missing = missing.filter(|(path, _)| !self.truth.stands_in(&host.folder, path));
            missing.map(|(path, size)| size - host.acked(path, size)).sum()
        };
        let owed = |host: &Arc<Host>| Owed {
            taken: host.sockets.flow.taken.load(SeqCst),
            bytes: missing(host),
        };
        self.owed = self.hosts.iter().map(owed).collect();
    }

    /// Since all was healed no node has taken in more than what was owed.
    fn demand_that_nothing_came_twice(&mut self) {
        let others = u64::from(self.plan.nodes) - 1;
        for node in 0..self.plan.nodes {
            let Owed { taken, bytes } = self.owed[usize::from(node)];
            let taken = self.host(node).sockets.flow.taken.load(SeqCst) - taken;
            let allowed =
                bytes + bytes * FRAMING_PERCENT / 100 + others * (BESIDES_BYTES + WINDOW_BYTES);
            self.tell(format!("node {node} took in {taken} bytes for {bytes}"));
            if taken > allowed {
                self.violation(format!(
                    "node {node} took in {taken} bytes where {bytes} were owed"
                ));
            }
        }
    }

    /// Whether all say that they agree, and every folder is as it was written.
    fn is_settled(&self) -> bool {
        self.hosts.iter().all(|host| host.seen().in_sync)
            && self.hosts.iter().all(|host| self.truth.differences(&host.folder).is_empty())
    }

    /// It stays so; nobody has a conflict or a problem, and nobody was sent falsified bytes.
    fn demand_rest(&mut self) {
        self.tell_what_is_missing();
        for host in self.hosts.clone() {
            let seen = host.seen().clone();
            let (index, Seen { conflicts, problems, mismatches, .. }) = (host.index, seen);
            if conflicts > 0 || mismatches > 0 || !problems.is_empty() {
                let what = format!("{conflicts} conflicts, {mismatches} mismatches, {problems:?}");
                self.violation(format!("node {index} has {what}"));
            }
        }
    }

    fn tell_what_is_missing(&mut self) {
        for host in self.hosts.clone() {
            let (index, seen) = (host.index, host.seen().clone());
            for what in self.truth.differences(&host.folder).iter().take(5) {
                self.violation(format!("node {index}: {what}"));
            }
            if !seen.in_sync {
                self.violation(format!("node {index} is not in sync: {seen:?}"));
            }
        }
    }

    /// Everybody ends, and no connection is left.
    fn demand_an_end(&mut self) {
        self.hosts.iter().for_each(|host| host.orders.send_modify(|orders| orders.stop = true));
        if !self.until(|world| world.hosts.iter().all(|host| host.seen().ended)) {
            self.violation("a node would not end".to_owned());
        }
        let open = self.sockets.open.load(SeqCst);
        if open > 0 {
            self.violation(format!("{open} ends of connections are left"));
        }
    }

    fn sum_up(mut self) -> Outcome {
        let mut outcome = std::mem::take(&mut self.outcome);
        for host in &self.hosts {
            let seen = host.seen();
            outcome.taken_up += seen.resumed.len();
            outcome.reconnects += seen.reconnects;
            outcome.resent += seen.resent;
        }
        outcome.simulated_ms = self.elapsed();
        let state = self.record.state();
        outcome.told = state.told.iter().map(|(at, what)| format!("{at:>6} {what}")).collect();
        outcome.violations.extend(state.violations.iter().cloned());
        if !outcome.violations.is_empty() {
            self.dir.disable_cleanup(true);
            outcome.told.push(format!("homes and folders: {}", self.dir.path().display()));
        }
        drop(state);
        outcome
    }

    fn crash(&mut self, node: u8, silent: bool) {
        if self.deaths.crash(&mut self.sim, node, silent) {
            self.host(node).seen().in_sync = false;
        }
    }

    fn bounce(&mut self, node: u8) {
        self.deaths.bounce(&mut self.sim, node);
    }

    fn restart(&mut self, node: u8) {
        self.host(node).orders.send_modify(|orders| orders.restarts += 1);
    }

    fn set_rate(&self, node: u8, rate: u64) {
        self.host(node).sockets.flow.rate.store(rate, SeqCst);
    }

    /// Steps until that is so. False when it is not after a time that only a failure takes.
    fn until(&mut self, reached: impl Fn(&Self) -> bool) -> bool {
        let begun = Instant::now();
        while !reached(self) {
            if begun.elapsed() > PATIENCE {
                return false;
            }
            self.run(50);
        }
        true
    }

    fn run(&mut self, ms: u64) {
        let end = self.elapsed() + ms;
        while self.elapsed() < end {
            self.step();
        }
    }

    fn step(&mut self) {
        let begun = Instant::now();
        self.sim.step().expect("the software of a host does not end");
        std::thread::sleep(STEP.saturating_sub(begun.elapsed()));
    }

    fn elapsed(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    fn host(&self, node: u8) -> &Host {
        &self.hosts[usize::from(node)]
    }

    fn folder(&self, node: u8) -> std::path::PathBuf {
        self.host(node).folder.clone()
    }

    fn aside(&self) -> std::path::PathBuf {
        self.dir.path().join("aside")
    }

    fn tell(&self, what: String) {
        let at = self.elapsed();
        self.record.state().told.push((at, what));
    }

    fn violation(&self, what: String) {
        let at = self.elapsed();
        self.record.state().violations.push(format!("{at} ms: {what}"));
    }
}

/// A home with a new identity, and its id.
fn home(dir: &TempDir, node: u8) -> (Home, String) {
    let home = Home::at(dir.path().join(name(node)).join("home"));
    home.create().expect("a disk with room");
    let identity = Identity::create(&home.identity_dir()).expect("an identity");
    (home, identity.node_id().to_string())
}

/// A configuration as an owner would write it.
fn config(plan: &Plan, node: u8, homes: &[(Home, String)], folder: &std::path::Path) -> Config {
    let mut text = format!(
        "[node]\nname = \"{}\"\nuser = \"alice\"\n[[share]]\nname = \"docs\"\npath = {folder:?}\n",
        name(node)
    );
    for peer in (0..plan.nodes).filter(|peer| *peer != node) {
        let id = &homes[usize::from(peer)].1;
        text += &format!("[[peer]]\nid = \"{id}\"\nshares = [\"docs\"]\n");
        if plan.dials.contains(&(node, peer)) {
            text += &format!("addr = \"{}:7420\"\n", name(peer));
        }
    }
    Config::parse(&text, "config.toml".as_ref(), []).expect("a good configuration")
}
