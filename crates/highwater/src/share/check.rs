//! What a share answers when it is checked. It is asked by peers that lead a check, and alike by
//! this node itself; it decides nothing about the outcome.
//!
//! Answers are given on the share's thread, with everything durable, so that fingerprints, rows and
//! wants of one answer belong together. An answer reads a few thousand rows at most.

use std::collections::BTreeSet;

use highwater_core::check::{
    ACKS_MAX, CheckAnswer, CheckAsk, CheckId, CheckRefusal, Claim, Damage, DamageCause, Hold,
    ITEMS_MAX, ItemTag, KEYS_BYTES_MAX, KeyState, LEAF_ENTRIES_MAX, Look, Order, PAGE_KEYS_MAX,
    PARTS_MAX, States, Stuck, Wanted,
};
use highwater_core::fingerprint::{Fingerprint, KeyRange, StateDigest};
use highwater_core::way::{NEAR_MAX, Near};
use highwater_core::{Entry, EntryKind, Key, NodeId, Seq};
use highwater_folder::Scope;
use highwater_store::{EntryRow, FoundRow, StoreError, WantClass};
use tokio::sync::oneshot;

use super::actor::{Actor, Open};
use super::heal::Damaged;
use super::local::FolderPolicy;
use super::replica::{Policy, Replica, decode_print};
use crate::config::ShareMode;

/// What is asked of a share on behalf of a check.
#[derive(Debug)]
pub(crate) enum CheckCall {
    /// What any node may be asked.
    Ask(CheckAsk, oneshot::Sender<CheckAnswer>),
    /// What is here in these ranges.
    Sums(Vec<KeyRange>, oneshot::Sender<Option<Vec<Fingerprint>>>),
    /// The entries in a range: up to [`ITEMS_MAX`], and where the rest begins.
    Items(KeyRange, oneshot::Sender<Option<Page>>),
    /// Is the fingerprint of the block right that begins here? Where the next one begins.
    Prove(Option<Key>, oneshot::Sender<(bool, Option<Key>)>),
    /// Something was found to differ by reading everything again.
    Found(Key, DamageCause),
}

/// Some entries of a range, and the first key of the rest.
pub(crate) type Page = (Vec<(Key, ItemTag)>, Option<Key>);

impl Actor {
    /// Answers one call. Whoever asked may be gone by now.
    pub(crate) fn check_called(&mut self, call: CheckCall) -> Result<(), StoreError> {
        if self.open.as_ref().is_some_and(|open| open.replica.has_changes()) {
            self.flush()?;
        }
        match call {
            CheckCall::Ask(ask, answer) => drop(answer.send(self.check_answer(ask)?)),
            CheckCall::Sums(ranges, answer) => {
                let Some(open) = self.open.as_ref().filter(|_| self.ready) else { return Ok(()) };
                let sums = ranges.iter().map(|range| sum(&open.replica, range));
                drop(answer.send(Some(sums.collect::<Result<_, _>>()?)));
            }
            CheckCall::Items(range, answer) => {
                let Some(open) = self.open.as_ref().filter(|_| self.ready) else { return Ok(()) };
                drop(answer.send(Some(page(&open.replica, &range)?)));
            }
            CheckCall::Prove(from, answer) => {
                let Some(open) = self.open.as_mut().filter(|_| self.ready) else { return Ok(()) };
                drop(answer.send(open.replica.prove_block(from.as_ref())?));
            }
            CheckCall::Found(key, cause) => self.found_damaged(&key, cause)?,
        }
        Ok(())
    }

