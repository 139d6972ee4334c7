//! From what is wanted to what is to be put in place.
//!
//! Wanted entries live in the store; a bounded number of them is at work at a time. Something that
//! needs no content is ready at once; content that stands elsewhere in the share is copied; the
//! rest is fetched. Deletes come last, children before parents, and not while a copy is being made:
//! the file that a rename took away is where its content is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_core::merge::is_conflict_key;
use highwater_core::{ContentHash, Key};
use highwater_store::{EntryRow, StoreError, WantClass};
use tokio::time::Instant;

use super::actor::{Actor, Open};
use super::loss::Asked;
use crate::fetch::copy::Copy;
use crate::fetch::{FetchError, Fetched, Job, Staged};

/// Wanted entries at work at a time.
pub(crate) const ACTIVE_MAX: usize = 4096;
/// Deletes that are made ready at a time.
const TOMBSTONES_MAX: usize = 512;
/// Copies that go to the copying task together.
const COPIES_MAX: usize = 256;
/// When to try again what could not be done now.
pub(crate) const SOON: Duration = Duration::from_millis(50);
pub(crate) const LATER: Duration = Duration::from_secs(5);

/// What is being worked on.
#[derive(Debug)]
pub(crate) struct Work {
    /// The time of this turn.
    pub(crate) now: Instant,
    /// Keys waiting for their content.
    active: BTreeMap<Key, ContentHash>,
    waiting: BTreeMap<ContentHash, BTreeSet<Key>>,
    /// Contents being copied within the share: each key that waits for one of them has a copy of
    /// its own under way.
    copying: BTreeSet<ContentHash>,
    /// Under which names a content was not found, though it is on record: once no name is left, it
    /// is fetched.
    not_here: BTreeMap<ContentHash, BTreeSet<Key>>,
    /// What can be put in place now, in key order.
    pub(crate) ready: BTreeMap<Key, Option<Staged>>,
    pub(crate) ready_deletes: BTreeSet<Key>,
    /// What could not be done, and when it is tried again.
    deferred: BTreeMap<Key, Instant>,
    /// Those of the deferred that no connected peer has the content of.
    pub(super) unavailable: BTreeSet<Key>,
    /// What cannot be had: every peer is connected, and none has had the content for a while. Held,
    /// and asked for again when somebody connects, and now and then.
    pub(super) unattainable: BTreeSet<Key>,
    /// When it is asked for again though nobody connects.
    pub(super) ask_again_at: Option<Instant>,
    /// How often every peer was asked for it in vain.
    pub(super) in_vain: BTreeMap<Key, u32>,
    /// Something was given up that nobody has: the logs of all peers are to be read anew.
    pub(super) has_lost: bool,
    /// How often in a row something else than expected stood where a key was to be put.
    setbacks: BTreeMap<Key, u32>,
    /// There is more in the store than is at work.
    pub(crate) more: bool,
    /// The disk is full: nothing that needs room is begun before then.
    full_until: Option<Instant>,
    /// Jobs that the fetching task has no room for yet.
    pub(crate) jobs: Vec<Job>,
    /// Whether the last turn put something in place: more may be ready because of it.
    pub(crate) progress: bool,
}

impl Work {
    /// What an earlier run left: the store is to be looked through.
    pub(crate) fn left_over(now: Instant) -> Self {
        Self {
            now,
            active: BTreeMap::new(),
            waiting: BTreeMap::new(),
            copying: BTreeSet::new(),
            not_here: BTreeMap::new(),
            ready: BTreeMap::new(),
            ready_deletes: BTreeSet::new(),
            deferred: BTreeMap::new(),
            unavailable: BTreeSet::new(),
            unattainable: BTreeSet::new(),
            ask_again_at: None,
            in_vain: BTreeMap::new(),
            has_lost: false,
            setbacks: BTreeMap::new(),
            more: true,
            full_until: None,
            jobs: Vec::new(),
            progress: false,
        }
    }

    pub(crate) fn defer(&mut self, key: Key, wait: Duration) {
        self.deferred.insert(key, self.now + wait);
    }

    /// When something is to be tried again.
    pub(crate) fn next_deferred(&self) -> Option<Instant> {
        let next = self.deferred.values().min().copied().into_iter().chain(self.ask_again_at).min();
        self.full_until.map_or(next, |until| Some(next.map_or(until, |next| next.max(until))))
    }

