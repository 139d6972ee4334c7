//! Ways to damage a stopped node so that it does not notice when it starts.
//!
//! A file that is changed gets new stat facts, by which the node would read it again and take what
//! it finds for an edit. So the facts are forged into the node's record as well: what a disk does
//! that rots below the file system. Others damage the record itself.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use highwater_core::{
    ContentHash, Entry, EntryKind, Key, LogDigest, Mode, Mtime, Seq, ShareName, Version,
};
use highwater_folder::StatPrint;
use highwater_store::{Commit, EntryRow, LogRow, ShareNumber, Store};
use rustix::fs::AtFlags;

use crate::dice::Dice;
use crate::node::Node;

/// One damage, and what a check must say of it.
#[derive(Clone, Debug)]
pub(super) struct Wound {
    pub(super) name: &'static str,
    pub(super) key: String,
    pub(super) kind: &'static str,
}

/// A stopped node.
pub(super) struct Patient {
    folder: PathBuf,
    store: Store,
    number: ShareNumber,
    rows: Vec<EntryRow>,
    head: Seq,
    taken: BTreeSet<Key>,
}

/// A way to damage; `None` when it does not fit what was drawn.
type Way = fn(&mut Patient, &mut Dice) -> Result<Option<Vec<Wound>>>;

const WAYS: [Way; 15] = [
    flipped_byte,
    hidden_byte,
    truncated,
    extended,
    swapped,
    other_mode,
    zeroed,
    edited_record,
    missing,
    extra,
    stale,
    filled,
    led_elsewhere,
    other_mode_on_record,
    other_time_on_record,
];

/// Inflicts `count` wounds, of every kind in turn.
pub(super) fn inflict(patient: &mut Patient, dice: &mut Dice, count: usize) -> Result<Vec<Wound>> {
    let mut wounds = Vec::new();
    let mut ways = WAYS.iter().cycle();
    let mut tries = 0;
    while wounds.len() < count {
        tries += 1;
        ensure!(tries < 100 * count, "the share is too small for {count} damages");
        if let Some(way) = ways.next()
            && let Some(more) = way(patient, dice)?
        {
            wounds.extend(more);
        }
    }
    Ok(wounds)
}

impl Patient {
    pub(super) fn open(node: &Node, share: &str) -> Result<Self> {
        let store = Store::open(&node.home().join("store"))?;
        let name: ShareName = share.parse()?;
        let number = store.share(&name)?.context("the share is not in the store")?.number;
        let rows = store.entries(number, None).collect::<Result<Vec<_>, _>>()?;
        let head = store.head(number)?.0;
        Ok(Self { folder: node.folder(share), store, number, rows, head, taken: BTreeSet::new() })
    }

    /// Flips a bit, and forges the record.
    pub(super) fn rot(&self, key: &Key, at: u64) -> Result<()> {
        let row = self.rows.iter().find(|row| row.entry.key == *key).context("no such entry")?;
        unnoticed(&self.path(key), |file| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            Ok(file.write_all_at(&[byte[0] ^ 1], at)?)
        })?;
        self.forge(row)
    }

    /// Removes a file and its record.
    pub(super) fn lose(&self, key: &Key) -> Result<()> {
        let row = self.rows.iter().find(|row| row.entry.key == *key);
        let row = row.with_context(|| format!("'{key}' is not on record"))?;
        fs::remove_file(self.path(key))?;
        let mut commit = Commit::new();
        commit.forget_entry(self.number, key, Some(row.seq));
        Ok(self.store.commit(commit)?)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(key.as_str())
    }

    /// Draws a row that fits and was not damaged before.
    fn draw(&mut self, dice: &mut Dice, fits: impl Fn(&EntryRow) -> bool) -> Option<EntryRow> {
        let free = self.rows.iter().filter(|row| {
            row.entry.kind.is_live() && !self.taken.contains(&row.entry.key) && fits(row)
        });
        let free: Vec<EntryRow> = free.cloned().collect();
        let row = (!free.is_empty()).then(|| dice.pick(&free).clone())?;
        self.taken.insert(row.entry.key.clone());
        Some(row)
    }

    /// A file that is not empty.
    fn draw_file(&mut self, dice: &mut Dice) -> Option<EntryRow> {
        self.draw(dice, |row| row.entry.kind.size() > 1)
    }

    /// Forges the facts as they are now into the record.
    fn forge(&self, row: &EntryRow) -> Result<()> {
        let print = postcard::to_allocvec(&print_of(&self.path(&row.entry.key))?)?;
        self.put(&EntryRow { print: Some(print), ..row.clone() })
    }

    fn put(&self, row: &EntryRow) -> Result<()> {
        let mut commit = Commit::new();
        commit.put_entry(self.number, row);
        Ok(self.store.commit(commit)?)
    }
}

