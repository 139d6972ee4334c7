//! Neighbours, and questions of a check that are passed on, to the wire and from it.

use bytes::{BufMut, Bytes, BytesMut};
use highwater_core::NodeId;
use highwater_core::check::CheckAsk;
use highwater_core::way::{NEAR_MAX, Near, Onward, STEPS_MAX, leads_on};

use super::check;
use super::incoming::{BadFrame, ensure, exactly, required};
use crate::proto;

/// A neighbour: its node id, and 1 if it is linked with.
const NEAR_BYTES: usize = NODE_BYTES + 1;
const NODE_BYTES: usize = 32;

pub(super) fn near_out(near: &[Near]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(near.len() * NEAR_BYTES);
    for Near { node, linked } in near {
        bytes.put_slice(node.as_bytes());
        bytes.put_u8(u8::from(*linked));
    }
    bytes.freeze()
}

pub(super) fn near(bytes: &[u8]) -> Result<Vec<Near>, BadFrame> {
    let field = "looked.near";
    ensure(field, "must be rows of 33 bytes", bytes.len().is_multiple_of(NEAR_BYTES))?;
    ensure(field, "has too many rows", bytes.len() / NEAR_BYTES <= NEAR_MAX)?;
    let row = |row: &[u8]| {
        let (node, linked) = row.split_at(NODE_BYTES);
        ensure(field, "must end each row with 0 or 1", linked[0] <= 1)?;
        Ok(Near { node: NodeId::from_bytes(exactly(field, node)?), linked: linked[0] == 1 })
    };
    bytes.chunks_exact(NEAR_BYTES).map(row).collect()
}

pub(super) fn onward_out(onward: Onward) -> proto::Onward {
    let way: Vec<u8> = onward.way.iter().flat_map(NodeId::as_bytes).copied().collect();
    let ask = proto::CheckAsk { ask: Some((*onward.ask).into()), ..proto::CheckAsk::default() };
    proto::Onward { way: way.into(), ask: Some(Box::new(ask)) }
}

pub(super) fn onward(onward: proto::Onward) -> Result<Onward, BadFrame> {
    let field = "onward.way";
    ensure(field, "must be ids of 32 bytes", onward.way.len().is_multiple_of(NODE_BYTES))?;
    ensure(field, "is too long", onward.way.len() / NODE_BYTES <= STEPS_MAX)?;
    let ids = onward.way.chunks_exact(NODE_BYTES);
    let way = ids.map(|id| Ok(NodeId::from_bytes(exactly(field, id)?)));
    let way = way.collect::<Result<Vec<NodeId>, BadFrame>>()?;
    ensure(field, "must name 1 to 8 nodes, none twice", leads_on(&way))?;
    let within = required("onward.ask", onward.ask)?.ask;
    let ask = match required("onward.ask", within)? {
        proto::check_ask::Ask::Onward(_) => None,
        ask => Some(check::ask(ask)?),
    };
    let ask: CheckAsk = required("onward.ask", ask)?;
    Ok(Onward { way, ask: Box::new(ask) })
}
