//! One simulated world from its seed: nodes that are linked pair by pair, faults while anything may
//! break, then healing, and what is demanded after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Duration;

use highwater_core::NodeId;
use highwater_net::{Identity, PeerAddress};
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use crate::node::{Node, Orders, software};
use crate::plan::{Fault, Plan};
use crate::record::{EndId, Record, Stream};
use crate::sockets::Simulated;
use crate::weather::{self, Action, Deaths, name, timetable};

/// The step of the simulation: what is sent arrives that much later at least.
const TICK_MS: u64 = 5;
/// From healing until every pair is linked. A dead link that only one side can dial anew is found by
/// the other after 15 s.
const LINKED_WITHIN_MS: u64 = 20_000;
/// Where no link was left when the line came back, nothing has to be found out first.
const DIALLED_WITHIN_MS: u64 = 2_500;
/// How long the links are then watched: none may end, none may come.
const WATCHED_MS: u64 = 6_000;
/// From the last word until it has arrived everywhere.
const DRAINED_MS: u64 = 4_000;
/// From the order to stop until nothing is left.
const STOPPED_WITHIN_MS: u64 = 12_000;

/// Keys for simulated nodes, made once and in the order of their ids.
pub(crate) struct Homes {
    homes: Vec<(NodeId, tempfile::TempDir)>,
}

impl Homes {
    pub(crate) fn new(count: usize) -> Self {
        let home = || {
            let dir = tempfile::tempdir().expect("a temporary directory");
            (Identity::create(dir.path()).expect("an identity").node_id(), dir)
        };
        let mut homes: Vec<_> = (0..count).map(|_| home()).collect();
        homes.sort_by_key(|(id, _)| *id);
        Self { homes }
    }
}

/// What came of one world.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Link events and faults, by time.
    pub(crate) told: Vec<String>,
    pub(crate) violations: Vec<String>,
    /// From healing until every pair was linked.
    pub(crate) linked_after_ms: u64,
    pub(crate) links: usize,
    pub(crate) messages: u64,
    /// Whether a fault ended a link at all; without that the world shows little.
    pub(crate) broke: bool,
}