    fn check_answer(&mut self, ask: CheckAsk) -> Result<CheckAnswer, StoreError> {
        if self.open.is_none() {
            return Ok(CheckAnswer::Refused(CheckRefusal::NotOpen));
        }
        if !self.ready {
            return Ok(CheckAnswer::Refused(CheckRefusal::NotNow));
        }
        match ask {
            CheckAsk::Look(claims) => self.looked(&claims),
            CheckAsk::States(keys) => self.states(&keys),
            CheckAsk::Found { check, after } => self.found_behind(check, after.as_ref()),
            CheckAsk::Mend(orders) => {
                let taken = orders.into_iter().map(|order| self.mend(order));
                let taken = taken.collect::<Result<_, _>>()?;
                self.flush()?;
                Ok(CheckAnswer::Mended(taken))
            }
            // Not asked of this thread: the pass has one of its own, and the links have others.
            CheckAsk::Deep { .. } | CheckAsk::Onward(_) => {
                Ok(CheckAnswer::Refused(CheckRefusal::NotNow))
            }
        }
    }

    fn looked(&mut self, claims: &[Claim]) -> Result<CheckAnswer, StoreError> {
        let Some(open) = &self.open else {
            return Ok(CheckAnswer::Refused(CheckRefusal::NotOpen));
        };
        let all = open.replica.blocks().all();
        let deep = open.replica.store().deep(open.replica.number())?;
        let known = open.damaged.len() + open.receive_only.len() + self.gone.held().len();
        let damaged = known > 0 || deep.is_some_and(|deep| deep.found > 0);
        let (mut looks, mut bytes) = (Vec::with_capacity(claims.len()), 0);
        for claim in claims {
            let look = look(&open.replica, claim)?;
            bytes += keys_bytes(&look);
            looks.push(look);
            if bytes > KEYS_BYTES_MAX {
                break;
            }
        }
        let everything = claims.iter().any(|claim| claim.range == KeyRange::ALL);
        let near = if everything { self.near() } else { Vec::new() };
        Ok(CheckAnswer::Looked { all, damaged, looks, near })
    }

    /// With whom the share is exchanged.
    fn near(&self) -> Vec<Near> {
        let linked = |node| self.links.get(node).is_some_and(|peer| peer.theirs.is_some());
        let near = self.peers.keys().map(|node| Near { node: *node, linked: linked(node) });
        near.take(NEAR_MAX).collect()
    }

    fn states(&mut self, keys: &[Key]) -> Result<CheckAnswer, StoreError> {
        let caught_up = self.caught_up();
        let acked = self.acked();
        let states = keys.iter().map(|key| self.state_of(key)).collect::<Result<_, _>>()?;
        Ok(CheckAnswer::States(States { caught_up, acked, states }))
    }

    /// Whether all that connected peers have told is taken in, and all that is here acknowledged.
    fn caught_up(&self) -> bool {
        let Some(open) = &self.open else { return false };
        let head = open.replica.head();
        let quiet = open.scanning.is_none() && self.scan_wanted.is_none();
        quiet
            && self.links.values().all(|peer| {
                let pulled = peer.theirs.as_ref().is_none_or(|them| them.pulled.seq == them.head);
                let pushed = peer.outlet.as_ref().is_none_or(|outlet| outlet.acked == head);
                pulled && pushed
            })
    }

    fn acked(&self) -> Vec<(NodeId, Seq)> {
        let peers = self.links.iter();
        let acked = peers.filter_map(|(id, peer)| Some((*id, peer.outlet.as_ref()?.acked)));
        acked.take(ACKS_MAX).collect()
    }

    fn state_of(&mut self, key: &Key) -> Result<KeyState, StoreError> {
        let (mode, held_delete) = (self.config.mode, self.gone.held().contains(key));
        let Some(open) = &mut self.open else { return Ok(KeyState::default()) };
        let row = open.replica.entry(key)?;
        let want = open.replica.want(key)?;
        let policy = FolderPolicy { rules: &open.rules, mode };
        let is_held = matches!(&want, Some((WantClass::Held, _)))
            || (mode != ShareMode::SendOnly
                && row.as_ref().is_some_and(|row| policy.keeps_out(&row.entry)));
        let local =
            open.local_changes.contains_key(key) || open.receive_only.contains_key(key.as_str());
        let hold = match () {
            () if held_delete => Some(Hold::MassDelete),
            () if local => Some(Hold::ReceiveOnly),
            () if is_held && mode == ShareMode::SendOnly => Some(Hold::SendOnly),
            () if is_held => Some(Hold::Ignored),
            () => None,
        };
        let stuck = open.place_problems.get(key.as_str()).map(|problem| match &*problem.kind {
            "lost_content" => Stuck::ContentLost,
            _ => Stuck::CannotPlace,
        });
        let damage = match open.local_changes.get(key) {
            Some((kind, _)) => Some(unrecorded(Some(kind.clone()))),
            None if local || held_delete => Some(unrecorded(None)),
            None => open.damage_of(key, row.as_ref())?,
        };
        let wanted = want.map(|(_, want)| Wanted { entry: want.entry, stuck });
        let recorded = row.map(|row| (row.seq, row.entry));
        Ok(KeyState { recorded, wanted, damage, hold })
    }

