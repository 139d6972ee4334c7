//! Answers what peers ask of this node's contents.
//!
//! Each link has three workers: one for bulk requests, one for ranges and manifests, so that small
//! files do not wait behind large ones, and one for measurements, which waits for both. A worker answers one request at a time; only its reading
//! takes a thread that may wait for the disk, so that a slow line holds up nobody else. What it
//! sends is what the index says: the file is compared with its recorded print before and after it
//! is read, and small contents with their hash.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use highwater_core::quality::Way;
use highwater_core::wire::{
    Ask, Content, DATA_BYTES_MAX, MANIFEST_PART_MAX, Refusal, Reply, RequestId,
};
use highwater_core::{ContentHash, Manifest, NodeId, SMALL_BYTES_MAX, ShareName};
use highwater_folder::{ContentFile, StatPrint};
use highwater_store::EntryRow;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cluster::Answers;
use crate::lines::Meter;
use crate::report::ShareStatus;
use crate::share::replica::decode_print;
use crate::share::{Counter, Event, Stock};

/// Contents asked for on one link that wait, each taking 32 bytes and more: 8 MiB and more in all.
/// A peer that keeps to its windows asks for 768 at a time for each share, and a few chunks.
const WAITING_MAX: usize = 256 * 1024;

/// Small contents read in one go.
const SMALLS_A_READ: usize = 64;
/// Bytes of a range read in one go.
const RANGE_BYTES_A_READ: u64 = 4 * DATA_BYTES_MAX as u64;

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
    came: Instant,
}

/// Takes the requests of one link and answers them until it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    bulk: mpsc::UnboundedSender<Request>,
    ranges: mpsc::UnboundedSender<Request>,
    measures: mpsc::UnboundedSender<Request>,
    common: Arc<Common>,
}

/// What the workers of a link share.
#[derive(Debug)]
struct Common {
    peer: NodeId,
    desks: Arc<Desks>,
    answers: mpsc::Sender<Content>,
    waiting: AtomicUsize,
    /// Requests for content that are being answered.
    serving: AtomicUsize,
    cancelled: Mutex<BTreeSet<RequestId>>,
    tally: Tally,
}

/// Where what was answered is counted: for the cluster, and for the line to the peer.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) answers: Arc<Answers>,
    pub(crate) meter: Arc<Meter>,
}

/// What a request takes of the room for those that wait, in contents: no request takes less memory
/// than four of them.
fn weight(ask: &Ask) -> usize {
    match ask {
        Ask::Smalls(contents) => contents.len().max(4),
        Ask::Manifest(_) | Ask::Range { .. } | Ask::Measure(_) => 4,
    }
}

/// The peer asks for more than it can have been promised.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Service {
    /// Starts the workers of a link. They end when this is dropped or the link is down.
    pub(crate) fn start(
        peer: NodeId,
        desks: Arc<Desks>,
        answers: mpsc::Sender<Content>,
        tally: Tally,
    ) -> Self {
        let (waiting, serving) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let cancelled = Mutex::default();
        let common = Common { peer, desks, answers, waiting, serving, cancelled, tally };
        let common = Arc::new(common);
        let (bulk, bulk_requests) = mpsc::unbounded_channel();
        let (ranges, range_requests) = mpsc::unbounded_channel();
        tokio::spawn(work(Arc::clone(&common), bulk_requests));
        tokio::spawn(work(Arc::clone(&common), range_requests));
        let (measures, measure_requests) = mpsc::unbounded_channel();
        tokio::spawn(measure(Arc::clone(&common), measure_requests));
        Self { bulk, ranges, measures, common }
    }

    /// Queues a request.
    pub(crate) fn asked(&self, id: RequestId, share: ShareName, ask: Ask) -> Result<(), TooMany> {
        if self.common.waiting.fetch_add(weight(&ask), Ordering::Relaxed) >= WAITING_MAX {
            return Err(TooMany);
        }
        let queue = match ask {
            Ask::Smalls(_) => &self.bulk,
            Ask::Measure(_) => &self.measures,
            Ask::Manifest(_) | Ask::Range { .. } => &self.ranges,
        };
        // A worker ends only with its link.
        let _ = queue.send(Request { id, share, ask, came: Instant::now() });
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
    async fn answer(&self, id: RequestId, reply: Reply) -> bool {
        let bytes = reply.content_bytes();
        let sent = self.answers.send(Content::Reply { id, reply }).await.is_ok();
        self.tally.meter.moved(Way::Out, bytes);
        sent && !self.cancelled().remove(&id)
    }
}

