//! Fingerprints of ranges of entries: what two nodes compare instead of the entries.
//!
//! Each live entry has a digest of what people can see of it: its key, its kind, its metadata, its
//! content hash. The fingerprint of a range is the sum of the digests in it, so it can be kept up
//! to date as entries come and go, and that of a range is the sum of those of its parts. After
//! Meyer, "Range-Based Set Reconciliation" (2023).
//!
//! [`Blocks`] keeps the sums of one share in memory: one for every few hundred entries in key order,
//! so that a million entries take a few hundred kilobytes, and a range is the sum of whole blocks and
//! of what is read again at its two ends. It holds no entries: whoever keeps it brings them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use serde::{Deserialize, Serialize};

use crate::entry::EntryKind;
use crate::id::hex;
use crate::key::Key;

/// Entries at which a block is divided: reading as many again takes about a millisecond, and the
/// blocks of a million entries a few hundred kilobytes.
pub const BLOCK_ENTRIES_MAX: u64 = 1024;
/// Entries of a block that is made from entries in order: half full, as after a division.
const BLOCK_ENTRIES_MADE: u64 = BLOCK_ENTRIES_MAX / 2;

/// The digest of one entry as people see it. Versions, stamps and authors are left out: two folders
/// that look the same are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StateDigest(pub [u8; 32]);

impl StateDigest {
    /// The digest of what stands under a key.
    pub fn of(key: &Key, kind: &EntryKind) -> Self {
        // The context's own hash, which would cost as much as the entry's each time.
        static CONTEXT: OnceLock<ContextKey> = OnceLock::new();
        let context =
            CONTEXT.get_or_init(|| hash_derive_key_context("highwater 2026-11 entry state"));
        let mut hasher = blake3::Hasher::new_from_context_key(context);
        crate::entry::key_field(&mut hasher, key);
        crate::entry::kind_fields(&mut hasher, kind);
        Self(*hasher.finalize().as_bytes())
    }
}

/// How many entries a range holds and the sum of their digests, modulo 2^256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fingerprint {
    /// Entries in the range.
    pub entries: u64,
    sum: [u64; 4],
}

impl Fingerprint {
    /// Bytes of [`Fingerprint::to_bytes`].
    pub const BYTES: usize = 40;

    /// Takes in one entry.
    pub fn add(&mut self, digest: &StateDigest) {
        self.join(&Fingerprint { entries: 1, sum: words(digest) });
    }

    /// Takes out one entry that was taken in before.
    pub fn remove(&mut self, digest: &StateDigest) {
        self.part(&Fingerprint { entries: 1, sum: words(digest) });
    }

    /// Takes in all of a range beside this one.
    pub fn join(&mut self, other: &Fingerprint) {
        let mut carry = false;
        for (word, more) in self.sum.iter_mut().zip(other.sum) {
            let (sum, over) = word.overflowing_add(more);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, over || over_again);
        }
        self.entries = self.entries.wrapping_add(other.entries);
    }

    /// Takes out all of a range that is part of this one.
    pub fn part(&mut self, other: &Fingerprint) {
        let mut borrow = false;
        for (word, less) in self.sum.iter_mut().zip(other.sum) {
            let (rest, under) = word.overflowing_sub(less);
            let (rest, under_again) = rest.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (rest, under || under_again);
        }
        self.entries = self.entries.wrapping_sub(other.entries);
    }

    /// All of it, for the wire.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = std::iter::once(&self.entries).chain(&self.sum);
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// What [`Fingerprint::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| {
            let mut eight = [0; 8];
            eight.copy_from_slice(word);
            u64::from_be_bytes(eight)
        });
        let mut next = || words.next().unwrap_or_default();
        let entries = next();
        Self { entries, sum: [next(), next(), next(), next()] }
    }

    /// The root hash of a share with these entries: 64 hexadecimal digits, which two operators can
    /// compare over the phone.
    pub fn root(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("highwater 2026-11 share root");
        hasher.update(&self.to_bytes());
        hex(hasher.finalize().as_bytes())
    }
}

fn words(digest: &StateDigest) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.0.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_be_bytes(eight);
    }
    words
}

/// The keys from `from` on and before `before`; without them, from the first and to the last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyRange {
    /// The first key that may be in it.
    pub from: Option<Key>,
    /// The first key behind it.
    pub before: Option<Key>,
}

