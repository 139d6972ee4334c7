//! A deep pass: every byte of one share on this node is read again and compared with the record.
//!
//! It runs on a thread of its own beside the share, reads the index and the folder and changes
//! neither. How far it is and what it found are rows of the store, so that it goes on where it was
//! after a restart. What may be an edit that no scan has met is pointed out to the share, and looked
//! at again at the end: only what stays different then was found.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater_core::check::{CheckId, DamageCause, DeepProgress};
use highwater_core::{Key, Manifest};
use highwater_folder::{
    Audit, AuditError, AuditSink, Discord, DiscordCause, Found, IgnoreRules, StatPrint,
};
use highwater_store::{Commit, DeepRow, FoundRow, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::share::check::CheckCall;
use crate::share::replica::{decode_print, encode_print};
use crate::share::scanner::Index;
use crate::share::{Event, Stock};

/// How often the position is made durable: what is read again after a crash.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How long to wait for a scan of what may be an edit, each time; and how often to wait.
const SETTLE_WAITS: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// What was written within this time is being edited: not a finding.
const BEING_EDITED: Duration = Duration::from_secs(10);
/// Findings that are looked at again in one round; so many edits at once are a scan's business.
const UNSETTLED_MAX: usize = 20_000;
/// Rows of an earlier pass that are forgotten in one commit.
const FORGET_ROWS: usize = 1024;

/// The deep passes of one share: one at a time.
#[derive(Debug, Default)]
pub(crate) struct DeepDesk {
    running: Mutex<Option<Running>>,
    /// Bytes a second that this node reads at most, whoever asks; 0 for no limit.
    rate_max: AtomicU64,
}

#[derive(Debug)]
struct Running {
    check: CheckId,
    progress: watch::Receiver<DeepProgress>,
    stop: Arc<AtomicBool>,
}

/// What a pass is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeepOrder {
    /// For which check.
    pub(crate) check: CheckId,
    /// Bytes a second; 0 for no limit.
    pub(crate) rate: u64,
    /// Whether files are to come from the disk rather than from the kernel's cache.
    pub(crate) from_disk: bool,
}