    /// What is known to be damaged, by the latest deep pass or otherwise, in pages.
    fn found_behind(
        &mut self,
        check: Option<CheckId>,
        after: Option<&Key>,
    ) -> Result<CheckAnswer, StoreError> {
        let Some(open) = &self.open else {
            return Ok(CheckAnswer::Refused(CheckRefusal::NotOpen));
        };
        let (store, number) = (open.replica.store(), open.replica.number());
        let deep = store.deep(number)?;
        if check.is_some_and(|check| deep.is_none_or(|deep| deep.check != check.0)) {
            return Ok(CheckAnswer::Refused(CheckRefusal::NotNow));
        }
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        for key in store.found_after(number, after).take(PAGE_KEYS_MAX) {
            keys.insert(key?);
        }
        let behind = |key: &Key| after.is_none_or(|after| key > after);
        let damaged = open.damaged.keys().filter(|key| behind(key)).take(PAGE_KEYS_MAX);
        keys.extend(damaged.cloned());
        // Changes in a receive-only folder are kept by their path, in its order.
        let local = open.receive_only.keys().filter_map(|path| path.parse().ok());
        keys.extend(local.filter(behind));
        let held = self.gone.held().iter().filter(|key| behind(key)).take(PAGE_KEYS_MAX);
        keys.extend(held.cloned());
        let mut bytes = 0;
        let within = keys.into_iter().take(PAGE_KEYS_MAX).take_while(|key| {
            let fits = bytes <= KEYS_BYTES_MAX;
            bytes += key.as_str().len();
            fits
        });
        Ok(CheckAnswer::Found(within.collect()))
    }

    /// Carries out one order, as far as what stands here bears it out. Whether it was taken.
    fn mend(&mut self, order: Order) -> Result<bool, StoreError> {
        let mode = self.config.mode;
        let Some(open) = &mut self.open else { return Ok(false) };
        match order {
            Order::Adopt(entry) => {
                if open.replica.is_outlived_by(&entry) {
                    return Ok(false);
                }
                let policy = FolderPolicy { rules: &open.rules, mode };
                open.replica.take_in(entry, None, &policy)?;
                Ok(true)
            }
            Order::Refetch(key) => open.heal(&key),
            Order::Record(entry) => open.correct(&entry),
            Order::Rescan(key) => {
                if let Some(row) = open.replica.entry(&key)? {
                    open.replica.distrust(&row);
                }
                self.want_scan(Scope::Paths([key].into()));
                Ok(true)
            }
        }
    }
}

impl Open {
    /// What is known to stand under a key instead of what is on record.
    fn damage_of(&self, key: &Key, row: Option<&EntryRow>) -> Result<Option<Damage>, StoreError> {
        let found = self.replica.store().found(self.replica.number(), key)?;
        let Some(found) = found.filter(|found| still_stands(found, row)) else {
            return Ok(self.damaged.get(key).map(Damaged::damage));
        };
        Ok(Some(Damage { cause: found.cause, found: found.kind, range: found.range }))
    }

