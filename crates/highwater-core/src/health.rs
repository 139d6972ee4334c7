//! Whether a node is well, and if not, why: each cause is something that is really wrong here, and
//! that goes away when it is mended.
//!
//! A member of the cluster that failed makes nobody else unwell, and a share that waits for a peer
//! that is away is not stuck.

use std::time::Duration;

use crate::clock::{CLOCK_AHEAD_MAX, Time};
use crate::id::ShareName;

/// Free space below which a disk is not healthy: the store needs room for a segment and its copy, and
/// what is staged needs more.
pub const DISK_FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Work that could go on and has not for this long is stuck. A slow disk takes seconds, a request that
/// is given up ten, and a content that nobody has is tried again after five.
pub const STUCK_AFTER: Duration = Duration::from_secs(120);

/// What there is to judge by.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Signs {
    /// Why the store takes no writes, if it does not.
    pub store_failure: Option<String>,
    /// The disks in use: what each is for, and how many bytes are free on it.
    pub disks: Vec<(String, u64)>,
    /// Shares that are stopped by a problem, and which.
    pub stopped: Vec<(ShareName, String)>,
    /// Shares that are stuck, and for how long.
    pub stuck: Vec<(ShareName, Duration)>,
    /// How much later the clock of each connected peer is, in milliseconds.
    pub clock_offsets: Vec<i64>,
    /// Whose certificates have expired, of those whose dates count.
    pub expired: Vec<String>,
}

/// Why a node is not well.
#[derive(Clone, PartialEq, Debug)]
pub enum Cause {
    /// The store takes no writes.
    Store(String),
    /// A disk is full: what it is for, and bytes free.
    Disk(String, u64),
    /// A share is stopped: which, and why.
    Share(ShareName, String),
    /// A share makes no progress: which, and for how long.
    Stuck(ShareName, Duration),
    /// The clock differs from those of most peers, by so many milliseconds.
    Clock(i64),
    /// A certificate has expired: whose.
    Certificate(String),
}

impl Cause {
    /// A short word that scripts can match on.
    pub fn kind(&self) -> &'static str {
        match self {
            Cause::Store(_) => "store",
            Cause::Disk(..) => "disk",
            Cause::Share(..) => "share",
            Cause::Stuck(..) => "progress",
            Cause::Clock(_) => "clock",
            Cause::Certificate(_) => "certificate",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::Store(why) => write!(f, "the store takes no writes: {why}"),
            Cause::Disk(what, free) => write!(
                f,
                "{} MiB are free on the disk of {what}, {} MiB are needed; make room",
                free >> 20,
                DISK_FREE_BYTES_MIN >> 20
            ),
            Cause::Share(share, why) => write!(f, "the share {share} is stopped: {why}"),
            Cause::Stuck(share, stuck) => write!(
                f,
                "the share {share} has made no progress for {} s although a peer is connected; \
                 `highwater status {share}` shows what it waits for",
                stuck.as_secs()
            ),
            Cause::Clock(offset) => write!(
                f,
                "the clocks of most peers are {} s {} this one; set it, or theirs",
                offset.unsigned_abs() / 1000,
                if *offset > 0 { "ahead of" } else { "behind" }
            ),
            Cause::Certificate(whose) => write!(
                f,
                "the certificate of {whose} has expired, and nothing is sent there; renew it there"
            ),
        }
    }
}

/// All that is wrong.
pub fn causes(signs: &Signs) -> Vec<Cause> {
    let mut causes: Vec<Cause> =
        signs.store_failure.clone().map(Cause::Store).into_iter().collect();
    let full = signs.disks.iter().filter(|(_, free)| *free < DISK_FREE_BYTES_MIN);
    causes.extend(full.map(|(what, free)| Cause::Disk(what.clone(), *free)));
    causes.extend(signs.stopped.iter().cloned().map(|(share, why)| Cause::Share(share, why)));
    causes.extend(signs.stuck.iter().cloned().map(|(share, stuck)| Cause::Stuck(share, stuck)));
    causes.extend(clock_off(&signs.clock_offsets).map(Cause::Clock));
    causes.extend(signs.expired.iter().cloned().map(Cause::Certificate));
    causes
}

