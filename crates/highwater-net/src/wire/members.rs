//! The translation of what nodes say about each other: rolls, news, signs of life.
//!
//! Lists of small things are carried in one piece of bytes, so that they are counted while they are
//! read. Signatures are not looked at here: most of what comes is known already, and a signature
//! costs more than all the rest (`seal.rs`).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_core::member::{
    CARD_TEXT_BYTES_MAX, Claim, Decision, Facts, GOSSIP_CARDS_MAX, GOSSIP_CLAIMS_MAX,
    GOSSIP_ORDERS_MAX, Gossip, Health, INCARNATION_MAX, KIN_SHARES_MAX, Load, OrderRank,
    ROLL_ROWS_MAX, RollRow, Seal, SealedCard, SealedOrder, VITAL_ROWS_MAX, VitalRow, Vitals,
};
use highwater_core::{NodeId, ShareName};
use prost::Message;

use super::incoming::{BadFrame, bad, ensure, exactly, number, printable, share};
use crate::proto;
use crate::seal::node_of_key;

/// Bytes of one row of a roll.
const ROLL_ROW_BYTES: usize = 46;
/// Bytes of one claim.
const CLAIM_BYTES: usize = 41;
/// Bytes of one sign of life.
const VITAL_ROW_BYTES: usize = 56;
/// Longest body that is signed, in bytes: five texts and three numbers.
const BODY_BYTES_MAX: usize = 5 * (CARD_TEXT_BYTES_MAX + 4) + 32;

pub(super) fn kin_out(shares: &[ShareName]) -> proto::Kin {
    let names = shares.iter().take(KIN_SHARES_MAX).map(ShareName::as_str);
    proto::Kin { shares: names.collect::<Vec<_>>().join("/") }
}

pub(super) fn kin(body: &proto::Kin) -> Result<Vec<ShareName>, BadFrame> {
    let names = body.shares.split('/').filter(|name| !name.is_empty());
    let mut shares = Vec::new();
    for name in names {
        ensure("kin.shares", "must be at most 1024", shares.len() < KIN_SHARES_MAX)?;
        shares.push(share(name)?);
    }
    Ok(shares)
}

pub(super) fn roll_out(rows: &[RollRow]) -> proto::Roll {
    let mut bytes = BytesMut::with_capacity(rows.len() * ROLL_ROW_BYTES);
    for row in rows {
        bytes.put_slice(row.id.as_bytes());
        bytes.put_u64(row.incarnation);
        bytes.put_u8(row.health as u8);
        bytes.put_u32(row.order.number);
        bytes.put_u8(u8::from(row.order.removed));
    }
    proto::Roll { rows: bytes.freeze() }
}

pub(super) fn roll(body: &proto::Roll) -> Result<Vec<RollRow>, BadFrame> {
    let rows = records("roll.rows", &body.rows, ROLL_ROW_BYTES, ROLL_ROWS_MAX)?;
    let row = |mut row: &[u8]| {
        Ok(RollRow {
            id: node(&mut row),
            incarnation: incarnation("roll.rows", row.get_u64())?,
            health: health("roll.rows", row.get_u8())?,
            order: OrderRank { number: row.get_u32(), removed: flag("roll.rows", row.get_u8())? },
        })
    };
    rows.map(row).collect()
}

pub(super) fn news_out(gossip: &Gossip) -> proto::News {
    let mut claims = BytesMut::with_capacity(gossip.claims.len() * CLAIM_BYTES);
    for claim in &gossip.claims {
        claims.put_slice(claim.id.as_bytes());
        claims.put_u64(claim.incarnation);
        claims.put_u8(claim.health as u8);
    }
    proto::News {
        cards: sealed_out(gossip.cards.iter().map(|card| &card.seal)),
        claims: claims.freeze(),
        orders: sealed_out(gossip.orders.iter().map(|order| &order.seal)),
    }
}

