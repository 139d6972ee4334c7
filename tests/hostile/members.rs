//! Lies about who is in the cluster, told by a peer that is in it: M2, M4.
//!
//! Each attack ends with a card that is in order, of a member that there is not: once the victim lists
//! it, whatever was said before it has been taken in, or passed over.

use std::fs;

use anyhow::{Context, Result, ensure};
use highwater_core::NodeId;
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::frames::control;
use highwater_lab::hostile::proto::{self, Message};
use highwater_lab::hostile::{Credentials, Peer};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;

use crate::stage::{Effect, MISBEHAVED, PATIENCE, Stage, on_stage, until};

const EPOCH: [u8; 16] = [0x4d; 16];
/// Bodies of control frames.
const KIN: u32 = 40;
const ROLL: u32 = 41;
const NEWS: u32 = 42;
const VITALS: u32 = 45;
/// What may be claimed.
const SUSPECT: u8 = 1;
const FAILED: u8 = 2;
/// Members that a node remembers.
const MEMBERS_MAX: usize = 1024;
/// Before an Ed25519 key, in what a node id is made of.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key that the hostile side has made up, and with it a member.
struct Invented(Ed25519KeyPair);

impl Invented {
    fn new(number: u64) -> Self {
        let seed = *blake3::hash(&number.to_le_bytes()).as_bytes();
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are a seed"))
    }

    fn id(&self) -> NodeId {
        NodeId::of_public_key(&[&SPKI[..], self.0.public_key().as_ref()].concat())
    }

    /// What others are to believe: `body`, signed.
    fn seal(&self, what: &str, body: &Message) -> Sealed {
        let message = [what.as_bytes(), body.encoded()].concat();
        let signature = self.0.sign(&message).as_ref().to_vec();
        let key = self.0.public_key().as_ref().to_vec();
        Sealed { body: body.encoded().to_vec(), key, signature }
    }

    fn card(&self, incarnation: u64) -> Sealed {
        self.seal(CARD, &card(incarnation, "nobody"))
    }
}

const CARD: &str = "highwater card 1\0";
const ORDER: &str = "highwater order 1\0";

/// A body, a key and a signature, which need not fit each other.
#[derive(Clone)]
struct Sealed {
    body: Vec<u8>,
    key: Vec<u8>,
    signature: Vec<u8>,
}

fn card(incarnation: u64, name: &str) -> Message {
    let card = Message::new().number(1, incarnation).bytes(2, name).bytes(3, "mallory");
    card.bytes(4, "0.1.0").bytes(5, "cluster").bytes(6, "192.0.2.1").number(7, 7420)
}

fn order(target: &NodeId, number: u64) -> Message {
    Message::new().bytes(1, target.as_bytes()).number(2, number).number(3, 1)
}

fn claim(about: &NodeId, incarnation: u64, health: u8) -> Vec<u8> {
    [&about.as_bytes()[..], &incarnation.to_be_bytes(), &[health]].concat()
}

fn records(seals: &[Sealed]) -> Vec<u8> {
    let record = |seal: &Sealed| {
        Message::new().bytes(1, &seal.body).bytes(2, &seal.key).bytes(3, &seal.signature)
    };
    let all = seals.iter().fold(Message::new(), |all, seal| all.record(&record(seal)));
    all.encoded().to_vec()
}

fn news(cards: &[Sealed], claims: &[u8], orders: &[Sealed]) -> Message {
    let news = Message::new().bytes(1, records(cards)).bytes(2, claims);
    control(NEWS, &news.bytes(3, records(orders)))
}

/// A link that is part of the victim's cluster, and the roll that it was greeted with.
fn member(stage: &Stage<'_>) -> Result<(Peer, Vec<u8>)> {
    let (mut peer, _) = stage.sharing(EPOCH, 0)?;
    peer.control.say(&control(KIN, &Message::new().bytes(1, SHARE)))?;
    let roll = peer.wait_for(u64::from(ROLL)).context("the victim speaks of its cluster")?;
    Ok((peer, roll))
}

/// The nodes as the victim lists them.
fn listed(stage: &Stage<'_>) -> Result<serde_json::Map<String, Value>> {
    let said = stage.victim().run(&["cluster", "nodes", "--json"])?;
    let nodes: Value = serde_json::from_str(&said)?;
    nodes["nodes"].as_object().cloned().context("nodes")
}

