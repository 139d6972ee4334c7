//! A whole cluster, played through in one thread.
//!
//! The nodes are real: the thread of a share with all its decisions, on the real store code. What
//! is played is what they stand on (`crew.rs`): a clock that jumps from event to event, folders
//! (`disk.rs`, `folder.rs`) and a database in memory that lose what was not synced, and share a fuse
//! (`highwater_store::fuse`) that lets them fail between any two steps, links
//! (`network.rs`) that delay and break, and the carrying of content (`fetch.rs`). A story
//! (`story.rs`) says what users do and what goes wrong; it is drawn from a seed, so a failure is a
//! number. First anything may break, and nothing may be lost; then all is mended, and the cluster
//! must agree and fall silent. A judge (`judge.rs`) keeps books of its own.
//!
//! Source of the form: TigerBeetle's simulator (VOPR), and Dropbox's Trinity ("Testing sync at
//! Dropbox", 2020).

#[cfg(test)]
mod by_hand;
mod cast;
mod chance;
mod clock;
mod crew;
mod disk;
mod fetch;
mod folder;
mod judge;
mod network;
mod node;
mod scan;
mod story;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_core::merge::is_conflict_key;

pub use story::Story;

use crate::report::ShareState;
use crate::share::actor::Turn;
use crate::share::{Command, Event};
use story::{Action, SECOND, TROUBLE};
use world::World;

/// How long a mended cluster may take to agree: every blind watcher's change waits for a scan, and
/// the slowest links take seconds a message.
const AGREEMENT_MAX: u64 = 300 * SECOND;
/// How long nothing may happen then.
const SILENCE: u64 = 60 * SECOND;
/// How often a mended cluster is looked at.
const LOOK_EVERY: u64 = SECOND;

/// What must come up, and in how many stories at the latest, or they do not try what they say: keys of
/// [`Outcome::counts`].
pub const RARE: [(&str, u64); 10] = [
    ("conflict copies", 100),
    ("files torn by a power cut", 10_000),
    ("histories begun anew", 100),
    ("links broken", 100),
    ("mass deletes held back", 1_000),
    ("pauses on a full disk", 1_000),
    ("power cuts", 100),
    ("restores", 100),
    ("resumed at an offset above 0", 100),
    ("stores lost", 100),
];

/// Those of [`RARE`] that are not among the counts of so many stories, and had to be.
pub fn never_came_up(counts: &BTreeMap<&'static str, u64>, stories: u64) -> Vec<&'static str> {
    let due = RARE.into_iter().filter(|(_, from)| stories >= *from).map(|(what, _)| what);
    due.filter(|what| counts.get(what).is_none_or(|times| *times == 0)).collect()
}

/// How a story went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which rule was broken, if one was.
    pub violation: Option<String>,
    /// One number for all that happened: equal stories give equal numbers.
    pub digest: u64,
    /// How often rare things happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Events played.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// What happened, if it was asked for.
    pub lines: Vec<String>,
}

/// Plays a story. `with_lines` takes down every event in words, which is slow.
pub fn play(story: &Story, with_lines: bool) -> Outcome {
    let mut world = World::new(story, with_lines);
    if world.play_until(TROUBLE).is_continue() {
        world.mend_everything();
        world.await_agreement();
    }
    world.count_copies();
    if with_lines {
        let description = world.describe();
        world.judge.lines.get_or_insert_default().extend(description);
    }
    Outcome {
        violation: world.judge.violation.take(),
        digest: world.judge.digest,
        counts: std::mem::take(&mut world.judge.counts),
        events: world.judge.events,
        simulated: Duration::from_micros(world.now()),
        lines: world.judge.lines.take().unwrap_or_default(),
    }
}

/// Drops from a story that breaks a rule whatever it can do without and still break that rule:
/// halves, then quarters, down to single events.
pub fn shrink(story: &Story) -> Story {
    let mut story = story.clone();
    let rule = rule_of(&play(&story, false));
    let mut piece = story.length().div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < story.length() {
            let shorter = story.without(from, from + piece);
            if rule_of(&play(&shorter, false)) == rule {
                story = shorter;
            } else {
                from += piece;
            }
        }
        piece /= 2;
    }
    story
}

