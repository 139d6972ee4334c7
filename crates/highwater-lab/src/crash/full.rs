//! A disk that is really full: home, store and share of the victim lie on it.
//!
//! One iteration: all but a little of the room is taken; changes come in, or are made there; the
//! node says what is wrong, and no part of a file is visible. Every other time it is killed while
//! the disk is full and started again; it may refuse, with a reason. Then there is room again: the
//! node goes on by itself, or says that it must be started again, and has lost nothing.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Role;
use super::disk::FileSystem;
use super::ledger::Keeping;
use super::pair::{PATIENCE, Pair};
use super::promise::Promises;
use super::tally::Tally;
use crate::cluster::SHARE;
use crate::dice::Dice;
use crate::status::Status;

/// How often the nodes are asked.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);
/// How long a node may take to go on by itself: it asks for room every few seconds.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);
/// What may be left on the disk, in powers of two: from a page or two, which the store alone fills,
/// to nearly a large file.
const LEFT_BITS: std::ops::Range<u64> = 13..23;
/// Small changes of the script.
const CHANGES: u64 = 10;
/// Files that its user removes to make room.
const REMOVALS: usize = 5;
/// Bytes of ballast written at a time, and at its end.
const BALLAST_BYTES: usize = 256 * 1024;
const BALLAST_END_BYTES: usize = 4096;

/// Events without which a run has not tried what it is for.
pub const REQUIRED: [&str; 2] = ["full disk reported", "went on without a restart"];

/// A pair whose victim's disk is filled.
#[derive(Debug)]
pub struct FullDisks {
    pair: Pair,
    dice: Dice,
    times: u64,
    /// What the run has done.
    pub tally: Tally,
}

impl FullDisks {
    /// Makes the pair, with some files to begin with.
    ///
    /// # Errors
    /// When the nodes do not come up.
    pub fn start(exe: &Path, seed: u64, kind: FileSystem) -> Result<FullDisks> {
        let mut pair = Pair::start(exe, Some(kind))?;
        let mut dice = Dice::new(seed);
        pair.peer_hand()?.change(&mut pair.ledger, &mut dice, 20)?;
        pair.settle()?;
        Ok(FullDisks { pair, dice, times: 0, tally: Tally::new("full", seed, &REQUIRED) })
    }

