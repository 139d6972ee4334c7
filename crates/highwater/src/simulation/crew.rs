//! The world of a played share: whoever it hires is the simulation, which holds the other ends.

use std::io;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_core::wire::Goodbye;
use highwater_core::{Epoch, WallTime};
use highwater_folder::{Hint, IgnoreRules, Marker, MarkerIdentity, RootError, WatchError};
use highwater_store::ShareNumber;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::chance::Chance;
use super::clock::PlayedClock;
use super::folder::{PlayedFolder, marker_not_written, path};
use crate::fetch::source::{Line, Source};
use crate::fetch::{Fetched, Job};
use crate::share::catalogue::Catalogue;
use crate::share::outside::{Folder, Hands, Outside};
use crate::share::replica::Replica;
use crate::share::scanner::{ReadJob, ScanEvent};

/// The ends of the share's hands that the simulation holds, and what it needs to play them.
#[derive(Debug)]
pub(super) struct Crew {
    /// Which crew of its node's life it is. What one crew has under way, the next knows nothing of.
    pub(super) shift: u64,
    pub(super) reads: std_mpsc::Receiver<ReadJob>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) sources: watch::Receiver<Vec<Arc<Source>>>,
    pub(super) number: ShareNumber,
    pub(super) catalogue: Arc<Catalogue>,
    /// Kept open: the share takes what it is told directly.
    _ends: (mpsc::Sender<ScanEvent>, mpsc::Sender<Vec<Fetched>>),
}

/// Jobs that are taken in one turn are bounded by what a share has at work.
const JOBS_MAX: usize = 8192;

/// The outside of one played share. Clones see the same crew.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) clock: PlayedClock,
    pub(super) folder: PlayedFolder,
    pub(super) chance: Arc<Mutex<Chance>>,
    pub(super) crew: Arc<Mutex<Option<Crew>>>,
    /// How many crews were hired.
    pub(super) shifts: u64,
}

impl Played {
    /// The crew, while the share is open.
    pub(super) fn with_crew<T>(&self, ask: impl FnOnce(&mut Crew) -> T) -> Option<T> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(ask)
    }

    fn found(&self) -> Result<(), RootError> {
        match self.folder.disk().vanished {
            true => Err(RootError::Missing(path())),
            false => Ok(()),
        }
    }
}

impl Outside for Played {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    fn new_epoch(&self) -> Epoch {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&chance.next().to_be_bytes());
        bytes[8..].copy_from_slice(&chance.next().to_be_bytes());
        Epoch(bytes)
    }

    fn open_folder(&mut self, identity: &MarkerIdentity) -> Result<Arc<dyn Folder>, RootError> {
        self.found()?;
        match &self.folder.disk().marker {
            Some(marker) if marker.identity() == *identity => {}
            Some(marker) => {
                let found = Box::new(marker.clone());
                return Err(RootError::Foreign { path: path(), found });
            }
            None => return Err(RootError::NoMarker(path())),
        }
        Ok(Arc::new(self.folder.clone()))
    }

    fn create_folder(&mut self, marker: &Marker) -> Result<Arc<dyn Folder>, RootError> {
        self.found()?;
        self.folder.fuse.grow().map_err(marker_not_written)?;
        let mut disk = self.folder.disk();
        let mut marker = marker.clone();
        let before = disk.marker.as_ref().map_or(0, |found| found.generation);
        marker.generation = marker.generation.max(before);
        disk.marker = Some(marker);
        disk.markers_made += 1;
        drop(disk);
        Ok(Arc::new(self.folder.clone()))
    }

    fn hire(
        &mut self,
        replica: &Replica,
        sources: watch::Receiver<Vec<Arc<Source>>>,
    ) -> io::Result<Hands> {
        let (reads, read_jobs) = std_mpsc::channel();
        let (found, scan_events) = mpsc::channel(1);
        let (jobs, fetch_jobs) = mpsc::channel(JOBS_MAX);
        let (report, outcomes) = mpsc::channel(1);
        self.shifts += 1;
        let crew = Crew {
            shift: self.shifts,
            reads: read_jobs,
            jobs: fetch_jobs,
            sources,
            number: replica.number(),
            catalogue: Arc::clone(replica.catalogue()),
            _ends: (found, report),
        };
        *self.crew.lock().unwrap_or_else(PoisonError::into_inner) = Some(crew);
        Ok(Hands { reads, scan_events, jobs, outcomes })
    }

    fn watch(
        &mut self,
        _rules: &Arc<IgnoreRules>,
        _hints: mpsc::Sender<Hint>,
    ) -> Result<(), WatchError> {
        Ok(())
    }

    fn dismiss(&mut self) {
        *self.crew.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A played line: it has no length, and notes that it was closed.
#[derive(Debug, Default)]
pub(super) struct PlayedLine(pub(super) Arc<Mutex<Option<Goodbye>>>);

impl Line for PlayedLine {
    fn round_trip_min(&self) -> Option<Duration> {
        None
    }

    fn close(&self, reason: Goodbye) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }
}
