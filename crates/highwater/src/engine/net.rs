//! What people ask about the lines to peers, and the active measurement of one.
//!
//! A measurement pings, then lets the peer send filler, then sends some itself, each for a moment. It
//! stops for content: the peer sends filler only while it serves nothing, and this side asks for more
//! only while no content moves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::quality::{Quality, Way};
use highwater_core::wire::{Ask, Content, DATA_BYTES_MAX, Reply, RequestId};
use highwater_core::{NodeId, ShareName, Time};
use highwater_net::LinkHandle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{Engine, EngineError, Inner};
use crate::config::PeerConfig;
use crate::fetch::source::Source;
use crate::lines::Meter;
use crate::report::net::{
    LineMinute, LineQuality, NetTest, Peer, PeerDetail, Peers, Percentiles, millis,
};
use crate::router::Arrival;
use crate::serve::filler;
use crate::share::machine::wall_now;

/// Pings of a measurement.
const PINGS: u32 = 20;
/// And of one that only pings.
const PINGS_MAX: u32 = 100;
/// How long one may take.
const PING_WAIT: Duration = Duration::from_secs(3);
/// How long all of them may take, at least one excepted: a line of 2 s is known after a few.
const PINGS_WAIT: Duration = Duration::from_secs(6);
/// How long bytes are moved each way: long enough for TCP to find its speed on a line of 100 ms.
const MOVE_FOR: Duration = Duration::from_secs(2);
/// Bytes asked for at a time, and how often: 2 MiB are under way, and a slow line is soon done.
const SLICE_BYTES: u64 = 512 * 1024;
const SLICES: usize = 4;
/// How long a measurement waits for content to stop moving, and for its last bytes.
const YIELD_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const YIELD: Duration = Duration::from_millis(20);
/// Bytes moved each way at most: 4 Gbit/s for as long as it takes.
const MOVE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// A request that no router has given out: whoever receives an answer to it drops it.
const NOBODYS: RequestId = RequestId(0);

impl Engine {
    /// Every peer, and how good the line to it is.
    pub async fn peers(&self) -> Peers {
        let listed = self.0.config().peers.clone();
        let picture = self.0.cluster.picture().await;
        let states = self.0.net.peer_states();
        let peer = |listed: &PeerConfig| {
            let net = states.get(&listed.id).cloned().unwrap_or_default();
            let seen = picture.as_ref().and_then(|picture| {
                picture.members.iter().find(|seen| seen.view.card.facts().id == listed.id)
            });
            let offset = picture.as_ref().and_then(|p| p.clock_offsets.get(&listed.id).copied());
            Peer {
                node_id: listed.id,
                name: listed.name.clone(),
                addr: listed.addr.clone(),
                shares: listed.shares.clone(),
                connected: net.connected,
                state: seen.map(|seen| seen.view.state),
                last_error: net.last_error.filter(|_| !net.connected),
                dial_attempts: net.dial_attempts,
                clock_offset_ms: offset,
                quality: LineQuality::from(self.0.lines.to(listed.id).summary()),
            }
        };
        Peers { peers: listed.iter().map(peer).collect() }
    }

    /// One peer with its last day; `node` is its id, or its name here.
    ///
    /// # Errors
    /// When no peer, or more than one, is called so.
    pub async fn peer(&self, node: &str) -> Result<PeerDetail, EngineError> {
        let id = self.0.named(node)?.id;
        let peer = self.peers().await.peers.into_iter().find(|peer| peer.node_id == id);
        let peer = peer.ok_or_else(|| unknown(node))?;
        let (now, history) = (wall_now(), self.0.lines.to(id).history());
        let history = history.iter().map(|(ago, minute)| LineMinute::of(now, *ago, minute));
        Ok(PeerDetail { peer, history: history.collect() })
    }

