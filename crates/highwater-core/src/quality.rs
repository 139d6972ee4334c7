//! How good the line to one peer is, from what passes over it anyway: round trips of pings, segments
//! that the kernel sent again, bytes of real transfers, links that came and went.
//!
//! Figures are of the last ten minutes; a minute's worth is kept for a day. Both are bounded, whatever
//! happens on the line. Nothing here measures: others bring what was measured.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;

/// Round trips that percentiles are made of: ten minutes of one a second.
const TRIPS_MAX: usize = 600;
/// And no older than this.
const RECENT: Duration = Duration::from_secs(600);
/// Minutes that are remembered: a day.
pub const MINUTES_MAX: usize = 24 * 60;
/// One of them.
const MINUTE: Duration = Duration::from_secs(60);
/// Bytes that arrive within this time of the last ones belong to the same transfer; a longer gap is
/// somebody's pause, and no property of the line.
const PAUSE: Duration = Duration::from_millis(250);
/// A rate is believed once it rests on so many bytes,
const RATE_BYTES_MIN: u64 = 256 * 1024;
/// moved in so much time.
const RATE_TIME_MIN: Duration = Duration::from_millis(50);
/// Measurements of a rate that the latest one is made of, each of [`RATE_TIME_MIN`] or more.
const RATES_MAX: usize = 64;
/// A measurement older than this says nothing about the line as it is now.
const RATE_RECENT: Duration = Duration::from_secs(600);
/// Segments below which a loss of one says nothing.
const SEGMENTS_MIN: u64 = 200;

/// Loss from which a line is called lossy: TCP's throughput has halved by then on a line of 50 ms.
const LOSSY: f64 = 0.01;
/// Part of the best rate of the day below which a line is called slow.
const SLOW: f64 = 0.25;
/// Round trip from which a line is called long: people notice.
const LONG: Duration = Duration::from_millis(300);
/// Jitter from which a line is called unsteady, where it is also half of the round trip.
const UNSTEADY: Duration = Duration::from_millis(50);
/// Links lost within an hour from which a line is called unstable.
const UNSTABLE: usize = 3;
/// Losses of a link that are remembered: more say nothing more.
const LOSSES_MAX: usize = 64;

/// Which way bytes went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the peer.
    In,
    /// To the peer.
    Out,
}

/// The middle, and how bad it gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// Half are below.
    pub p50: Duration,
    /// 95 % are below.
    pub p95: Duration,
    /// 99 % are below.
    pub p99: Duration,
}

/// What is known of the line now.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// Round trips, once measured.
    pub round_trip: Option<Spread>,
    /// How much one round trip differs from the one before.
    pub jitter: Option<Spread>,
    /// Part of segments that had to be sent again, from 0 to 1, where the kernel says so.
    pub loss: Option<f64>,
    /// Bytes a second from the peer while a transfer ran.
    pub rate_in: Option<u64>,
    /// And to it.
    pub rate_out: Option<u64>,
    /// Links that were lost and came again.
    pub reconnects: u64,
    /// How long the link has been up.
    pub connected: Option<Duration>,
    /// From 0, down, to 100.
    pub score: u8,
    /// Why it is not 100.
    pub reasons: Vec<Reason>,
}

/// What is wrong with a line.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// There is no link.
    Down,
    /// The peer owes an answer.
    Silent,
    /// Segments are lost: which part.
    Lossy(f64),
    /// It carries less than it could: how much, of how much, in bytes a second.
    Slow(u64, u64),
    /// It is far away.
    Long(Duration),
    /// Round trips differ.
    Unsteady(Duration),
    /// Links are lost: how many in the last hour.
    Unstable(usize),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        match *self {
            Reason::Down => write!(f, "down"),
            Reason::Silent => write!(f, "silent"),
            Reason::Lossy(part) => write!(f, "lossy: {:.1} %", part * 100.0),
            Reason::Slow(is, was) if was >= 10_000_000 => {
                write!(f, "slow: {:.0} of {:.0} MB/s", megabytes(is), megabytes(was))
            }
            Reason::Slow(is, was) => {
                write!(f, "slow: {:.1} of {:.1} MB/s", megabytes(is), megabytes(was))
            }
            Reason::Long(trip) => write!(f, "long: {} ms", trip.as_millis()),
            Reason::Unsteady(jitter) => write!(f, "unsteady: jitter {} ms", jitter.as_millis()),
            Reason::Unstable(losses) => write!(f, "unstable: {losses} reconnects in an hour"),
        }
    }
}

