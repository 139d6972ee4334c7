//! The thread of one share: takes what happened, decides in order, carries out, tells.
//!
//! A turn is: wait for something; take in all that has come; plan; put in place what is ready; make
//! durable; and only then tell peers and people. A share whose root, store or disk fails is closed,
//! and opened again until it can work (`life.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::wire::Offer;
use highwater_core::{ContentHash, EntryKind, Key, NodeId, WallTime};
use highwater_folder::{Hint, IgnoreRules, Problem, ScanProgress, Scope, StatPrint};
use highwater_store::StoreError;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::gone::Gone;
use super::heal::{Damaged, Healings};
use super::outside::{Folder, Hands, Outside};
use super::peers::Peers;
use super::plan::Work;
use super::replica::Replica;
use super::scanner::ScanEvent;
use super::unread::Unread;
use super::{Command, Counter, Event, Surroundings};
use crate::config::ShareConfig;
use crate::fetch::Fetched;
use crate::fetch::source::{LinkId, Source};
use crate::report;

/// How often the root is looked at while nothing else happens.
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// What a link had no room for is tried again after this.
const SPEAK_AGAIN: Duration = Duration::from_millis(5);
/// A peer's acknowledgement that nothing else goes to the disk with waits this long for company.
const ACKS_WAIT: Duration = Duration::from_millis(500);
/// People are told no more often than this.
const TELL_EVERY: Duration = Duration::from_millis(20);
/// Events taken in one turn.
const EVENTS_A_TURN: usize = 64;

/// One share, as its thread holds it.
pub(crate) struct Actor {
    pub(crate) config: ShareConfig,
    pub(crate) peers: BTreeMap<NodeId, String>,
    pub(crate) around: Surroundings,
    pub(super) counter: Arc<Counter>,
    pub(crate) outside: Box<dyn Outside>,
    told: watch::Sender<report::ShareStatus>,
    pub(crate) links: Peers,
    pub(crate) open: Option<Open>,
    /// Whether the folder has been read once as a whole: nothing is offered or applied before.
    pub(crate) ready: bool,
    /// Why the share is not open.
    pub(crate) error: Option<String>,
    pub(super) reopen_at: Instant,
    /// Offers that came before this share could answer them.
    pub(crate) early_offers: BTreeMap<LinkId, Offer>,
    pub(crate) sources: watch::Sender<Vec<Arc<Source>>>,
    pub(crate) gone: Gone,
    pub(crate) scan_wanted: Option<Scope>,
    pub(crate) scanned_at: Option<Instant>,
    pub(crate) rules_changed: bool,
    pub(super) verified_at: Instant,
    /// Whether people have not been told the latest.
    pub(crate) dirty: bool,
    told_at: Option<Instant>,
    /// Since when only acknowledgements wait to become durable.
    pub(crate) acks_since: Option<Instant>,
    /// Whether a peer could not be told everything.
    pub(super) unsaid: Option<Instant>,
}

/// A share whose folder is open.
pub(crate) struct Open {
    /// What people's clocks show in this turn.
    pub(crate) wall: WallTime,
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) replica: Replica,
    pub(crate) rules: Arc<IgnoreRules>,
    pub(crate) hands: Hands,
    pub(crate) scanning: Option<Arc<ScanProgress>>,
    pub(crate) scanning_whole: bool,
    /// What was put in place since the running scan began: it may have seen what stood there before.
    pub(crate) placed_meanwhile: BTreeSet<Key>,
    /// Files that are not what is on record, though nobody edited them.
    pub(crate) damaged: BTreeMap<Key, Damaged>,
    pub(crate) healings: Healings,
    /// Contents that were verified lately.
    pub(crate) verified: BTreeMap<ContentHash, Instant>,
    pub(crate) hints: mpsc::Receiver<Hint>,
    /// Whether there is no watcher that could hint at anything.
    pub(crate) blind: bool,
    /// What the last whole scan could not sync.
    pub(crate) scan_problems: BTreeMap<String, Problem>,
    pub(crate) unread: Unread,
    /// What stays true until something else changes.
    pub(crate) standing_problems: BTreeMap<String, Problem>,
    /// Changes in a receive-only folder.
    pub(crate) local_changes: BTreeMap<Key, (EntryKind, StatPrint)>,
    pub(crate) receive_only: BTreeMap<String, report::Problem>,
    /// What could not be put in place.
    pub(crate) place_problems: BTreeMap<String, report::Problem>,
    pub(crate) work: Work,
}

