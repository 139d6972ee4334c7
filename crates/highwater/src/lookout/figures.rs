//! What the rules of `highwater-core` judge, taken from the status document.

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::alert::{Measured, Rule};
use highwater_core::{NodeId, Time};

use super::{Seen, Way};
use crate::report::{
    PeerStatus, ShareState, ShareStatus, Status, TransferState, VERSION, parse_rfc3339,
};
use crate::share::machine::wall_now;

impl Seen {
    /// Every figure there is at `now`.
    pub(super) fn measure(
        &mut self,
        now: Time,
        status: &Status,
        free_bytes: Option<u64>,
    ) -> Vec<Measured> {
        let mut figures = Vec::new();
        self.lags(now, status, &mut figures);
        self.peers(now, status, &mut figures);
        self.transfers(now, status, &mut figures);
        for share in &status.shares {
            of_share(share, &mut figures);
            of_checks(share, &mut figures);
        }
        if let Some(free) = free_bytes {
            let cause = format!("{} MiB are free on the disk of the node's home", free >> 20);
            figures.push(figure(Rule::DiskLow, "home", free as f64, cause));
        }
        figures.extend(self.handed_in.values().flatten().cloned());
        figures
    }

    fn lags(&mut self, now: Time, status: &Status, figures: &mut Vec<Measured>) {
        let mut known = BTreeSet::new();
        for share in status.shares.iter().filter(|share| share.state != ShareState::Paused) {
            for peer in &share.peers {
                for (way, position) in [(Way::Pull, &peer.pull), (Way::Push, &peer.push)] {
                    let place = (share.name.clone(), peer.node_id, way);
                    let lag = self.lags.entry(place.clone()).or_default();
                    lag.look(now, position.acked_seq, position.head_seq);
                    known.insert(place);
                    let (entries, age) = (lag.entries(), lag.age(now).as_secs());
                    let subject = match way {
                        Way::Pull => format!("{} from {}", share.name, peer.name),
                        Way::Push => format!("{} to {}", share.name, peer.name),
                    };
                    let cause =
                        format!("{subject}: {entries} changes wait, the oldest for {age} s");
                    figures.push(figure(Rule::LagAge, &subject, age as f64, cause.clone()));
                    figures.push(figure(Rule::LagEntries, &subject, entries as f64, cause));
                }
            }
        }
        self.lags.retain(|place, _| known.contains(place));
    }

    fn peers(&mut self, now: Time, status: &Status, figures: &mut Vec<Measured>) {
        let running = status.shares.iter().filter(|share| share.state != ShareState::Paused);
        let peers = running.flat_map(|share| &share.peers);
        let mut met: BTreeMap<NodeId, (&PeerStatus, bool)> = BTreeMap::new();
        for peer in peers {
            met.entry(peer.node_id).or_insert((peer, false)).1 |= peer.connected;
        }
        for (id, (peer, connected)) in &met {
            let last = self.connected.entry(*id).or_insert(now);
            if *connected {
                *last = now;
            }
            let silent = now.since(*last).as_secs();
            let cause = format!("there has been no link to {} for {silent} s", peer.name);
            figures.push(figure(Rule::PeerSilent, &peer.name, silent as f64, cause));
            if let Some(version) = self.versions.get(id).filter(|version| *version != VERSION) {
                let cause = format!("{} runs version {version}, this node {VERSION}", peer.name);
                figures.push(figure(Rule::VersionSkew, &peer.name, 1.0, cause));
            }
        }
        self.connected.retain(|id, _| met.contains_key(id));
        self.versions.retain(|id, _| met.contains_key(id));
    }

    fn transfers(&mut self, now: Time, status: &Status, figures: &mut Vec<Measured>) {
        let mut known = BTreeSet::new();
        for transfer in &status.transfers {
            if transfer.state == TransferState::Applying {
                continue;
            }
            let place = (transfer.share.clone(), transfer.key.to_string());
            let at = self.transfers.entry(place.clone()).or_insert((transfer.acked_offset, now));
            if at.0 != transfer.acked_offset {
                *at = (transfer.acked_offset, now);
            }
            let stalled = now.since(at.1).as_secs();
            known.insert(place);
            let subject = format!("{}/{}", transfer.share, transfer.key);
            let cause = format!(
                "{subject} has been at {} of {} bytes for {stalled} s",
                transfer.acked_offset, transfer.size
            );
            figures.push(figure(Rule::TransferStalled, &subject, stalled as f64, cause));
        }
        self.transfers.retain(|place, _| known.contains(place));
    }
}

fn of_share(share: &ShareStatus, figures: &mut Vec<Measured>) {
    let name = share.name.as_str();
    let conflicts = share.conflicts;
    let cause = format!("{name} has {conflicts} conflict copies");
    figures.push(figure(Rule::Conflict, name, conflicts as f64, cause));
    if let Some(held) = share.problems.iter().find(|problem| problem.kind == "mass_delete") {
        figures.push(figure(Rule::MassDelete, name, 1.0, held.message.clone()));
    }
    if share.state == ShareState::Error {
        let why = share.problems.first().map_or("it gives no reason", |first| &first.message);
        figures.push(figure(Rule::ShareStopped, name, 1.0, format!("{name} is stopped: {why}")));
    }
}

/// What the checker has found, and when it last looked. A share that was never checked is new, or
/// its owner has switched the scrub off.
fn of_checks(share: &ShareStatus, figures: &mut Vec<Measured>) {
    let name = share.name.as_str();
    let rotten = share.problems.iter().filter(|problem| problem.kind == "corrupt").count();
    let cause = format!("{rotten} contents of {name} are not what they were");
    figures.push(figure(Rule::BitRot, name, rotten as f64, cause));
    let Some(checks) = &share.check else { return };
    if let Some(last) = &checks.last {
        let failed = last.outcome == "different";
        let differences = if failed { last.differences.max(1) } else { 0 };
        let cause =
            format!("the last check of {name}, {}, found {differences} differences", last.id);
        figures.push(figure(Rule::CheckFailed, name, differences as f64, cause));
    }
    let started = [&checks.last, &checks.scrub].into_iter().flatten();
    if let Some(latest) = started.filter_map(|check| parse_rfc3339(&check.started)).max() {
        let age = wall_now().0.saturating_sub(latest.0) / 1000;
        let cause = format!("{name} was last checked {} days ago", age / 86_400);
        figures.push(figure(Rule::CheckOverdue, name, age as f64, cause));
    }
}

fn figure(rule: Rule, subject: &str, value: f64, cause: String) -> Measured {
    Measured { rule, subject: subject.to_owned(), value, cause }
}
