//! What is heard of others: cards, claims and orders, and what of them is news.

use super::{Effect, Member, Membership, gossip, watch};
use crate::clock::Time;
use crate::id::NodeId;
use crate::member::{Card, Claim, Decision, Health, MEMBERS_MAX, ORDER_STEP_MAX, Order, State};

impl Membership {
    /// A card has come: the node's own word about itself.
    pub(super) fn card(
        &mut self,
        now: Time,
        from: Option<NodeId>,
        card: Card,
        effects: &mut Vec<Effect>,
    ) {
        let (id, incarnation) = (card.facts().id, card.facts().incarnation);
        if id == self.own_id() {
            let own = self.own.facts().incarnation;
            // A card of ours that is not ours now: from before a restored home, or of a copy.
            if incarnation > own || (incarnation == own && card != self.own) {
                self.contradict(now, incarnation + 1, effects);
            }
            return;
        }
        let known = self.members.get(&id).map(|member| (member.incarnation(), member.health));
        let before = self.state_of(&id);
        match known {
            Some((newest, _)) if incarnation < newest => {
                return self.owe_one(from, id, gossip::CARD | gossip::CLAIM);
            }
            Some((newest, _)) if incarnation == newest => {
                return self.settled(from, &id, gossip::CARD);
            }
            None if !self.has_room_for(&id) => return,
            _ => {}
        }
        match self.members.get_mut(&id) {
            Some(member) => member.renew(now, card),
            None => drop(self.members.insert(id, Member::new(now, card, Health::Active))),
        }
        self.troubles.remove(&id);
        self.changed(id, before, effects);
        self.settled(from, &id, gossip::CARD);
        self.owe_all(from, id, gossip::CARD);
    }

    /// A full table takes in only those that this node is linked with, in place of one that failed.
    fn has_room_for(&mut self, id: &NodeId) -> bool {
        if self.members.len() < MEMBERS_MAX {
            return true;
        }
        let neighbour = self.neighbours.contains_key(id);
        let dead = self.members.iter().find(|(_, member)| member.health == Health::Failed);
        let dead = dead.map(|(dead, _)| *dead).filter(|_| neighbour);
        dead.and_then(|dead| self.members.remove(&dead)).is_some()
    }

    /// Somebody claims that a node is suspect or has failed.
    pub(super) fn claim(
        &mut self,
        now: Time,
        from: NodeId,
        claim: Claim,
        effects: &mut Vec<Effect>,
    ) {
        let Claim { id, incarnation, health } = claim;
        if id == self.own_id() {
            // Of a card that this node never signed nobody can know anything.
            if incarnation == self.own.facts().incarnation {
                self.contradict(now, incarnation + 1, effects);
            }
            return;
        }
        let Some(member) = self.members.get(&id) else { return };
        if self.is_removed(&id) || incarnation > member.incarnation() {
            return;
        }
        if incarnation < member.incarnation() {
            return self.owe_one(Some(from), id, gossip::CARD | gossip::CLAIM);
        }
        // Who was heard a moment ago gets the time to contradict, whatever others have concluded.
        let lately = now.since(member.seen) < watch::FRESH || self.reaches(&id);
        let health = if lately { health.min(Health::Suspect) } else { health };
        if health <= member.health {
            return self.settled(Some(from), &id, gossip::CLAIM);
        }
        self.judge(now, id, health, Some(from), effects);
    }

    /// Takes over a graver opinion of a node and spreads it.
    pub(super) fn judge(
        &mut self,
        now: Time,
        id: NodeId,
        health: Health,
        from: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        let before = self.state_of(&id);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.health = health;
        member.since = now;
        self.troubles.remove(&id);
        self.changed(id, before, effects);
        self.settled(from, &id, gossip::CLAIM);
        self.owe_all(from, id, gossip::CLAIM);
    }

    /// An operator's order, from here or from elsewhere.
    pub(super) fn order(
        &mut self,
        now: Time,
        from: Option<NodeId>,
        order: Order,
        effects: &mut Vec<Effect>,
    ) {
        let decision = order.decision();
        let Decision { target, number, removed, by } = decision;
        let known = self.order_rank(&target);
        if decision.rank() <= known {
            return self.settled(from, &target, gossip::ORDER);
        }
        let step = number <= known.number.saturating_add(ORDER_STEP_MAX);
        let member = by == self.own_id() || self.members.contains_key(&by);
        let alive = self.members.get(&target).is_some_and(|m| m.health < Health::Failed);
        let full = known.number == 0 && self.orders.len() >= MEMBERS_MAX;
        let own = target == self.own_id();
        if !step || !member || self.is_removed(&by) || full || (removed && (alive || own)) {
            return;
        }
        let before = self.state_of(&target);
        self.orders.insert(target, order);
        self.troubles.remove(&target);
        if let Some(member) = self.members.get_mut(&target) {
            member.seen = now;
        }
        self.changed(target, before, effects);
        effects.push(Effect::Admissions);
        self.settled(from, &target, gossip::ORDER);
        self.owe_all(from, target, gossip::ORDER);
    }

    /// Something about a member is not as it was.
    pub(super) fn changed(&mut self, id: NodeId, before: Option<State>, effects: &mut Vec<Effect>) {
        self.digest = None;
        effects.push(Effect::Save);
        if let Some(state) = self.state_of(&id).filter(|state| Some(*state) != before) {
            effects.push(Effect::Changed(id, before, state));
        }
    }
}