/// What ended a wait.
#[derive(Debug)]
pub(crate) enum Turn {
    Event(Event),
    Scan(ScanEvent),
    Hint(Hint),
    Fetched(Vec<Fetched>),
    TimePassed,
    /// The share is dropped.
    End,
}

impl Actor {
    pub(crate) fn new(
        config: ShareConfig,
        peers: BTreeMap<NodeId, String>,
        around: Surroundings,
        counter: Arc<Counter>,
        outside: Box<dyn Outside>,
        told: watch::Sender<report::ShareStatus>,
    ) -> Self {
        let now = outside.now();
        Self {
            config,
            peers,
            around,
            counter,
            outside,
            told,
            links: Peers::new(),
            open: None,
            ready: false,
            error: None,
            reopen_at: now,
            early_offers: BTreeMap::new(),
            sources: watch::Sender::default(),
            gone: Gone::default(),
            scan_wanted: None,
            scanned_at: None,
            rules_changed: false,
            verified_at: now,
            dirty: true,
            told_at: None,
            acks_since: None,
            unsaid: None,
        }
    }

    /// Works until the share is stopped.
    pub(crate) fn run(mut self, runtime: &Handle, mut inbox: mpsc::Receiver<Event>) {
        // Its clock is the runtime's.
        let _within = runtime.enter();
        loop {
            self.act();
            let deadline = self.deadline();
            let first = runtime.block_on(self.wait(&mut inbox, deadline));
            if !self.take_turn(first, &mut inbox) {
                break;
            }
        }
        self.end();
    }

    /// All that a turn brings with it, once what has happened is taken in.
    pub(crate) fn act(&mut self) {
        self.reopen_if_due();
        self.note_the_time();
        if let Err(error) = self.work() {
            self.fail(error.to_string());
        }
        self.tell();
    }

    /// Within a turn it is one time.
    fn note_the_time(&mut self) {
        if let Some(open) = &mut self.open {
            (open.work.now, open.wall) = (self.outside.now(), self.outside.wall());
            open.replica.wall = open.wall;
        }
    }

    /// Makes durable what is decided, and ends.
    pub(crate) fn end(&mut self) {
        if let Some(open) = &mut self.open
            && let Err(error) = open.replica.raise_generation(&*open.folder)
        {
            tracing::warn!(share = %self.config.name, %error, "not everything became durable");
        }
        self.close();
    }

    /// Takes in what has happened, and whatever else has by now. Whether the share goes on.
    pub(crate) fn take_turn(&mut self, first: Turn, inbox: &mut mpsc::Receiver<Event>) -> bool {
        self.note_the_time();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(turn) = next {
            let taken_in = match turn {
                Turn::Event(Event::Command(Command::Stop)) | Turn::End => return false,
                Turn::Event(event) => self.happened(event),
                Turn::Scan(event) => self.scanned(event),
                Turn::Hint(hint) => {
                    self.hinted(hint);
                    Ok(())
                }
                Turn::Fetched(outcomes) => self.fetched(outcomes),
                Turn::TimePassed => Ok(()),
            };
            if let Err(error) = taken_in {
                self.fail(error.to_string());
            }
            taken += 1;
            next = if taken < EVENTS_A_TURN { self.waiting(inbox) } else { None };
        }
        true
    }

    async fn wait(&mut self, inbox: &mut mpsc::Receiver<Event>, deadline: Instant) -> Turn {
        let time = tokio::time::sleep_until(deadline);
        let Some(open) = &mut self.open else {
            return tokio::select! {
                event = inbox.recv() => event.map_or(Turn::End, Turn::Event),
                () = time => Turn::TimePassed,
            };
        };
        tokio::select! {
            event = inbox.recv() => event.map_or(Turn::End, Turn::Event),
            Some(event) = open.hands.scan_events.recv() => Turn::Scan(event),
            Some(hint) = open.hints.recv() => Turn::Hint(hint),
            Some(outcomes) = open.hands.outcomes.recv() => Turn::Fetched(outcomes),
            () = time => Turn::TimePassed,
        }
    }

    /// Something that has happened already, if anything.
    fn waiting(&mut self, inbox: &mut mpsc::Receiver<Event>) -> Option<Turn> {
        if let Ok(event) = inbox.try_recv() {
            return Some(Turn::Event(event));
        }
        let open = self.open.as_mut()?;
        if let Ok(outcomes) = open.hands.outcomes.try_recv() {
            return Some(Turn::Fetched(outcomes));
        }
        if let Ok(event) = open.hands.scan_events.try_recv() {
            return Some(Turn::Scan(event));
        }
        open.hints.try_recv().ok().map(Turn::Hint)
    }

