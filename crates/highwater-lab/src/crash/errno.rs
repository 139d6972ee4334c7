//! Calls that fail: a sync that fails once or for ever, a disk that is full at one write or cannot
//! be read in one place.
//!
//! One iteration: the victim is in sync and alive; one of its calls is made to fail while a small
//! script is carried out. Either it overcomes that by itself, or it says what is wrong. After a
//! sync of its store has failed it acknowledges and announces nothing more until it is started
//! again, whatever later syncs say. When the fault is over, both folders hold what the ledger says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Role;
use super::ledger::Keeping;
use super::pair::{PATIENCE, Pair};
use super::points::Points;
use super::promise::only_peer;
use super::tally::Tally;
use super::trace::{Fault, Injection, Seen, Tracer, When};
use crate::cluster::SHARE;
use crate::dice::Dice;
use crate::http;
use crate::status::Status;

/// How often the nodes are asked.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);
/// How long a store that must not acknowledge is watched. It would acknowledge within this time
/// if it went on: commits take milliseconds.
const SILENCE_WATCHED: Duration = Duration::from_millis(400);
/// How long a node may take to get over a fault by itself before it is looked at whether it says
/// that it needs a restart. A share that was closed is opened again after 2 s.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);
/// Small changes of the script: enough that they are synced together.
const CHANGES: u64 = 20;

/// Calls that make something durable.
const SYNCS: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "syncfs"];
/// Those by which a commit becomes durable. The database calls `fsync` beside it, in the background,
/// and drops what comes of it; no promise rests on that, and the kernel tells a failure to each
/// descriptor, the one of the commits included.
const COMMIT_SYNCS: [&str; 2] = ["fdatasync", "sync_file_range"];
/// Calls that write or name something, and the errors that each is given in turn.
const WRITES: [(&str, &[&str]); 6] = [
    ("pwrite64", &["ENOSPC", "EIO"]),
    ("copy_file_range", &["ENOSPC", "EDQUOT"]),
    ("ftruncate", &["ENOSPC", "EFBIG"]),
    ("renameat2", &["ENOSPC", "EXDEV", "EDQUOT", "EIO"]),
    ("mkdirat", &["ENOSPC", "EDQUOT"]),
    ("unlinkat", &["EIO"]),
];

/// Calls that read, and the errors that each is given in turn.
const READS: [(&str, &[&str]); 6] = [
    ("openat", &["EIO", "EMFILE", "ENFILE"]),
    ("getdents64", &["EIO"]),
    ("newfstatat", &["EIO"]),
    ("statx", &["EIO"]),
    ("read", &["EIO"]),
    ("pread64", &["EIO"]),
];
/// Of the many calls of one kind that read, so many have their turn.
const READS_MAX: usize = 12;

/// Events without which a run has not tried what it is for.
pub const REQUIRED: [&str; 4] = [
    "overcome without a restart",
    "reported as a problem",
    "store stopped until a restart",
    "failed as receiver",
];

/// A pair whose victim's calls fail.
#[derive(Debug)]
pub struct Errors {
    pair: Pair,
    dice: Dice,
    trials: Points,
    /// What the run has done.
    pub tally: Tally,
}

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It fell nowhere.
    Missed,
    /// All is well in spite of it.
    Overcome,
    /// Something is wrong, and the node says so.
    Reported,
}

/// What the peer has been told: how far the victim has its log, and how far the victim's goes.
type Told = Option<(u64, u64)>;

impl Errors {
    /// Makes the pair and counts the calls of a transfer in both roles.
    pub fn start(exe: &std::path::Path, seed: u64) -> Result<Errors> {
        let pair = Pair::start(exe, None)?;
        let tally = Tally::new("errno", seed, &REQUIRED);
        let dice = Dice::new(seed);
        let mut errors = Errors { pair, dice, trials: Points::default(), tally };
        errors.pair.peer_hand()?.change(&mut errors.pair.ledger, &mut errors.dice, CHANGES)?;
        errors.pair.settle()?;
        for role in [Role::Receiver, Role::Sender] {
            let mut twice = [Seen::default(), Seen::default()];
            for seen in &mut twice {
                let tracer = errors.trace(None)?;
                errors.script(role)?;
                errors.pair.settle()?;
                *seen = tracer.detach()?;
            }
            errors.trials.add(role, trials(&Seen::in_both(&twice)));
        }
        errors.tally.add("faults to try", errors.trials.count());
        Ok(errors)
    }

