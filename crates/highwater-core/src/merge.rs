//! What becomes of two states of one key.
//!
//! Every node must come to the same answer without talking, whatever the order in which it learns
//! of the states. So the winner of two concurrent states is the greater in one total order, the
//! merged version is the join of both, and the loser's conflict copy is a pure function of the
//! loser: same key, same version, same stamp on every node that makes it.

use std::cmp::Ordering;

use crate::clock::WallTime;
use crate::entry::{Entry, EntryKind};
use crate::key::{COMPONENT_BYTES_MAX, KEY_BYTES_MAX, Key};
use crate::log::{Actor, Seq};
use crate::version::{Version, VersionOrder};

/// What a node does about a state it learns of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merge {
    /// What is here includes it already.
    Known,
    /// It includes what is here: take it.
    Take,
    /// Neither includes the other.
    Both(Box<Resolution>),
}

/// The agreed outcome of two concurrent states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// The state of the key from now on: the winner's, with a version that includes both.
    pub merged: Entry,
    /// Which side the merged state's kind is from.
    pub winner: Side,
    /// The loser under its own key, when its content would be lost otherwise.
    pub copy: Option<Entry>,
}

/// One of two states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The state that was here.
    Ours,
    /// The state that arrived.
    Theirs,
}

/// Decides about `theirs`, given what is here under the same key.
pub fn merge(ours: Option<&Entry>, theirs: &Entry) -> Merge {
    let Some(ours) = ours else { return Merge::Take };
    match theirs.version.compare(&ours.version) {
        VersionOrder::Before => Merge::Known,
        VersionOrder::After => Merge::Take,
        // The same changes met in another order, and another of two equal states won: all agree on
        // one, or a later conflict would be settled by different stamps.
        VersionOrder::Equal if ours.kind == theirs.kind => match precedence(ours, theirs) {
            Ordering::Less => Merge::Take,
            Ordering::Equal | Ordering::Greater => Merge::Known,
        },
        VersionOrder::Equal | VersionOrder::Concurrent => {
            Merge::Both(Box::new(resolve(ours, theirs)))
        }
    }
}

fn resolve(ours: &Entry, theirs: &Entry) -> Resolution {
    let winner = match precedence(ours, theirs) {
        Ordering::Less => Side::Theirs,
        Ordering::Equal | Ordering::Greater => Side::Ours,
    };
    let (won, lost) = match winner {
        Side::Ours => (ours, theirs),
        Side::Theirs => (theirs, ours),
    };
    let merged = Entry { version: won.version.join(&lost.version), ..won.clone() };
    let needs_copy = won.kind.is_live()
        && !lost.kind.same_content(&won.kind)
        && matches!(lost.kind, EntryKind::File { .. } | EntryKind::Symlink { .. });
    let copy = needs_copy.then(|| conflict_copy(lost)).flatten();
    Resolution { merged, winner, copy }
}

/// The total order in which the greater state wins: something over nothing, a directory over what
/// is not one (its children need it), the later stamp, then what tells them apart at all.
fn precedence(a: &Entry, b: &Entry) -> Ordering {
    let is_directory = |entry: &Entry| matches!(entry.kind, EntryKind::Directory { .. });
    (a.kind.is_live().cmp(&b.kind.is_live()))
        .then_with(|| is_directory(a).cmp(&is_directory(b)))
        .then_with(|| a.stamp.cmp(&b.stamp))
        .then_with(|| a.kind.cmp(&b.kind))
        .then_with(|| a.author.cmp(&b.author))
}

/// The loser of a conflict under its own key. Its version is one change by an actor that is the
/// loser itself: every node makes the same copy, one that was deleted since does not come back, and
/// of two losers that come to bear one key, or a loser and somebody's file, neither passes for an
/// edit of the other. `None` as for [`conflict_key`].
pub fn conflict_copy(lost: &Entry) -> Option<Entry> {
    let mut name = [0; 8];
    name.copy_from_slice(&lost.fingerprint().as_bytes()[..8]);
    let version = Version::default().with_change(Actor(u64::from_be_bytes(name)), Seq(1));
    Some(Entry { key: conflict_key(lost)?, version, ..lost.clone() })
}

