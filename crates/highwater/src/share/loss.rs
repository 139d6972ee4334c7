//! What becomes of a wanted state whose content nobody has.
//!
//! Mostly it is a moment: a file is just being written, and a newer state follows. So a want is let
//! go only after every listed peer was asked again and again. Then it depends on who says that he
//! has it:
//!
//! - somebody does: it is held, people are told, and it is asked for again whenever somebody
//!   connects or announces it, and every few minutes, for whoever has it may have been unable to
//!   read it;
//! - nobody does: whoever made it has lost it, by a disk or by an older copy put in its place. It
//!   is dropped, people are told, and this node begins anew with every peer. So all nodes judge
//!   what the others really have, and come to one state, as they do after any other restore. While
//!   such a want stood, it hid what peers had before it.
//!
//! Nothing is dropped that somebody has: all logs have been read to their ends before, and are read
//! again after.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_core::log::Actor as Author;
use highwater_core::merge::{is_conflict_key, is_untouched_copy};
use highwater_core::{Key, NodeId};
use highwater_store::{StoreError, WantClass, WantRow};

use super::actor::{Actor, Open};
use super::local::FolderPolicy;
use super::peers::Peers;
use super::plan::Work;
use crate::config::ShareMode;

/// How often every connected peer is asked, every [`LATER`](super::plan::LATER), before a content
/// is given up.
const IN_VAIN_MAX: u32 = 8;
/// How long what cannot be had is let be. A file that cannot be read for a while, or that was moved
/// away and back, is not announced when it can be had again.
const AGAIN: Duration = Duration::from_secs(600);
/// What people are told of a state that somebody announced and cannot give.
const NOT_TO_BE_HAD: &str = "a peer announced this, and no peer has its content any more: it was \
    replaced or lost before it was sent; what stood here before stays, write it anew to settle it";
/// What people are told of a state that nobody has.
pub(super) const LOST: &str = "the latest state of this is lost: a disk or an older copy took it \
    from the only node that had it; what the peers still had stands here instead; restore it from \
    a backup or write it anew to settle it";

/// Whom a content was asked of.
#[derive(Debug)]
pub(super) struct Asked {
    /// Whether every listed peer is connected and offers the share.
    everyone: bool,
    /// What the connected peers call themselves in versions, if their logs are read to the end:
    /// whoever has a state has announced it by then.
    claimants: Option<BTreeSet<Author>>,
}

impl Asked {
    pub(super) fn of(listed: &BTreeMap<NodeId, String>, links: &Peers) -> Self {
        let theirs = |peer| links.get(peer).and_then(|link| link.theirs.as_ref());
        let everyone = listed.keys().all(|peer| theirs(peer).is_some());
        let connected: Vec<_> = listed.keys().filter_map(theirs).collect();
        let is_read = connected.iter().all(|theirs| theirs.pulled.seq >= theirs.head);
        let claimants = is_read.then(|| connected.iter().map(|theirs| theirs.actor).collect());
        Self { everyone, claimants }
    }
}

impl Work {
    /// Every peer was asked, and none has it now. Whether that is to be believed: a file that is
    /// just being written is not sent either.
    fn asked_in_vain(&mut self, key: &Key) -> bool {
        let times = self.in_vain.entry(key.clone()).or_default();
        *times = times.saturating_add(1);
        *times >= IN_VAIN_MAX
    }

    fn ask_again(&mut self) {
        for key in std::mem::take(&mut self.unavailable) {
            self.defer(key, Duration::ZERO);
        }
    }
}

impl Open {
    /// No peer has the content of this key now. Whether it is waited for no longer.
    pub(super) fn is_out_of_reach(&mut self, key: &Key, asked: &Asked) -> Result<bool, StoreError> {
        if !asked.everyone || !self.work.asked_in_vain(key) {
            return Ok(false);
        }
        let (Some((_, want)), Some(claimants)) = (self.replica.want(key)?, &asked.claimants) else {
            return Ok(false);
        };
        if is_claimed(&want, claimants) {
            self.hold(key)?;
        } else {
            tracing::error!(%key, "nobody has its latest state any more");
            self.replica.give_up(key)?;
            self.work.has_lost = true;
        }
        Ok(true)
    }

    /// A conflict copy that nobody has is of a state that was knowingly replaced before the copy
    /// was made; of anything else people must hear.
    fn hold(&mut self, key: &Key) -> Result<(), StoreError> {
        if !is_conflict_key(key) {
            self.cannot_place(key, "lost_content", NOT_TO_BE_HAD.to_owned());
        }
        self.replica.hold(key)?;
        self.work.unattainable.insert(key.clone());
        self.work.ask_again_at.get_or_insert(self.work.now + AGAIN);
        Ok(())
    }

    /// Nobody speaks of what was superseded meanwhile.
    pub(super) fn forget_what_came(&mut self) -> Result<(), StoreError> {
        for key in self.replica.take_unwanted() {
            let is_noted = self.place_problems.contains_key(key.as_str());
            if !is_noted && !self.work.unattainable.contains(&key) {
                continue;
            }
            let now = self.replica.want(&key)?.map(|(class, _)| class);
            let was_held = now != Some(WantClass::Held) && self.work.unattainable.remove(&key);
            if was_held || now.is_none() {
                self.place_problems.remove(key.as_str());
            }
        }
        Ok(())
    }

    /// Asks again for what could not be had a while ago.
    pub(super) fn ask_again_if_due(&mut self, mode: ShareMode) -> Result<(), StoreError> {
        if self.work.ask_again_at.is_some_and(|at| at <= self.work.now) {
            self.ask_again(mode)?;
        }
        Ok(())
    }

    /// There is another peer to ask: what nobody had is asked for again at once.
    pub(crate) fn ask_again(&mut self, mode: ShareMode) -> Result<(), StoreError> {
        self.work.ask_again();
        self.work.ask_again_at = None;
        let policy = FolderPolicy { rules: &self.rules, mode };
        for key in std::mem::take(&mut self.work.unattainable) {
            self.replica.want_again(&key, &policy)?;
            self.work.defer(key, Duration::ZERO);
        }
        Ok(())
    }
}

impl Actor {
    /// What was given up is out of the way of what the peers have: all is judged once more.
    pub(super) fn read_anew_after_a_loss(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if std::mem::take(&mut open.work.has_lost) { self.begin_anew() } else { Ok(()) }
    }
}

/// Whether somebody says that he has exactly this, or may say so later. Copies that are to be made
/// of losers are claimed by whoever has the loser.
fn is_claimed(want: &WantRow, claimants: &BTreeSet<Author>) -> bool {
    claimants.is_empty()
        || is_untouched_copy(&want.entry)
        || want.learned_from.is_some_and(|author| claimants.contains(&author))
}
