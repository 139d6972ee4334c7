//! The key of an entry: a relative path that cannot leave its share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The directory inside a share's root that belongs to Highwater: its marker and its stage. No key
/// lies in it, so no peer can name it.
pub const RESERVED_DIR: &str = ".highwater";

/// Longest key in bytes: Linux `PATH_MAX` (4,096) less the terminating NUL.
pub const KEY_BYTES_MAX: usize = 4095;
/// Longest component in bytes: `NAME_MAX` of ext4, xfs and btrfs.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Most components of a key. Deeper trees exist only to break programs.
pub const DEPTH_MAX: usize = 256;

/// Why a path is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The path is empty.
    #[error("a key must not be empty")]
    Empty,
    /// The path starts at the file system's root.
    #[error("a key must be relative")]
    Absolute,
    /// `a//b` or a trailing `/`.
    #[error("a key must not have an empty component")]
    EmptyComponent,
    /// `.` or `..` as a component.
    #[error("a key must not contain the component '.' or '..'")]
    Dots,
    /// A NUL byte.
    #[error("a key must not contain a NUL byte")]
    Nul,
    /// A component longer than [`COMPONENT_BYTES_MAX`].
    #[error("a component of a key has at most 255 bytes")]
    LongComponent,
    /// Longer than [`KEY_BYTES_MAX`] in all.
    #[error("a key has at most 4095 bytes")]
    Long,
    /// More than [`DEPTH_MAX`] components.
    #[error("a key has at most 256 components")]
    Deep,
    /// Inside [`RESERVED_DIR`].
    #[error("'.highwater' at the root of a share is reserved")]
    Reserved,
}

/// A relative, `/`-separated path inside a share, byte-exact UTF-8, already checked: no empty, `.`
/// or `..` component, no NUL, bounded, outside [`RESERVED_DIR`]. Ordered component by component,
/// so that a directory is followed by what lies in it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Box<str>);

impl Key {
    /// Checks a path and makes it a key.
    ///
    /// # Errors
    /// The first rule that the path breaks.
    pub fn new(path: &str) -> Result<Self, KeyError> {
        if path.is_empty() {
            return Err(KeyError::Empty);
        }
        if path.len() > KEY_BYTES_MAX {
            return Err(KeyError::Long);
        }
        if path.starts_with('/') {
            return Err(KeyError::Absolute);
        }
        if path.contains('\0') {
            return Err(KeyError::Nul);
        }
        for (depth, component) in path.split('/').enumerate() {
            check_component(component)?;
            if depth >= DEPTH_MAX {
                return Err(KeyError::Deep);
            }
            if depth == 0 && component == RESERVED_DIR {
                return Err(KeyError::Reserved);
            }
        }
        Ok(Self(path.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components from the root of the share down. Never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The key of the directory that holds this entry, or `None` at the root of the share.
    pub fn parent(&self) -> Option<Key> {
        self.0.rsplit_once('/').map(|(parent, _)| Key(parent.into()))
    }

    /// The key of `name` inside the directory that this key names.
    ///
    /// # Errors
    /// As [`Key::new`], for the joined path.
    pub fn join(&self, name: &str) -> Result<Key, KeyError> {
        Key::new(&format!("{}/{}", self.0, name))
    }

    /// The key of a sibling with another name.
    ///
    /// # Errors
    /// As [`Key::new`], for the new path.
    pub fn sibling(&self, name: &str) -> Result<Key, KeyError> {
        match self.0.rsplit_once('/') {
            Some((parent, _)) => Key::new(&format!("{parent}/{name}")),
            None => Key::new(name),
        }
    }

    /// Whether this key lies inside the directory that `dir` names, at any depth.
    pub fn is_inside(&self, dir: &Key) -> bool {
        self.0.strip_prefix(&*dir.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The bytes by which keys are stored in order: `/` becomes NUL, which no key contains and
    /// which sorts before every other byte.
    pub fn to_ordered_bytes(&self) -> Vec<u8> {
        self.0.bytes().map(|b| if b == b'/' { 0 } else { b }).collect()
    }

    /// The key that [`Key::to_ordered_bytes`] came from.
    ///
    /// # Errors
    /// The rule that the bytes break; bytes that are not UTF-8 count as [`KeyError::Nul`].
    pub fn from_ordered_bytes(bytes: &[u8]) -> Result<Key, KeyError> {
        let path: Vec<u8> = bytes.iter().map(|&b| if b == 0 { b'/' } else { b }).collect();
        Key::new(std::str::from_utf8(&path).map_err(|_| KeyError::Nul)?)
    }
}

fn check_component(component: &str) -> Result<(), KeyError> {
    match component {
        "" => Err(KeyError::EmptyComponent),
        "." | ".." => Err(KeyError::Dots),
        long if long.len() > COMPONENT_BYTES_MAX => Err(KeyError::LongComponent),
        _ => Ok(()),
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let ordered = |b: u8| if b == b'/' { 0 } else { b };
        self.0.bytes().map(ordered).cmp(other.0.bytes().map(ordered))
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(path: &str) -> Result<Self, KeyError> {
        Key::new(path)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(path: String) -> Result<Self, KeyError> {
        Key::new(&path)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0.into()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_share_are_not_keys() {
        let long = "x".repeat(256);
        let longer = "x/".repeat(2048) + "x";
        let deep = "x/".repeat(256) + "x";
        let rows = [
            ("", KeyError::Empty),
            ("/etc/x", KeyError::Absolute),
            ("../x", KeyError::Dots),
            ("a/../../x", KeyError::Dots),
            ("a/./x", KeyError::Dots),
            ("a//b", KeyError::EmptyComponent),
            ("a/", KeyError::EmptyComponent),
            ("a\0b", KeyError::Nul),
            (".highwater", KeyError::Reserved),
            (".highwater/stage/x", KeyError::Reserved),
            (&long, KeyError::LongComponent),
            (&longer, KeyError::Long),
            (&deep, KeyError::Deep),
        ];
        for (path, error) in rows {
            assert_eq!(Key::new(path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn odd_names_that_linux_allows_are_keys() {
        for path in ["C:\\x", "a\\..\\b", "a\nb", "...", " ", "é", "a/.highwater/b", "-rf", "*"] {
            assert!(Key::new(path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn a_directory_is_followed_by_its_children() {
        let mut keys: Vec<Key> = ["a-b", "a/b", "a", "a/b/c", "a.b", "b"]
            .iter()
            .map(|p| p.parse().expect("key"))
            .collect();
        keys.sort();
        let order: Vec<&str> = keys.iter().map(Key::as_str).collect();
        assert_eq!(order, ["a", "a/b", "a/b/c", "a-b", "a.b", "b"]);
        let mut stored: Vec<Vec<u8>> = keys.iter().map(Key::to_ordered_bytes).collect();
        stored.sort();
        let back: Vec<Key> =
            stored.iter().map(|b| Key::from_ordered_bytes(b).expect("key")).collect();
        assert_eq!(back, keys);
    }

    #[test]
    fn inside_means_below_and_not_beside() {
        let key = |p: &str| p.parse::<Key>().expect("key");
        assert!(key("a/b").is_inside(&key("a")));
        assert!(!key("ab").is_inside(&key("a")));
        assert!(!key("a").is_inside(&key("a")));
        assert_eq!(key("a/b").sibling("c"), Ok(key("a/c")));
        assert_eq!(key("a").parent(), None);
    }
}
