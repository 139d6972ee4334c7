//! One connection from the greeting to the goodbye.
//!
//! A [`Session`] is a connection on which both sides have said Hello. It becomes a [`Link`] when
//! the peer's task has chosen it ([`Session::into_link`]); until then it can only be dismissed.
//! [`Driver::run`] then carries it: frames in, probes, the goodbye. Frames out need no task: the
//! outgoing streams read the engine's channels themselves.
//!
//! Whatever ends a session, the connection is cut at the end of it, so that nothing of it lingers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use highwater_core::NodeId;
use highwater_core::wire::{Content, Control, Goodbye, Hello, PROTOCOL};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::clock::Clock;
use crate::events::{DownReason, Link, LinkHandle, LinkShared};
use crate::link::{Health, Pace};
use crate::peer::HealthReport;
use crate::proto;
use crate::socket::{CutOnDrop, Wire};
use crate::wire::{self, BadFrame};

/// Control messages waiting in either direction. Batches are limited to a few in flight by the
/// protocol, so this is never full for long.
const CONTROL_QUEUE_MAX: usize = 64;
/// Content messages waiting in either direction: 8 MiB of the largest.
const CONTENT_QUEUE_MAX: usize = 32;
/// Probes and their answers waiting to be sent. A peer that pings faster than they leave gets no
/// answers to the rest.
const URGENT_QUEUE_MAX: usize = 16;
/// How long the peer's next step may take while a link is set up: two round trips of a line with
/// a latency of 2 s.
const GREETING_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a goodbye is given to arrive before the connection is cut.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// The sending ends of a session's outgoing streams.
pub(crate) struct Outlets {
    pub(crate) urgent: mpsc::Sender<Control>,
    pub(crate) control: mpsc::Sender<Control>,
}

/// The outgoing control stream: probes and goodbyes first, then the engine's messages. It ends
/// with a goodbye.
pub(crate) struct ControlOut {
    urgent: mpsc::Receiver<Control>,
    control: mpsc::Receiver<Control>,
    wire: Arc<Wire>,
    ended: bool,
}

/// An outgoing control stream and what feeds it. `hello` is on it already, as its first message.
pub(crate) fn control_out(wire: Arc<Wire>, hello: &Hello) -> (Outlets, ControlOut) {
    let (urgent, urgent_rx) = mpsc::channel(URGENT_QUEUE_MAX);
    let (control, control_rx) = mpsc::channel(CONTROL_QUEUE_MAX);
    // A new queue has room for one message.
    let _ = urgent.try_send(Control::Hello(hello.clone()));
    let out = ControlOut { urgent: urgent_rx, control: control_rx, wire, ended: false };
    (Outlets { urgent, control }, out)
}

