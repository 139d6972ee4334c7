//! How far one reader of a log is behind, in entries and in time.
//!
//! A [`Lag`] is shown the head of the log and the reader's checkpoint now and then. It remembers
//! when it first saw each head, so that the lag in time is the age of the oldest change that the
//! reader has not acknowledged, however slowly that one comes: not the time since the last
//! acknowledgement, which an idle log would let grow for ever.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;
use crate::log::Seq;

/// Heads that are remembered. When there are more, each two become one and new ones are taken half
/// as often, which makes an age by at most a thirtieth too large, and never too small.
const MARKS_MAX: usize = 64;
/// How far apart marks are at first.
const SPACING_MIN: Duration = Duration::from_millis(250);

/// The lag of one reader.
#[derive(Clone, Debug)]
pub struct Lag {
    /// Heads that are not acknowledged, in order, each with when what lies between it and the one
    /// before was first seen.
    marks: VecDeque<(Seq, Time)>,
    /// How far apart in time they are.
    spacing: Duration,
    entries: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Self { marks: VecDeque::new(), spacing: SPACING_MIN, entries: 0 }
    }
}

impl Lag {
    /// Takes in that at `now` the log ended at `head` and the reader had `acked`.
    pub fn look(&mut self, now: Time, acked: Seq, head: Seq) {
        // A log that was begun anew ends before what was seen of the old one.
        self.marks.retain(|(seq, _)| *seq > acked && *seq <= head);
        if self.marks.is_empty() {
            self.spacing = SPACING_MIN;
        }
        if head > acked && self.marks.back().is_none_or(|(last, _)| *last < head) {
            self.mark(now, head);
        }
        self.entries = head.0.saturating_sub(acked.0);
        assert!(self.marks.len() <= MARKS_MAX);
    }

    fn mark(&mut self, now: Time, head: Seq) {
        if let Some((last, seen)) = self.marks.back_mut()
            && now.since(*seen) < self.spacing
        {
            *last = head;
            return;
        }
        if self.marks.len() == MARKS_MAX {
            let all = self.marks.make_contiguous();
            let halved = all.chunks(2).filter_map(|two| Some((two.last()?.0, two.first()?.1)));
            self.marks = halved.collect();
            self.spacing = self.spacing.saturating_mul(2);
        }
        self.marks.push_back((head, now));
    }

    /// Entries of the log that the reader has not acknowledged.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How long the oldest change that is not acknowledged has been waiting; zero when there is none.
    pub fn age(&self, now: Time) -> Duration {
        self.marks.front().map_or(Duration::ZERO, |(_, seen)| now.since(*seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::since_start(Duration::from_secs(seconds))
    }

    #[test]
    fn the_age_is_that_of_the_oldest_change_that_is_not_acknowledged() {
        let mut lag = Lag::default();
        // When, what is acknowledged, where the log ends; then the lag in entries and seconds.
        let rows = [
            (0, 0, 0, 0, 0, "nothing to read"),
            (100, 0, 0, 0, 0, "an idle log does not age"),
            (110, 0, 5, 5, 0, "five changes, just seen"),
            (115, 0, 5, 5, 5, "still not read"),
            (120, 3, 9, 6, 10, "some of the first five are, and there are more"),
            (130, 5, 9, 4, 10, "all of the first five are: the others came at 120"),
            (140, 9, 9, 0, 0, "all"),
            (150, 0, 2, 2, 0, "the log was begun anew"),
        ];
        for (now, acked, head, entries, seconds, why) in rows {
            lag.look(at(now), Seq(acked), Seq(head));
            let found = (lag.entries(), lag.age(at(now)).as_secs());
            assert_eq!(found, (entries, seconds), "{why}");
        }
    }

    #[test]
    fn a_reader_that_never_reads_costs_no_more_memory_and_stays_as_old_as_it_is() {
        let mut lag = Lag::default();
        for second in 0..10_000 {
            lag.look(at(second), Seq(0), Seq(second + 1));
        }
        assert_eq!(lag.age(at(10_000)).as_secs(), 10_000);
        lag.look(at(10_000), Seq(9_000), Seq(10_000));
        let age = lag.age(at(10_000)).as_secs();
        assert!((1_000..=1_300).contains(&age), "{age}: never too small, and not much too large");
    }
}
