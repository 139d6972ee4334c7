//! Comparing this node's entries with another node's: carries out what
//! [`highwater_core::compare`] decides.

use std::collections::BTreeSet;

use highwater_core::Key;
use highwater_core::check::{CheckAnswer, CheckAsk, ItemTag, Look};
use highwater_core::compare::{Comparison, Need, differing};
use highwater_core::fingerprint::{Fingerprint, KeyRange};

use super::member::Member;
use super::talk::{self, Silence};
use crate::serve::Desk;
use crate::share::check::CheckCall;

/// The keys by which two nodes differ.
#[derive(Debug, Default)]
pub(crate) struct Differing {
    /// The first of them.
    pub(crate) keys: BTreeSet<Key>,
    /// How many more there are.
    pub(crate) more: u64,
    /// All that the other node has.
    pub(crate) theirs: Fingerprint,
    /// Whether it knows of damage.
    pub(crate) damaged: bool,
}

/// Compares this node's share with a peer's, of which `first` is the answer to the first question.
/// At most `keys_max` keys are gathered, the rest counted.
pub(crate) async fn compare(
    desk: &Desk,
    ours: Fingerprint,
    peer: &Member,
    mut first: Option<CheckAnswer>,
    keys_max: usize,
) -> Result<Differing, Silence> {
    let mut found = Differing::default();
    let mut comparison = Comparison::new(ours);
    loop {
        let claims = comparison.ask();
        if claims.is_empty() {
            return Ok(found);
        }
        let whole = claims.iter().any(|claim| claim.range == KeyRange::ALL);
        let answer = match first.take() {
            Some(answer) => answer,
            None => peer.ask(CheckAsk::Look(claims)).await?,
        };
        let CheckAnswer::Looked { all, damaged, looks, .. } = answer else {
            return Err(Silence::Nonsense);
        };
        (found.theirs, found.damaged) = (all, damaged);
        // "The same" means what it says.
        if whole && looks == [Look::Same] && all != ours {
            return Err(Silence::Nonsense);
        }
        let needs = comparison.answered(looks).map_err(|_| Silence::Nonsense)?;
        let ranges = needs.iter().filter_map(|need| match need {
            Need::Fingerprint(range, _) => Some(range.clone()),
            Need::Items(..) => None,
        });
        let mut sums = sums(desk, ranges.collect()).await?.into_iter();
        for need in needs {
            match need {
                Need::Fingerprint(range, theirs) => {
                    let ours = sums.next().ok_or(Silence::Nonsense)?;
                    comparison.own(range, ours, theirs);
                }
                Need::Items(range, theirs) => {
                    items(desk, range, theirs, keys_max, &mut found).await?
                }
            }
        }
    }
}

/// The fingerprints of ranges here.
async fn sums(desk: &Desk, ranges: Vec<KeyRange>) -> Result<Vec<Fingerprint>, Silence> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let sums = talk::call(desk, |answer| CheckCall::Sums(ranges, answer)).await;
    sums.flatten().ok_or(Silence::Unreachable)
}

/// Compares a range that the other node has told whole, page by page of what is here.
async fn items(
    desk: &Desk,
    range: KeyRange,
    theirs: Vec<(Key, ItemTag)>,
    keys_max: usize,
    found: &mut Differing,
) -> Result<(), Silence> {
    let mut from = range.from.clone();
    loop {
        let rest = KeyRange { from: from.clone(), before: range.before.clone() };
        let page = talk::call(desk, |answer| CheckCall::Items(rest, answer)).await.flatten();
        let (ours, next) = page.ok_or(Silence::Unreachable)?;
        let paged = KeyRange { from, before: next.clone().or_else(|| range.before.clone()) };
        let theirs: Vec<(Key, ItemTag)> =
            theirs.iter().filter(|(key, _)| paged.holds(key)).cloned().collect();
        for key in differing(&ours, &theirs) {
            if found.keys.len() < keys_max {
                found.keys.insert(key);
            } else {
                found.more += 1;
            }
        }
        match next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}
