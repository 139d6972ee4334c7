//! The work: each row of the table "speed and size", the same for every contender.
//!
//! A row begins with two connected ends and empty folders. Data is made outside the source's
//! folder and moved into it, so that making it is not measured. The clock stops when the sink's
//! folder holds the whole result under its real names; that it is the right result is then proven
//! by reading both folders.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Figures;
use super::arena::{Arena, End};
use super::contender::Contender;
use super::faults;
use crate::dice::Dice;
use crate::node::Resident;
use crate::{oracle, tree};

pub(super) const MIB: u64 = 1024 * 1024;
pub(super) const GIB: u64 = 1024 * MIB;
const SMALL_FILES: u64 = 20_000;
const SMALL_BYTES: usize = 4096;
const DELTA_BYTES: u64 = 256 * MIB;
/// Changes of which the slowest hundredth is taken.
const VISIBLE_CHANGES: usize = 200;
/// Fewer for a contender that takes a second for each.
const VISIBLE_CHANGES_SLOW: usize = 10;
const VISIBLE_SLOW: Duration = Duration::from_millis(500);
/// A change comes when the last one has settled, as from a person who saves now and then.
const VISIBLE_PAUSE: Duration = Duration::from_millis(20);
/// How long the last acknowledgements may travel before wire bytes are read.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long idling is watched, after a while to come to rest.
const REST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
/// Longest wait for an arrival.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the sink's folder is looked at: a stat for one file, a walk for many.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const WALK_INTERVAL: Duration = Duration::from_millis(100);
/// Clock ticks a second in `/proc/PID/stat`; fixed on Linux for programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) work: &'static str,
    pub(crate) bar: &'static str,
    pub(crate) measure: fn(&Arena, &mut dyn Contender) -> Result<Figures>,
}

/// The table.
pub(crate) const ROWS: [Row; 15] = [
    Row {
        name: "cold-1gib",
        work: "one cold file of 1 GiB",
        bar: "seconds: at most half of Syncthing",
        measure: cold_large,
    },
    Row {
        name: "small-20k",
        work: "20,000 files of 4 KiB",
        bar: "seconds: at most a quarter of Syncthing, no slower than rsync",
        measure: cold_small,
    },
    Row {
        name: "visible-4kib",
        work: "a 4 KiB file, closed or renamed into place, to visible on the peer",
        bar: "p99 at most 100 ms",
        measure: visible,
    },
    Row {
        name: "overwrite-1mib",
        work: "1 MiB overwritten inside a synced 256 MiB file",
        bar: "wire at most 1.6 MiB",
        measure: |arena, contender| delta(arena, contender, overwrite),
    },
    Row {
        name: "append-1mib",
        work: "1 MiB appended to a synced 256 MiB file",
        bar: "wire at most 1.6 MiB",
        measure: |arena, contender| delta(arena, contender, append),
    },
    Row {
        name: "insert-1kib",
        work: "1 KiB inserted at the front of a synced 256 MiB file",
        bar: "wire at most 0.6 MiB",
        measure: |arena, contender| delta(arena, contender, insert),
    },
    Row {
        name: "rename",
        work: "a synced 256 MiB file renamed",
        bar: "wire at most 64 KiB",
        measure: |arena, contender| delta(arena, contender, rename),
    },
    Row {
        name: "copy",
        work: "a synced 256 MiB file copied",
        bar: "wire at most 64 KiB",
        measure: |arena, contender| delta(arena, contender, copy),
    },
    Row {
        name: "slow-1gib",
        work: "1 GiB at 60 MB/s, undisturbed: what the next three are compared with",
        bar: "none",
        measure: faults::undisturbed,
    },
    Row {
        name: "black-hole",
        work: "1 GiB at 60 MB/s, a black hole of 8 s at half",
        bar: "resent at most 4 MiB; data within 1 s of the return",
        measure: faults::black_hole,
    },
    Row {
        name: "kill-receiver",
        work: "1 GiB at 60 MB/s, SIGKILL of the receiver at half, restart after 2 s",
        bar: "resent at most 4 MiB; data within 1 s of the return",
        measure: |arena, contender| faults::kill(arena, contender, End::Sink),
    },
    Row {
        name: "kill-sender",
        work: "1 GiB at 60 MB/s, SIGKILL of the sender at half, restart after 2 s",
        bar: "resent at most 4 MiB; data within 1 s of the return",
        measure: |arena, contender| faults::kill(arena, contender, End::Source),
    },
    Row {
        name: "idle-20k",
        work: "idle with 20,000 files synced",
        bar: "at most 30 MB resident, 0.5 % of a core",
        measure: idle,
    },
    Row {
        name: "restart-20k",
        work: "restart with 20,000 files synced",
        bar: "in sync again within 2 s",
        measure: restart,
    },
    Row { name: "cold-100k", work: "100,000 files of 100 bytes", bar: "none", measure: cold_many },
];

