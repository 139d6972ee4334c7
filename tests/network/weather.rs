//! Faults of lines and deaths of nodes, as the simulated network is told of them. What else befalls
//! nodes is their world's.

use std::time::Duration;

use turmoil::Sim;

use crate::plan::Fault;

/// What the faults come to, step by step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Begin(Fault),
    End(Fault),
}

/// Which nodes are dead.
#[derive(Debug)]
pub(crate) struct Deaths(Vec<bool>);

impl Deaths {
    /// All of so many nodes live.
    pub(crate) fn none_of(nodes: usize) -> Self {
        Self(vec![false; nodes])
    }

    /// Ends a node at once, and with `silent` so that nobody gets a last word of it. Whether it lived.
    pub(crate) fn crash(&mut self, sim: &mut Sim<'_>, node: u8, silent: bool) -> bool {
        if std::mem::replace(&mut self.0[usize::from(node)], true) {
            return false;
        }
        let others = (0..self.0.len()).filter(|other| *other != usize::from(node));
        let others: Vec<u8> = others.filter_map(|other| u8::try_from(other).ok()).collect();
        if silent {
            others.iter().for_each(|other| sim.partition(name(node), name(*other)));
        }
        sim.crash(name(node));
        if silent {
            others.iter().for_each(|other| sim.repair(name(node), name(*other)));
        }
        true
    }

    /// Starts a node again that is dead.
    pub(crate) fn bounce(&mut self, sim: &mut Sim<'_>, node: u8) {
        if std::mem::take(&mut self.0[usize::from(node)]) {
            sim.bounce(name(node));
        }
    }
}

/// When what begins and ends.
pub(crate) fn timetable(faults: &[(u64, Fault)]) -> Vec<(u64, Action)> {
    let mut actions: Vec<(u64, Action)> = Vec::new();
    for &(at, fault) in faults {
        if let Fault::Flap { a, b, every_ms, ms } = fault {
            for begin in (at..at + ms).step_by(2 * every_ms as usize) {
                let broken = Fault::Partition { a, b, ms: every_ms };
                actions.push((begin, Action::Begin(broken)));
                actions.push((begin + every_ms, Action::End(broken)));
            }
        } else {
            actions.push((at, Action::Begin(fault)));
            actions.push((at + lasts(fault), Action::End(fault)));
        }
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}

/// Carries out what is done to a line.
pub(crate) fn act(sim: &Sim<'_>, action: Action, latency_ms: (u64, u64)) {
    match action {
        Action::Begin(Fault::Partition { a, b, .. }) => sim.partition(name(a), name(b)),
        Action::End(Fault::Partition { a, b, .. }) => sim.repair(name(a), name(b)),
        Action::Begin(Fault::OneWay { from, to, .. }) => {
            sim.partition_oneway(name(from), name(to));
        }
        Action::End(Fault::OneWay { from, to, .. }) => sim.repair_oneway(name(from), name(to)),
        Action::Begin(Fault::Hold { a, b, .. }) => sim.hold(name(a), name(b)),
        Action::End(Fault::Hold { a, b, .. }) => sim.release(name(a), name(b)),
        Action::Begin(Fault::Slow { a, b, latency_ms, .. }) => {
            sim.set_link_latency(name(a), name(b), Duration::from_millis(latency_ms));
        }
        Action::End(Fault::Slow { a, b, .. }) => usual_latency(sim, (a, b), latency_ms),
        Action::Begin(_) | Action::End(_) => {}
    }
}

/// The line between two nodes is as it was in the beginning.
pub(crate) fn calm(sim: &Sim<'_>, (a, b): (u8, u8), latency_ms: (u64, u64)) {
    sim.repair(name(a), name(b));
    sim.release(name(a), name(b));
    usual_latency(sim, (a, b), latency_ms);
}

fn usual_latency(sim: &Sim<'_>, (a, b): (u8, u8), (least, most): (u64, u64)) {
    sim.set_link_latency(name(a), name(b), Duration::from_millis(least));
    sim.set_link_max_message_latency(name(a), name(b), Duration::from_millis(most));
}

/// A node's name in the simulated network.
pub(crate) fn name(node: u8) -> String {
    format!("node{node}")
}

fn lasts(fault: Fault) -> u64 {
    match fault {
        Fault::Partition { ms, .. }
        | Fault::OneWay { ms, .. }
        | Fault::Hold { ms, .. }
        | Fault::Flap { ms, .. }
        | Fault::Slow { ms, .. }
        | Fault::Crash { ms, .. }
        | Fault::Stall { ms, .. } => ms,
        Fault::Restart { .. } => 0,
    }
}
