//! What a scan finds in a played folder: the same findings as a real one makes, from a look at
//! everything at once.

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::{EntryKind, Key};
use highwater_folder::{Finding, Known, KnownEntry, Observation, Scope, StatPrint};

use super::disk::{Disk, Thing};
use super::fetch::manifest_of;

/// What a scan has to report.
pub(super) struct Findings {
    pub(super) found: Vec<Finding>,
    /// Children before parents.
    pub(super) gone: Vec<Key>,
}

/// Compares a folder with what the index knows.
pub(super) fn scan(disk: &Disk, scope: &Scope, known: &dyn Known) -> Findings {
    let seen = disk.visible();
    let mut expected: BTreeMap<Key, KnownEntry> = BTreeMap::new();
    let mut starts: BTreeSet<Key> = BTreeSet::new();
    match scope {
        Scope::Whole => expected.extend(known.under(None).map(|entry| (entry.key.clone(), entry))),
        Scope::Paths(keys) => {
            for key in keys {
                let start = starting_point(key, known);
                expected.extend(known.get(&start).map(|entry| (start.clone(), entry)));
                let below = known.under(Some(&start));
                expected.extend(below.map(|entry| (entry.key.clone(), entry)));
                starts.insert(start);
            }
        }
    }
    let within = |key: &Key| {
        *scope == Scope::Whole || starts.iter().any(|start| key == start || key.is_inside(start))
    };
    let mut found = Vec::new();
    for (key, (thing, print)) in seen.iter().filter(|(key, _)| within(key)) {
        found.extend(compare(key, thing, *print, expected.remove(key)));
    }
    Findings { found, gone: expected.into_keys().rev().collect() }
}

/// The topmost directory on the way to `key` that the index does not know, or the key itself.
fn starting_point(key: &Key, known: &dyn Known) -> Key {
    let mut start = key.clone();
    let mut above = key.parent();
    while let Some(dir) = above {
        if known.get(&dir).is_none() {
            start = dir.clone();
        }
        above = dir.parent();
    }
    start
}

fn compare(
    key: &Key,
    thing: &Thing,
    print: StatPrint,
    known: Option<KnownEntry>,
) -> Option<Finding> {
    let kind = thing.kind();
    let (key, known) = (key.clone(), known.filter(|known| known.kind.is_live()));
    match known {
        Some(known) if known.print == Some(print) => None,
        Some(known) if known.kind == kind => Some(Finding::Touched { key, print }),
        _ => {
            let manifest = match &kind {
                EntryKind::File { content, size, .. } => manifest_of(*content, *size),
                _ => None,
            };
            Some(Finding::Changed(Observation { key, kind, print, manifest }))
        }
    }
}
