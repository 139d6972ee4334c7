//! Which alerts stand: what was measured, held against rules, without flapping.
//!
//! A rule watches one kind of figure; each thing it is measured of (a peer, a share, the disk) is a
//! *subject* with an alert of its own, which is
//!
//! - *quiet*: the figure is well;
//! - *pending*: it has reached the rule's `fire` level, not yet for as long as `hold` says;
//! - *firing*: it has. It stays so until the figure has been on the good side of `clear` for as
//!   long as `rest` says.
//!
//! `clear` lies on the good side of `fire`, so a figure that swings around one level changes
//! nothing. Turning to firing and back to quiet are told once each, as a [`Notice`]. What fires
//! survives a restart ([`Alerts::firing`], [`Alerts::restore`]), so that it is not told again.
//!
//! Nothing is measured here and nobody is told: the caller does both.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Time, WallTime};

/// Subjects of all rules together. A node with more peers and shares than that is told of the
/// first ones; the alerts then say less than there is, never something else.
pub const SUBJECTS_MAX: usize = 4096;
/// Alerts that were resolved and are still listed.
pub const RECENT_MAX: usize = 100;
/// Longest text of a subject or a cause, in bytes: names and keys are shorter, or are clipped.
pub const TEXT_BYTES_MAX: usize = 1024;

/// What is watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A peer has had no link for so many seconds.
    PeerSilent,
    /// The oldest change that a peer, or this node, has not acknowledged is so many seconds old.
    LagAge,
    /// A peer, or this node, has so many entries of a log not acknowledged.
    LagEntries,
    /// A transfer has not moved for so many seconds.
    TransferStalled,
    /// A check of a share found so many differences.
    CheckFailed,
    /// A share was last checked so many seconds ago.
    CheckOverdue,
    /// So many contents on this node's disk are not what they were.
    BitRot,
    /// So few bytes are free on the disk of the store.
    DiskLow,
    /// The clock of a peer differs by so many seconds.
    ClockSkew,
    /// A share has so many conflict copies.
    Conflict,
    /// Deletes are held back in a share. The figure is 1 or 0.
    MassDelete,
    /// A certificate ends in so few seconds.
    CertificateEnding,
    /// A peer runs another version. The figure is 1 or 0.
    VersionSkew,
    /// A share is stopped by a problem. The figure is 1 or 0.
    ShareStopped,
}

/// On which side of its level a figure is bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// The larger, the worse.
    Above,
    /// The smaller, the worse.
    Below,
}

/// How bad an alert is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Look at it when there is time.
    Info,
    /// Look at it today.
    Warning,
    /// Something does not work, or data is at risk.
    Critical,
}

/// When a rule fires and when it is over.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Levels {
    /// The figure that is bad, in the rule's unit.
    pub fire: f64,
    /// The figure that is well again; on the good side of `fire`, or the same.
    pub clear: f64,
    /// How long the figure has to be bad.
    pub hold: Duration,
    /// How long it has to be well again.
    pub rest: Duration,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR_SECONDS: f64 = 3600.0;
const DAY_SECONDS: f64 = 24.0 * HOUR_SECONDS;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

impl Rule {
    /// Every rule, in the order in which alerts are listed.
    pub const ALL: [Rule; 14] = [
        Rule::PeerSilent,
        Rule::LagAge,
        Rule::LagEntries,
        Rule::TransferStalled,
        Rule::CheckFailed,
        Rule::CheckOverdue,
        Rule::BitRot,
        Rule::DiskLow,
        Rule::ClockSkew,
        Rule::Conflict,
        Rule::MassDelete,
        Rule::CertificateEnding,
        Rule::VersionSkew,
        Rule::ShareStopped,
    ];

