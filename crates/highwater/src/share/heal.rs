//! Files that are not what is on record though nobody edited them: they are noted, never spread, and
//! fetched again when that is asked for.
//!
//! The damaged file keeps its name until the good one takes its place, and is kept aside until the
//! good one has been read back from the disk. What may have been an edit that hid itself is kept for
//! good.

use std::collections::BTreeMap;

use highwater_core::check::{Damage, DamageCause};
use highwater_core::{ContentHash, EntryKind, Key};
use highwater_folder::{Expect, Observation, Problem, ProblemKind, StatPrint};
use highwater_store::{EntryRow, StoreError, WantClass};

use super::actor::{Actor, Open};
use super::local::note;
use super::replica::decode_print;
use super::scanner::ReadJob;

/// Damaged files that are remembered; what is beyond is found again by the next scan or check.
const DAMAGED_MAX: usize = 10_000;

/// A file whose bytes are not what is on record.
#[derive(Clone, Debug)]
pub(crate) struct Damaged {
    cause: DamageCause,
    found: Option<EntryKind>,
    print: StatPrint,
}

/// A damaged file that is being fetched again.
#[derive(Clone, Debug)]
pub(crate) struct Healing {
    /// The print of the damaged file.
    print: StatPrint,
    cause: DamageCause,
    /// The damaged file's name while it is kept aside.
    aside: Option<String>,
}

/// What is damaged, and what is being done about it.
#[derive(Debug, Default)]
pub(crate) struct Healings {
    under_way: BTreeMap<Key, Healing>,
    /// Placed, and being read back: the content that must be there.
    verifying: BTreeMap<Key, (ContentHash, Healing)>,
}

impl Damaged {
    pub(crate) fn damage(&self) -> Damage {
        Damage { cause: self.cause, found: self.found.clone(), range: None }
    }
}

impl Healings {
    /// Whether a key's content is to be fetched though it seems to be here.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.under_way.contains_key(key)
    }
}

impl Actor {
    /// Whether what stands under a key is known to be damaged, and just so.
    pub(super) fn is_known_damage(&self, key: &Key) -> bool {
        let Some(open) = &self.open else { return false };
        let Some(damaged) = open.damaged.get(key) else { return false };
        matches!(open.folder.print_of(key), Ok(Some(print)) if print == damaged.print)
    }

    /// A deep pass found bytes that are not what is on record.
    pub(super) fn found_damaged(
        &mut self,
        key: &Key,
        cause: DamageCause,
    ) -> Result<(), StoreError> {
        self.dirty = true;
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(row) = open.replica.entry(key)? else { return Ok(()) };
        let bytes = matches!(cause, DamageCause::Rot | DamageCause::Unreadable);
        if let Some((content, _)) = row.entry.kind.content().filter(|_| bytes) {
            open.replica.catalogue().mark_corrupt(content);
        }
        open.note_damage(key, cause);
        Ok(())
    }
}

impl Open {
    /// A scan found other bytes under the same inode, size and modification time: nobody who edits
    /// leaves a file so, and a disk that rots may. It is not taken for an edit.
    pub(super) fn altered(&mut self, seen: Observation) {
        let Observation { key, kind, print, .. } = seen;
        if self.damaged.len() >= DAMAGED_MAX {
            return;
        }
        self.note_damage(&key, DamageCause::Hidden);
        self.damaged.insert(key, Damaged { cause: DamageCause::Hidden, found: Some(kind), print });
    }

