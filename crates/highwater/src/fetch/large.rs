//! One large content, chunk by chunk, from every peer that has it.
//!
//! The order of a transfer: its manifest; what of it is staged already, or stands elsewhere in the
//! share; then the missing runs, asked of all sources as far as their windows have room. Bytes are
//! verified and written on a blocking thread while more arrive. Syncs run beside it: what was
//! written when one began is durable when it ends, is recorded then, and acknowledged after. A
//! crash loses what was written since the last record, and nothing before it is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_core::choice::{Candidate, is_better_off, worth_asking};
use highwater_core::fetch::{ChunkSet, Fetch};
use highwater_core::wire::{Acked, Ask, Content, Refusal, Reply, RequestId};
use highwater_core::{ChunkSizes, ContentHash, Key, Manifest};
use highwater_folder::Slot;
use highwater_store::{Commit, StoreError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::source::{LinkId, Source};
use super::transfer::Shown;
use super::writer::{Shelf, Snapshot, WriteError, Writer, Written};
use super::{FetchError, Fetched, Ground, Staged};
use crate::report::TransferState;
use crate::router::{Arrival, Inbox};

/// A sync begins when this much is written and not durable: what a killed receiver asks for again.
const SYNC_BYTES: u64 = 1024 * 1024;
/// Or when this much time has passed since the last one.
const SYNC_AFTER: Duration = Duration::from_millis(500);
/// Bytes that are verified and written in one go.
const WRITE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Contents smaller than this are fetched again rather than recorded while they are under way: a
/// record costs a durable commit.
const RECORD_FROM: u64 = 2 * 1024 * 1024;
/// Requests of one transfer under way, however small the runs are that it misses.
const REQUESTS_MAX: usize = 64;
/// A source that brings nothing for this long, on a link that is up, is given up, even if there is
/// nobody else to ask. One that brings something is not: on a slow line a request waits behind others,
/// and if it were asked again its bytes would cross twice.
const STALL: Duration = Duration::from_secs(10);
/// When nobody has sent anything for this long, the transfer is interrupted, whether or not a link
/// has ended: people see it waiting, and where it is taken up again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a source that lacks the content is left alone.
const LACKING: Duration = Duration::from_secs(1);
/// A source that is not worth asking is asked for a little this often, in case it has become faster.
const TRY_EVERY: Duration = Duration::from_secs(3);
/// How much that is: one chunk, whatever its length.
const TRIED_BYTES: u64 = 1;
/// How often stalls and overdue syncs are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Bytes reused in one go, between looks at what else is to do.
const REUSE_BYTES: u64 = 16 * 1024 * 1024;

/// Fetches one content and reports the outcome to the share.
pub(crate) async fn fetch(
    ground: Ground,
    permits: Arc<Semaphore>,
    content: ContentHash,
    size: u64,
    key: Key,
) {
    // The semaphore is never closed.
    let Ok(_permit) = permits.acquire_owned().await else { return };
    let outcomes = ground.outcomes.clone();
    let shown = ground.transfers.begin(&ground.share, &key, content, size);
    let outcome = match transfer(ground, content, size, &shown).await {
        Ok(manifest) => {
            shown.set_state(TransferState::Applying, None);
            Fetched::Staged(Staged {
                content,
                slot: Slot::partial(content),
                manifest: Some(manifest),
                transfer: Some(shown),
            })
        }
        Err(why) => Fetched::Failed { content, why },
    };
    // The share is gone: nobody is left to care.
    let _ = outcomes.send(vec![outcome]).await;
}

async fn transfer(
    ground: Ground,
    content: ContentHash,
    size: u64,
    shown: &Shown,
) -> Result<Arc<Manifest>, FetchError> {
    let manifest = Arc::new(manifest(&ground, content, size).await?);
    let disk = ground.clone();
    let opening = Arc::clone(&manifest);
    let (writer, durable, acked) =
        blocking(move || Writer::open(&disk.root, &disk.store, disk.number, opening)).await?;
    shown.acked(acked);
    if acked > 0 {
        shown.resumed();
    }
    let (inbox, arrivals) = mpsc::unbounded_channel();
    let fetch = Fetch::new(&manifest, writer.held.clone());
    let transfer = Transfer {
        ground,
        shown,
        manifest: Arc::clone(&manifest),
        fetch,
        writer: Some(writer),
        durable,
        inbox,
        arrivals,
        asked: BTreeMap::new(),
        lacking: BTreeMap::new(),
        without: BTreeSet::new(),
        tried: BTreeMap::new(),
        served_by: BTreeSet::new(),
        syncing: None,
        synced: Instant::now(),
        broken: false,
    };
    transfer.run().await?;
    Ok(manifest)
}

/// The manifest from the store, or from the first peer that has it.
async fn manifest(
    ground: &Ground,
    content: ContentHash,
    size: u64,
) -> Result<Manifest, FetchError> {
    let (store, number) = (Arc::clone(&ground.store), ground.number);
    if let Some(known) = blocking(move || Ok(store.manifest(number, &content, size)?)).await? {
        return Ok(known);
    }
    let mut sources = ground.sources.clone();
    loop {
        let now = sources.borrow_and_update().clone();
        for source in &now {
            if let Some(manifest) = ask_manifest(ground, source, content, size).await
                && manifest.size() == size
            {
                return Ok(manifest);
            }
        }
        if !now.is_empty() {
            return Err(FetchError::Unavailable);
        }
        if sources.changed().await.is_err() {
            return Err(FetchError::Unavailable);
        }
    }
}

async fn ask_manifest(
    ground: &Ground,
    source: &Arc<Source>,
    content: ContentHash,
    size: u64,
) -> Option<Manifest> {
    let sizes = ChunkSizes::for_content(size);
    let chunks_max = size.div_ceil(sizes.min as u64);
    let (inbox, mut arrivals) = mpsc::unbounded_channel();
    let id = source.ask(&ground.share, Ask::Manifest(content), 0, &inbox).await?;
    // Memory is taken as chunks come, but from the start it is as one piece: growing by and by, it
    // would be there twice.
    let mut chunks = Vec::with_capacity((size / sizes.average as u64) as usize);
    loop {
        match timeout(STALL, arrivals.recv()).await {
            Ok(Some(Arrival::Reply(_, Reply::Manifest { chunks: part, last }))) => {
                chunks.extend(part);
                let too_many = chunks.len() as u64 > chunks_max;
                if last || too_many {
                    source.router.close(id);
                    return Manifest::new(content, chunks).filter(|_| !too_many);
                }
            }
            _ => {
                source.router.close(id);
                return None;
            }
        }
    }
}

struct Transfer<'a> {
    ground: Ground,
    shown: &'a Shown,
    manifest: Arc<Manifest>,
    fetch: Fetch<LinkId>,
    /// Away while a blocking thread uses it.
    writer: Option<Writer>,
    /// What the store has recorded as staged.
    durable: ChunkSet,
    inbox: Inbox,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    asked: BTreeMap<RequestId, Asked>,
    /// Sources that are left alone until then.
    lacking: BTreeMap<LinkId, Instant>,
    /// Sources that said that they lack the content, when they were last asked.
    without: BTreeSet<LinkId>,
    /// When sources were last asked.
    tried: BTreeMap<LinkId, Instant>,
    /// Who has sent bytes, and is told how far they are durable.
    served_by: BTreeSet<LinkId>,
    syncing: Option<JoinHandle<Result<(ChunkSet, u64), WriteError>>>,
    synced: Instant,
    /// Whether a source was lost since the last byte arrived.
    broken: bool,
}

