//! The world of a share on a real machine: the system's clock, a folder on a disk, a thread that
//! reads it, a watcher, and tasks that fetch.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_core::{Epoch, WallTime};
use highwater_folder::{
    Hint, IgnoreRules, Marker, MarkerIdentity, Root, RootError, WatchError, Watcher,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::outside::{Folder, Hands, Outside};
use super::replica::Replica;
use super::scanner::{self, Index, SCAN_EVENTS_MAX};
use super::{Counter, Stock, Surroundings};
use crate::config::ShareConfig;
use crate::fetch::source::Source;
use crate::fetch::{self, Fetched, Ground};

/// How long the fetching task is waited for when a share is closed.
const FETCHING_END_WAIT: Duration = Duration::from_secs(1);
/// Jobs that wait for the fetching task.
const JOBS_MAX: usize = 1024;
/// Reports of the fetching tasks that wait for the share.
const OUTCOMES_MAX: usize = 64;

/// One share's part of this machine.
#[derive(Debug)]
pub(crate) struct Machine {
    path: PathBuf,
    around: Surroundings,
    counter: Arc<Counter>,
    runtime: Handle,
    root: Option<Arc<Root>>,
    watcher: Option<Watcher>,
    fetching: Option<tokio::task::JoinHandle<()>>,
    scanner: Option<JoinHandle<()>>,
}

impl Machine {
    pub(crate) fn new(
        share: &ShareConfig,
        around: &Surroundings,
        counter: &Arc<Counter>,
        runtime: Handle,
    ) -> Self {
        Self {
            path: share.path.clone(),
            around: around.clone(),
            counter: Arc::clone(counter),
            runtime,
            root: None,
            watcher: None,
            fetching: None,
            scanner: None,
        }
    }

    fn opened(&mut self, root: Root) -> Arc<dyn Folder> {
        let root = Arc::new(root);
        self.root = Some(Arc::clone(&root));
        root
    }

    fn root(&self) -> io::Result<Arc<Root>> {
        self.root.clone().ok_or_else(|| io::Error::other("the share's folder is not open"))
    }

    fn ground(
        &self,
        root: Arc<Root>,
        replica: &Replica,
        sources: watch::Receiver<Vec<Arc<Source>>>,
        outcomes: mpsc::Sender<Vec<Fetched>>,
    ) -> Ground {
        Ground {
            share: replica.name().clone(),
            number: replica.number(),
            root,
            store: Arc::clone(&self.around.store),
            catalogue: Arc::clone(replica.catalogue()),
            counters: Arc::clone(&self.around.counters),
            transfers: Arc::clone(&self.around.transfers),
            slots: Arc::default(),
            sources,
            outcomes,
        }
    }
}

impl Outside for Machine {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> WallTime {
        wall_now()
    }

    fn new_epoch(&self) -> Epoch {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // Without randomness there is no identity either; a process cannot go on from here.
            std::process::abort();
        }
        Epoch(bytes)
    }

    fn open_folder(&mut self, identity: &MarkerIdentity) -> Result<Arc<dyn Folder>, RootError> {
        Root::open(&self.path, identity).map(|root| self.opened(root))
    }

    fn create_folder(&mut self, marker: &Marker) -> Result<Arc<dyn Folder>, RootError> {
        Root::create(&self.path, marker).map(|root| self.opened(root))
    }

    fn hire(
        &mut self,
        replica: &Replica,
        sources: watch::Receiver<Vec<Arc<Source>>>,
    ) -> io::Result<Hands> {
        let (root, number) = (self.root()?, replica.number());
        let (reads, read_jobs) = std_mpsc::channel();
        let (found, scan_events) = mpsc::channel(SCAN_EVENTS_MAX);
        let read_root = Arc::clone(&root);
        let (store, catalogue) = (Arc::clone(&self.around.store), Arc::clone(replica.catalogue()));
        let index = Index { store, share: number, catalogue };
        let counters = Arc::clone(&self.around.counters);
        let scanner = std::thread::Builder::new()
            .name("scan".into())
            .spawn(move || scanner::run(&read_root, &read_jobs, &index, &counters, &found))?;
        self.scanner = Some(scanner);
        let (jobs, fetch_jobs) = mpsc::channel(JOBS_MAX);
        let (report, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let ground = self.ground(Arc::clone(&root), replica, sources, report);
        self.fetching = Some(self.runtime.spawn(fetch::run(ground, fetch_jobs)));
        let (store, catalogue) = (Arc::clone(&self.around.store), Arc::clone(replica.catalogue()));
        self.counter.open(Stock { root, store, number, catalogue });
        Ok(Hands { reads, scan_events, jobs, outcomes })
    }

    fn watch(
        &mut self,
        rules: &Arc<IgnoreRules>,
        hints: mpsc::Sender<Hint>,
    ) -> Result<(), WatchError> {
        self.watcher = None;
        let Some(root) = self.root.clone() else { return Ok(()) };
        let on_hint = Box::new(move |hint| {
            // The share has closed the folder when nobody listens.
            let _ = hints.blocking_send(hint);
        });
        self.watcher = Some(Watcher::start(root, Arc::clone(rules), on_hint)?);
        Ok(())
    }

    fn dismiss(&mut self) {
        self.counter.close();
        self.watcher = None;
        if let Some(scanner) = self.scanner.take() {
            // A panic of the thread has been printed where it happened.
            let _ = scanner.join();
        }
        if let Some(fetching) = self.fetching.take() {
            // Aborted tasks end at their next step; one that hangs on a disk is not waited for.
            let ended = async { tokio::time::timeout(FETCHING_END_WAIT, fetching).await };
            let _ = self.runtime.block_on(ended);
        }
        self.root = None;
    }
}

/// What the wall clock says, in milliseconds since 1970.
pub(crate) fn wall_now() -> WallTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
