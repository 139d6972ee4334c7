//! The task that owns the membership machine.
//!
//! It waits for something to happen or for the machine's deadline, gives it to the machine, and
//! carries out the effects. It never waits for a link: what a full link does not take is owed again;
//! nor for a disk, until it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use highwater_core::member::{Card, Facts, Gossip, Load, Order};
use highwater_core::membership::{Effect, Event, Membership, Message};
use highwater_core::wire::Control;
use highwater_core::{BEAT, NodeId, ShareName, Time};
use highwater_net::{LinkHandle, verify_card, verify_order};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::choose::Choosing;
use super::memory::Memory;
use super::voice::Voice;
use super::{Allowance, Picture, Seen, TaskEnd, Told};
use crate::config::Config;
use crate::engine::Inner;
use crate::fetch::source::LinkId;
use crate::report::VERSION;
use crate::report::event::Happening;
use crate::share::machine::wall_now;

/// Changes are gathered for this long before they are saved: a join of hundreds is one write.
const SAVE_AFTER: Duration = Duration::from_millis(500);
/// How long a node that others ask about has to answer a ping, beside two of its round trips,
const PROBE_PATIENCE: Duration = Duration::from_millis(400);
/// and at most: those who ask wait little longer.
const PROBE_PATIENCE_MAX: Duration = Duration::from_millis(800);
/// Nodes pinged at once because others ask. More would be a storm; those who ask find out otherwise.
const PROBES_MAX: usize = 32;
/// Links asked for a sign of life in a second; each of few is asked every [`PING_EVERY_MIN`].
const LINKS_A_SECOND: u32 = 8;
/// More often would be most of what an idle node does.
const PING_EVERY_MIN: Duration = BEAT;

/// One link.
pub(super) struct Line {
    peer: NodeId,
    control: mpsc::Sender<Control>,
    pub(super) handle: LinkHandle,
    /// Whether this side has dialled.
    pub(super) dialled: bool,
    /// The shares that the peer lists for this node, once it has said so.
    theirs: Option<BTreeSet<ShareName>>,
    joined: bool,
    allowance: Allowance,
}

/// The task.
pub(crate) struct Actor {
    engine: Weak<Inner>,
    pub(super) end: TaskEnd,
    pub(super) machine: Membership,
    began: Instant,
    pub(super) lines: BTreeMap<LinkId, Line>,
    /// Which link of a peer counts: the newest.
    pub(super) current: BTreeMap<NodeId, LinkId>,
    clock_offsets: BTreeMap<NodeId, i64>,
    probes: JoinSet<()>,
    save_at: Option<Instant>,
    saving: Option<JoinHandle<()>>,
    pub(super) choosing: Choosing,
    voice: Voice,
}

/// What this node says about itself.
pub(crate) fn facts(inner: &Inner, config: &Config, incarnation: u64) -> Facts {
    let in_cluster = config.peers.iter().any(|peer| !peer.shares.is_empty());
    let http = *inner.cluster.http_port.lock().unwrap_or_else(PoisonError::into_inner);
    Facts {
        id: inner.node,
        incarnation,
        name: config.node.name.clone(),
        user: config.node.user.clone(),
        version: VERSION.to_owned(),
        mode: if in_cluster { "cluster" } else { "standalone" }.to_owned(),
        host: host(config),
        sync_port: inner.net.local_addr().port(),
        http_port: http.unwrap_or(config.listen.http.port()),
    }
}

/// Where this node is, as far as it can know: the address that it listens on, or its host's name
/// when it listens on all.
fn host(config: &Config) -> String {
    match config.listen.sync.ip() {
        ip if ip.is_unspecified() => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        ip => ip.to_string(),
    }
}

impl Actor {
    /// The task of the node that `inner` is, which begins with `memory`; `own` is its card.
    pub(crate) fn new(inner: &Arc<Inner>, end: TaskEnd, own: Card, memory: Memory) -> Self {
        let began = inner.net.began();
        let now = Time::since_start(began.elapsed());
        let machine = Membership::new(now, own, memory.members, memory.orders);
        let mut actor = Self {
            engine: Arc::downgrade(inner),
            end,
            machine,
            began,
            lines: BTreeMap::new(),
            current: BTreeMap::new(),
            clock_offsets: BTreeMap::new(),
            probes: JoinSet::new(),
            save_at: None,
            saving: None,
            choosing: Choosing::default(),
            voice: Voice::default(),
        };
        actor.choose_links(inner, true);
        actor
    }

