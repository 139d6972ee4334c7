//! Protobuf by hand: a writer that writes whatever it is told, and a reader of what comes back.
//!
//! Source: the encoding page of the Protocol Buffers documentation. Nothing is checked on the way
//! out, for the point is to send what a checked writer cannot.

use anyhow::{Result, bail};

/// A message being put together, field by field, in the order and as often as one likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, field: u32, number: u64) -> Self {
        self.tag(field, 0);
        self.varint(number);
        self
    }

    /// A signed number in zigzag form.
    #[must_use]
    pub fn signed(self, field: u32, number: i64) -> Self {
        self.number(field, ((number << 1) ^ (number >> 63)).cast_unsigned())
    }

    /// A number in eight bytes.
    #[must_use]
    pub fn fixed(mut self, field: u32, number: u64) -> Self {
        self.tag(field, 1);
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Bytes or text.
    #[must_use]
    pub fn bytes(mut self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A message inside.
    #[must_use]
    pub fn message(self, field: u32, inner: &Message) -> Self {
        self.bytes(field, &inner.0)
    }

    /// A message behind its length, without a field.
    #[must_use]
    pub fn record(mut self, inner: &Message) -> Self {
        self.varint(inner.0.len() as u64);
        self.raw(&inner.0)
    }

    /// Bytes of any kind, as they are.
    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// The message on the wire.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// What stands in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of variable length.
    Number(u64),
    /// A number in eight bytes.
    Fixed(u64),
    /// Bytes, text or a message.
    Bytes(&'a [u8]),
}

/// Takes a message that stands behind its length.
pub fn take_record<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = usize::try_from(take_varint(rest)?)?;
    take(rest, length)
}

/// The fields of a message in their order.
pub fn read(mut rest: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut rest)?),
            1 => {
                let eight = take(&mut rest, 8)?;
                Value::Fixed(eight.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            }
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?)?;
                Value::Bytes(take(&mut rest, length)?)
            }
            other => bail!("a field of the wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    Ok(fields)
}

/// The last field of this number that holds a number; 0 without one.
pub fn number(fields: &[(u64, Value<'_>)], field: u64) -> u64 {
    let found = fields.iter().rev().find_map(|(number, value)| match value {
        Value::Number(held) | Value::Fixed(held) if *number == field => Some(*held),
        _ => None,
    });
    found.unwrap_or(0)
}

/// The last field of this number that holds bytes; none without one.
pub fn bytes<'a>(fields: &[(u64, Value<'a>)], field: u64) -> &'a [u8] {
    let found = fields.iter().rev().find_map(|(number, value)| match value {
        Value::Bytes(held) if *number == field => Some(*held),
        _ => None,
    });
    found.unwrap_or_default()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let Some((taken, left)) = rest.split_at_checked(length) else { bail!("a message ends early") };
    *rest = left;
    Ok(taken)
}

fn take_varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    bail!("a number of more than ten bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let inner = Message::new().number(1, 300).signed(2, -3);
        let whole = Message::new().bytes(1, "docs").fixed(2, u64::MAX - 1).message(3, &inner);
        let fields = read(whole.encoded()).expect("readable");
        assert_eq!(bytes(&fields, 1), b"docs");
        assert_eq!(number(&fields, 2), u64::MAX - 1);
        let inner = read(bytes(&fields, 3)).expect("readable");
        assert_eq!((number(&inner, 1), number(&inner, 2)), (300, 5));
    }

    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        assert_eq!(Message::new().number(1, 150).encoded(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::new().bytes(2, "testing").encoded(), b"\x12\x07testing");
    }
}
