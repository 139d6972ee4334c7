//! Power cuts, deaths and failing disks, a small amount of each; `highwater-lab crash` does more.
//!
//! What this machine cannot do is skipped, with the reason.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_lab::crash::disk::{FileSystem, Journal};
use highwater_lab::crash::errno::Errors;
use highwater_lab::crash::kill::Kills;
use highwater_lab::crash::ledger::Keeping;
use highwater_lab::crash::pair::{PATIENCE, Pair};
use highwater_lab::crash::tally::Tally;
use highwater_lab::crash::trace::{Fault, Injection, Tracer, When};
use highwater_lab::crash::{self, Common, Role, disk, trace};
use highwater_lab::dice::Dice;
use highwater_lab::status::Status;
use highwater_tests::{Slot, highwater};

/// How often it is looked whether a node has died.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);

fn common() -> Common {
    Common { exe: highwater(), seed: 1, lanes: 1, keep: false }
}

/// Runs `story` unless something is missing for it.
fn unless(missing: Option<&str>, story: impl FnOnce() -> Result<()>) {
    if let Some(why) = missing {
        eprintln!("skipped: {why}");
        return;
    }
    let _slot = Slot::take();
    story().unwrap_or_else(|error| panic!("{error:#}"));
}

fn demand_held(tally: &Tally) -> Result<()> {
    ensure!(tally.held(), "{tally:#?}");
    Ok(())
}

#[test]
fn a_power_cut_takes_nothing_that_was_promised_and_leaves_no_part_of_a_file() {
    unless(disk::missing(), || demand_held(&crash::power_cuts(&common(), 8, FileSystem::Ext4)?));
}

#[test]
fn every_copy_of_a_disk_that_is_at_work_starts_with_all_that_was_promised() {
    unless(disk::missing(), || demand_held(&crash::disk_copies(&common(), 10, FileSystem::Ext4)?));
}

#[test]
fn a_node_that_is_killed_at_a_system_call_has_lost_nothing() {
    unless(trace::missing(), || demand_held(&crash::kills(&common(), 12)?));
}

#[test]
fn a_call_that_fails_is_overcome_or_reported() {
    unless(trace::missing(), || demand_held(&crash::failing_calls(&common(), 10)?));
}

/// A user saved files and nothing synced them. The node announced them, the peer fetched them, the
/// power went. The files came back empty, or not at all; the next scan took that for edits and
/// deletes, and the peer's good copies were replaced.
#[test]
fn a_file_that_nobody_synced_outlives_a_power_cut_once_a_peer_has_it() {
    unless(disk::missing(), || {
        for journal in [Journal::Flushed, Journal::Lost] {
            let mut pair = Pair::start(&highwater(), Some(FileSystem::Ext4))?;
            let hand = pair.victim_hand(Keeping::Loose)?;
            let (path, bytes) = (Path::new("d0/report"), Dice::new(1).bytes(20_000));
            hand.write(&mut pair.ledger, path, &bytes)?;
            let fuse = pair.disk.as_ref().context("a disk of its own")?.arm(journal)?;
            let there = pair.peer_folder().join(path);
            pair.wait_peer("the peer has it", |_| fs::read(&there).is_ok_and(|b| b == bytes))?;
            fuse.blow()?;
            pair.victim().kill()?;
            let witnessed = pair.ledger.witnessed_by(&pair.peer_tree()?);
            ensure!(witnessed == 1, "the peer has lost it by itself");
            pair.disk.as_mut().context("a disk of its own")?.restart()?;
            pair.victim().start()?;
            pair.settle().with_context(|| format!("{journal:?}"))?;
        }
        Ok(())
    });
}

/// The last range of a large content was acknowledged without a record. A node that was killed
/// before the content had its name fetched up to 1 MiB of it again.
#[test]
fn a_node_that_is_killed_between_the_last_byte_and_its_name_fetches_nothing_again() {
    unless(trace::missing(), || {
        let mut pair = Pair::start(&highwater(), None)?;
        let log = pair.dir().join("strace.log");
        let pid = pair.victim().pid().context("the victim is down")?;
        let injection = Injection { call: "renameat2", fault: Fault::Kill, when: When::Call(1) };
        // Its directory is there before: making that is a rename as well.
        let hand = pair.peer_hand()?;
        hand.write_large(&mut pair.ledger, &mut Dice::new(1))?;
        pair.settle()?;
        let tracer = Tracer::attach(pid, &log, Some(injection))?;
        hand.write_large(&mut pair.ledger, &mut Dice::new(2))?;
        pair.wait_peer("the victim is dead", |_| tracer.seen().is_ok_and(|seen| seen.killed))?;
        tracer.detach()?;
        pair.victim().kill()?;
        pair.victim().start()?;
        pair.settle()?;
        let received = pair.victim_status()?.counters.content_bytes_received;
        ensure!(received == 0, "{received} bytes came again");
        Ok(())
    });
}