    /// Works until it is told to stop or the engine is gone.
    pub(crate) async fn run(mut self) {
        self.expect_peers();
        loop {
            let due = self.began + self.machine.deadline().since(Time::default());
            let due = self.save_at.map_or(due, |save| due.min(save));
            tokio::select! {
                told = self.end.inbox.recv() => match told {
                    None => return,
                    Some(Told::Stop(answer)) => {
                        self.save_and_wait().await;
                        let _ = answer.send(());
                        return;
                    }
                    Some(told) => self.told(told),
                },
                () = sleep_until(due) => {
                    if self.engine.strong_count() == 0 {
                        return;
                    }
                    self.time_passed();
                }
            }
            if self.save_at.is_some_and(|at| at <= Instant::now()) {
                self.save();
            }
        }
    }

    fn now(&self) -> Time {
        Time::since_start(self.began.elapsed())
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::LinkUp { link, peer, control, handle, dialled } => {
                let shares = self.shares_for(&peer);
                // A full queue is impossible on a link that has just come up.
                let _ = control.try_send(Control::Kin(shares));
                let allowance = Allowance::default();
                let line =
                    Line { peer, control, handle, dialled, theirs: None, joined: false, allowance };
                self.lines.insert(link, line);
            }
            Told::LinkDown { link, parted } => self.link_down(link, parted),
            Told::Silence(link) => self.listen(link),
            Told::Control { link, message } => self.heard(link, *message),
            Told::Changed => self.changed(),
            Told::Decide { target, removed, answer } => {
                let _ = answer.send(self.decide(target, removed));
            }
            Told::Show(answer) => drop(answer.send(self.picture())),
            Told::Stop(_) => {}
        }
    }

    fn time_passed(&mut self) {
        let links: Vec<LinkId> = self.current.values().copied().collect();
        links.into_iter().for_each(|link| self.listen(link));
        let (requests, failures, answer_micros) = self.end.answers.totals();
        let connections = self.lines.len() as u32;
        self.handle(Event::Load(Load { connections, requests, failures, answer_micros }));
        self.handle(Event::TimePassed);
        while self.probes.try_join_next().is_some() {}
        if let Some(count) = self.voice.left_out(Instant::now()) {
            tracing::info!(
                "{count} more changes of members; `highwater cluster nodes` has them all"
            );
        }
        if let Some(engine) = self.engine.upgrade() {
            self.choose_links(&engine, false);
        }
    }

    /// Notes when the other side of a link was last heard, if the link is the one that counts.
    fn listen(&mut self, link: LinkId) {
        let Some(line) = self.lines.get(&link) else { return };
        let (peer, stats) = (line.peer, line.handle.stats());
        if self.current.get(&peer) == Some(&link) {
            let ago = stats.last_heard.elapsed();
            self.handle(Event::Heard { peer, ago, silent: stats.silent });
        }
    }

    fn link_down(&mut self, link: LinkId, parted: bool) {
        let Some(line) = self.lines.remove(&link) else { return };
        if self.current.get(&line.peer) != Some(&link) {
            return;
        }
        self.current.remove(&line.peer);
        let other = self.lines.iter().find(|(_, other)| other.peer == line.peer && other.joined);
        match other.map(|(link, _)| *link) {
            Some(other) => {
                self.current.insert(line.peer, other);
                self.handle(Event::LinkUp(line.peer));
            }
            None if parted => self.handle(Event::LinkClosed(line.peer)),
            None => self.handle(Event::LinkDown(line.peer)),
        }
        self.set_pace();
    }

    fn heard(&mut self, link: LinkId, message: Control) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        if let Control::Kin(shares) = message {
            line.theirs = Some(shares.into_iter().collect());
            return self.join(link);
        }
        let peer = line.peer;
        // Whoever has no share in common with this node learns nothing and is believed nothing.
        if !line.joined || self.current.get(&peer) != Some(&link) {
            return;
        }
        match message {
            Control::Roll(rows) => self.handle(Event::Roll(peer, rows)),
            Control::News(gossip) => self.news(link, peer, gossip),
            Control::Probe { target, number } => self.probe(link, target, number),
            Control::Probed { number, alive } => self.handle(Event::Probed { number, alive }),
            Control::Vitals(vitals) => {
                self.note_clock(link, peer, vitals.wall_millis);
                self.handle(Event::Vitals(peer, vitals));
            }
            _ => {}
        }
    }

    /// Takes up the link if both sides have a share in common, and lets it go if they have not.
    fn join(&mut self, link: LinkId) {
        let Some(peer) = self.lines.get(&link).map(|line| line.peer) else { return };
        let ours = self.shares_for(&peer);
        let Some(line) = self.lines.get_mut(&link) else { return };
        let common = |theirs: &BTreeSet<ShareName>| ours.iter().any(|share| theirs.contains(share));
        let joins = line.theirs.as_ref().is_some_and(common);
        match (line.joined, joins) {
            (false, true) => {
                line.joined = true;
                self.current.insert(peer, link);
                self.handle(Event::LinkUp(peer));
            }
            (true, false) => {
                line.joined = false;
                if self.current.get(&peer) == Some(&link) {
                    self.current.remove(&peer);
                    self.handle(Event::LinkClosed(peer));
                }
            }
            _ => {}
        }
        self.set_pace();
    }

    /// Verifies what is new and gives it to the machine.
    fn news(&mut self, link: LinkId, peer: NodeId, gossip: Gossip) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        let (mut cards, mut orders): (Vec<Card>, Vec<Order>) = Default::default();
        for card in gossip.cards {
            let known = card == *self.machine.own().sealed();
            let news = self.machine.is_news(&card.facts.id, card.facts.incarnation);
            if news && !known && line.allowance.take() {
                cards.extend(verify_card(card));
            }
        }
        for order in gossip.orders {
            if self.machine.is_order_news(&order.decision) && line.allowance.take() {
                orders.extend(verify_order(order));
            }
        }
        self.handle(Event::News(peer, cards, gossip.claims, orders));
    }

    /// A neighbour asks whether this node reaches another.
    fn probe(&mut self, from: LinkId, target: NodeId, number: u64) {
        let Some(asker) = self.lines.get(&from).map(|line| line.control.clone()) else { return };
        let line = self.current.get(&target).and_then(|link| self.lines.get(link));
        let handle = line.map(|line| line.handle.clone()).filter(|handle| !handle.stats().silent);
        let Some(handle) = handle else {
            // On a full link the question goes unanswered, which says the same.
            let _ = asker.try_send(Control::Probed { number, alive: false });
            return;
        };
        let usual = handle.stats().rtt.unwrap_or_default() * 2;
        let patience = (PROBE_PATIENCE + usual).min(PROBE_PATIENCE_MAX);
        if self.probes.len() < PROBES_MAX {
            self.probes.spawn(async move {
                let alive = handle.answers(patience).await;
                let _ = asker.try_send(Control::Probed { number, alive });
            });
        }
    }

    fn note_clock(&mut self, link: LinkId, peer: NodeId, theirs: u64) {
        let trip = self.lines.get(&link).and_then(|line| line.handle.stats().rtt);
        let way = trip.map_or(0, |trip| trip.as_millis() as i64 / 2);
        let now = wall_now().0 as i64;
        let offset = (theirs.min(i64::MAX as u64) as i64).saturating_add(way).saturating_sub(now);
        self.clock_offsets.insert(peer, offset);
    }

    /// The configuration or the node's own address has changed.
    fn changed(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        let config = engine.config().clone();
        let now = self.machine.own().facts().clone();
        if facts(&engine, &config, now.incarnation) != now {
            self.sign(now.incarnation + 1);
        }
        let links: Vec<LinkId> = self.lines.keys().copied().collect();
        for link in links {
            if let Some(line) = self.lines.get(&link) {
                let kin = Control::Kin(self.shares_for(&line.peer));
                // On a full link the peer goes on with what it was told; the next change says more.
                let _ = line.control.try_send(kin);
            }
            self.join(link);
        }
        self.choose_links(&engine, true);
    }

    /// Members that there should be links to are missed if none comes up.
    fn expect_peers(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        let listed: Vec<NodeId> = engine.config().peers.iter().map(|peer| peer.id).collect();
        let listed = listed.into_iter().filter(|peer| engine.cluster.wants(peer));
        listed.for_each(|peer| self.handle(Event::Expected(peer)));
    }

    fn decide(&mut self, target: NodeId, removed: bool) -> Result<(), String> {
        let decision = self.machine.decide(target, removed).map_err(|error| error.to_string())?;
        let engine = self.engine.upgrade().ok_or("the node is stopping")?;
        let order = engine.net.seal_order(decision).ok_or("this node's key signs nothing")?;
        self.handle(Event::Ordered(order));
        Ok(())
    }

    fn shares_for(&self, peer: &NodeId) -> Vec<ShareName> {
        let Some(engine) = self.engine.upgrade() else { return Vec::new() };
        let config = engine.config();
        let listed = config.peers.iter().find(|listed| listed.id == *peer);
        listed.map(|peer| peer.shares.clone()).unwrap_or_default()
    }

    fn set_pace(&self) {
        let Some(engine) = self.engine.upgrade() else { return };
        let every = match self.current.len() {
            0 => Duration::MAX,
            links => (Duration::from_secs(links as u64) / LINKS_A_SECOND).max(PING_EVERY_MIN),
        };
        engine.net.set_pace(every);
    }

    fn picture(&self) -> Picture {
        let now = self.now();
        let seen =
            |view: highwater_core::membership::View| Seen { ago: now.since(view.seen), view };
        let linked = |peer: &&NodeId| self.current.contains_key(peer);
        let offsets = self.clock_offsets.keys().filter(linked);
        Picture {
            members: self.machine.views(now).into_iter().map(seen).collect(),
            clock_offsets: offsets.map(|peer| (*peer, self.clock_offsets[peer])).collect(),
        }
    }

    /// Gives the machine an event and carries out what it decides.
    fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.machine.handle(self.now(), event, &mut effects);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(peer, message) => self.send(peer, message),
            Effect::Sign(incarnation) => self.sign(incarnation),
            Effect::Save => {
                self.save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
            }
            Effect::Changed(node, from, to) => {
                let name = self.name_of(&node);
                if let Some(engine) = self.engine.upgrade() {
                    let is_peer = engine.config().peers.iter().any(|peer| peer.id == node);
                    if is_peer || self.voice.may(Instant::now()) {
                        tracing::info!(%node, %name, "a member of the cluster is {to}");
                    }
                    engine.happened(Happening::Member { node_id: node, name, from, to });
                    engine.tick();
                }
            }
            Effect::Admissions => {
                let removed = self.machine.removed().map(|decision| decision.target).collect();
                *self.end.removed.lock().unwrap_or_else(PoisonError::into_inner) = removed;
                if let Some(engine) = self.engine.upgrade() {
                    engine.set_peers();
                }
            }
        }
    }

    fn name_of(&self, node: &NodeId) -> String {
        self.machine.card_of(node).map(|card| card.facts().name.clone()).unwrap_or_default()
    }

    /// Signs a new card of this node.
    fn sign(&mut self, incarnation: u64) {
        let Some(engine) = self.engine.upgrade() else { return };
        if incarnation <= self.machine.own().facts().incarnation {
            return;
        }
        let facts = facts(&engine, &engine.config().clone(), incarnation);
        match engine.net.seal_card(facts) {
            Some(card) => self.handle(Event::OwnCard(card)),
            None => tracing::error!("this node's card cannot be signed; others keep the last one"),
        }
    }

    fn send(&mut self, peer: NodeId, message: Message) {
        let line = self.current.get(&peer).and_then(|link| self.lines.get(link));
        let Some(line) = line else { return };
        let control = match message.clone() {
            Message::Roll(rows) => Control::Roll(rows),
            Message::News(gossip) => Control::News(gossip),
            Message::Probe { target, number } => Control::Probe { target, number },
            Message::Vitals(mut vitals) => {
                vitals.wall_millis = wall_now().0;
                Control::Vitals(vitals)
            }
        };
        if line.control.try_send(control).is_err() {
            self.machine.unsent(peer, &message);
        }
    }

    /// Begins to save what is known, unless the disk is still at the last of it: then a little later.
    fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            self.save_at = Some(Instant::now() + SAVE_AFTER);
            return;
        }
        self.save_at = None;
        let Some(engine) = self.engine.upgrade() else { return };
        let (members, orders) = self.machine.saved();
        let incarnation = self.machine.own().facts().incarnation;
        let path = engine.home.members_path();
        let memory = Memory { incarnation, members, orders };
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = memory.save(&path) {
                tracing::warn!("cannot save who is in the cluster: {error}; check the disk");
            }
        }));
    }

    /// Saves what is known, at the end.
    async fn save_and_wait(&mut self) {
        // What may be under way was begun before the latest news.
        self.saved().await;
        self.save();
        self.saved().await;
    }

    async fn saved(&mut self) {
        if let Some(saving) = self.saving.take() {
            // A panic was logged where it was.
            let _ = saving.await;
        }
    }
}
