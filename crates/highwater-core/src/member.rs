//! What nodes know of each other: the records that membership is made of, and which of two is newer.
//!
//! Three kinds of record, because three kinds of word have different weight:
//!
//! - a [`Card`] is what a node says about itself. It is signed with the node's own key, so nobody
//!   else can rename, move or revive it. Its **incarnation** rises with every start of the daemon
//!   and whenever the node contradicts a false report of its death.
//! - a [`Claim`] is what others say about a node: that one incarnation of it is suspected, or has
//!   failed. It holds only for an incarnation that the node itself has signed, and only until the
//!   node signs a higher one.
//! - an [`Order`] is what an operator decided: that a node is removed, or let in again. It is signed
//!   by the node on which the operator sat, and outlasts everything else.
//!
//! Nothing here verifies a signature: `highwater-net` makes a [`Card`] out of a [`SealedCard`] once
//! it has, and only those are believed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// Longest text on a card, in bytes: a name of 64 characters in any script.
pub const CARD_TEXT_BYTES_MAX: usize = 256;
/// Highest incarnation. One a nanosecond for a century is not more.
pub const INCARNATION_MAX: u64 = 1 << 62;
/// An order may be this many numbers ahead of the last one that is known: orders are rare, and a
/// number near the end of its range would forbid all that follow.
pub const ORDER_STEP_MAX: u32 = 64;

/// How a node stands in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    Active,
    /// Somebody could not reach it; it has a few seconds to contradict.
    Suspect,
    /// It did not contradict.
    Failed,
    /// An operator removed it.
    Left,
}

impl State {
    /// The state as the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Suspect => "suspect",
            State::Failed => "failed",
            State::Left => "left",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What others may say about an incarnation of a node, from the mildest to the gravest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Health {
    /// Nothing bad.
    Active,
    /// It could not be reached.
    Suspect,
    /// It did not contradict the suspicion in time.
    Failed,
}

impl From<Health> for State {
    fn from(health: Health) -> Self {
        match health {
            Health::Active => State::Active,
            Health::Suspect => State::Suspect,
            Health::Failed => State::Failed,
        }
    }
}

/// What a card says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Whose card it is.
    pub id: NodeId,
    /// Which of its cards; at most [`INCARNATION_MAX`].
    pub incarnation: u64,
    /// The node's name, for people.
    pub name: String,
    /// Whose data it keeps, for people.
    pub user: String,
    /// The version of its program.
    pub version: String,
    /// How it runs: `cluster` or `standalone`.
    pub mode: String,
    /// Where it says it is: an address or a host name. A hint; who answers there must still prove
    /// its identity.
    pub host: String,
    /// Its port for other nodes.
    pub sync_port: u16,
    /// Its port for people and programs.
    pub http_port: u16,
}

/// The bytes that were signed, by which key, and the signature: passed on as they came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seal {
    /// What was signed.
    pub body: Bytes,
    /// The public key: 32 bytes.
    pub key: Bytes,
    /// The signature.
    pub signature: Bytes,
}

/// A card whose signature nobody has looked at yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedCard {
    /// What it says.
    pub facts: Facts,
    /// Why it should be believed.
    pub seal: Seal,
}

/// A card whose signature was verified, or made, on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card(SealedCard);

impl Card {
    /// The card, as whoever has verified it vouches.
    pub fn verified(card: SealedCard) -> Self {
        Self(card)
    }

    /// What it says.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// The card as it is passed on and stored.
    pub fn sealed(&self) -> &SealedCard {
        &self.0
    }
}

/// What is said about one incarnation of a node by others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// About whom.
    pub id: NodeId,
    /// About which of its cards.
    pub incarnation: u64,
    /// What is said; never [`Health::Active`], which only a card can say.
    pub health: Health,
}