    /// The rule as it is written in the configuration and in every answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rule::PeerSilent => "peer_silent",
            Rule::LagAge => "lag_age",
            Rule::LagEntries => "lag_entries",
            Rule::TransferStalled => "transfer_stalled",
            Rule::CheckFailed => "check_failed",
            Rule::CheckOverdue => "check_overdue",
            Rule::BitRot => "bit_rot",
            Rule::DiskLow => "disk_low",
            Rule::ClockSkew => "clock_skew",
            Rule::Conflict => "conflict",
            Rule::MassDelete => "mass_delete",
            Rule::CertificateEnding => "certificate_ending",
            Rule::VersionSkew => "version_skew",
            Rule::ShareStopped => "share_stopped",
        }
    }

    /// Which side is bad.
    pub const fn bad(self) -> Bad {
        match self {
            Rule::DiskLow | Rule::CertificateEnding => Bad::Below,
            _ => Bad::Above,
        }
    }

    /// How bad it is when it fires.
    pub const fn severity(self) -> Severity {
        match self {
            Rule::CheckFailed | Rule::BitRot | Rule::DiskLow | Rule::ShareStopped => {
                Severity::Critical
            }
            Rule::Conflict | Rule::VersionSkew | Rule::CheckOverdue => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// What a person is to do.
    pub const fn what_to_do(self) -> &'static str {
        match self {
            Rule::PeerSilent => {
                "see that the peer runs and that its sync port is reachable; `highwater status` \
                 says what was tried"
            }
            Rule::LagAge | Rule::LagEntries => {
                "see `highwater status` for what is needed and `highwater transfers` for what moves"
            }
            Rule::TransferStalled => {
                "see `highwater transfers`; the peer that has the content may be down or slow"
            }
            Rule::CheckFailed => {
                "see the report of `highwater check`; --repair fetches good copies"
            }
            Rule::CheckOverdue => "run `highwater check`",
            Rule::BitRot => "run `highwater check --deep --repair`, and look at the disk",
            Rule::DiskLow => "make room on the disk of the node's home",
            Rule::ClockSkew => "correct the clock of that node, or this one's; use NTP",
            Rule::Conflict => {
                "see `highwater conflicts`; keep what you want under the real name and delete the copy"
            }
            Rule::MassDelete => {
                "`highwater share confirm` lets the deletes go out, `highwater share revert` fetches \
                 the files again"
            }
            Rule::CertificateEnding => "renew the certificate before it ends",
            Rule::VersionSkew => "update the older of the two nodes",
            Rule::ShareStopped => {
                "see `highwater status` for the problem; the share goes on by itself"
            }
        }
    }

    /// The levels unless the owner of the node set others.
    pub const fn levels_default(self) -> Levels {
        let (fire, clear, hold, rest) = match self {
            // Long enough for a restart or a nap of a laptop; the figure itself is a time.
            Rule::PeerSilent => (300.0, 1.0, Duration::ZERO, Duration::from_secs(30)),
            Rule::LagAge => (600.0, 60.0, Duration::ZERO, Duration::from_secs(30)),
            Rule::LagEntries => (100_000.0, 10_000.0, MINUTE, Duration::from_secs(30)),
            Rule::TransferStalled => (120.0, 1.0, Duration::ZERO, Duration::from_secs(10)),
            // Found once is found: these do not wait, nor do they go by themselves.
            Rule::CheckFailed | Rule::BitRot | Rule::MassDelete => {
                (1.0, 0.0, Duration::ZERO, Duration::ZERO)
            }
            Rule::Conflict => (1.0, 0.0, Duration::ZERO, Duration::from_secs(10)),
            // A node reads everything again every 30 days by itself.
            Rule::CheckOverdue => {
                (40.0 * DAY_SECONDS, 5.0 * DAY_SECONDS, Duration::ZERO, Duration::ZERO)
            }
            Rule::DiskLow => (GIB, 1.25 * GIB, Duration::from_secs(10), MINUTE),
            Rule::ClockSkew => (60.0, 30.0, Duration::from_secs(30), MINUTE),
            Rule::CertificateEnding => {
                (14.0 * DAY_SECONDS, 15.0 * DAY_SECONDS, Duration::ZERO, MINUTE)
            }
            // A rolling update takes its time.
            Rule::VersionSkew => (1.0, 0.0, Duration::from_secs(3600), MINUTE),
            Rule::ShareStopped => (1.0, 0.0, Duration::from_secs(10), SECOND),
        };
        Levels { fire, clear, hold, rest }
    }
}

impl std::str::FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Rule::ALL.into_iter().find(|rule| rule.as_str() == text);
        known.ok_or_else(|| {
            format!(
                "there is no alert named {text:?}; they are {}",
                Rule::ALL.map(Rule::as_str).join(", ")
            )
        })
    }
}

impl Levels {
    /// These levels with another `fire`, and `clear` as far from it in proportion.
    #[must_use]
    pub fn with_fire(self, fire: f64) -> Self {
        let clear = if self.fire == 0.0 { fire } else { self.clear / self.fire * fire };
        Self { fire, clear, ..self }
    }
}

/// One figure, measured now.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// By which rule it is judged.
    pub rule: Rule,
    /// What it was measured of.
    pub subject: String,
    /// In the rule's unit.
    pub value: f64,
    /// What it is, for people.
    pub cause: String,
}

/// An alert that fires, or did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// Its number; no other alert of this node ever has it.
    pub id: u64,
    /// By which rule.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: String,
    /// Since when the figure has been bad.
    pub since: WallTime,
    /// When it was over, if it is.
    pub resolved: Option<WallTime>,
    /// The latest figure.
    pub value: f64,
    /// The figure at which it fires.
    pub threshold: f64,
    /// What it is, for people.
    pub cause: String,
}

/// A turn that others are to be told of, once.
#[derive(Clone, PartialEq, Debug)]
pub enum Notice {
    /// It fires.
    Firing(Alert),
    /// It is over.
    Resolved(Alert),
}

/// One subject of one rule.
#[derive(Clone, Debug)]
enum State {
    Pending { since: Time, wall: WallTime },
    Firing { alert: Alert, well_since: Option<Time> },
}

/// All alerts of a node.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    states: BTreeMap<(Rule, String), State>,
    recent: VecDeque<Alert>,
    last_id: u64,
}

