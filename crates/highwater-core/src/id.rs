//! Names of nodes, shares and running processes.
//!
//! A node id is printed as 56 base32 characters: the 32 bytes of the id and 3 bytes of checksum,
//! so that a mistyped id is refused at the door instead of being waited for.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 56 base32 characters.
    #[error("a node id has 56 letters and digits (a-z, 2-7), this has {0}")]
    Shape(usize),
    /// The checksum at its end does not fit: it was mistyped or cut.
    #[error("the checksum of this node id does not fit; copy it again from `highwater id`")]
    Checksum,
    /// A share name breaks the rule.
    #[error(
        "a share name has 1 to 64 letters, digits, '-', '_' or '.', and starts with a letter or digit"
    )]
    ShareName,
    /// Not 32 hexadecimal digits.
    #[error("a check is named by 32 hexadecimal digits, as `highwater check` prints them")]
    CheckId,
}

/// One identity: the BLAKE3 hash of a node's public key (its DER `SubjectPublicKeyInfo`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// The id of the node that holds the key with this DER `SubjectPublicKeyInfo`.
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(*blake3::hash(spki_der).as_bytes())
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The short form that appears in conflict names and logs.
    pub fn tag(&self) -> NodeTag {
        let mut tag = [0; 5];
        tag.copy_from_slice(&self.0[..5]);
        NodeTag(tag)
    }

    fn checksum(&self) -> [u8; 3] {
        let hash = blake3::hash(&self.0);
        let bytes = hash.as_bytes();
        [bytes[0], bytes[1], bytes[2]]
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 35];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.checksum());
        f.write_str(&BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tag())
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let shape = || ParseIdError::Shape(text.len());
        if text.len() != 56 {
            return Err(shape());
        }
        let upper = text.to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(upper.as_bytes()).map_err(|_| shape())?;
        let mut id = [0; 32];
        id.copy_from_slice(bytes.get(..32).ok_or_else(shape)?);
        let id = Self(id);
        if bytes[32..] != id.checksum() {
            return Err(ParseIdError::Checksum);
        }
        Ok(id)
    }
}

/// The first 40 bits of a node id, printed as 8 base32 characters: for people, never for trust.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeTag([u8; 5]);

impl NodeTag {
    /// The tag with these bytes.
    pub const fn from_bytes(bytes: [u8; 5]) -> Self {
        Self(bytes)
    }

    /// The bytes of the tag.
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }
}

impl fmt::Display for NodeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One run of one daemon: drawn at random at every start. Two instances of one node id that are
/// alive at the same time are a cloned identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct InstanceId(pub [u8; 16]);

/// The name by which nodes that list a share for each other know it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShareName(Box<str>);

/// Long enough for any name a person gives, short enough for a metric label.
const SHARE_NAME_BYTES_MAX: usize = 64;

impl ShareName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShareName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fits = (1..=SHARE_NAME_BYTES_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if fits { Ok(Self(text.into())) } else { Err(ParseIdError::ShareName) }
    }
}

impl TryFrom<String> for ShareName {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<ShareName> for String {
    fn from(name: ShareName) -> String {
        name.0.into()
    }
}

impl fmt::Display for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lowercase hexadecimal, two digits a byte: how hashes and epochs are printed.
pub(crate) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_survives_being_printed_and_a_typo_is_refused() {
        let id = NodeId::of_public_key(b"a key");
        let text = id.to_string();
        assert_eq!(text.len(), 56);
        assert_eq!(text.parse(), Ok(id));
        let mut typo = text.into_bytes();
        typo[3] = if typo[3] == b'a' { b'b' } else { b'a' };
        let typo = String::from_utf8(typo).expect("ascii");
        assert_eq!(typo.parse::<NodeId>(), Err(ParseIdError::Checksum));
    }

    #[test]
    fn share_names_are_plain_words() {
        for good in ["docs", "a", "My.Files-2_x"] {
            assert!(good.parse::<ShareName>().is_ok(), "{good}");
        }
        for bad in ["", ".hidden", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<ShareName>().is_err(), "{bad}");
        }
    }
}
