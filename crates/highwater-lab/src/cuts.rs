//! Link cuts inside a transfer, by the thousand.
//!
//! Two real nodes, TLS and a fault proxy between them. B dials A and fetches one large file after
//! another: content travels backward over the link, acknowledgements forward. The link is cut again
//! and again within each transfer, in every way and at every kind of place: anywhere, at the end of
//! a TLS record, inside one, between content and its acknowledgement, in the handshake of the
//! connection that was to go on. A cut counts only if B's acknowledged offset shows that it fell
//! strictly inside the transfer; otherwise it is void.
//!
//! The proxy's own count bounds what crossed twice, and each file is compared on disk by the
//! [`crate::oracle`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::cluster::{Cluster, SHARE};
use crate::dice::Dice;
use crate::faults::{CutKind, Direction, EndAfter, Faults, Survivors};
use crate::oracle;
use crate::proxy::Proxy;
use crate::status::TransferStatus;
use crate::tree::write_file;
use crate::void;

const A: usize = 0;
const B: usize = 1;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// One content: room for a hundred cuts.
const SIZE: u64 = 96 * MIB;
/// Slow enough that a cut meant for a place falls there.
const RATE: u64 = 40_000_000;
/// Most content that may cross twice for one cut: the smallest window, which is what a line of this
/// rate has under way, and one request beyond it.
const RESENT_PER_CUT_MAX: u64 = MIB + 256 * KIB;
/// Most content that may come for one cut though it is durable already. A receiver that lives on
/// knows what it has; one chunk may have been asked for twice.
const DURABLE_RESENT_PER_CUT_MAX: u64 = 64 * KIB;
/// What a cut costs besides: handshakes, greetings, offers.
const HANDSHAKE_MAX: u64 = 32 * KIB;
/// What TLS, HTTP/2 and the messages around the content may add.
const OVERHEAD_MAX: u64 = SIZE / 50 + MIB;
/// Content that passes between two cuts.
const BETWEEN: std::ops::Range<u64> = 100 * KIB..1_200 * KIB;
/// Content that passes while no acknowledgement does.
const UNACKNOWLEDGED: u64 = 200 * KIB;
/// A connection that ends within so many bytes ended in its handshake, or while the nodes greeted
/// each other.
const GREETING: u64 = 4_000;
/// From so many cuts on, some transfer must have gone on where it was acknowledged.
const RESUMED_FROM: u64 = 20;
/// Longest wait for anything that must come about.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the proxy is asked.
const POLL: Duration = Duration::from_millis(1);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct CutOptions {
    /// The highwater program.
    pub exe: PathBuf,
    /// How many cuts inside a transfer.
    pub count: u64,
    /// What everything is drawn from.
    pub seed: u64,
    /// How many pairs of nodes work at once.
    pub pairs: u64,
}

/// The figures of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CutReport {
    /// Cuts that fell strictly inside a transfer.
    pub cuts: u64,
    /// Cuts that did not.
    pub void: u64,
    /// Cuts by their kind.
    pub kinds: BTreeMap<String, u64>,
    /// Transfers that were cut, and finished.
    pub transfers: u64,
    /// Cuts after which the node said that it went on at its acknowledged offset.
    pub resumed: u64,
    /// Content bytes of all transfers.
    pub content_bytes: u64,
    /// Bytes that the proxies carried for them.
    pub carried_bytes: u64,
    /// Content bytes that nodes received though they had them durably.
    pub resent_bytes: u64,
    /// What crossed for each cut beyond the content itself, at most.
    pub excess_per_cut_max: u64,
    /// How long it took.
    pub seconds: f64,
    /// What did not hold.
    pub violations: Vec<String>,
}

impl CutReport {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.violations.is_empty()
    }

    fn add(&mut self, other: CutReport) {
        self.cuts += other.cuts;
        self.void += other.void;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_insert(0) += count;
        }
        self.transfers += other.transfers;
        self.resumed += other.resumed;
        self.content_bytes += other.content_bytes;
        self.carried_bytes += other.carried_bytes;
        self.resent_bytes += other.resent_bytes;
        self.excess_per_cut_max = self.excess_per_cut_max.max(other.excess_per_cut_max);
        self.violations.extend(other.violations);
    }
}