impl KeyRange {
    /// All keys.
    pub const ALL: KeyRange = KeyRange { from: None, before: None };

    /// Whether a key lies in it.
    pub fn holds(&self, key: &Key) -> bool {
        self.from.as_ref().is_none_or(|from| from <= key)
            && self.before.as_ref().is_none_or(|before| key < before)
    }

    /// Whether no key can lie in it.
    pub fn is_void(&self) -> bool {
        matches!((&self.from, &self.before), (Some(from), Some(before)) if from >= before)
    }
}

/// The fingerprints of one share's entries, block by block.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The block that begins before any key.
    first: Fingerprint,
    /// Blocks by the first key that they may hold.
    rest: BTreeMap<Key, Fingerprint>,
    all: Fingerprint,
}

/// What of a range is known, and what is to be read again.
#[derive(Debug, PartialEq, Eq)]
pub struct Cover {
    /// The sum of the blocks that lie in the range as a whole.
    pub whole: Fingerprint,
    /// The parts of the range at its ends that are not whole blocks: at most two.
    pub partial: Vec<KeyRange>,
}

impl Blocks {
    /// Of everything.
    pub fn all(&self) -> Fingerprint {
        self.all
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.rest.len() + 1
    }

    /// Whether nothing is in any.
    pub fn is_empty(&self) -> bool {
        self.all.entries == 0
    }

    /// Takes in an entry. Entries that come in key order fill blocks one behind the other.
    pub fn push(&mut self, key: &Key, digest: &StateDigest) {
        let last = self.rest.last_key_value().map_or(&self.first, |(_, last)| last);
        let is_last = self.rest.last_key_value().is_none_or(|(from, _)| from <= key);
        if is_last && last.entries >= BLOCK_ENTRIES_MADE {
            self.rest.insert(key.clone(), Fingerprint::default());
        }
        self.add(key, digest);
    }

    /// Takes in an entry, and says whether its block has grown too large.
    pub fn add(&mut self, key: &Key, digest: &StateDigest) -> bool {
        self.all.add(digest);
        let block = self.block_of(key);
        block.add(digest);
        block.entries > BLOCK_ENTRIES_MAX
    }

    /// Whether the block that a key lies in has grown too large.
    pub fn is_too_large(&self, key: &Key) -> bool {
        let from = self.rest.range(..=key).next_back();
        from.map_or(&self.first, |(_, block)| block).entries > BLOCK_ENTRIES_MAX
    }

    /// Takes out an entry that was taken in before.
    pub fn remove(&mut self, key: &Key, digest: &StateDigest) {
        self.all.remove(digest);
        self.block_of(key).remove(digest);
    }

    /// The range of the block that a key lies in.
    pub fn range_of(&self, key: &Key) -> KeyRange {
        let from = self.rest.range(..=key).next_back().map(|(from, _)| from.clone());
        let behind = (std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded);
        let before = self.rest.range::<Key, _>(behind).next().map(|(from, _)| from.clone());
        KeyRange { from, before }
    }

    /// The range of the block that begins with `from`, or of the first.
    pub fn range_from(&self, from: Option<&Key>) -> KeyRange {
        let behind = from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let next = self.rest.range::<Key, _>((behind, std::ops::Bound::Unbounded)).next();
        KeyRange { from: from.cloned(), before: next.map(|(from, _)| from.clone()) }
    }

    /// Divides a block, whose range this is, by all its entries in key order. `false` when they are
    /// not what the block was made of: the sum was wrong, and is right from now on.
    pub fn divide<'a>(
        &mut self,
        range: KeyRange,
        entries: impl IntoIterator<Item = (&'a Key, StateDigest)>,
    ) -> bool {
        let before = match &range.from {
            None => self.first,
            Some(from) => self.rest.get(from).copied().unwrap_or_default(),
        };
        let mut made: Vec<(Option<Key>, Fingerprint)> = vec![(range.from, Fingerprint::default())];
        let mut found = Fingerprint::default();
        for (key, digest) in entries {
            found.add(&digest);
            if made.last().is_none_or(|(_, last)| last.entries >= BLOCK_ENTRIES_MADE) {
                made.push((Some(key.clone()), Fingerprint::default()));
            }
            if let Some((_, last)) = made.last_mut() {
                last.add(&digest);
            }
        }
        self.all.part(&before);
        self.all.join(&found);
        for (from, block) in made {
            match from {
                None => self.first = block,
                Some(from) => drop(self.rest.insert(from, block)),
            }
        }
        before == found
    }