impl Alerts {
    /// The alerts of a node that had these firing, and had given numbers up to `last_id`, when it
    /// was stopped.
    pub fn restore(firing: Vec<Alert>, recent: Vec<Alert>, last_id: u64) -> Self {
        let mut alerts = Self { last_id, ..Self::default() };
        for alert in firing.into_iter().take(SUBJECTS_MAX) {
            alerts.last_id = alerts.last_id.max(alert.id);
            let place = (alert.rule, alert.subject.clone());
            alerts.states.insert(place, State::Firing { alert, well_since: None });
        }
        alerts.recent = recent.into_iter().take(RECENT_MAX).collect();
        alerts
    }

    /// Takes in everything that was measured at `now`, judged by `levels`; a rule without levels is
    /// switched off. What was measured before and is not any more counts as well.
    pub fn look(
        &mut self,
        now: Time,
        wall: WallTime,
        measured: Vec<Measured>,
        levels: impl Fn(Rule) -> Option<Levels>,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut seen = BTreeMap::new();
        for figure in measured {
            if seen.len() < SUBJECTS_MAX && levels(figure.rule).is_some() {
                let subject = clipped(figure.subject);
                seen.insert((figure.rule, subject), (figure.value, clipped(figure.cause)));
            }
        }
        for (place, (value, cause)) in &seen {
            if let Some(levels) = levels(place.0) {
                self.judge(now, wall, place, *value, cause, &levels, &mut notices);
            }
        }
        let absent: Vec<_> =
            self.states.keys().filter(|place| !seen.contains_key(*place)).cloned().collect();
        for place in absent {
            let rest = levels(place.0).map_or(Duration::ZERO, |levels| levels.rest);
            self.rest(now, wall, &place, None, rest, &mut notices);
        }
        assert!(self.recent.len() <= RECENT_MAX);
        notices
    }

    /// What fires, in the order of the rules.
    pub fn firing(&self) -> impl Iterator<Item = &Alert> {
        self.states.values().filter_map(|state| match state {
            State::Firing { alert, .. } => Some(alert),
            State::Pending { .. } => None,
        })
    }

    /// What was resolved lately, the latest first.
    pub fn recent(&self) -> impl Iterator<Item = &Alert> {
        self.recent.iter()
    }

    /// How many subjects are bad and do not fire yet.
    pub fn pending(&self) -> usize {
        self.states.len() - self.firing().count()
    }

    /// The last number that was given to an alert.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    #[expect(clippy::too_many_arguments, reason = "one figure, with what it is judged by")]
    fn judge(
        &mut self,
        now: Time,
        wall: WallTime,
        place: &(Rule, String),
        value: f64,
        cause: &str,
        levels: &Levels,
        notices: &mut Vec<Notice>,
    ) {
        let bad = place.0.bad().reaches(value, levels.fire);
        match self.states.get_mut(place) {
            None if !bad => return,
            None => {
                self.states.insert(place.clone(), State::Pending { since: now, wall });
            }
            Some(State::Pending { .. }) if !bad => {
                self.states.remove(place);
                return;
            }
            Some(State::Pending { .. }) => {}
            Some(State::Firing { alert, well_since }) => {
                if place.0.bad().is_past(value, levels.clear) {
                    self.rest(now, wall, place, Some(value), levels.rest, notices);
                } else {
                    *well_since = None;
                    (alert.value, alert.threshold) = (value, levels.fire);
                    alert.cause.replace_range(.., cause);
                }
                return;
            }
        }
        let Some(State::Pending { since, wall }) = self.states.get(place) else { return };
        if now.since(*since) < levels.hold {
            return;
        }
        self.last_id += 1;
        let alert = Alert {
            id: self.last_id,
            rule: place.0,
            severity: place.0.severity(),
            subject: place.1.clone(),
            since: *wall,
            resolved: None,
            value,
            threshold: levels.fire,
            cause: cause.to_owned(),
        };
        notices.push(Notice::Firing(alert.clone()));
        self.states.insert(place.clone(), State::Firing { alert, well_since: None });
    }

    /// A subject that is well, or gone: what pends is dropped, what fires is resolved in time.
    fn rest(
        &mut self,
        now: Time,
        wall: WallTime,
        place: &(Rule, String),
        value: Option<f64>,
        rest: Duration,
        notices: &mut Vec<Notice>,
    ) {
        if let Some(State::Firing { alert, well_since }) = self.states.get_mut(place) {
            if let Some(value) = value {
                alert.value = value;
            }
            if now.since(*well_since.get_or_insert(now)) < rest {
                return;
            }
            alert.resolved = Some(wall);
            notices.push(Notice::Resolved(alert.clone()));
            self.recent.truncate(RECENT_MAX - 1);
            self.recent.push_front(alert.clone());
        }
        self.states.remove(place);
    }
}

impl Bad {
    /// Whether `value` is as bad as `level`, or worse.
    fn reaches(self, value: f64, level: f64) -> bool {
        match self {
            Bad::Above => value >= level,
            Bad::Below => value <= level,
        }
    }

    /// Whether `value` is at `level` or on the good side of it.
    fn is_past(self, value: f64, level: f64) -> bool {
        match self {
            Bad::Above => value <= level,
            Bad::Below => value >= level,
        }
    }
}

fn clipped(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests;
