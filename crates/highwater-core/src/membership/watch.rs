//! Who cannot be reached, who is asked about it, and when a suspicion becomes a failure.
//!
//! A neighbour is in *trouble* from the moment its link breaks or falls silent. Others are asked to
//! reach it; if one does, the watch passes to those who have a link to it. If nobody does in time it
//! is suspected, and has [`SUSPICION`] to contradict.
//!
//! A node that is starved of processor time sees everybody else late. It notices that it wakes late,
//! and gives others that much more time ("local health awareness": Dadgar, Phillips, Currey,
//! "Lifeguard", 2018).

use std::time::Duration;

use super::{Effect, Membership, Message};
use crate::clock::{BEAT, Time};
use crate::id::NodeId;
use crate::member::Health;

/// How long others have to reach a node in trouble: a round trip to them, a ping that they may wait
/// 0.8 s for, and the way back.
pub(super) const INDIRECT_WAIT: Duration = Duration::from_millis(1100);
/// A link that broke has at least this long to come up again: a redial takes less.
const LEAST_WAIT: Duration = Duration::from_millis(600);
/// How long a suspected node has to contradict: its word crosses a cluster of a hundred in a few
/// hundred milliseconds, and a failure must be known everywhere within 10 s.
pub(super) const SUSPICION: Duration = Duration::from_secs(5);
/// A node that was heard this lately is not taken for failed on the word of others.
pub(super) const FRESH: Duration = Duration::from_secs(8);
/// At the start, links have this long to come up before anybody is missed.
const START_GRACE: Duration = Duration::from_secs(4);
/// A sign of life that was passed on is this much older than it says, at most: it waited in queues.
const HEARSAY_ERROR: Duration = Duration::from_millis(500);
/// Neighbours that are asked to reach one node.
const HELPERS_MAX: usize = 8;
/// Nodes in trouble at once that helpers are asked about. More are suspected without: so many
/// links do not break by themselves, and asking would be a storm.
const TROUBLES_MAX: usize = 64;
/// Waking this much too late is a sign of strain.
const LATE: Duration = Duration::from_millis(400);
/// Waking this much too late means that the process was stopped: the silence of others was ours.
const OVERSLEPT: Duration = Duration::from_secs(3);
/// Most that strain multiplies waits by, less one.
const STRAIN_MAX: u32 = 4;
/// Strain fades by one in this time.
const STRAIN_FADES: Duration = Duration::from_secs(10);
/// The machine wants to be woken at least this often, so that lateness means something. A link that
/// falls silent is told at once.
pub(super) const LOOK_EVERY: Duration = BEAT;

/// A neighbour that does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// Links may still come up.
    Missed { until: Time },
    /// Others are trying, so many of them.
    Asked { number: u64, since: Time, until: Time, trying: usize },
}

impl Trouble {
    fn until(&self) -> Time {
        match self {
            Trouble::Missed { until } | Trouble::Asked { until, .. } => *until,
        }
    }
}

impl Membership {
    /// Whether there is a link to this node that works.
    pub(super) fn reaches(&self, id: &NodeId) -> bool {
        self.neighbours.get(id).is_some_and(|neighbour| !neighbour.silent)
    }

    pub(super) fn link_down(&mut self, now: Time, peer: NodeId, effects: &mut Vec<Effect>) {
        if self.neighbours.remove(&peer).is_some() {
            self.trouble(now, peer, effects);
        }
    }

    pub(super) fn expect(&mut self, now: Time, peer: NodeId) {
        let expected = self.members.get(&peer).is_some_and(|m| m.health == Health::Active);
        if expected && !self.neighbours.contains_key(&peer) {
            let until = now + START_GRACE;
            self.troubles.entry(peer).or_insert(Trouble::Missed { until });
        }
    }

    pub(super) fn heard(
        &mut self,
        now: Time,
        peer: NodeId,
        ago: Duration,
        silent: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        let fell_silent = silent && !neighbour.silent;
        neighbour.silent = silent;
        if let Some(member) = self.members.get_mut(&peer) {
            member.seen = member.seen.max(now - ago);
        }
        if fell_silent {
            self.trouble(now, peer, effects);
        } else if !silent {
            self.troubles.remove(&peer);
        }
    }

    /// A neighbour cannot be reached from here: others are asked.
    fn trouble(&mut self, now: Time, peer: NodeId, effects: &mut Vec<Effect>) {
        let known = self.members.get(&peer).is_some_and(|m| m.health == Health::Active);
        let asked = matches!(self.troubles.get(&peer), Some(Trouble::Asked { .. }));
        if !known || asked || self.is_removed(&peer) || self.troubles.len() >= TROUBLES_MAX {
            return;
        }
        self.probes += 1;
        let number = self.probes;
        let helpers: Vec<NodeId> = self
            .neighbours
            .iter()
            .filter(|(id, neighbour)| **id != peer && !neighbour.silent)
            .map(|(id, _)| *id)
            .collect();
        // Others each time, so that no helper is asked about everything.
        let from = (number as usize).wrapping_mul(HELPERS_MAX) % helpers.len().max(1);
        let trying = helpers.len().min(HELPERS_MAX);
        let wait = if trying > 0 { INDIRECT_WAIT } else { LEAST_WAIT };
        let until = now + self.patience(wait);
        self.troubles.insert(peer, Trouble::Asked { number, since: now, until, trying });
        for helper in helpers.iter().cycle().skip(from).take(trying) {
            effects.push(Effect::Send(*helper, Message::Probe { target: peer, number }));
        }
    }

