//! The questions and answers of the consistency checker, to the wire and from it.

use bytes::{Bytes, BytesMut};
use highwater_core::check::{
    ACKS_MAX, CLAIMS_MAX, CheckAnswer, CheckAsk, CheckId, CheckRefusal, Claim, Damage, DamageCause,
    DeepProgress, Hold, ITEMS_MAX, ItemTag, KeyState, Look, Order, PAGE_KEYS_MAX, PARTS_MAX,
    STATES_MAX, States, Stuck, Wanted,
};
use highwater_core::fingerprint::{Fingerprint, KeyRange};
use highwater_core::{Entry, EntryKind, Key, NodeId, Seq};
use prost::Message;

use super::incoming::{
    BadFrame, bad, ensure, entry, exactly, kind as kind_in, number, position, required,
};
use super::{copy, kind as kind_out, logged, put_record, way};
use crate::proto;

// --- outwards --------------------------------------------------------------------------------

impl From<CheckAsk> for proto::check_ask::Ask {
    fn from(ask: CheckAsk) -> Self {
        match ask {
            CheckAsk::Look(claims) => Self::Look(records(claims.into_iter().map(claim_out))),
            CheckAsk::States(keys) => Self::States(names(&keys)),
            CheckAsk::Deep { check, rate, from_disk } => {
                Self::Deep(proto::DeepAsk { check: copy(&check.0), rate, from_disk })
            }
            CheckAsk::Found { check, after } => {
                let after = after.map_or_else(String::new, String::from);
                let check = check.map_or_else(Bytes::new, |check| copy(&check.0));
                Self::Found(proto::FoundAsk { check, after })
            }
            CheckAsk::Mend(orders) => Self::Mend(records(orders.into_iter().map(order_out))),
            CheckAsk::Onward(onward) => Self::Onward(Box::new(way::onward_out(onward))),
        }
    }
}

impl From<CheckAnswer> for proto::check_answer::Answer {
    fn from(answer: CheckAnswer) -> Self {
        match answer {
            CheckAnswer::Looked { all, damaged, looks, near } => Self::Looked(proto::Looked {
                all: copy(&all.to_bytes()),
                damaged,
                looks: records(looks.into_iter().map(look_out)),
                near: way::near_out(&near),
            }),
            CheckAnswer::States(states) => Self::States(states_out(states)),
            CheckAnswer::Deep(DeepProgress { done, files, bytes, total, found }) => {
                Self::Deep(proto::DeepProgress { done, files, bytes, total, found })
            }
            CheckAnswer::Found(keys) => Self::Found(proto::KeyNames { keys: names(&keys) }),
            CheckAnswer::Mended(taken) => {
                Self::Mended(taken.into_iter().map(u8::from).collect::<Vec<u8>>().into())
            }
            CheckAnswer::Refused(refusal) => {
                use proto::CheckRefusal as Wire;
                Self::Refused(match refusal {
                    CheckRefusal::NotOpen => Wire::NotOpen.into(),
                    CheckRefusal::NotNow => Wire::NotNow.into(),
                    CheckRefusal::Failed => Wire::Failed.into(),
                    CheckRefusal::NoWay => Wire::NoWay.into(),
                })
            }
        }
    }
}

fn records<T: Message>(messages: impl Iterator<Item = T>) -> Bytes {
    let mut bytes = BytesMut::new();
    messages.for_each(|message| put_record(&mut bytes, &message));
    bytes.freeze()
}

fn names(keys: &[Key]) -> Bytes {
    records(keys.iter().map(|key| proto::KeyName { key: key.as_str().to_owned() }))
}

fn claim_out(claim: Claim) -> proto::Claim {
    let bound = |key: Option<Key>| key.map_or_else(String::new, String::from);
    let KeyRange { from, before } = claim.range;
    let range = proto::KeyRange { from: bound(from), before: bound(before) };
    proto::Claim { range: Some(range), fingerprint: copy(&claim.fingerprint.to_bytes()) }
}

fn order_out(order: Order) -> proto::Order {
    use proto::order::Order as Wire;
    let order = match order {
        Order::Adopt(entry) => Wire::Adopt(logged(Seq::ZERO, entry)),
        Order::Refetch(key) => Wire::Refetch(key.into()),
        Order::Record(entry) => Wire::Record(logged(Seq::ZERO, entry)),
        Order::Rescan(key) => Wire::Rescan(key.into()),
    };
    proto::Order { order: Some(order) }
}

