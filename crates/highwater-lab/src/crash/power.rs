//! Power cuts: the victim's disk is shut down while it works, and it must come back with all that
//! it promised.
//!
//! One cycle: both nodes are in sync; changes are made, on the peer, on the victim, or both; at a
//! commit point that the nodes themselves show, or at any moment, the power goes. Then the order of
//! a real morning after: the process is dead, the disk is mounted, and *before the node starts* its
//! folder is walked: no part of a file may be visible. The node starts without help, alone with its
//! disk, and must still have what it promised. Then the line comes back, and in the end both
//! folders hold what the ledger says. The next cycle goes on with the same state.
//!
//! A control is written without a sync in each cycle, just before the cut. If it does not vanish,
//! the cuts cut nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::disk::{FileSystem, Journal};
use super::ledger::Keeping;
use super::pair::{PATIENCE, Pair};
use super::promise::{Promises, only_peer};
use super::tally::Tally;
use crate::dice::Dice;
use crate::faults::{Direction, Faults};
use crate::status::Status;

/// How often the nodes are asked while a commit point is waited for.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);
/// The latest that an arbitrary moment comes after the changes.
const MOMENT_MS_MAX: u64 = 600;
/// How long a process may go on over a disk that is gone, before it dies as well.
const LINGER_MS_MAX: u64 = 60;
/// A line on which a large file takes long enough to be met.
const SLOW_LINE: u64 = 12_000_000;
/// What a resumed transfer may carry beyond what was not acknowledged: the small files of a cycle,
/// what was on its way, and what TLS and the messages add.
const RESENT_MAX: u64 = 4 << 20;
/// The control's size: more than a page, less than what makes the kernel write early.
const CONTROL_BYTES: usize = 40_000;

/// The event that shows that a cut cut something.
const CONTROL_LOST: &str = "unsynced data lost";

/// Events without which a run has not tried what it is for.
pub const REQUIRED: [&str; 6] = [
    CONTROL_LOST,
    "store reopened after a cut",
    "cut after an acknowledgement",
    "cut after an announcement",
    "restart with staged content",
    "resumed at an offset above 0",
];

/// When the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// The victim has acknowledged a position that it had not.
    Acknowledged,
    /// The peer has taken in a change of the victim.
    Announced,
    /// The victim has put something in place.
    Applied,
    /// The victim shows so many hundredths of the large file as acknowledged.
    Offset(u64),
    /// So many milliseconds after the changes.
    Any(u64),
}

/// What one cycle does.
#[derive(Clone, Copy, Debug)]
struct Plan {
    moment: Moment,
    journal: Journal,
    /// How many changes the peer makes.
    theirs: u64,
    /// How many the victim's user makes, and whether they are synced.
    ours: u64,
    keeping: Keeping,
    /// Whether a large file is on its way to the victim.
    large: bool,
    /// How long the process outlives its disk.
    linger: Duration,
}

impl Plan {
    fn draw(dice: &mut Dice, cycle: u64) -> Plan {
        let moment = match dice.below(8) {
            0 | 1 => Moment::Acknowledged,
            2 | 3 => Moment::Announced,
            4 => Moment::Applied,
            5 | 6 => Moment::Offset(1 + dice.below(90)),
            _ => Moment::Any(dice.below(MOMENT_MS_MAX)),
        };
        let large = matches!(moment, Moment::Offset(_)) || dice.below(4) == 0;
        let ours_only = moment == Moment::Announced && dice.below(2) == 0;
        Plan {
            moment,
            journal: if cycle.is_multiple_of(2) { Journal::Flushed } else { Journal::Lost },
            theirs: if ours_only { 0 } else { 1 + dice.below(12) },
            ours: match moment {
                Moment::Announced => 1 + dice.below(6),
                _ => dice.below(4),
            },
            keeping: if dice.below(3) == 0 { Keeping::Synced } else { Keeping::Loose },
            large,
            linger: Duration::from_millis(dice.below(2) * dice.below(LINGER_MS_MAX)),
        }
    }
}

/// A pair whose victim loses its power again and again.
#[derive(Debug)]
pub struct PowerCuts {
    pair: Pair,
    dice: Dice,
    cycle: u64,
    /// What the run has done.
    pub tally: Tally,
}

