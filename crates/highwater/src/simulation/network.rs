//! The links between played nodes: messages in order while a link is up, lost when it is cut, and
//! an end that each side learns of in its own time.

use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::NodeId;
use highwater_core::wire::Control;
use tokio::sync::mpsc;

use super::crew::PlayedLine;
use crate::fetch::source::{LinkId, Source};

/// Control messages that one end of a link takes before it says that it is full, as the real one.
const CONTROL_MAX: usize = 64;

/// One side of a link.
#[derive(Debug)]
pub(super) struct End {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) id: LinkId,
    pub(super) source: Arc<Source>,
    pub(super) outgoing: mpsc::Receiver<Control>,
    closed: Arc<Mutex<Option<highwater_core::wire::Goodbye>>>,
    /// Nothing sent from here arrives before what was sent before it.
    pub(super) last_arrival: u64,
}

impl End {
    /// The end of a link at `node`; the sender is what its share speaks into.
    pub(super) fn new(
        node: usize,
        life: u64,
        id: u64,
        peer: NodeId,
    ) -> (Self, mpsc::Sender<Control>) {
        let (control, outgoing) = mpsc::channel(CONTROL_MAX);
        let closed = Arc::default();
        let (content, _) = mpsc::channel(1);
        let line = PlayedLine(Arc::clone(&closed));
        let source = Source::new(LinkId(id), peer, content, Box::new(line));
        let id = LinkId(id);
        (Self { node, life, id, source, outgoing, closed, last_arrival: 0 }, control)
    }

    /// Whether this side has closed the link.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The link between two nodes, if there is one.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) ends: Option<[End; 2]>,
    /// Nobody gets through.
    pub(super) cut: bool,
    /// Somebody is going to dial.
    pub(super) dialling: bool,
}

impl Wire {
    /// Whether one of its ends is this life of a node.
    pub(super) fn joins(&self, node: usize, life: u64) -> bool {
        let ends = self.ends.iter().flatten();
        ends.into_iter().any(|end| end.node == node && end.life == life)
    }

    /// Whether messages of this link still arrive.
    pub(super) fn carries(&self, link: LinkId) -> bool {
        self.ends.as_ref().is_some_and(|ends| ends.iter().any(|end| end.id == link))
    }
}
