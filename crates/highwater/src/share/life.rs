//! How a share comes to work and stops: its folder opened, its helpers started, and all of it ended.
//!
//! A share that cannot work (no root, a foreign root, a failing store) is tried again every
//! [`REOPEN_EVERY`]; until it works it offers nothing, serves nothing and deletes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::NodeId;
use highwater_folder::Scope;
use tokio::sync::mpsc;

use super::actor::{Actor, Open};
use super::gone::Gone;
use super::local::{HINTS_MAX, note};
use super::open::{Opened, open};
use super::plan::Work;
use super::unread::Unread;

/// How often opening a share that cannot work is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(2);
impl Actor {
    pub(super) fn reopen_if_due(&mut self) {
        if self.open.is_some() || self.config.paused || self.outside.now() < self.reopen_at {
            return;
        }
        self.reopen_at = self.outside.now() + REOPEN_EVERY;
        self.dirty = true;
        match self.begin() {
            Ok(()) => {
                if let Some(error) = self.error.take() {
                    tracing::info!(share = %self.config.name, was = error, "the share goes on");
                }
            }
            Err(error) => {
                if self.error.as_ref() != Some(&error) {
                    tracing::error!(share = %self.config.name, error, "the share cannot work");
                }
                self.error = Some(error);
                self.close();
            }
        }
    }

    fn begin(&mut self) -> Result<(), String> {
        let (node, store) = (self.around.node, Arc::clone(&self.around.store));
        let opened = open(&self.config, node, &store, &mut *self.outside);
        let open = self
            .assemble(opened.map_err(|e| e.to_string())?)
            .map_err(|e| format!("no thread: {e}"))?;
        self.open = Some(open);
        self.verified_at = self.outside.now();
        // The watcher first: what changes while the scan reads must not be missed.
        self.watch();
        self.apply_policy().map_err(|e| e.to_string())?;
        self.want_scan(Scope::Whole);
        Ok(())
    }

    fn assemble(&mut self, opened: Opened) -> std::io::Result<Open> {
        let (rules, problems) = opened.folder.rules();
        let mut standing_problems = BTreeMap::new();
        for problem in problems.into_iter().chain(opened.problems) {
            note(&mut standing_problems, problem);
        }
        let hands = self.outside.hire(&opened.replica, self.sources.subscribe())?;
        Ok(Open {
            wall: self.outside.wall(),
            folder: opened.folder,
            replica: opened.replica,
            rules: Arc::new(rules),
            hands,
            scanning: None,
            scanning_whole: false,
            placed_meanwhile: BTreeSet::new(),
            damaged: BTreeMap::new(),
            healings: super::heal::Healings::default(),
            verified: BTreeMap::new(),
            hints: mpsc::channel(HINTS_MAX).1,
            blind: true,
            scan_problems: BTreeMap::new(),
            unread: Unread::default(),
            standing_problems,
            local_changes: BTreeMap::new(),
            receive_only: BTreeMap::new(),
            place_problems: BTreeMap::new(),
            work: Work::left_over(self.outside.now()),
        })
    }

    /// The share cannot go on; it is opened again later.
    pub(crate) fn fail(&mut self, error: String) {
        tracing::error!(share = %self.config.name, error, "the share stops");
        self.error = Some(error);
        self.reopen_at = self.outside.now() + REOPEN_EVERY;
        self.close();
    }

    /// Ends everything that works for the folder.
    pub(super) fn close(&mut self) {
        self.withdraw_from_all();
        if let Some(scan) = self.open.take().and_then(|open| open.scanning) {
            scan.cancel();
        }
        self.outside.dismiss();
        self.forget_run();
    }

    fn forget_run(&mut self) {
        self.ready = false;
        self.gone = Gone::default();
        (self.scan_wanted, self.scanned_at, self.acks_since, self.unsaid) =
            (None, None, None, None);
        self.rules_changed = false;
        self.dirty = true;
    }

    pub(super) fn set_peers(&mut self, peers: BTreeMap<NodeId, String>) {
        self.counter.set_peers(peers.clone());
        self.peers = peers;
        self.part_from_unlisted();
        self.dirty = true;
    }
}
