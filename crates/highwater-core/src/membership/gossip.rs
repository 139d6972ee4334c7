//! What each neighbour is owed, and when it is paid.
//!
//! A list of what is owed holds ids, not records: whatever has changed three times since is told
//! once, as it stands when the message is made. So no list is longer than the table of members.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Effect, Membership, Message};
use crate::clock::Time;
use crate::id::NodeId;
use crate::member::{
    Claim, GOSSIP_CARDS_MAX, GOSSIP_CLAIMS_MAX, GOSSIP_ORDERS_MAX, Gossip, Health, ROLL_ROWS_MAX,
    RollRow,
};

/// A member's card is owed.
pub(super) const CARD: u8 = 1;
/// What is claimed about its card is owed.
pub(super) const CLAIM: u8 = 2;
/// The order about it is owed.
pub(super) const ORDER: u8 = 4;

/// News to one neighbour wait this long for company: a flood of changes costs messages by time, not
/// by change.
const NEWS_EVERY: Duration = Duration::from_millis(50);
/// Rolls to one neighbour because of digests that differ: at first after this long, for news may be
/// on their way.
const ROLL_EVERY_MIN: Duration = Duration::from_secs(5);
/// And at most this rarely: two nodes may differ for good about a node that one of them removed.
const ROLL_EVERY_MAX: Duration = Duration::from_secs(320);

/// A node that there is a link to.
#[derive(Debug)]
pub(super) struct Neighbour {
    owed: BTreeMap<NodeId, u8>,
    next_news: Time,
    next_roll: Time,
    roll_every: Duration,
    /// It owes an answer for too long.
    pub(super) silent: bool,
}

impl Neighbour {
    /// When it is to be told something, if it is owed anything.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.owed.is_empty()).then_some(self.next_news)
    }
}

impl Membership {
    pub(super) fn link_up(&mut self, now: Time, peer: NodeId, effects: &mut Vec<Effect>) {
        let neighbour = Neighbour {
            owed: BTreeMap::new(),
            next_news: now,
            next_roll: now + ROLL_EVERY_MIN,
            roll_every: ROLL_EVERY_MIN,
            silent: false,
        };
        self.neighbours.insert(peer, neighbour);
        self.troubles.remove(&peer);
        // Its own card comes in any case, and this node's does: the rest is found by the rolls.
        let own = self.own_id();
        self.owe_one(Some(peer), own, CARD);
        effects.push(Effect::Send(peer, Message::Roll(self.roll())));
    }

    /// All that this node knows, in short. Bounded as the table is.
    fn roll(&self) -> Vec<RollRow> {
        let own = self.own.facts();
        let own = RollRow {
            id: own.id,
            incarnation: own.incarnation,
            health: Health::Active,
            order: self.order_rank(&own.id),
        };
        let others = self.members.iter().map(|(id, member)| RollRow {
            id: *id,
            incarnation: member.incarnation(),
            health: member.health,
            order: self.order_rank(id),
        });
        let unknown = self.orders.keys().filter(|id| !self.members.contains_key(id));
        let unknown = unknown.filter(|id| **id != own.id).map(|id| RollRow {
            id: *id,
            incarnation: 0,
            health: Health::Active,
            order: self.order_rank(id),
        });
        std::iter::once(own).chain(others).chain(unknown).take(ROLL_ROWS_MAX).collect()
    }

    /// Owes a neighbour whatever its roll shows it to lack.
    pub(super) fn compare(&mut self, from: NodeId, theirs: &[RollRow]) {
        let theirs: BTreeMap<NodeId, &RollRow> = theirs.iter().map(|row| (row.id, row)).collect();
        for ours in self.roll() {
            let missing = match theirs.get(&ours.id) {
                None => CARD | CLAIM | ORDER,
                Some(theirs) => lacking(&ours, theirs),
            };
            self.owe_one(Some(from), ours.id, missing);
        }
    }