    /// The disk is full: what waits for room goes back to the store, and is begun again later.
    pub(crate) fn disk_is_full(&mut self) {
        self.full_until = Some(self.now + LATER);
        self.more = true;
    }

    fn is_full(&mut self) -> bool {
        self.full_until = self.full_until.filter(|until| *until > self.now);
        self.full_until.is_some()
    }

    /// Whether another turn can do something though nothing happens.
    pub(crate) fn can_go_on(&self) -> bool {
        self.progress
    }

    /// Something else than expected stands where the key was to be put: how long to wait for the
    /// scan of it. Mostly that tells at once. A delete that is held back stays, and each try fetches
    /// the content anew, so the waits grow from [`SOON`] to [`LATER`].
    pub(crate) fn setback(&mut self, key: &Key) -> Duration {
        let times = self.setbacks.entry(key.clone()).or_default();
        let wait = SOON.saturating_mul(1 << (*times).min(16));
        *times = times.saturating_add(1);
        wait.min(LATER)
    }

    /// The key is in place.
    pub(crate) fn placed(&mut self, key: &Key) {
        self.setbacks.remove(key);
    }

    /// A content is in place: whoever waits to copy it need not wait longer.
    pub(crate) fn came(&mut self, content: &ContentHash) {
        self.not_here.remove(content);
    }

    fn busy_with(&self, key: &Key) -> bool {
        self.active.contains_key(key)
            || self.ready.contains_key(key)
            || self.ready_deletes.contains(key)
            || self.deferred.contains_key(key)
    }

    fn len(&self) -> usize {
        self.active.len() + self.ready.len()
    }

    /// Content will come for this key.
    fn wait_for(&mut self, key: Key, content: ContentHash) {
        self.waiting.entry(content).or_default().insert(key.clone());
        self.active.insert(key, content);
    }

    /// A content came for the first of the keys that wait for it; a conflict copy is the first of all,
    /// for what it is made of holds up others: a file whose directory waits for it would take every
    /// content that comes. Those that have no copy of their own under way wait no longer: they are copied
    /// from the first, once that is in place.
    fn first_waiting(&mut self, content: &ContentHash) -> Option<Key> {
        let keys = self.waiting.get_mut(content)?;
        let first =
            keys.iter().find(|key| is_conflict_key(key)).or_else(|| keys.first()).cloned()?;
        keys.remove(&first);
        self.active.remove(&first);
        if keys.is_empty() || !self.copying.contains(content) {
            let others = std::mem::take(keys);
            self.waiting.remove(content);
            self.copying.remove(content);
            for key in others {
                self.active.remove(&key);
                self.defer(key, SOON);
            }
        }
        Some(first)
    }

    /// The key's state was superseded: whatever was under way for it is not wanted for it.
    fn drop_key(&mut self, key: &Key) {
        self.deferred.remove(key);
        self.unavailable.remove(key);
        self.in_vain.remove(key);
        self.setbacks.remove(key);
        self.ready_deletes.remove(key);
        if let Some(content) = self.active.remove(key)
            && let Some(keys) = self.waiting.get_mut(&content)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.waiting.remove(&content);
                self.copying.remove(&content);
                self.jobs.push(Job::Forget(content));
            }
        }
    }
}

impl Actor {
    /// Plans what has become wanted, fills up what is at work, and makes deletes ready.
    pub(crate) fn plan(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if !self.ready {
            return Ok(());
        }
        let mut copies = Vec::new();
        let full = open.work.is_full();
        open.ask_again_if_due(self.config.mode)?;
        open.forget_what_came()?;
        for key in open.replica.take_new_wants() {
            open.drop_ready(&key);
            open.work.drop_key(&key);
            // What is still not to be had keeps its note.
            if !open.work.unattainable.contains(&key) {
                open.place_problems.remove(key.as_str());
            }
            // What waits in the store comes first: it may be a directory that this one lies in.
            if !open.work.more && !full && open.work.len() < ACTIVE_MAX {
                open.plan_key(key, &mut copies)?;
            } else {
                open.work.more = true;
            }
        }
        if !full {
            open.retry_deferred(&mut copies)?;
        }
        if open.work.more && !full && open.work.len() < ACTIVE_MAX / 4 {
            open.fill_up(&mut copies)?;
        }
        open.send_copies(copies);
        open.make_deletes_ready()?;
        Ok(())
    }

