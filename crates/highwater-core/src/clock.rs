//! Time, as values that others bring: monotonic time for waits, wall time for people, and the
//! hybrid logical clock that breaks ties between concurrent edits.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