    /// A neighbour's digest differs, or not. Whether it is to be told the roll.
    pub(super) fn note_digest(&mut self, now: Time, from: NodeId, theirs: u64) -> bool {
        let ours = self.digest();
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return false };
        if ours == theirs {
            neighbour.roll_every = ROLL_EVERY_MIN;
            neighbour.next_roll = now + ROLL_EVERY_MIN;
            return false;
        }
        let due = neighbour.owed.is_empty() && now >= neighbour.next_roll;
        if due {
            neighbour.roll_every = (neighbour.roll_every * 2).min(ROLL_EVERY_MAX);
            neighbour.next_roll = now + neighbour.roll_every;
        }
        due
    }

    pub(super) fn send_roll(&self, peer: NodeId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send(peer, Message::Roll(self.roll())));
    }

    /// Equal on two nodes that know the same.
    pub fn digest(&mut self) -> u64 {
        if let Some(digest) = self.digest {
            return digest;
        }
        let mut rows = self.roll();
        rows.sort_by_key(|row| row.id);
        let mut hasher = blake3::Hasher::new();
        for row in rows {
            hasher.update(row.id.as_bytes());
            hasher.update(&row.incarnation.to_le_bytes());
            hasher.update(&[row.health as u8, u8::from(row.order.removed)]);
            hasher.update(&row.order.number.to_le_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        *self.digest.insert(u64::from_le_bytes(first))
    }

    /// Every neighbour but the one that it came from is owed this.
    pub(super) fn owe_all(&mut self, from: Option<NodeId>, id: NodeId, what: u8) {
        for (peer, neighbour) in &mut self.neighbours {
            if Some(*peer) != from {
                *neighbour.owed.entry(id).or_default() |= what;
            }
        }
    }

    /// One neighbour is owed this.
    pub(super) fn owe_one(&mut self, peer: Option<NodeId>, id: NodeId, what: u8) {
        let neighbour = peer.and_then(|peer| self.neighbours.get_mut(&peer));
        if let Some(neighbour) = neighbour.filter(|_| what != 0) {
            *neighbour.owed.entry(id).or_default() |= what;
        }
    }

    /// A neighbour has shown that it knows this.
    pub(super) fn settled(&mut self, peer: Option<NodeId>, id: &NodeId, what: u8) {
        let neighbour = peer.and_then(|peer| self.neighbours.get_mut(&peer));
        let Some(neighbour) = neighbour else { return };
        if let Some(owed) = neighbour.owed.get_mut(id) {
            *owed &= !what;
            if *owed == 0 {
                neighbour.owed.remove(id);
            }
        }
    }

    /// A message could not be sent: what was in it is owed again.
    pub fn unsent(&mut self, peer: NodeId, message: &Message) {
        let Message::News(gossip) = message else { return };
        for card in &gossip.cards {
            self.owe_one(Some(peer), card.facts.id, CARD);
        }
        for claim in &gossip.claims {
            self.owe_one(Some(peer), claim.id, CLAIM);
        }
        for order in &gossip.orders {
            self.owe_one(Some(peer), order.decision.target, ORDER);
        }
    }

    /// Pays what is owed and due, a message for each neighbour.
    pub(super) fn pay(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let due = |(peer, neighbour): (&NodeId, &Neighbour)| {
            neighbour.due().is_some_and(|at| at <= now).then_some(*peer)
        };
        let peers: Vec<NodeId> = self.neighbours.iter().filter_map(due).collect();
        for peer in peers {
            let Some(neighbour) = self.neighbours.get_mut(&peer) else { continue };
            neighbour.next_news = now + NEWS_EVERY;
            let mut owed = std::mem::take(&mut neighbour.owed);
            let gossip = self.gossip(&mut owed);
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.owed = owed;
            }
            if !gossip.is_empty() {
                effects.push(Effect::Send(peer, Message::News(gossip)));
            }
        }
    }

    /// Moves as much of what is owed into a message as there is room for.
    fn gossip(&self, owed: &mut BTreeMap<NodeId, u8>) -> Gossip {
        let mut gossip = Gossip::default();
        while let Some((id, what)) = owed.pop_first() {
            let full = gossip.cards.len() >= GOSSIP_CARDS_MAX
                || gossip.claims.len() >= GOSSIP_CLAIMS_MAX
                || gossip.orders.len() >= GOSSIP_ORDERS_MAX;
            if full {
                owed.insert(id, what);
                break;
            }
            if let Some(order) = self.orders.get(&id).filter(|_| what & ORDER != 0) {
                gossip.orders.push(order.sealed().clone());
            }
            if id == self.own_id() {
                gossip.cards.push(self.own.sealed().clone());
            }
            let Some(member) = self.members.get(&id) else { continue };
            if what & CARD != 0 {
                gossip.cards.push(member.card.sealed().clone());
            }
            // A card alone would make the failed live again.
            if what & (CARD | CLAIM) != 0 && member.health != Health::Active {
                let (incarnation, health) = (member.incarnation(), member.health);
                gossip.claims.push(Claim { id, incarnation, health });
            }
        }
        gossip
    }
}

/// What the side with `theirs` lacks of `ours`.
fn lacking(ours: &RollRow, theirs: &RollRow) -> u8 {
    let order = if ours.order > theirs.order { ORDER } else { 0 };
    let card = if ours.incarnation > theirs.incarnation { CARD | CLAIM } else { 0 };
    let graver = ours.incarnation == theirs.incarnation && ours.health > theirs.health;
    order | card | if graver { CLAIM } else { 0 }
}

#[cfg(test)]
impl Membership {
    pub(super) fn roll_for_tests(&self) -> Vec<RollRow> {
        self.roll()
    }
}