    /// What a peer was sent from this file was not its content, and nobody edited it.
    pub(super) fn rotted(&mut self, key: &Key, content: ContentHash, print: StatPrint) {
        self.replica.catalogue().mark_corrupt(content);
        self.note_damage(key, DamageCause::Rot);
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged
                .insert(key.clone(), Damaged { cause: DamageCause::Rot, found: None, print });
        }
    }

    /// What was damaged was edited, deleted, or is whole again.
    pub(super) fn not_damaged(&mut self, key: &Key) {
        if self.damaged.remove(key).is_some() {
            self.forget_damage(key);
        }
    }

    fn note_damage(&mut self, key: &Key, cause: DamageCause) {
        let share = self.replica.name();
        let message = match cause {
            DamageCause::Rot => format!(
                "its bytes are not what was recorded, and nobody edited it: the disk may be failing; \
                 `highwater check {share} --deep --repair` fetches it again"
            ),
            DamageCause::Hidden => format!(
                "its bytes changed though its size and modification time did not, so it counts as \
                 damaged and is not sent: touch it if that was an edit, else `highwater check {share} \
                 --repair` fetches it again"
            ),
            DamageCause::Record => format!(
                "what is on record of it contradicts itself; `highwater check {share} --deep \
                 --repair` sets it right"
            ),
            DamageCause::Unreadable => {
                "it cannot be read: check the disk and the permissions".into()
            }
            DamageCause::Unrecorded | DamageCause::Changing => return,
        };
        note(&mut self.standing_problems, Problem::at(key, ProblemKind::Corrupt, message));
    }

    fn forget_damage(&mut self, key: &Key) {
        let is_it = |problem: &Problem| problem.kind == ProblemKind::Corrupt;
        if self.standing_problems.get(key.as_str()).is_some_and(is_it) {
            self.standing_problems.remove(key.as_str());
        }
    }

    /// Begins to fetch a damaged file again. Whether it is damaged, and may be.
    pub(super) fn heal(&mut self, key: &Key) -> Result<bool, StoreError> {
        if self.healings.has(key) {
            return Ok(true);
        }
        let Some(row) = self.replica.entry(key)? else { return Ok(false) };
        let Some((cause, found, print)) = self.damaged_as(key, &row)? else { return Ok(false) };
        if !matches!(self.folder.print_of(key), Ok(Some(now)) if now == print) {
            return Ok(false);
        }
        let whole = found.is_some_and(|found| found.same_content(&row.entry.kind));
        let Some((content, _)) = row.entry.kind.content().filter(|_| !whole) else {
            return self.dress_anew(row, &print);
        };
        tracing::info!(%key, %content, "fetching a damaged file again");
        self.healings.under_way.insert(key.clone(), Healing { print, cause, aside: None });
        if self.replica.want(key)?.is_none() {
            self.replica.want_anew(row.entry);
        }
        Ok(true)
    }

    /// What stands there is right but for its metadata, which is set anew.
    fn dress_anew(&mut self, row: EntryRow, print: &StatPrint) -> Result<bool, StoreError> {
        self.replica.touched(&row, print)?;
        self.replica.forget_found(&row.entry.key);
        if self.replica.want(&row.entry.key)?.is_none() {
            self.replica.want_anew(row.entry);
        }
        Ok(true)
    }

    /// How a file is damaged, what stands there, and its print.
    fn damaged_as(
        &self,
        key: &Key,
        row: &EntryRow,
    ) -> Result<Option<(DamageCause, Option<EntryKind>, StatPrint)>, StoreError> {
        let found = self.replica.store().found(self.replica.number(), key)?;
        let found = found.filter(|found| super::check::still_stands(found, Some(row)));
        let Some(found) = found.filter(|found| found.cause != DamageCause::Unrecorded) else {
            let known = self.damaged.get(key);
            return Ok(known.map(|known| (known.cause, known.found.clone(), known.print)));
        };
        let print = decode_print(found.print.as_deref().or(row.print.as_deref()));
        Ok(print.map(|print| (found.cause, found.kind, print)))
    }

    /// What must stand under a key that is being healed: the damaged file, of which a second name is
    /// kept. `None` when it is not being healed any more: it was edited meanwhile.
    pub(super) fn make_room_for_healing(&mut self, key: &Key, kind: &EntryKind) -> Option<Expect> {
        let healing = self.healings.under_way.get_mut(key)?;
        if healing.aside.is_none() {
            match self.folder.keep_aside(key, &healing.print) {
                Ok(Some((name, print))) => {
                    (healing.aside, healing.print) = (Some(name), print);
                }
                Ok(None) => {
                    self.healings.under_way.remove(key);
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%key, %error, "a damaged file cannot be kept aside; it stays");
                    self.healings.under_way.remove(key);
                    return None;
                }
            }
        }
        Some(Expect::Present { kind: kind.clone(), print: healing.print })
    }

    /// A good file has taken the place of a damaged one: it is read back before that is believed.
    pub(super) fn healed(&mut self, key: &Key, kind: &EntryKind) {
        let Some(healing) = self.healings.under_way.remove(key) else { return };
        let Some((content, _)) = kind.content() else { return };
        self.healings.verifying.insert(key.clone(), (content, healing));
        // The scanner ends only with the share.
        let _ = self.hands.reads.send(ReadJob::Verify { key: key.clone(), content });
    }

    /// What was read back from a healed file. Whether this was one.
    pub(super) fn read_back(
        &mut self,
        key: &Key,
        content: ContentHash,
        holds: bool,
    ) -> Result<bool, StoreError> {
        if self.healings.verifying.get(key).is_none_or(|(wanted, _)| *wanted != content) {
            return Ok(false);
        }
        let Some((_, healing)) = self.healings.verifying.remove(key) else { return Ok(false) };
        if !holds {
            tracing::warn!(%key, "a file that was fetched again cannot be read back as it should be");
            return Ok(true);
        }
        self.damaged.remove(key);
        self.forget_damage(key);
        self.replica.catalogue().mark_sound(&content);
        self.replica.forget_found(key);
        match (healing.aside, healing.cause) {
            (Some(name), DamageCause::Hidden) => {
                let message = format!("its damaged bytes are kept as .highwater/kept/{name}");
                tracing::info!(%key, "{message}");
            }
            (Some(name), _) => {
                if let Err(error) = self.folder.drop_aside(&name) {
                    tracing::warn!(%key, %error, name, "the damaged bytes stay in .highwater/kept");
                }
            }
            (None, _) => {}
        }
        Ok(true)
    }

    /// A file that was to be healed is not what it was: whoever edited it wins.
    pub(super) fn stop_healing(&mut self, key: &Key) -> Result<(), StoreError> {
        if self.healings.under_way.remove(key).is_none() {
            return Ok(());
        }
        let row = self.replica.entry(key)?;
        if let (Some(row), Some((WantClass::Live, want))) = (row, self.replica.want(key)?)
            && row.entry == want.entry
        {
            self.replica.want_no_more(&want.entry);
        }
        Ok(())
    }
}
