//! Copies of the disk, taken at instants of a run, and started.
//!
//! A copy is what the disk held at that moment, with nothing shut down in order: the node is
//! frozen, the image is copied, and the copy counts only if nothing was written to the disk
//! meanwhile. When the run is over each copy is mounted, walked and started, alone, and must have
//! what was promised at its instant. The last one then meets the peer, which has gone on: a whole
//! machine set back. Nothing that the peer has may be lost by that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::disk::{Disk, FileSystem, copy_sparse};
use super::ledger::{Keeping, Ledger};
use super::pair::{PATIENCE, Pair};
use super::promise::Promises;
use super::tally::Tally;
use crate::dice::Dice;
use crate::faults::{Direction, Faults};

/// Instants of one run.
const INSTANTS: u64 = 10;
/// The longest that a run goes on between two of them.
const GAP_MS_MAX: u64 = 250;
/// A line on which a large file takes a few instants.
const SLOW_LINE: u64 = 8_000_000;

/// Events without which a run has not tried what it is for.
pub const REQUIRED: [&str; 3] =
    ["image started alone", "image with staged content", "machine set back and caught up"];

/// The state of everything at one instant.
#[derive(Debug)]
struct Instantly {
    image: PathBuf,
    ledger: Ledger,
    promises: Promises,
}

/// A pair whose victim's disk is copied while it works.
#[derive(Debug)]
pub struct Images {
    pair: Pair,
    dice: Dice,
    /// What the run has done.
    pub tally: Tally,
}

impl Images {
    /// Makes the pair, with some files to begin with.
    ///
    /// # Errors
    /// When the nodes do not come up.
    pub fn start(exe: &Path, seed: u64, kind: FileSystem) -> Result<Images> {
        let mut pair = Pair::start(exe, Some(kind))?;
        let mut dice = Dice::new(seed);
        pair.peer_hand()?.change(&mut pair.ledger, &mut dice, 20)?;
        pair.settle()?;
        Ok(Images { pair, dice, tally: Tally::new("images", seed, &REQUIRED) })
    }

    /// Stops and leaves everything where it is.
    ///
    /// # Errors
    /// When the disk cannot be unmounted.
    pub fn keep(&mut self) -> Result<PathBuf> {
        self.pair.keep()
    }

    /// One run with its copies.
    ///
    /// # Errors
    /// The rule that did not hold.
    pub fn iteration(&mut self) -> Result<()> {
        let instants = self.work_and_copy()?;
        self.pair.link().set(Direction::Backward, Faults::default());
        self.pair.settle()?;
        for instant in &instants {
            self.boot(instant).with_context(|| format!("{}", instant.image.display()))?;
        }
        // The last one is running now, and the peer is far ahead of it.
        self.pair.meet();
        self.pair.settle()?;
        self.tally.count("machine set back and caught up");
        instants.iter().try_for_each(|instant| fs::remove_file(&instant.image))?;
        Ok(())
    }

    fn work_and_copy(&mut self) -> Result<Vec<Instantly>> {
        let mut instants = Vec::new();
        let (ours, theirs) = (self.pair.victim_hand(Keeping::Synced)?, self.pair.peer_hand()?);
        self.pair.link().set(Direction::Backward, Faults::rate(SLOW_LINE));
        theirs.write_large(&mut self.pair.ledger, &mut self.dice)?;
        for number in 0..INSTANTS {
            theirs.change(&mut self.pair.ledger, &mut self.dice, 2)?;
            ours.change(&mut self.pair.ledger, &mut self.dice, 1)?;
            thread::sleep(Duration::from_millis(self.dice.below(GAP_MS_MAX)));
            match self.copy(number)? {
                Some(instant) => instants.push(instant),
                None => self.tally.void += 1,
            }
        }
        Ok(instants)
    }

    /// Copies the disk; `None` if it was written to meanwhile.
    fn copy(&mut self, number: u64) -> Result<Option<Instantly>> {
        let image = self.pair.dir().join(format!("instant-{number}.img"));
        let mut promises = Promises::default();
        promises.said(&self.pair.victim_status()?);
        self.pair.victim().signal(Signal::STOP)?;
        let disk = self.pair.disk.as_ref().context("the victim has no disk of its own")?;
        let copied = copy_if_quiet(disk, &image);
        promises.heard(&self.pair.peer_status()?);
        self.pair.victim().signal(Signal::CONT)?;
        let instant = Instantly { image, ledger: self.pair.ledger.clone(), promises };
        Ok(copied?.then_some(instant))
    }

    /// Starts a copy, and asks it for what was promised.
    fn boot(&mut self, instant: &Instantly) -> Result<()> {
        self.pair.part();
        self.pair.victim().kill()?;
        let disk = self.pair.disk.as_mut().context("the victim has no disk of its own")?;
        disk.restart_from(&instant.image)?;
        let (tree, folder) = (self.pair.victim_tree()?, self.pair.victim_folder());
        let read = |path: &Path| Ok(fs::read(folder.join(path))?);
        instant.ledger.clone().judge_remains(&tree, read)?;
        if self.pair.staged_parts()? > 0 {
            self.tally.count("image with staged content");
        }
        let status = self.pair.start_alone()?;
        instant.promises.demand_kept(&status)?;
        self.tally.iterations += 1;
        self.tally.count("image started alone");
        Ok(())
    }
}

/// Copies a disk that nobody writes to; whether nobody did.
fn copy_if_quiet(disk: &Disk, image: &Path) -> Result<bool> {
    let device = device_of(disk)?;
    let began = Instant::now();
    loop {
        let before = writes(&device)?;
        copy_sparse(disk.image(), image)?;
        if before == writes(&device)? && before.1 == 0 {
            return Ok(true);
        }
        if began.elapsed() > PATIENCE {
            return Ok(false);
        }
    }
}

fn device_of(disk: &Disk) -> Result<String> {
    let mut command = Command::new("losetup");
    command.args(["--noheadings", "--output", "NAME", "--associated"]).arg(disk.image());
    let output = command.output().context("starting losetup")?;
    let name = String::from_utf8_lossy(&output.stdout).trim().replace("/dev/", "");
    ensure!(!name.is_empty(), "{} is on no loop device", disk.image().display());
    Ok(name)
}

/// How many writes a device has done, and how many requests are under way.
fn writes(device: &str) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/sys/block/{device}/stat"))?;
    let field = |number: usize| {
        let field = text.split_whitespace().nth(number);
        field.and_then(|field| field.parse().ok()).context("the kernel counts nothing")
    };
    Ok((field(4)?, field(8)?))
}
