//! What a seed decides about a world of engines: first a storm of faults while files are written, then
//! one large content after whose beginning somebody is struck, again and again.

use highwater_lab::dice::Dice;

use crate::plan::{Fault, draw_dials, draw_fault};

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u8,
    /// Who knows the address of whom.
    pub(crate) dials: Vec<(u8, u8)>,
    pub(crate) latency_ms: (u64, u64),
    /// Bytes a second that a connection carries.
    pub(crate) rate: u64,
    /// Segments of up to 16 KiB that are on their way in one direction of a connection.
    pub(crate) segments: usize,
    /// When something is written, and where.
    pub(crate) writes: Vec<(u64, u8)>,
    /// Faults of the storm by the time when they begin.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// When the storm is over.
    pub(crate) storm_ms: u64,
    /// Who writes the large content, and how many bytes it has.
    pub(crate) large: (u8, u64),
    /// What happens while it is under way, and for how long.
    pub(crate) blows: Vec<(Blow, u64)>,
}

/// What happens to the transfer of a large content midway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Blow {
    /// The receiver is cut off from everybody.
    CutOff,
    /// Nothing reaches the receiver.
    Deaf,
    /// Nothing comes from the receiver.
    Mute,
    /// Nothing passes, then all of it at once.
    Held,
    /// The receiver is killed and started again.
    ReceiverKilled,
    /// The sender is killed and started again.
    SenderKilled,
    /// The receiver is stopped politely and started again.
    ReceiverRestarted,
    /// The receiver takes in next to nothing.
    Overtaxed,
}

/// A megabyte.
const SEGMENTS: usize = 64;

/// By weight: a killed receiver has its disk alone to go on from.
const BLOWS: [Blow; 10] = [
    Blow::CutOff,
    Blow::CutOff,
    Blow::ReceiverKilled,
    Blow::Deaf,
    Blow::Mute,
    Blow::Held,
    Blow::ReceiverKilled,
    Blow::SenderKilled,
    Blow::ReceiverRestarted,
    Blow::Overtaxed,
];

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = *dice.pick(&[2, 2, 3]);
        let fast = dice.between(1, 20);
        let latency_ms = (fast, fast + *dice.pick(&[0, 5, 60]));
        let storm_ms = dice.between(3_000, 12_000);
        let kinds = dice.between(1, 255);
        let mut faults: Vec<(u64, Fault)> = Vec::new();
        let count = dice.between(1, 6) as usize;
        while faults.len() < count {
            let kind = dice.below(8);
            if kinds & (1 << kind) != 0 {
                let at = dice.between(200, storm_ms - 1_000);
                faults.push((at, draw_fault(&mut dice, kind, nodes, storm_ms - at)));
            }
        }
        faults.sort_by_key(|(at, _)| *at);
        let mut writes: Vec<(u64, u8)> = (0..dice.between(4, 16))
            .map(|_| (dice.between(0, storm_ms), dice.below(u64::from(nodes)) as u8))
            .collect();
        writes.sort_unstable();
        let dials = draw_dials(&mut dice, nodes);
        let rate = *dice.pick(&[400_000, 1_000_000, 3_000_000]);
        let large = (dice.below(u64::from(nodes)) as u8, dice.between(3_000_000, 7_000_000));
        let blow = |dice: &mut Dice| (*dice.pick(&BLOWS), *dice.pick(&[300, 2_000, 6_000, 17_000]));
        let blows = (0..dice.between(1, 3)).map(|_| blow(&mut dice)).collect();
        Self {
            nodes,
            dials,
            latency_ms,
            rate,
            segments: SEGMENTS,
            writes,
            faults,
            storm_ms,
            large,
            blows,
        }
    }

    /// No faults: one content of `size` bytes, lines that hold any amount, and nodes that take in `rate`
    /// bytes a second.
    pub(crate) fn undisturbed(nodes: u8, rate: u64, size: u64) -> Self {
        Self {
            nodes,
            dials: (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect(),
            latency_ms: (5, 5),
            rate,
            segments: 8_192,
            writes: Vec::new(),
            faults: Vec::new(),
            storm_ms: 0,
            large: (0, size),
            blows: Vec::new(),
        }
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        (0..self.nodes).flat_map(|a| (a + 1..self.nodes).map(move |b| (a, b)))
    }
}