fn wound(name: &'static str, row: &EntryRow, kind: &'static str) -> Wound {
    Wound { name, key: row.entry.key.to_string(), kind }
}

fn print_of(path: &std::path::Path) -> Result<StatPrint> {
    let facts = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let time = |seconds, nanos| Mtime { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    let zero = Mtime { seconds: 0, nanos: 0 };
    let is_dir = facts.is_dir();
    Ok(StatPrint {
        ino: facts.ino(),
        size: if is_dir { 0 } else { facts.size() },
        mtime: if is_dir { zero } else { time(facts.mtime(), facts.mtime_nsec()) },
        ctime: if is_dir { zero } else { time(facts.ctime(), facts.ctime_nsec()) },
        mode: Mode::new(facts.mode()),
    })
}

/// Changes a file and puts its modification time back.
fn unnoticed(path: &std::path::Path, change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let modified: SystemTime = fs::metadata(path)?.modified()?;
    let file = File::options().read(true).write(true).open(path)?;
    change(&file)?;
    Ok(file.set_times(FileTimes::new().set_modified(modified))?)
}

fn flip(file: &File, dice: &mut Dice, size: u64) -> Result<()> {
    let (at, mut byte) = (dice.below(size), [0]);
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ (1 << dice.below(8))], at)?)
}

fn flipped_byte(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let size = row.entry.kind.size();
    unnoticed(&patient.path(&row.entry.key), |file| flip(file, dice, size))?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("flipped bit", &row, "corrupt")]))
}

fn hidden_byte(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let size = row.entry.kind.size();
    unnoticed(&patient.path(&row.entry.key), |file| flip(file, dice, size))?;
    Ok(Some(vec![wound("byte changed, size and time preserved", &row, "corrupt")]))
}

fn truncated(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let size = dice.below(row.entry.kind.size());
    unnoticed(&patient.path(&row.entry.key), |file| Ok(file.set_len(size)?))?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("truncated", &row, "corrupt")]))
}

fn extended(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let (size, more) = (row.entry.kind.size(), dice.between(1, 5000));
    let bytes = dice.bytes(usize::try_from(more)?);
    unnoticed(&patient.path(&row.entry.key), |file| Ok(file.write_all_at(&bytes, size)?))?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("extended", &row, "corrupt")]))
}

fn swapped(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(one) = patient.draw_file(dice) else { return Ok(None) };
    let content = one.entry.kind.content();
    let other =
        patient.draw(dice, |row| row.entry.kind.size() > 1 && row.entry.kind.content() != content);
    let Some(other) = other else { return Ok(None) };
    let paths = [patient.path(&one.entry.key), patient.path(&other.entry.key)];
    let contents = [fs::read(&paths[1])?, fs::read(&paths[0])?];
    for ((path, content), row) in paths.iter().zip(&contents).zip([&one, &other]) {
        unnoticed(path, |file| {
            file.set_len(content.len() as u64)?;
            Ok(file.write_all_at(content, 0)?)
        })?;
        patient.forge(row)?;
    }
    Ok(Some([&one, &other].map(|row| wound("swapped contents", row, "corrupt")).to_vec()))
}

fn other_mode(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    // The mode of a directory is looked at by every scan, so that of a file is damaged.
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let path = patient.path(&row.entry.key);
    let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode ^ 0o020))?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("wrong mode", &row, "metadata")]))
}

fn zeroed(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let (size, from) = (row.entry.kind.size(), dice.below(row.entry.kind.size()));
    let zeros = vec![0; usize::try_from((size - from).min(4096))?];
    let mut there = zeros.clone();
    unnoticed(&patient.path(&row.entry.key), |file| {
        file.read_exact_at(&mut there, from)?;
        // What was zero already would be no damage.
        let bytes = if there == zeros { vec![1; zeros.len()] } else { zeros };
        Ok(file.write_all_at(&bytes, from)?)
    })?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("block of zeros", &row, "corrupt")]))
}

fn edited_record(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let EntryKind::File { size, mode, mtime, .. } = row.entry.kind else { return Ok(None) };
    let content = ContentHash::of(&dice.bytes(32));
    let kind = EntryKind::File { size, content, mode, mtime };
    patient.put(&EntryRow { entry: Entry { kind, ..row.entry.clone() }, ..row.clone() })?;
    Ok(Some(vec![wound("edited record", &row, "corrupt")]))
}

fn missing(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let head = patient.head;
    let fits = |row: &EntryRow| row.entry.kind.size() > 0 && row.seq != head;
    let Some(row) = patient.draw(dice, fits) else { return Ok(None) };
    patient.lose(&row.entry.key)?;
    Ok(Some(vec![wound("missing", &row, "missing")]))
}