/// A folder was put back from a backup. The node noticed it, and was killed before it had read it
/// all; started again, it took what was absent for its user's deletes.
#[test]
fn a_node_that_is_killed_while_it_reads_a_folder_that_was_put_back_deletes_nothing() {
    unless(trace::missing(), || {
        let mut pair = Pair::start(&highwater(), None)?;
        let (folder, backup) = (pair.victim_folder(), pair.dir().join("backup"));
        for number in 0..40 {
            let dir = folder.join(format!("dir-{number}"));
            fs::create_dir(&dir)?;
            fs::write(dir.join("old"), format!("as it was {number}"))?;
        }
        agreed(&pair, "the peer has the old files")?;
        pair.victim().stop()?;
        copy(&folder, &backup)?;
        pair.victim().start()?;
        let late = [folder.join("dir-7/late"), pair.peer_folder().join("dir-7/late")];
        fs::write(&late[0], "made since")?;
        pair.wait_peer("the peer has what was made since", |_| late[1].exists())?;
        agreed(&pair, "all is in sync")?;
        pair.victim().stop()?;
        fs::remove_dir_all(&folder)?;
        copy(&backup, &folder)?;
        let log = pair.dir().join("strace.log");
        let when = When::Call(20);
        let injection = Injection { call: "getdents64", fault: Fault::Kill, when };
        // It may die before or after it has said that it serves.
        let _ = pair.start_traced(&log, Some(injection));
        let began = Instant::now();
        while !pair.victim().has_died()? {
            ensure!(began.elapsed() < PATIENCE, "it was not killed");
            thread::sleep(WATCH_INTERVAL);
        }
        pair.victim().kill()?;
        pair.victim().start()?;
        agreed(&pair, "all is in sync again")?;
        ensure!(late.iter().all(|path| path.exists()), "what the backup lacked was deleted");
        Ok(())
    });
}

/// Waits until both are in sync and their folders are equal.
fn agreed(pair: &Pair, what: &str) -> Result<()> {
    pair.wait_in_sync()?;
    let equal = |status: &Status| status.in_sync() && pair.agree().unwrap_or(false);
    pair.wait_peer(what, equal).map(drop)
}

/// Copies a directory with all that a backup keeps.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().context("running cp")?;
    ensure!(status.success(), "cp -a {} {}", from.display(), to.display());
    Ok(())
}

#[test]
fn a_store_that_cannot_sync_says_nothing_more_until_its_node_is_started_again() {
    unless(trace::missing(), || {
        let mut errors = Errors::start(&highwater(), 1)?;
        for (call, when) in [("fdatasync", When::From(1)), ("sync_file_range", When::Call(1))] {
            for role in [Role::Receiver, Role::Sender] {
                errors.fail_at(role, Injection { call, fault: Fault::Error("EIO"), when })?;
            }
        }
        let kept = errors.tally.events.get("silence kept after a failed sync").copied();
        ensure!(kept == Some(4), "{:#?}", errors.tally);
        Ok(())
    });
}

/// A disk that failed to read a file, and then worked again, told nobody that it did: the edit stayed
/// on its node until the next whole scan.
#[test]
fn a_file_that_cannot_be_read_for_a_while_is_named_and_then_read_by_itself() {
    unless(trace::missing(), || {
        let mut pair = Pair::start(&highwater(), None)?;
        let [here, there] =
            [pair.victim_folder(), pair.peer_folder()].map(|dir| dir.join("edited"));
        fs::write(&here, "as it was")?;
        agreed(&pair, "the peer has it")?;
        let pid = pair.victim().pid().context("the victim is down")?;
        let fault = Fault::Error("EIO");
        let injection = Injection { call: "pread64", fault, when: When::From(1) };
        let log = pair.dir().join("strace.log");
        let tracer = Tracer::attach_to_file(pid, &log, injection, &here)?;
        fs::write(&here, "as it is now")?;
        let named = |status: &Status| {
            let mut problems = status.shares.iter().flat_map(|share| &share.problems);
            problems.any(|problem| problem.path == "edited" && problem.kind == "unreadable")
        };
        pair.victim().wait_until("the file is named", PATIENCE, named)?;
        ensure!(fs::read(&there)? == b"as it was", "what could not be read has crossed");
        ensure!(!tracer.detach()?.injected.is_empty(), "nothing failed");
        agreed(&pair, "the peer has the edit")?;
        ensure!(fs::read(&there)? == b"as it is now", "the edit is lost");
        ensure!(!named(&pair.victim_status()?), "the problem stands");
        Ok(())
    });
}

#[test]
fn a_node_that_is_killed_while_it_names_a_file_shows_the_old_or_the_new_one() {
    unless(trace::missing(), || {
        let mut kills = Kills::start(&highwater(), 1)?;
        for number in 1..=3 {
            let when = When::Call(number);
            let injection = Injection { call: "renameat2", fault: Fault::Kill, when };
            ensure!(kills.kill_at(Role::Receiver, injection)?, "it was not killed");
        }
        Ok(())
    });
}
