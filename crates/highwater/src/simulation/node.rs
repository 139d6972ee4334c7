//! One played node: disks that outlive it, and while it runs, the real thread of a share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_core::fingerprint::Fingerprint;
use highwater_core::{ContentHash, Epoch, Key, NodeId, ShareName};
use highwater_store::{EntryRow, Fuse, MemoryDisk, MemoryImage, Store, StoreError};
use tokio::sync::{mpsc, watch};

use super::chance::Chance;
use super::clock::PlayedClock;
use super::crew::Played;
use super::disk::Disk;
use super::fetch::Wanted;
use super::folder::PlayedFolder;
use super::story::Habits;
use crate::config::{MassDelete, ShareConfig, ShareMode};
use crate::share::actor::Actor;
use crate::share::{Counter, Event, Surroundings, snapshot};

/// How often a played node reads its whole folder.
const RESCAN: Duration = Duration::from_secs(45);

/// One node of a played cluster.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) clock: PlayedClock,
    pub(super) folder: PlayedFolder,
    pub(super) memory: MemoryDisk,
    pub(super) life: Option<Life>,
    /// How often it was started.
    pub(super) lives: u64,
    pub(super) backup: Option<(MemoryImage, Disk)>,
    /// The history of its log that it offered last.
    pub(super) offered: Option<Epoch>,
    peers: BTreeMap<NodeId, String>,
    mass_delete_min: u64,
    chance: Arc<Mutex<Chance>>,
}

/// One run of a node.
pub(super) struct Life {
    pub(super) actor: Actor,
    pub(super) inbox: mpsc::Receiver<Event>,
    /// Kept open: what happens is told directly.
    _events: mpsc::Sender<Event>,
    pub(super) played: Played,
    pub(super) store: Arc<Store>,
    /// When it acts next, if that is decided.
    pub(super) acts_at: Option<u64>,
    pub(super) wanted: BTreeMap<ContentHash, Wanted>,
    pub(super) slots: u64,
}

pub(super) fn share() -> ShareName {
    "docs".parse().expect("a share name")
}

impl Node {
    pub(super) fn new(number: usize, habits: &Habits, clock: &PlayedClock, chance: Chance) -> Self {
        let peers = habits.pairs().into_iter().filter_map(|(a, b)| match number {
            n if n == a => Some(b),
            n if n == b => Some(a),
            _ => None,
        });
        let clock = clock.of_another_node();
        let fuse = Fuse::default();
        let folder =
            PlayedFolder { disk: Arc::default(), clock: clock.clone(), fuse: fuse.clone() };
        Self {
            id: node_id(number),
            clock,
            folder,
            memory: MemoryDisk::on(&fuse),
            life: None,
            lives: 0,
            backup: None,
            offered: None,
            peers: peers.map(|peer| (node_id(peer), format!("node {peer}"))).collect(),
            mass_delete_min: habits.mass_delete_min,
            chance: Arc::new(Mutex::new(chance)),
        }
    }

    /// Starts the node on its disks.
    pub(super) fn start(&mut self) -> Result<(), highwater_store::OpenError> {
        self.memory.reopen();
        self.folder.fuse.replace();
        let store = Arc::new(Store::open_in_memory(&self.memory)?);
        let played = Played {
            clock: self.clock.clone(),
            folder: self.folder.clone(),
            chance: Arc::clone(&self.chance),
            crew: Arc::default(),
            shifts: 0,
        };
        let config = self.config();
        let counter = Arc::new(Counter::default());
        counter.set_peers(self.peers.clone());
        let around = Surroundings {
            node: self.id,
            store: Arc::clone(&store),
            counters: Arc::default(),
            transfers: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        };
        let (told, _) = watch::channel(snapshot::blank(&config));
        let outside = Box::new(played.clone());
        let actor = Actor::new(config, self.peers.clone(), around, counter, outside, told);
        let (_events, inbox) = mpsc::channel(1);
        let (wanted, slots) = (BTreeMap::new(), 0);
        self.lives += 1;
        self.life =
            Some(Life { actor, inbox, _events, played, store, acts_at: None, wanted, slots });
        Ok(())
    }

    fn config(&self) -> ShareConfig {
        ShareConfig {
            name: share(),
            path: PathBuf::from("/played"),
            mode: ShareMode::SendReceive,
            rescan_interval: RESCAN,
            mass_delete: MassDelete { fraction: 0.25, entries_min: self.mass_delete_min },
            paused: false,
        }
    }

    /// A look at what the node's store says, alive or not.
    pub(super) fn store(&self) -> Option<Arc<Store>> {
        match &self.life {
            Some(life) => Some(Arc::clone(&life.store)),
            None => Store::open_in_memory(&self.memory).ok().map(Arc::new),
        }
    }

    /// The fingerprint of everything, as the checker would tell it; `None` while the share is closed.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        let open = self.life.as_ref()?.actor.open.as_ref()?;
        Some(open.replica.blocks().all())
    }

    pub(super) fn index(&self) -> Result<Vec<EntryRow>, StoreError> {
        let Some(store) = self.store() else { return Ok(Vec::new()) };
        match store.share(&share())? {
            Some(row) => store.entries(row.number, None).collect(),
            None => Ok(Vec::new()),
        }
    }

    /// The contents that users see here.
    pub(super) fn contents(&self) -> BTreeSet<ContentHash> {
        let visible = self.folder.disk().visible();
        visible.into_values().filter_map(|(thing, _)| thing.content()).collect()
    }

    /// Which content stands under which key.
    pub(super) fn places(&self) -> BTreeSet<(Key, ContentHash)> {
        let visible = self.folder.disk().visible();
        let place =
            |(key, (thing, _)): (Key, (super::disk::Thing, _))| Some((key, thing.content()?));
        visible.into_iter().filter_map(place).collect()
    }

    /// What stands under each key, and whether it is whole.
    pub(super) fn tree(&self) -> BTreeMap<Key, highwater_core::EntryKind> {
        let visible = self.folder.disk().visible();
        visible.into_iter().map(|(key, (thing, _))| (key, thing.kind())).collect()
    }

    pub(super) fn chance(&self) -> std::sync::MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn node_id(number: usize) -> NodeId {
    NodeId::from_bytes([number as u8 + 1; 32])
}
