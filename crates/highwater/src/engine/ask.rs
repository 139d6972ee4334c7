//! What people ask the engine, and its answers.

use std::sync::Arc;

use highwater_core::merge::{conflict_of, is_conflict_key};
use highwater_core::{Seq, ShareName};
use highwater_store::{EntryRow, Store, StoreError};

use super::{Engine, EngineError, blocking};
use crate::report::{self, ConflictRow, LogRow, ShareStatus, Status};

impl Engine {
    /// Everything about the node.
    pub async fn status(&self) -> Status {
        let inner = &self.0;
        let node = inner.config().node.clone();
        let peers = inner.net.peer_states();
        let reconnects = peers.values().map(|peer| peer.reconnects).sum();
        Status {
            node_id: inner.node,
            name: node.name,
            user: node.user,
            version: report::VERSION.to_owned(),
            uptime_seconds: inner.started.elapsed().as_secs(),
            shares: self.shares(),
            transfers: inner.around.transfers.report(),
            counters: inner.around.counters.report(reconnects),
            problems: inner.warnings.report(),
            unwell: inner.watchdog.unwell(),
        }
    }

    fn shares(&self) -> Vec<ShareStatus> {
        self.0.share_statuses()
    }

    /// Up to `limit` rows of a share's change log behind `since`.
    ///
    /// # Errors
    /// When there is no such share, or the store fails.
    pub async fn log(
        &self,
        share: &ShareName,
        since: Seq,
        limit: usize,
    ) -> Result<Vec<LogRow>, EngineError> {
        let desk = self.0.desks.get(share);
        let desk = desk.ok_or_else(|| EngineError::UnknownShare(share.clone()))?;
        // What lies behind the head that people were told of may not be durable yet.
        let upto = desk.snapshot.borrow().head_seq;
        let (store, name) = (Arc::clone(&self.0.around.store), share.clone());
        Ok(blocking(move || log_rows(&store, &name, since, upto, limit)).await?)
    }

    /// The preserved losing versions of one share, or of all.
    ///
    /// # Errors
    /// When there is no such share, or the store fails.
    pub async fn conflicts(
        &self,
        share: Option<&ShareName>,
    ) -> Result<Vec<ConflictRow>, EngineError> {
        let shares: Vec<ShareName> = match share {
            Some(share) => {
                self.known(share)?;
                vec![share.clone()]
            }
            None => self.0.desks.all().into_keys().collect(),
        };
        let store = Arc::clone(&self.0.around.store);
        let rows = blocking(move || {
            let rows = shares.iter().map(|share| conflict_rows(&store, share));
            rows.collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?.into_iter().flatten().collect())
    }

    fn known(&self, share: &ShareName) -> Result<(), EngineError> {
        let known = self.0.desks.get(share).map(drop);
        known.ok_or_else(|| EngineError::UnknownShare(share.clone()))
    }
}

fn log_rows(
    store: &Store,
    share: &ShareName,
    since: Seq,
    upto: Seq,
    limit: usize,
) -> Result<Vec<LogRow>, StoreError> {
    let Some(row) = store.share(share)? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for log in store.log_after(row.number, since) {
        if rows.len() >= limit {
            break;
        }
        let (seq, log) = log?;
        if seq > upto {
            break;
        }
        // An entry that moved on while we read comes with its later position.
        if let Some(found) = store.entry(row.number, &log.key)?.filter(|found| found.seq == seq) {
            rows.push(LogRow::of(seq, &found.entry));
        }
    }
    Ok(rows)
}

fn conflict_rows(store: &Store, share: &ShareName) -> Result<Vec<ConflictRow>, StoreError> {
    let Some(row) = store.share(share)? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for found in store.entries(row.number, None) {
        let EntryRow { entry, .. } = found?;
        if !entry.kind.is_live() || !is_conflict_key(&entry.key) {
            continue;
        }
        rows.push(ConflictRow {
            share: share.clone(),
            of: conflict_of(&entry.key).unwrap_or_else(|| entry.key.clone()),
            size: entry.kind.size(),
            stamp: report::rfc3339(entry.stamp.wall()),
            author: entry.author.to_string(),
            key: entry.key,
        });
    }
    Ok(rows)
}
