//! The auditor: what the folders must hold at the end of a round, from what the clients did in it.
//!
//! A round begins and ends with all folders equal and everybody in sync, so every node knew the
//! state at its beginning. The auditor takes the files at the beginning, the changes, and the
//! files at the end. It asks no node and shares no code with the product.
//!
//! **What must still be there.** A version stands under a path from the moment a client puts it
//! there (or from the beginning of the round) until a client that had it on disk under that path,
//! on whichever node, replaces, moves or removes it. A conflict copy is another place of the
//! version that lost: who removes the copy has seen the version. Nothing else ends a version's
//! right to exist: not a later write elsewhere that did not displace it, not a delete of something
//! else, not a newer time. A version that still stands must be found at the end, under its path or
//! as a conflict copy of it.
//!
//! **What may be there.** It depends on who changed a path in the round.
//! - Nobody: the path is as it was. The one thing that may be new is a conflict copy of a contested
//!   path, with a content of that path.
//! - One node only, or several that each displaced exactly what the one before had put there: the
//!   last change is what is there, and there is no conflict copy.
//! - Several without that, or a client that cannot know whether it changed it: the path is
//!   *contested*. It holds one of the versions that were put there in the round, or nothing. What
//!   stood there at the beginning cannot win, because every node knew it; nor can a version that
//!   was replaced, unless something was removed there: a delete loses to a concurrent edit, and
//!   what the edit had been merged with may come back with it.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Change, Content, LIVE};

/// Files and links by their path.
pub(crate) type Files = BTreeMap<String, Content>;

/// One round, as the auditor sees it.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    pub(crate) before: &'a Files,
    pub(crate) changes: &'a [Change],
    pub(crate) after: &'a Files,
    /// Nodes that were killed or could not write: what they had put in place and not yet recorded
    /// is concurrent with what a client put on top of it.
    pub(crate) disturbed: &'a BTreeSet<usize>,
    /// Whether some clock was wrong: then the later stamp need not be the later change.
    pub(crate) clocks_differ: bool,
}

/// A rule that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rule {
    /// I1, I12: a version that nobody displaced is nowhere.
    Lost,
    /// I1: it is there, under a path that it was never given.
    Misplaced,
    /// I2: there is something that nobody wrote, or wrote elsewhere.
    Invented,
    /// I14: a path is there after its only writer removed it.
    Resurrected,
    /// I11: a path went back to a version that was replaced, or is not the last one.
    Reverted,
    /// I13: a conflict copy where there was no conflict.
    FalseConflict,
    /// I1, I16: a path that nobody touched is not as it was.
    Untouched,
}

/// A rule that does not hold, and where.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

/// What came of an audit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// Conflict copies that are new.
    pub(crate) conflicts: usize,
    /// Versions that had to be found, and were.
    pub(crate) kept: usize,
    /// Contested paths.
    pub(crate) contested: usize,
}

/// Who changed a path in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Untouched,
    InOrder,
    Contested,
}

/// Judges a round. `is_known` says whether somebody wrote a content, `is_piece` whether it was met
/// while it was written.
pub(crate) fn judge(
    round: &Round<'_>,
    is_known: impl Fn(Content) -> bool,
    is_piece: impl Fn(Content) -> bool,
) -> Verdict {
    let mut audit =
        Audit { round, by_path: BTreeMap::new(), verdict: Verdict::default(), is_piece: &is_piece };
    for change in round.changes {
        audit.by_path.entry(change.path.as_str()).or_default().push(change);
    }
    for changes in audit.by_path.values_mut() {
        changes.sort_by_key(|change| change.began);
    }
    for (path, content) in round.after {
        if !(is_known(*content) || is_piece(*content) && is_live(path)) {
            audit.report(Rule::Invented, path, format!("{content:?} was written by nobody"));
        }
    }
    audit.demand_what_stands();
    let paths: BTreeSet<&String> = round.before.keys().chain(round.after.keys()).collect();
    let mut paths: BTreeSet<&str> = paths.into_iter().map(String::as_str).collect();
    paths.extend(audit.by_path.keys().copied());
    for path in paths {
        audit.judge_path(path);
    }
    audit.verdict.violations.sort();
    audit.verdict
}

struct Audit<'a> {
    round: &'a Round<'a>,
    by_path: BTreeMap<&'a str, Vec<&'a Change>>,
    verdict: Verdict,
    is_piece: &'a dyn Fn(Content) -> bool,
}

