//! What goes wrong in one world: drawn from its seed before it begins. First which kinds of faults it
//! has at all, then each of them; all have ended when the faults end.

use highwater_lab::dice::Dice;

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u8,
    /// Who knows the address of whom.
    pub(crate) dials: Vec<(u8, u8)>,
    pub(crate) latency_ms: (u64, u64),
    /// Pauses between messages of one stream, at most, and the largest content.
    pub(crate) pause_ms: u64,
    pub(crate) bytes_max: u64,
    /// Faults by the time when they begin.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// When all faults are over.
    pub(crate) healed_ms: u64,
}

/// Something that goes wrong for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing passes, nothing is told: what was on its way is gone.
    Partition { a: u8, b: u8, ms: u64 },
    /// As before, in one direction.
    OneWay { from: u8, to: u8, ms: u64 },
    /// Nothing passes; then all of it arrives at once.
    Hold { a: u8, b: u8, ms: u64 },
    /// The line breaks and comes back every so often.
    Flap { a: u8, b: u8, every_ms: u64, ms: u64 },
    /// The line is slow.
    Slow { a: u8, b: u8, latency_ms: u64, ms: u64 },
    /// The process is killed and started again; `silent`: without the kernel's last words.
    Crash { node: u8, ms: u64, silent: bool },
    /// The process is stopped politely and started again.
    Restart { node: u8 },
    /// The engine of the node takes no content from its links.
    Stall { node: u8, ms: u64 },
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = *dice.pick(&[2, 3, 3, 4]);
        let fast = dice.between(1, 20);
        let latency_ms = (fast, fast + *dice.pick(&[0, 5, 60]));
        let healed_ms = dice.between(6_000, 20_000);
        let kinds = dice.between(1, 255);
        let count = dice.between(1, 12);
        let mut faults: Vec<(u64, Fault)> = Vec::new();
        while faults.len() < count as usize {
            let kind = dice.below(8);
            if kinds & (1 << kind) != 0 {
                let at = dice.between(500, healed_ms - 1_000);
                faults.push((at, draw_fault(&mut dice, kind, nodes, healed_ms - at)));
            }
        }
        faults.sort_by_key(|(at, _)| *at);
        let dials = draw_dials(&mut dice, nodes);
        let (pause_ms, bytes_max) =
            *dice.pick(&[(400, 2_000), (400, 2_000), (200, 30_000), (60, 200_000)]);
        Self { nodes, dials, latency_ms, pause_ms, bytes_max, faults, healed_ms }
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        (0..self.nodes).flat_map(|a| (a + 1..self.nodes).map(move |b| (a, b)))
    }
}

/// Each pair knows each other's address, or one knows the other's.
pub(crate) fn draw_dials(dice: &mut Dice, nodes: u8) -> Vec<(u8, u8)> {
    let mut dials = Vec::new();
    for a in 0..nodes {
        for b in a + 1..nodes {
            match dice.below(4) {
                0 => dials.push((a, b)),
                1 => dials.push((b, a)),
                _ => dials.extend([(a, b), (b, a)]),
            }
        }
    }
    dials
}

pub(crate) fn draw_fault(dice: &mut Dice, kind: u64, nodes: u8, left_ms: u64) -> Fault {
    let a = dice.below(u64::from(nodes)) as u8;
    let b = (a + 1 + dice.below(u64::from(nodes) - 1) as u8) % nodes;
    let longest = *dice.pick(&[300, 2_000, 8_000, 20_000]);
    let ms = dice.between(20, longest).min(left_ms - 100);
    match kind {
        0 => Fault::Partition { a, b, ms },
        1 => Fault::OneWay { from: a, to: b, ms },
        2 => Fault::Hold { a, b, ms },
        3 => Fault::Flap { a, b, every_ms: *dice.pick(&[50, 200, 1_000, 3_000]), ms },
        4 => Fault::Slow { a, b, latency_ms: *dice.pick(&[200, 800, 2_000]), ms },
        5 => Fault::Crash { node: a, ms, silent: dice.one_in(2) },
        6 => Fault::Restart { node: a },
        _ => Fault::Stall { node: a, ms },
    }
}
