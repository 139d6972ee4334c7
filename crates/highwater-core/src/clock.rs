//! Time, as values that others bring: monotonic time for waits, wall time for people, and the
//! hybrid logical clock that breaks ties between concurrent edits.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a node does again and again, it does on multiples of this, reckoned from the start of its
/// runtime: a timer that goes off costs an idle node more than what is then done, so all of them go
/// off together. Sixteen slots of 64 ms of the runtime's timer wheel: a timer that ends within a slot
/// wakes the process at the slot's begin as well, one that ends where a slot begins does not (Varghese
/// and Lauck, "Hashed and hierarchical timing wheels", 1987; tokio 1.54, `runtime/time/wheel`).
pub const BEAT: Duration = Duration::from_millis(16 * 64);

/// Monotonic time since some fixed point of this process. All waits are reckoned in it, so a clock
/// that is set moves none of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(Duration);

impl Time {
    /// The time this long after the fixed point.
    pub const fn since_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after `earlier` this is; zero when it is before it.
    pub fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The last multiple of `step` from the fixed point that is not after this. What is due on such
    /// moments is due together, and a process that sleeps is woken once for all of it.
    #[must_use]
    pub fn rounded_down(self, step: Duration) -> Time {
        Time(self.0.saturating_sub(self.past(step)))
    }

    /// The first multiple of `step` from the fixed point that is not before this.
    #[must_use]
    pub fn rounded_up(self, step: Duration) -> Time {
        let past = self.past(step);
        if past.is_zero() { self } else { self + step.saturating_sub(past) }
    }

    /// How long after the last multiple of `step` this is.
    fn past(self, step: Duration) -> Duration {
        let past = self.0.as_nanos() % step.as_nanos().max(1);
        Duration::from_nanos(u64::try_from(past).unwrap_or(0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(wait))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, wait: Duration) -> Time {
        Time(self.0.saturating_sub(wait))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01 UTC. For people and tie-breaks only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct WallTime(pub u64);

/// A modification time with the file system's full precision. `seconds` may lie before 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Mtime {
    /// Whole seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

impl Mtime {
    /// This time in milliseconds since 1970, clamped at 1970.
    pub fn to_wall(self) -> WallTime {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        WallTime(seconds.saturating_mul(1000).saturating_add(u64::from(self.nanos) / 1_000_000))
    }
}

/// A hybrid logical clock stamp: 48 bits of wall-clock milliseconds, 16 bits of counter.
///
/// After Kulkarni et al., "Logical Physical Clocks" (2014), with one part left out on purpose: a
/// node never takes a clock over from another node, so nobody's wrong clock spreads. Causality is
/// the version vector's business; stamps only break ties.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default,
)]
pub struct Hlc(pub u64);

/// A stamp further ahead of the local clock than this is suspect: it is flagged, and an edit on top
/// of it does not try to exceed it. A minute is more than NTP ever leaves.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(60);

impl Hlc {
    /// The stamp of a change at `now` of an entry whose last stamp was `previous`: later than
    /// both, unless `previous` is suspect.
    pub fn tick(now: WallTime, previous: Option<Hlc>) -> Hlc {
        let wall = Hlc(now.0.min(u64::MAX >> 16) << 16);
        match previous {
            Some(previous) if !previous.is_suspect(now) => {
                Hlc(wall.0.max(previous.0.saturating_add(1)))
            }
            _ => wall,
        }
    }

    /// The wall-clock part.
    pub fn wall(self) -> WallTime {
        WallTime(self.0 >> 16)
    }

    /// Whether the stamp lies further ahead of `now` than honest clocks do.
    pub fn is_suspect(self, now: WallTime) -> bool {
        self.wall().0 > now.0.saturating_add(CLOCK_AHEAD_MAX.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rounded_to_those_that_others_are_rounded_to() {
        let at = |millis| Time::since_start(Duration::from_millis(millis));
        let step = Duration::from_millis(500);
        for (moment, down, up) in
            [(0, 0, 0), (1, 0, 500), (499, 0, 500), (500, 500, 500), (1501, 1500, 2000)]
        {
            assert_eq!(
                (at(moment).rounded_down(step), at(moment).rounded_up(step)),
                (at(down), at(up))
            );
        }
        assert_eq!(at(7).rounded_up(Duration::ZERO), at(7));
    }

    #[test]
    fn a_stamp_moves_forward_even_when_the_clock_does_not() {
        let first = Hlc::tick(WallTime(1000), None);
        let second = Hlc::tick(WallTime(900), Some(first));
        assert!(second > first);
        assert_eq!(second.wall(), WallTime(1000));
    }

    #[test]
    fn a_stamp_from_the_far_future_moves_no_other_clock() {
        let future = Hlc::tick(WallTime(10_000_000), None);
        let now = WallTime(1000);
        assert!(future.is_suspect(now));
        assert_eq!(Hlc::tick(now, Some(future)).wall(), now);
    }
}
