//! Signatures under what nodes say about themselves, and under what operators decide.
//!
//! The key is the node's identity, the same that TLS uses; the words before what is signed keep the
//! two uses apart, and a card from an order. A card or an order becomes one that is believed only
//! here.

use bytes::{BufMut, Bytes, BytesMut};
use highwater_core::NodeId;
use highwater_core::member::{Card, Decision, Facts, Order, Seal, SealedCard, SealedOrder};
use webpki::ring::ED25519;

use crate::identity::Identity;
use crate::wire;

/// What is signed begins with one of these, so that no signature counts for anything else.
const CARD: &[u8] = b"highwater card 1\0";
const ORDER: &[u8] = b"highwater order 1\0";
/// DER of an Ed25519 `SubjectPublicKeyInfo`, up to the 32 bytes of the key.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The node that holds this public key.
pub(crate) fn node_of_key(key: &[u8; 32]) -> NodeId {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&SPKI_PREFIX);
    spki[12..].copy_from_slice(key);
    NodeId::of_public_key(&spki)
}

/// Signs this node's card.
pub(crate) fn seal_card(identity: &Identity, facts: Facts) -> Option<Card> {
    let seal = seal(identity, CARD, wire::card_body(&facts))?;
    // What was signed is what counts: texts that are too long do not become a card.
    let facts = wire::card_facts(&seal).ok()?;
    Some(Card::verified(SealedCard { facts, seal }))
}

/// Signs an operator's order.
pub(crate) fn seal_order(identity: &Identity, decision: Decision) -> Option<Order> {
    let seal = seal(identity, ORDER, wire::order_body(&decision))?;
    Some(Order::verified(SealedOrder { decision, seal }))
}

/// The card, if its node has signed it.
pub fn verify_card(card: SealedCard) -> Option<Card> {
    is_signed(CARD, &card.seal).then(|| Card::verified(card))
}

/// The order, if the node that it names has signed it.
pub fn verify_order(order: SealedOrder) -> Option<Order> {
    is_signed(ORDER, &order.seal).then(|| Order::verified(order))
}

/// The card in this seal, read and verified again: from a disk.
pub fn open_card(seal: Seal) -> Option<Card> {
    let facts = wire::card_facts(&seal).ok()?;
    verify_card(SealedCard { facts, seal })
}

/// The order in this seal, read and verified again: from a disk.
pub fn open_order(seal: Seal) -> Option<Order> {
    let decision = wire::decision(&seal).ok()?;
    verify_order(SealedOrder { decision, seal })
}

fn seal(identity: &Identity, domain: &[u8], body: Bytes) -> Option<Seal> {
    let signature = identity.sign(&message(domain, &body))?;
    let key = Bytes::copy_from_slice(&identity.public_key());
    Some(Seal { body, key, signature: signature.into() })
}

fn is_signed(domain: &[u8], seal: &Seal) -> bool {
    let message = message(domain, &seal.body);
    ED25519.verify_signature(&seal.key, &message, &seal.signature).is_ok()
}

fn message(domain: &[u8], body: &[u8]) -> BytesMut {
    let mut message = BytesMut::with_capacity(domain.len() + body.len());
    message.put_slice(domain);
    message.put_slice(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> (tempfile::TempDir, Identity) {
        let dir = tempfile::tempdir().expect("a directory");
        let identity = Identity::create(dir.path()).expect("an identity");
        (dir, identity)
    }

    fn facts(identity: &Identity) -> Facts {
        Facts {
            id: identity.node_id(),
            incarnation: 7,
            name: "alice".into(),
            user: "al".into(),
            version: "0.1.0".into(),
            mode: "cluster".into(),
            host: "192.0.2.1".into(),
            sync_port: 7420,
            http_port: 8080,
        }
    }

    #[test]
    fn a_card_is_believed_only_as_its_node_has_signed_it() {
        let (_dir, own) = identity();
        let (_other_dir, other) = identity();
        let card = seal_card(&own, facts(&own)).expect("signed");
        let seal = card.sealed().seal.clone();
        assert_eq!(open_card(seal.clone()), Some(card.clone()));
        for place in 0..seal.body.len() {
            let mut body = seal.body.to_vec();
            body[place] ^= 1;
            assert_eq!(open_card(Seal { body: body.into(), ..seal.clone() }), None, "{place}");
        }
        let key = Bytes::copy_from_slice(&other.public_key());
        assert_eq!(open_card(Seal { key, ..seal.clone() }), None, "of another node");
        assert_eq!(open_order(seal), None, "a card is no order");
    }

    #[test]
    fn a_card_about_another_node_cannot_be_signed() {
        let (_dir, own) = identity();
        let (_other_dir, other) = identity();
        let card = seal_card(&own, facts(&other)).expect("signed");
        assert_eq!(card.facts().id, own.node_id(), "whoever signs is whom it is about");
    }

    #[test]
    fn an_order_names_whoever_signed_it() {
        let (_dir, own) = identity();
        let (_other_dir, other) = identity();
        let target = other.node_id();
        let decision = Decision { target, number: 1, removed: true, by: own.node_id() };
        let order = seal_order(&own, decision).expect("signed");
        assert_eq!(open_order(order.sealed().seal.clone()).map(|o| o.decision()), Some(decision));
    }
}