struct Asked {
    source: Arc<Source>,
    /// Bytes still to come.
    owed: u64,
    heard: Instant,
}

impl Asked {
    /// For how long nothing has come of it, nor of what it may wait behind.
    fn silence(&self) -> Duration {
        self.heard.elapsed().min(self.source.idle())
    }

    /// No more is wanted of the answer; the peer is told if some is still to come.
    fn give_up(self, id: RequestId) {
        self.source.given_up(self.owed);
        self.source.router.close(id);
        if self.owed > 0 {
            // A full queue: the rest arrives and is dropped.
            let _ = self.source.content.try_send(Content::Cancel(id));
        }
    }
}

impl Transfer<'_> {
    async fn run(mut self) -> Result<(), FetchError> {
        self.record_manifest().await?;
        self.reuse().await?;
        let mut sources = self.ground.sources.clone();
        let mut tick = tokio::time::interval(TICK);
        while !self.fetch.is_complete() {
            let now = sources.borrow_and_update().clone();
            self.ask(&now).await;
            tokio::select! {
                Some(arrival) = self.arrivals.recv() => self.take(arrival).await?,
                outcome = sync_end(&mut self.syncing) => self.recorded(outcome, &now).await?,
                _ = sources.changed() => {}
                _ = tick.tick() => self.look_for_stalls(&now),
            }
            self.sync_if_due()?;
            if self.is_refused_by_all(&now) {
                return Err(FetchError::Unavailable);
            }
        }
        let now = sources.borrow().clone();
        self.finish(&now).await
    }

    fn is_recorded(&self) -> bool {
        self.manifest.size() >= RECORD_FROM
    }

    /// Before anything of the content is acknowledged: its manifest, and that its stage exists.
    async fn record_manifest(&mut self) -> Result<(), FetchError> {
        if !self.is_recorded() || !self.durable.is_empty() {
            return Ok(());
        }
        let (disk, manifest) = (self.ground.clone(), Arc::clone(&self.manifest));
        blocking(move || {
            disk.root.stage().sync(&Slot::partial(manifest.content()))?;
            Ok(disk.store.record_manifest(disk.number, &manifest)?)
        })
        .await
    }

    /// Copies what stands elsewhere in the share.
    async fn reuse(&mut self) -> Result<(), FetchError> {
        let mut from = Some(0);
        while let Some(index) = from {
            let Some(mut writer) = self.writer.take() else { return Ok(()) };
            let disk = self.ground.clone();
            let (writer, next) = blocking(move || {
                let shelf = Shelf {
                    root: &disk.root,
                    store: &disk.store,
                    share: disk.number,
                    catalogue: &disk.catalogue,
                };
                let next = writer.reuse(index, REUSE_BYTES, &shelf, &disk.counters)?;
                Ok((writer, next))
            })
            .await?;
            self.fetch = Fetch::new(&self.manifest, writer.held.clone());
            self.writer = Some(writer);
            from = next;
            self.sync_if_due()?;
            if self.syncing.as_ref().is_some_and(JoinHandle::is_finished) {
                let outcome = sync_end(&mut self.syncing).await;
                self.recorded(outcome, &[]).await?;
            }
        }
        Ok(())
    }

    /// Fills the windows of the sources with requests for what is missing.
    async fn ask(&mut self, sources: &[Arc<Source>]) {
        let now = Instant::now();
        self.lacking.retain(|_, until| *until > now);
        for (source, room_max) in self.choose(sources) {
            loop {
                let room = source.room().min(room_max);
                let idle = !self.asks(source.id);
                // Who is only tried is asked for one run.
                let tried = room_max == TRIED_BYTES && !idle;
                if tried || (room == 0 && !idle) || self.asked.len() >= REQUESTS_MAX {
                    break;
                }
                let Some(run) = self.fetch.next_run(&self.manifest, room.max(1)) else { return };
                self.tried.insert(source.id, now);
                let ask = Ask::Range {
                    content: self.manifest.content(),
                    offset: run.offset,
                    length: run.length,
                };
                let asked =
                    source.ask(&self.ground.share, ask, run.length, &self.inbox.clone()).await;
                let Some(id) = asked else { break };
                self.fetch.asked(id, source.id, run);
                let source = Arc::clone(&source);
                self.asked.insert(id, Asked { source, owed: run.length, heard: now });
                if let Some(writer) = &mut self.writer {
                    writer.expect(id, run);
                }
            }
        }
    }

    fn asks(&self, link: LinkId) -> bool {
        self.asked.values().any(|asked| asked.source.id == link)
    }

    /// Whom to ask, in which order, and how much at a time: all that bring the end nearer, and now and
    /// then a little of one that would not, to see whether it still is as slow.
    fn choose(&self, sources: &[Arc<Source>]) -> Vec<(Arc<Source>, u64)> {
        let free = sources.iter().filter(|source| !self.lacking.contains_key(&source.id));
        let free: Vec<&Arc<Source>> = free.collect();
        let candidates: Vec<Candidate> = free.iter().map(|source| source.candidate()).collect();
        let nobody_known = candidates.iter().all(|candidate| candidate.rate == 0);
        let worth = worth_asking(&candidates, self.remaining());
        let unknown = |place: usize| candidates[place].rate == 0 && !nobody_known;
        let room = |place: usize| if unknown(place) { TRIED_BYTES } else { u64::MAX };
        let mut chosen: Vec<(Arc<Source>, u64)> =
            worth.iter().map(|place| (Arc::clone(free[*place]), room(*place))).collect();
        let others = (0..free.len()).filter(|place| !worth.contains(place));
        let due = others.filter(|place| {
            let tried = self.tried.get(&free[*place].id);
            !candidates[*place].silent && tried.is_none_or(|at| at.elapsed() > TRY_EVERY)
        });
        chosen.extend(due.map(|place| (Arc::clone(free[place]), TRIED_BYTES)));
        chosen
    }

    /// About how many bytes are missing.
    fn remaining(&self) -> u64 {
        let chunks = self.manifest.chunks().len().max(1) as u64;
        let missing = chunks.saturating_sub(self.fetch.held().len() as u64);
        (u128::from(self.manifest.size()) * u128::from(missing) / u128::from(chunks)) as u64
    }

    /// Takes in everything that has arrived, and writes it.
    async fn take(&mut self, first: Arrival) -> Result<(), FetchError> {
        let mut bytes = Vec::new();
        let mut length = 0;
        let mut next = Some(first);
        while let Some(arrival) = next {
            match arrival {
                Arrival::Reply(id, Reply::Bytes(piece)) => {
                    length += piece.len();
                    self.heard(id, piece.len() as u64);
                    bytes.push((id, piece));
                }
                Arrival::Reply(id, Reply::Refused(refusal)) => self.refused(id, refusal),
                Arrival::Reply(id, _) => self.refused(id, Refusal::Lacks),
                Arrival::Lost(id) => self.lost(id),
            }
            next = if length < WRITE_BYTES_MAX { self.arrivals.try_recv().ok() } else { None };
        }
        if bytes.is_empty() { Ok(()) } else { self.write(bytes).await }
    }

    fn heard(&mut self, id: RequestId, bytes: u64) {
        self.ground.counters.content_bytes_received.add(bytes);
        if let Some(asked) = self.asked.get_mut(&id) {
            asked.heard = Instant::now();
            self.served_by.insert(asked.source.id);
            self.without.remove(&asked.source.id);
            self.shown.set_state(TransferState::Receiving, Some(asked.source.peer));
        }
        if std::mem::take(&mut self.broken) {
            self.shown.resumed();
        }
    }

    async fn write(&mut self, bytes: Vec<(RequestId, Bytes)>) -> Result<(), FetchError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let counters = Arc::clone(&self.ground.counters);
        let lengths: Vec<(RequestId, u64)> =
            bytes.iter().map(|(id, piece)| (*id, piece.len() as u64)).collect();
        let (writer, written) = blocking(move || {
            let written = writer.take(bytes, &counters)?;
            Ok((writer, written))
        })
        .await?;
        self.writer = Some(writer);
        for (id, length) in lengths {
            if let Some(asked) = self.asked.get_mut(&id) {
                let length = length.min(asked.owed);
                asked.owed -= length;
                asked.source.arrived(length);
                self.shown.set_rate(asked.source.rate());
            }
        }
        self.settle(written);
        Ok(())
    }

    fn settle(&mut self, written: Written) {
        for index in written.staged {
            self.fetch.staged(index);
        }
        for (id, index) in written.refused {
            let Some(asked) = self.asked.get(&id) else { continue };
            let complaint = Content::Mismatch {
                share: self.ground.share.clone(),
                content: self.manifest.content(),
                offset: self.manifest.offset_of(index),
                length: self.manifest.chunks()[index].length,
            };
            let source = Arc::clone(&asked.source);
            tracing::warn!(peer = ?source.peer, key = %self.shown.key, "a chunk arrived damaged");
            // A link that takes nothing now is complained to at the next damaged chunk.
            let _ = source.content.try_send(complaint);
            self.leave_alone(source.id);
        }
        for id in written.answered.into_iter().chain(written.overlong) {
            self.close(id);
        }
    }

    fn refused(&mut self, id: RequestId, refusal: Refusal) {
        if let Some(asked) = self.asked.get(&id) {
            let link = asked.source.id;
            tracing::debug!(peer = ?asked.source.peer, ?refusal, key = %self.shown.key, "refused");
            if refusal == Refusal::Lacks {
                self.without.insert(link);
            }
            self.leave_alone(link);
        }
        self.close(id);
    }

    /// Whether there are peers, none of them has the content, and nothing is on its way.
    fn is_refused_by_all(&self, sources: &[Arc<Source>]) -> bool {
        let idle = self.asked.is_empty() && self.syncing.is_none();
        let refused = |source: &Arc<Source>| self.lacking.contains_key(&source.id);
        idle && !sources.is_empty() && sources.iter().all(refused)
    }

    fn leave_alone(&mut self, link: LinkId) {
        self.lacking.insert(link, Instant::now() + LACKING);
    }

    fn lost(&mut self, id: RequestId) {
        self.broken = true;
        self.shown.set_state(TransferState::Waiting, None);
        self.close(id);
    }

    fn close(&mut self, id: RequestId) {
        if let Some(asked) = self.asked.remove(&id) {
            asked.give_up(id);
        }
        self.fetch.closed(id);
        if let Some(writer) = &mut self.writer {
            writer.forget(id);
        }
    }

    fn look_for_stalls(&mut self, sources: &[Arc<Source>]) {
        let paused = self.asked.values().all(|asked| asked.silence() > PAUSE);
        if paused && !self.asked.is_empty() && !self.broken {
            self.broken = true;
            self.shown.set_state(TransferState::Waiting, None);
        }
        let stalled: Vec<RequestId> = self
            .asked
            .iter()
            .filter(|(_, asked)| self.is_stalled(asked, sources))
            .map(|(&id, _)| id)
            .collect();
        for id in stalled {
            self.refused(id, Refusal::Busy);
        }
        self.take_over_the_last(sources);
    }

    /// Whether an answer has brought nothing for too long. Where somebody else can be asked nobody waits
    /// long.
    fn is_stalled(&self, asked: &Asked, sources: &[Arc<Source>]) -> bool {
        let other = sources.iter().any(|source| {
            let able = self.may_take_over(source) && !source.line.is_silent();
            source.id != asked.source.id && able
        });
        if other {
            asked.heard.elapsed() > asked.source.candidate().patience().min(STALL)
        } else {
            asked.silence() > STALL
        }
    }

    /// Whether a source can be asked for what another owes. One that lacked the content may have it by
    /// now, and is asked for more of it; but what is on its way is not given up for that.
    fn may_take_over(&self, source: &Source) -> bool {
        !self.lacking.contains_key(&source.id) && !self.without.contains(&source.id)
    }

    /// When nothing is left to ask for, what a slow source still owes is asked of a fast one.
    fn take_over_the_last(&mut self, sources: &[Arc<Source>]) {
        if self.fetch.next_run(&self.manifest, 1).is_some() {
            return;
        }
        let idle = sources.iter().filter(|s| !self.asks(s.id) && self.may_take_over(s));
        let idle: Vec<Candidate> = idle.map(|source| source.candidate()).collect();
        let slow: Vec<(RequestId, LinkId)> = self
            .asked
            .iter()
            .filter(|(_, asked)| {
                let slow = asked.source.candidate();
                idle.iter().any(|idle| !idle.silent && is_better_off(asked.owed, &slow, idle))
            })
            .map(|(id, asked)| (*id, asked.source.id))
            .collect();
        for (id, link) in slow {
            self.leave_alone(link);
            self.close(id);
        }
    }

    fn sync_if_due(&mut self) -> Result<(), FetchError> {
        let recorded = self.is_recorded();
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let enough = writer.unsynced >= SYNC_BYTES;
        let overdue = writer.unsynced > 0 && self.synced.elapsed() >= SYNC_AFTER;
        if self.syncing.is_some() || !recorded || !(enough || overdue) {
            return Ok(());
        }
        let snapshot = writer.snapshot();
        let file = Arc::clone(&writer.file);
        let ground = self.ground.clone();
        let (content, before) = (self.manifest.content(), self.durable.clone());
        self.synced = Instant::now();
        self.syncing = Some(tokio::task::spawn_blocking(move || {
            file.sync_data()?;
            let acked = record(&ground, &content, &snapshot, &before)?;
            Ok((snapshot.held, acked))
        }));
        Ok(())
    }

    async fn recorded(
        &mut self,
        outcome: Result<(ChunkSet, u64), WriteError>,
        sources: &[Arc<Source>],
    ) -> Result<(), FetchError> {
        let (durable, acked) = outcome?;
        self.durable = durable;
        self.shown.acked(acked);
        self.acknowledge(sources, acked);
        Ok(())
    }

    /// Tells those who sent it how far the content is durable here.
    fn acknowledge(&self, sources: &[Arc<Source>], offset: u64) {
        for source in sources.iter().filter(|source| self.served_by.contains(&source.id)) {
            let acked = Acked {
                share: self.ground.share.clone(),
                content: self.manifest.content(),
                offset,
                size: self.manifest.size(),
            };
            // On a link that takes nothing now the next one says more; the others go on.
            let _ = source.content.try_send(Content::Acked(acked));
        }
    }

    /// Makes the rest durable, records it, and judges the whole.
    async fn finish(mut self, sources: &[Arc<Source>]) -> Result<(), FetchError> {
        if self.syncing.is_some() {
            let outcome = sync_end(&mut self.syncing).await;
            self.recorded(outcome, sources).await?;
        }
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        if !writer.is_right() {
            return self.discard().await;
        }
        if self.is_recorded() {
            let (file, snapshot) = (Arc::clone(&writer.file), writer.snapshot());
            let (ground, content) = (self.ground.clone(), self.manifest.content());
            let before = self.durable.clone();
            let sync_and_record = move || {
                file.sync_data()?;
                Ok(record(&ground, &content, &snapshot, &before)?)
            };
            let acked = blocking(sync_and_record).await?;
            self.shown.acked(acked);
            self.acknowledge(sources, acked);
        }
        Ok(())
    }

    /// The manifest was not this content's: nothing that was staged by it can be trusted.
    async fn discard(self) -> Result<(), FetchError> {
        let ground = self.ground.clone();
        let (content, chunks) = (self.manifest.content(), self.manifest.chunks().len());
        blocking(move || {
            let mut commit = Commit::new();
            commit.delete_stage(ground.number, &content, chunks);
            commit.delete_manifest(ground.number, &content, chunks);
            ground.store.commit(commit)?;
            Ok(ground.root.stage().remove(&Slot::partial(content))?)
        })
        .await?;
        Err(FetchError::WrongManifest)
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        // What will not be waited for any more must not fill the windows for ever.
        for (id, asked) in std::mem::take(&mut self.asked) {
            asked.give_up(id);
        }
    }
}

/// Records what a sync has made durable. Returns the acknowledged offset.
fn record(
    ground: &Ground,
    content: &ContentHash,
    snapshot: &Snapshot,
    before: &ChunkSet,
) -> Result<u64, StoreError> {
    let mut commit = Commit::new();
    commit.put_stage(ground.number, content, &snapshot.row, before, &snapshot.held);
    ground.store.commit(commit)?;
    Ok(snapshot.row.acked)
}

/// Waits for the sync under way; for ever when there is none.
async fn sync_end(
    syncing: &mut Option<JoinHandle<Result<(ChunkSet, u64), WriteError>>>,
) -> Result<(ChunkSet, u64), WriteError> {
    let Some(task) = syncing.as_mut() else { return std::future::pending().await };
    let outcome = task.await;
    *syncing = None;
    outcome.unwrap_or(Err(WriteError::StageShrunk))
}

/// Runs disk work on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(panic) => Err(FetchError::Local(format!("a disk task failed: {panic}"))),
    }
}
