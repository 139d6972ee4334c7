//! What people are told about one share.

use highwater_core::{Epoch, NodeId, Seq};

use super::actor::{Actor, Open};
use super::peers::Peer;
use crate::config::ShareConfig;
use crate::report::{Needed, PeerStatus, Position, Problem, ShareState, ShareStatus};

/// Problems that are listed; the rest is counted in the last one's message.
const PROBLEMS_MAX: usize = 1000;

/// A share of which nothing is known yet.
pub(crate) fn blank(config: &ShareConfig) -> ShareStatus {
    ShareStatus {
        name: config.name.clone(),
        path: config.path.clone(),
        mode: config.mode,
        state: if config.paused { ShareState::Paused } else { ShareState::Scanning },
        entries: 0,
        bytes: 0,
        head_seq: Seq::ZERO,
        needed: Needed::default(),
        conflicts: 0,
        problems: Vec::new(),
        peers: Vec::new(),
        check: None,
    }
}

impl Actor {
    /// The share as it is now.
    pub(crate) fn snapshot(&self) -> ShareStatus {
        let mut status = blank(&self.config);
        status.peers = self.peers.iter().map(|(id, name)| self.peer_status(id, name)).collect();
        status.problems = self.problems();
        if let Some(open) = &self.open {
            let (totals, wanted) = (open.replica.totals(), open.replica.wanted());
            status.entries = totals.entries;
            status.bytes = totals.bytes;
            status.conflicts = totals.conflicts;
            status.head_seq = open.replica.head();
            status.needed = Needed { entries: wanted.entries(), bytes: wanted.bytes };
            status.state = state(open, self.ready);
        } else if self.error.is_some() {
            status.state = ShareState::Error;
        }
        status
    }

    fn problems(&self) -> Vec<Problem> {
        let whole = |kind: &str, message: String| Problem {
            path: String::new(),
            kind: kind.to_owned(),
            message,
        };
        let mut problems = Vec::new();
        if let Some(error) = &self.error {
            problems.push(whole("share", error.clone()));
        }
        if !self.gone.held().is_empty() {
            let (count, name) = (self.gone.held().len(), &self.config.name);
            let message = format!(
                "{count} entries are gone at once and their deletion is held back; `highwater share \
                 confirm {name}` lets it go out, `highwater share revert {name}` fetches them again"
            );
            problems.push(whole("mass_delete", message));
        }
        let Some(open) = &self.open else { return problems };
        let of_folder = |problem: &highwater_folder::Problem| Problem {
            path: problem.path.clone(),
            kind: problem.kind.as_str().to_owned(),
            message: problem.message.clone(),
        };
        problems.extend(open.standing_problems.values().map(of_folder));
        problems.extend(open.scan_problems.values().map(of_folder));
        problems.extend(open.receive_only.values().cloned());
        problems.extend(open.place_problems.values().cloned());
        problems.extend(open.replica.lost_states().map(|key| Problem {
            path: key.to_string(),
            kind: "lost_content".to_owned(),
            message: super::loss::LOST.to_owned(),
        }));
        let wall = self.outside.wall();
        problems.extend(open.replica.ahead_of(wall).map(|(key, stamp)| Problem {
            path: key.to_string(),
            kind: "clock".to_owned(),
            message: format!(
                "this change is dated {} s in the future and wins over every other until then; \
                 correct the clock of the node that made it, and edit the file here",
                stamp.wall().0.saturating_sub(wall.0) / 1000
            ),
        }));
        if problems.len() > PROBLEMS_MAX {
            let more = problems.len() - PROBLEMS_MAX;
            problems.truncate(PROBLEMS_MAX);
            problems.push(whole("more", format!("and {more} problems more; solve some of these")));
        }
        problems
    }

    fn peer_status(&self, id: &NodeId, name: &str) -> PeerStatus {
        let link = self.links.get(id);
        let (pull, push) = self.positions(id, link);
        let theirs_needed = link.and_then(|peer| peer.theirs.as_ref()?.needed);
        let wanted = self.open.as_ref().map(|open| open.replica.wanted().entries());
        let at_heads = pull.acked_seq == pull.head_seq && push.acked_seq == push.head_seq;
        PeerStatus {
            node_id: *id,
            name: name.to_owned(),
            connected: link.is_some(),
            in_sync: self.ready && at_heads && theirs_needed == Some(0) && wanted == Some(0),
            pull,
            push,
        }
    }

    fn positions(&self, id: &NodeId, link: Option<&Peer>) -> (Position, Position) {
        let Some(open) = &self.open else { return (Position::default(), Position::default()) };
        let row = open.replica.peer(id).unwrap_or_default();
        let theirs = link.and_then(|peer| peer.theirs.as_ref());
        let pull = match (theirs, row.pulled) {
            (Some(theirs), _) => position(theirs.pulled.epoch, theirs.pulled.seq, theirs.head),
            (None, Some(pulled)) => position(pulled.epoch, pulled.seq, pulled.seq),
            (None, None) => Position::default(),
        };
        let (epoch, head) = (open.replica.epoch(), open.replica.head());
        let outlet = link.and_then(|peer| peer.outlet.as_ref());
        let remembered = row.pushed.filter(|pushed| pushed.epoch == epoch).map(|pushed| pushed.seq);
        let acked = outlet.map(|outlet| outlet.acked).or(remembered).unwrap_or(Seq::ZERO);
        (pull, position(epoch, acked, head))
    }
}

fn state(open: &Open, ready: bool) -> ShareState {
    let scanning = open.scanning.is_some() && open.scanning_whole;
    if !ready || scanning {
        ShareState::Scanning
    } else if open.replica.wanted().entries() > 0 {
        ShareState::Syncing
    } else {
        ShareState::Idle
    }
}

fn position(epoch: Epoch, acked_seq: Seq, head_seq: Seq) -> Position {
    Position { epoch: epoch.to_string(), acked_seq, head_seq }
}