impl Audit<'_> {
    fn report(&mut self, rule: Rule, path: &str, what: String) {
        let what = format!("{path}: {what}");
        self.verdict.violations.push(Violation { rule, what });
    }

    /// Every version that still stands must be found.
    fn demand_what_stands(&mut self) {
        let standing = standing(self.round.before, self.round.changes);
        let mut places: BTreeMap<Content, Vec<&str>> = BTreeMap::new();
        for (path, content) in self.round.after {
            places.entry(*content).or_default().push(path);
        }
        for (path, content) in standing {
            let found = places.get(&content).map_or(&[][..], Vec::as_slice);
            if found.iter().any(|place| origins(place).any(|origin| origin == path)) {
                self.verdict.kept += 1;
            } else if found.is_empty() {
                self.report(Rule::Lost, &path, format!("{content:?} is gone, and nobody had it"));
            } else {
                self.report(Rule::Misplaced, &path, format!("{content:?} is at {found:?}"));
            }
        }
    }

    fn judge_path(&mut self, path: &str) {
        let (before, after) = (self.round.before.get(path), self.round.after.get(path));
        match self.class(path) {
            Class::Untouched if before == after => {}
            Class::Untouched if before.is_none() => self.judge_new(path),
            Class::Untouched => {
                self.report(Rule::Untouched, path, format!("was {before:?}, is {after:?}"));
            }
            Class::InOrder => {
                self.demand_order(path);
                let last = self.by_path.get(path).and_then(|changes| changes.last());
                let due = last.and_then(|change| change.now);
                match (due, after) {
                    (due, after) if due.as_ref() == after => {}
                    (None, Some(again)) if self.may_come_again(path, *again) => {
                        self.verdict.contested += 1;
                    }
                    (None, Some(_)) => {
                        self.report(Rule::Resurrected, path, format!("{after:?} after a delete"));
                    }
                    _ => self.report(Rule::Reverted, path, format!("{after:?} instead of {due:?}")),
                }
            }
            Class::Contested => {
                self.verdict.contested += 1;
                if let Some(after) = after {
                    self.judge_winner(path, *after);
                }
            }
        }
    }

    /// Whether a conflict copy that was deleted may have been made once more: of a version that won
    /// over a delete on one node before it lost, and lost at once on another. The two losers look
    /// different to those nodes, as do two that were made independently of each other and happen to
    /// have the same bytes; of these both must be kept.
    fn may_come_again(&self, path: &str, again: Content) -> bool {
        let Some(of) = conflict_of(path) else { return false };
        let changes = |path: &str| self.by_path.get(path).into_iter().flatten();
        let deleted = changes(path).last().is_some_and(|change| change.was == Some(again));
        let won_over_delete = changes(&of).any(|change| change.now.is_none());
        deleted && won_over_delete && self.class(&of) == Class::Contested
    }

    /// What a client displaced is what was put there before, unless the product made the path.
    fn demand_order(&mut self, path: &str) {
        let changes = self.by_path.get(path).cloned().unwrap_or_default();
        if conflict_of(path).is_none() && !self.in_order(path, &changes) {
            let met: Vec<_> = changes.iter().map(|change| (change.was, change.now)).collect();
            let what = format!("its only writer met what it had not put there: {met:?}");
            self.report(Rule::Reverted, path, what);
        }
    }

    /// A path that no client made.
    fn judge_new(&mut self, path: &str) {
        let Some(content) = self.round.after.get(path).copied() else { return };
        let Some(of) = conflict_of(path) else {
            return self.report(Rule::Invented, path, format!("{content:?}, put there by nobody"));
        };
        if self.class(&of) != Class::Contested {
            return self.report(Rule::FalseConflict, path, "there was no conflict".to_owned());
        }
        if !self.contents_of(&of).contains(&content) {
            let what = format!("{content:?} was never at {of}");
            return self.report(Rule::Invented, path, what);
        }
        self.verdict.conflicts += 1;
    }

    /// What a contested path holds.
    fn judge_winner(&mut self, path: &str, after: Content) {
        let changes = self.by_path.get(path).cloned().unwrap_or_default();
        let sure = changes.iter().any(|change| change.sure);
        let put = changes.iter().any(|change| change.now == Some(after));
        if !put && self.round.before.get(path) == Some(&after) {
            if sure {
                let what = format!("{after:?} is back, which everybody had and somebody replaced");
                self.report(Rule::Reverted, path, what);
            }
            return;
        }
        let unsure = changes.iter().any(|change| !change.sure);
        if !put && unsure && is_live(path) && (self.is_piece)(after) {
            return;
        }
        if !put {
            return self.report(Rule::Invented, path, format!("{after:?} was never put there"));
        }
        let replaced = changes.iter().any(|c| c.sure && c.was == Some(after) && c.now.is_some());
        let put_again = changes.iter().filter(|change| change.now == Some(after)).count() > 1;
        let removed = changes.iter().any(|change| change.now.is_none());
        if replaced && !put_again && !removed && !unsure && !self.round.clocks_differ {
            self.report(Rule::Reverted, path, format!("{after:?} was replaced, and is back"));
        }
    }

    fn class(&self, path: &str) -> Class {
        let Some(changes) = self.by_path.get(path) else { return Class::Untouched };
        if changes.iter().any(|change| !change.sure) {
            return Class::Contested;
        }
        let one_node = changes.iter().all(|change| change.node == changes[0].node);
        if one_node || self.in_order(path, changes) { Class::InOrder } else { Class::Contested }
    }

    /// Whether every change displaced what the one before had put there, and one node that went on
    /// from another had that content on disk.
    fn in_order(&self, path: &str, changes: &[&Change]) -> bool {
        let mut stands = self.round.before.get(path).copied();
        let mut node = None;
        for change in changes {
            let passed_on = node.is_some_and(|node| node != change.node);
            let at_risk = passed_on && self.round.disturbed.contains(&change.node);
            if change.was != stands || (passed_on && stands.is_none()) || at_risk {
                return false;
            }
            (stands, node) = (change.now, Some(change.node));
        }
        true
    }

    /// Everything that ever stood under a path in this round, fragments of it included.
    fn contents_of(&self, path: &str) -> BTreeSet<Content> {
        let mut contents: BTreeSet<Content> =
            self.round.before.get(path).copied().into_iter().collect();
        for change in self.by_path.get(path).into_iter().flatten() {
            contents.extend(change.was.into_iter().chain(change.now));
        }
        if is_live(path) {
            contents.extend(self.round.after.values().filter(|content| (self.is_piece)(**content)));
        }
        contents
    }
}