/// Name, state and incarnation of the honest peer there.
fn honest(stage: &Stage<'_>) -> Result<(String, String, u64)> {
    let id = stage.cluster.nodes[1].id();
    let node = listed(stage)?.get(id).cloned().context("the honest peer is listed")?;
    let (config, metadata) = (&node["config"], &node["config"]["metadata"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok((
        text(&metadata["name"]),
        text(&config["status"]),
        metadata["incarnation"].as_u64().context("an incarnation")?,
    ))
}

fn honest_id(stage: &Stage<'_>) -> Result<NodeId> {
    stage.cluster.nodes[1].id().parse().map_err(|_| anyhow::anyhow!("no id"))
}

/// Waits until all that was said on `peer` has been taken in.
fn taken_in(stage: &Stage<'_>, peer: &mut Peer, marker: u64) -> Result<()> {
    let marker = Invented::new(marker);
    peer.control.say(&news(&[marker.card(1)], &[], &[]))?;
    let id = marker.id().to_string();
    until("what was said has been taken in", || Ok(listed(stage)?.contains_key(&id)))
}

/// Whether the victim ever took the honest peer for this, by its log from byte `since` on.
fn was_ever(stage: &Stage<'_>, state: &str, since: usize) -> Result<bool> {
    let log = fs::read_to_string(stage.victim().log_path())?;
    let id = stage.cluster.nodes[1].id();
    let says = |line: &str| line.contains(id) && line.contains(&format!("is {state}"));
    Ok(log.get(since..).unwrap_or_default().lines().any(says))
}

fn log_length(stage: &Stage<'_>) -> Result<usize> {
    Ok(fs::read_to_string(stage.victim().log_path())?.len())
}

#[test]
fn nobody_speaks_for_another() {
    on_stage(|stage| {
        until("the honest peer is active", || Ok(honest(stage)?.1 == "active"))?;
        stage.attack("M2 forged cards and orders", Effect::Nothing, |stage| {
            let (before, target) = (honest(stage)?, honest_id(stage)?);
            let key = Credentials::of_home(&stage.cluster.nodes[1].home())?.public_key()?;
            let (mallory, since) = (Invented::new(1), log_length(stage)?);
            let renamed = mallory.seal(CARD, &card(before.2 + 5, "renamed"));
            let stolen_key = Sealed { key: key.clone(), ..renamed.clone() };
            let removal = mallory.seal(ORDER, &order(&target, 1));
            let as_order = Sealed { key: key.clone(), ..mallory.seal(CARD, &order(&target, 1)) };
            let unsigned = Sealed { signature: vec![0; 64], ..stolen_key.clone() };
            let far = mallory.seal(ORDER, &order(&target, 1_000_000));
            let forged_order = Sealed { signature: vec![7; 64], ..removal.clone() };
            let (mut peer, _) = member(stage)?;
            peer.control.say(&news(&[stolen_key, unsigned], &[], &[]))?;
            peer.control.say(&news(&[], &[], &[as_order, forged_order, far]))?;
            taken_in(stage, &mut peer, 2)?;
            ensure!(honest(stage)? == before, "{:?} after {before:?}", honest(stage)?);
            ensure!(!was_ever(stage, "left", since)?, "it was removed");
            peer.is_up(3)
        })
    });
}

#[test]
fn a_living_node_is_not_talked_to_death() {
    on_stage(|stage| {
        until("the honest peer is active", || Ok(honest(stage)?.1 == "active"))?;
        stage.attack("M2 claims about a living node", Effect::Nothing, |stage| {
            let (before, target) = (honest(stage)?, honest_id(stage)?);
            let since = log_length(stage)?;
            let (mut peer, _) = member(stage)?;
            // Of cards that it never signed: passed over.
            for ahead in [1, 1000, (1 << 62) - before.2] {
                let claims = claim(&target, before.2 + ahead, FAILED);
                peer.control.say(&news(&[], &claims, &[]))?;
            }
            taken_in(stage, &mut peer, 10)?;
            ensure!(honest(stage)?.2 == before.2, "its incarnation moved");
            // Of the one that it has: it contradicts.
            for health in [SUSPECT, FAILED] {
                let now = honest(stage)?.2;
                peer.control.say(&news(&[], &claim(&target, now, health), &[]))?;
                until("it contradicts", || {
                    let (_, state, incarnation) = honest(stage)?;
                    Ok(state == "active" && incarnation > now)
                })?;
            }
            ensure!(!was_ever(stage, "failed", since)?, "it was taken for failed");
            ensure!(!was_ever(stage, "left", since)?, "it was removed");
            Ok(())
        })
    });
}

#[test]
fn an_old_card_and_what_was_said_of_it_bring_nothing_back() {
    on_stage(|stage| {
        until("the honest peer is active", || Ok(honest(stage)?.1 == "active"))?;
        stage.attack("M2 replayed cards", Effect::Nothing, |stage| {
            let (mut peer, _) = member(stage)?;
            // Whoever says that it knows nobody is told everything.
            peer.control.say(&control(ROLL, &Message::new()))?;
            let target = honest_id(stage)?;
            let old = loop {
                let said = peer.wait_for(u64::from(NEWS))?;
                let fields = proto::read(&said)?;
                let cards = proto::bytes(&fields, 1).to_vec();
                if let Some(card) = card_of(&cards, &target)? {
                    break card;
                }
            };
            let before = honest(stage)?;
            stage.cluster.nodes[1].stop()?;
            stage.cluster.nodes[1].start()?;
            until("it is back", || {
                let (_, state, incarnation) = honest(stage)?;
                Ok(state == "active" && incarnation > before.2)
            })?;
            stage.cluster.nodes[1].wait_until("linked again", PATIENCE, |status| {
                status.shares.iter().any(|share| share.peers.iter().all(|peer| peer.connected))
            })?;
            let (now, since) = (honest(stage)?, log_length(stage)?);
            for incarnation in [before.2, now.2 - 1] {
                let claims = claim(&target, incarnation, FAILED);
                peer.control.say(&news(std::slice::from_ref(&old), &claims, &[]))?;
            }
            taken_in(stage, &mut peer, 20)?;
            ensure!(honest(stage)? == now, "{:?} after {now:?}", honest(stage)?);
            ensure!(!was_ever(stage, "suspect", since)?, "an old claim counted");
            Ok(())
        })
    });
}

/// The card of `node` among these.
fn card_of(cards: &[u8], node: &NodeId) -> Result<Option<Sealed>> {
    let mut rest = cards;
    while !rest.is_empty() {
        let record = proto::take_record(&mut rest)?;
        let fields = proto::read(record)?;
        let [body, key, signature] = [1, 2, 3].map(|field| proto::bytes(&fields, field).to_vec());
        if NodeId::of_public_key(&[&SPKI[..], &key].concat()) == *node {
            return Ok(Some(Sealed { body, key, signature }));
        }
    }
    Ok(None)
}

#[test]
fn a_crowd_of_invented_members_is_bounded_and_pushes_nobody_out() {
    on_stage(|stage| {
        until("the honest peer is active", || Ok(honest(stage)?.1 == "active"))?;
        stage.attack("M2 3,000 invented members", Effect::Nothing, |stage| {
            let (mut peer, _) = member(stage)?;
            for batch in 0..30 {
                let cards = (0..100).map(|n| Invented::new(1000 + batch * 100 + n).card(1));
                peer.control.say(&news(&cards.collect::<Vec<_>>(), &[], &[]))?;
            }
            // No marker gets in any more: the table is full.
            until("the table is full", || Ok(listed(stage)?.len() >= MEMBERS_MAX))?;
            peer.is_up(30)?;
            let count = listed(stage)?.len();
            ensure!(count <= MEMBERS_MAX + 1, "{count} members are remembered");
            let (name, state, _) = honest(stage)?;
            ensure!((&*name, &*state) == ("honest", "active"), "{name} is {state}");
            Ok(())
        })
    });
}

#[test]
fn what_breaks_a_rule_about_members_ends_the_link() {
    let (somebody, member) = (Invented::new(1), Invented::new(2).id());
    let many = |count: usize| vec![somebody.card(1); count];
    let claims = |count: usize| claim(&member, 1, FAILED).repeat(count);
    let roll = |rows: Vec<u8>| control(ROLL, &Message::new().bytes(1, rows));
    let vitals = |rows: Vec<u8>| control(VITALS, &Message::new().bytes(3, rows));
    let beyond = (1 << 62) + 1;
    let altered = |change: fn(&mut Sealed)| {
        let mut card = somebody.card(1);
        change(&mut card);
        news(&[card], &[], &[])
    };
    let rows = [
        ("M4 a card with an incarnation beyond 2^62", news(&[somebody.card(beyond)], &[], &[])),
        ("M4 a card with the incarnation 0", news(&[somebody.card(0)], &[], &[])),
        ("M4 a claim beyond 2^62", news(&[], &claim(&member, u64::MAX, FAILED), &[])),
        ("M2 a claim of nothing", news(&[], &claim(&member, 1, 0), &[])),
        ("M2 a claim of the unknown", news(&[], &claim(&member, 1, 9), &[])),
        ("M2 half a claim", news(&[], &claim(&member, 1, FAILED)[..20], &[])),
        ("S17 129 cards", news(&many(129), &[], &[])),
        ("S17 513 claims", news(&[], &claims(513), &[])),
        ("S17 129 orders", news(&[], &[], &many(129))),
        ("S17 2,049 rows of a roll", roll(vec![0; 46 * 2049])),
        ("S17 513 signs of life", vitals(vec![0; 56 * 513])),
        ("S24 a key of 31 bytes", altered(|card| card.key.truncate(31))),
        ("S24 a signature of 63 bytes", altered(|card| card.signature.truncate(63))),
        ("S17 a card of 64 KiB", altered(|card| card.body.resize(65_536, 0))),
        ("M9 a card with colours", {
            news(&[somebody.seal(CARD, &card(1, "\u{1b}[31mred"))], &[], &[])
        }),
        ("M9 a card with a long name", {
            news(&[somebody.seal(CARD, &card(1, &"x".repeat(257)))], &[], &[])
        }),
    ];
    on_stage(|stage| {
        rows.iter().try_for_each(|(what, message)| {
            stage.attack(what, Effect::Nothing, |stage| {
                let (mut peer, _) = stage.sharing(EPOCH, 0)?;
                peer.control.say(message)?;
                let ending = peer.ending()?;
                ensure!(ending == MISBEHAVED, "answered with {ending:?}");
                Ok(())
            })
        })
    });
}
