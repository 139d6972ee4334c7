//! Brings what comes over links to the shares, and keeps what the net warned of.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::quality::Way;
use highwater_core::wire::{Content, Control, Goodbye, Reply};
use highwater_core::{NodeId, ShareName};
use highwater_net::{DownReason, Link, LinkHandle, WarningKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Inner;
use crate::check::member::Reach;
use crate::check::talk::Talk;
use crate::cluster::Told;
use crate::fetch::source::{LinkId, LiveLine, Source};
use crate::lines::Meter;
use crate::report::Problem;
use crate::report::event::Happening;
use crate::serve::{Service, Tally};
use crate::share::Event;

/// How long a warning is shown after it was last given. The net repeats one that persists.
const WARNING_SHOWN: Duration = Duration::from_secs(30);

/// Comings and goings of one peer that are told within this time: a line that flaps is seen, and
/// one that does nothing else costs a line in six seconds.
const TOLD_MAX: usize = 10;
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// What is needed to make a link known to a share.
type LinksUp = BTreeMap<LinkId, Up>;

/// One link that is up.
#[derive(Debug, Clone)]
struct Up {
    source: Arc<Source>,
    control: mpsc::Sender<Control>,
    talk: Arc<Talk>,
}

/// The links that are up.
#[derive(Debug, Default)]
pub(super) struct Links {
    last: AtomicU64,
    up: Mutex<LinksUp>,
    told: Mutex<BTreeMap<NodeId, VecDeque<Instant>>>,
}

impl Links {
    fn next_id(&self) -> LinkId {
        LinkId(self.last.fetch_add(1, Ordering::Relaxed))
    }

    /// The latest link to a peer, for the questions of checks.
    pub(super) fn talk_with(&self, peer: &NodeId) -> Option<(Arc<Talk>, mpsc::Sender<Control>)> {
        let up = self.up();
        let link = up.values().rev().find(|up| up.source.peer == *peer)?;
        Some((Arc::clone(&link.talk), link.control.clone()))
    }

    /// Whether the coming or going of a link to `peer` goes to the log: a peer that comes and goes
    /// without end must not fill it.
    fn is_worth_telling(&self, peer: NodeId) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = told.entry(peer).or_default();
        lines.retain(|at| at.elapsed() < TOLD_WITHIN);
        let worth = lines.len() < TOLD_MAX;
        if worth {
            lines.push_back(Instant::now());
        }
        worth
    }

    fn up(&self) -> MutexGuard<'_, LinksUp> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A link has come up: tells the shares that list the peer, and begins to read it.
    pub(super) fn link_up(self: &Arc<Self>, link: Link) {
        let Link { peer, control, content, control_in, content_in, handle, hello, addr, dialled } =
            link;
        if self.links.is_worth_telling(peer) {
            tracing::info!(%peer, name = %hello.name, %addr, "connected");
        }
        self.lookout.met(peer, hello.version.clone());
        let id = self.links.next_id();
        let meter = self.lines.link_up(id, peer, handle.clone());
        let line = Box::new(LiveLine { handle: handle.clone(), meter: Arc::clone(&meter) });
        let source = Source::new(id, peer, content.clone(), line);
        let talk = Arc::new(Talk::default());
        let up =
            Up { source: Arc::clone(&source), control: control.clone(), talk: Arc::clone(&talk) };
        self.links.up().insert(source.id, up);
        let tally = Tally { answers: Arc::clone(&self.cluster.answers), meter: Arc::clone(&meter) };
        let service = Service::start(peer, Arc::clone(&self.desks), content, tally);
        let reading = Reading { source: Arc::clone(&source), service, meter };
        tokio::spawn(read_content(Arc::clone(self), content_in, reading));
        let up = LinkedUp { source, talk, handle, control, dialled };
        tokio::spawn(read_control(Arc::clone(self), up, control_in));
    }

    /// The newest link to a peer, to ask something of it directly.
    pub(super) fn source_of(&self, peer: &NodeId) -> Option<Arc<Source>> {
        let up = self.links.up();
        let newest = up.values().rev().find(|up| up.source.peer == *peer);
        newest.map(|up| Arc::clone(&up.source))
    }

    /// Makes known every link that is up to every share that lists its peer.
    pub(super) async fn join_links(&self) {
        let up: Vec<_> = self.links.up().values().cloned().collect();
        for Up { source, control, .. } in up {
            self.announce(&source, &control, false).await;
        }
    }

    async fn announce(&self, source: &Arc<Source>, control: &mpsc::Sender<Control>, fresh: bool) {
        for share in self.desks.all().into_keys() {
            let (source, control) = (Arc::clone(source), control.clone());
            let peer = source.peer;
            self.send(&share, &peer, Event::LinkUp { source, control, fresh }).await;
        }
    }

    /// Sends an event to a share, if it lists the peer that the event comes from.
    async fn send(&self, share: &ShareName, peer: &NodeId, event: Event) {
        let desk = self.desks.open_to(share, peer);
        if let Some(events) = desk.and_then(|desk| desk.events.upgrade()) {
            // A share that is ending needs to know nothing more.
            let _ = events.send(event).await;
        }
    }
}

/// A link that has come up, as those who read it know it.
struct LinkedUp {
    source: Arc<Source>,
    talk: Arc<Talk>,
    handle: LinkHandle,
    control: mpsc::Sender<Control>,
    dialled: bool,
}