/// A way to cut a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// Anywhere, in one of the three ways.
    Anywhere(CutKind),
    /// After exactly so much, in one of the three ways, at the end of a record or not.
    Exactly { bytes: u64, kind: CutKind, at_record: bool },
    /// Content is lost and acknowledgements pass.
    ContentLost,
    /// Content passes and its acknowledgement is lost.
    AckLost,
    /// The link is cut, and so is the connection that is to go on, while it greets.
    Handshake { bytes: u64, kind: CutKind },
    /// Nothing passes until the nodes notice by themselves.
    LongSilence,
}

impl Cut {
    fn draw(dice: &mut Dice) -> Cut {
        let kind = match dice.below(3) {
            0 => CutKind::Silent,
            1 => CutKind::Reset,
            _ => CutKind::Close,
        };
        match dice.below(60) {
            0 => Cut::LongSilence,
            1..20 => Cut::Anywhere(kind),
            20..42 => {
                let (bytes, at_record) = (dice.below(300 * KIB), dice.below(2) == 0);
                Cut::Exactly { bytes, kind, at_record }
            }
            42..47 => Cut::ContentLost,
            47..52 => Cut::AckLost,
            _ => {
                let kind = if kind == CutKind::Silent { CutKind::Reset } else { kind };
                Cut::Handshake { bytes: dice.below(GREETING), kind }
            }
        }
    }

    fn name(self) -> String {
        match self {
            Cut::Anywhere(kind) => format!("{kind:?} anywhere"),
            Cut::Exactly { kind, at_record: true, .. } => format!("{kind:?} at a record's end"),
            Cut::Exactly { kind, .. } => format!("{kind:?} at a byte"),
            Cut::ContentLost => "content lost".into(),
            Cut::AckLost => "between content and acknowledgement".into(),
            Cut::Handshake { .. } => "in the next handshake".into(),
            Cut::LongSilence => "silent until noticed".into(),
        }
    }
}

/// Runs it.
pub fn run(options: &CutOptions) -> Result<CutReport> {
    let began = Instant::now();
    let mut report = CutReport::default();
    let pairs = options.pairs.max(1);
    let lanes: Vec<_> = (0..pairs)
        .map(|pair| {
            let count = options.count / pairs + u64::from(pair < options.count % pairs);
            let (exe, seed) = (options.exe.clone(), options.seed.wrapping_add(pair << 32));
            thread::spawn(move || Lane::new(&exe, seed, count).map(Lane::go))
        })
        .collect();
    for lane in lanes {
        report.add(lane.join().map_err(|_| anyhow::anyhow!("a pair of nodes panicked"))??);
    }
    report.seconds = began.elapsed().as_secs_f64();
    if void::is_too_much(report.void, report.cuts + report.void) {
        let what = format!("{} of {} cuts were void", report.void, report.cuts + report.void);
        report.violations.push(what);
    }
    if report.cuts >= RESUMED_FROM && report.resumed == 0 {
        report.violations.push("never came up: a transfer that went on at its offset".to_owned());
    }
    Ok(report)
}

/// One pair of nodes and its share of the cuts.
struct Lane {
    cluster: Cluster,
    proxy: Proxy,
    dice: Dice,
    count: u64,
    report: CutReport,
}

impl Lane {
    fn new(exe: &Path, seed: u64, count: u64) -> Result<Lane> {
        let mut cluster = Cluster::new(exe, &["a", "b"], &[(B, A)])?;
        let proxy = cluster.proxy(A, B);
        proxy.set_both(Faults::rate(RATE));
        cluster.start_all()?;
        let (dice, report) = (Dice::new(seed), CutReport::default());
        Ok(Lane { cluster, proxy, dice, count, report })
    }

    fn go(mut self) -> CutReport {
        while self.report.cuts < self.count && self.report.held() {
            let key = format!("content-{}", self.report.transfers);
            if let Err(error) = self.transfer(&key).with_context(|| format!("transfer of {key}")) {
                self.report.violations.push(format!("{error:#}"));
                let kept = self.cluster.keep();
                eprintln!("kept in {}; the link: {:#?}", kept.display(), self.proxy.report());
            }
        }
        self.report
    }

