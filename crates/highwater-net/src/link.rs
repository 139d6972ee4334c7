//! Two decisions about connections: whether the other side is still there ([`Pulse`]), and which of
//! two connections to one peer stays ([`judge`]).
//!
//! A link is *alive* while the peer is heard, *suspect* when a ping has gone unanswered for a
//! while and nothing else was heard either, *dead* when the silence has lasted [`DEAD_AFTER`]. A
//! suspect link is not touched: a second connection is tried beside it, and whichever speaks first
//! wins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use highwater_core::{BEAT, InstanceId, Time};

/// Pings follow each other this closely while messages pass.
pub(crate) const PING_EVERY_BUSY: Duration = Duration::from_secs(1);
/// On an idle link a ping follows what was last heard after this, unless a cluster wants to know
/// sooner: often enough that a dead one is found within 15 seconds, rarely enough to cost nothing.
pub(crate) const PING_EVERY_IDLE: Duration = Duration::from_secs(5);
/// A link counts as busy for this long after its last message.
pub(crate) const BUSY_FOR: Duration = Duration::from_secs(4);
/// Silence with a ping outstanding that makes a link suspect.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(1500);
/// On a slow line a link is suspect only after this many of its usual round trips.
const SUSPECT_AFTER_ROUND_TRIPS: u32 = 3;
/// No line is so slow that its links are suspect only after more than this.
const SUSPECT_AFTER_MAX: Duration = Duration::from_secs(6);
/// Silence that ends a link.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(12);
/// How closely a suspect link is watched for a sign of life.
const SUSPECT_LOOK_EVERY: Duration = Duration::from_millis(100);
/// The pulse looks at least this often, so that an idle link that becomes busy is pinged soon.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Looks for pings on a busy link fall on multiples of this, those of all links of a node together.
const LOOKS_TOGETHER: Duration = Duration::from_millis(BEAT.as_millis() as u64 / 4);
/// The same on an idle link. With few links they fall on the node's whole beats, with everything else
/// that it does when it is idle.
const LOOKS_TOGETHER_IDLE: Duration = Duration::from_millis(BEAT.as_millis() as u64 / 2);
/// A look that comes this much too late means that this process was stopped: the silence was ours.
const OVERSLEPT: Duration = Duration::from_secs(2);
/// Pings whose answers are waited for. Those before have been overtaken by the link's death.
const PINGS_MAX: usize = 16;

/// How often idle links are pinged, which those who use the net may change while it runs.
#[derive(Debug)]
pub(crate) struct Pace(AtomicU64);

/// More often would be all that an idle link does.
const PACE_MIN: Duration = Duration::from_millis(200);

impl Default for Pace {
    fn default() -> Self {
        Self(AtomicU64::new(PING_EVERY_IDLE.as_millis() as u64))
    }
}

impl Pace {
    pub(crate) fn set(&self, every: Duration) {
        let every = every.clamp(PACE_MIN, PING_EVERY_IDLE);
        self.0.store(every.as_millis() as u64, Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }
}

/// How a link fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// The peer was heard lately.
    Alive,
    /// The peer owes an answer for too long.
    Suspect,
    /// The peer is gone.
    Dead,
}

/// What one look at the pulse asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Beat {
    /// Send a ping with this number.
    pub(crate) ping: Option<u64>,
    /// How the link fares.
    pub(crate) health: Health,
}

/// Round trips measured by pings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RoundTrip {
    /// Their exponentially weighted mean, 1/8 for the newest, as TCP reckons it (RFC 6298).
    pub(crate) smoothed: Duration,
    /// The shortest.
    pub(crate) min: Duration,
}

/// Watches over one link.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// Before this nothing counts as silence.
    floor: Time,
    pings: BTreeMap<u64, Time>,
    last_number: u64,
    last_ping: Option<Time>,
    look_at: Time,
    round_trip: Option<RoundTrip>,
}

impl Pulse {
    /// The pulse of a link that comes up now. The first look asks for a ping.
    pub(crate) fn new(now: Time) -> Self {
        let pings = BTreeMap::new();
        Self { floor: now, pings, last_number: 0, last_ping: None, look_at: now, round_trip: None }
    }