/// `name.conflict-YYYYMMDD-HHMMSS-NODE.ext` beside the loser, clipped to what a file name and a path
/// may have. A clipped name bears a hash of the whole one, so that no two become one. Where the
/// directory's path leaves no room at all, the copy stands in the nearest one above that has some.
pub fn conflict_key(lost: &Entry) -> Option<Key> {
    let mut beside = lost.key.clone();
    loop {
        let directory = beside.as_str().len() - beside.name().len();
        let name_max = COMPONENT_BYTES_MAX.min(KEY_BYTES_MAX.saturating_sub(directory));
        if let Some(name) = conflict_name(lost, name_max) {
            return beside.sibling(&name).ok();
        }
        beside = beside.parent()?;
    }
}

/// The name of the loser's copy, in at most `bytes_max`; `None` if even its mark is longer.
fn conflict_name(lost: &Entry, bytes_max: usize) -> Option<String> {
    let name = lost.key.name();
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    };
    let mark = format!("{MARK}{}-{}", utc(lost.stamp.wall()), lost.author);
    if name.len() + mark.len() <= bytes_max {
        return Some(format!("{stem}{mark}{extension}"));
    }
    let whole = blake3::hash(lost.key.as_str().as_bytes()).to_hex();
    let tail = format!("~{}{mark}", &whole[..CLIPPED_HASH_DIGITS]);
    let room = bytes_max.checked_sub(tail.len())?;
    let extension = clip(extension, room / 2);
    let stem = clip(stem, room - extension.len());
    Some(format!("{stem}{tail}{extension}"))
}

/// Hexadecimal digits of the hash in a clipped name: 48 bits, so that two of one directory, node and
/// second do not meet by chance.
const CLIPPED_HASH_DIGITS: usize = 12;

/// The key that a conflict copy lost to; the clipped form of a very long one. `None` for a key that
/// is not a conflict copy's.
pub fn conflict_of(copy: &Key) -> Option<Key> {
    let (stem, mark) = split_at_mark(copy.name())?;
    let extension = mark.find('.').map_or("", |dot| &mark[dot..]);
    copy.sibling(&format!("{stem}{extension}")).ok()
}

/// Whether a key is one that [`conflict_key`] makes.
pub fn is_conflict_key(key: &Key) -> bool {
    split_at_mark(key.name()).is_some()
}

/// Whether an entry is a loser's copy as [`conflict_copy`] makes it, and nobody has changed it since.
pub fn is_untouched_copy(entry: &Entry) -> bool {
    let mut counters = entry.version.counters();
    let is_first = matches!((counters.next(), counters.next()), (Some((_, Seq(1))), None));
    is_first && is_conflict_key(&entry.key)
}

/// What stands before the mark of a conflict copy, and from its date on. A name may say
/// `.conflict-` elsewhere as well, in its extension for one.
fn split_at_mark(name: &str) -> Option<(&str, &str)> {
    let mut places = name.rmatch_indices(MARK);
    places.find_map(|(at, _)| {
        let mark = &name[at + MARK.len()..];
        is_mark(mark).then_some((&name[..at], mark))
    })
}

/// What begins the mark of a conflict copy.
const MARK: &str = ".conflict-";