async fn read_control(
    engine: Arc<Inner>,
    linked: LinkedUp,
    mut control_in: mpsc::Receiver<Control>,
) {
    let LinkedUp { source, talk, handle, control, dialled } = linked;
    let (link, peer) = (source.id, source.peer);
    let told = (control.clone(), handle.clone());
    let up = Told::LinkUp { link, peer, control: told.0, handle: told.1, dialled };
    engine.cluster.tell(up).await;
    engine.happened(Happening::Link { node_id: peer, connected: true, reason: String::new() });
    engine.announce(&source, &control, true).await;
    let (answers, reach) = (control.downgrade(), Arc::clone(&engine) as Arc<dyn Reach>);
    drop(control);
    let mut silence = handle.silence();
    loop {
        let message = tokio::select! {
            biased;
            message = control_in.recv() => message,
            Ok(()) = silence.changed() => {
                engine.cluster.tell(Told::Silence(link)).await;
                continue;
            }
        };
        let Some(message) = message else { break };
        let message = talk.heard(&engine.desks, &reach, source.peer, &answers, message);
        let Some(message) = message else { continue };
        let Some(share) = share_of(&message).cloned() else {
            engine.cluster.tell(Told::Control { link, message: Box::new(message) }).await;
            continue;
        };
        let event = Event::Control(source.id, Box::new(message));
        engine.send(&share, &source.peer, event).await;
    }
    engine.links.up().remove(&source.id);
    talk.ended();
    let reason = handle.closed().await;
    let parted = matches!(
        reason,
        DownReason::Closed(Goodbye::NotAPeer | Goodbye::NotNeeded)
            | DownReason::ClosedByPeer(Goodbye::NotAPeer | Goodbye::NotNeeded)
    );
    engine.lines.link_down(link);
    let why = reason.to_string();
    engine.happened(Happening::Link { node_id: peer, connected: false, reason: why });
    engine.cluster.tell(Told::LinkDown { link, parted }).await;
    if engine.links.is_worth_telling(source.peer) {
        tracing::info!(peer = %source.peer, %reason, "disconnected");
    }
    for desk in engine.desks.all().into_values() {
        if let Some(events) = desk.events.upgrade() {
            // As above.
            let _ = events.send(Event::LinkDown(source.id)).await;
        }
    }
}

/// Who reads what comes on a content stream.
struct Reading {
    source: Arc<Source>,
    service: Service,
    meter: Arc<Meter>,
}

async fn read_content(
    engine: Arc<Inner>,
    mut content_in: mpsc::Receiver<Content>,
    reading: Reading,
) {
    let Reading { source, service, meter } = reading;
    while let Some(message) = content_in.recv().await {
        match message {
            Content::Reply { id, reply } => {
                meter.moved(Way::In, reply.content_bytes());
                let is_long = matches!(reply, Reply::Bytes(_) | Reply::Manifest { .. });
                source.router.deliver(id, reply);
                // Whoever asked was just woken on this thread, and no other thread takes it over: a
                // reader that goes on would queue all that has arrived, megabytes of it.
                if is_long {
                    tokio::task::yield_now().await;
                }
            }
            Content::Request { id, share, ask } => {
                if service.asked(id, share, ask).is_err() {
                    source.line.close(Goodbye::Misbehaved);
                }
            }
            Content::Cancel(id) => service.cancel(id),
            Content::Mismatch { share, content, .. } => {
                engine.send(&share, &source.peer, Event::Mismatch(content)).await;
            }
            Content::Acked(acked) => {
                tracing::trace!(peer = %source.peer, content = %acked.content, acked.offset, "acked");
            }
        }
    }
    source.router.fail_all();
}

/// The share that a message is about; what is about none is the cluster's.
fn share_of(message: &Control) -> Option<&ShareName> {
    match message {
        Control::Offer(offer) => Some(&offer.share),
        Control::Withdraw(share) => Some(share),
        Control::Batch(batch) => Some(&batch.share),
        Control::Ack(ack) => Some(&ack.share),
        Control::Standing(standing) => Some(&standing.share),
        _ => None,
    }
}

/// What the net warned of lately, the latest of each kind and peer.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<BTreeMap<About, (Instant, String)>>);

/// What a warning is about.
type About = (Option<NodeId>, WarningKind);

impl Warnings {
    pub(super) fn add(&self, peer: Option<NodeId>, kind: WarningKind, message: String) {
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.retain(|_, (at, _)| at.elapsed() < WARNING_SHOWN);
        warnings.insert((peer, kind), (Instant::now(), message));
    }

    pub(super) fn report(&self) -> Vec<Problem> {
        let warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = warnings.iter().filter(|(_, (at, _))| at.elapsed() < WARNING_SHOWN);
        let problem = |((_, kind), (_, message)): (&About, &(Instant, String))| Problem {
            path: String::new(),
            kind: word(*kind).to_owned(),
            message: message.clone(),
        };
        shown.map(problem).collect()
    }
}

fn word(kind: WarningKind) -> &'static str {
    match kind {
        WarningKind::IdentityInUse => "identity_in_use",
        WarningKind::WrongIdentity => "wrong_identity",
        WarningKind::Refused => "refused",
        WarningKind::Stranger => "stranger",
        WarningKind::Misbehaved => "misbehaved",
        WarningKind::Protocol => "protocol",
    }
}
