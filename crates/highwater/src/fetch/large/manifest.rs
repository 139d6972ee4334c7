//! The manifest of a content: from the store, or from a peer.

use std::sync::Arc;

use highwater_core::wire::{Ask, Reply};
use highwater_core::{ChunkSizes, ContentHash, Manifest};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{STALL, blocking};
use crate::fetch::source::Source;
use crate::fetch::{FetchError, Ground};
use crate::router::Arrival;

/// The manifest from the store, or from the first peer that has it.
pub(super) async fn manifest(
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