fn cold_large(arena: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    let made = contender.workshop().join("big");
    tree::write_file(&made, GIB, 1)?;
    sync_made(&made)?;
    let wire = arena.wire_bytes()?;
    let began = Instant::now();
    fs::rename(&made, contender.folder(End::Source).join("big"))?;
    contender.nudge()?;
    let arrived = contender.folder(End::Sink).join("big");
    wait_for(contender, LOOK_INTERVAL, |_| length_is(&arrived, GIB))?;
    contender.settle()?;
    let seconds = began.elapsed().as_secs_f64();
    let wire = arena.wire_bytes()? - wire;
    demand_equal(contender)?;
    let peak = End::BOTH.map(|end| peak(contender, end));
    Ok(Figures::from([
        ("seconds", seconds),
        ("wire MiB", mib(wire)),
        ("peak source MB", peak[0]),
        ("peak sink MB", peak[1]),
    ]))
}

/// Moves a tree of many files into the source's folder and waits for all of it.
fn put_many(contender: &mut dyn Contender, count: u64, size: usize) -> Result<Duration> {
    let made = contender.workshop().join("tree");
    tree::write_many(&made, count, size, 1)?;
    sync_made(&made)?;
    let began = Instant::now();
    fs::rename(&made, contender.folder(End::Source).join("tree"))?;
    contender.nudge()?;
    let arrived = contender.folder(End::Sink).join("tree");
    wait_for(contender, WALK_INTERVAL, |_| count_whole(&arrived, size as u64) == count)?;
    let seen = began.elapsed();
    contender.settle()?;
    demand_equal(contender)?;
    // rsync is done when it says so: until then its files are not yet synced to disk.
    Ok(if contender.watches() { seen } else { began.elapsed().max(seen) })
}

fn cold_small(arena: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    cold_tree(arena, contender, SMALL_FILES, SMALL_BYTES)
}

fn cold_many(arena: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    cold_tree(arena, contender, 100_000, 100)
}

fn cold_tree(
    arena: &Arena,
    contender: &mut dyn Contender,
    count: u64,
    size: usize,
) -> Result<Figures> {
    let wire = arena.wire_bytes()?;
    let seconds = put_many(contender, count, size)?.as_secs_f64();
    let wire = arena.wire_bytes()? - wire;
    let peak = End::BOTH.map(|end| peak(contender, end));
    Ok(Figures::from([
        ("seconds", seconds),
        ("wire MiB", mib(wire)),
        ("peak source MB", peak[0]),
        ("peak sink MB", peak[1]),
    ]))
}