    /// What the fetching tasks brought.
    pub(crate) fn fetched(&mut self, outcomes: Vec<Fetched>) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        self.dirty = true;
        let asked = Asked::of(&self.peers, &self.links);
        for outcome in outcomes {
            match outcome {
                Fetched::Staged(staged) => open.staged(staged),
                Fetched::Failed { content, why } => open.not_staged(content, &why, &asked)?,
            }
        }
        self.read_anew_after_a_loss()
    }
}

impl Open {
    fn plan_key(&mut self, key: Key, copies: &mut Vec<Copy>) -> Result<(), StoreError> {
        let Some((WantClass::Live, want)) = self.replica.want(&key)? else { return Ok(()) };
        let Some((content, size)) = want.entry.kind.content() else {
            self.work.ready.insert(key, None);
            return Ok(());
        };
        let row = self.replica.entry(&key)?;
        let stands = row.is_some_and(|row| row.entry.kind.content() == Some((content, size)));
        if stands && !self.healings.has(&key) {
            self.work.ready.insert(key, None);
            return Ok(());
        }
        let is_copied = self.work.copying.contains(&content);
        let is_fetched = !is_copied && self.work.waiting.contains_key(&content);
        // A damaged file is no source of itself.
        let is_elsewhere = |copy: &Copy| !is_fetched && copy.from.as_ref() != Some(&key);
        match self.local_copy(content, size)?.filter(is_elsewhere) {
            // A copy for each key, all at once: thousands of files may be equal.
            Some(copy) => {
                self.work.copying.insert(content);
                copies.push(copy);
            }
            None if is_fetched => {}
            // It stood here until a moment ago. What comes of the copies decides.
            None if is_copied => {
                self.work.defer(key, SOON);
                return Ok(());
            }
            None => self.work.jobs.push(Job::Fetch { content, size, key: key.clone() }),
        }
        self.work.wait_for(key, content);
        Ok(())
    }

    fn local_copy(&self, content: ContentHash, size: u64) -> Result<Option<Copy>, StoreError> {
        if size == 0 {
            return Ok(Some(Copy { content, size, from: None }));
        }
        let from = self.stands_at(&content)?;
        Ok(from.map(|key| Copy { content, size, from: Some(key) }))
    }

    /// A key of this share that holds the content, as far as is known.
    fn stands_at(&self, content: &ContentHash) -> Result<Option<Key>, StoreError> {
        let (store, number) = (self.replica.store(), self.replica.number());
        let stale = self.work.not_here.get(content);
        let may_stand = |row: &EntryRow| stale.is_none_or(|keys| !keys.contains(&row.entry.key));
        let row = self.replica.catalogue().find_row(store, number, content, may_stand)?;
        Ok(row.map(|row| row.entry.key))
    }

    fn send_copies(&mut self, copies: Vec<Copy>) {
        let mut copies = copies.into_iter().peekable();
        while copies.peek().is_some() {
            let some = copies.by_ref().take(COPIES_MAX).collect();
            self.work.jobs.push(Job::Copy(some));
        }
        self.send_jobs();
    }

    /// Passes jobs on, as far as there is room.
    pub(crate) fn send_jobs(&mut self) {
        let mut jobs = std::mem::take(&mut self.work.jobs).into_iter();
        for job in jobs.by_ref() {
            if let Err(tokio::sync::mpsc::error::TrySendError::Full(job)) =
                self.hands.jobs.try_send(job)
            {
                self.work.jobs.push(job);
                break;
            }
        }
        self.work.jobs.extend(jobs);
    }