pub(super) fn news(body: proto::News) -> Result<Gossip, BadFrame> {
    let cards = sealed("news.cards", body.cards, GOSSIP_CARDS_MAX)?;
    let orders = sealed("news.orders", body.orders, GOSSIP_ORDERS_MAX)?;
    let claims = records("news.claims", &body.claims, CLAIM_BYTES, GOSSIP_CLAIMS_MAX)?;
    let claim = |mut row: &[u8]| {
        let id = node(&mut row);
        let incarnation = incarnation("news.claims", row.get_u64())?;
        let health = health("news.claims", row.get_u8())?;
        ensure("news.claims", "must claim something", health != Health::Active)?;
        Ok(Claim { id, incarnation, health })
    };
    let card = |seal| Ok(SealedCard { facts: card_facts(&seal)?, seal });
    let order = |seal| Ok(SealedOrder { decision: decision(&seal)?, seal });
    Ok(Gossip {
        cards: cards.into_iter().map(card).collect::<Result<_, BadFrame>>()?,
        claims: claims.map(claim).collect::<Result<_, BadFrame>>()?,
        orders: orders.into_iter().map(order).collect::<Result<_, BadFrame>>()?,
    })
}

pub(super) fn vitals_out(vitals: &Vitals) -> proto::Vitals {
    let mut bytes = BytesMut::with_capacity(vitals.rows.len() * VITAL_ROW_BYTES);
    for row in &vitals.rows {
        bytes.put_slice(&row.member);
        bytes.put_u64(row.incarnation);
        bytes.put_u64(row.beat);
        bytes.put_u32(u32::try_from(row.age_millis).unwrap_or(u32::MAX));
        bytes.put_u32(row.load.connections);
        bytes.put_u64(row.load.requests);
        bytes.put_u64(row.load.failures);
        bytes.put_u64(row.load.answer_micros);
    }
    proto::Vitals { digest: vitals.digest, wall_millis: vitals.wall_millis, rows: bytes.freeze() }
}

pub(super) fn vitals(body: &proto::Vitals) -> Result<Vitals, BadFrame> {
    let rows = records("vitals.rows", &body.rows, VITAL_ROW_BYTES, VITAL_ROWS_MAX)?;
    let row = |mut row: &[u8]| {
        let mut member = [0; 8];
        row.copy_to_slice(&mut member);
        let count = |count| number("vitals.rows", count);
        Ok(VitalRow {
            member,
            incarnation: incarnation("vitals.rows", row.get_u64())?,
            beat: count(row.get_u64())?,
            age_millis: u64::from(row.get_u32()),
            load: Load {
                connections: row.get_u32(),
                requests: count(row.get_u64())?,
                failures: count(row.get_u64())?,
                answer_micros: count(row.get_u64())?,
            },
        })
    };
    Ok(Vitals {
        digest: body.digest,
        wall_millis: number("vitals.wall_millis", body.wall_millis)?,
        rows: rows.map(row).collect::<Result<_, BadFrame>>()?,
    })
}

/// What is signed for a card.
pub(crate) fn card_body(facts: &Facts) -> Bytes {
    let body = proto::CardBody {
        incarnation: facts.incarnation,
        name: facts.name.clone(),
        user: facts.user.clone(),
        version: facts.version.clone(),
        mode: facts.mode.clone(),
        host: facts.host.clone(),
        sync_port: facts.sync_port.into(),
        http_port: facts.http_port.into(),
    };
    body.encode_to_vec().into()
}

/// What a card says, if it can be read; whoever signed it is whom it is about.
pub(crate) fn card_facts(seal: &Seal) -> Result<Facts, BadFrame> {
    let body = proto::CardBody::decode(seal.body.clone()).map_err(|e| undecodable("card", &e))?;
    let text = |field, text: String| {
        ensure(field, "must have at most 256 bytes", text.len() <= CARD_TEXT_BYTES_MAX)?;
        printable(field, text)
    };
    let port = |port| u16::try_from(port).map_err(|_| bad("card.port", "is no port".to_owned()));
    ensure("card.incarnation", "must not be 0", body.incarnation > 0)?;
    Ok(Facts {
        id: signer(seal)?,
        incarnation: incarnation("card.incarnation", body.incarnation)?,
        name: text("card.name", body.name)?,
        user: text("card.user", body.user)?,
        version: text("card.version", body.version)?,
        mode: text("card.mode", body.mode)?,
        host: text("card.host", body.host)?,
        sync_port: port(body.sync_port)?,
        http_port: port(body.http_port)?,
    })
}

