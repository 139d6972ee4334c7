//! What of a transfer is durable: synced first, recorded then, acknowledged after.

use std::sync::Arc;
use std::time::Duration;

use highwater_core::ContentHash;
use highwater_core::fetch::ChunkSet;
use highwater_core::wire::{Acked, Content};
use highwater_folder::Slot;
use highwater_store::{Commit, StoreError};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Transfer, blocking};
use crate::fetch::source::Source;
use crate::fetch::writer::{Snapshot, WriteError};
use crate::fetch::{FetchError, Ground};

/// A sync begins when this much is written and not durable: what a killed receiver asks for again.
const SYNC_BYTES: u64 = 1024 * 1024;
/// Or when this much time has passed since the last one.
const SYNC_AFTER: Duration = Duration::from_millis(500);
/// Contents smaller than this are fetched again rather than recorded while they are under way: a
/// record costs a durable commit.
const RECORD_FROM: u64 = 2 * 1024 * 1024;

impl Transfer<'_> {
    fn is_recorded(&self) -> bool {
        self.manifest.size() >= RECORD_FROM
    }

    /// Before anything of the content is acknowledged: its manifest, and that its stage exists.
    pub(super) async fn record_manifest(&mut self) -> Result<(), FetchError> {
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

    pub(super) fn sync_if_due(&mut self) -> Result<(), FetchError> {
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

    pub(super) async fn recorded(
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
    pub(super) async fn finish(mut self, sources: &[Arc<Source>]) -> Result<(), FetchError> {
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
pub(super) async fn sync_end(
    syncing: &mut Option<JoinHandle<Result<(ChunkSet, u64), WriteError>>>,
) -> Result<(ChunkSet, u64), WriteError> {
    let Some(task) = syncing.as_mut() else { return std::future::pending().await };
    let outcome = task.await;
    *syncing = None;
    outcome.unwrap_or(Err(WriteError::StageShrunk))
}