async fn work(common: Arc<Common>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut open = OpenFile::default();
    while let Some(request) = requests.recv().await {
        common.waiting.fetch_sub(weight(&request.ask), Ordering::Relaxed);
        if common.cancelled().remove(&request.id) {
            continue;
        }
        common.serving.fetch_add(1, Ordering::Relaxed);
        let well = common.serve(&request, &mut open).await;
        common.serving.fetch_sub(1, Ordering::Relaxed);
        common.tally.answers.add(well, request.came.elapsed());
    }
}

/// How often a measurement looks whether it may go on.
const YIELD: Duration = Duration::from_millis(10);

/// Answers measurements, a piece at a time and only while no content is asked for.
async fn measure(common: Arc<Common>, mut requests: mpsc::UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        common.waiting.fetch_sub(weight(&request.ask), Ordering::Relaxed);
        let Ask::Measure(length) = request.ask else { continue };
        if common.desks.open_to(&request.share, &common.peer).is_none() {
            common.answer(request.id, Reply::Refused(Refusal::Lacks)).await;
            continue;
        }
        let mut left = length as usize;
        while left > 0 {
            while common.serving.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(YIELD).await;
            }
            let piece = filler(left.min(DATA_BYTES_MAX));
            left -= piece.len();
            let reply = Content::Reply { id: request.id, reply: Reply::Bytes(piece) };
            if common.answers.send(reply).await.is_err() {
                return;
            }
        }
    }
}

/// Bytes that no compression on the way makes fewer.
pub(crate) fn filler(length: usize) -> Bytes {
    static FILLER: OnceLock<Bytes> = OnceLock::new();
    let whole = FILLER.get_or_init(|| {
        let mut bytes = vec![0; DATA_BYTES_MAX];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes.into()
    });
    whole.slice(..length.min(whole.len()))
}

