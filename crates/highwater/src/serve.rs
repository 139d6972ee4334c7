//! Answers what peers ask of this node's contents.
//!
//! Each link has two workers, one for bulk requests and one for ranges and manifests, so that small
//! files do not wait behind large ones. A worker answers one request at a time, on a thread that may
//! wait for the disk and for the line. What it sends is what the index says: the file is compared
//! with its recorded print before and after it is read, and small contents with their hash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use highwater_core::wire::{
    Ask, Content, DATA_BYTES_MAX, MANIFEST_PART_MAX, Refusal, Reply, RequestId,
};
use highwater_core::{ContentHash, NodeId, SMALL_BYTES_MAX, ShareName};
use highwater_folder::{ContentFile, StatPrint};
use highwater_store::EntryRow;
use tokio::sync::{mpsc, watch};

use crate::report::ShareStatus;
use crate::share::replica::decode_print;
use crate::share::{Counter, Event, Stock};

/// Requests of one link that wait. A peer that keeps to its windows stays far below it.
const WAITING_MAX: usize = 64 * 1024;

/// The shares of this node, as those who serve peers see them.
#[derive(Debug, Default)]
pub(crate) struct Desks(Mutex<BTreeMap<ShareName, Desk>>);

/// Where one share is served, and where its events go.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) counter: Arc<Counter>,
    pub(crate) events: mpsc::WeakSender<Event>,
    pub(crate) snapshot: watch::Receiver<ShareStatus>,
}

impl Desks {
    pub(crate) fn put(&self, share: ShareName, desk: Desk) {
        self.desks().insert(share, desk);
    }

    pub(crate) fn remove(&self, share: &ShareName) {
        self.desks().remove(share);
    }

    pub(crate) fn get(&self, share: &ShareName) -> Option<Desk> {
        self.desks().get(share).cloned()
    }

    pub(crate) fn all(&self) -> BTreeMap<ShareName, Desk> {
        self.desks().clone()
    }

    /// The share's desk, if this peer may see the share.
    pub(crate) fn open_to(&self, share: &ShareName, peer: &NodeId) -> Option<Desk> {
        self.get(share).filter(|desk| desk.counter.lists(peer))
    }

    fn desks(&self) -> MutexGuard<'_, BTreeMap<ShareName, Desk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request of a peer.
#[derive(Debug)]
struct Request {
    id: RequestId,
    share: ShareName,
    ask: Ask,
}

/// Takes the requests of one link and answers them until it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    bulk: mpsc::UnboundedSender<Request>,
    ranges: mpsc::UnboundedSender<Request>,
    common: Arc<Common>,
}

/// What the workers of a link share.
#[derive(Debug)]
struct Common {
    peer: NodeId,
    desks: Arc<Desks>,
    answers: mpsc::Sender<Content>,
    waiting: AtomicUsize,
    cancelled: Mutex<BTreeSet<RequestId>>,
}

/// The peer asks for more than it can have been promised.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Service {
    /// Starts the workers of a link. They end when this is dropped or the link is down.
    pub(crate) fn start(peer: NodeId, desks: Arc<Desks>, answers: mpsc::Sender<Content>) -> Self {
        let (waiting, cancelled) = (AtomicUsize::new(0), Mutex::default());
        let common = Arc::new(Common { peer, desks, answers, waiting, cancelled });
        let (bulk, bulk_requests) = mpsc::unbounded_channel();
        let (ranges, range_requests) = mpsc::unbounded_channel();
        tokio::spawn(work(Arc::clone(&common), bulk_requests));
        tokio::spawn(work(Arc::clone(&common), range_requests));
        Self { bulk, ranges, common }
    }

    /// Queues a request.
    pub(crate) fn asked(&self, id: RequestId, share: ShareName, ask: Ask) -> Result<(), TooMany> {
        if self.common.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return Err(TooMany);
        }
        let queue = if matches!(ask, Ask::Smalls(_)) { &self.bulk } else { &self.ranges };
        // A worker ends only with its link.
        let _ = queue.send(Request { id, share, ask });
        Ok(())
    }

    /// The peer does not want the answer any more.
    pub(crate) fn cancel(&self, id: RequestId) {
        let mut cancelled = self.common.cancelled();
        // Cancels of what was answered long ago are the oldest.
        if cancelled.len() >= WAITING_MAX {
            cancelled.pop_first();
        }
        cancelled.insert(id);
    }
}

impl Common {
    fn cancelled(&self) -> MutexGuard<'_, BTreeSet<RequestId>> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a part of an answer, waiting for room. Whether more is wanted.
    fn answer(&self, id: RequestId, reply: Reply) -> bool {
        self.answers.blocking_send(Content::Reply { id, reply }).is_ok()
            && !self.cancelled().remove(&id)
    }
}

async fn work(common: Arc<Common>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut open = OpenFile::default();
    while let Some(request) = requests.recv().await {
        common.waiting.fetch_sub(1, Ordering::Relaxed);
        if common.cancelled().remove(&request.id) {
            continue;
        }
        let worker = Arc::clone(&common);
        let answered = tokio::task::spawn_blocking(move || {
            worker.serve(&request, &mut open);
            open
        });
        // What a panic leaves is an unanswered request; the peer gives it up and asks again.
        open = answered.await.unwrap_or_default();
    }
}

/// The file that was read last: a large content is asked for range by range.
#[derive(Debug, Default)]
struct OpenFile(Option<(ShareName, ContentHash, Source)>);

