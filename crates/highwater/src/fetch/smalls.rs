//! Small contents in bulk: hundreds in one request, answered without a round trip each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_core::ContentHash;
use highwater_core::choice::Candidate;
use highwater_core::wire::{Ask, Reply, RequestId, SMALLS_MAX};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::source::{LinkId, Source};
use super::{FetchError, Fetched, Ground, Staged};
use crate::router::Arrival;

/// Bytes asked for in one request.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;
/// Requests under way at one peer: one is being answered, one written, one on its way.
const REQUESTS_MAX: usize = 3;
/// An answer that makes no progress for this long is given up, even if there is nobody else to ask;
/// the peer may be asked again.
const STALL: Duration = Duration::from_secs(10);
/// How long to wait before asking again for what nobody had.
const RETRY: Duration = Duration::from_secs(1);

/// What the share says about small contents.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Content and size.
    Fetch(ContentHash, u64),
    Forget(ContentHash),
}

/// What one request brought.
struct Outcome {
    link: LinkId,
    /// Still wanted.
    missing: Vec<(ContentHash, u64)>,
    /// Of those, what this link does not have.
    lacking: bool,
}

/// Fetches small contents as they are wished for.
pub(crate) async fn run(ground: Ground, mut wishes: mpsc::UnboundedReceiver<Wish>) {
    let mut smalls = Smalls::new(ground);
    let mut sources = smalls.ground.sources.clone();
    let mut retry = tokio::time::interval(RETRY);
    let mut waited = false;
    loop {
        smalls.ask(&sources.borrow_and_update().clone());
        // While nothing is wanted nobody is woken for it.
        let waits = !smalls.queue.is_empty() || !smalls.lacking.is_empty();
        if waits && !waited {
            retry.reset();
        }
        waited = waits;
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(wish) => {
                    smalls.note(wish);
                    while let Ok(wish) = wishes.try_recv() {
                        smalls.note(wish);
                    }
                }
                None => return,
            },
            Some(outcome) = smalls.asking.join_next() => {
                smalls.settle(outcome);
                let now = sources.borrow().clone();
                smalls.report_unavailable(&now).await;
            }
            changed = sources.changed() => if changed.is_err() { return },
            _ = retry.tick(), if waits => smalls.lacking.clear(),
        }
    }
}

/// What one source may be asked for at a time.
struct Allowed {
    requests: usize,
    contents: usize,
    bytes: u64,
}

impl Allowed {
    /// A source that is much slower than the best gets as much less, so that nobody waits for it at
    /// the end; one that nobody knows is tried as if it were good.
    fn beside(best: u64, source: &Candidate) -> Self {
        let part = |whole: u64| match source.rate {
            0 => whole,
            rate => (u128::from(whole) * u128::from(rate) / u128::from(best.max(rate))) as u64,
        };
        let slow = source.rate > 0 && source.rate < best / 4;
        Self {
            requests: if slow { 1 } else { REQUESTS_MAX },
            contents: part(SMALLS_MAX as u64).max(1) as usize,
            bytes: part(REQUEST_BYTES_MAX).max(1),
        }
    }
}

struct Smalls {
    ground: Ground,
    queue: VecDeque<(ContentHash, u64)>,
    forgotten: BTreeSet<ContentHash>,
    asking: JoinSet<Outcome>,
    at_link: BTreeMap<LinkId, usize>,
    /// What a link was found not to have.
    lacking: BTreeSet<(LinkId, ContentHash)>,
}

impl Smalls {
    fn new(ground: Ground) -> Self {
        Self {
            ground,
            queue: VecDeque::new(),
            forgotten: BTreeSet::new(),
            asking: JoinSet::new(),
            at_link: BTreeMap::new(),
            lacking: BTreeSet::new(),
        }
    }

    fn note(&mut self, wish: Wish) {
        match wish {
            Wish::Fetch(content, size) => {
                self.forgotten.remove(&content);
                self.queue.push_back((content, size));
            }
            Wish::Forget(content) => {
                self.forgotten.insert(content);
            }
        }
    }

    fn ask(&mut self, sources: &[Arc<Source>]) {
        let candidates: Vec<Candidate> = sources.iter().map(|s| s.candidate()).collect();
        let best = candidates.iter().map(|candidate| candidate.rate).max().unwrap_or(0);
        let others = |place: usize| candidates.iter().enumerate().filter(move |(o, _)| *o != place);
        for (place, source) in sources.iter().enumerate() {
            let candidate = &candidates[place];
            if candidate.silent && others(place).any(|(_, other)| !other.silent) {
                continue;
            }
            let allowed = Allowed::beside(best, candidate);
            let patience = match others(place).next() {
                Some(_) => candidate.patience().min(STALL),
                None => STALL,
            };
            while self.at_link.get(&source.id).copied().unwrap_or(0) < allowed.requests {
                let batch = self.batch(source.id, &allowed);
                if batch.is_empty() {
                    break;
                }
                *self.at_link.entry(source.id).or_default() += 1;
                let (ground, source) = (self.ground.clone(), Arc::clone(source));
                self.asking.spawn(fetch(ground, source, batch, patience));
            }
        }
    }