/// What is signed for an order.
pub(crate) fn order_body(decision: &Decision) -> Bytes {
    let body = proto::OrderBody {
        target: super::copy(decision.target.as_bytes()),
        number: decision.number,
        removed: decision.removed,
    };
    body.encode_to_vec().into()
}

/// What an order says, if it can be read.
pub(crate) fn decision(seal: &Seal) -> Result<Decision, BadFrame> {
    let body = proto::OrderBody::decode(seal.body.clone()).map_err(|e| undecodable("order", &e))?;
    ensure("order.number", "must not be 0", body.number > 0)?;
    Ok(Decision {
        target: NodeId::from_bytes(exactly("order.target", &body.target)?),
        number: body.number,
        removed: body.removed,
        by: signer(seal)?,
    })
}

fn signer(seal: &Seal) -> Result<NodeId, BadFrame> {
    exactly("sealed.key", &seal.key).map(|key| node_of_key(&key))
}

fn undecodable(field: &'static str, error: &prost::DecodeError) -> BadFrame {
    bad(field, format!("cannot be decoded: {error}"))
}

fn sealed_out<'a>(seals: impl Iterator<Item = &'a Seal>) -> Bytes {
    let mut bytes = BytesMut::new();
    for seal in seals {
        let seal = proto::Sealed {
            body: seal.body.clone(),
            key: seal.key.clone(),
            signature: seal.signature.clone(),
        };
        bytes.reserve(seal.encoded_len() + super::RECORD_LENGTH_BYTES_MAX);
        // There is room: it was just made, and `BytesMut` makes more where it is not.
        let _ = seal.encode_length_delimited(&mut bytes);
    }
    bytes.freeze()
}

fn sealed(field: &'static str, mut bytes: Bytes, most: usize) -> Result<Vec<Seal>, BadFrame> {
    let mut seals = Vec::new();
    while !bytes.is_empty() {
        ensure(field, "must be at most 128", seals.len() < most)?;
        let record = proto::Sealed::decode_length_delimited(&mut bytes)
            .map_err(|error| undecodable(field, &error))?;
        ensure(field, "must have a shorter body", record.body.len() <= BODY_BYTES_MAX)?;
        exactly::<32>("sealed.key", &record.key)?;
        exactly::<64>("sealed.signature", &record.signature)?;
        // Copies: a slice would keep the whole message in memory for as long as the card lives.
        let copy = |bytes: &Bytes| super::copy(bytes);
        let (body, key) = (copy(&record.body), copy(&record.key));
        seals.push(Seal { body, key, signature: copy(&record.signature) });
    }
    Ok(seals)
}

fn records<'a>(
    field: &'static str,
    bytes: &'a Bytes,
    length: usize,
    most: usize,
) -> Result<std::slice::ChunksExact<'a, u8>, BadFrame> {
    ensure(field, "must be whole records", bytes.len().is_multiple_of(length))?;
    ensure(field, "has too many records", bytes.len() / length <= most)?;
    Ok(bytes.chunks_exact(length))
}

fn node(row: &mut &[u8]) -> NodeId {
    let mut id = [0; 32];
    row.copy_to_slice(&mut id);
    NodeId::from_bytes(id)
}

fn incarnation(field: &'static str, incarnation: u64) -> Result<u64, BadFrame> {
    ensure(field, "must have incarnations of at most 2^62", incarnation <= INCARNATION_MAX)?;
    Ok(incarnation)
}

fn health(field: &'static str, code: u8) -> Result<Health, BadFrame> {
    match code {
        0 => Ok(Health::Active),
        1 => Ok(Health::Suspect),
        2 => Ok(Health::Failed),
        _ => Err(bad(field, format!("has the unknown state {code}"))),
    }
}

fn flag(field: &'static str, code: u8) -> Result<bool, BadFrame> {
    ensure(field, "must have 0 or 1 where yes or no is meant", code <= 1)?;
    Ok(code == 1)
}