fn extra(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let mut hole = None;
    for number in 1..patient.head.0 {
        if patient.store.log_at(patient.number, Seq(number))?.is_none() {
            hole = Some(Seq(number));
            break;
        }
    }
    let like = patient.rows.iter().find(|row| row.entry.kind.size() > 0).cloned();
    let (Some(seq), Some(like)) = (hole, like) else { return Ok(None) };
    let key: Key = format!("extra-{:016x}", dice.roll()).parse()?;
    let (path, bytes) = (patient.path(&key), dice.bytes(700));
    fs::write(&path, &bytes)?;
    let print = print_of(&path)?;
    let StatPrint { size, mode, mtime, .. } = print;
    let kind = EntryKind::File { size, content: ContentHash::of(&bytes), mode, mtime };
    let actor = like.entry.version.counters().next().context("a version names somebody")?.0;
    let version = Version::default().with_change(actor, seq);
    let entry = Entry { key: key.clone(), kind, version, ..like.entry };
    let print = Some(postcard::to_allocvec(&print)?);
    let row = EntryRow { entry, seq, print, learned_from: None };
    let mut commit = Commit::new();
    let log = LogRow { key, digest: LogDigest::default() };
    commit.append(patient.number, &row, &log, None);
    patient.store.commit(commit)?;
    Ok(Some(vec![wound("extra", &row, "extra")]))
}

fn stale(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let fits = |row: &EntryRow| {
        let first = row.entry.version.counters().next();
        (2..20_000).contains(&row.entry.kind.size()) && first.is_some_and(|(_, seq)| seq.0 > 1)
    };
    let Some(row) = patient.draw(dice, fits) else { return Ok(None) };
    let path = patient.path(&row.entry.key);
    let bytes = dice.bytes(500);
    fs::write(&path, &bytes)?;
    let print = print_of(&path)?;
    let StatPrint { size, mode, mtime, .. } = print;
    let mut counters: Vec<_> = row.entry.version.counters().collect();
    counters[0].1 = Seq(counters[0].1.0 - 1);
    let kind = EntryKind::File { size, content: ContentHash::of(&bytes), mode, mtime };
    let version = Version::from_counters(counters);
    let entry = Entry { kind, version, ..row.entry.clone() };
    let print = Some(postcard::to_allocvec(&print)?);
    patient.put(&EntryRow { entry, print, ..row.clone() })?;
    Ok(Some(vec![wound("stale version", &row, "content")]))
}

fn filled(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let is_empty_file =
        |row: &EntryRow| row.entry.kind.content().is_some() && row.entry.kind.size() == 0;
    let Some(row) = patient.draw(dice, is_empty_file) else { return Ok(None) };
    let bytes = dice.bytes(300);
    unnoticed(&patient.path(&row.entry.key), |file| Ok(file.write_all_at(&bytes, 0)?))?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("an empty file that is not", &row, "corrupt")]))
}

fn led_elsewhere(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let is_link = |row: &EntryRow| matches!(row.entry.kind, EntryKind::Symlink { .. });
    let Some(row) = patient.draw(dice, is_link) else { return Ok(None) };
    let path = patient.path(&row.entry.key);
    let StatPrint { mtime, .. } = print_of(&path)?;
    fs::remove_file(&path)?;
    symlink(format!("nowhere-{:x}", dice.roll()), &path)?;
    let time = rustix::fs::Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    patient.forge(&row)?;
    Ok(Some(vec![wound("a link that leads elsewhere", &row, "corrupt")]))
}

fn other_mode_on_record(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let EntryKind::File { size, content, mode, mtime } = row.entry.kind else { return Ok(None) };
    let mode = Mode::new(mode.bits() ^ 0o020);
    let kind = EntryKind::File { size, content, mode, mtime };
    patient.put(&EntryRow { entry: Entry { kind, ..row.entry.clone() }, ..row.clone() })?;
    Ok(Some(vec![wound("another mode on record", &row, "metadata")]))
}

fn other_time_on_record(patient: &mut Patient, dice: &mut Dice) -> Result<Option<Vec<Wound>>> {
    let Some(row) = patient.draw_file(dice) else { return Ok(None) };
    let EntryKind::File { size, content, mode, mtime } = row.entry.kind else { return Ok(None) };
    let mtime = Mtime { seconds: mtime.seconds - 100, ..mtime };
    let kind = EntryKind::File { size, content, mode, mtime };
    patient.put(&EntryRow { entry: Entry { kind, ..row.entry.clone() }, ..row.clone() })?;
    Ok(Some(vec![wound("another time on record", &row, "metadata")]))
}