/// Why a pass was not begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeepError {
    /// Another check reads this share just now.
    #[error("another check is reading this share")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system grants no thread.
    #[error("the system grants no thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl DeepDesk {
    /// Sets how many bytes a second this node reads at most, from the next pass on.
    pub(crate) fn set_rate_max(&self, rate: u64) {
        self.rate_max.store(rate, Ordering::Relaxed);
    }

    /// Begins a pass, goes on with it, or finds it under way or done.
    pub(crate) fn begin(
        &self,
        stock: Stock,
        total: u64,
        events: mpsc::WeakSender<Event>,
        order: DeepOrder,
    ) -> Result<watch::Receiver<DeepProgress>, DeepError> {
        let rate = slower(order.rate, self.rate_max.load(Ordering::Relaxed));
        let order = DeepOrder { rate, ..order };
        let mut running = self.running();
        if let Some(other) = running.as_ref() {
            let ended = other.progress.has_changed().is_err();
            match (other.check == order.check, ended) {
                (true, false) => return Ok(other.progress.clone()),
                (false, false) if !other.progress.borrow().done => return Err(DeepError::Busy),
                _ => {}
            }
        }
        let row = begin_row(&stock, &order)?;
        let now = DeepProgress { total, ..progress_of(&row) };
        let (told, progress) = watch::channel(now);
        if row.done {
            return Ok(progress);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let pass = Pass { stock, events, row, total, told, stop: Arc::clone(&stop), order };
        std::thread::Builder::new().name("deep-check".into()).spawn(move || pass.run())?;
        *running = Some(Running { check: order.check, progress: progress.clone(), stop });
        Ok(progress)
    }

    /// Ends whatever pass is under way; it goes on when it is asked for again.
    pub(crate) fn stop(&self) {
        if let Some(running) = self.running().take() {
            running.stop.store(true, Ordering::Relaxed);
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slower of two rates, of which 0 is no limit.
fn slower(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, rate) | (rate, 0) => rate,
        (a, b) => a.min(b),
    }
}

fn progress_of(row: &DeepRow) -> DeepProgress {
    let DeepRow { done, files, bytes, found, .. } = *row;
    DeepProgress { done, files, bytes, total: 0, found }
}

/// The row of this check's pass; that of an earlier check is forgotten with all that it found.
fn begin_row(stock: &Stock, order: &DeepOrder) -> Result<DeepRow, StoreError> {
    let Stock { store, number, .. } = stock;
    if let Some(row) = store.deep(*number)?.filter(|row| row.check == order.check.0) {
        return Ok(DeepRow { rate: order.rate, ..row });
    }
    loop {
        let mut commit = Commit::new();
        for key in store.found_after(*number, None).take(FORGET_ROWS) {
            commit.delete_found(*number, &key?);
        }
        if commit.is_empty() {
            break;
        }
        store.commit(commit)?;
    }
    let (check, rate) = (order.check.0, order.rate);
    let row = DeepRow { check, after: None, files: 0, bytes: 0, found: 0, done: false, rate };
    let mut commit = Commit::new();
    commit.put_deep(*number, &row);
    store.commit(commit)?;
    Ok(row)
}

/// One pass on its thread.
struct Pass {
    stock: Stock,
    events: mpsc::WeakSender<Event>,
    row: DeepRow,
    total: u64,
    told: watch::Sender<DeepProgress>,
    stop: Arc<AtomicBool>,
    order: DeepOrder,
}

impl Pass {
    fn run(mut self) {
        match self.read_all() {
            Ok(()) => {
                self.row.done = true;
                match self.record(Vec::new()) {
                    Ok(()) => {
                        self.tell();
                        self.prove_fingerprints();
                    }
                    Err(error) => tracing::warn!(%error, "a deep check could not be recorded"),
                }
            }
            Err(PassError::Audit(AuditError::Stopped)) => {}
            Err(error) => tracing::warn!(%error, "a deep check ended early; it goes on when asked"),
        }
        self.tell();
    }

    fn read_all(&mut self) -> Result<(), PassError> {
        let rules = IgnoreRules::load(&self.stock.root).0;
        let (root, from_disk) = (Arc::clone(&self.stock.root), self.order.from_disk);
        let (store, share) = (Arc::clone(&self.stock.store), self.stock.number);
        let index = Index { store, share, catalogue: Arc::clone(&self.stock.catalogue) };
        let audit = Audit { root: &root, rules: &rules, known: &index, from_disk };
        let after = self.row.after.clone();
        let mut reading = Reading::new(self);
        let read = audit.whole(after.as_ref(), &mut reading);
        let Reading { findings, failed, .. } = reading;
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.record(findings)?;
        read?;
        self.settle(&audit)
    }

    /// Has the share prove the fingerprints that nodes compare, block by block, by its entries. One that
    /// was wrong is set right, and said in the log.
    fn prove_fingerprints(&self) {
        let mut from = None;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(events) = self.events.upgrade() else { return };
            let (answer, answered) = oneshot::channel();
            let call = CheckCall::Prove(from.take(), answer);
            // A share that is ending proves them when it is opened: it sums them up anew.
            if events.blocking_send(Event::Check(call)).is_err() {
                return;
            }
            match answered.blocking_recv() {
                Ok((_, Some(next))) => from = Some(next),
                Ok((_, None)) | Err(_) => return,
            }
        }
    }

    /// Looks again at what may have been an edit, after the share has had time to take it in.
    fn settle(&mut self, audit: &Audit<'_>) -> Result<(), PassError> {
        for wait in SETTLE_WAITS {
            let open = self.unsettled()?;
            if open.is_empty() {
                return Ok(());
            }
            for key in &open {
                self.suspect(key);
            }
            std::thread::sleep(wait);
            for key in open {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(AuditError::Stopped.into());
                }
                let finding = audit.one(&key).and_then(|discord| self.finding(discord));
                self.replace(&key, finding)?;
            }
        }
        // What goes on being written is nobody's damage.
        for key in self.unsettled()? {
            let Some(found) = self.stock.store.found(self.stock.number, &key)? else { continue };
            let print = decode_print(found.print.as_deref());
            let is_gone = found.kind.is_none() && self.is_absent(&key);
            if !is_gone && print.is_none_or(|print| is_recent(&print)) {
                let cause = DamageCause::Changing;
                self.replace(&key, Some((key.clone(), FoundRow { cause, ..found })))?;
            }
        }
        Ok(())
    }

    fn is_absent(&self, key: &Key) -> bool {
        matches!(self.stock.root.print_of(key), Ok(None))
    }

    fn unsettled(&self) -> Result<Vec<Key>, StoreError> {
        let (store, number) = (&self.stock.store, self.stock.number);
        let mut keys = Vec::new();
        for key in store.found_after(number, None).take(UNSETTLED_MAX) {
            let key = key?;
            let found = store.found(number, &key)?;
            if found.is_some_and(|found| found.cause == DamageCause::Unrecorded) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    fn replace(&mut self, key: &Key, finding: Option<(Key, FoundRow)>) -> Result<(), StoreError> {
        let mut commit = Commit::new();
        match finding {
            Some((key, row)) => commit.put_found(self.stock.number, &key, &row),
            None => {
                commit.delete_found(self.stock.number, key);
                self.row.found = self.row.found.saturating_sub(1);
            }
        }
        commit.put_deep(self.stock.number, &self.row);
        self.stock.store.commit(commit)
    }

    /// What is recorded of a difference.
    fn finding(&self, discord: Discord) -> Option<(Key, FoundRow)> {
        let Discord { key, found, cause } = discord;
        let record = self.stock.store.entry(self.stock.number, &key).ok()?;
        let (kind, print) = match found {
            Found::State(kind, print) => (Some(kind), Some(print)),
            Found::Absent | Found::Changing | Found::Unreadable(_) => (None, None),
        };
        let cause = match cause {
            DiscordCause::Rot => DamageCause::Rot,
            DiscordCause::Hidden => DamageCause::Hidden,
            DiscordCause::Record => DamageCause::Record,
            DiscordCause::Edit => DamageCause::Unrecorded,
            DiscordCause::Unreadable => DamageCause::Unreadable,
        };
        let content = record.as_ref().and_then(|row| row.entry.kind.content());
        let bytes = matches!(cause, DamageCause::Rot | DamageCause::Hidden);
        let range = content.filter(|_| bytes).and_then(|(content, size)| {
            let manifest = self.stock.store.manifest(self.stock.number, &content, size).ok()??;
            self.damaged_range(&key, &manifest)
        });
        let print = print.as_ref().and_then(encode_print);
        Some((key, FoundRow { cause, seq: record.map(|row| row.seq), kind, print, range }))
    }

    /// From the first chunk that is not what it should be to the end of the last.
    fn damaged_range(&self, key: &Key, manifest: &Manifest) -> Option<(u64, u64)> {
        let file = self.stock.root.open_content(key).ok()?;
        let (mut range, mut bytes): (Option<(u64, u64)>, Vec<u8>) = (None, Vec::new());
        for (index, chunk) in manifest.chunks().iter().enumerate() {
            let from = manifest.offset_of(index);
            bytes.resize(chunk.length as usize, 0);
            let read = file.read_at(from, &mut bytes).ok()?;
            if read < bytes.len() || highwater_core::ChunkId::of(&bytes) != chunk.id {
                let end = from + u64::from(chunk.length);
                range = Some((range.map_or(from, |(first, _)| first), end));
            }
        }
        range
    }

    /// Makes durable how far the pass is, and what it found.
    fn record(&mut self, findings: Vec<(Key, FoundRow)>) -> Result<(), StoreError> {
        let mut commit = Commit::new();
        let mut told = Vec::new();
        for (key, row) in findings {
            commit.put_found(self.stock.number, &key, &row);
            self.row.found += 1;
            told.push((key, row.cause));
        }
        commit.put_deep(self.stock.number, &self.row);
        self.stock.store.commit(commit)?;
        for (key, cause) in told {
            if cause == DamageCause::Unrecorded {
                self.suspect(&key);
            } else if let Some(events) = self.events.upgrade() {
                // A share that is ending finds it out of the store.
                let _ = events.blocking_send(Event::Check(CheckCall::Found(key, cause)));
            }
        }
        Ok(())
    }

    fn suspect(&self, key: &Key) {
        if let Some(events) = self.events.upgrade() {
            let _ = events.blocking_send(Event::Suspect(key.clone()));
        }
    }

    fn tell(&self) {
        self.told.send_replace(DeepProgress { total: self.total, ..progress_of(&self.row) });
    }
}

/// Why a pass ended.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn is_recent(print: &StatPrint) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(print.ctime.seconds).unwrap_or(0));
    now.abs_diff(changed) < BEING_EDITED
}

