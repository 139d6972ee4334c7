//! How many bytes to have under way from one peer: enough to keep the line full, few enough that
//! little is lost when it breaks.
//!
//! The window is one and a half times what the line delivers in a round trip, plus what the
//! receiver needs to keep its disk busy. The rate is the highest of the recent past, as in BBR
//! (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016): a pause of ours must not
//! look like a slow line. A window that limits the rate grows by half with every round trip.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;

/// The smallest window in bytes: a few chunks, so that a slow line still moves.
pub const WINDOW_BYTES_MIN: u64 = 1024 * 1024;
/// The largest window in bytes: 1.5 Gbit/s over 100 ms. It also bounds what a transfer holds in
/// memory.
pub const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Time that a piece spends with the receiver before it is written.
const HANDLING: Duration = Duration::from_millis(6);
/// How long one measurement of the rate lasts.
const SAMPLE: Duration = Duration::from_millis(50);
/// How many measurements are remembered: half a second.
const SAMPLES_MAX: usize = 10;

/// The window of one link.
#[derive(Debug, Default)]
pub struct Window {
    under_way: u64,
    round_trip: Option<Duration>,
    sample_began: Option<Time>,
    sample_bytes: u64,
    /// Bytes a second, oldest first.
    rates: VecDeque<u64>,
}

impl Window {
    /// How many more bytes may be asked for now.
    pub fn room(&self) -> u64 {
        self.size().saturating_sub(self.under_way)
    }

    /// The size of the window in bytes.
    pub fn size(&self) -> u64 {
        let in_flight = self.round_trip.unwrap_or_default() + HANDLING;
        let product = self.rate() as f64 * in_flight.as_secs_f64() * 1.5;
        (product as u64).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }

    /// How many bytes were asked for and have not come.
    pub fn under_way(&self) -> u64 {
        self.under_way
    }

    /// The highest recent rate in bytes a second; 0 before the first measurement.
    pub fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// The smallest round-trip time seen on the link.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = Some(round_trip);
    }

    /// Notes that bytes were asked for.
    pub fn asked(&mut self, bytes: u64) {
        self.under_way += bytes;
    }

    /// Notes that bytes asked for have arrived and been dealt with.
    pub fn arrived(&mut self, now: Time, bytes: u64) {
        self.under_way = self.under_way.saturating_sub(bytes);
        let began = *self.sample_began.get_or_insert(now);
        self.sample_bytes += bytes;
        let elapsed = now.since(began);
        if elapsed >= SAMPLE {
            let rate = (self.sample_bytes as f64 / elapsed.as_secs_f64()) as u64;
            if self.rates.len() == SAMPLES_MAX {
                self.rates.pop_front();
            }
            self.rates.push_back(rate);
            self.sample_began = Some(now);
            self.sample_bytes = 0;
        }
    }

    /// Notes that bytes asked for will not come.
    pub fn given_up(&mut self, bytes: u64) {
        self.under_way = self.under_way.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::since_start(Duration::from_millis(millis))
    }

    /// Delivers the whole window once a round trip, for as many trips.
    fn run(round_trip_ms: u64, line_bytes_per_second: u64, trips: u64) -> Window {
        let mut window = Window::default();
        window.set_round_trip(Duration::from_millis(round_trip_ms));
        for trip in 1..=trips {
            let bytes = window.room().min(line_bytes_per_second * round_trip_ms / 1000);
            window.asked(bytes);
            window.arrived(at(trip * round_trip_ms), bytes);
        }
        window
    }

    #[test]
    fn a_long_fast_line_gets_a_window_that_fills_it() {
        let window = run(100, 100_000_000, 40);
        assert!(window.size() >= 10_000_000, "{}", window.size());
    }

    #[test]
    fn a_short_slow_line_has_little_to_lose() {
        assert_eq!(run(1, 60_000_000, 500).size(), WINDOW_BYTES_MIN);
    }

    #[test]
    fn what_is_under_way_is_never_more_than_the_window() {
        let mut window = Window::default();
        window.asked(window.room());
        assert_eq!(window.room(), 0);
        window.given_up(100);
        assert_eq!(window.room(), 100);
    }
}
