//! The documents about lines to peers: `GET /api/v1/peers`, and what `highwater net` prints.

use std::time::Duration;

use highwater_core::member::State;
use highwater_core::quality::{Minute, Spread, Summary};
use highwater_core::{NodeId, ShareName, WallTime};
use serde::{Deserialize, Serialize};

use super::{as_text, rfc3339};

/// `GET /api/v1/peers`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peers {
    /// Every peer of the configuration.
    pub peers: Vec<Peer>,
}

/// One peer, and the line to it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Which peer.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Its name in this node's configuration.
    pub name: String,
    /// Where it is dialled, if anywhere.
    pub addr: Option<String>,
    /// The shares exchanged with it.
    pub shares: Vec<ShareName>,
    /// Whether a link to it is up.
    pub connected: bool,
    /// How it stands in the cluster, if it is known there.
    pub state: Option<State>,
    /// Why the last link ended or the last attempt failed, while there is none.
    pub last_error: Option<String>,
    /// Attempts to dial it so far.
    pub dial_attempts: u64,
    /// How much later its clock is than this node's, in milliseconds, once it has told.
    pub clock_offset_ms: Option<i64>,
    /// What the line is like.
    pub quality: LineQuality,
}

/// What a line is like now: figures of the last ten minutes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LineQuality {
    /// From 0, no link, to 100.
    pub score: u8,
    /// `good`, or the reasons why not, for people.
    pub rating: String,
    /// Why the score is not 100.
    pub reasons: Vec<String>,
    /// Round trips in milliseconds.
    pub rtt_ms: Option<Percentiles>,
    /// The difference between one round trip and the next, in milliseconds.
    pub jitter_ms: Option<Percentiles>,
    /// Segments that had to be sent again, in percent of all, where the kernel says so.
    pub loss_percent: Option<f64>,
    /// Content from the peer while a transfer ran.
    pub receive_bytes_per_second: Option<u64>,
    /// Content to the peer while a transfer ran.
    pub send_bytes_per_second: Option<u64>,
    /// Links that were lost and came again.
    pub reconnects: u64,
    /// How long the link has been up.
    pub connected_seconds: Option<u64>,
}

/// The middle, and how bad it gets.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: f64,
    /// 95 % are below.
    pub p95: f64,
    /// 99 % are below.
    pub p99: f64,
}

/// One peer with its last day.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerDetail {
    /// The peer as it is now.
    #[serde(flatten)]
    pub peer: Peer,
    /// The minutes in which anything was measured, oldest first, 1,440 at most.
    pub history: Vec<LineMinute>,
}

/// A minute of a line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LineMinute {
    /// When it began, RFC 3339.
    pub began: String,
    /// Round trips in milliseconds.
    pub rtt_ms: Option<Percentiles>,
    /// Segments sent.
    pub segments: u64,
    /// Segments sent again.
    pub segments_resent: u64,
    /// Content from the peer.
    pub bytes_received: u64,
    /// Content to the peer.
    pub bytes_sent: u64,
    /// Content a second from the peer while a transfer ran; 0 without one.
    pub receive_bytes_per_second: u64,
    /// Content a second to the peer while a transfer ran; 0 without one.
    pub send_bytes_per_second: u64,
    /// Links that were lost.
    pub links_lost: u64,
}

/// What an active measurement found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NetTest {
    /// Which peer.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Its name in this node's configuration.
    pub name: String,
    /// Round trips in milliseconds.
    pub rtt_ms: Option<Percentiles>,
    /// The difference between one round trip and the next, in milliseconds.
    pub jitter_ms: Option<Percentiles>,
    /// Each of them, in milliseconds, in their order.
    #[serde(default)]
    pub round_trips_ms: Vec<f64>,
    /// Pings that were not answered within their time.
    pub pings_lost: u64,
    /// Bytes a second from the peer; absent when content was moving all the time, or only pings were
    /// asked for.
    pub receive_bytes_per_second: Option<u64>,
    /// Bytes a second to the peer; absent as above.
    pub send_bytes_per_second: Option<u64>,
    /// Segments that had to be sent again meanwhile, in percent, where the kernel says so.
    pub loss_percent: Option<f64>,
    /// Bytes that the measurement moved, both ways.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl From<Spread> for Percentiles {
    fn from(spread: Spread) -> Self {
        Self { p50: millis(spread.p50), p95: millis(spread.p95), p99: millis(spread.p99) }
    }
}

impl From<Summary> for LineQuality {
    fn from(summary: Summary) -> Self {
        let reasons: Vec<String> = summary.reasons.iter().map(ToString::to_string).collect();
        let rating = if reasons.is_empty() { "good".to_owned() } else { reasons.join(", ") };
        Self {
            score: summary.score,
            rating,
            reasons,
            rtt_ms: summary.round_trip.map(Percentiles::from),
            jitter_ms: summary.jitter.map(Percentiles::from),
            loss_percent: summary.loss.map(|loss| rounded(loss * 100.0)),
            receive_bytes_per_second: summary.rate_in,
            send_bytes_per_second: summary.rate_out,
            reconnects: summary.reconnects,
            connected_seconds: summary.connected.map(|connected| connected.as_secs()),
        }
    }
}

impl LineMinute {
    pub(crate) fn of(now: WallTime, ago: Duration, minute: &Minute) -> Self {
        let [p50, p95, p99] = minute.trip_micros.map(|micros| rounded(f64::from(micros) / 1000.0));
        Self {
            began: rfc3339(WallTime(now.0.saturating_sub(ago.as_millis() as u64))),
            rtt_ms: (minute.trip_micros != [0; 3]).then_some(Percentiles { p50, p95, p99 }),
            segments: minute.segments.into(),
            segments_resent: minute.resent.into(),
            bytes_received: minute.bytes_in,
            bytes_sent: minute.bytes_out,
            receive_bytes_per_second: minute.rate_in.into(),
            send_bytes_per_second: minute.rate_out.into(),
            links_lost: minute.losses.into(),
        }
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