#[derive(Debug, Clone)]
struct Source {
    file: Arc<ContentFile>,
    row: Arc<EntryRow>,
    print: StatPrint,
}

impl Source {
    /// Whether the file is what the index says.
    fn stands(&self) -> bool {
        self.file.print().is_ok_and(|now| now == self.print)
    }
}

impl Common {
    fn serve(&self, request: &Request, open: &mut OpenFile) {
        let stock = self
            .desks
            .open_to(&request.share, &self.peer)
            .and_then(|desk| Some((desk.counter.stock_for(&self.peer)?, desk)));
        let Some((stock, desk)) = stock else {
            self.answer(request.id, Reply::Refused(Refusal::Lacks));
            return;
        };
        let refused = match &request.ask {
            Ask::Smalls(contents) => self.serve_smalls(request, contents, &stock, &desk),
            Ask::Manifest(content) => self.serve_manifest(request, content, &stock),
            Ask::Range { content, offset, length } => {
                self.serve_range(request, content, *offset, *length, &stock, &desk, open)
            }
        };
        if let Err(refusal) = refused {
            self.answer(request.id, Reply::Refused(refusal));
        }
    }

    fn serve_smalls(
        &self,
        request: &Request,
        contents: &[ContentHash],
        stock: &Stock,
        desk: &Desk,
    ) -> Result<(), Refusal> {
        for (index, content) in contents.iter().enumerate() {
            let index = index as u32;
            let reply = match small(content, stock, desk) {
                Ok(bytes) => Reply::Small { index, bytes },
                Err(refusal) => Reply::SmallRefused { index, refusal },
            };
            if !self.answer(request.id, reply) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn serve_manifest(
        &self,
        request: &Request,
        content: &ContentHash,
        stock: &Stock,
    ) -> Result<(), Refusal> {
        let row = find(content, stock)?;
        let manifest = stock
            .store
            .manifest(stock.number, content, row.entry.kind.size())
            .map_err(|_| Refusal::ReadFailed)?
            .ok_or(Refusal::Lacks)?;
        let mut parts = manifest.chunks().chunks(MANIFEST_PART_MAX).peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            if !self.answer(request.id, Reply::Manifest { chunks: part.to_vec(), last }) {
                return Ok(());
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn serve_range(
        &self,
        request: &Request,
        content: &ContentHash,
        offset: u64,
        length: u64,
        stock: &Stock,
        desk: &Desk,
        open: &mut OpenFile,
    ) -> Result<(), Refusal> {
        let source = match &open.0 {
            Some((share, held, source)) if *share == request.share && held == content => {
                source.clone()
            }
            _ => {
                let source = open_source(content, stock, desk)?;
                open.0 = Some((request.share.clone(), *content, source.clone()));
                source
            }
        };
        if stock.catalogue.is_corrupt(content) {
            return Err(Refusal::Corrupt);
        }
        let end = offset.saturating_add(length);
        if end > source.row.entry.kind.size() {
            return Err(Refusal::Lacks);
        }
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(DATA_BYTES_MAX as u64);
            let mut bytes = vec![0; piece as usize];
            let read = source.file.read_at(at, &mut bytes);
            let read = read.map_err(|_| Refusal::ReadFailed)?;
            if read < bytes.len() || !source.stands() {
                open.0 = None;
                suspect(desk, &source.row);
                return Err(Refusal::Changed);
            }
            at += piece;
            if !self.answer(request.id, Reply::Bytes(Bytes::from(bytes))) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// One small content, verified.
fn small(content: &ContentHash, stock: &Stock, desk: &Desk) -> Result<Bytes, Refusal> {
    let source = open_source(content, stock, desk)?;
    let size = source.row.entry.kind.size();
    if size > SMALL_BYTES_MAX {
        return Err(Refusal::Lacks);
    }
    let mut bytes = vec![0; size as usize];
    let read = source.file.read_at(0, &mut bytes).map_err(|_| Refusal::ReadFailed)?;
    if read < bytes.len() || !source.stands() {
        suspect(desk, &source.row);
        return Err(Refusal::Changed);
    }
    if ContentHash::of(&bytes) != *content {
        tell(desk, Event::Mismatch(*content));
        return Err(Refusal::Corrupt);
    }
    Ok(Bytes::from(bytes))
}

fn find(content: &ContentHash, stock: &Stock) -> Result<EntryRow, Refusal> {
    stock
        .catalogue
        .find(&stock.store, stock.number, content)
        .map_err(|_| Refusal::ReadFailed)?
        .ok_or(Refusal::Lacks)
}

fn open_source(content: &ContentHash, stock: &Stock, desk: &Desk) -> Result<Source, Refusal> {
    let row = find(content, stock)?;
    let Some(print) = decode_print(row.print.as_deref()) else {
        suspect(desk, &row);
        return Err(Refusal::Changed);
    };
    let Ok(file) = stock.root.open_content(&row.entry.key) else {
        suspect(desk, &row);
        return Err(Refusal::Changed);
    };
    let source = Source { file: Arc::new(file), row: Arc::new(row), print };
    if source.stands() {
        Ok(source)
    } else {
        suspect(desk, &source.row);
        Err(Refusal::Changed)
    }
}

/// The file is not what the index says: it is to be scanned.
fn suspect(desk: &Desk, row: &EntryRow) {
    tell(desk, Event::Suspect(row.entry.key.clone()));
}

fn tell(desk: &Desk, event: Event) {
    if let Some(events) = desk.events.upgrade() {
        // A share with a full queue has enough to do; the next request tells it again.
        let _ = events.try_send(event);
    }
}