#[cfg(test)]
mod tests {
    use highwater_core::wire::Control;

    use super::*;
    use crate::identity::Identity;
    use crate::seal::{seal_card, seal_order};
    use crate::wire::{read_control, write_control};

    fn gossip() -> Gossip {
        let dir = tempfile::tempdir().expect("a directory");
        let identity = Identity::create(dir.path()).expect("an identity");
        let (id, target) = (identity.node_id(), NodeId::from_bytes([3; 32]));
        let facts = Facts {
            id,
            incarnation: INCARNATION_MAX,
            name: "alice's laptop".into(),
            user: "al".into(),
            version: "0.1.0".into(),
            mode: "cluster".into(),
            host: "192.0.2.1".into(),
            sync_port: 7420,
            http_port: 65535,
        };
        let decision = Decision { target, number: 7, removed: true, by: id };
        Gossip {
            cards: vec![seal_card(&identity, facts).expect("signed").sealed().clone()],
            claims: vec![Claim { id: target, incarnation: 5, health: Health::Failed }],
            orders: vec![seal_order(&identity, decision).expect("signed").sealed().clone()],
        }
    }

    fn messages() -> Vec<Control> {
        let id = NodeId::from_bytes([9; 32]);
        let order = OrderRank { number: u32::MAX, removed: true };
        let row = RollRow { id, incarnation: 4, health: Health::Suspect, order };
        let load = Load { connections: 3, requests: 100, failures: 2, answer_micros: 12_345 };
        let row_of_life =
            VitalRow { member: [1; 8], incarnation: 2, beat: 99, age_millis: 1500, load };
        let vitals = Vitals { digest: u64::MAX, wall_millis: 7, rows: vec![row_of_life] };
        vec![
            Control::Kin(vec!["docs".parse().expect("name"), "pictures".parse().expect("name")]),
            Control::Kin(Vec::new()),
            Control::Roll(vec![row; ROLL_ROWS_MAX]),
            Control::News(gossip()),
            Control::Probe { target: id, number: 8 },
            Control::Probed { number: 8, alive: true },
            Control::Vitals(vitals),
        ]
    }

    #[test]
    fn what_is_said_about_members_comes_out_as_it_went_in() {
        for message in messages() {
            let bytes = write_control(message.clone());
            assert_eq!(read_control(&bytes), Ok(message));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused_by_name() {
        let mut row = vec![0; ROLL_ROW_BYTES];
        row[40] = 3;
        let sealed = |seal: Seal| sealed_out([seal].iter());
        let whole = gossip().cards[0].seal.clone();
        let longer = Seal { body: vec![0; BODY_BYTES_MAX + 1].into(), ..whole.clone() };
        let news = |cards: Bytes, claims: Vec<u8>| {
            let body = proto::News { cards, claims: claims.into(), orders: Bytes::new() };
            super::news(body).err().map(|bad| bad.to_string())
        };
        let roll = |rows: Vec<u8>| {
            super::roll(&proto::Roll { rows: rows.into() }).err().map(|bad| bad.to_string())
        };
        let rows = [
            (roll(vec![0; ROLL_ROW_BYTES + 1]), "whole records"),
            (roll(vec![0; ROLL_ROW_BYTES * (ROLL_ROWS_MAX + 1)]), "too many"),
            (roll(row), "unknown state 3"),
            (roll([vec![0; 32], vec![0xff; 8], vec![0; 6]].concat()), "at most 2^62"),
            (news(Bytes::new(), vec![0; CLAIM_BYTES]), "must claim something"),
            (news(sealed(longer), vec![]), "shorter body"),
            (news(sealed(Seal { key: vec![1; 31].into(), ..whole.clone() }), vec![]), "32 bytes"),
            (news(sealed(Seal { body: vec![0xff].into(), ..whole }), vec![]), "cannot be decoded"),
        ];
        for (refusal, expected) in rows {
            let refusal = refusal.unwrap_or_default();
            assert!(refusal.contains(expected), "{refusal:?} does not say {expected:?}");
        }
    }
}
