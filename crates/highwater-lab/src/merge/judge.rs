//! What must hold when everybody has heard everything, whatever happened before.
//!
//! Nothing here asks the core who won or why. It knows who saw what, and what is promised: trees
//! are equal; what nobody replaced knowingly is there; an edit survives a delete that did not know
//! it; who had no rival has no conflict copy; old news changes nothing.

use highwater_core::{EntryKind, Key};

use super::play::{Held, Play};
use super::tree::{Tree, absorb, absorb_all, shown};
use crate::dice::Dice;

/// Rounds in which everybody sends everything to everybody, until all are equal. One carries all that
/// was known; what was resolved on the way needs a second; more are for copies of copies.
pub(super) const ROUNDS_MAX: usize = 4;

/// The laws of whole trees are tried in one case of so many: they cost as much as the case.
const ALGEBRA_ONE_IN: u64 = 8;

/// What happened in a case that passed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) rounds: usize,
    pub(super) copies: usize,
    pub(super) copies_of_copies: usize,
    pub(super) sequential: bool,
    pub(super) edit_kept_over_delete: bool,
    pub(super) file_beside_directory: bool,
    pub(super) back_by_resolution: bool,
    pub(super) grouped_differently: bool,
}

/// Heals, lets everybody hear everything, and judges.
pub(super) fn judge(play: &mut Play<'_>, dice: &mut Dice) -> Result<Seen, String> {
    let grouped_differently = dice.one_in(ALGEBRA_ONE_IN) && algebra(&play.trees)?;
    let rounds = converge(play, dice)?;
    let tree = &play.trees[0];
    nothing_lost(play, tree)?;
    names_hold(play, tree)?;
    let mut seen = Seen { rounds, copies: play.copies, grouped_differently, ..Seen::default() };
    seen.copies_of_copies = tree.keys().filter(|key| is_copy_of_copy(key)).count();
    seen.sequential = no_false_conflict(play, tree)?;
    for at in 0..play.story.keys.len() {
        if !play.is_shared_with_copies(at) {
            live_or_dead(play, tree, at, &mut seen)?;
        }
    }
    old_news_changes_nothing(play)?;
    Ok(seen)
}

