//! SIGKILL at every system call that changes the disk, on the node that receives and on the one
//! that sends, and on one that is recovering from an earlier death.
//!
//! First a transfer is watched and its calls are counted; each of them is then a point to die at.
//! One iteration: the victim is told to die at a point; the same small script is carried out: new
//! files, an edit, a delete, a rename, a large file; it dies. Its folder is walked before it is
//! started again, it must still have what it promised, and in the end both folders hold what the
//! ledger says.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Role;
use super::ledger::Keeping;
use super::pair::{PATIENCE, Pair};
use super::points::Points;
use super::promise::Promises;
use super::tally::Tally;
use super::trace::{CALLS, Fault, Injection, Seen, Tracer, When};
use crate::dice::Dice;
use crate::faults::{Direction, Faults};

/// How often a dying process is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(3);
/// Small changes of the script.
const CHANGES: u64 = 6;
/// A line on which the large file takes long enough to be met half way.
const SLOW_LINE: u64 = 16_000_000;

/// Events without which a run has not tried what it is for.
pub const REQUIRED: [&str; 5] = [
    "killed as receiver",
    "killed as sender",
    "killed while recovering",
    "restart with staged content",
    "resumed at an offset above 0",
];

/// A pair whose victim is killed again and again.
#[derive(Debug)]
pub struct Kills {
    pair: Pair,
    dice: Dice,
    /// Where the victim may die.
    points: Points,
    /// What the run has done.
    pub tally: Tally,
}

impl Kills {
    /// Makes the pair and counts the calls of a transfer in every role.
    pub fn start(exe: &Path, seed: u64) -> Result<Kills> {
        let pair = Pair::start(exe, None)?;
        let tally = Tally::new("kill", seed, &REQUIRED);
        let dice = Dice::new(seed);
        let mut kills = Kills { pair, dice, points: Points::default(), tally };
        kills.pair.peer_hand()?.change(&mut kills.pair.ledger, &mut kills.dice, 20)?;
        kills.pair.settle()?;
        kills.find_points()?;
        Ok(kills)
    }

