//! The rows in which a transfer is broken at half: black hole, SIGKILL of either side.
//!
//! What was sent again is counted on the wire, where it cannot be denied: the bytes that came to
//! the sink, less those of the same transfer undisturbed, which is measured first and alone. Data
//! flows again when more than a handful of packets has come to the sink after the return.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Figures;
use super::arena::{Arena, End};
use super::contender::Contender;
use super::rows::{GIB, LOOK_INTERVAL, MIB, demand_equal, length_is, mib, sync_made, wait_for};
use crate::tree;

/// The rate of the line.
const RATE: u64 = 60_000_000;
/// How long packets vanish.
const HOLE: Duration = Duration::from_secs(8);
/// How long a killed process is gone.
const GONE: Duration = Duration::from_secs(2);
/// Handshakes and greetings are less than this; content is soon more.
const FLOWING: u64 = MIB;

/// A transfer of 1 GiB over a slow line that has begun.
struct Running {
    began: Instant,
    received: u64,
}

fn begin(arena: &Arena, contender: &mut dyn Contender) -> Result<Running> {
    arena.limit(RATE)?;
    let made = contender.workshop().join("big");
    tree::write_file(&made, GIB, 1)?;
    sync_made(&made)?;
    let received = arena.received(End::Sink)?;
    let began = Instant::now();
    fs::rename(&made, contender.folder(End::Source).join("big"))?;
    contender.nudge()?;
    Ok(Running { began, received })
}

/// Waits until half has come over the wire.
fn reach_half(arena: &Arena, contender: &mut dyn Contender, running: &Running) -> Result<()> {
    let half = running.received + GIB / 2;
    wait_for(contender, LOOK_INTERVAL, |_| arena.received(End::Sink).is_ok_and(|r| r >= half))
}

fn finish(arena: &Arena, contender: &mut dyn Contender, running: &Running) -> Result<Figures> {
    let arrived = contender.folder(End::Sink).join("big");
    wait_for(contender, LOOK_INTERVAL, |_| length_is(&arrived, GIB))?;
    contender.settle()?;
    let seconds = running.began.elapsed().as_secs_f64();
    let received = arena.received(End::Sink)? - running.received;
    demand_equal(contender)?;
    let mut figures = Figures::from([("seconds", seconds), ("received MiB", mib(received))]);
    if let Some(resent) = contender.resent() {
        figures.insert("resent by own count MiB", mib(resent));
    }
    Ok(figures)
}

/// Waits until content flows after the return; how long that took.
fn return_time(arena: &Arena, contender: &mut dyn Contender, back: Instant) -> Result<f64> {
    let flowing = arena.received(End::Sink)? + FLOWING;
    wait_for(contender, LOOK_INTERVAL, |_| arena.received(End::Sink).is_ok_and(|r| r >= flowing))?;
    // What the line itself takes to carry the amount by which the flow is told.
    let carried = Duration::from_secs_f64(FLOWING as f64 / RATE as f64);
    Ok(back.elapsed().saturating_sub(carried).as_secs_f64())
}

/// The transfer without any fault.
pub(super) fn undisturbed(arena: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    let running = begin(arena, contender)?;
    finish(arena, contender, &running)
}

/// Packets vanish at half, for a while.
pub(super) fn black_hole(arena: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    let running = begin(arena, contender)?;
    reach_half(arena, contender, &running)?;
    arena.swallow()?;
    let swallowed = Instant::now();
    while swallowed.elapsed() < HOLE {
        contender.persist()?;
        thread::sleep(LOOK_INTERVAL);
    }
    arena.deliver()?;
    let returned = return_time(arena, contender, Instant::now())?;
    let mut figures = finish(arena, contender, &running)?;
    figures.insert("data after return s", returned);
    Ok(figures)
}

/// One end is killed at half and comes back.
pub(super) fn kill(arena: &Arena, contender: &mut dyn Contender, end: End) -> Result<Figures> {
    let running = begin(arena, contender)?;
    reach_half(arena, contender, &running)?;
    let arrived = contender.folder(End::Sink).join("big");
    contender.kill(end)?;
    // rsync writes in place: its file may have its whole length early, and is not looked at here.
    ensure!(!contender.watches() || !length_is(&arrived, GIB), "it was killed too late");
    thread::sleep(GONE);
    let back = Instant::now();
    contender.restart(end)?;
    let returned = return_time(arena, contender, back)?;
    let mut figures = finish(arena, contender, &running)?;
    figures.insert("data after return s", returned);
    Ok(figures)
}