/// Who sends to whom in which order does not matter: everybody ends with one tree.
fn converge(play: &mut Play<'_>, dice: &mut Dice) -> Result<usize, String> {
    let nodes = play.story.nodes;
    let mut ways: Vec<(usize, usize)> =
        (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
    for round in 0..=ROUNDS_MAX {
        if play.trees.iter().all(|tree| *tree == play.trees[0]) {
            return Ok(round);
        }
        dice.shuffle(&mut ways);
        for &(from, to) in &ways {
            play.send(from, to, u64::MAX, dice.roll())?;
        }
    }
    Err(format!("trees differ after {ROUNDS_MAX} rounds"))
}

/// Everything that somebody wrote and nobody replaced knowingly stands somewhere.
fn nothing_lost(play: &Play<'_>, tree: &Tree) -> Result<(), String> {
    let mut there: Vec<Held> = Vec::with_capacity(tree.len());
    for entry in tree.values() {
        there.extend(play.pool.held(&entry.kind)?);
    }
    match play
        .deeds
        .iter()
        .find(|deed| !deed.replaced && deed.held.is_some_and(|held| !there.contains(&held)))
    {
        Some(lost) => Err(format!("{:?} is lost and nobody replaced it", lost.held)),
        None => Ok(()),
    }
}

/// Copies stand beside what they lost to, under names that fit, and not more than there were acts.
fn names_hold(play: &Play<'_>, tree: &Tree) -> Result<(), String> {
    if tree.len() > play.story.keys.len() + play.deeds.len() {
        return Err(format!("{} keys of {} acts", tree.len(), play.deeds.len()));
    }
    for key in tree.keys().filter(|key| play.place(key).is_none()) {
        Key::new(key.as_str()).map_err(|error| format!("a copy's name: {error}"))?;
    }
    Ok(())
}

/// Where every user had seen all that was done before, the last act stands. Where that is so, or all
/// put the same there, nothing lies beside it. Whether every key had seen it all.
fn no_false_conflict(play: &Play<'_>, tree: &Tree) -> Result<bool, String> {
    let (mut chains, mut quiet) = (true, true);
    for at in 0..play.story.keys.len() {
        let key = play.key(at);
        let mut done: u64 = 0;
        let mut chain = !play.is_shared_with_copies(at);
        let mut put: Vec<&EntryKind> = Vec::new();
        for (number, deed) in play.deeds.iter().enumerate().filter(|(_, d)| d.key == Some(at)) {
            chain &= deed.past == done;
            done |= 1 << number;
            put.push(&deed.kind);
        }
        if chain && tree.get(key).map(|entry| &entry.kind) != put.last().copied() {
            return Err(format!("{} is not as it was left last", shown(key)));
        }
        chains &= chain;
        quiet &= chain || (!play.is_shared_with_copies(at) && all_put_the_same(play, &put)?);
    }
    let beside = tree.keys().find(|key| play.place(key).is_none());
    match beside {
        Some(copy) if quiet => Err(format!("{} is a copy of no conflict", shown(copy))),
        _ => Ok(chains),
    }
}

/// Whether all that was ever put under a key is one content, whatever its mode and time.
fn all_put_the_same(play: &Play<'_>, put: &[&EntryKind]) -> Result<bool, String> {
    let live = put.iter().filter(|kind| kind.is_live());
    let held = live.map(|kind| play.pool.held(kind)).collect::<Result<Vec<_>, _>>()?;
    Ok(held.windows(2).all(|pair| pair[0] == pair[1]))
}

/// A key is there if some act that nobody has seen since put something there, and gone if all such
/// acts deleted it.
fn live_or_dead(play: &Play<'_>, tree: &Tree, at: usize, seen: &mut Seen) -> Result<(), String> {
    let key = play.key(at);
    let deeds = || play.deeds.iter().enumerate().filter(|(_, deed)| deed.key == Some(at));
    let past = deeds().fold(0, |past, (_, deed)| past | deed.past);
    let last: Vec<&EntryKind> =
        deeds().filter(|(n, _)| past & (1 << n) == 0).map(|(_, deed)| &deed.kind).collect();
    let live = tree.get(key).is_some_and(|entry| entry.kind.is_live());
    let any_live = last.iter().any(|kind| kind.is_live());
    seen.edit_kept_over_delete |= any_live && last.iter().any(|kind| !kind.is_live());
    let directory = |kind: &&EntryKind| matches!(kind, EntryKind::Directory { .. });
    seen.file_beside_directory |=
        last.iter().any(directory) && last.iter().any(|kind| !directory(kind) && kind.is_live());
    let stands = tree.get(key).map(|entry| &entry.kind);
    if last.iter().any(directory) && !stands.iter().any(directory) {
        return Err(format!("{} was made a directory and is none", shown(key)));
    }
    match (any_live, live) {
        (true, false) => Err(format!("{} is gone, and an edit did not know of it", shown(key))),
        (false, true) if had_rivals(play, at) => {
            seen.back_by_resolution = true;
            Ok(())
        }
        (false, true) => Err(format!("{} is back after its delete", shown(key))),
        _ => Ok(()),
    }
}

/// Whether something that was put there had a rival, a write or a delete that knew nothing of it.
/// What some node made of the two is a state that those who deleted theirs had not seen, and so an
/// edit that a delete did not know: it stays.
fn had_rivals(play: &Play<'_>, at: usize) -> bool {
    let deeds: Vec<(usize, u64, bool)> = (play.deeds.iter().enumerate())
        .filter(|(_, deed)| deed.key == Some(at))
        .map(|(number, deed)| (number, deed.past, deed.kind.is_live()))
        .collect();
    deeds.iter().any(|&(a, past_a, live)| {
        let rival = |b: usize, past_b: u64| past_a & (1 << b) == 0 && past_b & (1 << a) == 0;
        live && deeds.iter().any(|&(b, past_b, _)| a != b && rival(b, past_b))
    })
}

/// What was sent on the way and arrives again, late, is known.
fn old_news_changes_nothing(play: &mut Play<'_>) -> Result<(), String> {
    let tree = &mut play.trees[0];
    for entry in &play.old_news {
        if absorb(tree, entry)?.news {
            return Err(format!("old news of {} changes the tree", shown(&entry.key)));
        }
    }
    Ok(())
}

/// Merging whole trees is idempotent and commutative, and associative up to more exchanges of the
/// outcomes; where names meet, commutative up to those, too. Whether they were needed.
fn algebra(trees: &[Tree]) -> Result<bool, String> {
    let [a, b, ..] = trees else { return Ok(false) };
    let c = &trees[trees.len() - 1];
    let (ab, ba) = (joined(a, b)?, joined(b, a)?);
    if joined(a, a)? != *a || joined(&ab, b)? != ab {
        return Err("merging twice is not merging once".into());
    }
    if ab != ba && !names_met(&ab) && !names_met(&ba) {
        return Err("merging depends on whose side one is on".into());
    }
    let (left, right) = (joined(&ab, c)?, joined(a, &joined(b, c)?)?);
    let grouped_differently = ab != ba || left != right;
    for (mut one, mut other) in [(ab, ba), (left, right)] {
        let mut exchanges = 0;
        while one != other {
            (one, other) = (joined(&one, &other)?, joined(&other, &one)?);
            exchanges += 1;
            if exchanges > ROUNDS_MAX {
                return Err("merging depends on the order for good".into());
            }
        }
    }
    Ok(grouped_differently)
}

fn joined(a: &Tree, b: &Tree) -> Result<Tree, String> {
    let mut joined = a.clone();
    absorb_all(&mut joined, b.values())?;
    Ok(joined)
}

/// Whether two losers of one second and node came to bear one name, so that one is a copy's copy.
fn names_met(tree: &Tree) -> bool {
    let mark = |key: &Key| key.as_str().rsplit_once(".conflict-").map(|(_, mark)| mark.to_owned());
    let marks: Vec<String> = tree.keys().filter_map(mark).collect();
    let twice = |(at, mark): (usize, &String)| marks[..at].contains(mark);
    marks.iter().enumerate().any(twice) || tree.keys().any(is_copy_of_copy)
}

fn is_copy_of_copy(key: &Key) -> bool {
    key.as_str().matches(".conflict-").count() > 1
}