fn look_out(look: Look) -> proto::Look {
    use proto::look::Look as Wire;
    let look = match look {
        Look::Same => Wire::Same(proto::Same {}),
        Look::Items(items) => {
            let items = items.into_iter().map(|(key, tag)| {
                let (key, tag) = (key.into(), copy(&tag.0));
                proto::Item { key, tag }
            });
            Wire::Items(proto::Items { items: records(items) })
        }
        Look::Parts { cuts, parts } => {
            let parts: Vec<u8> = parts.iter().flat_map(Fingerprint::to_bytes).collect();
            Wire::Parts(proto::Parts { cuts: names(&cuts), parts: parts.into() })
        }
    };
    proto::Look { look: Some(look) }
}

fn states_out(states: States) -> proto::States {
    let acked = states.acked.into_iter().map(|(node, seq)| {
        let node = copy(node.as_bytes());
        proto::PeerAck { node, seq: seq.0 }
    });
    proto::States {
        caught_up: states.caught_up,
        acked: records(acked),
        states: records(states.states.into_iter().map(state_out)),
    }
}

fn state_out(state: KeyState) -> proto::KeyState {
    use proto::{HoldReason, StuckReason};
    let hold = match state.hold {
        None => HoldReason::HoldNone,
        Some(Hold::Ignored) => HoldReason::HoldIgnored,
        Some(Hold::SendOnly) => HoldReason::HoldSendOnly,
        Some(Hold::ReceiveOnly) => HoldReason::HoldReceiveOnly,
        Some(Hold::MassDelete) => HoldReason::HoldMassDelete,
    };
    let wanted = state.wanted.map(|wanted| {
        let stuck = match wanted.stuck {
            None => StuckReason::StuckNot,
            Some(Stuck::ContentLost) => StuckReason::StuckContentLost,
            Some(Stuck::CannotPlace) => StuckReason::StuckCannotPlace,
        };
        proto::Want { entry: Some(logged(Seq::ZERO, wanted.entry)), stuck: stuck.into() }
    });
    proto::KeyState {
        recorded: state.recorded.map(|(seq, entry)| logged(seq, entry)),
        wanted,
        damage: state.damage.map(damage_out),
        hold: hold.into(),
    }
}

fn damage_out(damage: Damage) -> proto::Damage {
    use proto::DamageReason;
    use proto::damage::Found;
    use proto::logged_entry::Kind;
    let cause = match damage.cause {
        DamageCause::Rot => DamageReason::DamageRot,
        DamageCause::Hidden => DamageReason::DamageHidden,
        DamageCause::Record => DamageReason::DamageRecord,
        DamageCause::Unrecorded => DamageReason::DamageUnrecorded,
        DamageCause::Unreadable => DamageReason::DamageUnreadable,
        DamageCause::Changing => DamageReason::DamageChanging,
    };
    let found = damage.found.and_then(|found| match kind_out(found) {
        Kind::File(file) => Some(Found::File(file)),
        Kind::Symlink(link) => Some(Found::Symlink(link)),
        Kind::Directory(directory) => Some(Found::Directory(directory)),
        Kind::Tombstone(_) => None,
    });
    let range = damage.range.map(|(from, to)| proto::Span { from, to });
    proto::Damage { cause: cause.into(), found, range }
}

// --- inwards ---------------------------------------------------------------------------------

pub(super) fn ask(ask: proto::check_ask::Ask) -> Result<CheckAsk, BadFrame> {
    use proto::check_ask::Ask as Wire;
    Ok(match ask {
        Wire::Look(claims) => CheckAsk::Look(list("check_ask.look", claims, 1, CLAIMS_MAX, claim)?),
        Wire::States(keys) => {
            CheckAsk::States(list("check_ask.states", keys, 1, STATES_MAX, name)?)
        }
        Wire::Deep(deep) => CheckAsk::Deep {
            check: CheckId(exactly("deep.check", &deep.check)?),
            rate: number("deep.rate", deep.rate)?,
            from_disk: deep.from_disk,
        },
        Wire::Found(found) => CheckAsk::Found {
            check: match found.check.is_empty() {
                true => None,
                false => Some(CheckId(exactly("found.check", &found.check)?)),
            },
            after: bound("found.after", &found.after)?,
        },
        Wire::Mend(orders) => CheckAsk::Mend(list("check_ask.mend", orders, 1, STATES_MAX, order)?),
        Wire::Onward(onward) => CheckAsk::Onward(way::onward(*onward)?),
    })
}

