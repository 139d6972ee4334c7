//! Questions of checks, between nodes: asked over a link, and answered for whoever asks.
//!
//! Answers are paired with questions by number. A question is answered on behalf of the share that it
//! is about, if that is listed for the peer; what it costs is bounded by the few that one link may
//! have open at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::check::{AskId, CheckAnswer, CheckAsk, CheckRefusal};
use highwater_core::wire::Control;
use highwater_core::{NodeId, ShareName};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::deep::{DeepError, DeepOrder};
use super::member::Reach;
use super::relay::pass_on;
use crate::serve::{Desk, Desks};
use crate::share::Event;
use crate::share::check::CheckCall;

/// Questions of one peer that are answered at a time: a check has one open for each share.
const ANSWERING_MAX: usize = 8;
/// Questions that a peer is asked to pass on at a time: it answers others meanwhile.
const PASSED_ON_MAX: usize = ANSWERING_MAX / 2;
/// How long a question waits for its answer. The share answers between other work, which can be
/// the commit of a full batch on a slow disk.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// How long the progress of a deep pass is waited for before it is told as it is.
const PROGRESS_WAIT: Duration = Duration::from_millis(500);

/// The questions of one link.
#[derive(Debug)]
pub(crate) struct Talk {
    last: AtomicU64,
    open: Mutex<BTreeMap<AskId, oneshot::Sender<(CheckAnswer, u64)>>>,
    answering: Arc<Semaphore>,
    passed_on: Semaphore,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Silence {
    /// The link is down, or nothing came over it in time.
    #[error("it cannot be reached")]
    Unreachable,
    /// It said no.
    #[error("it refuses: {0:?}")]
    Refused(CheckRefusal),
    /// Its answer is no answer to the question.
    #[error("its answer makes no sense")]
    Nonsense,
}

impl Default for Talk {
    fn default() -> Self {
        let answering = Arc::new(Semaphore::new(ANSWERING_MAX));
        let passed_on = Semaphore::new(PASSED_ON_MAX);
        Self { last: AtomicU64::new(0), open: Mutex::default(), answering, passed_on }
    }
}

impl Talk {
    /// Asks over a link, and waits. With the bytes that question and answer took.
    pub(crate) async fn ask(
        &self,
        control: &mpsc::Sender<Control>,
        share: &ShareName,
        ask: CheckAsk,
    ) -> Result<(CheckAnswer, u64), Silence> {
        let _turn = match ask {
            // It waits its turn without an end: every question before it has one.
            CheckAsk::Onward(_) => self.passed_on.acquire().await.ok(),
            _ => None,
        };
        let id = AskId(self.last.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        self.open().insert(id, answer);
        let message = Control::CheckAsk { id, share: share.clone(), ask };
        let sent = highwater_net::wire_bytes(&message);
        let asking = async {
            control.send(message).await.map_err(|_| Silence::Unreachable)?;
            answered.await.map_err(|_| Silence::Unreachable)
        };
        let answered = tokio::time::timeout(ANSWER_WAIT, asking).await;
        self.open().remove(&id);
        let (answer, received) = answered.map_err(|_| Silence::Unreachable)??;
        match answer {
            CheckAnswer::Refused(refusal) => Err(Silence::Refused(refusal)),
            answer => Ok((answer, sent + received)),
        }
    }

    /// Takes a message that came over the link, if it is one of ours; gives back any other.
    pub(crate) fn heard(
        self: &Arc<Self>,
        desks: &Arc<Desks>,
        reach: &Arc<dyn Reach>,
        peer: NodeId,
        control: &mpsc::WeakSender<Control>,
        message: Control,
    ) -> Option<Control> {
        match message {
            Control::CheckAnswer { id, answer } => {
                let bytes =
                    highwater_net::wire_bytes(&Control::CheckAnswer { id, answer: answer.clone() });
                // Nobody waits any more for what comes late.
                if let Some(waiting) = self.open().remove(&id) {
                    let _ = waiting.send((answer, bytes));
                }
                None
            }
            Control::CheckAsk { id, share, ask } => {
                let (desks, reach, control) =
                    (Arc::clone(desks), Arc::clone(reach), control.clone());
                let permit = Arc::clone(&self.answering).try_acquire_owned();
                tokio::spawn(async move {
                    let answer = match (&permit, desks.open_to(&share, &peer), ask) {
                        (Err(_), ..) => CheckAnswer::Refused(CheckRefusal::NotNow),
                        (_, None, _) => CheckAnswer::Refused(CheckRefusal::NotOpen),
                        (_, Some(_), CheckAsk::Onward(onward)) => {
                            pass_on(&reach, &desks, peer, share, onward).await
                        }
                        (_, Some(desk), ask) => answer(&desk, ask).await,
                    };
                    if let Some(control) = control.upgrade() {
                        // A link that is down needs no answer.
                        let _ = control.send(Control::CheckAnswer { id, answer }).await;
                    }
                });
                None
            }
            other => Some(other),
        }
    }

    /// The link is down: whoever waits for an answer is told.
    pub(crate) fn ended(&self) {
        self.open().clear();
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<AskId, oneshot::Sender<(CheckAnswer, u64)>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a question on behalf of a share of this node.
pub(crate) async fn answer(desk: &Desk, ask: CheckAsk) -> CheckAnswer {
    let answered = match ask {
        CheckAsk::Deep { check, rate, from_disk } => {
            deep(desk, DeepOrder { check, rate, from_disk }).await
        }
        ask => call(desk, |answer| CheckCall::Ask(ask, answer)).await,
    };
    answered.unwrap_or(CheckAnswer::Refused(CheckRefusal::NotOpen))
}

/// Asks the share's thread; `None` when it has ended or takes too long.
pub(crate) async fn call<T>(
    desk: &Desk,
    call: impl FnOnce(oneshot::Sender<T>) -> CheckCall,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let events = desk.events.upgrade()?;
    let asking = async {
        events.send(Event::Check(call(answer))).await.ok()?;
        answered.await.ok()
    };
    tokio::time::timeout(ANSWER_WAIT, asking).await.ok().flatten()
}

/// Begins a deep pass or finds it, and waits a little for its end.
pub(crate) async fn deep(desk: &Desk, order: DeepOrder) -> Option<CheckAnswer> {
    let stock = desk.counter.stock()?;
    let (total, events) = (desk.snapshot.borrow().bytes, desk.events.clone());
    let counter = Arc::clone(&desk.counter);
    let begun =
        tokio::task::spawn_blocking(move || counter.deep.begin(stock, total, events, order));
    let mut progress = match begun.await.ok()? {
        Ok(progress) => progress,
        Err(DeepError::Busy) => return Some(CheckAnswer::Refused(CheckRefusal::NotNow)),
        Err(error) => {
            tracing::warn!(%error, "a deep check was not begun");
            return Some(CheckAnswer::Refused(CheckRefusal::Failed));
        }
    };
    // An error says that the pass has ended, for good or not: what was told last tells which.
    let _ = tokio::time::timeout(PROGRESS_WAIT, progress.wait_for(|told| told.done)).await;
    let told = *progress.borrow();
    Some(CheckAnswer::Deep(told))
}
