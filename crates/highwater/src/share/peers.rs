//! What a share knows of the peers that are connected, and what it says to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use highwater_core::intake::{Standing as LogStanding, advance, resume_at};
use highwater_core::log::Checkpoint;
use highwater_core::wire::{Ack, Batch, Control, Goodbye, Offer, Standing};
use highwater_core::{NodeId, Seq};
use highwater_store::StoreError;
use tokio::sync::mpsc;

use super::actor::Actor;
use super::outlet::Outlet;
use crate::fetch::source::{LinkId, Source};

/// One connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) source: Arc<Source>,
    control: mpsc::Sender<Control>,
    /// What the link has no room for yet.
    waiting: VecDeque<Control>,
    offered: bool,
    /// The peer's offer, once it came.
    pub(crate) theirs: Option<Theirs>,
    pub(crate) outlet: Option<Outlet>,
    last_standing: Option<Standing>,
    /// What became durable and is not acknowledged yet.
    ack_due: Option<Ack>,
}

/// What the peer says of itself.
#[derive(Debug)]
pub(crate) struct Theirs {
    pub(crate) pulled: Checkpoint,
    pub(crate) head: Seq,
    pub(super) actor: highwater_core::Actor,
    /// `None` until it has said.
    pub(crate) needed: Option<u64>,
}

impl Peer {
    /// Forgets what was said about the share.
    fn reset(&mut self) {
        self.offered = false;
        (self.theirs, self.outlet, self.last_standing, self.ack_due) = (None, None, None, None);
    }

    /// Offers the share, or takes it back. An offer that has not gone yet is overtaken by either: a
    /// peer that takes nothing and asks for offers again and again makes nothing pile up.
    fn say(&mut self, message: Control) {
        while matches!(self.waiting.back(), Some(Control::Offer(_))) {
            self.waiting.pop_back();
        }
        if self.waiting.back() != Some(&message) {
            self.waiting.push_back(message);
        }
        self.speak();
    }

    /// Passes on what waits, as far as the link has room. Whether all of it went.
    fn speak(&mut self) -> bool {
        while let Some(message) = self.waiting.pop_front() {
            match self.control.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    return false;
                }
                // The link is down; word of it is on its way.
                Err(mpsc::error::TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
        true
    }
}

/// The connected peers of a share.
pub(crate) type Peers = BTreeMap<NodeId, Peer>;

impl Actor {
    pub(crate) fn link_up(
        &mut self,
        source: Arc<Source>,
        control: mpsc::Sender<Control>,
        fresh: bool,
    ) -> Result<(), StoreError> {
        let known = self.links.get(&source.peer).is_some_and(|peer| peer.source.id == source.id);
        if known || !self.peers.contains_key(&source.peer) {
            return Ok(());
        }
        let mut peer = Peer {
            source: Arc::clone(&source),
            control,
            waiting: VecDeque::new(),
            offered: false,
            theirs: None,
            outlet: None,
            last_standing: None,
            ack_due: None,
        };
        if !fresh {
            peer.say(Control::Withdraw(self.config.name.clone()));
        }
        self.links.insert(source.peer, peer);
        self.dirty = true;
        self.offer_to_all()
    }

    pub(crate) fn link_down(&mut self, link: LinkId) {
        self.links.retain(|_, peer| peer.source.id != link);
        self.early_offers.remove(&link);
        self.tell_sources();
    }

    /// Lets go of the links to peers that the share is not listed for any more.
    pub(crate) fn part_from_unlisted(&mut self) {
        let (name, listed) = (self.config.name.clone(), &self.peers);
        self.links.retain(|node, peer| {
            let stays = listed.contains_key(node);
            if !stays && peer.offered {
                peer.say(Control::Withdraw(name.clone()));
            }
            stays
        });
        self.tell_sources();
    }

    /// Offers the share to every peer that has not been offered it, once it can be served.
    pub(crate) fn offer_to_all(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if !self.ready {
            return Ok(());
        }
        let mut early = Vec::new();
        for (node, peer) in self.links.iter_mut().filter(|(_, peer)| !peer.offered) {
            let offer = Offer {
                share: self.config.name.clone(),
                epoch: open.replica.epoch(),
                head: open.replica.head(),
                pulled: open.replica.peer(node)?.pulled,
            };
            peer.offered = true;
            peer.say(Control::Offer(offer));
            if let Some(offer) = self.early_offers.remove(&peer.source.id) {
                early.push((peer.source.id, offer));
            }
        }
        for (link, offer) in early {
            self.offered(link, &offer)?;
        }
        Ok(())
    }