/// By how much this clock is off, if more than half of the peers say so. Of two that differ nobody
/// knows which is right: both say it.
fn clock_off(offsets: &[i64]) -> Option<i64> {
    let limit = CLOCK_AHEAD_MAX.as_millis() as i64;
    let mut off: Vec<i64> =
        offsets.iter().copied().filter(|o| o.saturating_abs() > limit).collect();
    off.sort_unstable();
    (off.len() * 2 > offsets.len()).then(|| off[off.len() / 2])
}

/// What changes when a share makes progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    /// Entries that are needed.
    pub needed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Positions taken in of the logs of peers, summed.
    pub taken_in: u64,
    /// Acknowledged offsets of transfers, summed.
    pub staged: u64,
    /// The head of its own log.
    pub head: u64,
}

/// Watches one share for progress.
#[derive(Debug, Default)]
pub struct Progress {
    /// The last footprint, and since when it is the same.
    still: Option<(Footprint, Time)>,
}

impl Progress {
    /// A look at the share; `could` tells whether something could go on. For how long it is stuck,
    /// if it is.
    pub fn look(&mut self, now: Time, could: bool, footprint: Footprint) -> Option<Duration> {
        let since = match self.still {
            Some((before, since)) if could && before == footprint => since,
            _ => now,
        };
        self.still = Some((footprint, since));
        let still = now.since(since);
        (still >= STUCK_AFTER).then_some(still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> ShareName {
        "docs".parse().expect("a name")
    }

    #[test]
    fn each_cause_turns_a_node_red_and_its_end_turns_it_green_again() {
        let well = Signs {
            disks: vec![("the store".into(), DISK_FREE_BYTES_MIN)],
            clock_offsets: vec![59_000, -59_000, 3_600_000],
            ..Signs::default()
        };
        assert_eq!(causes(&well), []);
        let rows = [
            (Signs { store_failure: Some("EIO".into()), ..well.clone() }, "store"),
            (Signs { disks: vec![("docs".into(), 63 << 20)], ..well.clone() }, "disk"),
            (Signs { stopped: vec![(share(), "no root".into())], ..well.clone() }, "share"),
            (Signs { stuck: vec![(share(), STUCK_AFTER)], ..well.clone() }, "progress"),
            (Signs { clock_offsets: vec![-61_000], ..well.clone() }, "clock"),
            (Signs { clock_offsets: vec![0, 70_000, 80_000], ..well.clone() }, "clock"),
            (Signs { expired: vec!["the webhook".into()], ..well.clone() }, "certificate"),
        ];
        for (signs, kind) in rows {
            let kinds: Vec<&str> = causes(&signs).iter().map(Cause::kind).collect();
            assert_eq!(kinds, [kind], "{signs:?}");
        }
    }

    #[test]
    fn one_peer_of_two_with_a_wrong_clock_makes_nobody_else_unwell() {
        assert_eq!(clock_off(&[0, i64::MIN]), None);
        assert_eq!(clock_off(&[]), None);
    }

    #[test]
    fn a_share_is_stuck_only_while_it_could_go_on_and_does_not() {
        let at = |seconds| Time::since_start(Duration::from_secs(seconds));
        let needed = |needed| Footprint { needed, ..Footprint::default() };
        let mut progress = Progress::default();
        assert_eq!(progress.look(at(0), true, needed(5)), None);
        assert_eq!(progress.look(at(119), true, needed(5)), None);
        assert_eq!(progress.look(at(120), true, needed(5)), Some(STUCK_AFTER));
        assert_eq!(progress.look(at(130), true, needed(4)), None, "it went on");
        assert_eq!(progress.look(at(260), false, needed(4)), None, "it cannot go on");
        assert_eq!(progress.look(at(300), true, needed(4)), None, "it can since then");
        assert!(progress.look(at(380), true, needed(4)).is_some());
    }
}