/// What stands at the end of a round: every (path, version) that was there or was put there, and
/// was not displaced by a client since.
fn standing(before: &Files, changes: &[Change]) -> BTreeSet<(String, Content)> {
    let mut standing: BTreeSet<(String, Content)> =
        before.iter().map(|(path, content)| (path.clone(), *content)).collect();
    let mut steps: Vec<(u64, bool, &Change)> = Vec::with_capacity(changes.len() * 2);
    for change in changes {
        steps.push((change.began, true, change));
        steps.push((change.ended, false, change));
    }
    steps.sort_by_key(|(at, puts, _)| (*at, *puts));
    for (_, puts, change) in steps {
        match (puts, change.was, change.now) {
            (true, _, Some(now)) if change.sure => {
                standing.insert((change.path.clone(), now));
            }
            (false, Some(was), _) => {
                for origin in origins(&change.path) {
                    if standing.remove(&(origin, was)) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    standing
}

/// A path, what it is a conflict copy of, what that is a conflict copy of, and so on.
fn origins(path: &str) -> impl Iterator<Item = String> {
    std::iter::successors(Some(path.to_owned()), |path| conflict_of(path))
}

/// The path that a conflict copy lost to: `name.conflict-YYYYMMDD-HHMMSS-NODE.ext` of `name.ext`.
pub(crate) fn conflict_of(path: &str) -> Option<String> {
    let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
    let (stem, mark) = name.rsplit_once(".conflict-")?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = mark.splitn(3, '-');
    let (day, time, rest) = (parts.next()?, parts.next()?, parts.next()?);
    if !digits(day, 8) || !digits(time, 6) {
        return None;
    }
    let extension = rest.find('.').map_or("", |dot| &rest[dot..]);
    let separator = if dir.is_empty() { "" } else { "/" };
    Some(format!("{dir}{separator}{stem}{extension}"))
}

/// Whether a path is of a file that is written in place.
pub(crate) fn is_live(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(LIVE))
}

#[cfg(test)]
mod tests;