    /// Stops and leaves everything where it is.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.pair.keep()
    }

    /// One iteration, at the next point.
    ///
    /// # Errors
    /// The rule that did not hold, with the point.
    pub fn iteration(&mut self) -> Result<()> {
        let (role, injection) =
            self.points.next(&mut self.dice).context("there is nowhere to die at")?;
        if self.kill_at(role, injection)? {
            self.tally.iterations += 1;
            self.tally.count(match role {
                Role::Receiver => "killed as receiver",
                Role::Sender => "killed as sender",
                Role::Recovering => "killed while recovering",
            });
            self.tally.count(format!("killed at {}", injection.call));
        } else {
            self.tally.void += 1;
            self.points.never_reached(role, injection);
        }
        Ok(())
    }

    /// Kills the victim at a point, and judges. Whether it died there.
    ///
    /// # Errors
    /// The rule that did not hold, with the point.
    pub fn kill_at(&mut self, role: Role, injection: Injection) -> Result<bool> {
        self.kill_and_judge(role, injection)
            .with_context(|| format!("{role:?} killed at {injection:?}"))
    }

    /// Every call of every role is a point, in an order that the seed decides.
    fn find_points(&mut self) -> Result<()> {
        for role in [Role::Receiver, Role::Sender, Role::Recovering] {
            let mut twice = [Seen::default(), Seen::default()];
            for seen in &mut twice {
                *seen = self.act(role, None)?.1;
                self.pair.settle()?;
            }
            let mut calls = Seen::in_both(&twice);
            // Between two reads nothing changes on the disk: dying at either is the same.
            calls.retain(|call, _| CALLS.contains(call));
            for (call, times) in calls {
                let point =
                    |number| Injection { call, fault: Fault::Kill, when: When::Call(number) };
                self.points.add(role, (1..=times).map(point));
            }
        }
        self.tally.add("points to die at", self.points.count());
        Ok(())
    }

    /// Whether the victim died at the point.
    fn kill_and_judge(&mut self, role: Role, injection: Injection) -> Result<bool> {
        let (promises, seen) = self.act(role, Some(injection))?;
        let killed = seen.killed && self.pair.victim().has_died()?;
        if killed {
            self.pair.part();
            self.pair.victim().kill()?;
            self.return_and_judge(promises)?;
        }
        self.pair.link().set(Direction::Backward, Faults::default());
        self.pair.settle()?;
        self.pair.demand_nothing_kept()?;
        Ok(killed)
    }

    /// The script in a role, traced, until the victim is dead or everything is done.
    fn act(&mut self, role: Role, injection: Option<Injection>) -> Result<(Promises, Seen)> {
        let log = self.pair.dir().join("strace.log");
        let mut promises = Promises::default();
        let hand = match role {
            Role::Sender => self.pair.victim_hand(Keeping::Synced)?,
            Role::Receiver | Role::Recovering => self.pair.peer_hand()?,
        };
        self.pair.link().set(Direction::Backward, Faults::rate(SLOW_LINE));
        if role == Role::Recovering {
            hand.write_large(&mut self.pair.ledger, &mut self.dice)?;
            hand.change(&mut self.pair.ledger, &mut self.dice, CHANGES)?;
            self.die_half_way(&mut promises)?;
            // Dying before it is ready is what it may be here for.
            let started = self.pair.start_traced(&log, injection);
            if let Err(error) = started {
                self.wait_for_death().with_context(|| format!("{error:#}"))?;
            }
            self.watch(&mut promises)?;
            let seen = self.seen_in(&log)?;
            if !self.pair.victim().has_died()? {
                // Its tracer goes with it.
                self.pair.victim().kill()?;
                self.pair.victim().start()?;
            }
            return Ok((promises, seen));
        }
        let pid = self.pair.victim().pid().context("the victim is down")?;
        let tracer = Tracer::attach(pid, &log, injection)?;
        hand.write_large(&mut self.pair.ledger, &mut self.dice)?;
        hand.change(&mut self.pair.ledger, &mut self.dice, CHANGES)?;
        self.watch(&mut promises)?;
        Ok((promises, tracer.detach()?))
    }

    /// Its output ends a moment before it does.
    fn wait_for_death(&mut self) -> Result<()> {
        let began = Instant::now();
        while !self.pair.victim().has_died()? {
            ensure!(began.elapsed() < PATIENCE, "it neither became ready nor died");
            thread::sleep(WATCH_INTERVAL);
        }
        Ok(())
    }

    /// What was seen of a victim that was traced from its start. Its tracer stands aside, and may
    /// write its last line a moment after the death.
    fn seen_in(&mut self, log: &Path) -> Result<Seen> {
        let died = self.pair.victim().has_died()?;
        let began = Instant::now();
        loop {
            let seen = Seen::read(log)?;
            if seen.killed || !died || began.elapsed() > PATIENCE {
                return Ok(seen);
            }
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// Kills the victim while the large file comes in.
    fn die_half_way(&mut self, promises: &mut Promises) -> Result<()> {
        let status = self.pair.victim().wait_until("half of it is here", PATIENCE, |status| {
            status.transfers.iter().any(|transfer| transfer.acked_offset * 3 > transfer.size)
        })?;
        promises.said(&status);
        self.pair.victim().kill()
    }

    /// Listens to both until the victim is dead, or both have everything.
    fn watch(&mut self, promises: &mut Promises) -> Result<()> {
        let began = Instant::now();
        loop {
            if self.pair.victim().has_died()? {
                promises.heard(&self.pair.peer_status()?);
                return Ok(());
            }
            let (victim, peer) = (self.pair.victim_status(), self.pair.peer_status()?);
            promises.heard(&peer);
            if let Ok(victim) = &victim {
                promises.said(victim);
                if victim.in_sync() && peer.in_sync() && self.pair.agree()? {
                    return Ok(());
                }
            }
            ensure!(began.elapsed() < PATIENCE, "neither dead nor in sync: {victim:#?}");
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// Looks at what the dead victim left, starts it, and asks whether it kept its promises.
    fn return_and_judge(&mut self, promises: Promises) -> Result<()> {
        let (tree, folder) = (self.pair.victim_tree()?, self.pair.victim_folder());
        let read = |path: &Path| Ok(fs::read(folder.join(path))?);
        self.pair.ledger.judge_remains(&tree, read)?;
        if self.pair.staged_parts()? > 0 {
            self.tally.count("restart with staged content");
        }
        let status = self.pair.start_alone()?;
        promises.demand_kept(&status)?;
        self.pair.meet();
        self.resume(&promises)
    }

    /// A transfer that had come to an offset goes on there.
    fn resume(&mut self, promises: &Promises) -> Result<()> {
        let offsets = promises.offsets.clone();
        let mut resumed = None;
        self.pair.victim().wait_until("in sync", PATIENCE, |status| {
            let taken_up = status.transfers.iter().find(|transfer| transfer.resumed_from > 0);
            resumed = taken_up.map(|t| (t.key.clone(), t.resumed_from)).or(resumed.take());
            status.in_sync()
        })?;
        if let Some((key, offset)) = resumed {
            let promised = offsets.get(&key).copied().unwrap_or(0);
            ensure!(offset >= promised, "{key} resumed at {offset}, {promised} was acknowledged");
            self.tally.count("resumed at an offset above 0");
        }
        Ok(())
    }
}
