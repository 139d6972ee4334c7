//! Who is in the cluster, decided on each node alone and alike on all: a machine in the shape of
//! SWIM (Das, Gupta, Motivala: "SWIM: Scalable Weakly-consistent Infection-style Process Group
//! Membership Protocol", 2002), carried over authenticated links and nothing else.
//!
//! It is told what links there are and how they fare, what neighbours say, and the time; it answers
//! with [`Effect`]s. It owns no socket, clock or key.
//!
//! # How news travels
//! A link is reliable while it lasts, so nothing is told twice over it: each neighbour has a list of
//! what it is *owed*, which every new record adds to and every message drains, a bounded message at
//! a time. When a link comes up, and whenever the digests of two neighbours go on differing, both
//! tell a [`RollRow`] for each member and owe what the other lacks.
//!
//! # How a failure is found
//! A neighbour that is silent, or whose link broke, is asked after by way of others
//! (`membership/watch.rs`). If none of them reaches it either it is suspected; all are told, it too
//! if it can be; it contradicts by signing a higher incarnation. If it does not, each node on its
//! own takes it for failed. Members without a link to this node are known by signs of life that
//! neighbours pass on (`membership/vitals.rs`); when these stop for long, they are suspected too.
//!
//! # What the hostile can do
//! A card needs the key of its node, so nobody is renamed, moved or revived by others. A claim can
//! make a living node suspect until its contradiction arrives. An order does not remove a node that
//! is active in the eyes of whoever hears it. What is remembered, sent and asked is bounded.

mod gossip;
mod news;
mod vitals;
mod watch;

#[cfg(test)]
mod crowd;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::id::NodeId;
use crate::member::{
    Card, Claim, Decision, Gossip, Health, Load, MEMBERS_MAX, Order, OrderRank, RollRow, State,
    Vitals,
};
use gossip::Neighbour;
use watch::Trouble;

/// Something that the machine has to know.
#[derive(Clone, Debug)]
pub enum Event {
    /// A link is up to a node that shares a share with this one.
    LinkUp(NodeId),
    /// That link broke, or was given up as dead.
    LinkDown(NodeId),
    /// That link was closed because it is not needed.
    LinkClosed(NodeId),
    /// How a link fares.
    Heard {
        /// Who is at its other end.
        peer: NodeId,
        /// How long ago it was heard.
        ago: Duration,
        /// Whether it owes an answer for too long.
        silent: bool,
    },
    /// A neighbour that there should be a link to.
    Expected(NodeId),
    /// A neighbour's roll.
    Roll(NodeId, Vec<RollRow>),
    /// A neighbour's news: cards and orders that were verified, and claims.
    News(NodeId, Vec<Card>, Vec<Claim>, Vec<Order>),
    /// A neighbour's answer to a probe.
    Probed {
        /// The number of the probe.
        number: u64,
        /// Whether it reached whom it was to reach.
        alive: bool,
    },
    /// A neighbour's signs of life.
    Vitals(NodeId, Vitals),
    /// This node's own new card.
    OwnCard(Card),
    /// An operator's order, made on this node.
    Ordered(Order),
    /// What this node counts about itself.
    Load(Load),
    /// Nothing but that.
    TimePassed,
}

/// What is to be done, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Tell a neighbour.
    Send(NodeId, Message),
    /// Sign a card of this incarnation and bring it back as [`Event::OwnCard`].
    Sign(u64),
    /// What has to survive a restart has changed.
    Save,
    /// A member is in another state than before; `None` when it was not known.
    Changed(NodeId, Option<State>, State),
    /// Who may be linked with has changed.
    Admissions,
}

/// What neighbours are told.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// All that this node knows, in short.
    Roll(Vec<RollRow>),
    /// News.
    News(Gossip),
    /// "Do you reach this node?"
    Probe {
        /// Whom.
        target: NodeId,
        /// To pair the answer with the question.
        number: u64,
    },
    /// Signs of life; the sender adds its wall clock.
    Vitals(Vitals),
}

/// Why an operator's wish is not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OrderError {
    /// It would cut off a node that works.
    #[error("node {0} is {1}; stop its daemon first, and remove it once it is failed")]
    StillThere(NodeId, State),
    /// Nobody has heard of it.
    #[error("node {0} is not in this cluster; `highwater cluster nodes` lists those that are")]
    Unknown(NodeId),
    /// It is this node.
    #[error("a node does not remove itself; run this on another node once this one is stopped")]
    Own,
    /// It was said before.
    #[error("node {0} is removed already")]
    Already(NodeId),
    /// There is nothing to take back.
    #[error("node {0} was not removed")]
    NotRemoved(NodeId),
}

/// What is known of one other node.
#[derive(Clone, Debug)]
pub struct Member {
    pub(crate) card: Card,
    pub(crate) health: Health,
    /// Since when its health is what it is.
    pub(crate) since: Time,
    /// When it last gave a sign of life, as far as this node knows.
    pub(crate) seen: Time,
    /// Its last sign of life that was passed on: incarnation and number.
    pub(crate) beat: (u64, u64),
    pub(crate) load: Load,
}