    fn retry_deferred(&mut self, copies: &mut Vec<Copy>) -> Result<(), StoreError> {
        let now = self.work.now;
        let due: Vec<Key> = self
            .work
            .deferred
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.work.deferred.remove(&key);
            self.work.unavailable.remove(&key);
            self.plan_key(key, copies)?;
        }
        Ok(())
    }

    fn fill_up(&mut self, copies: &mut Vec<Copy>) -> Result<(), StoreError> {
        self.work.more = false;
        self.replica.flush()?;
        let (store, number) = (self.replica.store().clone(), self.replica.number());
        for want in store.wants(number, WantClass::Live, None) {
            let key = want?.entry.key;
            if self.work.busy_with(&key) {
                continue;
            }
            if self.work.len() >= ACTIVE_MAX {
                self.work.more = true;
                break;
            }
            self.plan_key(key, copies)?;
        }
        Ok(())
    }

    fn make_deletes_ready(&mut self) -> Result<(), StoreError> {
        // On a full disk deletes are what helps.
        let more = self.work.more && !self.work.is_full();
        let busy = !self.work.copying.is_empty() || more;
        if busy || self.replica.wanted().tombstones == 0 || !self.work.ready_deletes.is_empty() {
            return Ok(());
        }
        self.replica.flush()?;
        let (store, number) = (self.replica.store().clone(), self.replica.number());
        for want in store.wants(number, WantClass::Tombstone, None).rev() {
            let key = want?.entry.key;
            if !self.work.busy_with(&key) {
                self.work.ready_deletes.insert(key);
            }
            if self.work.ready_deletes.len() >= TOMBSTONES_MAX {
                break;
            }
        }
        Ok(())
    }

    fn staged(&mut self, staged: Staged) {
        match self.work.first_waiting(&staged.content) {
            Some(first) => {
                self.work.ready.insert(first, Some(staged));
            }
            // Superseded while it was fetched. What is large may be wanted again soon.
            None if staged.slot.is_partial() => {}
            None => self.discard(&staged),
        }
    }

    fn not_staged(
        &mut self,
        content: ContentHash,
        why: &FetchError,
        asked: &Asked,
    ) -> Result<(), StoreError> {
        let was_copied = self.work.copying.remove(&content);
        // The last copies of a content that is fetched by now: the first that failed said so.
        if matches!(why, FetchError::SourceChanged(_)) && !was_copied {
            return Ok(());
        }
        let keys = self.work.waiting.remove(&content).unwrap_or_default();
        let (wait, kind) = match why {
            FetchError::SourceChanged(key) => {
                self.work.not_here.entry(content).or_default().insert(key.clone());
                (Duration::ZERO, None)
            }
            FetchError::Unavailable => (LATER, None),
            FetchError::NoRoom(_) => {
                self.work.disk_is_full();
                (LATER, Some("no_room"))
            }
            FetchError::Local(_) | FetchError::WrongManifest => (LATER, Some("no_content")),
        };
        for key in keys {
            self.work.active.remove(&key);
            if let Some(kind) = kind {
                self.cannot_place(&key, kind, why.to_string());
            }
            match why {
                FetchError::NoRoom(_) => continue,
                // It was waited for under another name, and stands here under one.
                FetchError::Unavailable if self.stands_at(&content)?.is_some() => {
                    self.work.defer(key, Duration::ZERO);
                    continue;
                }
                FetchError::Unavailable if self.is_out_of_reach(&key, asked)? => continue,
                FetchError::Unavailable => drop(self.work.unavailable.insert(key.clone())),
                _ => {}
            }
            self.work.defer(key, wait);
        }
        Ok(())
    }

    /// A slot that nobody needs any more.
    pub(crate) fn discard(&self, staged: &Staged) {
        if let Err(error) = self.folder.discard(&staged.slot) {
            // It is cleared away at the next start.
            tracing::debug!(%error, "a staged file could not be removed");
        }
    }

    fn drop_ready(&mut self, key: &Key) {
        if let Some(Some(staged)) = self.work.ready.remove(key)
            && !staged.slot.is_partial()
        {
            self.discard(&staged);
        }
    }

    /// Remembers why a key is not in place.
    pub(crate) fn cannot_place(&mut self, key: &Key, kind: &str, message: String) {
        let path = key.to_string();
        let problem = crate::report::Problem { path: path.clone(), kind: kind.into(), message };
        if self.place_problems.len() < 1000 {
            self.place_problems.insert(path, problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_content_comes_for_the_conflict_copy_that_waits_for_it_first() {
        let mut work = Work::left_over(Instant::now());
        let content = ContentHash::from_bytes([7; 32]);
        let file: Key = "d/a.txt".parse().expect("a key");
        let copy: Key = "d.conflict-20261129-070517-jonxw5yf".parse().expect("a key");
        assert!(is_conflict_key(&copy) && "a/first" < copy.as_str());
        work.wait_for("a/first".parse().expect("a key"), content);
        work.wait_for(file, content);
        work.wait_for(copy.clone(), content);
        assert_eq!(work.first_waiting(&content), Some(copy));
    }
}
