//! What a scan's finding means for the index.

use crate::clock::{Hlc, WallTime};
use crate::entry::{Entry, EntryKind};
use crate::id::NodeTag;
use crate::key::Key;
use crate::log::{Actor, Seq};
use crate::version::Version;

/// Who observes, and when: what a new local version is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Observer {
    /// The actor of this node's current epoch.
    pub actor: Actor,
    /// This node, as conflict copies name it.
    pub author: NodeTag,
    /// The wall clock.
    pub now: WallTime,
}

impl Observer {
    /// The entry that records `kind` under `key` as a local change at `seq`, on top of what the
    /// index knew.
    ///
    /// Something seen for the first time is stamped with its modification time (never later than
    /// now): of two files that were there before their nodes met, the one edited last wins.
    pub fn changed(&self, known: Option<&Entry>, key: Key, kind: EntryKind, seq: Seq) -> Entry {
        let version = known.map_or_else(Version::default, |entry| entry.version.clone());
        let wall = match (&kind, known) {
            (EntryKind::File { mtime, .. } | EntryKind::Symlink { mtime, .. }, None) => {
                mtime.to_wall().min(self.now)
            }
            _ => self.now,
        };
        Entry {
            key,
            kind,
            version: version.with_change(self.actor, seq),
            stamp: Hlc::tick(wall, known.map(|entry| entry.stamp)),
            author: self.author,
        }
    }
}

/// When so much of a share is gone at once that somebody should be asked first.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MassDelete {
    /// More than this part of the live entries, 0 to 1.
    pub fraction: f64,
    /// And more than this many.
    pub entries_min: u64,
}

impl Default for MassDelete {
    /// A quarter and a thousand: an emptied build directory passes, a lost tree does not.
    fn default() -> Self {
        Self { fraction: 0.25, entries_min: 1_000 }
    }
}

impl MassDelete {
    /// Whether a scan that found `gone` of `live` entries missing is held back.
    pub fn holds_back(&self, gone: u64, live: u64) -> bool {
        gone > self.entries_min && gone as f64 > live as f64 * self.fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mtime;
    use crate::content::ContentHash;
    use crate::entry::Mode;
    use crate::version::VersionOrder;

    const OBSERVER: Observer =
        Observer { actor: Actor(7), author: NodeTag::from_bytes([1; 5]), now: WallTime(50_000) };

    fn file(mtime_seconds: i64) -> EntryKind {
        EntryKind::File {
            size: 1,
            content: ContentHash::of(b"x"),
            mode: Mode::new(0o644),
            mtime: Mtime { seconds: mtime_seconds, nanos: 0 },
        }
    }

    #[test]
    fn a_local_change_includes_what_it_was_made_on() {
        let key: Key = "a".parse().expect("key");
        let first = OBSERVER.changed(None, key.clone(), file(20), Seq(1));
        let second = OBSERVER.changed(Some(&first), key, EntryKind::Tombstone, Seq(2));
        assert_eq!(second.version.compare(&first.version), VersionOrder::After);
        assert!(second.stamp > first.stamp);
        assert_eq!(first.stamp.wall(), WallTime(20_000));
    }

    #[test]
    fn a_file_from_the_future_is_stamped_now() {
        let seen = OBSERVER.changed(None, "a".parse().expect("key"), file(900), Seq(1));
        assert_eq!(seen.stamp.wall(), OBSERVER.now);
    }

    #[test]
    fn only_a_large_part_of_a_large_share_is_held_back() {
        let guard = MassDelete::default();
        for (gone, live, held) in [
            (1_000, 1_000, false),
            (1_001, 1_001, true),
            (1_500, 6_001, false),
            (1_501, 6_000, true),
        ] {
            assert_eq!(guard.holds_back(gone, live), held, "{gone} of {live}");
        }
    }
}