pub(super) fn answer(answer: proto::check_answer::Answer) -> Result<CheckAnswer, BadFrame> {
    use proto::check_answer::Answer as Wire;
    Ok(match answer {
        Wire::Looked(looked) => {
            let all = Fingerprint::from_bytes(&exactly("looked.all", &looked.all)?);
            CheckAnswer::Looked {
                all,
                damaged: looked.damaged,
                looks: list("looked.looks", looked.looks, 1, CLAIMS_MAX, look)?,
                near: way::near(&looked.near)?,
            }
        }
        Wire::States(states) => CheckAnswer::States(states_in(states)?),
        Wire::Deep(deep) => CheckAnswer::Deep(DeepProgress {
            done: deep.done,
            files: number("deep.files", deep.files)?,
            bytes: number("deep.bytes", deep.bytes)?,
            total: number("deep.total", deep.total)?,
            found: number("deep.found", deep.found)?,
        }),
        Wire::Found(keys) => {
            let keys = list("check_answer.found", keys.keys, 0, PAGE_KEYS_MAX, name)?;
            let rises = keys.is_sorted_by(|a, b| a < b);
            ensure("check_answer.found", "must rise", rises)?;
            CheckAnswer::Found(keys)
        }
        Wire::Mended(taken) => {
            let field = "check_answer.mended";
            ensure(field, "must be 1 to 32 bytes", (1..=STATES_MAX).contains(&taken.len()))?;
            ensure(field, "must be 0 or 1 each", taken.iter().all(|one| *one <= 1))?;
            CheckAnswer::Mended(taken.iter().map(|one| *one == 1).collect())
        }
        Wire::Refused(reason) => CheckAnswer::Refused(refusal(reason)?),
    })
}

/// A list of messages, each behind its length: counted while they are unpacked.
fn list<M: Message + Default, T>(
    field: &'static str,
    mut bytes: Bytes,
    min: usize,
    max: usize,
    read: impl Fn(M) -> Result<T, BadFrame>,
) -> Result<Vec<T>, BadFrame> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        ensure(field, "has too many messages", found.len() < max)?;
        let message = M::decode_length_delimited(&mut bytes)
            .map_err(|error| bad(field, format!("cannot be decoded: {error}")))?;
        found.push(read(message)?);
    }
    ensure(field, "must not be empty", found.len() >= min)?;
    Ok(found)
}

fn name(name: proto::KeyName) -> Result<Key, BadFrame> {
    key("key", &name.key)
}

fn key(field: &'static str, path: &str) -> Result<Key, BadFrame> {
    Key::new(path).map_err(|error| bad(field, format!("refused: {error}")))
}

fn bound(field: &'static str, path: &str) -> Result<Option<Key>, BadFrame> {
    if path.is_empty() { Ok(None) } else { key(field, path).map(Some) }
}

fn claim(claim: proto::Claim) -> Result<Claim, BadFrame> {
    let range = required("claim.range", claim.range)?;
    let range = KeyRange {
        from: bound("range.from", &range.from)?,
        before: bound("range.before", &range.before)?,
    };
    ensure("claim.range", "must not be empty", !range.is_void())?;
    let fingerprint = Fingerprint::from_bytes(&exactly("claim.fingerprint", &claim.fingerprint)?);
    Ok(Claim { range, fingerprint })
}

fn order(order: proto::Order) -> Result<Order, BadFrame> {
    use proto::order::Order as Wire;
    Ok(match required("order", order.order)? {
        Wire::Adopt(logged) => Order::Adopt(entry(logged)?),
        Wire::Refetch(path) => Order::Refetch(key("order.refetch", &path)?),
        Wire::Record(logged) => Order::Record(entry(logged)?),
        Wire::Rescan(path) => Order::Rescan(key("order.rescan", &path)?),
    })
}

fn look(look: proto::Look) -> Result<Look, BadFrame> {
    use proto::look::Look as Wire;
    Ok(match required("look", look.look)? {
        Wire::Same(proto::Same {}) => Look::Same,
        Wire::Items(items) => Look::Items(list("items.items", items.items, 0, ITEMS_MAX, item)?),
        Wire::Parts(parts) => {
            let cuts = list("parts.cuts", parts.cuts, 1, PARTS_MAX - 1, name)?;
            let whole = parts.parts.len() == (cuts.len() + 1) * Fingerprint::BYTES;
            ensure("parts.parts", "must be one more than cuts, of 40 bytes each", whole)?;
            let parts = parts.parts.chunks_exact(Fingerprint::BYTES);
            let parts =
                parts.map(|part| Ok(Fingerprint::from_bytes(&exactly("parts.parts", part)?)));
            Look::Parts { cuts, parts: parts.collect::<Result<_, BadFrame>>()? }
        }
    })
}

