//! Finding the keys by which two nodes differ, from fingerprints of ranges.
//!
//! A [`Comparison`] starts with everything. It gives ranges to ask the other node about, with what
//! this node has in them; a range that is the same there is done, a small one is answered with its
//! entries, a larger one with the fingerprints of its parts, of which those that differ are asked
//! about next. Identical shares cost one question; d differences among n entries about d log n.
//! After Meyer, "Range-Based Set Reconciliation" (2023).
//!
//! It knows no entries and waits for nobody: what this node has in a range is asked of it in
//! [`Need`]s. An answer that contradicts itself ends it: the other node lies, or is broken.

use std::collections::BTreeMap;

use crate::check::{CLAIMS_MAX, Claim, ITEMS_MAX, ItemTag, KEYS_BYTES_MAX, Look, PARTS_MAX};
use crate::fingerprint::{Fingerprint, KeyRange};
use crate::key::Key;

/// One comparison of this node's share with another node's.
#[derive(Debug)]
pub struct Comparison {
    /// Ranges that differ as far as is known, the last one first.
    open: Vec<Claim>,
    /// Ranges that the other node is being asked about.
    asked: Vec<Claim>,
}

/// What of this node's own entries an answer has to be compared with.
#[derive(Debug, PartialEq, Eq)]
pub enum Need {
    /// The fingerprint of this range: the other node's is given.
    Fingerprint(KeyRange, Fingerprint),
    /// The entries of this range: the other node's are given.
    Items(KeyRange, Vec<(Key, ItemTag)>),
}

/// The other node's answers cannot be true, or are no answers to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its answer contradicts itself: {0}")]
pub struct Contradiction(&'static str);

impl Comparison {
    /// Compares everything; `ours` is the fingerprint of all that this node has.
    pub fn new(ours: Fingerprint) -> Self {
        let all = Claim { range: KeyRange::ALL, fingerprint: ours };
        Self { open: vec![all], asked: Vec::new() }
    }

    /// The ranges to ask about next; none when all is compared. Asked again after a cut it gives
    /// the same.
    pub fn ask(&mut self) -> Vec<Claim> {
        if self.asked.is_empty() {
            let mut bytes = 0;
            while self.asked.len() < CLAIMS_MAX && bytes < KEYS_BYTES_MAX {
                let Some(claim) = self.open.pop() else { break };
                bytes += bounds_bytes(&claim.range);
                self.asked.push(claim);
            }
        }
        self.asked.clone()
    }

    /// Takes the answers to what was asked, one for each range in order, or for the first of them.
    ///
    /// # Errors
    /// [`Contradiction`]; the comparison is worth nothing then.
    pub fn answered(&mut self, looks: Vec<Look>) -> Result<Vec<Need>, Contradiction> {
        if looks.is_empty() || looks.len() > self.asked.len() {
            return Err(Contradiction("it has none, or more than there were questions"));
        }
        let mut rest = self.asked.split_off(looks.len());
        rest.reverse();
        self.open.append(&mut rest);
        let mut needs = Vec::new();
        for (claim, look) in std::mem::take(&mut self.asked).into_iter().zip(looks) {
            match look {
                Look::Same => {}
                Look::Items(items) => needs.push(items_of(claim.range, items)?),
                Look::Parts { cuts, parts } => parts_of(&claim.range, cuts, parts, &mut needs)?,
            }
        }
        Ok(needs)
    }

    /// Takes this node's own fingerprint of a range that [`Need::Fingerprint`] named.
    pub fn own(&mut self, range: KeyRange, ours: Fingerprint, theirs: Fingerprint) {
        if ours != theirs {
            self.open.push(Claim { range, fingerprint: ours });
        }
    }
}

/// The keys by which two lists differ.
pub fn differing(ours: &[(Key, ItemTag)], theirs: &[(Key, ItemTag)]) -> Vec<Key> {
    let ours: BTreeMap<&Key, &ItemTag> = ours.iter().map(|(key, tag)| (key, tag)).collect();
    let theirs: BTreeMap<&Key, &ItemTag> = theirs.iter().map(|(key, tag)| (key, tag)).collect();
    let lacking = ours.keys().filter(|key| !theirs.contains_key(*key));
    let other = theirs.iter().filter(|(key, tag)| ours.get(*key) != Some(tag)).map(|(key, _)| key);
    let mut keys: Vec<Key> = lacking.chain(other).map(|key| (*key).clone()).collect();
    keys.sort();
    keys
}

fn bounds_bytes(range: &KeyRange) -> usize {
    let bytes = |key: &Option<Key>| key.as_ref().map_or(0, |key| key.as_str().len());
    bytes(&range.from) + bytes(&range.before)
}

fn items_of(range: KeyRange, items: Vec<(Key, ItemTag)>) -> Result<Need, Contradiction> {
    if items.len() > ITEMS_MAX || !items.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(Contradiction("its entries are too many or not in order"));
    }
    if !items.iter().all(|(key, _)| range.holds(key)) {
        return Err(Contradiction("its entries lie outside what was asked"));
    }
    Ok(Need::Items(range, items))
}