/// A minute of a line.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Minute {
    /// Which one, counted from the start of the process.
    pub number: u64,
    /// Round trips in microseconds: p50, p95, p99; 0 when none was measured.
    pub trip_micros: [u32; 3],
    /// Segments sent.
    pub segments: u32,
    /// Segments sent again.
    pub resent: u32,
    /// Bytes of content from the peer, and while a transfer ran, bytes a second.
    pub bytes_in: u64,
    /// See `bytes_in`.
    pub rate_in: u32,
    /// Bytes of content to the peer.
    pub bytes_out: u64,
    /// Bytes a second to the peer while a transfer ran.
    pub rate_out: u32,
    /// Links that were lost.
    pub losses: u16,
}

/// The rate of one way: bytes over the time in which they moved.
#[derive(Debug, Default)]
struct Flow {
    last: Option<Time>,
    bytes: u64,
    busy: Duration,
    /// When, how many bytes, in how much time; oldest first.
    rates: VecDeque<(Time, u64, Duration)>,
}

impl Flow {
    fn moved(&mut self, now: Time, bytes: u64) {
        let gap = self.last.map(|last| now.since(last)).filter(|gap| *gap < PAUSE);
        self.last = Some(now);
        // The first bytes after a pause took a time that nobody knows.
        let Some(gap) = gap else { return };
        self.bytes += bytes;
        self.busy += gap;
        if self.bytes >= RATE_BYTES_MIN && self.busy >= RATE_TIME_MIN {
            if self.rates.len() == RATES_MAX {
                self.rates.pop_front();
            }
            self.rates.push_back((now, self.bytes, self.busy));
            (self.bytes, self.busy) = (0, Duration::ZERO);
        }
    }

    /// Bytes a second over the latest measurements.
    fn rate(&self, now: Time) -> Option<u64> {
        let recent = self.rates.iter().filter(|(at, ..)| now.since(*at) < RATE_RECENT);
        let sum =
            |sum: (u64, Duration), part: &(Time, u64, Duration)| (sum.0 + part.1, sum.1 + part.2);
        let (bytes, busy) = recent.fold((0, Duration::ZERO), sum);
        (bytes > 0).then(|| (bytes as f64 / busy.as_secs_f64()) as u64)
    }
}

/// The line to one peer.
#[derive(Debug, Default)]
pub struct Quality {
    trips: VecDeque<(Time, Duration)>,
    segments: VecDeque<(Time, u64, u64)>,
    /// What the kernel said of the current link last: sent and sent again.
    counted: Option<(u64, u64)>,
    flow_in: Flow,
    flow_out: Flow,
    up_since: Option<Time>,
    silent: bool,
    links: u64,
    losses: VecDeque<Time>,
    minute: Minute,
    minutes: VecDeque<Minute>,
}

impl Quality {
    /// A link has come up.
    pub fn link_up(&mut self, now: Time) {
        self.turn(now);
        self.up_since = Some(now);
        self.counted = None;
        self.links += 1;
        self.silent = false;
    }

    /// The link is down.
    pub fn link_down(&mut self, now: Time) {
        self.turn(now);
        if self.up_since.take().is_some() {
            if self.losses.len() == LOSSES_MAX {
                self.losses.pop_front();
            }
            self.losses.push_back(now);
            self.minute.losses = self.minute.losses.saturating_add(1);
        }
    }