fn visible(_: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    ensure!(contender.watches(), "it does not watch");
    let mut times = Vec::new();
    let mut wanted = VISIBLE_CHANGES;
    while times.len() < wanted {
        let number = times.len();
        let bytes = Dice::new(number as u64).bytes(SMALL_BYTES);
        let name = format!("f{number}");
        let target = contender.folder(End::Source).join(&name);
        let arrived = contender.folder(End::Sink).join(&name);
        // Half of the changes are renamed into place, half are written there and closed.
        let began = if number.is_multiple_of(2) {
            let made = contender.workshop().join(&name);
            fs::write(&made, &bytes)?;
            let began = Instant::now();
            fs::rename(&made, &target)?;
            began
        } else {
            fs::write(&target, &bytes)?;
            Instant::now()
        };
        let size = SMALL_BYTES as u64;
        wait_for(contender, Duration::from_micros(200), |_| length_is(&arrived, size))?;
        times.push(began.elapsed());
        if times[0] > VISIBLE_SLOW {
            wanted = VISIBLE_CHANGES_SLOW;
        }
        thread::sleep(VISIBLE_PAUSE);
    }
    contender.settle()?;
    demand_equal(contender)?;
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_secs_f64();
    Ok(Figures::from([
        ("p50 ms", at(50) * 1e3),
        ("p99 ms", at(99) * 1e3),
        ("max ms", at(100) * 1e3),
    ]))
}

/// An edit of the file `big` in this folder, with a workshop beside it; the path it concerns.
type Edit = fn(&Path, &Path) -> Result<PathBuf>;

fn delta(arena: &Arena, contender: &mut dyn Contender, edit: Edit) -> Result<Figures> {
    let (source, sink) = (contender.folder(End::Source), contender.folder(End::Sink));
    let made = contender.workshop().join("big");
    tree::write_file(&made, DELTA_BYTES, 1)?;
    fs::rename(&made, source.join("big"))?;
    contender.nudge()?;
    wait_for(contender, LOOK_INTERVAL, |_| same_stat(&source.join("big"), &sink.join("big")))?;
    contender.settle()?;
    thread::sleep(LAST_WORDS);
    let wire = arena.wire_bytes()?;
    let began = Instant::now();
    let edited = edit(&source, &contender.workshop())?;
    contender.nudge()?;
    let (here, there) = (source.join(&edited), sink.join(&edited));
    wait_for(contender, LOOK_INTERVAL, |_| same_stat(&here, &there))?;
    let seconds = began.elapsed().as_secs_f64();
    contender.settle()?;
    thread::sleep(LAST_WORDS);
    let wire = arena.wire_bytes()? - wire;
    demand_equal(contender)?;
    Ok(Figures::from([("wire MiB", mib(wire)), ("seconds", seconds)]))
}

fn overwrite(folder: &Path, _: &Path) -> Result<PathBuf> {
    let mut file = OpenOptions::new().write(true).open(folder.join("big"))?;
    file.seek(SeekFrom::Start(DELTA_BYTES / 3))?;
    file.write_all(&Dice::new(2).bytes(MIB as usize))?;
    Ok("big".into())
}

fn append(folder: &Path, _: &Path) -> Result<PathBuf> {
    let mut file = OpenOptions::new().append(true).open(folder.join("big"))?;
    file.write_all(&Dice::new(3).bytes(MIB as usize))?;
    Ok("big".into())
}

fn insert(folder: &Path, workshop: &Path) -> Result<PathBuf> {
    let made = workshop.join("longer");
    let mut file = File::create(&made)?;
    file.write_all(&Dice::new(4).bytes(1024))?;
    std::io::copy(&mut File::open(folder.join("big"))?, &mut file)?;
    fs::rename(made, folder.join("big"))?;
    Ok("big".into())
}

fn rename(folder: &Path, _: &Path) -> Result<PathBuf> {
    fs::rename(folder.join("big"), folder.join("renamed"))?;
    Ok("renamed".into())
}

fn copy(folder: &Path, workshop: &Path) -> Result<PathBuf> {
    fs::copy(folder.join("big"), workshop.join("copy"))?;
    fs::rename(workshop.join("copy"), folder.join("copy"))?;
    Ok("copy".into())
}

