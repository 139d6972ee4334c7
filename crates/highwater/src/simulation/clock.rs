//! Time in a simulation: one for waiting, the same for all, and a wall clock for each node that
//! may be wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use highwater_core::WallTime;
use tokio::time::Instant;

/// The wall clock at the beginning of every story, in milliseconds since 1970.
const BEGINNING_MS: i64 = 1_800_000_000_000;

/// The clock of one node. Copies show the same time.
#[derive(Clone, Debug)]
pub(super) struct PlayedClock {
    /// A real moment that stands for the beginning: nothing depends on which.
    began: Instant,
    micros: Arc<AtomicU64>,
    wrong_by_ms: Arc<AtomicI64>,
}

impl PlayedClock {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), micros: Arc::default(), wrong_by_ms: Arc::default() }
    }

    /// Another node's clock: the same time for waiting, a wall clock of its own.
    pub(super) fn of_another_node(&self) -> Self {
        Self { wrong_by_ms: Arc::default(), ..self.clone() }
    }

    pub(super) fn micros(&self) -> u64 {
        self.micros.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, micros: u64) {
        self.micros.store(micros, Ordering::Relaxed);
    }

    /// Puts the wall clock this far off the right time.
    pub(super) fn set_wrong_by(&self, millis: i64) {
        self.wrong_by_ms.store(millis, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Instant {
        self.began + Duration::from_micros(self.micros())
    }

    /// When a moment is, in microseconds since the beginning.
    pub(super) fn micros_at(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.began).as_micros() as u64
    }

    pub(super) fn wall(&self) -> WallTime {
        let millis = BEGINNING_MS
            .saturating_add((self.micros() / 1000) as i64)
            .saturating_add(self.wrong_by_ms.load(Ordering::Relaxed));
        WallTime(u64::try_from(millis).unwrap_or(0))
    }
}