impl Stream for ControlOut {
    type Item = proto::ControlFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.urgent.poll_recv(cx) {
            Poll::Ready(Some(message)) => {
                self.ended = matches!(message, Control::Goodbye(_));
                return Poll::Ready(Some(message.into()));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        match self.control.poll_recv(cx) {
            Poll::Ready(Some(message)) => {
                mark_active(&self.wire, &message);
                Poll::Ready(Some(message.into()))
            }
            // The engine has let go of its end; the stream ends with the goodbye all the same.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// The outgoing content stream.
pub(crate) struct ContentOut {
    content: mpsc::Receiver<Content>,
    wire: Arc<Wire>,
}

/// An outgoing content stream and what feeds it.
pub(crate) fn content_out(wire: Arc<Wire>) -> (mpsc::Sender<Content>, ContentOut) {
    let (sender, content) = mpsc::channel(CONTENT_QUEUE_MAX);
    (sender, ContentOut { content, wire })
}

impl Stream for ContentOut {
    type Item = proto::ContentFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = std::task::ready!(self.content.poll_recv(cx));
        self.wire.mark_active();
        Poll::Ready(message.map(proto::ContentFrame::from))
    }
}

/// Both streams of one connection in both directions, before the first frame.
pub(crate) struct Streams {
    pub(crate) peer: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) connection: CutOnDrop,
    pub(crate) outlets: Outlets,
    pub(crate) content: mpsc::Sender<Content>,
    pub(crate) control_in: Streaming<proto::ControlFrame>,
    pub(crate) content_in: Streaming<proto::ContentFrame>,
    /// The dialling side's end of the connection, which lives as long as this does.
    pub(crate) channel: Option<Channel>,
}

/// Why the greeting came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    #[error("the peer did not greet within {} s", GREETING_TIMEOUT.as_secs())]
    Silent,
    #[error("the peer closed the connection ({0:?})")]
    Goodbye(Goodbye),
    #[error("the peer speaks protocol {0}, this node speaks {PROTOCOL}; update the older one")]
    Protocol(u32),
    #[error("the peer broke the protocol: {0}")]
    Misbehaved(String),
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Streams {
    /// Waits for the peer's Hello; ours is on its way.
    pub(crate) async fn greet(mut self) -> Result<Session, GreetingError> {
        match self.next_control().await {
            Ok(Control::Hello(hello)) if hello.protocol == PROTOCOL => {
                Ok(Session { hello, streams: self })
            }
            Ok(Control::Hello(hello)) => {
                self.dismiss(Goodbye::Protocol).await;
                Err(GreetingError::Protocol(hello.protocol))
            }
            Ok(_) => {
                let error = GreetingError::Misbehaved("it did not greet first".to_owned());
                Err(self.part(error).await)
            }
            Err(error) => Err(self.part(error).await),
        }
    }

    /// Ends what came to nothing; who broke the protocol is told.
    async fn part(&mut self, error: GreetingError) -> GreetingError {
        if matches!(error, GreetingError::Misbehaved(_)) {
            self.dismiss(Goodbye::Misbehaved).await;
        }
        error
    }

    /// The next control message, while the connection is still being set up.
    async fn next_control(&mut self) -> Result<Control, GreetingError> {
        let frame = timeout(GREETING_TIMEOUT, self.control_in.message())
            .await
            .map_err(|_| GreetingError::Silent)?
            .map_err(|status| match broken(&status) {
                DownReason::Misbehaved(why) => GreetingError::Misbehaved(why),
                _ => GreetingError::Broken(describe(&status)),
            })?
            .ok_or_else(|| GreetingError::Broken("the peer closed it".to_owned()))?;
        match wire::control(frame) {
            Ok(Control::Goodbye(reason)) => Err(GreetingError::Goodbye(reason)),
            Ok(message) => Ok(message),
            Err(bad) => Err(GreetingError::Misbehaved(bad.to_string())),
        }
    }

    /// Says goodbye and gives it a moment to arrive.
    async fn dismiss(&mut self, reason: Goodbye) {
        if self.outlets.urgent.try_send(Control::Goodbye(reason)).is_ok() {
            // A stream ends when the peer hangs up, and at once when it cannot be decoded: only
            // when both have ended is nobody left to read the goodbye.
            let drained = async {
                while let Ok(Some(_)) = self.control_in.message().await {}
                while let Ok(Some(_)) = self.content_in.message().await {}
            };
            // A peer that does not hang up in time is cut off like one that does.
            let _ = timeout(FAREWELL_TIMEOUT, drained).await;
        }
    }
}

/// A connection on which both sides have greeted, and that nobody has chosen yet.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    streams: Streams,
}

impl Session {
    /// Who is at the other end.
    pub(crate) fn peer(&self) -> NodeId {
        self.streams.peer
    }

    /// Whether this side has dialled.
    pub(crate) fn dialled(&self) -> bool {
        self.streams.channel.is_some()
    }

    /// On the accepting side: waits until the peer says, with its first ping, that of its attempts
    /// it has chosen this one.
    pub(crate) async fn confirmed(mut self) -> Result<Self, GreetingError> {
        match self.streams.next_control().await {
            Ok(Control::Ping(number)) => {
                // A full queue is impossible here: only the greeting went before.
                let _ = self.streams.outlets.urgent.try_send(Control::Pong(number));
                Ok(self)
            }
            Ok(_) => {
                let why = "it spoke before it chose the link".to_owned();
                Err(self.streams.part(GreetingError::Misbehaved(why)).await)
            }
            Err(error) => Err(self.streams.part(error).await),
        }
    }

    /// Ends it unused.
    pub(crate) async fn dismiss(mut self, reason: Goodbye) {
        self.streams.dismiss(reason).await;
    }