/// A member as people are told of it.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// Its card.
    pub card: Card,
    /// How it stands.
    pub state: State,
    /// When it last gave a sign of life.
    pub seen: Time,
    /// What it counts about itself.
    pub load: Load,
}

/// What has to survive a restart of one member.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    /// Its card.
    pub card: Card,
    /// Whether it had failed.
    pub failed: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Membership {
    own: Card,
    load: Load,
    beat: u64,
    members: BTreeMap<NodeId, Member>,
    orders: BTreeMap<NodeId, Order>,
    neighbours: BTreeMap<NodeId, Neighbour>,
    troubles: BTreeMap<NodeId, Trouble>,
    probes: u64,
    digest: Option<u64>,
    /// How overloaded this node is itself, 0 for not: it then gives others more time.
    strain: u32,
    strained_at: Time,
    vitals_at: Time,
    vitals_turn: usize,
    looked_at: Time,
    contradiction: Contradiction,
}

/// The incarnation that this node has to take, and how often it may still do so at once. Two copies of
/// one identity would contradict each other without end, and a hostile member makes up suspicions.
#[derive(Debug)]
struct Contradiction {
    wanted: Option<u64>,
    left: u32,
    refilled: Time,
}

/// Contradictions at once.
const CONTRADICTIONS_MAX: u32 = 8;
/// And another one after this: sooner than a suspicion becomes a failure.
const CONTRADICTION_EVERY: Duration = Duration::from_secs(2);

impl Membership {
    /// The machine of the node with this card, which remembers these from before.
    pub fn new(now: Time, own: Card, saved: Vec<Saved>, orders: Vec<Order>) -> Self {
        let own_id = own.facts().id;
        let members = saved.into_iter().filter(|saved| saved.card.facts().id != own_id);
        let restore = |saved: Saved| {
            let health = if saved.failed { Health::Failed } else { Health::Active };
            let id = saved.card.facts().id;
            (id, Member::new(now, saved.card, health))
        };
        Self {
            own,
            load: Load::default(),
            beat: 0,
            members: members.take(MEMBERS_MAX).map(restore).collect(),
            orders: orders.into_iter().map(|order| (order.decision().target, order)).collect(),
            neighbours: BTreeMap::new(),
            troubles: BTreeMap::new(),
            probes: 0,
            digest: None,
            strain: 0,
            strained_at: now,
            vitals_at: now,
            vitals_turn: 0,
            looked_at: now,
            contradiction: Contradiction { wanted: None, left: CONTRADICTIONS_MAX, refilled: now },
        }
    }