/// What an operator decided about a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// About whom.
    pub target: NodeId,
    /// Orders about one node are numbered; the highest holds.
    pub number: u32,
    /// Whether the node is removed; else it is let in again.
    pub removed: bool,
    /// The node on which the operator sat, whose signature this carries.
    pub by: NodeId,
}

impl Decision {
    /// What decides between two orders about one node, on every node alike.
    pub fn rank(&self) -> OrderRank {
        OrderRank { number: self.number, removed: self.removed }
    }
}

/// The place of an order among those about the same node. Of two with one number, made on two nodes
/// at once, the removal holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct OrderRank {
    /// The number of the order; 0 when there was none.
    pub number: u32,
    /// Whether it removes.
    pub removed: bool,
}

/// An order whose signature nobody has looked at yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedOrder {
    /// What was decided.
    pub decision: Decision,
    /// Why it should be believed.
    pub seal: Seal,
}

/// An order whose signature was verified, or made, on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order(SealedOrder);

impl Order {
    /// The order, as whoever has verified it vouches.
    pub fn verified(order: SealedOrder) -> Self {
        Self(order)
    }

    /// What was decided.
    pub fn decision(&self) -> Decision {
        self.0.decision
    }

    /// The order as it is passed on and stored.
    pub fn sealed(&self) -> &SealedOrder {
        &self.0
    }
}

/// All that two nodes compare about a third to find out who knows more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RollRow {
    /// About whom.
    pub id: NodeId,
    /// Its newest card that is known; 0 for none.
    pub incarnation: u64,
    /// What is said about that card.
    pub health: Health,
    /// The order that holds.
    pub order: OrderRank,
}

/// News about members, to a neighbour that does not have it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Gossip {
    /// Cards, not verified.
    pub cards: Vec<SealedCard>,
    /// Claims.
    pub claims: Vec<Claim>,
    /// Orders, not verified.
    pub orders: Vec<SealedOrder>,
}

impl Gossip {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.cards.is_empty() && self.claims.is_empty() && self.orders.is_empty()
    }
}

/// How much a node does, counted by itself since its daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Links that are up.
    pub connections: u32,
    /// Requests of peers that it has answered, well or not.
    pub requests: u64,
    /// Those it could not answer as asked.
    pub failures: u64,
    /// Time from request to last byte of the answer, summed, in microseconds.
    pub answer_micros: u64,
}

/// A sign of life of a member, passed from node to node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VitalRow {
    /// The first 8 bytes of its id: it is told only about members that both sides know.
    pub member: [u8; 8],
    /// The incarnation that gave it.
    pub incarnation: u64,
    /// Its number within the incarnation.
    pub beat: u64,
    /// How long ago it was given, in milliseconds.
    pub age_millis: u64,
    /// What the member counted.
    pub load: Load,
}

/// Signs of life, and what the sender's own picture of the cluster looks like.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Vitals {
    /// Equal on two nodes that know the same cards, claims and orders.
    pub digest: u64,
    /// The sender's wall clock, in milliseconds since 1970.
    pub wall_millis: u64,
    /// The freshest signs of life, the sender's own first.
    pub rows: Vec<VitalRow>,
}

/// Most cards in one message: 300 bytes each keep it below 64 KiB.
pub const GOSSIP_CARDS_MAX: usize = 128;
/// Most claims in one message.
pub const GOSSIP_CLAIMS_MAX: usize = 512;
/// Most orders in one message.
pub const GOSSIP_ORDERS_MAX: usize = 128;
/// Most members that are remembered, and most orders: what a hostile member can make others keep.
pub const MEMBERS_MAX: usize = 1024;
/// Most signs of life in one message.
pub const VITAL_ROWS_MAX: usize = 512;
/// Most shares that a node names as common with a peer.
pub const KIN_SHARES_MAX: usize = 1024;
/// Most rows of a roll: the members, and the orders about nodes that are none.
pub const ROLL_ROWS_MAX: usize = 2 * MEMBERS_MAX;