    /// What is known of a range.
    pub fn cover(&self, range: &KeyRange) -> Cover {
        if *range == KeyRange::ALL {
            return Cover { whole: self.all, partial: Vec::new() };
        }
        // The first whole block begins at `from` or behind it; what lies before is read.
        let first = match &range.from {
            None => None,
            Some(from) => self.rest.range(from.clone()..).next().map(|(key, _)| Some(key)),
        };
        // `None` for a range that begins with the first block, `Some(None)`: no block begins in it.
        let begins = match (&range.from, first) {
            (None, _) => None,
            (Some(_), Some(key)) => key,
            (Some(_), None) => return Cover::partial(range.clone()),
        };
        let ends = match &range.before {
            None => None,
            Some(before) => match self.rest.range(..=before.clone()).next_back() {
                Some((key, _)) => Some(key),
                None => return Cover::partial(range.clone()),
            },
        };
        if matches!((begins, ends), (Some(begins), Some(ends)) if begins > ends) {
            return Cover::partial(range.clone());
        }
        let mut whole = Fingerprint::default();
        if begins.is_none() {
            whole.join(&self.first);
        }
        let from = begins.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        let to = ends.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for (_, block) in self.rest.range::<Key, _>((from, to)) {
            whole.join(block);
        }
        let head = KeyRange { from: range.from.clone(), before: begins.cloned() };
        let tail = KeyRange { from: ends.cloned(), before: range.before.clone() };
        let mut partial = Vec::new();
        if range.from.is_some() && !head.is_void() {
            partial.push(head);
        }
        if range.before.is_some() && !tail.is_void() {
            partial.push(tail);
        }
        Cover { whole, partial }
    }

    /// Up to `parts` ranges that make up `range`, of about as many entries each, cut where blocks
    /// begin. One, when no block begins inside.
    pub fn cuts(&self, range: &KeyRange, parts: usize) -> Vec<Key> {
        let from =
            range.from.as_ref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let to =
            range.before.as_ref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        if range.is_void() || range.from == range.before && range.from.is_some() {
            return Vec::new();
        }
        let inside: Vec<&Key> = self.rest.range::<Key, _>((from, to)).map(|(key, _)| key).collect();
        let wanted = parts.saturating_sub(1).min(inside.len());
        let place = |cut: usize| (cut + 1) * (inside.len() + 1) / (wanted + 1);
        let cuts =
            (0..wanted).map(|cut| inside[place(cut).saturating_sub(1).min(inside.len() - 1)]);
        let mut cuts: Vec<Key> = cuts.cloned().collect();
        cuts.dedup();
        cuts
    }

    fn block_of(&mut self, key: &Key) -> &mut Fingerprint {
        match self.rest.range_mut(..=key.clone()).next_back() {
            Some((_, block)) => block,
            None => &mut self.first,
        }
    }
}

impl Cover {
    fn partial(range: KeyRange) -> Self {
        let partial = if range.is_void() { Vec::new() } else { vec![range] };
        Self { whole: Fingerprint::default(), partial }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::entry::Mode;

    fn key(number: u32) -> Key {
        Key::new(&format!("d{}/f{number:05}", number % 7)).expect("a key")
    }

    fn digest(number: u32, mode: u32) -> StateDigest {
        StateDigest::of(&key(number), &EntryKind::Directory { mode: Mode::new(mode) })
    }

    fn sum<'a>(entries: impl IntoIterator<Item = &'a StateDigest>) -> Fingerprint {
        let mut sum = Fingerprint::default();
        entries.into_iter().for_each(|digest| sum.add(digest));
        sum
    }

    /// Reads a range the slow way, and through the blocks.
    fn compare(blocks: &Blocks, entries: &BTreeMap<Key, StateDigest>, range: &KeyRange) {
        let slow = |range: &KeyRange| {
            sum(entries.iter().filter(|(key, _)| range.holds(key)).map(|(_, digest)| digest))
        };
        let cover = blocks.cover(range);
        let mut fast = cover.whole;
        cover.partial.iter().for_each(|range| fast.join(&slow(range)));
        assert_eq!(fast, slow(range), "{range:?}");
    }