    /// Takes one step. The caller carries out the effects, in order, before the next step.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::LinkUp(peer) => self.link_up(now, peer, effects),
            Event::LinkDown(peer) => self.link_down(now, peer, effects),
            Event::LinkClosed(peer) => drop(self.neighbours.remove(&peer)),
            Event::Heard { peer, ago, silent } => self.heard(now, peer, ago, silent, effects),
            Event::Expected(peer) => self.expect(now, peer),
            Event::Roll(from, rows) => self.compare(from, &rows),
            Event::News(from, cards, claims, orders) => {
                cards.into_iter().for_each(|card| self.card(now, Some(from), card, effects));
                orders.into_iter().for_each(|order| self.order(now, Some(from), order, effects));
                claims.into_iter().for_each(|claim| self.claim(now, from, claim, effects));
            }
            Event::Probed { number, alive } => self.probed(now, number, alive),
            Event::Vitals(from, vitals) => self.take_vitals(now, from, &vitals, effects),
            Event::OwnCard(card) => self.own_card(card, effects),
            Event::Ordered(order) => self.order(now, None, order, effects),
            Event::Load(load) => self.load = load,
            Event::TimePassed => self.time_passed(now, effects),
        }
        assert!(self.members.len() <= MEMBERS_MAX, "what is remembered is bounded");
    }

    /// When [`Event::TimePassed`] is due at the latest.
    pub fn deadline(&self) -> Time {
        let owing = self.neighbours.values().filter_map(Neighbour::due).min();
        let watched = self.watch_deadline();
        [owing, watched].into_iter().flatten().fold(self.vitals_due(), Time::min)
    }

    /// This node's own card.
    pub fn own(&self) -> &Card {
        &self.own
    }

    /// Whether a card is newer than what is known of its node: worth verifying.
    pub fn is_news(&self, id: &NodeId, incarnation: u64) -> bool {
        if *id == self.own_id() {
            return incarnation >= self.own.facts().incarnation;
        }
        self.members.get(id).is_none_or(|member| incarnation > member.incarnation())
    }

    /// Whether an order is newer than what is known: worth verifying.
    pub fn is_order_news(&self, decision: &Decision) -> bool {
        decision.rank() > self.order_rank(&decision.target)
    }

    /// Whether an operator has removed this node.
    pub fn is_removed(&self, id: &NodeId) -> bool {
        self.order_rank(id).removed
    }

    /// All that are removed, and by whom.
    pub fn removed(&self) -> impl Iterator<Item = Decision> {
        self.orders.values().map(Order::decision).filter(|decision| decision.removed)
    }

    /// Every node that is known, this one first.
    pub fn views(&self, now: Time) -> Vec<View> {
        let (card, load) = (self.own.clone(), self.load);
        let own = View { card, state: State::Active, seen: now, load };
        let others = self.members.iter().map(|(id, member)| View {
            card: member.card.clone(),
            state: self.state(id, member),
            seen: member.seen,
            load: member.load,
        });
        std::iter::once(own).chain(others).collect()
    }

    /// How a node stands, if it is known.
    pub fn state_of(&self, id: &NodeId) -> Option<State> {
        if *id == self.own_id() {
            return Some(State::Active);
        }
        self.members.get(id).map(|member| self.state(id, member))
    }

    /// What a node has said about itself, if it is known.
    pub fn card_of(&self, id: &NodeId) -> Option<&Card> {
        if *id == self.own_id() {
            return Some(&self.own);
        }
        self.members.get(id).map(|member| &member.card)
    }

    /// How many links a member says it has.
    pub fn connections_of(&self, id: &NodeId) -> Option<u32> {
        self.members.get(id).map(|member| member.load.connections)
    }

    /// What has to survive a restart.
    pub fn saved(&self) -> (Vec<Saved>, Vec<Order>) {
        let saved = |member: &Member| Saved {
            card: member.card.clone(),
            failed: member.health == Health::Failed,
        };
        let members = self.members.values().map(saved).collect();
        (members, self.orders.values().cloned().collect())
    }

    /// What an operator decides, to be signed and brought back as [`Event::Ordered`].
    ///
    /// # Errors
    /// Why it is not to be.
    pub fn decide(&self, target: NodeId, removed: bool) -> Result<Decision, OrderError> {
        let rank = self.order_rank(&target);
        match (removed, self.members.get(&target)) {
            _ if target == self.own_id() => return Err(OrderError::Own),
            (true, _) if rank.removed => return Err(OrderError::Already(target)),
            (true, None) => return Err(OrderError::Unknown(target)),
            (true, Some(member)) if member.health != Health::Failed => {
                return Err(OrderError::StillThere(target, member.health.into()));
            }
            (false, _) if !rank.removed => return Err(OrderError::NotRemoved(target)),
            _ => {}
        }
        Ok(Decision { target, number: rank.number + 1, removed, by: self.own_id() })
    }

    fn own_id(&self) -> NodeId {
        self.own.facts().id
    }

    fn state(&self, id: &NodeId, member: &Member) -> State {
        if self.is_removed(id) { State::Left } else { member.health.into() }
    }

    fn order_rank(&self, id: &NodeId) -> OrderRank {
        self.orders.get(id).map(|order| order.decision().rank()).unwrap_or_default()
    }

    /// This node has signed a new card.
    fn own_card(&mut self, card: Card, effects: &mut Vec<Effect>) {
        if card.facts().incarnation > self.own.facts().incarnation {
            self.own = card;
            self.digest = None;
            let own = self.own_id();
            self.owe_all(None, own, gossip::CARD);
            effects.push(Effect::Save);
        }
    }

    /// What others believe of this node is wrong: it takes a higher incarnation, now or soon.
    fn contradict(&mut self, now: Time, incarnation: u64, effects: &mut Vec<Effect>) {
        let wanted = self.contradiction.wanted.unwrap_or(0).max(incarnation);
        self.contradiction.wanted = Some(wanted);
        self.sign_if_allowed(now, effects);
    }

    fn sign_if_allowed(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let own = self.own.facts().incarnation;
        let contradiction = &mut self.contradiction;
        if now.since(contradiction.refilled) >= CONTRADICTION_EVERY {
            contradiction.refilled = now;
            contradiction.left = (contradiction.left + 1).min(CONTRADICTIONS_MAX);
        }
        let wanted = contradiction.wanted.filter(|wanted| *wanted > own);
        contradiction.wanted = wanted;
        if let Some(incarnation) = wanted.filter(|_| contradiction.left > 0) {
            contradiction.left -= 1;
            contradiction.wanted = None;
            effects.push(Effect::Sign(incarnation));
        }
    }
}

impl Member {
    fn new(now: Time, card: Card, health: Health) -> Self {
        let beat = (card.facts().incarnation, 0);
        Self { card, health, since: now, seen: now, beat, load: Load::default() }
    }

    fn incarnation(&self) -> u64 {
        self.card.facts().incarnation
    }

    /// The node has spoken for itself again.
    fn renew(&mut self, now: Time, card: Card) {
        self.card = card;
        self.health = Health::Active;
        (self.since, self.seen) = (now, now);
    }
}