    /// Whether the peer owes an answer for too long.
    pub fn set_silent(&mut self, silent: bool) {
        self.silent = silent;
    }

    /// A ping was answered after this time.
    pub fn round_trip(&mut self, now: Time, trip: Duration) {
        self.turn(now);
        if self.trips.len() == TRIPS_MAX {
            self.trips.pop_front();
        }
        self.trips.push_back((now, trip));
    }

    /// The kernel has sent so many segments on the current link, and so many of them again.
    pub fn segments(&mut self, now: Time, sent: u64, resent: u64) {
        self.turn(now);
        let before = self.counted.replace((sent, resent)).unwrap_or((0, 0));
        let (sent, resent) = (sent.saturating_sub(before.0), resent.saturating_sub(before.1));
        if sent == 0 && resent == 0 {
            return;
        }
        if self.segments.len() == TRIPS_MAX {
            self.segments.pop_front();
        }
        self.segments.push_back((now, sent, resent));
        let add = |to: u32, more: u64| to.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.minute.segments = add(self.minute.segments, sent);
        self.minute.resent = add(self.minute.resent, resent);
    }

    /// Content has moved.
    pub fn moved(&mut self, now: Time, way: Way, bytes: u64) {
        self.turn(now);
        let (flow, sum) = match way {
            Way::In => (&mut self.flow_in, &mut self.minute.bytes_in),
            Way::Out => (&mut self.flow_out, &mut self.minute.bytes_out),
        };
        flow.moved(now, bytes);
        *sum = sum.saturating_add(bytes);
    }

    /// Whether content moved this way a moment ago.
    pub fn is_busy(&self, now: Time, way: Way) -> bool {
        let flow = match way {
            Way::In => &self.flow_in,
            Way::Out => &self.flow_out,
        };
        flow.last.is_some_and(|last| now.since(last) < PAUSE)
    }

    /// Bytes a second from the peer while a transfer ran, once measured.
    pub fn rate_in(&self, now: Time) -> Option<u64> {
        self.flow_in.rate(now)
    }

    /// Closes the minutes that have passed. Empty ones are not kept.
    fn turn(&mut self, now: Time) {
        let number = now.since(Time::default()).as_secs() / MINUTE.as_secs();
        if number == self.minute.number {
            return;
        }
        let fresh = Minute { number, ..Minute::default() };
        let mut past = std::mem::replace(&mut self.minute, fresh);
        let from = Time::since_start(MINUTE * u32::try_from(past.number).unwrap_or(u32::MAX));
        let trips = self.trips.iter().filter(|(at, _)| *at >= from && *at < from + MINUTE);
        if let Some(spread) = spread(trips.map(|(_, trip)| *trip).collect()) {
            let micros = |trip: Duration| u32::try_from(trip.as_micros()).unwrap_or(u32::MAX);
            past.trip_micros = [micros(spread.p50), micros(spread.p95), micros(spread.p99)];
        }
        let rate = |flow: &Flow, moved: u64| match moved {
            0 => 0,
            _ => u32::try_from(flow.rate(from + MINUTE).unwrap_or(0)).unwrap_or(u32::MAX),
        };
        past.rate_in = rate(&self.flow_in, past.bytes_in);
        past.rate_out = rate(&self.flow_out, past.bytes_out);
        if past != (Minute { number: past.number, ..Minute::default() }) {
            self.minutes.push_back(past);
        }
        while self.minutes.front().is_some_and(|m| m.number + (MINUTES_MAX as u64) < number) {
            self.minutes.pop_front();
        }
    }