    /// Makes it a link and the driver that has to run for the link to work.
    pub(crate) fn into_link(self, clock: Clock, pace: Arc<Pace>) -> (Link, Driver) {
        let dialled = self.dialled();
        let Session { hello, streams } = self;
        let shared = Arc::new(LinkShared::new(clock, pace, streams.connection.wire()));
        if dialled {
            // Tells the other side that it is chosen; whatever the engine says comes after it.
            let ping = shared.pulse().ping(clock.now());
            // A full queue is impossible here: only the greeting went before.
            let _ = streams.outlets.urgent.try_send(Control::Ping(ping));
        }
        let (control_tx, control_in) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (content_tx, content_in) = mpsc::channel(CONTENT_QUEUE_MAX);
        let link = Link {
            peer: streams.peer,
            hello,
            addr: streams.addr,
            dialled,
            control: streams.outlets.control.clone(),
            content: streams.content.clone(),
            control_in,
            content_in,
            handle: LinkHandle::new(shared.clone()),
        };
        (link, Driver { shared, streams, control_tx, content_tx })
    }
}

/// Runs one link.
pub(crate) struct Driver {
    shared: Arc<LinkShared>,
    streams: Streams,
    control_tx: mpsc::Sender<Control>,
    content_tx: mpsc::Sender<Content>,
}

impl Driver {
    /// Carries the link until it ends, and reports whenever its health changes.
    pub(crate) async fn run(mut self, report: HealthReport) -> DownReason {
        let mut closing = self.shared.close.subscribe();
        let urgent = self.streams.outlets.urgent.clone();
        let (shared, streams) = (&self.shared, &mut self.streams);
        // Control comes first, so that a goodbye is read before the breaking that follows it.
        let reason = tokio::select! {
            biased;
            reason = carry_control(shared, &urgent, &mut streams.control_in, &self.control_tx) => {
                reason
            }
            reason = carry_content(shared, &mut streams.content_in, &self.content_tx) => reason,
            () = beat(shared, &urgent, &report) => DownReason::Silent,
            Ok(close) = closing.wait_for(Option::is_some) => {
                DownReason::Closed(close.unwrap_or(Goodbye::Stopping))
            }
        };
        match &reason {
            DownReason::Closed(goodbye) => self.streams.dismiss(*goodbye).await,
            DownReason::Misbehaved(_) => self.streams.dismiss(Goodbye::Misbehaved).await,
            DownReason::ClosedByPeer(_) | DownReason::Silent | DownReason::Broken(_) => {}
        }
        self.shared.down.send_replace(Some(reason.clone()));
        reason
    }
}

async fn carry_control(
    shared: &LinkShared,
    urgent: &mpsc::Sender<Control>,
    incoming: &mut Streaming<proto::ControlFrame>,
    engine: &mpsc::Sender<Control>,
) -> DownReason {
    loop {
        let message = match incoming.message().await {
            Ok(Some(frame)) => wire::control(frame),
            Ok(None) => return DownReason::Broken("the peer closed it".to_owned()),
            Err(status) => return broken(&status),
        };
        match message {
            Ok(Control::Ping(number)) => {
                // With a full queue the answer is left out: the peer hears us anyhow.
                let _ = urgent.try_send(Control::Pong(number));
            }
            Ok(Control::Pong(number)) => {
                let sent = shared.pulse().pong(shared.clock.now(), number);
                if let Some(sent) = sent {
                    shared.note_round_trip(shared.clock.now().since(sent));
                    shared.answered.send_replace(sent);
                }
            }
            Ok(Control::Goodbye(reason)) => return DownReason::ClosedByPeer(reason),
            Ok(Control::Hello(_)) => {
                return DownReason::Misbehaved("it greeted a second time".to_owned());
            }
            Ok(message) => {
                mark_active(&shared.wire, &message);
                if engine.send(message).await.is_err() {
                    return DownReason::Closed(Goodbye::Stopping);
                }
            }
            Err(bad) => return misbehaved(&bad),
        }
    }
}

/// Signs of life are passed on over idle links too, and do not make them busy.
fn mark_active(wire: &Wire, message: &Control) {
    if !matches!(message, Control::Vitals(_)) {
        wire.mark_active();
    }
}

async fn carry_content(
    shared: &LinkShared,
    incoming: &mut Streaming<proto::ContentFrame>,
    engine: &mpsc::Sender<Content>,
) -> DownReason {
    loop {
        let message = match incoming.message().await {
            Ok(Some(frame)) => wire::content(frame),
            // The control stream knows why, and is about to say so.
            Ok(None) => std::future::pending().await,
            Err(status) => return broken(&status),
        };
        match message {
            Ok(message) => {
                shared.wire.mark_active();
                if engine.send(message).await.is_err() {
                    return DownReason::Closed(Goodbye::Stopping);
                }
            }
            Err(bad) => return misbehaved(&bad),
        }
    }
}

/// Keeps the pulse of a link until the peer is dead.
async fn beat(shared: &LinkShared, urgent: &mpsc::Sender<Control>, report: &HealthReport) {
    let clock = shared.clock;
    let mut last = Health::Alive;
    loop {
        let deadline = shared.pulse().deadline();
        let ping = tokio::select! {
            biased;
            () = clock.sleep_until(deadline) => {
                let (heard, active) = (shared.wire.heard(), shared.wire.active());
                let beat = shared.pulse().look(clock.now(), heard, active, shared.pace.get());
                if beat.health == Health::Dead {
                    return;
                }
                if beat.health != last {
                    last = beat.health;
                    shared.silent.send_replace(last == Health::Suspect);
                    report.tell(last).await;
                }
                beat.ping
            }
            () = shared.probe.notified() => Some(shared.pulse().ping(clock.now())),
        };
        if let Some(number) = ping {
            // With a full queue there is enough on its way to be answered.
            let _ = urgent.try_send(Control::Ping(number));
        }
    }
}

fn misbehaved(bad: &BadFrame) -> DownReason {
    DownReason::Misbehaved(bad.to_string())
}

/// A stream's error: a frame that cannot be decoded is the peer's fault, all else the line's.
fn broken(status: &Status) -> DownReason {
    let undecodable = matches!(
        status.code(),
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented
    ) && std::error::Error::source(status).is_none();
    if undecodable {
        DownReason::Misbehaved(status.message().to_owned())
    } else {
        DownReason::Broken(describe(status))
    }
}

/// An error with what lies behind it, in one line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