    /// Measures the line to a peer, for a few seconds; `node` is its id, or its name here. With `pings`
    /// it is pinged so often, 100 times at most, and no bytes are moved.
    ///
    /// # Errors
    /// When there is no such peer, no link to it, or no share in common.
    pub async fn net_test(&self, node: &str, pings: Option<u32>) -> Result<NetTest, EngineError> {
        let peer = self.0.named(node)?;
        let refused = |why: &str| {
            EngineError::Refused(format!("cannot measure the line to {}: {why}", peer.name))
        };
        let link = self.0.lines.link(&peer.id);
        let source = self.0.source_of(&peer.id);
        let (Some(link), Some(source)) = (link, source) else {
            return Err(refused("there is no link; `highwater net` shows why"));
        };
        let share = peer.shares.first().cloned();
        let share = share.ok_or_else(|| refused("it is listed for no share; list one"))?;
        let began = Instant::now();
        let before = link.segments();
        let (trips, pings_lost) = ping(&link, pings.unwrap_or(PINGS).min(PINGS_MAX)).await;
        let ground = Ground { source, share, meter: self.0.lines.to(peer.id) };
        let ((received, receive_rate), (sent, send_rate)) = match pings {
            None => (ground.receive().await, ground.send().await),
            Some(_) => ((0, None), (0, None)),
        };
        let nothing_moved = received == 0 && receive_rate.is_none() && send_rate.is_none();
        if trips.is_empty() && nothing_moved {
            return Err(refused("it does not answer; try again once the link is up"));
        }
        let mut quality = Quality::default();
        trips.iter().for_each(|trip| quality.round_trip(Time::default(), *trip));
        let summary = quality.summary(Time::default());
        let segments = link.segments().zip(before);
        let loss = segments.map(|(after, before)| {
            let sent = after.sent.saturating_sub(before.sent).max(1);
            (after.resent.saturating_sub(before.resent) as f64 * 100.0 / sent as f64).min(100.0)
        });
        Ok(NetTest {
            node_id: peer.id,
            name: peer.name,
            rtt_ms: summary.round_trip.map(Percentiles::from),
            jitter_ms: summary.jitter.map(Percentiles::from),
            round_trips_ms: trips.into_iter().map(millis).collect(),
            pings_lost,
            receive_bytes_per_second: receive_rate,
            send_bytes_per_second: send_rate,
            loss_percent: loss,
            bytes: received + sent,
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

/// Pings, one after the other: how long each took, and how many were lost.
async fn ping(link: &LinkHandle, count: u32) -> (Vec<Duration>, u64) {
    let (began, mut trips, mut lost) = (Instant::now(), Vec::new(), 0);
    for _ in 0..count {
        let asked = Instant::now();
        if link.answers(PING_WAIT).await {
            trips.push(asked.elapsed());
        } else {
            lost += 1;
        }
        if began.elapsed() > PINGS_WAIT {
            break;
        }
    }
    (trips, lost)
}

impl Inner {
    /// The one peer with this id or name.
    fn named(&self, node: &str) -> Result<PeerConfig, EngineError> {
        let config = self.config();
        let id: Option<NodeId> = node.parse().ok();
        let called = |peer: &&PeerConfig| Some(peer.id) == id || peer.name == node;
        let mut found = config.peers.iter().filter(called);
        match (found.next(), found.next()) {
            (Some(peer), None) => Ok(peer.clone()),
            (Some(_), Some(_)) => {
                let why = format!("more than one peer is called {node:?}; give its id");
                Err(EngineError::Refused(why))
            }
            (None, _) => Err(unknown(node)),
        }
    }
}

fn unknown(node: &str) -> EngineError {
    EngineError::Refused(format!("there is no peer {node:?}; `highwater peer list` shows which"))
}

/// What is measured on.
struct Ground {
    source: Arc<Source>,
    share: ShareName,
    meter: Arc<Meter>,
}

impl Ground {
    /// Waits until no content moves, neither what this node asked for nor what it serves; false when
    /// it never stops.
    async fn yields(&self) -> bool {
        let begun = Instant::now();
        while self.source.candidate().under_way > 0 || self.meter.is_busy(Way::Out) {
            if begun.elapsed() > YIELD_WAIT {
                return false;
            }
            tokio::time::sleep(YIELD).await;
        }
        true
    }

    /// Lets the peer send for a while. Bytes, and bytes a second.
    async fn receive(&self) -> (u64, Option<u64>) {
        let (inbox, mut arrivals) = mpsc::unbounded_channel();
        let mut open: VecDeque<(RequestId, u64)> = VecDeque::new();
        let (mut bytes, mut rate) = (0, Rate::default());
        let begun = Instant::now();
        loop {
            let more = begun.elapsed() < MOVE_FOR && bytes < MOVE_BYTES_MAX;
            while more && open.len() < SLICES && self.yields().await {
                let ask = Ask::Measure(SLICE_BYTES);
                let Some(id) = self.source.ask(&self.share, ask, 0, &inbox).await else { break };
                open.push_back((id, SLICE_BYTES));
            }
            if open.is_empty() {
                break;
            }
            let Ok(Some(Arrival::Reply(id, Reply::Bytes(piece)))) =
                timeout(YIELD_WAIT, arrivals.recv()).await
            else {
                break;
            };
            let length = piece.len() as u64;
            bytes += length;
            rate.moved(length);
            if let Some((_, owed)) = open.iter_mut().find(|(open, _)| *open == id) {
                *owed = owed.saturating_sub(length);
            }
            while let Some((id, 0)) = open.front() {
                self.source.router.close(*id);
                open.pop_front();
            }
        }
        open.into_iter().for_each(|(id, _)| self.source.router.close(id));
        (bytes, rate.per_second())
    }

    /// Sends for a while, and then asks for one byte, which comes when all has arrived.
    async fn send(&self) -> (u64, Option<u64>) {
        let mut bytes = 0;
        let begun = Instant::now();
        while begun.elapsed() < MOVE_FOR && bytes < MOVE_BYTES_MAX {
            if !self.yields().await {
                break;
            }
            let piece = filler(DATA_BYTES_MAX);
            let message = Content::Reply { id: NOBODYS, reply: Reply::Bytes(piece) };
            if self.source.content.send(message).await.is_err() {
                return (bytes, None);
            }
            bytes += DATA_BYTES_MAX as u64;
        }
        let (inbox, mut arrivals) = mpsc::unbounded_channel();
        let asked = self.source.ask(&self.share, Ask::Measure(1), 0, &inbox).await;
        let Some(id) = asked.filter(|_| bytes > 0) else { return (bytes, None) };
        let arrived = timeout(YIELD_WAIT, arrivals.recv()).await;
        self.source.router.close(id);
        let rate = bytes as f64 / begun.elapsed().as_secs_f64();
        (bytes, matches!(arrived, Ok(Some(_))).then_some(rate as u64))
    }
}

/// Bytes a second, from the first piece on: what came before it is the way there and back.
#[derive(Debug, Default)]
struct Rate {
    first: Option<Instant>,
    last: Option<Instant>,
    bytes: u64,
}

impl Rate {
    fn moved(&mut self, bytes: u64) {
        let now = Instant::now();
        if self.first.is_some() {
            self.bytes += bytes;
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn per_second(&self) -> Option<u64> {
        let took = self.last?.duration_since(self.first?).as_secs_f64();
        (took > 0.0).then(|| (self.bytes as f64 / took) as u64)
    }
}
