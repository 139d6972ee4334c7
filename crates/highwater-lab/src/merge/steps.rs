//! What happens in one case, drawn before it is played, so that it can be told and shortened.

use std::fmt;

use crate::dice::Dice;

/// The keys that cases are about. Few, so that they meet: a directory that is a file elsewhere,
/// names that differ in case or in Unicode form alone, a user's file under the very name that a
/// conflict copy of `n.txt` will take, names and paths with hardly any room for a copy's mark.
pub(super) fn key_pool() -> Vec<String> {
    let deep = vec!["d".repeat(250); 16].join("/");
    let long = "l".repeat(250);
    vec![
        "n.txt".into(),
        "a".into(),
        "a/b".into(),
        "a/b/c".into(),
        "N.txt".into(),
        "caf\u{e9}".into(),
        "cafe\u{301}".into(),
        "n.conflict-19700101-000001-aeaqcaib.txt".into(),
        format!("{long}1.txt"),
        format!("{long}2.txt"),
        format!("{deep}/{}", "n".repeat(64)),
        format!("{deep}/{}/n", "e".repeat(70)),
        "x/y/z/n".into(),
    ]
}

/// Positions of the key pool that are drawn often; the others are the odd ones.
const COMMON_KEYS: u64 = 3;
/// Cases that draw from the whole pool: the long keys cost as much as a hundred short ones.
const ODD_KEYS_ONE_IN: u64 = 8;
/// Keys of one case.
const KEYS_MAX: u64 = 3;

/// What a user does to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// Writes a file with this content.
    Write(u8),
    /// Changes a file's mode and time and nothing else.
    Touch,
    /// Makes a symbolic link.
    Link(u8),
    /// Makes a directory.
    MakeDir,
    /// Deletes what is there, with all below it.
    Delete,
}

/// One step of a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A user acts on a key at a node.
    Act { node: usize, key: usize, act: Act },
    /// A user acts on some conflict copy that stands at a node, if one does.
    ActOnCopy { node: usize, nth: usize, act: Act },
    /// `to` learns what `from` has: all of it, or what the bits of `part` select, in an order.
    Send { from: usize, to: usize, part: u64, order: u64 },
    /// The node begins another epoch.
    Epoch { node: usize },
    /// Time passes everywhere.
    Wait { millis: u64 },
}

/// One case: who takes part, what their clocks say, which keys it is about, what happens.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) nodes: usize,
    /// By how much each node's clock is ahead.
    pub(super) ahead_ms: Vec<u64>,
    /// Positions in the key pool.
    pub(super) keys: Vec<usize>,
    pub(super) steps: Vec<Step>,
}

impl Story {
    /// The story of a seed: one tree that all have, then changes on each side with exchanges in
    /// between. Which kinds of things happen at all is drawn first.
    pub(super) fn draw(seed: u64, pool: usize) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = *dice.pick(&[2, 3, 3, 3, 4]);
        let skew = *dice.pick(&[0, 0, 700, 5_000, 100_000]);
        let ahead_ms = (0..nodes).map(|_| dice.below(skew + 1)).collect();
        let keys = draw_keys(&mut dice, pool);
        let mut draw = Draw { nodes, keys: keys.len(), contents: 0, dice: &mut dice };
        let steps = draw.steps();
        Self { nodes, ahead_ms, keys, steps }
    }
}

fn draw_keys(dice: &mut Dice, pool: usize) -> Vec<usize> {
    let odd = dice.one_in(ODD_KEYS_ONE_IN);
    let mut keys = Vec::new();
    for _ in 0..dice.between(1, KEYS_MAX) {
        let end = if odd { pool as u64 } else { COMMON_KEYS };
        let key = dice.below(end) as usize;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

struct Draw<'a> {
    nodes: usize,
    keys: usize,
    contents: u8,
    dice: &'a mut Dice,
}

impl Draw<'_> {
    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.dice.one_in(2) {
            self.common_tree(&mut steps);
        }
        let (sends, waits, copies) =
            (*self.dice.pick(&[2, 4, 12]), *self.dice.pick(&[2, 6]), self.dice.one_in(3));
        for _ in 0..self.dice.between(2, 9) {
            steps.push(self.act());
            if self.dice.one_in(sends) {
                steps.push(self.send());
            }
            if self.dice.one_in(waits) {
                steps.push(Step::Wait { millis: self.dice.below(1_500) });
            }
            if copies && self.dice.one_in(2) {
                let (node, nth) = (self.node(), self.dice.below(4) as usize);
                let act = self.any_act();
                steps.push(Step::ActOnCopy { node, nth, act });
            }
            if self.dice.one_in(24) {
                steps.push(Step::Epoch { node: self.node() });
            }
        }
        steps
    }

    /// A tree that the first node makes and everybody takes over.
    fn common_tree(&mut self, steps: &mut Vec<Step>) {
        for key in 0..self.keys {
            let act = if self.dice.one_in(4) { Act::MakeDir } else { self.write() };
            steps.push(Step::Act { node: 0, key, act });
        }
        for to in 1..self.nodes {
            steps.push(Step::Send { from: 0, to, part: u64::MAX, order: 0 });
        }
    }

    fn act(&mut self) -> Step {
        let (node, key) = (self.node(), self.dice.below(self.keys as u64) as usize);
        Step::Act { node, key, act: self.any_act() }
    }

    fn any_act(&mut self) -> Act {
        match self.dice.below(10) {
            0..=3 => self.write(),
            4 => Act::Touch,
            5 => Act::Link(self.content()),
            6 => Act::MakeDir,
            _ => Act::Delete,
        }
    }

    fn write(&mut self) -> Act {
        Act::Write(self.content())
    }

    /// Mostly a content that nobody has written yet.
    fn content(&mut self) -> u8 {
        if self.contents > 0 && self.dice.one_in(6) {
            return self.dice.below(u64::from(self.contents)) as u8;
        }
        self.contents += 1;
        self.contents - 1
    }

    fn send(&mut self) -> Step {
        let from = self.node();
        let to = (from + 1 + self.dice.below(self.nodes as u64 - 1) as usize) % self.nodes;
        let part = if self.dice.one_in(3) { self.dice.roll() } else { u64::MAX };
        Step::Send { from, to, part, order: self.dice.roll() }
    }

    fn node(&mut self) -> usize {
        self.dice.below(self.nodes as u64) as usize
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Act { node, key, act } => write!(f, "node {node}: {act:?} key {key}"),
            Step::ActOnCopy { node, nth, act } => write!(f, "node {node}: {act:?} copy {nth}"),
            Step::Send { from, to, part, .. } => {
                let what = if *part == u64::MAX { "everything" } else { "a part" };
                write!(f, "node {from} sends {what} to node {to}")
            }
            Step::Epoch { node } => write!(f, "node {node} begins another epoch"),
            Step::Wait { millis } => write!(f, "{millis} ms pass"),
        }
    }
}
