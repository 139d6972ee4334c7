//! How long to wait before the next try. The `backoff` crate serves as the delay policy and as
//! nothing else: its retry loop gives up after a quarter of an hour and treats every error alike.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// The first wait after a failure.
const QUICK_FIRST: Duration = Duration::from_millis(100);
/// The longest wait while a peer is merely unreachable, before jitter. With jitter at most 500 ms,
/// so that data flows again within a second of the line's return.
const QUICK_MAX: Duration = Duration::from_millis(400);
/// The first wait after a peer was reached and refused: someone has to change something first.
const SLOW_FIRST: Duration = Duration::from_millis(500);
/// The longest wait between refusals, before jitter.
const SLOW_MAX: Duration = Duration::from_secs(8);
/// Waits vary by this part of themselves, so that many nodes do not return in one instant.
const JITTER: f64 = 0.25;

/// Growing waits, with jitter. The jitter comes from a seed, so that a simulated net can be played
/// again; nodes and runs differ by theirs.
#[derive(Debug)]
pub(crate) struct Delays {
    policy: ExponentialBackoff,
    longest: Duration,
    chance: u64,
}

impl Delays {
    /// For a peer that cannot be reached.
    pub(crate) fn quick(seed: u64) -> Self {
        Self::between(QUICK_FIRST, QUICK_MAX, seed)
    }

    /// For a peer that answers and refuses.
    pub(crate) fn slow(seed: u64) -> Self {
        Self::between(SLOW_FIRST, SLOW_MAX, seed)
    }

    /// The next wait, longer than the last.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.policy.next_backoff().unwrap_or(self.longest);
        wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.draw())
    }

    /// Begins again with the shortest wait.
    pub(crate) fn reset(&mut self) {
        self.policy.reset();
    }

    /// A number from 0 to 1. Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    /// Generators" (2014), SplitMix64.
    fn draw(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }

    fn between(first: Duration, longest: Duration, seed: u64) -> Self {
        let policy = ExponentialBackoff {
            initial_interval: first,
            current_interval: first,
            max_interval: longest,
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { policy, longest, chance: seed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_begin_short_stay_short_and_never_end() {
        let mut delays = Delays::quick(1);
        let first = delays.next();
        assert!(first <= Duration::from_millis(125), "{first:?}");
        for _ in 0..1000 {
            let wait = delays.next();
            assert!(wait <= Duration::from_millis(500), "{wait:?}");
        }
        delays.reset();
        let again = delays.next();
        assert!(again <= Duration::from_millis(125), "{again:?}");
    }

    #[test]
    fn refusals_wait_up_to_ten_seconds() {
        let mut delays = Delays::slow(1);
        let longest = (0..100).map(|_| delays.next()).max().expect("waits");
        assert!(longest > Duration::from_secs(6) && longest <= Duration::from_secs(10));
    }
}
