//! How a share comes to work and stops: its folder opened, its helpers started, and all of it ended.
//!
//! A share that cannot work (no root, a foreign root, a failing store) is tried again every
//! [`REOPEN_EVERY`]; until it works it offers nothing, serves nothing and deletes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use highwater_core::NodeId;
use highwater_folder::{IgnoreRules, Scope};
use highwater_store::PeerRow;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::actor::{Actor, Open};
use super::local::{Gone, HINTS_MAX, note};
use super::open::{Opened, open};
use super::plan::Work;
use super::replica::History;
use super::scanner::SCAN_EVENTS_MAX;
use super::{Stock, scanner};
use crate::fetch::{self, Ground};

/// How often opening a share that cannot work is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(2);
/// How long the fetching task is waited for when a share is closed.
const FETCHING_END_WAIT: Duration = Duration::from_secs(1);
/// Jobs that wait for the fetching task.
const JOBS_MAX: usize = 1024;
/// Reports of the fetching tasks that wait for the share.
const OUTCOMES_MAX: usize = 64;

impl Actor {
    pub(super) fn reopen_if_due(&mut self, runtime: &Handle) {
        if self.open.is_some() || self.config.paused || Instant::now() < self.reopen_at {
            return;
        }
        self.reopen_at = Instant::now() + REOPEN_EVERY;
        self.dirty = true;
        match self.begin(runtime) {
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
                self.close(runtime);
            }
        }
    }

    fn begin(&mut self, runtime: &Handle) -> Result<(), String> {
        let around = self.around.clone();
        let mut opened =
            open(&self.config, around.node, &around.store).map_err(|e| e.to_string())?;
        if opened.replica.history != History::Continuous {
            // What peers learned from the lost history they did not send back.
            self.peers.keys().for_each(|peer| opened.replica.put_peer(peer, PeerRow::default()));
        }
        let stock = Stock {
            root: Arc::clone(&opened.root),
            store: around.store,
            number: opened.replica.number(),
            catalogue: Arc::clone(opened.replica.catalogue()),
        };
        let open = self.assemble(opened, runtime).map_err(|e| format!("no thread: {e}"))?;
        self.open = Some(open);
        self.verified_at = Instant::now();
        // The watcher first: what changes while the scan reads must not be missed.
        self.watch();
        self.apply_policy().map_err(|e| e.to_string())?;
        self.counter.open(stock);
        self.want_scan(Scope::Whole);
        Ok(())
    }

    fn assemble(&mut self, opened: Opened, runtime: &Handle) -> std::io::Result<Open> {
        let (rules, problems) = IgnoreRules::load(&opened.root);
        let mut standing_problems = BTreeMap::new();
        for problem in problems.into_iter().chain(opened.problems) {
            note(&mut standing_problems, problem);
        }
        let (store, share) = (Arc::clone(&self.around.store), opened.replica.number());
        let (reads, read_jobs) = std_mpsc::channel();
        let (found, scan_events) = mpsc::channel(SCAN_EVENTS_MAX);
        let counters = Arc::clone(&self.around.counters);
        let scanner = std::thread::Builder::new()
            .name("scan".into())
            .spawn(move || scanner::run(&read_jobs, &store, share, &counters, &found))?;
        let (jobs, fetch_jobs) = mpsc::channel(JOBS_MAX);
        let (outcomes_in, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let ground = Ground {
            share: self.config.name.clone(),
            number: share,
            root: Arc::clone(&opened.root),
            store: Arc::clone(&self.around.store),
            catalogue: Arc::clone(opened.replica.catalogue()),
            counters: Arc::clone(&self.around.counters),
            transfers: Arc::clone(&self.around.transfers),
            slots: Arc::default(),
            sources: self.sources.subscribe(),
            outcomes: outcomes_in,
        };
        Ok(Open {
            root: opened.root,
            replica: opened.replica,
            rules: Arc::new(rules),
            reads,
            scanning: None,
            scanning_whole: false,
            scan_events,
            placed_meanwhile: BTreeSet::new(),
            verified: BTreeMap::new(),
            hints: mpsc::channel(HINTS_MAX).1,
            watcher: None,
            scan_problems: BTreeMap::new(),
            standing_problems,
            local_changes: BTreeMap::new(),
            receive_only: BTreeMap::new(),
            place_problems: BTreeMap::new(),
            work: Work::left_over(),
            jobs,
            outcomes,
            fetching: runtime.spawn(fetch::run(ground, fetch_jobs)),
            scanner: Some(scanner),
        })
    }

    /// The share cannot go on; it is opened again later.
    pub(crate) fn fail(&mut self, error: String) {
        tracing::error!(share = %self.config.name, error, "the share stops");
        self.error = Some(error);
        self.reopen_at = Instant::now() + REOPEN_EVERY;
        self.withdraw_from_all();
        if let Some(open) = self.open.take() {
            open.shut();
        }
        self.forget_run();
    }

    pub(super) fn close(&mut self, runtime: &Handle) {
        self.withdraw_from_all();
        if let Some(open) = self.open.take()
            && let Some(fetching) = open.shut()
        {
            // Aborted tasks end at their next step; one that hangs on a disk is not waited for.
            let ended = async { tokio::time::timeout(FETCHING_END_WAIT, fetching).await };
            let _ = runtime.block_on(ended);
        }
        self.forget_run();
    }

    fn forget_run(&mut self) {
        self.counter.close();
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

impl Open {
    /// Ends everything that works for this folder; the fetching task ends soon after.
    fn shut(mut self) -> Option<tokio::task::JoinHandle<()>> {
        if let Some(scan) = &self.scanning {
            scan.cancel();
        }
        let scanner = self.scanner.take();
        // Receivers go first: whoever waits for room in them is woken up.
        let Open { reads, scan_events, hints, watcher, jobs, outcomes, fetching, .. } = self;
        drop((reads, scan_events, hints, jobs, outcomes));
        drop(watcher);
        if let Some(scanner) = scanner {
            // A panic of the thread has been printed where it happened.
            let _ = scanner.join();
        }
        Some(fetching)
    }
}