    /// The minutes of the last day in which anything was measured, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Minute> {
        self.minutes.iter()
    }

    /// What is known of the line now.
    pub fn summary(&self, now: Time) -> Summary {
        let recent = self.trips.iter().filter(|(at, _)| now.since(*at) < RECENT);
        let trips: Vec<Duration> = recent.map(|(_, trip)| *trip).collect();
        let jitter = trips.windows(2).map(|pair| pair[0].abs_diff(pair[1])).collect();
        let mut summary = Summary {
            round_trip: spread(trips),
            jitter: spread(jitter),
            loss: self.loss(now),
            rate_in: self.flow_in.rate(now),
            rate_out: self.flow_out.rate(now),
            reconnects: self.links.saturating_sub(1),
            connected: self.up_since.map(|since| now.since(since)),
            score: 0,
            reasons: Vec::new(),
        };
        summary.reasons = self.reasons(now, &summary);
        let cost: u32 = summary.reasons.iter().map(Reason::cost).sum();
        summary.score = 100_u32.saturating_sub(cost) as u8;
        summary
    }

    fn loss(&self, now: Time) -> Option<f64> {
        let recent = self.segments.iter().filter(|(at, ..)| now.since(*at) < RECENT);
        let sum = |sum: (u64, u64), part: &(Time, u64, u64)| (sum.0 + part.1, sum.1 + part.2);
        let (sent, resent) = recent.fold((0, 0), sum);
        (sent > 0).then(|| (resent as f64 / sent as f64).min(1.0))
    }

    fn reasons(&self, now: Time, summary: &Summary) -> Vec<Reason> {
        if self.up_since.is_none() {
            return vec![Reason::Down];
        }
        let mut reasons = Vec::new();
        if self.silent {
            reasons.push(Reason::Silent);
        }
        let sent: u64 = self.segments.iter().map(|(_, sent, _)| sent).sum();
        if let Some(loss) = summary.loss.filter(|loss| *loss >= LOSSY && sent >= SEGMENTS_MIN) {
            reasons.push(Reason::Lossy(loss));
        }
        for (rate, best) in [
            (summary.rate_in, self.minutes.iter().map(|m| m.rate_in).max()),
            (summary.rate_out, self.minutes.iter().map(|m| m.rate_out).max()),
        ] {
            if let (Some(rate), Some(best)) = (rate, best.map(u64::from))
                && (rate as f64) < best as f64 * SLOW
            {
                reasons.push(Reason::Slow(rate, best));
            }
        }
        if let Some(trip) = summary.round_trip.filter(|trip| trip.p50 >= LONG) {
            reasons.push(Reason::Long(trip.p50));
        }
        if let (Some(jitter), Some(trip)) = (summary.jitter, summary.round_trip)
            && jitter.p95 >= UNSTEADY
            && jitter.p95 * 2 >= trip.p50
        {
            reasons.push(Reason::Unsteady(jitter.p95));
        }
        let hour = Duration::from_secs(3600);
        let losses = self.losses.iter().filter(|at| now.since(**at) < hour).count();
        if losses >= UNSTABLE {
            reasons.push(Reason::Unstable(losses));
        }
        reasons
    }
}

impl Reason {
    /// What it takes from the score.
    fn cost(&self) -> u32 {
        match self {
            Reason::Down => 100,
            Reason::Silent => 50,
            Reason::Lossy(part) => (10.0 + part * 400.0).min(60.0) as u32,
            Reason::Slow(..) => 30,
            Reason::Long(_) => 15,
            Reason::Unsteady(_) => 15,
            Reason::Unstable(losses) => (10 + 2 * *losses as u32).min(40),
        }
    }
}