    fn happened(&mut self, event: Event) -> Result<(), StoreError> {
        match event {
            Event::LinkUp { source, control, fresh } => self.link_up(source, control, fresh),
            Event::LinkDown(link) => {
                self.link_down(link);
                Ok(())
            }
            Event::Control(link, message) => self.heard(link, *message),
            Event::Mismatch(content) => self.verify_content(content),
            Event::Check(call) => self.check_called(call),
            Event::Suspect(key) if self.is_known_damage(&key) => Ok(()),
            Event::Suspect(key) => {
                self.want_scan(Scope::Paths([key].into()));
                Ok(())
            }
            Event::Command(command) => self.commanded(command),
        }
    }

    fn commanded(&mut self, command: Command) -> Result<(), StoreError> {
        match command {
            Command::Confirm(answer) => {
                let outcome = self.of_held(Self::confirm)?;
                // Whoever asked may have gone.
                let _ = answer.send(outcome);
            }
            Command::Revert(answer) => {
                let outcome = self.of_held(Self::revert)?;
                let _ = answer.send(outcome);
            }
            Command::Rescan => self.want_scan(Scope::Whole),
            Command::SetPeers(peers) => self.set_peers(peers),
            Command::Stop => {}
        }
        Ok(())
    }

    /// Plans, puts in place, makes durable, and speaks, in the order that durability asks for.
    fn work(&mut self) -> Result<(), StoreError> {
        self.look_at_the_clock()?;
        self.plan()?;
        self.apply_ready()?;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.send_jobs();
        let now = self.outside.now();
        let acks_due = self.acks_since.is_some_and(|since| now - since >= ACKS_WAIT);
        if open.replica.has_changes() || acks_due {
            self.flush()?;
        }
        self.look_at_held()?;
        let all_said = self.speak_to_all()?;
        self.unsaid = (!all_said).then(|| self.outside.now() + SPEAK_AGAIN);
        Ok(())
    }

    fn look_at_the_clock(&mut self) -> Result<(), StoreError> {
        let now = self.outside.now();
        let guard = self.guard();
        if self.gone.due(&guard).is_some_and(|due| due <= now) {
            self.believe_gone()?;
        }
        let rescan = self.scanned_at.map(|at| at + self.config.rescan_interval);
        if rescan.is_some_and(|due| due <= now) {
            self.scanned_at = Some(now);
            self.want_scan(Scope::Whole);
        }
        self.read_again(now);
        if now.duration_since(self.verified_at) >= VERIFY_EVERY {
            self.verified_at = now;
            if let Some(Err(error)) = self.open.as_ref().map(|open| open.folder.verify()) {
                self.fail(error.to_string());
            }
            self.watch_again();
        }
        Ok(())
    }

    /// When to wake up though nothing happens.
    pub(crate) fn deadline(&self) -> Instant {
        let now = self.outside.now();
        let telling = self.dirty.then(|| self.told_at.map_or(now, |at| at + TELL_EVERY));
        let common = [telling, Some(now + VERIFY_EVERY)];
        let own = match &self.open {
            None => [
                (!self.config.paused).then_some(self.reopen_at),
                None,
                None,
                None,
                None,
                None,
                None,
            ],
            Some(open) => [
                self.gone.due(&self.guard()),
                self.scanned_at.map(|at| at + self.config.rescan_interval),
                open.work.next_deferred(),
                open.work.can_go_on().then_some(now),
                self.unsaid,
                self.acks_since.map(|since| since + ACKS_WAIT),
                open.unread.due(),
            ],
        };
        own.into_iter().chain(common).flatten().min().unwrap_or(now + VERIFY_EVERY)
    }

    /// Makes durable whatever was decided.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        self.acks_since = None;
        self.dirty = true;
        self.open.as_mut().map_or(Ok(()), |open| open.replica.flush())
    }

    /// Tells people, unless they were told a moment ago.
    fn tell(&mut self) {
        let now = self.outside.now();
        let lately = self.told_at.is_some_and(|at| now - at < TELL_EVERY);
        if !self.dirty || lately {
            return;
        }
        self.dirty = false;
        self.told_at = Some(now);
        self.told.send_replace(self.snapshot());
        self.around.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
