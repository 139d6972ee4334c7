//! The lookout: looks at the node every `LOOK_EVERY`, keeps the lag of every peer, and lets
//! `highwater-core` judge which alerts stand.
//!
//! What it sees comes from the status document, from the disk, and from other parts of the node that
//! hand in figures of their own ([`Lookout::hand_in`]). A turn of an alert is first put into the
//! queue of the webhook (`outbox.rs`), then saved with all that fires (`lookout/memory.rs`), so that
//! a crash in between tells it again under the same number and never loses it. Who sends what lies
//! in the queue is not its business.

mod figures;
mod memory;
mod outbox;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::alert::{Alerts, Measured, Notice, Rule};
use highwater_core::lag::Lag;
use highwater_core::{NodeId, ShareName, Time};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::beat;
use crate::config::AlertsConfig;
use crate::home::Home;
use crate::report::{AlertRow, AlertsReport, Delivery, LagRow, Status};
use crate::share::machine::wall_now;
pub use outbox::{Outbox, Parcel};

/// How often the node is looked at. The shortest rule that can be set is five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Figures that one other part of the node may hand in.
const HANDED_IN_MAX: usize = 1024;

/// What the lookout has seen. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Lookout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    home: Home,
    began: Instant,
    seen: Mutex<Seen>,
    outbox: Outbox,
    turned: Notify,
    webhook: Tally,
    alertmanager: Tally,
}

/// One way on which lag is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Way {
    /// From the peer to this node.
    Pull,
    /// From this node to the peer.
    Push,
}

impl Way {
    fn as_str(self) -> &'static str {
        match self {
            Way::Pull => "pull",
            Way::Push => "push",
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    alerts: Alerts,
    lags: BTreeMap<(ShareName, NodeId, Way), Lag>,
    /// When a peer was last connected, or first missed.
    connected: BTreeMap<NodeId, Time>,
    /// How far a transfer was, and since when.
    transfers: BTreeMap<(ShareName, String), (u64, Time)>,
    /// The version that a peer last said it runs.
    versions: BTreeMap<NodeId, String>,
    handed_in: BTreeMap<&'static str, Vec<Measured>>,
}

/// What became of what was sent to one receiver.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    failing: AtomicBool,
}

impl Tally {
    /// It was taken.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
    }

    /// It was not taken, and is tried again.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
    }

    /// It is not tried any more.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self, queued: u64, dropped: u64) -> Delivery {
        Delivery {
            queued,
            sent: self.sent.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed) + dropped,
            failing: self.failing.load(Ordering::Relaxed),
        }
    }
}

/// What one look has turned.
#[derive(Debug)]
pub(crate) struct Turned {
    notices: Vec<Notice>,
    parcels: Vec<Parcel>,
    /// All alerts after it.
    alerts: Alerts,
}

impl Lookout {
    /// The lookout of the node in `home`, with what it remembers.
    pub(crate) fn new(home: Home) -> Self {
        let alerts = memory::load(&memory_path(&home));
        let outbox = Outbox::at(home.dir().join("outbox"));
        Self(Arc::new(Inner {
            home,
            began: Instant::now(),
            seen: Mutex::new(Seen { alerts, ..Seen::default() }),
            outbox,
            turned: Notify::new(),
            webhook: Tally::default(),
            alertmanager: Tally::default(),
        }))
    }

    /// Replaces the figures that one part of the node, named by `source`, has measured.
    pub fn hand_in(&self, source: &'static str, mut figures: Vec<Measured>) {
        figures.truncate(HANDED_IN_MAX);
        self.seen().handed_in.insert(source, figures);
    }

    /// Whose certificates have expired, as was last measured.
    pub(crate) fn expired(&self) -> Vec<String> {
        let seen = self.seen();
        let figures = seen.handed_in.values().flatten();
        let ended = figures.filter(|it| it.rule == Rule::CertificateEnding && it.value <= 0.0);
        ended.map(|it| it.subject.clone()).collect()
    }

    /// A peer has said which version it runs.
    pub(crate) fn met(&self, peer: NodeId, version: String) {
        self.seen().versions.insert(peer, version);
    }

    /// What fires, what was resolved lately, and how far it was told.
    pub fn report(&self) -> AlertsReport {
        let queued = self.0.outbox.queued();
        let seen = self.seen();
        AlertsReport {
            firing: seen.alerts.firing().map(AlertRow::of).collect(),
            recent: seen.alerts.recent().map(AlertRow::of).collect(),
            pending: seen.alerts.pending() as u64,
            webhook: self.0.webhook.report(queued, self.0.outbox.dropped()),
            alertmanager: self.0.alertmanager.report(0, 0),
        }
    }

    /// The lag of every share on every way.
    pub fn lags(&self) -> Vec<LagRow> {
        let (now, seen) = (self.now(), self.seen());
        let row = |((share, peer, way), lag): (&(ShareName, NodeId, Way), &Lag)| LagRow {
            share: share.clone(),
            peer: *peer,
            way: way.as_str().to_owned(),
            entries: lag.entries(),
            seconds: lag.age(now).as_secs_f64(),
        };
        seen.lags.iter().map(row).collect()
    }

    /// What waits to be posted to the webhook.
    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// What became of what was posted to the webhook.
    pub fn webhook(&self) -> &Tally {
        &self.0.webhook
    }

    /// What became of what the Alertmanager was told.
    pub fn alertmanager(&self) -> &Tally {
        &self.0.alertmanager
    }

    /// Waits until an alert turns.
    pub async fn turned(&self) {
        self.0.turned.notified().await;
    }

    /// Looks once at what `status` says; what has turned is to be kept.
    pub(crate) fn look(
        &self,
        status: &Status,
        free_bytes: Option<u64>,
        config: &AlertsConfig,
    ) -> Option<Turned> {
        let now = self.now();
        let mut seen = self.seen();
        let measured = seen.measure(now, status, free_bytes);
        let notices = seen.alerts.look(now, wall_now(), measured, |rule| config.levels(rule));
        if notices.is_empty() {
            return None;
        }
        let posted = config.webhook.is_some();
        let parcels = notices.iter().filter(|_| posted).map(|notice| Parcel::of(status, notice));
        Some(Turned { parcels: parcels.collect(), notices, alerts: seen.alerts.clone() })
    }

    /// Keeps what has turned, on disk, and tells those who wait for it.
    pub(crate) fn keep(&self, turned: &Turned) {
        turned.notices.iter().for_each(tell_log);
        turned.parcels.iter().for_each(|parcel| self.0.outbox.put(parcel));
        memory::save(&memory_path(&self.0.home), &turned.alerts);
        self.0.turned.notify_waiters();
    }

    fn now(&self) -> Time {
        Time::since_start(self.0.began.elapsed())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks again and again, on the beat of what `began` then, until what `look` looks at is gone.
pub(crate) async fn run<F: Future<Output = bool>>(began: Instant, mut look: impl FnMut() -> F) {
    while look().await {
        beat::next(began, LOOK_EVERY).await;
    }
}

fn memory_path(home: &Home) -> PathBuf {
    home.dir().join("alerts.json")
}

fn tell_log(notice: &Notice) {
    match notice {
        Notice::Firing(alert) => {
            let (rule, subject) = (alert.rule.as_str(), &alert.subject);
            tracing::warn!(rule, subject, "alert: {}", alert.cause);
        }
        Notice::Resolved(alert) => {
            tracing::info!(rule = alert.rule.as_str(), subject = alert.subject, "alert is over");
        }
    }
}
