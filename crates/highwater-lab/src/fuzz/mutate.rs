//! How one input becomes another.

use crate::dice::Dice;
use crate::hostile::proto::{self, Message, Value};

/// What the inputs of a target are made of, beside bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// Nothing else.
    Bytes,
    /// Fields of protobuf messages.
    Protobuf,
    /// Lines and these words.
    Text(&'static [&'static str]),
}

/// Numbers at which something changes.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    511,
    512,
    0o777,
    0o1000,
    1 << 20,
    (1 << 32) - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
/// How deep messages are changed inside messages.
const DEPTH_MAX: u32 = 6;

/// Changes `input` a little, perhaps with a piece of `other`.
pub(super) fn mutate(input: &mut Vec<u8>, other: &[u8], language: Language, dice: &mut Dice) {
    match language {
        Language::Protobuf if dice.below(4) > 0 => {
            if let Some(changed) = message(input, other, dice, 0) {
                *input = changed;
                return;
            }
            bytes(input, other, dice);
        }
        Language::Text(words) if dice.below(3) > 0 => text(input, words, dice),
        _ => bytes(input, other, dice),
    }
}

fn bytes(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(input.len() as u64 + 1) as usize;
    let longest = if dice.below(8) == 0 { 300 } else { 9 };
    let length = dice.below(longest) as usize;
    let end = (at + length).min(input.len());
    match dice.below(8) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => drop(input.splice(at..at, dice.bytes(length))),
        3 => drop(input.splice(at..end, vec![dice.roll() as u8; length])),
        4 => {
            let copy = input[at..end].to_vec();
            drop(input.splice(at..at, copy));
        }
        5 => {
            let from = dice.below(other.len() as u64 + 1) as usize;
            let piece = &other[from..(from + length * 4).min(other.len())];
            drop(input.splice(at..end, piece.iter().copied()));
        }
        6 => {
            let edge = EDGES[dice.below(EDGES.len() as u64) as usize].to_be_bytes();
            let width = 1 << dice.below(4);
            drop(input.splice(at..(at + width).min(input.len()), edge[8 - width..].to_vec()));
        }
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}

fn text(input: &mut Vec<u8>, words: &[&str], dice: &mut Dice) {
    let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let line = dice.below(lines.len() as u64) as usize;
    match dice.below(5) {
        0 => drop(lines.remove(line)),
        1 => lines.insert(line, lines[line].clone()),
        2 => {
            let other = dice.below(lines.len() as u64) as usize;
            lines.swap(line, other);
        }
        _ => {
            let word = words[dice.below(words.len() as u64) as usize].as_bytes();
            let at = dice.below(lines[line].len() as u64 + 1) as usize;
            let end = (at + dice.below(12) as usize).min(lines[line].len());
            drop(lines[line].splice(at..end, word.iter().copied()));
        }
    }
    *input = lines.join(&b'\n');
}

/// Changes one field of a message, its length and those around it with it.
fn message(input: &[u8], other: &[u8], dice: &mut Dice, depth: u32) -> Option<Vec<u8>> {
    let mut fields = proto::read(input).ok()?;
    if fields.is_empty() {
        return None;
    }
    let at = dice.below(fields.len() as u64) as usize;
    let changed: Vec<u8>;
    match dice.below(10) {
        0 => drop(fields.remove(at)),
        1 => fields.insert(at, fields[at].clone()),
        2 => {
            let to = dice.below(fields.len() as u64) as usize;
            fields.swap(at, to);
        }
        3 => fields[at].0 = dice.below(17),
        4 => fields.extend(proto::read(other).ok()?),
        _ => match fields[at].1 {
            Value::Number(_) => fields[at].1 = Value::Number(number(dice)),
            Value::Fixed(_) => fields[at].1 = Value::Fixed(number(dice)),
            Value::Bytes(held) => {
                let deeper = (depth < DEPTH_MAX && dice.below(4) > 0)
                    .then(|| records(held, other, dice, depth + 1))
                    .flatten();
                changed = deeper.unwrap_or_else(|| {
                    let mut held = held.to_vec();
                    bytes(&mut held, other, dice);
                    held
                });
                fields[at].1 = Value::Bytes(&changed);
            }
        },
    }
    Some(written(&fields))
}

/// Changes a field that is a message, or messages behind their lengths.
fn records(held: &[u8], other: &[u8], dice: &mut Dice, depth: u32) -> Option<Vec<u8>> {
    if let Some(changed) = message(held, other, dice, depth) {
        return Some(changed);
    }
    let mut records = split(held)?;
    let at = dice.below(records.len() as u64) as usize;
    match dice.below(6) {
        0 => drop(records.remove(at)),
        1 => records.insert(at, records[at].clone()),
        _ => records[at] = message(&records[at], other, dice, depth)?,
    }
    let all = records.iter().fold(Message::new(), |all, one| all.record(&Message::new().raw(one)));
    Some(all.encoded().to_vec())
}

fn split(mut held: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut records = Vec::new();
    while let Some((&length, rest)) = held.split_first() {
        // Longer ones are changed as bytes.
        let (record, rest) = rest.split_at_checked(usize::from(length)).filter(|_| length < 128)?;
        records.push(record.to_vec());
        held = rest;
    }
    (!records.is_empty()).then_some(records)
}

fn number(dice: &mut Dice) -> u64 {
    match dice.below(3) {
        0 => dice.below(300),
        1 => EDGES[dice.below(EDGES.len() as u64) as usize]
            .wrapping_add(dice.below(3))
            .wrapping_sub(1),
        _ => dice.roll(),
    }
}

fn written(fields: &[(u64, Value<'_>)]) -> Vec<u8> {
    let write = |message: Message, (field, value): &(u64, Value<'_>)| {
        let field = *field as u32;
        match value {
            Value::Number(number) => message.number(field, *number),
            Value::Fixed(number) => message.fixed(field, *number),
            Value::Bytes(held) => message.bytes(field, held),
        }
    };
    fields.iter().fold(Message::new(), write).encoded().to_vec()
}
