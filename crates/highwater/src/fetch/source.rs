//! One link to a peer, as a source of content.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::choice::Candidate;
use highwater_core::window::Window;
use highwater_core::wire::{Ask, Content, Goodbye, RequestId};
use highwater_core::{NodeId, ShareName, Time};
use highwater_net::LinkHandle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::lines::Meter;
use crate::router::{Inbox, Router};

/// Names one link of this process for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct LinkId(pub(crate) u64);

/// What carries a link: it can be asked how long it is, and be closed.
pub(crate) trait Line: Debug + Send + Sync {
    /// The shortest round trip, once measured.
    fn round_trip_min(&self) -> Option<Duration>;
    /// Whether the peer owes an answer for too long.
    fn is_silent(&self) -> bool {
        false
    }
    /// What its transfers have lately delivered, in bytes a second.
    fn rate(&self) -> Option<u64> {
        None
    }
    /// Closes the link, telling the peer why.
    fn close(&self, reason: Goodbye);
}

/// A link of the net, and what is measured on its line.
#[derive(Debug)]
pub(crate) struct LiveLine {
    pub(crate) handle: LinkHandle,
    pub(crate) meter: Arc<Meter>,
}

impl Line for LiveLine {
    fn round_trip_min(&self) -> Option<Duration> {
        self.handle.stats().rtt_min
    }

    fn is_silent(&self) -> bool {
        self.handle.stats().silent
    }

    fn rate(&self) -> Option<u64> {
        self.meter.rate_in()
    }

    fn close(&self, reason: Goodbye) {
        self.handle.close(reason);
    }
}

/// A link that content can be asked of. Shared by all shares of the peer, so that they share its
/// window.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: LinkId,
    pub(crate) peer: NodeId,
    pub(crate) content: mpsc::Sender<Content>,
    pub(crate) router: Router,
    pub(crate) line: Box<dyn Line>,
    window: Mutex<Window>,
    began: Instant,
    /// When it last brought something that was asked of it.
    brought: Mutex<Instant>,
}

impl Source {
    pub(crate) fn new(
        id: LinkId,
        peer: NodeId,
        content: mpsc::Sender<Content>,
        line: Box<dyn Line>,
    ) -> Arc<Self> {
        let (router, window) = (Router::default(), Mutex::default());
        let began = Instant::now();
        Arc::new(Self { id, peer, content, router, line, window, began, brought: began.into() })
    }

    /// How many more bytes may be asked of it now.
    pub(crate) fn room(&self) -> u64 {
        let mut window = self.window();
        if let Some(round_trip) = self.line.round_trip_min() {
            window.set_round_trip(round_trip);
        }
        window.room()
    }

    /// Its recent rate in bytes a second.
    pub(crate) fn rate(&self) -> u64 {
        self.window().rate()
    }

    /// What there is to choose it by.
    pub(crate) fn candidate(&self) -> Candidate {
        let window = self.window();
        Candidate {
            rate: self.line.rate().unwrap_or_else(|| window.rate()),
            round_trip: self.line.round_trip_min().unwrap_or_default(),
            under_way: window.under_way(),
            silent: self.line.is_silent(),
        }
    }

    pub(crate) fn arrived(&self, bytes: u64) {
        *self.brought() = Instant::now();
        self.window().arrived(Time::since_start(self.began.elapsed()), bytes);
    }

    /// For how long it has brought nothing, whoever asked. A request may wait longer: behind others.
    pub(crate) fn idle(&self) -> Duration {
        self.brought().elapsed()
    }

    pub(crate) fn given_up(&self, bytes: u64) {
        self.window().given_up(bytes);
    }

    /// Asks for something that takes `bytes` of the window. `None` when the link is down.
    pub(crate) async fn ask(
        &self,
        share: &ShareName,
        ask: Ask,
        bytes: u64,
        inbox: &Inbox,
    ) -> Option<RequestId> {
        let id = self.router.open(&ask, inbox.clone())?;
        self.window().asked(bytes);
        let request = Content::Request { id, share: share.clone(), ask };
        if self.content.send(request).await.is_err() {
            self.router.close(id);
            self.given_up(bytes);
            return None;
        }
        Some(id)
    }

    fn brought(&self) -> MutexGuard<'_, Instant> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