    /// Takes the share back from every peer: it cannot be served now.
    pub(crate) fn withdraw_from_all(&mut self) {
        let name = self.config.name.clone();
        for peer in self.links.values_mut() {
            if peer.offered {
                peer.say(Control::Withdraw(name.clone()));
            }
            peer.reset();
        }
        self.tell_sources();
    }

    pub(crate) fn heard(&mut self, link: LinkId, message: Control) -> Result<(), StoreError> {
        match message {
            Control::Offer(offer) => self.offered(link, &offer),
            Control::Withdraw(_) => {
                self.early_offers.remove(&link);
                if let Some(peer) = self.peer_at(link) {
                    peer.reset();
                }
                self.tell_sources();
                Ok(())
            }
            Control::Batch(batch) => self.take_in(link, batch),
            Control::Ack(ack) => self.acknowledged(link, &ack),
            Control::Standing(standing) => {
                if let Some(theirs) = self.peer_at(link).and_then(|peer| peer.theirs.as_mut()) {
                    theirs.head = standing.head;
                    theirs.needed = Some(standing.needed_entries);
                    self.dirty = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn peer_at(&mut self, link: LinkId) -> Option<&mut Peer> {
        self.links.values_mut().find(|peer| peer.source.id == link)
    }

    fn offered(&mut self, link: LinkId, offer: &Offer) -> Result<(), StoreError> {
        if !self.ready {
            self.early_offers.insert(link, offer.clone());
            return Ok(());
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let replica = &mut open.replica;
        let Some(peer) = self.links.values_mut().find(|peer| peer.source.id == link) else {
            return Ok(());
        };
        let judged = replica.judge(&peer.source.peer, offer.pulled)?;
        let from = match judged {
            LogStanding::From(seq) => seq,
            LogStanding::FromStart => Seq::ZERO,
            LogStanding::Unproven(seq) if replica.cannot_be_outlived() => seq,
            LogStanding::RolledBack | LogStanding::Unproven(_) => return self.outlived(link),
            LogStanding::OtherHistory(epoch) => {
                replica.remember_past(epoch)?;
                if !replica.cannot_be_outlived() {
                    return self.outlived(link);
                }
                Seq::ZERO
            }
        };
        let epoch = replica.epoch();
        let pulled = resume_at(replica.peer(&peer.source.peer)?.pulled, offer);
        let actor = offer.epoch.actor(&peer.source.peer, &self.config.name);
        peer.theirs = Some(Theirs { pulled, head: offer.head, actor, needed: None });
        // Whoever begins at the start may have lost what was learned from it, and need not know.
        let echoes = if from == Seq::ZERO { replica.head() } else { Seq::ZERO };
        peer.outlet = Some(Outlet::new(actor, epoch, from, echoes));
        (peer.last_standing, peer.ack_due) = (None, None);
        let offered = peer.offered;
        self.tell_sources();
        // It has forgotten what it was offered before: it began anew.
        if offered { Ok(()) } else { self.offer_to_all() }
    }

    /// A peer has seen more of this log than there is. That is believed once: of a history that
    /// this process began for that reason, nobody has seen more.
    fn outlived(&mut self, link: LinkId) -> Result<(), StoreError> {
        let lies = self.open.as_ref().is_some_and(|open| open.replica.has_begun_anew());
        if lies {
            if let Some(peer) = self.peer_at(link) {
                peer.source.line.close(Goodbye::Misbehaved);
            }
            return Ok(());
        }
        let share = &self.config.name;
        tracing::warn!(%share, "a peer may have seen more of this log than there is: new epoch");
        self.begin_anew()
    }

    /// Begins another history, and with every peer from the start of both logs: what a peer learned
    /// from this node it did not send back, and this node has lost it.
    pub(super) fn begin_anew(&mut self) -> Result<(), StoreError> {
        self.withdraw_from_all();
        self.early_offers.clear();
        let Some(open) = &mut self.open else { return Ok(()) };
        let known = open.replica.forget_peers()?;
        open.replica.take_new_epoch(self.outside.new_epoch(), known)?;
        self.offer_to_all()
    }

    /// A piece of a peer's log: wanted and checkpoint become durable together, then it is
    /// acknowledged.
    fn take_in(&mut self, link: LinkId, batch: Batch) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(peer) = self.links.values_mut().find(|peer| peer.source.id == link) else {
            return Ok(());
        };
        let Some(theirs) = peer.theirs.as_mut() else { return Ok(()) };
        let checkpoint = match advance(theirs.pulled, &batch) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!(peer = ?peer.source.peer, %error, "the peer's log does not fit");
                peer.source.line.close(Goodbye::Misbehaved);
                return Ok(());
            }
        };
        if batch.entries.iter().any(|(_, entry)| open.replica.is_outlived_by(entry)) {
            return self.outlived(link);
        }
        for (_, entry) in &batch.entries {
            if !open.replica.cannot_be_outlived() && open.replica.is_contradicted_by(entry)? {
                return self.outlived(link);
            }
        }
        let policy = super::local::FolderPolicy { rules: &open.rules, mode: self.config.mode };
        for (_, entry) in batch.entries {
            open.replica.take_in(entry, Some(theirs.actor), &policy)?;
        }
        let mut row = open.replica.peer(&peer.source.peer)?;
        row.pulled = Some(checkpoint);
        open.replica.put_peer(&peer.source.peer, row);
        open.replica.flush()?;
        theirs.pulled = checkpoint;
        theirs.head = theirs.head.max(batch.head);
        peer.ack_due = Some(Ack { share: batch.share, checkpoint });
        self.dirty = true;
        Ok(())
    }

    fn acknowledged(&mut self, link: LinkId, ack: &Ack) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(peer) = self.links.values_mut().find(|peer| peer.source.id == link) else {
            return Ok(());
        };
        let Some(outlet) = peer.outlet.as_mut() else { return Ok(()) };
        if !outlet.acknowledged(ack.checkpoint.epoch, ack.checkpoint.seq) {
            tracing::warn!(peer = ?peer.source.peer, ?ack, "acknowledges what was never sent");
            peer.source.line.close(Goodbye::Misbehaved);
            return Ok(());
        }
        // Becomes durable with the next commit: the peer keeps the same fact.
        let mut row = open.replica.peer(&peer.source.peer)?;
        row.pushed = Some(ack.checkpoint);
        open.replica.put_peer(&peer.source.peer, row);
        self.acks_since.get_or_insert(self.outside.now());
        self.dirty = true;
        Ok(())
    }

    /// Gives every peer what is new, as far as it keeps up. Whether all could be said.
    pub(crate) fn speak_to_all(&mut self) -> Result<bool, StoreError> {
        let Some(open) = &self.open else { return Ok(true) };
        let wanted = open.replica.wanted();
        let standing = Standing {
            share: self.config.name.clone(),
            epoch: open.replica.epoch(),
            head: open.replica.head(),
            needed_entries: wanted.entries(),
            needed_bytes: wanted.bytes,
        };
        let mut all = true;
        for peer in self.links.values_mut() {
            let Some(outlet) = peer.outlet.as_mut() else {
                all &= peer.speak();
                continue;
            };
            // What is needed is told before the acknowledgement that makes it look complete.
            let has_room = peer.waiting.len() < 2 || peer.ack_due.is_some();
            if peer.last_standing.as_ref() != Some(&standing) && has_room {
                peer.last_standing = Some(standing.clone());
                peer.waiting.push_back(Control::Standing(standing.clone()));
            }
            if let Some(ack) = peer.ack_due.take() {
                peer.waiting.push_back(Control::Ack(ack));
            }
            if peer.waiting.len() < 4
                && let Some(batch) = outlet.next(&open.replica)?
            {
                peer.waiting.push_back(Control::Batch(batch));
                all = false;
            }
            all &= peer.speak();
        }
        Ok(all)
    }

    /// Tells the fetching tasks who can be asked.
    pub(crate) fn tell_sources(&mut self) {
        let sources: Vec<Arc<Source>> = self
            .links
            .values()
            .filter(|peer| peer.theirs.is_some())
            .map(|peer| Arc::clone(&peer.source))
            .collect();
        self.dirty = true;
        let known: Vec<LinkId> = self.sources.borrow().iter().map(|source| source.id).collect();
        let more = sources.iter().any(|source| !known.contains(&source.id));
        self.sources.send_replace(sources);
        if let Some(open) = self.open.as_mut().filter(|_| more)
            && let Err(error) = open.ask_again(self.config.mode)
        {
            self.fail(error.to_string());
        }
    }
}