    /// Stops and leaves everything where it is.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.pair.keep()
    }

    /// One iteration, with the next fault.
    ///
    /// # Errors
    /// The rule that did not hold, with the fault.
    pub fn iteration(&mut self) -> Result<()> {
        let (role, injection) =
            self.trials.next(&mut self.dice).context("there is nothing to fail")?;
        let outcome = self.fail_at(role, injection)?;
        if outcome == Outcome::Missed {
            self.tally.void += 1;
            self.trials.never_reached(role, injection);
            return Ok(());
        }
        self.tally.iterations += 1;
        self.tally.count(format!("{:?} at {}", injection.fault, injection.call));
        self.tally.count(match role {
            Role::Receiver | Role::Recovering => "failed as receiver",
            Role::Sender => "failed as sender",
        });
        self.tally.count(match outcome {
            Outcome::Reported => "reported as a problem",
            _ => "overcome while it lasted",
        });
        Ok(())
    }

    /// Makes a call fail, and judges. What became of it.
    ///
    /// # Errors
    /// The rule that did not hold, with the fault.
    pub fn fail_at(&mut self, role: Role, injection: Injection) -> Result<Outcome> {
        self.fail_and_judge(role, injection).with_context(|| format!("as {role:?}, {injection:?}"))
    }

    fn trace(&mut self, injection: Option<Injection>) -> Result<Tracer> {
        let log = self.pair.dir().join("strace.log");
        let pid = self.pair.victim().pid().context("the victim is down")?;
        Tracer::attach(pid, &log, injection)
    }

    fn script(&mut self, role: Role) -> Result<()> {
        let hand = match role {
            Role::Receiver | Role::Recovering => self.pair.peer_hand()?,
            Role::Sender => self.pair.victim_hand(Keeping::Synced)?,
        };
        hand.write_large(&mut self.pair.ledger, &mut self.dice)?;
        hand.change(&mut self.pair.ledger, &mut self.dice, CHANGES)
    }

    fn fail_and_judge(&mut self, role: Role, injection: Injection) -> Result<Outcome> {
        let before = self.told()?;
        let tracer = self.trace(Some(injection))?;
        self.script(role)?;
        let outcome = self.watch(&tracer)?;
        if COMMIT_SYNCS.contains(&injection.call) && self.reaches_store(&tracer, injection)? {
            self.demand_silence(before, injection)?;
        }
        tracer.detach()?;
        self.recover()?;
        Ok(outcome)
    }

    /// Whether a sync of the store was among those that failed. Where all fail, one of the folder's
    /// may have been the first to be reported, and the store's comes a moment later.
    fn reaches_store(&self, tracer: &Tracer, injection: Injection) -> Result<bool> {
        let began = Instant::now();
        loop {
            let seen = tracer.seen()?;
            let reached = seen.injected.iter().any(|call| call.contains("/store/"));
            let more_may_fail = injection.when == When::From(1) && began.elapsed() < PATIENCE;
            if reached || !more_may_fail {
                return Ok(reached);
            }
            thread::sleep(WATCH_INTERVAL);
        }
    }

    fn told(&self) -> Result<Told> {
        let status = self.pair.peer_status()?;
        Ok(only_peer(&status).map(|peer| (peer.push.acked_seq, peer.pull.acked_seq)))
    }

    /// Changes something at the peer, and waits until the peer tells that its log went on.
    fn change_at_peer(&mut self) -> Result<()> {
        let head = self.peer_head()?;
        let theirs = self.pair.peer_hand()?;
        theirs.create(&mut self.pair.ledger, &mut self.dice)?;
        let began = Instant::now();
        while self.peer_head()? <= head {
            ensure!(began.elapsed() < PATIENCE, "the peer does not see its own change");
            thread::sleep(WATCH_INTERVAL);
        }
        Ok(())
    }

    fn peer_head(&self) -> Result<u64> {
        let status = self.pair.peer_status()?;
        Ok(status.share(SHARE).context("the peer tells nothing of the share")?.head_seq)
    }

    /// Waits until the fault is overcome or reported.
    fn watch(&mut self, tracer: &Tracer) -> Result<Outcome> {
        let began = Instant::now();
        loop {
            ensure!(!self.pair.victim().has_died()?, "the node died of it");
            let fell = !tracer.seen()?.injected.is_empty();
            let (victim, peer) = (self.pair.victim_status()?, self.pair.peer_status()?);
            let done = victim.in_sync() && peer.in_sync() && self.pair.agree()?;
            match (fell, done) {
                (true, true) => return Ok(Outcome::Overcome),
                (false, true) => return Ok(Outcome::Missed),
                (true, false) if self.is_reported(&victim) => return Ok(Outcome::Reported),
                _ => {}
            }
            if began.elapsed() > PATIENCE {
                let calls: Seen = tracer.seen()?;
                bail!("neither overcome nor reported: {:?}\n{victim:#?}", calls.injected);
            }
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// Whether the node answers that its store takes nothing. No answer at all is none.
    fn is_stopped(&self) -> bool {
        matches!(http::status(self.pair.victim_http(), "/health/ready"), Ok(503))
    }

    fn is_reported(&self, status: &Status) -> bool {
        let share = status.share(SHARE);
        share.is_none_or(|share| share.state == "error" || !share.problems.is_empty())
    }

    /// A store that failed to sync says nothing more. Where every sync failed, it has said nothing
    /// at all since the beginning.
    fn demand_silence(&mut self, before: Told, injection: Injection) -> Result<()> {
        let stopped = || self.is_stopped();
        let began = Instant::now();
        while !stopped() {
            ensure!(began.elapsed() < PATIENCE, "the store failed to sync and says it is ready");
            thread::sleep(WATCH_INTERVAL);
        }
        // What left before the store stopped has arrived, and is told, once the peer tells of this.
        self.change_at_peer()?;
        let at_stop = self.told()?;
        if injection.when == When::From(1) {
            ensure!(
                at_stop == before,
                "told {at_stop:?} while no sync worked, and {before:?} before"
            );
        }
        self.change_at_peer()?;
        let watched = Instant::now();
        while watched.elapsed() < SILENCE_WATCHED {
            let now = self.told()?;
            ensure!(now == at_stop, "told {now:?} after a failed sync, and {at_stop:?} before");
            thread::sleep(WATCH_INTERVAL);
        }
        self.tally.count("silence kept after a failed sync");
        Ok(())
    }

    /// The fault is over: the node goes on by itself, or says that it must be started again.
    fn recover(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let (victim, peer) = (self.pair.victim_status()?, self.pair.peer_status()?);
            if victim.in_sync() && peer.in_sync() && self.pair.agree()? {
                self.tally.count("overcome without a restart");
                break;
            }
            if self.is_stopped() {
                self.tally.count("store stopped until a restart");
                self.pair.victim().kill()?;
                self.pair.victim().start()?;
                break;
            }
            ensure!(
                began.elapsed() < RECOVERY_PATIENCE,
                "the fault is over, the node says it is ready, and does not go on: {victim:#?}"
            );
            thread::sleep(WATCH_INTERVAL);
        }
        self.pair.settle()
    }
}

/// Every fault that the calls of a transfer allow.
fn trials(calls: &BTreeMap<&'static str, u32>) -> Vec<Injection> {
    let times = |call: &str| calls.get(call).copied().unwrap_or(0);
    let mut trials = Vec::new();
    for call in SYNCS.into_iter().filter(|call| times(call) > 0) {
        let fault = Fault::Error("EIO");
        trials.push(Injection { call, fault, when: When::From(1) });
        let each = (1..=times(call)).map(When::Call);
        trials.extend(each.map(|when| Injection { call, fault, when }));
    }
    for (call, errors) in WRITES {
        for (number, &error) in (1..=times(call)).zip(errors.iter().cycle()) {
            let when = When::Call(number);
            trials.push(Injection { call, fault: Fault::Error(error), when });
        }
    }
    for (call, errors) in READS {
        let apart = (times(call) as usize).div_ceil(READS_MAX).max(1);
        for (number, &error) in (1..=times(call)).step_by(apart).zip(errors.iter().cycle()) {
            let when = When::Call(number);
            trials.push(Injection { call, fault: Fault::Error(error), when });
        }
    }
    trials
}
