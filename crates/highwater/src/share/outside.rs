//! What a share's thread needs of the world, and nothing beyond it: the time, chance, its folder,
//! and those who read, watch and fetch for it.
//!
//! A share decides; everything that can differ from one run to the next comes in through here. On a
//! machine it is the clock, the disk, threads and tasks (`machine.rs`). In a simulation all of it is
//! played, so that a seed decides what happens and the same story can be told again.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;

use highwater_core::{ContentHash, Epoch, Key, Mode, Mtime, WallTime};
use highwater_folder::{
    Hint, IgnoreRules, Marker, MarkerIdentity, Placed, Placement, Problem, Root, RootError,
    SettleError, Slot, StageError, StatPrint, WatchError,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::replica::Replica;
use super::scanner::{ReadJob, ScanEvent};
use crate::fetch::source::Source;
use crate::fetch::{Fetched, Job};

/// The world of one share.
pub(crate) trait Outside: Debug + Send {
    /// The time by which the share waits.
    fn now(&self) -> Instant;

    /// The time that people's clocks show.
    fn wall(&self) -> WallTime;

    /// A history that nobody has met.
    fn new_epoch(&self) -> Epoch;

    /// Opens the share's folder, which carries a marker of this identity.
    fn open_folder(&mut self, identity: &MarkerIdentity) -> Result<Arc<dyn Folder>, RootError>;

    /// Marks the share's folder as a share.
    fn create_folder(&mut self, marker: &Marker) -> Result<Arc<dyn Folder>, RootError>;

    /// Puts to work whoever reads the folder and fetches for it, and lets peers' requests be
    /// answered from it. They work until [`Outside::dismiss`].
    fn hire(
        &mut self,
        replica: &Replica,
        sources: watch::Receiver<Vec<Arc<Source>>>,
    ) -> io::Result<Hands>;

    /// Watches the folder, instead of any watch before.
    fn watch(
        &mut self,
        rules: &Arc<IgnoreRules>,
        hints: mpsc::Sender<Hint>,
    ) -> Result<(), WatchError>;

    /// Ends everybody's work, and closes the folder. The hands and the receiver of hints are gone
    /// by then, so nobody waits for room in them.
    fn dismiss(&mut self);
}

/// The ends of those who work for a share that it holds itself.
#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) reads: std_mpsc::Sender<ReadJob>,
    pub(crate) scan_events: mpsc::Receiver<ScanEvent>,
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) outcomes: mpsc::Receiver<Vec<Fetched>>,
}

/// A share's folder, as far as its thread touches it.
pub(crate) trait Folder: Debug + Send + Sync {
    /// What the marker says.
    fn marker(&self) -> Marker;
    /// When the marker's file was made, where that is known.
    fn marker_born(&self) -> Option<Mtime>;
    /// Replaces the marker; durable when this returns.
    fn set_marker(&self, marker: &Marker) -> Result<(), RootError>;
    /// Whether this is still the folder that was opened.
    fn verify(&self) -> Result<(), RootError>;
    /// The ignore rules in it, and what is wrong with them.
    fn rules(&self) -> (IgnoreRules, Vec<Problem>);
    /// Clears away what a crash left in the stage.
    fn recover(
        &self,
        known: &dyn Fn(ContentHash) -> bool,
        keep: &dyn Fn(&Slot) -> bool,
    ) -> Vec<Problem>;
    /// The print of what stands under a key; `None` when certainly nothing does.
    fn print_of(&self, key: &Key) -> io::Result<Option<StatPrint>>;
    /// Gives a staged file its metadata.
    fn dress(&self, slot: &Slot, mode: Mode, mtime: Mtime) -> Result<(), StageError>;
    /// Removes a staged file.
    fn discard(&self, slot: &Slot) -> Result<(), StageError>;
    /// Puts one entry in place.
    fn place(&self, placement: &Placement) -> Placed;
    /// Gives what stands under `key` a second name.
    fn link_aside(
        &self,
        key: &Key,
        aside: &Key,
        print: &StatPrint,
    ) -> io::Result<Option<StatPrint>>;
    /// Gives the damaged file under `key` a second name, out of the way.
    fn keep_aside(&self, key: &Key, print: &StatPrint) -> io::Result<Option<(String, StatPrint)>>;
    /// Removes what was kept aside under this name.
    fn drop_aside(&self, name: &str) -> io::Result<()>;
    /// Makes staged files durable.
    fn settle_files(&self, slots: &[Slot]) -> Result<(), SettleError>;
    /// Makes durable what the directories of these keys hold.
    fn settle_dirs(&self, keys: &[Key]) -> Result<(), SettleError>;
    /// Makes durable the metadata of what stands under these keys.
    fn settle_metadata(&self, keys: &[Key]) -> Result<(), SettleError>;
}

impl Folder for Root {
    fn marker(&self) -> Marker {
        Root::marker(self)
    }

    fn marker_born(&self) -> Option<Mtime> {
        Root::marker_born(self)
    }

    fn set_marker(&self, marker: &Marker) -> Result<(), RootError> {
        Root::set_marker(self, marker)
    }

    fn verify(&self) -> Result<(), RootError> {
        Root::verify(self)
    }

    fn rules(&self) -> (IgnoreRules, Vec<Problem>) {
        IgnoreRules::load(self)
    }

    fn recover(
        &self,
        known: &dyn Fn(ContentHash) -> bool,
        keep: &dyn Fn(&Slot) -> bool,
    ) -> Vec<Problem> {
        Root::recover(self, known, keep)
    }

    fn print_of(&self, key: &Key) -> io::Result<Option<StatPrint>> {
        Root::print_of(self, key)
    }

    fn dress(&self, slot: &Slot, mode: Mode, mtime: Mtime) -> Result<(), StageError> {
        self.stage().open(slot)?.set_metadata(mode, mtime)
    }

    fn discard(&self, slot: &Slot) -> Result<(), StageError> {
        self.stage().remove(slot)
    }

    fn place(&self, placement: &Placement) -> Placed {
        Root::place(self, placement)
    }

    fn link_aside(
        &self,
        key: &Key,
        aside: &Key,
        print: &StatPrint,
    ) -> io::Result<Option<StatPrint>> {
        Root::link_aside(self, key, aside, print)
    }

    fn keep_aside(&self, key: &Key, print: &StatPrint) -> io::Result<Option<(String, StatPrint)>> {
        Root::keep_aside(self, key, print)
    }

    fn drop_aside(&self, name: &str) -> io::Result<()> {
        Root::drop_aside(self, name)
    }

    fn settle_files(&self, slots: &[Slot]) -> Result<(), SettleError> {
        Root::settle_files(self, slots)
    }

    fn settle_dirs(&self, keys: &[Key]) -> Result<(), SettleError> {
        Root::settle_dirs(self, keys)
    }

    fn settle_metadata(&self, keys: &[Key]) -> Result<(), SettleError> {
        Root::settle_metadata(self, keys)
    }
}