impl PowerCuts {
    /// Makes the pair, with some files to begin with.
    pub fn start(exe: &Path, seed: u64, kind: FileSystem) -> Result<PowerCuts> {
        let mut pair = Pair::start(exe, Some(kind))?;
        let mut dice = Dice::new(seed);
        pair.peer_hand()?.change(&mut pair.ledger, &mut dice, 20)?;
        pair.settle()?;
        let tally = Tally::new("power", seed, &REQUIRED);
        Ok(PowerCuts { pair, dice, cycle: 0, tally })
    }

    /// Whether most cuts took what was not synced.
    pub fn cuts_cut(tally: &Tally) -> bool {
        let lost = tally.events.get(CONTROL_LOST).copied().unwrap_or(0);
        lost * 2 > tally.iterations + tally.void
    }

    /// Stops and leaves everything where it is.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.pair.keep()
    }

    /// One cycle.
    ///
    /// # Errors
    /// The rule that did not hold, with the plan of the cycle.
    pub fn iteration(&mut self) -> Result<()> {
        let plan = Plan::draw(&mut self.dice, self.cycle);
        self.cycle += 1;
        self.cut_and_judge(plan).with_context(|| format!("cycle {}: {plan:?}", self.cycle))
    }

    fn cut_and_judge(&mut self, plan: Plan) -> Result<()> {
        let before = (self.pair.victim_status()?, self.pair.peer_status()?);
        let large = self.make_changes(plan)?;
        let (reached, promises) = self.cut_at(plan, &before, large.as_deref())?;
        self.look_before_start()?;
        self.start_alone(&promises)?;
        self.go_on(&promises, large.as_deref())?;
        if reached {
            self.tally.iterations += 1;
            self.tally.count(format!("cut {}", name(plan.moment)));
        } else {
            self.tally.void += 1;
        }
        Ok(())
    }

    /// Makes the changes of a cycle; the name of the large file, if there is one.
    fn make_changes(&mut self, plan: Plan) -> Result<Option<PathBuf>> {
        let (ledger, dice) = (&mut self.pair.ledger.clone(), &mut self.dice);
        let line = if plan.large { Faults::rate(SLOW_LINE) } else { Faults::default() };
        self.pair.link().set(Direction::Backward, line);
        let ours = self.pair.victim_hand(plan.keeping)?;
        let theirs = self.pair.peer_hand()?;
        let large = plan.large.then(|| theirs.write_large(ledger, dice)).transpose()?;
        theirs.change(ledger, dice, plan.theirs)?;
        ours.change(ledger, dice, plan.ours)?;
        self.pair.ledger = ledger.clone();
        Ok(large)
    }

    /// Waits for the moment and cuts the power. Whether the moment came, and what was promised.
    fn cut_at(
        &mut self,
        plan: Plan,
        before: &(Status, Status),
        large: Option<&Path>,
    ) -> Result<(bool, Promises)> {
        let disk = self.pair.disk.as_ref().context("the victim has no disk of its own")?;
        let fuse = disk.arm(plan.journal)?;
        // A name of its own: ext4 writes a file early that is cut to nothing and written again.
        let control = disk.root().join(format!("control-{}", self.cycle));
        let mut promises = Promises::default();
        let reached = self.wait_for(plan.moment, before, large, &mut promises)?;
        fs::write(&control, self.dice.bytes(CONTROL_BYTES))?;
        fuse.blow()?;
        thread::sleep(plan.linger);
        self.pair.part();
        self.pair.victim().kill()?;
        // Whatever the peer has heard until now was said by the victim.
        promises.heard(&self.pair.peer_status()?);
        self.power_returns(&control)?;
        Ok((reached, promises))
    }

    fn wait_for(
        &mut self,
        moment: Moment,
        (victim, peer): &(Status, Status),
        large: Option<&Path>,
        promises: &mut Promises,
    ) -> Result<bool> {
        let began = Instant::now();
        let acked = |status: &Status| only_peer(status).map(|peer| peer.push.acked_seq);
        let pulled = |status: &Status| only_peer(status).map(|peer| peer.pull.acked_seq);
        loop {
            let (v, p) = (self.pair.victim_status()?, self.pair.peer_status()?);
            promises.said(&v);
            promises.heard(&p);
            let reached = match moment {
                Moment::Acknowledged => acked(&p) > acked(peer),
                Moment::Announced => pulled(&p) > pulled(peer),
                Moment::Applied => v.counters.entries_applied > victim.counters.entries_applied,
                Moment::Offset(hundredths) => large.is_some_and(|key| {
                    let transfer = v.transfer(&key.to_string_lossy());
                    transfer.is_some_and(|t| t.acked_offset * 100 > t.size * hundredths)
                }),
                Moment::Any(ms) => began.elapsed() >= Duration::from_millis(ms),
            };
            let over = v.in_sync() && p.in_sync() && began.elapsed() > Duration::from_secs(2);
            if reached || over {
                return Ok(reached);
            }
            ensure!(began.elapsed() < PATIENCE, "{moment:?} did not come: {v:#?}");
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// Mounts what is left, and looks for the control.
    fn power_returns(&mut self, control: &Path) -> Result<()> {
        let disk = self.pair.disk.as_mut().context("the victim has no disk of its own")?;
        disk.restart()?;
        let left = fs::metadata(control).map_or(0, |metadata| metadata.len());
        if left < CONTROL_BYTES as u64 {
            self.tally.count(CONTROL_LOST);
        }
        Ok(())
    }

    /// Walks the victim's folder before its node has touched it.
    fn look_before_start(&mut self) -> Result<()> {
        let witness = self.pair.peer_tree()?;
        let (tree, folder) = (self.pair.victim_tree()?, self.pair.victim_folder());
        let told = self.pair.ledger.witnessed_by(&witness);
        self.tally.add("loose change that the peer had seen", told);
        let read = |path: &Path| Ok(fs::read(folder.join(path))?);
        let remains = self.pair.ledger.judge_remains(&tree, read)?;
        self.tally.add("loose change lost", remains.lost);
        self.tally.add("loose change torn", remains.torn);
        if self.pair.staged_parts()? > 0 {
            self.tally.count("restart with staged content");
        }
        Ok(())
    }

    /// Starts the victim with no line to anybody: what it has now, it has from its own disk.
    fn start_alone(&mut self, promises: &Promises) -> Result<()> {
        let status = self.pair.start_alone()?;
        self.tally.count("store reopened after a cut");
        promises.demand_kept(&status)
    }

    /// Gives the line back, and judges what comes of it.
    fn go_on(&mut self, promises: &Promises, large: Option<&Path>) -> Result<()> {
        let key = large.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let offset = promises.offsets.get(&key).copied().unwrap_or(0);
        let absent = large.is_some_and(|path| !self.pair.victim_folder().join(path).exists());
        let carried = self.pair.link().report().bytes(Direction::Backward);
        self.pair.meet();
        if offset > 0 && absent {
            self.resumes(large.context("no large file")?, &key, offset)?;
            let again = self.pair.link().report().bytes(Direction::Backward) - carried;
            let size = fs::metadata(self.pair.peer_folder().join(&key))?.len();
            let most = size.saturating_sub(offset) + RESENT_MAX;
            ensure!(again <= most, "{again} bytes came for the rest of {size} behind {offset}");
        }
        self.pair.link().set(Direction::Backward, Faults::default());
        self.pair.settle()?;
        self.pair.demand_nothing_kept()
    }

    /// Waits until the large file is in place, and demands that its transfer went on at `offset`.
    fn resumes(&mut self, path: &Path, key: &str, offset: u64) -> Result<()> {
        let place = self.pair.victim_folder().join(path);
        let mut seen = None;
        self.pair.victim().wait_until("the large file is in place", PATIENCE, |status| {
            let resumed = status.transfer(key).map(|transfer| transfer.resumed_from);
            seen = seen.max(resumed);
            place.exists()
        })?;
        if let Some(resumed) = seen.filter(|&resumed| resumed > 0) {
            ensure!(resumed >= offset, "resumed at {resumed}, and {offset} was acknowledged");
            self.tally.count("resumed at an offset above 0");
        }
        Ok(())
    }
}

fn name(moment: Moment) -> &'static str {
    match moment {
        Moment::Acknowledged => "after an acknowledgement",
        Moment::Announced => "after an announcement",
        Moment::Applied => "after something was put in place",
        Moment::Offset(_) => "inside a large transfer",
        Moment::Any(_) => "at an arbitrary moment",
    }
}