fn idle(arena: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    put_many(contender, SMALL_FILES, SMALL_BYTES)?;
    thread::sleep(REST);
    let wire = arena.wire_bytes()?;
    let before = End::BOTH.map(|end| processor_seconds(contender, end));
    thread::sleep(IDLE);
    let after = End::BOTH.map(|end| processor_seconds(contender, end));
    let wire = arena.wire_bytes()? - wire;
    let percent = |end: usize| (after[end] - before[end]) / IDLE.as_secs_f64() * 100.0;
    Ok(Figures::from([
        ("resident source MB", resident(contender, End::Source)),
        ("resident sink MB", resident(contender, End::Sink)),
        ("core source %", percent(0)),
        ("core sink %", percent(1)),
        ("wire bytes/s", wire as f64 / IDLE.as_secs_f64()),
    ]))
}

fn restart(_: &Arena, contender: &mut dyn Contender) -> Result<Figures> {
    put_many(contender, SMALL_FILES, SMALL_BYTES)?;
    match contender.time_to_rejoin()? {
        Some(time) => Ok(Figures::from([("seconds", time.as_secs_f64())])),
        None => bail!("it has no state of being in sync"),
    }
}

/// Looks again and again until `arrived`, and keeps the contender trying.
pub(super) fn wait_for(
    contender: &mut dyn Contender,
    interval: Duration,
    mut arrived: impl FnMut(&dyn Contender) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !arrived(contender) {
        contender.persist()?;
        ensure!(Instant::now() < deadline, "it did not arrive within {PATIENCE:?}");
        thread::sleep(interval);
    }
    Ok(())
}

pub(super) fn demand_equal(contender: &dyn Contender) -> Result<()> {
    let trees = End::BOTH.map(|end| oracle::read_tree(&contender.folder(end)));
    let [source, sink] = trees;
    let differ: Vec<String> = oracle::differences(&source?, &sink?)
        .into_iter()
        .filter(|line| !line.starts_with(".stfolder"))
        .collect();
    ensure!(differ.is_empty(), "the folders differ: {:?}", &differ[..differ.len().min(5)]);
    Ok(())
}

/// Makes fresh data durable, so that nobody pays for writing it back.
pub(super) fn sync_made(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    rustix::fs::syncfs(&file).with_context(|| format!("syncing {}", path.display()))
}

pub(super) fn length_is(path: &Path, length: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == length)
}

/// Whether two files have the same length and modification time.
fn same_stat(left: &Path, right: &Path) -> bool {
    let (Ok(left), Ok(right)) = (fs::metadata(left), fs::metadata(right)) else { return false };
    let of = |m: &fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec());
    of(&left) == of(&right)
}

/// How many files of exactly this size lie below, leaving out those that are still being made.
fn count_whole(dir: &Path, size: u64) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut count = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let temporary = name.to_string_lossy().starts_with('.');
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            count += count_whole(&entry.path(), size);
        } else if !temporary && entry.metadata().is_ok_and(|metadata| metadata.len() == size) {
            count += 1;
        }
    }
    count
}

fn resident(contender: &dyn Contender, end: End) -> f64 {
    let of = |pid: u32| Resident::of(pid).map_or(0, |resident| resident.now);
    contender.resident(end).into_iter().map(of).sum::<u64>() as f64 / 1e6
}

fn peak(contender: &dyn Contender, end: End) -> f64 {
    let of = |pid: u32| Resident::of(pid).map_or(0, |resident| resident.peak);
    contender.resident(end).into_iter().map(of).sum::<u64>() as f64 / 1e6
}

fn processor_seconds(contender: &dyn Contender, end: End) -> f64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = |index: usize| fields.split_whitespace().nth(index)?.parse::<f64>().ok();
        ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)
    };
    contender.resident(end).into_iter().map(of).sum::<f64>() / TICKS_PER_SECOND
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