    /// One transfer with as many cuts as fit.
    fn transfer(&mut self, key: &str) -> Result<()> {
        let (carried, cuts) = (self.content_carried(), self.report.cuts + self.report.void);
        let before = self.cluster.nodes[B].status()?.counters;
        let source = self.cluster.folder(A).join(key);
        write_file(&source, SIZE, self.dice.roll())?;
        let begun = |status: &crate::status::Status| {
            status.transfer(key).is_some_and(|transfer| transfer.acked_offset > 0)
        };
        self.cluster.nodes[B].wait_until("it has begun", PATIENCE, begun)?;
        let mut acked = 0;
        while self.report.cuts < self.count {
            let cut = Cut::draw(&mut self.dice);
            match self.cut(key, cut, acked).with_context(|| format!("{cut:?} at {acked}"))? {
                Some(reached) => acked = reached,
                None => break,
            }
        }
        self.cluster.wait_agreed(PATIENCE)?;
        let cuts = self.report.cuts + self.report.void - cuts;
        let carried = self.content_carried() - carried;
        let after = self.cluster.nodes[B].status()?.counters;
        let resent = after.content_bytes_resent - before.content_bytes_resent;
        self.judge(cuts, carried, resent)?;
        self.demand_content(key)?;
        fs::remove_file(&source)?;
        self.report.transfers += 1;
        Ok(())
    }

    fn judge(&mut self, cuts: u64, carried: u64, resent: u64) -> Result<()> {
        self.report.content_bytes += SIZE;
        self.report.carried_bytes += carried;
        self.report.resent_bytes += resent;
        let excess = carried.saturating_sub(SIZE + OVERHEAD_MAX) / cuts.max(1);
        self.report.excess_per_cut_max = self.report.excess_per_cut_max.max(excess);
        ensure!(
            carried <= SIZE + OVERHEAD_MAX + cuts * (RESENT_PER_CUT_MAX + HANDSHAKE_MAX),
            "the link carried {carried} bytes for a content of {SIZE} and {cuts} cuts"
        );
        ensure!(
            resent <= cuts * DURABLE_RESENT_PER_CUT_MAX,
            "{resent} bytes came though they were durable already, in {cuts} cuts"
        );
        Ok(())
    }

    /// The file is on both disks what it was made of.
    fn demand_content(&self, key: &str) -> Result<()> {
        let read = |node: usize| oracle::read_tree(&self.cluster.folder(node));
        let (here, there) = (read(A)?, read(B)?);
        let path = Path::new(key);
        ensure!(here.contains_key(path) && here.get(path) == there.get(path), "{key} differs");
        Ok(())
    }

    /// Cuts once, heals, and waits until content flows again. The acknowledged offset; `None` when
    /// the transfer is over.
    fn cut(&mut self, key: &str, cut: Cut, acked_before: u64) -> Result<Option<u64>> {
        let span = BETWEEN.end - BETWEEN.start;
        let more = BETWEEN.start + self.dice.below(span);
        if !self.wait_content(key, more)? {
            return Ok(None);
        }
        self.strike(cut, key)?;
        let Some(transfer) = self.of(key)? else {
            self.report.void += 1;
            self.heal(cut)?;
            return Ok(None);
        };
        let acked = transfer.acked_offset;
        ensure!(acked >= acked_before, "acknowledged up to {acked}, after {acked_before}");
        if acked == 0 || acked >= SIZE {
            self.report.void += 1;
        } else {
            self.report.cuts += 1;
            *self.report.kinds.entry(cut.name()).or_insert(0) += 1;
        }
        thread::sleep(Duration::from_millis(self.dice.below(60)));
        self.heal(cut)?;
        // Where an old connection lives on beside a new one, one of them is given up: the next cut is
        // for the one that stays, for what it asks of content that is under way.
        let settled = self.wait(key, |lane| lane.connections_open() <= 1)?;
        if !settled || !self.wait_content(key, 64 * KIB)? {
            return Ok(None);
        }
        match self.of(key)? {
            Some(after) => {
                let (reached, from) = (after.acked_offset, after.resumed_from);
                ensure!(reached >= acked, "acknowledged {acked}, and after the cut {reached}");
                self.report.resumed += u64::from(from >= acked);
                Ok(Some(reached))
            }
            None => Ok(None),
        }
    }

