//! Of whom to ask content: of those who bring the end nearer.
//!
//! A source is worth asking if it would deliver before the others would be done with everything
//! without it. A slow one next to a fast one is left out towards the end, and all the time when it is
//! slow enough; a short run now and then shows whether it still is.

use std::time::Duration;

/// What is known of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What it delivers, in bytes a second; 0 when nobody knows yet.
    pub rate: u64,
    /// Its shortest round trip.
    pub round_trip: Duration,
    /// Bytes that it was asked for already and that have not come.
    pub under_way: u64,
    /// Whether it owes an answer for too long.
    pub silent: bool,
}

/// Bytes of a usual run, for reckoning how long one more takes.
const RUN_BYTES: u64 = 256 * 1024;
/// An answer may take this many times as long as reckoned before another source is asked.
const PATIENCE_FACTOR: u32 = 3;
/// And this long in any case: a disk that wakes up, a process that is not scheduled.
const PATIENCE_MIN: Duration = Duration::from_millis(1500);

impl Candidate {
    /// How long it takes to deliver what is under way and `bytes` more; `None` when nobody knows.
    pub fn takes(&self, bytes: u64) -> Option<Duration> {
        let all = self.under_way.saturating_add(bytes);
        let seconds = (self.rate > 0).then(|| all as f64 / self.rate as f64)?;
        let moving = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(self.round_trip.saturating_add(moving))
    }

    /// How long it may bring nothing before another source is asked instead.
    pub fn patience(&self) -> Duration {
        let usual = self.takes(RUN_BYTES).unwrap_or_default();
        usual.saturating_mul(PATIENCE_FACTOR).max(PATIENCE_MIN)
    }
}

/// The places of those worth asking for some of the `remaining` bytes, the soonest first; those that
/// nobody knows anything of come last.
pub fn worth_asking(candidates: &[Candidate], remaining: u64) -> Vec<usize> {
    let mut worth: Vec<usize> = (0..candidates.len())
        .filter(|place| is_worth_asking(candidates, *place, remaining))
        .collect();
    worth.sort_by_key(|place| candidates[*place].takes(RUN_BYTES).unwrap_or(Duration::MAX));
    worth
}

fn is_worth_asking(candidates: &[Candidate], place: usize, remaining: u64) -> bool {
    let others = candidates.iter().enumerate().filter(|(other, _)| *other != place);
    let others: Vec<&Candidate> = others.map(|(_, other)| other).filter(|o| !o.silent).collect();
    if candidates[place].silent {
        // Better than nobody: it may only be slow.
        return others.is_empty();
    }
    let Some(takes) = candidates[place].takes(RUN_BYTES.min(remaining)) else { return true };
    let sum = |part: fn(&Candidate) -> u64| {
        others.iter().map(|other| part(other)).fold(0, u64::saturating_add)
    };
    let (rate, under_way) = (sum(|other| other.rate), sum(|other| other.under_way));
    let without = Candidate {
        rate,
        round_trip: others.iter().map(|other| other.round_trip).min().unwrap_or_default(),
        under_way,
        silent: false,
    };
    without.takes(remaining).is_none_or(|without| takes <= without)
}

/// Whether what `slow` still owes is asked of `idle` instead, which has nothing else to do.
pub fn is_better_off(owed: u64, slow: &Candidate, idle: &Candidate) -> bool {
    let (Some(slow), Some(idle)) = (slow.takes(0), idle.takes(owed)) else { return false };
    slow > idle.saturating_mul(2).saturating_add(Duration::from_millis(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn source(rate: u64, under_way: u64) -> Candidate {
        Candidate { rate, round_trip: Duration::from_millis(1), under_way, silent: false }
    }

    #[test]
    fn those_who_bring_the_end_nearer_are_asked_the_soonest_first() {
        let silent = Candidate { silent: true, ..source(100 * MB, 0) };
        let table = [
            (vec![source(0, 0)], MB, vec![0], "there is nobody else"),
            (vec![silent], MB, vec![0], "even if it is silent"),
            (vec![silent, source(MB, 0)], MB, vec![1], "but not before one that speaks"),
            (vec![source(0, 0), source(0, 0)], MB, vec![0, 1], "nobody is known"),
            (vec![source(MB, 0), source(100 * MB, 0)], 1000 * MB, vec![1, 0], "both help"),
            (vec![source(MB, 0), source(100 * MB, 0)], 10 * MB, vec![1], "one only delays the end"),
            (vec![source(MB, 9 * MB), source(10 * MB, 0)], 80 * MB, vec![1], "it has enough to do"),
            (vec![source(MB, 0), source(0, 0)], 80 * MB, vec![0, 1], "the unknown is tried"),
            (vec![source(100 * MB, 0), source(90 * MB, 0)], 9 * MB, vec![0, 1], "alike"),
        ];
        for (candidates, remaining, expected, why) in table {
            assert_eq!(worth_asking(&candidates, remaining), expected, "{why}");
        }
    }

    #[test]
    fn somebody_is_always_asked() {
        for rate in [0, 1, MB, u64::MAX] {
            for under_way in [0, MB, u64::MAX] {
                for silent in [false, true] {
                    let one = Candidate { silent, ..source(rate, under_way) };
                    for other in [one, source(7, 7)] {
                        assert!(!worth_asking(&[one, other], MB).is_empty(), "{one:?} {other:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_of_a_slow_source_is_taken_over_by_an_idle_fast_one() {
        assert!(is_better_off(MB, &source(MB, MB), &source(100 * MB, 0)));
        assert!(!is_better_off(MB, &source(50 * MB, MB), &source(100 * MB, 0)), "nearly there");
        assert!(!is_better_off(MB, &source(0, MB), &source(100 * MB, 0)), "nobody knows");
    }
}
