//! The lines to peers, as they are measured: keeps a [`Quality`] for each, over all its links.
//!
//! Bytes are counted where they pass; round trips and the kernel's figures are fetched from the links
//! every few seconds. Nothing here decides anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use highwater_core::quality::{Minute, Quality, Summary, Way};
use highwater_core::{NodeId, Time};
use highwater_net::LinkHandle;
use tokio::time::Instant;

use crate::beat;
use crate::engine::Inner;
use crate::fetch::source::LinkId;

/// Between two looks at the links.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// All lines.
#[derive(Debug)]
pub(crate) struct Lines {
    began: Instant,
    lines: Mutex<BTreeMap<NodeId, Arc<Meter>>>,
    links: Mutex<BTreeMap<LinkId, (NodeId, LinkHandle)>>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    quality: Mutex<Quality>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { began: Instant::now(), lines: Mutex::default(), links: Mutex::default() }
    }
}

impl Meter {
    /// Content has moved.
    pub(crate) fn moved(&self, way: Way, bytes: u64) {
        self.quality().moved(self.now(), way, bytes);
    }

    /// What is known of the line now.
    pub(crate) fn summary(&self) -> Summary {
        self.quality().summary(self.now())
    }

    /// Bytes a second from the peer, once measured.
    pub(crate) fn rate_in(&self) -> Option<u64> {
        self.quality().rate_in(self.now())
    }

    /// Whether content moved this way a moment ago.
    pub(crate) fn is_busy(&self, way: Way) -> bool {
        self.quality().is_busy(self.now(), way)
    }

    /// The minutes of the last day, with how long ago each began.
    pub(crate) fn history(&self) -> Vec<(Duration, Minute)> {
        let now = self.began.elapsed();
        let begun = |minute: &Minute| Duration::from_secs(minute.number * 60);
        let quality = self.quality();
        quality.history().map(|minute| (now.saturating_sub(begun(minute)), *minute)).collect()
    }

    fn now(&self) -> Time {
        Time::since_start(self.began.elapsed())
    }

    fn quality(&self) -> MutexGuard<'_, Quality> {
        self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// The line to a peer.
    pub(crate) fn to(&self, peer: NodeId) -> Arc<Meter> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Meter { began: self.began, quality: Mutex::default() });
        Arc::clone(lines.entry(peer).or_insert_with(fresh))
    }

    /// Forgets the lines to all but these.
    pub(crate) fn keep(&self, peers: &BTreeSet<NodeId>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|peer, _| peers.contains(peer));
    }

    /// A link has come up.
    pub(crate) fn link_up(&self, link: LinkId, peer: NodeId, handle: LinkHandle) -> Arc<Meter> {
        self.links().insert(link, (peer, handle));
        let meter = self.to(peer);
        meter.quality().link_up(meter.now());
        meter
    }

    /// A link is down.
    pub(crate) fn link_down(&self, link: LinkId) {
        let mut links = self.links();
        let Some((peer, _)) = links.remove(&link) else { return };
        if !links.values().any(|(other, _)| *other == peer) {
            let meter = self.to(peer);
            meter.quality().link_down(meter.now());
        }
    }

    /// The newest link to a peer.
    pub(crate) fn link(&self, peer: &NodeId) -> Option<LinkHandle> {
        let links = self.links();
        let newest = links.values().rev().find(|(other, _)| other == peer);
        newest.map(|(_, handle)| handle.clone())
    }

    fn look(&self) {
        let links: Vec<(NodeId, LinkHandle)> = self.links().values().cloned().collect();
        for (peer, handle) in links {
            let (stats, segments) = (handle.stats(), handle.segments());
            let meter = self.to(peer);
            let (now, mut quality) = (meter.now(), meter.quality());
            for trip in handle.take_round_trips() {
                quality.round_trip(now, trip);
            }
            if let Some(segments) = segments {
                quality.segments(now, segments.sent, segments.resent);
            }
            quality.set_silent(stats.silent);
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<LinkId, (NodeId, LinkHandle)>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the links for as long as the engine lives.
pub(crate) async fn watch(engine: Weak<Inner>) {
    while let Some(engine) = engine.upgrade() {
        engine.lines.look();
        let began = engine.net.began();
        drop(engine);
        beat::next(began, LOOK_EVERY).await;
    }
}
