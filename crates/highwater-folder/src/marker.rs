//! The marker inside a share's root: the proof that a directory is the one that was shared, and
//! not the empty mount point where it used to be.
//!
//! It is a small text file, `.highwater/marker`, replaced atomically and synced:
//! ```text
//! highwater marker 1
//! share docs
//! node 2vq…
//! generation 17
//! ```
//! The generation is raised by the engine at every start and end and after every whole scan; the same
//! number stands in the store, so a store or a folder that was restored from an older copy is noticed.
//! The store also knows when the file was made, so that a copy of it is told from the file itself.

use std::fmt;

use highwater_core::{NodeId, ShareName};

/// The first line. A later format says another number and is refused by this version.
const HEADER: &str = "highwater marker 1";

/// Longest marker that is read. Ours have under 200 bytes; anything longer is not one of them.
pub(crate) const MARKER_BYTES_MAX: usize = 1024;

/// What the marker of a share says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    /// Which share the directory holds.
    pub share: ShareName,
    /// Which node keeps it in sync.
    pub node: NodeId,
    /// How often that node has started with it.
    pub generation: u64,
}

/// Whose directory it is: the part of a marker that never changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkerIdentity {
    /// Which share.
    pub share: ShareName,
    /// Which node.
    pub node: NodeId,
}

impl Marker {
    /// Whose directory it marks.
    pub fn identity(&self) -> MarkerIdentity {
        MarkerIdentity { share: self.share.clone(), node: self.node }
    }

    /// The marker as it stands in its file.
    pub fn to_text(&self) -> String {
        let Self { share, node, generation } = self;
        format!("{HEADER}\nshare {share}\nnode {node}\ngeneration {generation}\n")
    }

    /// Reads what [`Marker::to_text`] wrote, and nothing else.
    pub fn parse(text: &str) -> Option<Marker> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != HEADER {
            return None;
        }
        let share = lines.next()?.strip_prefix("share ")?.parse().ok()?;
        let node = lines.next()?.strip_prefix("node ")?.parse().ok()?;
        let generation = lines.next()?.strip_prefix("generation ")?.parse().ok()?;
        lines.next().is_none().then_some(Marker { share, node, generation })
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share '{}' of node {}", self.share, self.node.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        let share = "docs".parse().expect("name");
        Marker { share, node: NodeId::from_bytes([7; 32]), generation: 17 }
    }

    #[test]
    fn a_marker_survives_being_written() {
        assert_eq!(Marker::parse(&marker().to_text()), Some(marker()));
    }

    #[test]
    fn a_marker_cut_anywhere_is_no_marker() {
        let text = marker().to_text();
        for length in 0..text.len() {
            assert_eq!(Marker::parse(&text[..length]), None, "{length}");
        }
        assert_eq!(Marker::parse(&(text + "more\n")), None);
    }
}