    /// Takes the next contents that this link may have.
    fn batch(&mut self, link: LinkId, allowed: &Allowed) -> Vec<(ContentHash, u64)> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut passed_over = VecDeque::new();
        while let Some((content, size)) = self.queue.pop_front() {
            if self.forgotten.remove(&content) {
                continue;
            }
            if self.lacking.contains(&(link, content)) {
                passed_over.push_back((content, size));
                continue;
            }
            batch.push((content, size));
            bytes += size;
            if batch.len() >= allowed.contents || bytes >= allowed.bytes {
                break;
            }
        }
        passed_over.append(&mut self.queue);
        self.queue = passed_over;
        batch
    }

    fn settle(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let Ok(outcome) = outcome else { return };
        if let Some(requests) = self.at_link.get_mut(&outcome.link) {
            *requests = requests.saturating_sub(1);
        }
        for (content, size) in outcome.missing {
            if outcome.lacking {
                self.lacking.insert((outcome.link, content));
            }
            self.queue.push_back((content, size));
        }
    }
}

impl Smalls {
    /// Gives back what every connected peer was found not to have.
    async fn report_unavailable(&mut self, sources: &[Arc<Source>]) {
        if sources.is_empty() || self.lacking.is_empty() {
            return;
        }
        let lacking = &self.lacking;
        let nobody_has = |content: &ContentHash| {
            sources.iter().all(|source| lacking.contains(&(source.id, *content)))
        };
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|(c, _)| nobody_has(c));
        self.queue = kept;
        if gone.is_empty() {
            return;
        }
        let failed = |(content, _)| Fetched::Failed { content, why: FetchError::Unavailable };
        // The share is gone: nobody is left to care.
        let _ = self.ground.outcomes.send(gone.into_iter().map(failed).collect()).await;
    }
}

/// Asks one peer for a batch and stages what comes.
async fn fetch(
    ground: Ground,
    source: Arc<Source>,
    batch: Vec<(ContentHash, u64)>,
    patience: Duration,
) -> Outcome {
    let (inbox, mut arrivals) = mpsc::unbounded_channel();
    let ask = Ask::Smalls(batch.iter().map(|(content, _)| *content).collect());
    let mut missing: BTreeMap<usize, (ContentHash, u64)> =
        batch.iter().copied().enumerate().collect();
    let mut refused = false;
    if let Some(id) = source.ask(&ground.share, ask, 0, &inbox).await {
        refused = collect(&ground, id, &mut arrivals, &mut missing, patience).await;
        source.router.close(id);
    }
    Outcome { link: source.id, missing: missing.into_values().collect(), lacking: refused }
}

/// Stages answers until nothing is missing, the link is lost, or no progress is made. Whether
/// something was refused.
async fn collect(
    ground: &Ground,
    id: RequestId,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
    missing: &mut BTreeMap<usize, (ContentHash, u64)>,
    patience: Duration,
) -> bool {
    let mut open = missing.len();
    let mut answered = BTreeSet::new();
    let mut refused = false;
    while open > 0 {
        let Ok(Some(first)) = timeout(patience, arrivals.recv()).await else { return refused };
        let mut bodies = Vec::new();
        let mut next = Some(first);
        while let Some(arrival) = next {
            match arrival {
                Arrival::Reply(_, Reply::Small { index, bytes }) => {
                    open = open.saturating_sub(1);
                    let index = index as usize;
                    if let Some((content, size)) = missing.get(&index)
                        && answered.insert(index)
                    {
                        bodies.push((index, *content, *size, bytes));
                    }
                }
                Arrival::Reply(_, Reply::SmallRefused { .. }) => {
                    open = open.saturating_sub(1);
                    refused = true;
                }
                Arrival::Reply(reply, _) => {
                    tracing::debug!(?id, ?reply, "not an answer to a bulk request");
                    return true;
                }
                Arrival::Lost(_) => return stage(ground, bodies, missing).await || refused,
            }
            next = arrivals.try_recv().ok();
        }
        refused |= stage(ground, bodies, missing).await;
    }
    refused
}

type Body = (usize, ContentHash, u64, Bytes);

/// Verifies and stages what came. Whether some of it was wrong.
async fn stage(
    ground: &Ground,
    bodies: Vec<Body>,
    missing: &mut BTreeMap<usize, (ContentHash, u64)>,
) -> bool {
    if bodies.is_empty() {
        return false;
    }
    let indices: Vec<usize> = bodies.iter().map(|(index, ..)| *index).collect();
    let disk = ground.clone();
    let staging = tokio::task::spawn_blocking(move || {
        bodies.into_iter().map(|body| stage_one(&disk, body)).collect::<Vec<_>>()
    });
    let Ok(outcomes) = staging.await else { return true };
    let mut wrong = false;
    let mut reports = Vec::new();
    for (index, outcome) in indices.into_iter().zip(outcomes) {
        match outcome {
            Some(report) => {
                missing.remove(&index);
                reports.push(report);
            }
            None => wrong = true,
        }
    }
    // The share is gone: nobody is left to care.
    let _ = ground.outcomes.send(reports).await;
    wrong
}

/// `None` when the bytes are not the content.
fn stage_one(ground: &Ground, (_, content, size, bytes): Body) -> Option<Fetched> {
    ground.counters.content_bytes_received.add(bytes.len() as u64);
    if bytes.len() as u64 != size || ContentHash::of(&bytes) != content {
        ground.counters.hash_mismatches.add(1);
        return None;
    }
    let slot = ground.slots.next();
    let stage = ground.root.stage();
    let staged = stage.create(&slot, size).and_then(|file| file.write_at(0, &bytes));
    Some(match staged {
        Ok(()) => Fetched::Staged(Staged { content, slot, manifest: None, transfer: None }),
        Err(error) => {
            let _ = stage.remove(&slot);
            Fetched::Failed { content, why: FetchError::from(error) }
        }
    })
}