/// Reads on a thread that may wait for the disk.
async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(Refusal::ReadFailed))
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
    /// Answers one request; whether as it was asked.
    async fn serve(&self, request: &Request, open: &mut OpenFile) -> bool {
        let site = self
            .desks
            .open_to(&request.share, &self.peer)
            .and_then(|desk| Some(Site { stock: desk.counter.stock_for(&self.peer)?, desk }));
        let Some(site) = site else {
            self.answer(request.id, Reply::Refused(Refusal::Lacks)).await;
            return false;
        };
        let refused = match &request.ask {
            Ask::Smalls(contents) => self.serve_smalls(request.id, contents, &site).await,
            Ask::Manifest(content) => self.serve_manifest(request.id, *content, &site).await,
            // Has a worker of its own.
            Ask::Measure(_) => Ok(()),
            Ask::Range { content, offset, length } => {
                let end = offset.saturating_add(*length);
                self.serve_range(request, *content, *offset..end, &site, open).await
            }
        };
        let Err(refusal) = refused else { return true };
        self.answer(request.id, Reply::Refused(refusal)).await;
        false
    }

    async fn serve_smalls(
        &self,
        id: RequestId,
        contents: &[ContentHash],
        site: &Site,
    ) -> Result<(), Refusal> {
        for (group, contents) in contents.chunks(SMALLS_A_READ).enumerate() {
            let (here, contents) = (site.clone(), contents.to_vec());
            let read = reading(move || Ok(contents.iter().map(|c| here.small(c)).collect()));
            let read: Vec<Result<Bytes, Refusal>> = read.await?;
            for (place, outcome) in read.into_iter().enumerate() {
                let index = (group * SMALLS_A_READ + place) as u32;
                let reply = match outcome {
                    Ok(bytes) => Reply::Small { index, bytes },
                    Err(refusal) => Reply::SmallRefused { index, refusal },
                };
                if !self.answer(id, reply).await {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn serve_manifest(
        &self,
        id: RequestId,
        content: ContentHash,
        site: &Site,
    ) -> Result<(), Refusal> {
        let here = site.clone();
        let manifest = reading(move || here.manifest(&content)).await?;
        let mut parts = manifest.chunks().chunks(MANIFEST_PART_MAX).peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            if !self.answer(id, Reply::Manifest { chunks: part.to_vec(), last }).await {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn serve_range(
        &self,
        request: &Request,
        content: ContentHash,
        mut range: Range<u64>,
        site: &Site,
        open: &mut OpenFile,
    ) -> Result<(), Refusal> {
        let source = match &open.0 {
            Some((share, held, source)) if *share == request.share && *held == content => {
                source.clone()
            }
            _ => {
                let here = site.clone();
                let source = reading(move || here.open_source(&content)).await?;
                open.0 = Some((request.share.clone(), content, source.clone()));
                source
            }
        };
        if site.stock.catalogue.is_corrupt(&content) {
            return Err(Refusal::Corrupt);
        }
        if range.end > source.row.entry.kind.size() {
            return Err(Refusal::Lacks);
        }
        while range.start < range.end {
            let end = range.end.min(range.start + RANGE_BYTES_A_READ);
            let (from, part) = (source.clone(), range.start..end);
            let pieces = match reading(move || from.read(part)).await {
                Ok(pieces) => pieces,
                Err(refusal) => {
                    open.0 = None;
                    site.suspect(&source.row);
                    return Err(refusal);
                }
            };
            for piece in pieces {
                if !self.answer(request.id, Reply::Bytes(piece)).await {
                    return Ok(());
                }
            }
            range.start = end;
        }
        Ok(())
    }
}

impl Source {
    /// Reads a range in pieces of a message each.
    fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, Refusal> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(DATA_BYTES_MAX as u64);
            let mut bytes = vec![0; length as usize];
            let read = self.file.read_at(at, &mut bytes).map_err(|_| Refusal::ReadFailed)?;
            if read < bytes.len() {
                return Err(Refusal::Changed);
            }
            pieces.push(Bytes::from(bytes));
            at += length;
        }
        if self.stands() { Ok(pieces) } else { Err(Refusal::Changed) }
    }
}

/// Where one request is answered.
#[derive(Debug, Clone)]
struct Site {
    stock: Stock,
    desk: Desk,
}

impl Site {
    /// One small content, verified.
    fn small(&self, content: &ContentHash) -> Result<Bytes, Refusal> {
        let source = self.open_source(content)?;
        let size = source.row.entry.kind.size();
        if size > SMALL_BYTES_MAX {
            return Err(Refusal::Lacks);
        }
        let mut bytes = vec![0; size as usize];
        let read = source.file.read_at(0, &mut bytes).map_err(|_| Refusal::ReadFailed)?;
        if read < bytes.len() || !source.stands() {
            self.suspect(&source.row);
            return Err(Refusal::Changed);
        }
        if ContentHash::of(&bytes) != *content {
            self.tell(Event::Mismatch(*content));
            return Err(Refusal::Corrupt);
        }
        Ok(Bytes::from(bytes))
    }

    fn manifest(&self, content: &ContentHash) -> Result<Manifest, Refusal> {
        let size = self.find(content)?.entry.kind.size();
        let manifest = self.stock.store.manifest(self.stock.number, content, size);
        manifest.map_err(|_| Refusal::ReadFailed)?.ok_or(Refusal::Lacks)
    }

    fn find(&self, content: &ContentHash) -> Result<EntryRow, Refusal> {
        let Stock { store, number, catalogue, .. } = &self.stock;
        let found = catalogue.find(store, *number, content);
        found.map_err(|_| Refusal::ReadFailed)?.ok_or(Refusal::Lacks)
    }

    /// Opens a file that holds this content. What is on record need not stand: a delete may be held
    /// back, or not be seen yet, while an equal file stands under another name.
    fn open_source(&self, content: &ContentHash) -> Result<Source, Refusal> {
        let Stock { store, number, catalogue, .. } = &self.stock;
        let (mut standing, mut stale) = (None, None);
        let found = catalogue.find_row(store, *number, content, |row| {
            standing = self.source_of(row);
            if standing.is_none() {
                stale.get_or_insert_with(|| row.clone());
            }
            standing.is_some()
        });
        found.map_err(|_| Refusal::ReadFailed)?;
        if let Some(row) = &stale {
            self.suspect(row);
        }
        standing.ok_or(if stale.is_some() { Refusal::Changed } else { Refusal::Lacks })
    }

    fn source_of(&self, row: &EntryRow) -> Option<Source> {
        let file = self.stock.root.open_content(&row.entry.key).ok()?;
        let print = decode_print(row.print.as_deref())?;
        let source = Source { file: Arc::new(file), row: Arc::new(row.clone()), print };
        Some(source).filter(Source::stands)
    }

    /// The file is not what the index says: it is to be scanned.
    fn suspect(&self, row: &EntryRow) {
        self.tell(Event::Suspect(row.entry.key.clone()));
    }

    fn tell(&self, event: Event) {
        if let Some(events) = self.desk.events.upgrade() {
            // A share with a full queue has enough to do; the next request tells it again.
            let _ = events.try_send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each request that waits takes memory, and a peer asked for nothing a million times.
    #[test]
    fn a_request_for_nothing_takes_room_too() {
        assert_eq!(weight(&Ask::Smalls(Vec::new())), 4);
        assert_eq!(weight(&Ask::Smalls(vec![ContentHash::of(b"x"); 700])), 700);
    }
}