/// `None` of nothing.
fn spread(mut samples: Vec<Duration>) -> Option<Spread> {
    samples.sort_unstable();
    let last = samples.len().checked_sub(1)?;
    // The nearest rank: what is reported was measured.
    let at =
        |percent: usize| samples[(samples.len() * percent).div_ceil(100).max(1).min(last + 1) - 1];
    Some(Spread { p50: at(50), p95: at(95), p99: at(99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::since_start(Duration::from_millis(millis))
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn linked() -> Quality {
        let mut quality = Quality::default();
        quality.link_up(at(0));
        quality
    }

    #[test]
    fn percentiles_are_of_what_was_measured_in_the_last_ten_minutes() {
        let mut quality = linked();
        quality.round_trip(at(0), millis(9000));
        for n in 1..=100 {
            quality.round_trip(at(600_000 + n), millis(n));
        }
        let summary = quality.summary(at(601_000));
        let spread = Spread { p50: millis(50), p95: millis(95), p99: millis(99) };
        assert_eq!(summary.round_trip, Some(spread));
        let jitter = Spread { p50: millis(1), p95: millis(1), p99: millis(1) };
        assert_eq!(summary.jitter, Some(jitter));
    }

    #[test]
    fn a_rate_is_of_the_time_in_which_bytes_moved_and_pauses_do_not_count() {
        let mut quality = linked();
        // 100 KB each 10 ms is 10 MB/s; a second of it, a pause of ten seconds, another second.
        for burst in [0, 11_000] {
            for n in 0..100 {
                quality.moved(at(burst + n * 10), Way::In, 100_000);
            }
        }
        let rate = quality.summary(at(12_000)).rate_in.expect("measured");
        assert!((9_900_000..=10_100_000).contains(&rate), "{rate}");
        assert_eq!(quality.summary(at(12_000)).rate_out, None);
    }

    #[test]
    fn what_is_wrong_is_said_with_figures() {
        let good = linked().summary(at(1000));
        assert_eq!((good.score, good.reasons), (100, vec![]));
        let texts = |quality: &Quality, now| {
            let summary = quality.summary(at(now));
            assert!(summary.score < 100);
            summary.reasons.iter().map(Reason::to_string).collect::<Vec<_>>()
        };
        let mut lossy = linked();
        lossy.segments(at(1000), 1000, 31);
        assert_eq!(texts(&lossy, 2000), ["lossy: 3.1 %"]);
        let mut slow = linked();
        for n in 0..1000 {
            slow.moved(at(n * 10), Way::In, 1_000_000);
        }
        for n in 0..2000 {
            slow.moved(at(700_000 + n * 10), Way::In, 120_000);
        }
        assert_eq!(texts(&slow, 720_000), ["slow: 12 of 100 MB/s"]);
        let mut far = linked();
        far.round_trip(at(1), millis(320));
        assert_eq!(texts(&far, 2000), ["long: 320 ms"]);
        let mut flapping = Quality::default();
        for n in 0..4 {
            flapping.link_up(at(n * 1000));
            flapping.link_down(at(n * 1000 + 500));
        }
        assert_eq!(texts(&flapping, 5000), ["down"]);
        flapping.link_up(at(6000));
        assert_eq!(texts(&flapping, 7000), ["unstable: 4 reconnects in an hour"]);
        assert_eq!(flapping.summary(at(7000)).reconnects, 4);
    }

    #[test]
    fn a_few_segments_prove_no_loss_and_a_new_link_counts_from_its_own_start() {
        let mut quality = linked();
        quality.segments(at(1), 20, 1);
        assert_eq!(quality.summary(at(2)).reasons, []);
        quality.link_up(at(10));
        quality.segments(at(11), 1000, 0);
        assert_eq!(quality.summary(at(12)).loss, Some(1.0 / 1020.0));
    }

    #[test]
    fn a_day_is_remembered_and_no_more() {
        let mut quality = linked();
        for minute in 0..3 * MINUTES_MAX as u64 {
            quality.round_trip(at(minute * 60_000 + 1), millis(7));
        }
        assert_eq!(quality.history().count(), MINUTES_MAX);
        assert!(quality.history().all(|minute| minute.trip_micros == [7000; 3]));
        assert!(size_of::<Minute>() * MINUTES_MAX < 128 * 1024);
    }
}
