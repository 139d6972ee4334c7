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
use highwater_core::fetch::{ChunkSet, Fetch};
use highwater_core::wire::{Content, Refusal, Reply, RequestId};
use highwater_core::{ContentHash, Key, Manifest};
use highwater_folder::Slot;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::source::LinkId;
use super::transfer::Shown;
use super::writer::{Shelf, WriteError, Writer, Written};
use super::{FetchError, Fetched, Ground, Staged};
use crate::report::TransferState;
use crate::router::{Arrival, Inbox};

mod asking;
mod durable;
mod manifest;

use asking::Asked;
use durable::sync_end;
use manifest::manifest;

/// Bytes that are verified and written in one go.
const WRITE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A source that brings nothing for this long, on a link that is up, is given up, even if there is
/// nobody else to ask. One that brings something is not: on a slow line a request waits behind others,
/// and if it were asked again its bytes would cross twice.
const STALL: Duration = Duration::from_secs(10);
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
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        // What will not be waited for any more must not fill the windows for ever.
        for (id, asked) in std::mem::take(&mut self.asked) {
            asked.give_up(id);
        }
    }
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