    /// A helper has answered. One that failed proves nothing, for it may be its link; but when all
    /// have, there is nothing more to wait for.
    pub(super) fn probed(&mut self, now: Time, number: u64, alive: bool) {
        let least = self.patience(LEAST_WAIT);
        let asked = |trouble: &Trouble| matches!(trouble, Trouble::Asked { number: asked, .. } if *asked == number);
        let found = self.troubles.iter_mut().find(|(_, trouble)| asked(trouble));
        let Some((id, Trouble::Asked { since, until, trying, .. })) = found else { return };
        *trying = trying.saturating_sub(1);
        if *trying == 0 {
            *until = (*until).min(*since + least);
        }
        let id = *id;
        if alive {
            self.troubles.remove(&id);
            self.vouched(now, id);
        }
    }

    /// A member was alive somewhere at `seen`. If that was after its trouble began here, the watch is
    /// with those who have a link to it.
    pub(super) fn vouched(&mut self, seen: Time, id: NodeId) {
        let over = |trouble: &Trouble| match trouble {
            Trouble::Missed { .. } => false,
            Trouble::Asked { since, .. } => seen >= *since + HEARSAY_ERROR,
        };
        if self.troubles.get(&id).is_some_and(over) {
            self.troubles.remove(&id);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.seen = member.seen.max(seen);
        }
    }

    pub(super) fn time_passed(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.note_lateness(now);
        self.sign_if_allowed(now, effects);
        self.suspect_the_troubled(now, effects);
        self.suspect_the_unheard(now, effects);
        self.fail_the_suspected(now, effects);
        self.spread_vitals(now, effects);
        self.pay(now, effects);
        self.looked_at = now;
    }

    fn note_lateness(&mut self, now: Time) {
        let late = now.since(self.looked_at).saturating_sub(LOOK_EVERY);
        if late >= OVERSLEPT {
            for member in self.members.values_mut() {
                (member.seen, member.since) = (member.seen + late, member.since + late);
            }
            for trouble in self.troubles.values_mut() {
                match trouble {
                    Trouble::Missed { until } | Trouble::Asked { until, .. } => {
                        *until = *until + late
                    }
                }
            }
        }
        if late >= LATE {
            self.strain = (self.strain + 1).min(STRAIN_MAX);
            self.strained_at = now;
        } else if self.strain > 0 && now.since(self.strained_at) >= STRAIN_FADES {
            self.strain -= 1;
            self.strained_at = now;
        }
    }

    /// A wait, longer while this node is overloaded itself.
    pub(super) fn patience(&self, wait: Duration) -> Duration {
        wait * (1 + self.strain)
    }

    fn suspect_the_troubled(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let over = |(id, trouble): (&NodeId, &Trouble)| {
            (trouble.until() <= now).then_some((*id, *trouble))
        };
        let over: Vec<(NodeId, Trouble)> = self.troubles.iter().filter_map(over).collect();
        for (id, trouble) in over {
            self.troubles.remove(&id);
            match trouble {
                Trouble::Missed { .. } => self.trouble(now, id, effects),
                Trouble::Asked { .. } => self.suspect(now, id, effects),
            }
        }
    }

    fn suspect_the_unheard(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let patience = self.patience(self.unheard_max());
        let unheard = self.members.iter().filter(|(id, member)| {
            member.health == Health::Active
                && now.since(member.seen) >= patience
                && !self.reaches(id)
                && !self.is_removed(id)
        });
        let unheard: Vec<NodeId> = unheard.map(|(id, _)| *id).collect();
        for id in unheard {
            self.suspect(now, id, effects);
        }
    }

    fn suspect(&mut self, now: Time, id: NodeId, effects: &mut Vec<Effect>) {
        let active = self.members.get(&id).is_some_and(|m| m.health == Health::Active);
        if active && !self.is_removed(&id) {
            self.judge(now, id, Health::Suspect, None, effects);
        }
    }

    fn fail_the_suspected(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let patience = self.patience(SUSPICION);
        let over = self.members.iter().filter(|(id, member)| {
            member.health == Health::Suspect
                && now.since(member.since) >= patience
                && !self.is_removed(id)
        });
        let over: Vec<NodeId> = over.map(|(id, _)| *id).collect();
        for id in over {
            if self.reaches(&id) {
                // It lives; it has only not heard yet what is said of it.
                self.owe_one(Some(id), id, super::gossip::CLAIM);
                if let Some(member) = self.members.get_mut(&id) {
                    member.since = now;
                }
            } else {
                self.judge(now, id, Health::Failed, None, effects);
            }
        }
    }

    /// When something has to be decided about somebody.
    pub(super) fn watch_deadline(&self) -> Option<Time> {
        let troubles = self.troubles.values().map(Trouble::until);
        let patience = self.patience(SUSPICION);
        let suspects = self.members.iter().filter_map(|(id, member)| {
            let pending = member.health == Health::Suspect && !self.is_removed(id);
            pending.then_some(member.since + patience)
        });
        troubles
            .chain(suspects)
            .chain([(self.looked_at + LOOK_EVERY).rounded_down(LOOK_EVERY)])
            .min()
    }
}