    fn strike(&mut self, cut: Cut, key: &str) -> Result<()> {
        let proxy = self.proxy.clone();
        match cut {
            Cut::Anywhere(kind) => proxy.cut(kind),
            Cut::Exactly { bytes, kind, at_record } => {
                let end_after = Some(EndAfter { bytes, kind, at_record });
                proxy.set(Direction::Backward, Faults { end_after, ..Faults::rate(RATE) });
                let limit = self.content_carried() + bytes;
                let ended = |lane: &Lane| {
                    lane.connections_open() == 0
                        || kind == CutKind::Silent && lane.content_carried() >= limit
                };
                self.wait(key, ended)?;
                // Nothing new is let in before the link is healed.
                proxy.cut(if kind == CutKind::Silent { kind } else { CutKind::Close });
            }
            Cut::ContentLost => proxy.set(Direction::Backward, Faults::frozen()),
            Cut::AckLost => {
                proxy.set(Direction::Forward, Faults::frozen());
                let limit = self.content_carried() + UNACKNOWLEDGED;
                self.wait(key, |lane| lane.content_carried() >= limit)?;
            }
            Cut::Handshake { bytes, kind } => {
                let end_after = Some(EndAfter { bytes, kind, at_record: false });
                let opened = proxy.report().connections.len();
                proxy.sever(CutKind::Reset);
                proxy.set_both(Faults { end_after, ..Faults::rate(RATE) });
                self.wait(key, |lane| {
                    let report = lane.proxy.report();
                    report.connections[opened..].iter().any(|c| c.ended_ms.is_some())
                })?;
            }
            Cut::LongSilence => {
                let opened = proxy.report().connections.len();
                proxy.cut(CutKind::Silent);
                self.wait(key, |lane| lane.proxy.report().connections.len() > opened)?;
            }
        }
        Ok(())
    }

    fn heal(&mut self, cut: Cut) -> Result<()> {
        self.proxy.set_both(Faults::rate(RATE));
        // What a cut left open is forgotten, so that nothing but the acknowledged offset goes on.
        let forget = !matches!(cut, Cut::LongSilence | Cut::Handshake { .. });
        self.proxy.heal_with(if forget { Survivors::Reset } else { Survivors::Resume });
        Ok(())
    }

    /// Waits until so much more has crossed; false when the transfer is over before.
    fn wait_content(&self, key: &str, more: u64) -> Result<bool> {
        let limit = self.content_carried() + more;
        self.wait(key, |lane| lane.content_carried() >= limit)
    }

    /// Waits until something is so; false when the transfer is over before.
    fn wait(&self, key: &str, so: impl Fn(&Lane) -> bool) -> Result<bool> {
        /// How often the node is asked whether the transfer is over: not as often as the proxy.
        const ASK: Duration = Duration::from_millis(100);
        let began = Instant::now();
        let mut asked = began;
        while !so(self) {
            if asked.elapsed() > ASK {
                asked = Instant::now();
                if self.of(key)?.is_none() {
                    return Ok(false);
                }
            }
            if began.elapsed() > PATIENCE {
                bail!("nothing came of it: {:?}", self.of(key)?);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }

    fn of(&self, key: &str) -> Result<Option<TransferStatus>> {
        let status = self.cluster.nodes[B].status()?;
        ensure!(status.share(SHARE).is_some(), "the share is gone");
        Ok(status.transfer(key).cloned())
    }

    fn content_carried(&self) -> u64 {
        self.proxy.report().bytes(Direction::Backward)
    }

    fn connections_open(&self) -> usize {
        self.proxy.report().connections.iter().filter(|c| c.ended_ms.is_none()).count()
    }
}