fn is_mark(mark: &str) -> bool {
    let digits = |text: Option<&str>, n| {
        text.is_some_and(|t| t.len() == n && t.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut parts = mark.splitn(3, '-');
    digits(parts.next(), 8) && digits(parts.next(), 6) && parts.next().is_some_and(|p| p.len() >= 8)
}

fn clip(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `YYYYMMDD-HHMMSS` in UTC. Source: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn utc(time: WallTime) -> String {
    let seconds = time.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = (year_of_era + era * 400 + u64::from(month <= 2)).min(9999);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Hlc, Mtime};
    use crate::content::ContentHash;
    use crate::entry::Mode;
    use crate::id::NodeTag;
    use proptest::prelude::*;

    fn entry(kind: EntryKind, version: &[(u64, u64)], millis: u64, author: u8) -> Entry {
        Entry {
            key: "dir/report.txt".parse().expect("key"),
            kind,
            version: Version::from_counters(version.iter().map(|&(a, s)| (Actor(a), Seq(s)))),
            stamp: Hlc::tick(WallTime(millis), None),
            author: NodeTag::from_bytes([author; 5]),
        }
    }

    fn file(text: &str) -> EntryKind {
        EntryKind::File {
            size: text.len() as u64,
            content: ContentHash::of(text.as_bytes()),
            mode: Mode::new(0o644),
            mtime: Mtime { seconds: 0, nanos: 0 },
        }
    }

    fn both(ours: &Entry, theirs: &Entry) -> Resolution {
        match merge(Some(ours), theirs) {
            Merge::Both(resolution) => *resolution,
            other => panic!("not concurrent: {other:?}"),
        }
    }

    #[test]
    fn what_includes_the_other_wins_without_a_conflict() {
        let old = entry(file("old"), &[(1, 1)], 9_000, 1);
        let new = entry(file("new"), &[(1, 1), (2, 1)], 1_000, 2);
        assert_eq!(merge(Some(&old), &new), Merge::Take);
        assert_eq!(merge(Some(&new), &old), Merge::Known);
        assert_eq!(merge(Some(&new), &new), Merge::Known);
        assert_eq!(merge(None, &new), Merge::Take);
    }

    #[test]
    fn both_sides_resolve_a_conflict_alike_and_keep_the_loser() {
        let a = entry(file("a"), &[(1, 1)], 1_000, 1);
        let b = entry(file("b"), &[(2, 1)], 2_000, 2);
        let (on_a, on_b) = (both(&a, &b), both(&b, &a));
        assert_eq!(on_a.merged, on_b.merged);
        assert_eq!(on_a.copy, on_b.copy);
        assert_eq!(on_a.merged.kind, b.kind);
        assert_eq!((on_a.winner, on_b.winner), (Side::Theirs, Side::Ours));
        let copy = on_a.copy.expect("the loser is kept");
        assert_eq!((copy.kind, copy.stamp, copy.author), (a.kind, a.stamp, a.author));
        assert_eq!(copy.key.as_str(), "dir/report.conflict-19700101-000001-aeaqcaib.txt");
        assert!(is_conflict_key(&copy.key));
    }

    #[test]
    fn an_edit_beats_a_delete_however_late_the_delete() {
        let edit = entry(file("edit"), &[(1, 2)], 1_000, 1);
        let delete = entry(EntryKind::Tombstone, &[(1, 1), (2, 9)], 99_000, 2);
        let resolution = both(&edit, &delete);
        assert_eq!(resolution.merged.kind, edit.kind);
        assert_eq!(resolution.copy, None);
    }

    #[test]
    fn a_directory_keeps_its_place_and_the_file_becomes_the_copy() {
        let dir = entry(EntryKind::Directory { mode: Mode::new(0o755) }, &[(1, 1)], 1_000, 1);
        let late_file = entry(file("x"), &[(2, 1)], 9_000, 2);
        let resolution = both(&dir, &late_file);
        assert_eq!(resolution.merged.kind, dir.kind);
        assert_eq!(resolution.copy.expect("kept").kind, late_file.kind);
    }

    #[test]
    fn equal_content_costs_no_copy() {
        let a = entry(file("same"), &[(1, 1)], 1_000, 1);
        let b = entry(file("same"), &[(2, 1)], 2_000, 2);
        let resolution = both(&a, &b);
        assert_eq!(resolution.copy, None);
        assert_eq!(resolution.merged.version, a.version.join(&b.version));
    }

    #[test]
    fn conflict_names_fit_and_are_dated_in_utc() {
        assert_eq!(utc(WallTime(1_795_392_000_000)), "20261123-000000");
        assert_eq!(utc(WallTime(951_868_799_000)), "20000229-235959");
        let mut long = entry(file("x"), &[(1, 1)], 0, 1);
        long.key = format!("{}.{}", "é".repeat(120), "x".repeat(14)).parse().expect("key");
        let key = conflict_key(&long).expect("fits");
        assert!(key.name().len() <= COMPONENT_BYTES_MAX);
        assert!(is_conflict_key(&key));
        assert!(!is_conflict_key(&"a.conflict-of-interest.txt".parse().expect("key")));
    }

    /// A copy of `report.conflict-of-interest` was not known for one: its extension was taken for
    /// the mark, and the copy was neither listed nor counted.
    #[test]
    fn a_copy_is_known_whatever_its_extension_says() {
        for name in ["report.conflict-of-interest", "c..conflict-20261123-000000-", "a.conflict-"] {
            let mut lost = entry(file("x"), &[(1, 1)], 0, 1);
            lost.key = name.parse().expect("key");
            let copy = conflict_key(&lost).expect("fits");
            assert!(is_conflict_key(&copy), "{copy}");
            assert_eq!(conflict_of(&copy), Some(lost.key), "{copy}");
        }
    }

    #[test]
    fn the_loser_in_the_deepest_directory_has_room_for_its_copy() {
        let deep = vec!["d".repeat(250); 16].join("/");
        let name = "n".repeat(KEY_BYTES_MAX - deep.len() - 1);
        let mut lost = entry(file("x"), &[(1, 1)], 0, 1);
        lost.key = format!("{deep}/{name}").parse().expect("key");
        let copy = conflict_key(&lost).expect("fits");
        assert!(is_conflict_key(&copy) && copy.parent() == lost.key.parent(), "{copy}");
    }

    #[test]
    fn a_conflict_copy_says_what_it_lost_to() {
        for name in ["a/plan.txt", "a/.hidden", "noext", "a/b.tar.gz"] {
            let mut lost = entry(file("x"), &[(1, 1)], 0, 1);
            lost.key = name.parse().expect("key");
            let copy = conflict_key(&lost).expect("fits");
            assert_eq!(conflict_of(&copy), Some(lost.key));
        }
        assert_eq!(conflict_of(&"a/plan.txt".parse().expect("key")), None);
    }

    /// What a node that takes in all of `entries` has under `key`.
    fn taken_in(entries: &[Entry]) -> Vec<Entry> {
        let mut tree: Vec<Entry> = Vec::new();
        let mut arriving: Vec<Entry> = entries.iter().rev().cloned().collect();
        while let Some(theirs) = arriving.pop() {
            let known = tree.iter().position(|entry| entry.key == theirs.key);
            let state = match merge(known.map(|at| &tree[at]), &theirs) {
                Merge::Known => continue,
                Merge::Take => theirs,
                Merge::Both(both) => {
                    arriving.extend(both.copy);
                    both.merged
                }
            };
            match known {
                Some(at) => tree[at] = state,
                None => tree.push(state),
            }
        }
        tree
    }

    fn has(tree: &[Entry], text: &str) -> bool {
        tree.iter().any(|entry| entry.kind.same_content(&file(text)))
    }

    /// A user lost a conflict, edited the winner within the same second and lost again. Both losers
    /// were called the same, and the second, made on a node that had seen the first, passed for an
    /// edit of it: the first was gone.
    #[test]
    fn who_loses_twice_within_a_second_keeps_both() {
        let first = entry(file("first"), &[(1, 1)], 1_000, 1);
        let winner = entry(file("winner"), &[(2, 1)], 2_000, 2);
        let second = entry(file("second"), &[(1, 2), (2, 1)], 1_500, 1);
        let third = entry(file("third"), &[(3, 1)], 3_000, 3);
        let tree = taken_in(&[first, winner, second, third]);
        assert!(has(&tree, "first") && has(&tree, "second"), "{tree:?}");
    }

    /// Counters of one node are of its whole log. A loser's version, counted under its own key,
    /// passed for an edit of a file that its user had put under the copy's name before.
    #[test]
    fn a_file_that_bears_a_copys_name_is_not_overwritten_by_the_copy() {
        let lost = entry(file("lost"), &[(1, 3)], 1_000, 1);
        let winner = entry(file("winner"), &[(2, 1)], 2_000, 2);
        let key = conflict_key(&lost).expect("fits");
        let there = Entry { key, ..entry(file("there"), &[(1, 2)], 1_000, 1) };
        let tree = taken_in(&[there, lost, winner]);
        assert!(has(&tree, "there") && has(&tree, "lost"), "{tree:?}");
    }

    /// Names that differ only in what is clipped became one, and the copy of a clipped copy had its
    /// own name again, so that merging never came to an end.
    #[test]
    fn clipped_names_differ_like_the_whole_ones() {
        let named = |name: String| Entry {
            key: name.parse().expect("key"),
            ..entry(file("x"), &[(1, 1)], 0, 1)
        };
        let (one, other) = (named("l".repeat(250) + "1.txt"), named("l".repeat(250) + "2.txt"));
        let (copy, other) =
            (conflict_key(&one).expect("fits"), conflict_key(&other).expect("fits"));
        assert_ne!(copy, other);
        let again = conflict_key(&Entry { key: copy.clone(), ..one }).expect("fits");
        assert_ne!(copy, again);
    }

    /// The loser in a directory whose path leaves no room for its mark had no copy: it was lost.
    #[test]
    fn a_loser_without_room_beside_it_stands_further_up() {
        let deep = vec!["d".repeat(250); 16].join("/") + "/" + &"e".repeat(70);
        let mut lost = entry(file("x"), &[(1, 1)], 0, 1);
        lost.key = format!("{deep}/name").parse().expect("key");
        let copy = conflict_key(&lost).expect("fits");
        assert!(is_conflict_key(&copy) && lost.key.parent() > copy.parent(), "{copy}");
    }

    /// Three nodes met the same three states in different orders. Two of the states were equal but
    /// for their stamps, and each node kept its own: the next conflict had two winners.
    #[test]
    fn equal_states_agree_on_their_stamp() {
        let early = entry(file("same"), &[(1, 1), (2, 1)], 1_000, 1);
        let late = entry(file("same"), &[(1, 1), (2, 1)], 2_000, 2);
        assert_eq!(merge(Some(&early), &late), Merge::Take);
        assert_eq!(merge(Some(&late), &early), Merge::Known);
    }

    fn any_entry(actor: u64) -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            Just(EntryKind::Tombstone),
            "[ab]".prop_map(|text| file(&text)),
            Just(EntryKind::Directory { mode: Mode::new(0o755) }),
        ];
        (kind, 0..4_000u64)
            .prop_map(move |(kind, millis)| entry(kind, &[(actor, 1)], millis, actor as u8))
    }

    fn joined(a: &Entry, b: &Entry) -> Entry {
        match merge(Some(a), b) {
            Merge::Known => a.clone(),
            Merge::Take => b.clone(),
            Merge::Both(resolution) => resolution.merged,
        }
    }

    proptest! {
        #[test]
        fn the_order_in_which_states_arrive_does_not_matter(
            a in any_entry(1), b in any_entry(2), c in any_entry(3),
        ) {
            let states = [joined(&joined(&a, &b), &c), joined(&joined(&c, &a), &b),
                joined(&a, &joined(&c, &b))];
            prop_assert_eq!(&states[0], &states[1]);
            prop_assert_eq!(&states[0], &states[2]);
            prop_assert_eq!(&joined(&states[0], &a), &states[0]);
        }
    }
}