    proptest! {
        #[test]
        fn a_range_is_the_sum_of_its_entries_whatever_came_and_went(
            first in 0u32..3000,
            changes in prop::collection::vec((0u32..4000, 0u32..4), 0..2500),
            ends in prop::collection::vec((0u32..4000, 0u32..4000), 1..20),
        ) {
            let mut entries = BTreeMap::new();
            for number in 0..first {
                entries.insert(key(number), digest(number, 0));
            }
            let mut blocks = Blocks::default();
            entries.iter().for_each(|(key, digest)| blocks.push(key, digest));
            for (number, mode) in changes {
                let key = key(number);
                if let Some(old) = entries.remove(&key) {
                    blocks.remove(&key, &old);
                }
                if mode > 0 {
                    let digest = digest(number, mode);
                    entries.insert(key.clone(), digest);
                    if blocks.add(&key, &digest) {
                        let range = blocks.range_of(&key);
                        let held = entries.iter().filter(|(key, _)| range.holds(key));
                        let held = held.map(|(key, digest)| (key, *digest));
                        prop_assert!(blocks.divide(range.clone(), held));
                    }
                }
            }
            compare(&blocks, &entries, &KeyRange::ALL);
            for (from, before) in ends {
                let (from, before) = (Some(key(from)), Some(key(before)));
                compare(&blocks, &entries, &KeyRange { from: from.clone(), before: before.clone() });
                compare(&blocks, &entries, &KeyRange { from: None, before });
                compare(&blocks, &entries, &KeyRange { from, before: None });
            }
        }
    }

    #[test]
    fn a_block_whose_sum_is_wrong_is_noticed_and_set_right() {
        let entries: BTreeMap<Key, StateDigest> =
            (0..100).map(|number| (key(number), digest(number, 1))).collect();
        let mut blocks = Blocks::default();
        entries.iter().for_each(|(key, digest)| blocks.push(key, digest));
        blocks.remove(&key(5), &digest(5, 2));
        assert_ne!(blocks.all(), sum(entries.values()));
        let all = || entries.iter().map(|(key, digest)| (key, *digest));
        assert!(!blocks.divide(blocks.range_from(None), all()));
        assert_eq!(blocks.all(), sum(entries.values()));
        assert!(blocks.divide(blocks.range_from(None), all()));
    }

    #[test]
    fn a_fingerprint_survives_the_wire_and_depends_on_every_part_of_an_entry() {
        let file = |content: &[u8], mode, nanos| EntryKind::File {
            size: 3,
            content: crate::ContentHash::of(content),
            mode: Mode::new(mode),
            mtime: crate::Mtime { seconds: 1, nanos },
        };
        let link = |target: &str| EntryKind::Symlink {
            target: target.into(),
            mtime: crate::Mtime { seconds: 1, nanos: 0 },
        };
        let states = [
            (1, file(b"abc", 0o644, 0)),
            (2, file(b"abc", 0o644, 0)),
            (1, file(b"abd", 0o644, 0)),
            (1, file(b"abc", 0o600, 0)),
            (1, file(b"abc", 0o644, 1)),
            (1, link("a")),
            (1, link("b")),
            (1, EntryKind::Directory { mode: Mode::new(0o755) }),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for (number, kind) in states {
            let one = sum([&StateDigest::of(&key(number), &kind)]);
            assert_eq!(Fingerprint::from_bytes(&one.to_bytes()), one);
            assert!(seen.insert(one.root()), "{kind:?}");
        }
    }

    #[test]
    fn cuts_divide_a_large_range_into_even_parts() {
        let mut blocks = Blocks::default();
        let mut keys: Vec<u32> = (0..20_000).collect();
        keys.sort_by_key(|number| key(*number));
        keys.iter().for_each(|number| blocks.push(&key(*number), &digest(*number, 1)));
        assert!(blocks.len() > 30, "{}", blocks.len());
        let cuts = blocks.cuts(&KeyRange::ALL, 16);
        assert_eq!(cuts.len(), 15);
        let inner = KeyRange { from: Some(cuts[3].clone()), before: Some(cuts[4].clone()) };
        assert!(blocks.cuts(&inner, 16).iter().all(|cut| inner.holds(cut)));
        let narrow = KeyRange { from: Some(key(8)), before: Some(key(15)) };
        assert!(blocks.cuts(&narrow, 16).is_empty());
    }
}