pub(crate) struct World<'a> {
    plan: &'a Plan,
    sim: Sim<'a>,
    nodes: Vec<Arc<Node>>,
    deaths: Deaths,
    record: Record,
    sockets: Simulated,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, plan: &'a Plan, homes: &Homes) -> Self {
        let (record, sockets) = (Record::default(), Simulated::default());
        let mut sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(Duration::from_millis(TICK_MS))
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(Duration::from_millis(plan.latency_ms.0))
            .max_message_latency(Duration::from_millis(plan.latency_ms.1))
            .tcp_capacity(256)
            .build();
        let ids: Vec<NodeId> = homes.homes.iter().map(|(id, _)| *id).collect();
        let mut nodes = Vec::new();
        for index in 0..plan.nodes {
            let peers = (0..plan.nodes).filter(|peer| *peer != index).map(|peer| PeerAddress {
                id: ids[usize::from(peer)],
                addr: plan.dials.contains(&(index, peer)).then(|| format!("{}:7420", name(peer))),
            });
            let node = Arc::new(Node {
                index,
                seed,
                home: homes.homes[usize::from(index)].1.path().to_owned(),
                ids: ids.clone(),
                peers: peers.collect(),
                pause_ms: plan.pause_ms,
                bytes_max: plan.bytes_max,
                orders: watch::Sender::new(Orders::default()),
                runs: AtomicU8::new(0),
                record: record.clone(),
                sockets: sockets.clone(),
            });
            nodes.push(node.clone());
            sim.host(name(index), move || software(node.clone()));
        }
        let deaths = Deaths::none_of(nodes.len());
        Self { plan, sim, nodes, deaths, record, sockets }
    }

    /// Plays the world to its end.
    pub(crate) fn play(mut self) -> Outcome {
        self.break_things();
        let mut outcome = Outcome { broke: self.anything_broke(), ..Outcome::default() };
        let all_gone = self.plan.pairs().all(|pair| !self.half_linked(pair));
        let healed = self.elapsed();
        self.heal();
        let within = if all_gone { DIALLED_WITHIN_MS } else { LINKED_WITHIN_MS };
        let before: BTreeMap<EndId, u64> =
            self.heard().into_iter().map(|(end, control, _)| (end, control)).collect();
        let linked = self.until(within, |world| {
            world.plan.pairs().all(|pair| world.linked(pair)) && world.all_heard_since(&before)
        });
        outcome.linked_after_ms = self.elapsed() - healed;
        if linked {
            self.demand_rest();
            self.demand_that_all_arrives();
        } else {
            let missing: Vec<_> = self.plan.pairs().filter(|pair| !self.linked(*pair)).collect();
            self.violation(format!("not linked after {within} ms: {missing:?}"));
        }
        self.demand_an_end();
        self.sum_up(&mut outcome);
        outcome
    }

    fn break_things(&mut self) {
        let mut actions = timetable(&self.plan.faults).into_iter().peekable();
        while self.elapsed() < self.plan.healed_ms {
            let now = self.elapsed();
            while let Some((_, action)) = actions.next_if(|(at, _)| *at <= now) {
                self.act(action);
            }
            self.step();
        }
    }

    fn act(&mut self, action: Action) {
        let at = self.elapsed();
        self.record.state().told.push((at, format!("{action:?}")));
        match action {
            Action::Begin(Fault::Crash { node, silent, .. }) => self.crash(node, silent),
            Action::End(Fault::Crash { node, .. }) => self.bounce(node),
            Action::Begin(Fault::Restart { node }) => {
                self.order(node, |orders| orders.restarts += 1);
            }
            Action::Begin(Fault::Stall { node, .. }) => {
                self.order(node, |orders| orders.stalled = true);
            }
            Action::End(Fault::Stall { node, .. }) => {
                self.order(node, |orders| orders.stalled = false);
            }
            line => weather::act(&self.sim, line, self.plan.latency_ms),
        }
    }

    fn crash(&mut self, node: u8, silent: bool) {
        if self.deaths.crash(&mut self.sim, node, silent) {
            self.record.crashed(node);
        }
    }

    fn bounce(&mut self, node: u8) {
        self.deaths.bounce(&mut self.sim, node);
    }

    fn order(&self, node: u8, change: impl FnOnce(&mut Orders)) {
        self.nodes[usize::from(node)].orders.send_modify(change);
    }

    fn heal(&mut self) {
        for (a, b) in self.plan.pairs().collect::<Vec<_>>() {
            weather::calm(&self.sim, (a, b), self.plan.latency_ms);
        }
        for node in 0..self.plan.nodes {
            self.bounce(node);
            self.order(node, |orders| orders.stalled = false);
        }
    }

    /// Links are up and stay: no link ends and none comes while nothing breaks, every stream goes on,
    /// and there is one connection for each pair.
    fn demand_rest(&mut self) {
        self.run(DRAINED_MS);
        let begun = self.elapsed();
        let before = self.heard();
        self.run(WATCHED_MS);
        let late: Vec<String> = {
            let state = self.record.state();
            let late = state.told.iter().filter(|(at, _)| *at > begun);
            late.map(|(at, what)| format!("{at} ms: {what}")).collect()
        };
        for what in late {
            self.violation(format!("long after healing: {what}"));
        }
        for (after, before) in self.heard().iter().zip(&before) {
            if after.1 <= before.1 || after.2 <= before.2 {
                self.violation(format!("nothing new is heard at {before:?}"));
            }
        }
        let (open, expected) = (self.sockets.open.load(SeqCst), 2 * self.plan.pairs().count());
        if open != expected {
            self.violation(format!("{open} ends of connections are open, not {expected}"));
        }
    }

    /// What each live end has heard.
    fn heard(&self) -> Vec<(EndId, u64, u64)> {
        let state = self.record.state();
        let count =
            |end, stream| state.ends[&end].received.get(&stream).copied().unwrap_or_default();
        let ends = state.current.values();
        ends.map(|&end| (end, count(end, Stream::Control), count(end, Stream::Content))).collect()
    }

    /// Whether every live end has heard more than it had.
    fn all_heard_since(&self, before: &BTreeMap<EndId, u64>) -> bool {
        self.heard()
            .iter()
            .all(|(end, control, _)| *control > before.get(end).copied().unwrap_or_default())
    }

    /// Once nobody says anything new, all that was said has been heard.
    fn demand_that_all_arrives(&mut self) {
        (0..self.plan.nodes).for_each(|node| self.order(node, |orders| orders.hushed = true));
        self.run(DRAINED_MS);
        let mut missing = Vec::new();
        {
            let state = self.record.state();
            for end in state.current.values().map(|id| &state.ends[id]) {
                let other = end.other.and_then(|other| state.ends.get(&other));
                if other.is_none_or(|other| other.received != end.sent) {
                    missing.push(format!("sent {:?}, heard of it {other:?}", end.sent));
                }
            }
        }
        missing.into_iter().for_each(|what| self.violation(what));
    }

    /// Everybody ends, and nothing is left: no task, no connection.
    fn demand_an_end(&mut self) {
        (0..self.plan.nodes).for_each(|node| {
            self.order(node, |orders| {
                orders.hushed = false;
                orders.stop = true;
            });
        });
        let nodes = usize::from(self.plan.nodes);
        let ended = |world: &Self| world.record.state().left_over.len() == nodes;
        if !self.until(STOPPED_WITHIN_MS, ended) {
            self.violation("a node would not end".to_owned());
        }
        let left_over: Vec<_> = self.record.state().left_over.clone().into_iter().collect();
        for (node, tasks) in left_over.into_iter().filter(|(_, tasks)| *tasks > 0) {
            self.violation(format!("node {node} left {tasks} tasks"));
        }
        let open = self.sockets.open.load(SeqCst);
        if open > 0 {
            self.violation(format!("{open} ends of connections are left"));
        }
    }

    fn sum_up(&self, outcome: &mut Outcome) {
        let state = self.record.state();
        // Each way is reckoned from the beginning of the step in which something is said, and the whole
        // is told in whole milliseconds.
        let round_trip = (2 * self.plan.latency_ms.0).saturating_sub(2 * TICK_MS + 1);
        if let Some((min, _)) = state.round_trips.iter().find(|(min, _)| *min < round_trip) {
            let what = format!("a round trip of {min} ms on a line of {round_trip} ms");
            outcome.violations.push(what);
        }
        outcome.links = state.ends.len();
        let counts = state.ends.values().flat_map(|end| end.received.values());
        outcome.messages = counts.sum();
        outcome.told = state.told.iter().map(|(at, what)| format!("{at:>6} {what}")).collect();
        outcome.violations.extend(state.violations.iter().cloned());
    }

    fn anything_broke(&self) -> bool {
        self.record.state().told.iter().any(|(_, what)| what.contains(" lost "))
    }

    /// Whether one side still believes in a link.
    fn half_linked(&self, (a, b): (u8, u8)) -> bool {
        let state = self.record.state();
        state.current.contains_key(&(a, b)) || state.current.contains_key(&(b, a))
    }

    /// Whether each side has one link with the other, they are the two ends of one, and both hear.
    fn linked(&self, (a, b): (u8, u8)) -> bool {
        let state = self.record.state();
        let ends = (state.current.get(&(a, b)), state.current.get(&(b, a)));
        let (Some(at_a), Some(at_b)) = ends else { return false };
        state.ends[at_a].other == Some(*at_b) && state.ends[at_b].other == Some(*at_a)
    }

    fn until(&mut self, within_ms: u64, reached: impl Fn(&Self) -> bool) -> bool {
        let deadline = self.elapsed() + within_ms;
        while !reached(self) {
            if self.elapsed() >= deadline {
                return false;
            }
            self.step();
        }
        true
    }

    fn run(&mut self, ms: u64) {
        self.until(ms, |_| false);
    }

    fn step(&mut self) {
        self.sim.step().expect("the software of a host does not end");
    }

    fn elapsed(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    fn violation(&self, what: String) {
        let at = self.elapsed();
        self.record.state().violations.push(format!("{at} ms: {what}"));
    }
}