    /// Stops and leaves everything where it is.
    ///
    /// # Errors
    /// When the disk cannot be unmounted.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.pair.keep()
    }

    /// One iteration.
    ///
    /// # Errors
    /// The rule that did not hold.
    pub fn iteration(&mut self) -> Result<()> {
        self.times += 1;
        let role = if self.dice.below(3) == 0 { Role::Sender } else { Role::Receiver };
        let bits = LEFT_BITS.start + self.dice.below(LEFT_BITS.end - LEFT_BITS.start);
        let left = self.dice.below(1 << bits);
        let dies = self.times.is_multiple_of(2);
        self.fill_and_judge(role, left, dies)
            .with_context(|| format!("as {role:?}, {left} bytes left, dies: {dies}"))
    }

    fn fill_and_judge(&mut self, role: Role, left: u64, dies: bool) -> Result<()> {
        let mut promises = Promises::default();
        let ballast = self.fill(left)?;
        match role {
            Role::Sender => {
                // A user who finds no room has written nothing: only removals are sure to work.
                let hand = self.pair.victim_hand(Keeping::Synced)?;
                hand.remove_some(&mut self.pair.ledger, &mut self.dice, REMOVALS)?;
            }
            Role::Receiver | Role::Recovering => {
                let hand = self.pair.peer_hand()?;
                hand.write_large(&mut self.pair.ledger, &mut self.dice)?;
                hand.change(&mut self.pair.ledger, &mut self.dice, CHANGES)?;
            }
        }
        let reported = self.watch(&mut promises)?;
        self.look()?;
        if dies {
            self.die_and_start(&promises)?;
        }
        fs::remove_file(ballast)?;
        self.go_on()?;
        if reported {
            self.tally.iterations += 1;
            self.tally.count("full disk reported");
        } else {
            self.tally.count("enough room after all");
            self.tally.iterations += u64::from(role == Role::Sender);
            self.tally.void += u64::from(role != Role::Sender);
        }
        Ok(())
    }

    /// Takes all but so much of the room.
    fn fill(&mut self, left: u64) -> Result<PathBuf> {
        let root = self.pair.disk.as_ref().context("the victim has no disk of its own")?.root();
        let (ballast, spare) = (root.join("ballast"), root.join("spare"));
        File::create(&spare)?.write_all(&self.dice.bytes(usize::try_from(left)?))?;
        File::open(&spare)?.sync_all()?;
        let mut file = File::create(&ballast)?;
        for size in [BALLAST_BYTES, BALLAST_END_BYTES] {
            let block = self.dice.bytes(size);
            loop {
                match file.write_all(&block).and_then(|()| file.sync_data()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        fs::remove_file(spare)?;
        Ok(ballast)
    }

    /// Waits until the full disk is reported, or all is well in spite of it. Which of the two.
    fn watch(&mut self, promises: &mut Promises) -> Result<bool> {
        let began = Instant::now();
        loop {
            ensure!(!self.pair.victim().has_died()?, "the node died of it");
            let (victim, peer) = (self.pair.victim_status()?, self.pair.peer_status()?);
            promises.said(&victim);
            promises.heard(&peer);
            if is_reported(&victim) {
                return Ok(true);
            }
            if victim.in_sync() && peer.in_sync() && self.pair.agree()? {
                return Ok(false);
            }
            ensure!(began.elapsed() < PATIENCE, "neither in sync nor reported: {victim:#?}");
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// No part of a file is visible.
    fn look(&mut self) -> Result<()> {
        let (tree, folder) = (self.pair.victim_tree()?, self.pair.victim_folder());
        let read = |path: &Path| Ok(fs::read(folder.join(path))?);
        self.pair.ledger.clone().judge_remains(&tree, read).map(drop)
    }

    /// It dies over the full disk, and is started over it. It may refuse.
    fn die_and_start(&mut self, promises: &Promises) -> Result<()> {
        self.pair.victim().kill()?;
        self.look()?;
        match self.pair.start_alone() {
            Ok(status) => {
                promises.demand_kept(&status)?;
                self.tally.count("started over a full disk");
            }
            Err(_) => {
                self.pair.victim().kill()?;
                self.tally.count("refused to work over a full disk");
            }
        }
        self.pair.meet();
        Ok(())
    }

    /// There is room again.
    fn go_on(&mut self) -> Result<()> {
        let began = Instant::now();
        if self.pair.victim().pid().is_none() {
            self.pair.victim().start()?;
            return self.pair.settle();
        }
        loop {
            let (victim, peer) = (self.pair.victim_status()?, self.pair.peer_status()?);
            if victim.in_sync() && peer.in_sync() && self.pair.agree()? {
                self.tally.count("went on without a restart");
                break;
            }
            if asks_for_restart(&victim) {
                self.tally.count("store stopped until a restart");
                self.pair.victim().kill()?;
                self.pair.victim().start()?;
                break;
            }
            ensure!(began.elapsed() < RECOVERY_PATIENCE, "it does not go on: {victim:#?}");
            thread::sleep(WATCH_INTERVAL);
        }
        self.pair.settle()
    }
}

fn is_reported(status: &Status) -> bool {
    let share = status.share(SHARE);
    share.is_none_or(|share| share.state == "error" || !share.problems.is_empty())
}

/// Whether the node tells its user to start it again.
fn asks_for_restart(status: &Status) -> bool {
    let mut problems = status.share(SHARE).into_iter().flat_map(|share| &share.problems);
    problems.any(|problem| problem.kind == "share" && problem.message.contains("restart"))
}