    /// When to look next.
    pub(crate) fn deadline(&self) -> Time {
        self.look_at
    }

    /// The round trips so far.
    pub(crate) fn round_trip(&self) -> Option<RoundTrip> {
        self.round_trip
    }

    /// Looks, at `now`: the peer was last heard at `heard`, a message last passed at `active`. An
    /// idle link is pinged once nothing was heard for `idle_every`: the peer's ping is a sign of life
    /// as good as its answer, so that of both sides one asks. On a busy link both ask, for round trips
    /// are measured by asking.
    pub(crate) fn look(
        &mut self,
        now: Time,
        heard: Time,
        active: Time,
        idle_every: Duration,
    ) -> Beat {
        if now.since(self.look_at) >= OVERSLEPT {
            self.floor = now;
            self.pings.clear();
        }
        let heard = heard.max(self.floor);
        let health = self.health(now, heard);
        let busy = now.since(active) < BUSY_FOR;
        let (every, together) = if busy {
            (PING_EVERY_BUSY.min(idle_every), LOOKS_TOGETHER)
        } else if idle_every <= BEAT {
            // On the beat that is nearest.
            (idle_every / 2, idle_every)
        } else {
            (idle_every, LOOKS_TOGETHER_IDLE)
        };
        let due_at = self.last_ping.map(|last| if busy { last } else { last.max(heard) } + every);
        let ping = due_at.is_none_or(|at| at <= now).then(|| self.ping(now));
        let next_ping = due_at.filter(|_| ping.is_none()).unwrap_or(now + every);
        let oldest = self.pings.values().next().copied();
        let suspect_at = oldest.map(|sent| sent.max(heard) + self.patience());
        let next = if health == Health::Alive {
            next_ping.min(now + LOOK_EVERY).rounded_up(together)
        } else {
            now + SUSPECT_LOOK_EVERY
        };
        self.look_at = suspect_at.filter(|at| *at > now).map_or(next, |at| at.min(next));
        Beat { ping, health }
    }

    /// A ping beyond the regular ones, sent now.
    pub(crate) fn ping(&mut self, now: Time) -> u64 {
        self.last_number += 1;
        self.pings.insert(self.last_number, now);
        if self.pings.len() > PINGS_MAX {
            self.pings.pop_first();
        }
        self.last_ping = Some(now);
        self.last_number
    }

    /// The peer has answered the ping with this number, and with it all before. When that ping was
    /// sent; `None` for an answer to no question.
    pub(crate) fn pong(&mut self, now: Time, number: u64) -> Option<Time> {
        let sent = *self.pings.get(&number)?;
        self.pings = self.pings.split_off(&(number + 1));
        let sample = now.since(sent);
        self.round_trip = Some(match self.round_trip {
            None => RoundTrip { smoothed: sample, min: sample },
            Some(before) => RoundTrip {
                smoothed: (before.smoothed * 7 + sample) / 8,
                min: before.min.min(sample),
            },
        });
        Some(sent)
    }

    fn health(&self, now: Time, heard: Time) -> Health {
        let Some(&oldest) = self.pings.values().next() else { return Health::Alive };
        if now.since(heard) >= DEAD_AFTER {
            Health::Dead
        } else if now.since(heard.max(oldest)) >= self.patience() {
            Health::Suspect
        } else {
            Health::Alive
        }
    }

    fn patience(&self) -> Duration {
        let usual = self.round_trip.map_or(Duration::ZERO, |trip| trip.smoothed);
        (usual * SUSPECT_AFTER_ROUND_TRIPS).clamp(SUSPECT_AFTER, SUSPECT_AFTER_MAX)
    }
}

/// Two connections that come up within this time, dialled from both sides, are taken for
/// simultaneous: each side may see the other one first.
pub(crate) const SIMULTANEOUS: Duration = Duration::from_secs(1);

/// What is known of a connection when it competes with another of the same peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    /// Which run of the peer's daemon is at the other end.
    pub(crate) instance: InstanceId,
    /// Whether the side with the smaller node id has dialled. Both sides see this alike.
    pub(crate) dialled_by_smaller: bool,
    /// When it came up here.
    pub(crate) since: Time,
}

