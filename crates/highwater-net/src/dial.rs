//! When to dial a peer. A [`Dialer`] is asked what to start and told how it went; it holds no
//! socket and reads no clock.
//!
//! A peer that refuses (nobody listens there) is tried again after short, growing waits. A peer
//! that does not answer at all may sit behind a line that swallows packets, or behind a very slow
//! one: attempts then overlap, a new one every [`ATTEMPT_EVERY`] while the earlier ones stay open,
//! so that one of them is always fresh when the line returns, and a slow one still gets through
//! ("happy eyeballs", RFC 8305, along time instead of addresses). A peer that answers but refuses
//! this node is left alone for longer: only a person can change that.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_core::Time;

use crate::retry::Delays;

/// While earlier attempts hang, another one starts this often.
pub(crate) const ATTEMPT_EVERY: Duration = Duration::from_millis(500);
/// A TCP connection must stand within this time: one round trip, and one packet lost.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An attempt is given up after this long in all: three round trips of a line with a latency of
/// 2 s each way.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);
/// Attempts open at once: those that start within one time-out.
pub(crate) const ATTEMPTS_MAX: usize = 24;
const _: () = assert!(
    ATTEMPT_TIMEOUT.as_millis() <= ATTEMPT_EVERY.as_millis() * ATTEMPTS_MAX as u128,
    "the cap must not stop fresh attempts while old ones hang"
);
/// A link that lived this long was healthy: the next failure begins with the shortest wait.
const HEALTHY_AFTER: Duration = Duration::from_secs(2);
/// How long a peer is left alone that has seen another daemon with this node's identity.
const IDENTITY_IN_USE_WAIT: Duration = Duration::from_secs(10);

/// One attempt to connect, numbered within its peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct AttemptId(pub(crate) u64);

/// How an attempt failed, as far as the next one is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Nobody there, or it took too long.
    Unreachable,
    /// Somebody answered and refused, or was not the peer.
    Refused,
    /// The peer already talks to another daemon with this node's identity.
    IdentityInUse,
}

/// Decides when to dial one peer.
#[derive(Debug)]
pub(crate) struct Dialer {
    wanted: bool,
    open: BTreeSet<AttemptId>,
    started: u64,
    next_at: Time,
    quick: Delays,
    slow: Delays,
    up_since: Option<Time>,
}

