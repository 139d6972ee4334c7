//! What has happened since the daemon started, counted where it happens.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::report;

/// Running totals of one node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) content_bytes_received: Count,
    pub(crate) content_bytes_reused: Count,
    pub(crate) content_bytes_resent: Count,
    pub(crate) entries_applied: Count,
    pub(crate) hash_mismatches: Count,
    pub(crate) files_hashed: Count,
}

impl Counters {
    pub(crate) fn report(&self, reconnects: u64) -> report::Counters {
        report::Counters {
            content_bytes_received: self.content_bytes_received.get(),
            content_bytes_reused: self.content_bytes_reused.get(),
            content_bytes_resent: self.content_bytes_resent.get(),
            entries_applied: self.entries_applied.get(),
            reconnects,
            hash_mismatches: self.hash_mismatches.get(),
            files_hashed: self.files_hashed.get(),
        }
    }
}

/// One running total.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