fn parts_of(
    range: &KeyRange,
    cuts: Vec<Key>,
    parts: Vec<Fingerprint>,
    needs: &mut Vec<Need>,
) -> Result<(), Contradiction> {
    // Parts without a cut would be asked about for ever.
    if cuts.is_empty() || parts.len() != cuts.len() + 1 || parts.len() > PARTS_MAX {
        return Err(Contradiction("its parts are none or too many"));
    }
    let inside = |cut: &Key| range.holds(cut) && range.from.as_ref() != Some(cut);
    if !cuts.is_sorted_by(|a, b| a < b) || !cuts.iter().all(inside) {
        return Err(Contradiction("its parts are not in order"));
    }
    let from = std::iter::once(range.from.clone()).chain(cuts.iter().cloned().map(Some));
    let before = cuts.iter().cloned().map(Some).chain(std::iter::once(range.before.clone()));
    let ranges = from.zip(before).map(|(from, before)| KeyRange { from, before });
    needs.extend(ranges.zip(parts).map(|(range, theirs)| Need::Fingerprint(range, theirs)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::check::LEAF_ENTRIES_MAX;
    use crate::entry::{EntryKind, Mode};
    use crate::fingerprint::StateDigest;

    type Set = BTreeMap<Key, StateDigest>;

    fn key(number: u32) -> Key {
        Key::new(&format!("d{}/f{number:05}", number % 5)).expect("a key")
    }

    fn state(number: u32, mode: u32) -> StateDigest {
        StateDigest::of(&key(number), &EntryKind::Directory { mode: Mode::new(mode) })
    }

    fn within<'a>(
        set: &'a Set,
        range: &'a KeyRange,
    ) -> impl Iterator<Item = (&'a Key, &'a StateDigest)> {
        set.iter().filter(|(key, _)| range.holds(key))
    }

    fn sum(set: &Set, range: &KeyRange) -> Fingerprint {
        let mut sum = Fingerprint::default();
        within(set, range).for_each(|(_, digest)| sum.add(digest));
        sum
    }

    fn items(set: &Set, range: &KeyRange) -> Vec<(Key, ItemTag)> {
        within(set, range).map(|(key, digest)| (key.clone(), (*digest).into())).collect()
    }

    /// The other node, answering the plain way.
    fn look(set: &Set, claim: &Claim) -> Look {
        let theirs = sum(set, &claim.range);
        if theirs == claim.fingerprint {
            return Look::Same;
        }
        if theirs.entries <= LEAF_ENTRIES_MAX {
            return Look::Items(items(set, &claim.range));
        }
        let keys: Vec<&Key> = within(set, &claim.range).map(|(key, _)| key).collect();
        let step = keys.len().div_ceil(PARTS_MAX);
        let cuts: Vec<Key> = keys.iter().step_by(step).skip(1).map(|key| (*key).clone()).collect();
        let mut needs = Vec::new();
        let blank = vec![Fingerprint::default(); cuts.len() + 1];
        parts_of(&claim.range, cuts.clone(), blank, &mut needs).expect("good parts");
        let parts = needs.iter().map(|need| match need {
            Need::Fingerprint(range, _) => sum(set, range),
            Need::Items(..) => unreachable!("no items were made"),
        });
        Look::Parts { cuts, parts: parts.collect() }
    }

    /// The keys that differ, and how many questions that took.
    fn compare(ours: &Set, theirs: &Set, answers_max: usize) -> (BTreeSet<Key>, usize) {
        let mut comparison = Comparison::new(sum(ours, &KeyRange::ALL));
        let (mut found, mut questions) = (BTreeSet::new(), 0);
        loop {
            let asked = comparison.ask();
            assert_eq!(asked, comparison.ask(), "asked again after a cut");
            if asked.is_empty() {
                return (found, questions);
            }
            questions += 1;
            let looks = asked.iter().take(answers_max).map(|claim| look(theirs, claim)).collect();
            for need in comparison.answered(looks).expect("honest answers") {
                match need {
                    Need::Fingerprint(range, theirs) => {
                        let own = sum(ours, &range);
                        comparison.own(range, own, theirs);
                    }
                    Need::Items(range, theirs) => {
                        found.extend(differing(&items(ours, &range), &theirs));
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_key_that_differs_is_found_and_no_other(
            common in 0u32..2000,
            ours in prop::collection::btree_map(0u32..2500, 0u32..3, 0..60),
            theirs in prop::collection::btree_map(0u32..2500, 0u32..3, 0..60),
            answers_max in 1usize..40,
        ) {
            let set = |changes: &BTreeMap<u32, u32>| {
                let mut set: Set = (0..common).map(|n| (key(n), state(n, 0o7))).collect();
                for (number, mode) in changes {
                    match mode {
                        0 => drop(set.remove(&key(*number))),
                        mode => drop(set.insert(key(*number), state(*number, *mode))),
                    }
                }
                set
            };
            let (ours, theirs) = (set(&ours), set(&theirs));
            let all: BTreeSet<&Key> = ours.keys().chain(theirs.keys()).collect();
            let truth: BTreeSet<Key> =
                all.into_iter().filter(|key| ours.get(*key) != theirs.get(*key)).cloned().collect();
            prop_assert_eq!(compare(&ours, &theirs, answers_max).0, truth);
        }
    }

    #[test]
    fn identical_shares_cost_one_question_and_few_differences_few() {
        let ours: Set = (0..5000).map(|n| (key(n), state(n, 1))).collect();
        assert_eq!(compare(&ours, &ours, CLAIMS_MAX).1, 1);
        let mut theirs = ours.clone();
        theirs.remove(&key(77));
        theirs.insert(key(4321), state(4321, 2));
        let (found, questions) = compare(&ours, &theirs, CLAIMS_MAX);
        assert_eq!(found, [key(77), key(4321)].into());
        assert!(questions <= 5, "{questions}");
    }

    #[test]
    fn answers_that_cannot_be_true_are_refused() {
        let all = || Comparison::new(Fingerprint::default());
        let tag = ItemTag([0; 16]);
        let parts = |cuts: Vec<Key>, count| Look::Parts {
            cuts,
            parts: vec![Fingerprint::default(); count],
        };
        let rows = [
            (vec![], "no answer"),
            (vec![Look::Same, Look::Same], "more answers than questions"),
            (vec![Look::Items(vec![(key(2), tag), (key(2), tag)])], "an entry twice"),
            (vec![parts(vec![], 1)], "a part that is the whole"),
            (vec![parts(vec![key(1)], 3)], "a part without a place"),
            (vec![parts(vec![key(6), key(1)], 3)], "parts out of order"),
            (vec![parts((0..20).map(|n| key(n * 5)).collect(), 21)], "too many parts"),
        ];
        for (answers, why) in rows {
            let mut comparison = all();
            assert_eq!(comparison.ask().len(), 1);
            assert!(comparison.answered(answers).is_err(), "{why}");
        }
    }
}