/// Which of two connections of one peer stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The new one takes over.
    TakeOver,
    /// The current one stays.
    Keep,
    /// Another run of the daemon: a restart if the current connection is dead, a cloned identity
    /// if it still answers. Ask it.
    AskCurrent,
}

/// Decides between the current connection of a peer and a new one.
pub(crate) fn judge(current: &Claim, new: &Claim) -> Verdict {
    let simultaneous = new.since.since(current.since) < SIMULTANEOUS;
    if current.instance != new.instance {
        Verdict::AskCurrent
    } else if simultaneous && current.dialled_by_smaller && !new.dialled_by_smaller {
        Verdict::Keep
    } else {
        Verdict::TakeOver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::since_start(Duration::from_millis(millis))
    }

    /// Looks whenever the pulse wants to, from `from` until `until`; nobody is heard after `heard`.
    fn watch(pulse: &mut Pulse, heard: Time, active: Time, until: Time) -> Vec<(Time, Beat)> {
        let mut beats = Vec::new();
        while pulse.deadline() <= until {
            let now = pulse.deadline();
            beats.push((now, pulse.look(now, heard, active, PING_EVERY_IDLE)));
        }
        beats
    }

    fn first(beats: &[(Time, Beat)], health: Health) -> Option<Time> {
        beats.iter().find(|(_, beat)| beat.health == health).map(|(time, _)| *time)
    }

    #[test]
    fn a_silent_busy_link_is_suspect_within_two_seconds_and_dead_after_twelve() {
        let mut pulse = Pulse::new(at(0));
        let beats = watch(&mut pulse, at(0), at(0), at(20_000));
        assert_eq!(first(&beats, Health::Suspect), Some(at(1500)));
        assert_eq!(first(&beats, Health::Dead), Some(at(12_000)));
    }

    #[test]
    fn a_silent_idle_link_is_dead_within_fifteen_seconds_whenever_it_falls_silent() {
        for silent_from in (0..5000).step_by(100) {
            let mut pulse = Pulse::new(at(0));
            let mut now = at(0);
            while now <= at(60_000 + silent_from) {
                let beat = pulse.look(now, now, at(0), PING_EVERY_IDLE);
                assert_eq!(beat.health, Health::Alive);
                if let Some(number) = beat.ping {
                    pulse.pong(now, number);
                }
                now = pulse.deadline();
            }
            let silence = at(60_000 + silent_from);
            let beats = watch(&mut pulse, silence, at(0), silence + Duration::from_secs(30));
            let dead = first(&beats, Health::Dead).expect("dead");
            assert!(dead.since(silence) <= Duration::from_secs(15), "{:?}", dead.since(silence));
        }
    }

    #[test]
    fn a_suspect_link_that_speaks_again_is_alive() {
        let mut pulse = Pulse::new(at(0));
        watch(&mut pulse, at(0), at(0), at(3000));
        let beat = pulse.look(at(3100), at(3100), at(0), PING_EVERY_IDLE);
        assert_eq!(beat.health, Health::Alive);
    }

    #[test]
    fn an_idle_link_is_pinged_by_whoever_hears_nothing_and_a_busy_one_by_both() {
        let every = Duration::from_secs(1);
        for (active, pings) in [(at(0), 0), (at(60_000), 10)] {
            let mut pulse = Pulse::new(at(50_000));
            let first = pulse.look(at(50_000), at(50_000), active, every).ping.expect("the first");
            pulse.pong(at(50_001), first);
            let mut asked = 0;
            // The other side asks every second, and is heard 0.4 s before each look.
            for now in (51_000..=60_000).step_by(1000).map(at) {
                let heard = now - Duration::from_millis(400);
                if let Some(number) = pulse.look(now, heard, active, every).ping {
                    asked += 1;
                    pulse.pong(now, number);
                }
            }
            assert_eq!(asked, pings);
        }
    }

    #[test]
    fn an_idle_link_in_a_small_cluster_is_suspect_within_three_beats_whenever_it_falls_silent() {
        for silent_from in (0..3000).step_by(10) {
            let mut pulse = Pulse::new(at(0));
            let silence = at(60_000 + silent_from);
            let mut now = at(0);
            while now <= silence {
                if let Some(number) = pulse.look(now, now, at(0), BEAT).ping {
                    pulse.pong(now, number);
                }
                now = pulse.deadline();
            }
            let pinged = loop {
                if pulse.look(now, silence, at(0), BEAT).ping.is_some() {
                    break now;
                }
                now = pulse.deadline();
            };
            assert!(pinged.since(silence) >= BEAT / 2, "a ping beside a sign of life");
            assert_eq!(pinged, pinged.rounded_down(BEAT), "a wake of its own");
            while pulse.look(now, silence, at(0), BEAT).health == Health::Alive {
                now = pulse.deadline();
            }
            assert!(now.since(silence) <= BEAT * 3, "{:?}", now.since(silence));
        }
    }

    #[test]
    fn links_that_came_up_at_any_time_are_looked_at_together() {
        let mut moments = std::collections::BTreeSet::new();
        for link in 0..16_u64 {
            let begun = at(link * 37);
            let mut pulse = Pulse::new(begun);
            while pulse.deadline() < at(20_000) {
                let now = pulse.deadline();
                if let Some(number) = pulse.look(now, now, at(0), Duration::from_secs(2)).ping {
                    pulse.pong(now, number);
                }
                if now >= at(10_000) {
                    moments.insert(now);
                }
            }
        }
        assert!(moments.len() <= 40, "{} wakes in 10 s", moments.len());
    }

    #[test]
    fn a_slow_line_is_given_more_time() {
        let mut pulse = Pulse::new(at(0));
        let number = pulse.look(at(0), at(0), at(0), PING_EVERY_IDLE).ping.expect("first ping");
        watch(&mut pulse, at(0), at(0), at(1400));
        pulse.pong(at(1400), number);
        let last = pulse.last_number;
        pulse.pong(at(1401), last);
        let heard = at(1401);
        let beats = watch(&mut pulse, heard, heard, at(20_000));
        let suspect = first(&beats, Health::Suspect).expect("suspect");
        assert!(suspect.since(heard) > Duration::from_millis(2500), "{:?}", suspect.since(heard));
    }

    #[test]
    fn a_process_that_was_stopped_does_not_blame_its_peer() {
        let mut pulse = Pulse::new(at(0));
        pulse.look(at(0), at(0), at(0), PING_EVERY_IDLE);
        let beat = pulse.look(at(60_000), at(0), at(0), PING_EVERY_IDLE);
        assert_eq!(beat.health, Health::Alive);
    }

    #[test]
    fn round_trips_are_measured_and_answers_to_no_question_are_ignored() {
        let mut pulse = Pulse::new(at(0));
        assert_eq!(pulse.pong(at(5), 77), None);
        let number = pulse.ping(at(10));
        assert_eq!(pulse.pong(at(30), number), Some(at(10)));
        assert_eq!(pulse.pong(at(31), number), None);
        let trip = pulse.round_trip().expect("measured");
        assert_eq!(
            (trip.smoothed, trip.min),
            (Duration::from_millis(20), Duration::from_millis(20))
        );
    }

    #[test]
    fn of_two_connections_one_stays_and_both_sides_agree_which() {
        let claim = |instance, dialled_by_smaller, millis| Claim {
            instance: InstanceId([instance; 16]),
            dialled_by_smaller,
            since: at(millis),
        };
        let table = [
            (claim(1, true, 0), claim(1, true, 5000), Verdict::TakeOver, "the newest wins"),
            (claim(1, true, 0), claim(1, false, 5000), Verdict::TakeOver, "whoever dialled it"),
            (claim(1, true, 0), claim(1, false, 900), Verdict::Keep, "both dialled: the smaller's"),
            (claim(1, false, 0), claim(1, true, 900), Verdict::TakeOver, "seen in other order"),
            (claim(1, true, 0), claim(1, true, 10), Verdict::TakeOver, "one side dialled again"),
            (claim(1, true, 0), claim(2, true, 5000), Verdict::AskCurrent, "restart or clone"),
            (claim(1, true, 0), claim(2, false, 10), Verdict::AskCurrent, "even at once"),
        ];
        for (current, new, expected, why) in table {
            assert_eq!(judge(&current, &new), expected, "{why}");
        }
    }
}