    /// Records a file as it stands, where the record was damaged and the file was not: the deep pass
    /// has read it, and it has not been touched since.
    fn correct(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let row = self.replica.entry(&entry.key)?;
        let found = self.replica.store().found(self.replica.number(), &entry.key)?;
        let Some(found) = found.filter(|found| found.kind.as_ref() == Some(&entry.kind)) else {
            return Ok(false);
        };
        let Some(print) = decode_print(found.print.as_deref()) else { return Ok(false) };
        let includes = row.as_ref().is_none_or(|row| entry.version.includes(&row.entry.version));
        let untouched = matches!(self.folder.print_of(&entry.key), Ok(Some(now)) if now == print);
        if !includes || !untouched || self.replica.is_outlived_by(entry) {
            return Ok(false);
        }
        self.replica.correct(entry.clone(), &print, row)?;
        Ok(true)
    }
}

/// What stands in the folder, known and not on record.
fn unrecorded(found: Option<EntryKind>) -> Damage {
    Damage { cause: DamageCause::Unrecorded, found, range: None }
}

/// Whether what a deep pass found is still to be believed: the record has not moved on, and does not
/// say the same by now.
pub(crate) fn still_stands(found: &FoundRow, row: Option<&EntryRow>) -> bool {
    let same_record = found.seq == row.map(|row| row.seq);
    let recorded = row.map(|row| &row.entry.kind).filter(|kind| kind.is_live());
    same_record && (found.kind.as_ref() != recorded || found.cause == DamageCause::Unreadable)
}

fn sum(replica: &Replica, range: &KeyRange) -> Result<Fingerprint, StoreError> {
    let cover = replica.blocks().cover(range);
    let mut sum = cover.whole;
    for part in &cover.partial {
        for entry in replica.digests_in(part) {
            sum.add(&entry?.1);
        }
    }
    Ok(sum)
}

fn page(replica: &Replica, range: &KeyRange) -> Result<Page, StoreError> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    for entry in replica.digests_in(range) {
        let (key, digest) = entry?;
        if items.len() >= ITEMS_MAX || bytes > KEYS_BYTES_MAX {
            return Ok((items, Some(key)));
        }
        bytes += key.as_str().len();
        items.push((key, digest.into()));
    }
    Ok((items, None))
}

fn look(replica: &Replica, claim: &Claim) -> Result<Look, StoreError> {
    let ours = sum(replica, &claim.range)?;
    if ours == claim.fingerprint {
        return Ok(Look::Same);
    }
    if ours.entries <= LEAF_ENTRIES_MAX {
        return Ok(Look::Items(page(replica, &claim.range)?.0));
    }
    let cuts = replica.blocks().cuts(&claim.range, PARTS_MAX);
    if cuts.is_empty() {
        return divided(replica, &claim.range);
    }
    let from = std::iter::once(claim.range.from.clone()).chain(cuts.iter().cloned().map(Some));
    let before = cuts.iter().cloned().map(Some).chain([claim.range.before.clone()]);
    let parts = from.zip(before).map(|(from, before)| sum(replica, &KeyRange { from, before }));
    let parts = parts.collect::<Result<_, _>>()?;
    Ok(Look::Parts { cuts, parts })
}

/// A range within one block, in parts of as many entries each.
fn divided(replica: &Replica, range: &KeyRange) -> Result<Look, StoreError> {
    let entries = replica.digests_in(range).collect::<Result<Vec<(Key, StateDigest)>, _>>()?;
    let (mut cuts, mut parts) = (Vec::new(), Vec::new());
    for part in entries.chunks(entries.len().div_ceil(PARTS_MAX)) {
        if let Some((key, _)) = part.first().filter(|_| !parts.is_empty()) {
            cuts.push(key.clone());
        }
        let mut sum = Fingerprint::default();
        part.iter().for_each(|(_, digest)| sum.add(digest));
        parts.push(sum);
    }
    Ok(Look::Parts { cuts, parts })
}

fn keys_bytes(look: &Look) -> usize {
    match look {
        Look::Same => 0,
        Look::Items(items) => items.iter().map(|(key, _)| key.as_str().len() + 24).sum(),
        Look::Parts { cuts, .. } => cuts.iter().map(|key| key.as_str().len() + 48).sum(),
    }
}