fn item(item: proto::Item) -> Result<(Key, ItemTag), BadFrame> {
    Ok((key("item.key", &item.key)?, ItemTag(exactly("item.tag", &item.tag)?)))
}

fn states_in(states: proto::States) -> Result<States, BadFrame> {
    let ack = |ack: proto::PeerAck| {
        let node = NodeId::from_bytes(exactly("ack.node", &ack.node)?);
        Ok((node, position("ack.seq", ack.seq)?))
    };
    Ok(States {
        caught_up: states.caught_up,
        acked: list("states.acked", states.acked, 0, ACKS_MAX, ack)?,
        states: list("states.states", states.states, 1, STATES_MAX, state)?,
    })
}

fn state(state: proto::KeyState) -> Result<KeyState, BadFrame> {
    use proto::HoldReason;
    let hold = match HoldReason::try_from(state.hold) {
        Ok(HoldReason::HoldNone) => None,
        Ok(HoldReason::HoldIgnored) => Some(Hold::Ignored),
        Ok(HoldReason::HoldSendOnly) => Some(Hold::SendOnly),
        Ok(HoldReason::HoldReceiveOnly) => Some(Hold::ReceiveOnly),
        Ok(HoldReason::HoldMassDelete) => Some(Hold::MassDelete),
        Err(_) => return Err(bad("state.hold", "is unknown".to_owned())),
    };
    let recorded = state.recorded.map(|logged| {
        let seq = position("entry.seq", logged.seq)?;
        Ok::<(Seq, Entry), BadFrame>((seq, entry(logged)?))
    });
    Ok(KeyState {
        recorded: recorded.transpose()?,
        wanted: state.wanted.map(wanted).transpose()?,
        damage: state.damage.map(damage).transpose()?,
        hold,
    })
}

fn wanted(want: proto::Want) -> Result<Wanted, BadFrame> {
    use proto::StuckReason;
    let stuck = match StuckReason::try_from(want.stuck) {
        Ok(StuckReason::StuckNot) => None,
        Ok(StuckReason::StuckContentLost) => Some(Stuck::ContentLost),
        Ok(StuckReason::StuckCannotPlace) => Some(Stuck::CannotPlace),
        Err(_) => return Err(bad("want.stuck", "is unknown".to_owned())),
    };
    Ok(Wanted { entry: entry(required("want.entry", want.entry)?)?, stuck })
}

fn damage(damage: proto::Damage) -> Result<Damage, BadFrame> {
    use proto::DamageReason;
    use proto::damage::Found;
    use proto::logged_entry::Kind;
    let cause = match DamageReason::try_from(damage.cause) {
        Ok(DamageReason::DamageRot) => DamageCause::Rot,
        Ok(DamageReason::DamageHidden) => DamageCause::Hidden,
        Ok(DamageReason::DamageRecord) => DamageCause::Record,
        Ok(DamageReason::DamageUnrecorded) => DamageCause::Unrecorded,
        Ok(DamageReason::DamageUnreadable) => DamageCause::Unreadable,
        Ok(DamageReason::DamageChanging) => DamageCause::Changing,
        Ok(DamageReason::DamageUnspecified) | Err(_) => {
            return Err(bad("damage.cause", "is unknown".to_owned()));
        }
    };
    let found: Option<EntryKind> = damage
        .found
        .map(|found| {
            kind_in(match found {
                Found::File(file) => Kind::File(file),
                Found::Symlink(link) => Kind::Symlink(link),
                Found::Directory(directory) => Kind::Directory(directory),
            })
        })
        .transpose()?;
    let range = damage.range.map(|span| {
        let (from, to) = (number("span.from", span.from)?, number("span.to", span.to)?);
        ensure("span.to", "must not lie before span.from", from <= to)?;
        Ok::<(u64, u64), BadFrame>((from, to))
    });
    Ok(Damage { cause, found, range: range.transpose()? })
}

fn refusal(reason: i32) -> Result<CheckRefusal, BadFrame> {
    use proto::CheckRefusal as Wire;
    match Wire::try_from(reason) {
        Ok(Wire::NotOpen) => Ok(CheckRefusal::NotOpen),
        Ok(Wire::NotNow) => Ok(CheckRefusal::NotNow),
        Ok(Wire::Failed) => Ok(CheckRefusal::Failed),
        Ok(Wire::NoWay) => Ok(CheckRefusal::NoWay),
        Ok(Wire::Unspecified) | Err(_) => {
            Err(bad("check_answer.refused", format!("has the unknown reason {reason}")))
        }
    }
}
