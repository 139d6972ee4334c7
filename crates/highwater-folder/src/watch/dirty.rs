//! Paths at which something happened, and when that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use highwater_core::Key;

use super::{CREATED_WAIT, DIRTY_MAX, GATHER, Hint, QUIET, QUIET_MAX};

/// What is dirty, and when it is hinted at.
#[derive(Default)]
pub(super) struct Dirty {
    paths: BTreeMap<Key, Due>,
    /// When set, everything is dirty.
    everything: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Due {
    since: Instant,
    at: Instant,
}

impl Dirty {
    /// A change that is complete.
    pub(super) fn finished(&mut self, key: &Key, now: Instant) {
        self.put(key, |due| Due {
            at: due.map_or(now + GATHER, |due| due.at.min(now + GATHER)),
            since: now,
        });
    }

    /// A new file that somebody is about to write.
    pub(super) fn created(&mut self, key: &Key, now: Instant) {
        self.put(key, |due| due.unwrap_or(Due { since: now, at: now + CREATED_WAIT }));
    }

    /// A file that was written and is still open.
    pub(super) fn written(&mut self, key: &Key, now: Instant) {
        self.put(key, |due| {
            let since = due.map_or(now, |due| due.since);
            let quiet = (now + QUIET).min(since + QUIET_MAX);
            // A complete change that waits already is not held up.
            let at = match due {
                Some(due) if due.at <= now + GATHER => due.at,
                _ => quiet,
            };
            Due { since, at }
        });
    }

    pub(super) fn everything(&mut self, now: Instant) {
        self.paths.clear();
        self.everything.get_or_insert(now + GATHER);
    }

    fn put(&mut self, key: &Key, next: impl FnOnce(Option<Due>) -> Due) {
        if self.everything.is_some() {
            return;
        }
        let due = next(self.paths.get(key).copied());
        self.paths.insert(key.clone(), due);
        if self.paths.len() > DIRTY_MAX {
            self.collapse(due.since);
        }
    }

    /// Lets directories stand for what is in them; the root for them when they are too many, too.
    fn collapse(&mut self, now: Instant) {
        let dirs: Option<BTreeSet<Key>> = self.paths.keys().map(Key::parent).collect();
        match dirs {
            Some(dirs) if dirs.len() <= DIRTY_MAX / 2 => {
                let due = Due { since: now, at: now + GATHER };
                self.paths = dirs.into_iter().map(|dir| (dir, due)).collect();
            }
            _ => self.everything(now),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paths.values().map(|due| due.at).chain(self.everything).min()
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<Hint> {
        if self.everything.is_some_and(|at| at <= now) {
            self.everything = None;
            return Some(Hint::Everything);
        }
        let due: BTreeSet<Key> = self
            .paths
            .iter()
            .filter(|(_, due)| due.at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        self.paths.retain(|key, _| !due.contains(key));
        (!due.is_empty()).then_some(Hint::Paths(due))
    }
}