impl Dialer {
    /// A dialer that has nothing to do yet. Its waits vary by `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            wanted: false,
            open: BTreeSet::new(),
            started: 0,
            next_at: Time::default(),
            quick: Delays::quick(seed),
            slow: Delays::slow(!seed),
            up_since: None,
        }
    }

    /// A connection is wanted from now on, or no longer. Whoever withdraws the wish also drops the
    /// open attempts.
    pub(crate) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        if !wanted {
            self.open.clear();
        }
    }

    /// Forgets the waits: the address has changed, or a person asked.
    pub(crate) fn hurry(&mut self, now: Time) {
        self.quick.reset();
        self.slow.reset();
        self.next_at = now;
    }

    /// The attempt to start now, if one is due.
    pub(crate) fn due(&mut self, now: Time) -> Option<AttemptId> {
        if !self.wanted || now < self.next_at || self.open.len() >= ATTEMPTS_MAX {
            return None;
        }
        self.started += 1;
        let attempt = AttemptId(self.started);
        self.open.insert(attempt);
        self.next_at = now + ATTEMPT_EVERY;
        Some(attempt)
    }

    /// When to ask again; `None` while nothing is wanted, or until an open attempt has ended.
    pub(crate) fn deadline(&self) -> Option<Time> {
        (self.wanted && self.open.len() < ATTEMPTS_MAX).then_some(self.next_at)
    }

    /// Whether this attempt's outcome still matters: no link came up meanwhile.
    pub(crate) fn is_open(&self, attempt: AttemptId) -> bool {
        self.open.contains(&attempt)
    }

    /// An attempt has failed. One that was dropped meanwhile changes nothing.
    pub(crate) fn failed(&mut self, now: Time, attempt: AttemptId, failure: Failure) {
        if !self.open.remove(&attempt) {
            return;
        }
        match failure {
            Failure::Unreachable if self.open.is_empty() => {
                self.next_at = now + self.quick.next();
            }
            Failure::Unreachable => {}
            Failure::Refused => self.next_at = now + self.slow.next(),
            Failure::IdentityInUse => self.rest(now),
        }
    }

    /// A link has come up, dialled from either side.
    pub(crate) fn up(&mut self, now: Time) {
        self.up_since = Some(now);
        self.want(false);
    }

    /// The link has ended.
    pub(crate) fn down(&mut self, now: Time) {
        let lived = self.up_since.take().map_or(Duration::ZERO, |up| now.since(up));
        if lived >= HEALTHY_AFTER {
            self.quick.reset();
            self.slow.reset();
        }
        self.next_at = now + self.quick.next();
    }

    /// The peer ended the link because another daemon has this node's identity.
    pub(crate) fn rest(&mut self, now: Time) {
        self.next_at = now + IDENTITY_IN_USE_WAIT;
    }

    /// Attempts started so far.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::since_start(Duration::from_millis(millis))
    }

    fn wanting() -> Dialer {
        let mut dialer = Dialer::new(1);
        dialer.want(true);
        dialer
    }

    #[test]
    fn attempts_into_silence_overlap_and_stay_bounded() {
        let mut dialer = wanting();
        let mut open = Vec::new();
        for millis in (0..60_000).step_by(10) {
            if let Some(attempt) = dialer.due(at(millis)) {
                open.push((attempt, at(millis) + ATTEMPT_TIMEOUT));
            }
            while let Some(&(attempt, until)) = open.first().filter(|(_, t)| *t <= at(millis)) {
                dialer.failed(until, attempt, Failure::Unreachable);
                open.remove(0);
            }
            assert!(open.len() <= ATTEMPTS_MAX);
            let fresh = open.last().is_some_and(|(_, until)| {
                ATTEMPT_TIMEOUT - until.since(at(millis)) <= ATTEMPT_EVERY + ATTEMPT_EVERY
            });
            assert!(fresh, "no fresh attempt at {millis} ms");
        }
    }

    #[test]
    fn a_refusing_peer_is_tried_again_at_least_every_half_second_and_not_in_a_storm() {
        let mut dialer = wanting();
        let mut attempts = 0;
        let mut last = 0;
        for millis in 0..10_000 {
            if let Some(attempt) = dialer.due(at(millis)) {
                dialer.failed(at(millis), attempt, Failure::Unreachable);
                assert!(millis - last <= 500, "{millis}");
                last = millis;
                attempts += 1;
            }
        }
        assert!((20..45).contains(&attempts), "{attempts}");
    }

    #[test]
    fn what_a_failure_costs_depends_on_its_kind() {
        let table = [
            (Failure::Unreachable, 75, 125, "nobody there: soon"),
            (Failure::Refused, 375, 625, "refused: later"),
            (Failure::IdentityInUse, 10_000, 10_000, "identity in use: much later"),
        ];
        for (failure, least, most, why) in table {
            let mut dialer = wanting();
            let attempt = dialer.due(at(0)).expect("due");
            dialer.failed(at(0), attempt, failure);
            let wait = dialer.deadline().expect("wanted").since(at(0));
            let range = Duration::from_millis(least)..=Duration::from_millis(most);
            assert!(range.contains(&wait), "{why}: {wait:?}");
        }
    }

    #[test]
    fn nothing_is_dialled_while_a_link_is_up_and_soon_after_it_is_down() {
        let mut dialer = wanting();
        let attempt = dialer.due(at(0)).expect("due");
        assert!(dialer.is_open(attempt));
        dialer.up(at(10));
        assert!(!dialer.is_open(attempt), "a link is up: this attempt comes too late");
        assert_eq!(dialer.due(at(5000)), None);
        dialer.failed(at(5000), attempt, Failure::IdentityInUse);
        dialer.down(at(6000));
        dialer.want(true);
        let again = dialer.deadline().expect("wanted").since(at(6000));
        assert!(again <= Duration::from_millis(125), "{again:?}");
    }
}