/// The name of the rule that was broken.
fn rule_of(outcome: &Outcome) -> Option<String> {
    let (_, what) = outcome.violation.as_ref()?.split_once(": ")?;
    what.split_once(':').map(|(rule, _)| rule.to_owned())
}

impl World {
    /// Ends all trouble, as people would: links, disks and clocks work, every node runs.
    fn mend_everything(&mut self) {
        self.healed = true;
        for node in 0..self.nodes.len() {
            for action in [Action::Return(node), Action::Room(node), Action::Clock(node, 0)] {
                self.act_out(action);
            }
            self.nodes[node].memory.set_fault(None);
            let stopped = self.nodes[node].life.as_ref();
            if stopped.is_some_and(|life| life.store.check_working().is_err()) {
                self.judge.count("stores that stopped after a failed sync", 1);
                self.act_out(Action::Stop(node));
            }
            self.act_out(Action::Start(node));
        }
        for (a, b) in self.pairs.clone() {
            self.act_out(Action::Mend(a, b));
        }
    }

    fn await_agreement(&mut self) {
        let deadline = self.now() + AGREEMENT_MAX;
        let mut agreed_since = None;
        loop {
            if self.play_until(self.now() + LOOK_EVERY).is_break() {
                return;
            }
            self.answer_held_deletes();
            let heads = self.heads_in_sync();
            let wrong = match &heads {
                Err(why) => Some(why.clone()),
                Ok(_) => self.judge.judge(&self.nodes),
            };
            match (wrong, heads) {
                (None, Ok(heads)) => {
                    let (since, then) =
                        agreed_since.get_or_insert_with(|| (self.now(), heads.clone()));
                    if *then != heads {
                        agreed_since = Some((self.now(), heads));
                    } else if self.now() - *since >= SILENCE {
                        return;
                    }
                }
                (Some(why), _) if self.now() > deadline => {
                    let time = self.now();
                    self.judge.broken(time, &why);
                    return;
                }
                (Some(_), _) | (None, Err(_)) => agreed_since = None,
            }
            if self.now() > deadline + 2 * SILENCE {
                let time = self.now();
                self.judge.broken(time, "L2: it agrees and does not fall silent");
                return;
            }
        }
    }

    /// The heads of all logs, if every node says that it is in sync with everybody.
    fn heads_in_sync(&self) -> Result<Vec<u64>, String> {
        let mut heads = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let life = node.life.as_ref().ok_or_else(|| format!("L8: node {number} is down"))?;
            let status = life.actor.snapshot();
            if status.state != ShareState::Idle || status.peers.iter().any(|peer| !peer.in_sync) {
                return Err(format!(
                    "L1: node {number} is not in sync: {:?}, needed {:?}, {:?}",
                    status.state, status.needed, status.problems
                ));
            }
            heads.push(status.head_seq.0);
        }
        Ok(heads)
    }

    /// How many of the nodes' files are conflict copies.
    fn count_copies(&mut self) {
        let keys = self.nodes.iter().flat_map(|node| node.tree().into_keys());
        let copies = keys.filter(is_conflict_key).count() as u64;
        self.judge.count("conflict copies", copies);
    }

    /// What an operator does about deletes that are held back: lets them go out, unless users who
    /// do not sync may have lost files to a power cut.
    fn answer_held_deletes(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(life) = &self.nodes[node].life else { continue };
            if life.actor.gone.held().is_empty() {
                continue;
            }
            self.judge.count("mass deletes held back", 1);
            let (answer, _) = tokio::sync::oneshot::channel();
            let command = match self.habits.careless {
                true => {
                    self.judge.history_broken = true;
                    Command::Revert(answer)
                }
                false => Command::Confirm(answer),
            };
            self.take_turn(node, Turn::Event(Event::Command(command)), false);
        }
    }
}
