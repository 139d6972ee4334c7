//! What the HTTP API counts of itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why a request was turned away: a closed set, so that it can be a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reason {
    Method,
    Host,
    Uri,
    Headers,
    Query,
    Token,
    Scope,
    Throttled,
    Origin,
    MediaType,
    Body,
    Followers,
    Late,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Method => "method",
            Reason::Host => "host",
            Reason::Uri => "uri",
            Reason::Headers => "headers",
            Reason::Query => "query",
            Reason::Token => "token",
            Reason::Scope => "scope",
            Reason::Throttled => "throttled",
            Reason::Origin => "origin",
            Reason::MediaType => "media_type",
            Reason::Body => "body",
            Reason::Followers => "followers",
            Reason::Late => "late",
        }
    }
}

/// Running totals since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Answers by the first digit of their status.
    answers: [AtomicU64; 5],
    rejected: Mutex<BTreeMap<Reason, u64>>,
    /// Connections that were closed to make room.
    pub(crate) evicted: AtomicU64,
}

impl Figures {
    pub(crate) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self, reason: Reason) {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        *rejected.entry(reason).or_default() += 1;
    }

    /// Answers by class: `2xx` and how many.
    pub(crate) fn answers(&self) -> Vec<(String, u64)> {
        let class = |(index, count): (usize, &AtomicU64)| {
            (format!("{}xx", index + 1), count.load(Ordering::Relaxed))
        };
        self.answers.iter().enumerate().map(class).collect()
    }

    /// Requests that were turned away, by reason.
    pub(crate) fn rejections(&self) -> BTreeMap<Reason, u64> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