/// The sink of the walk: counts, paces, and gathers what differs.
struct Reading<'a> {
    pass: &'a mut Pass,
    findings: Vec<(Key, FoundRow)>,
    failed: Option<StoreError>,
    began: Instant,
    read: u64,
    recorded_at: Instant,
    told_at: Instant,
}

impl<'a> Reading<'a> {
    fn new(pass: &'a mut Pass) -> Self {
        let now = Instant::now();
        let (findings, failed) = (Vec::new(), None);
        Self { pass, findings, failed, began: now, read: 0, recorded_at: now, told_at: now }
    }

    /// Sleeps as long as the rate asks for, a little at a time.
    fn keep_pace(&self) {
        let rate = self.pass.order.rate;
        if rate == 0 {
            return;
        }
        let due = Duration::from_secs_f64(self.read as f64 / rate as f64);
        while !self.pass.stop.load(Ordering::Relaxed) {
            let Some(wait) = due.checked_sub(self.began.elapsed()) else { return };
            std::thread::sleep(wait.min(TELL_EVERY));
        }
    }
}

impl AuditSink for Reading<'_> {
    fn read(&mut self, _: &Key, bytes: u64) -> ControlFlow<()> {
        self.pass.row.bytes += bytes;
        self.read += bytes;
        self.keep_pace();
        if self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            self.pass.tell();
        }
        match self.pass.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn passed(&mut self, key: &Key) -> ControlFlow<()> {
        self.pass.row.files += 1;
        if self.recorded_at.elapsed() < RECORD_EVERY && !self.pass.stop.load(Ordering::Relaxed) {
            return ControlFlow::Continue(());
        }
        self.recorded_at = Instant::now();
        self.pass.row.after = Some(key.clone());
        let recorded = self.pass.record(std::mem::take(&mut self.findings));
        match recorded {
            Ok(()) if !self.pass.stop.load(Ordering::Relaxed) => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn differs(&mut self, discord: Discord) -> ControlFlow<()> {
        self.findings.extend(self.pass.finding(discord));
        ControlFlow::Continue(())
    }
}
