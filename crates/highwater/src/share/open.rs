//! Opening a share: is this the folder, does the store know the same history, what did a crash
//! leave.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_core::ContentHash;
use highwater_folder::{Marker, MarkerIdentity, Problem, RootError, Slot};
use highwater_store::{Commit, MarkerRow, ShareRow, Store, StoreError, WantClass};

use super::outside::{Folder, Outside};
use super::replica::{History, Replica};
use crate::config::ShareConfig;
use highwater_core::{NodeId, ShareName};

/// Why a share is not open. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A share that can work.
pub(crate) struct Opened {
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) replica: Replica,
    pub(crate) problems: Vec<Problem>,
}

/// Opens the folder and what the store knows of it.
pub(crate) fn open(
    config: &ShareConfig,
    node: NodeId,
    store: &Arc<Store>,
    outside: &mut dyn Outside,
) -> Result<Opened, OpenError> {
    let identity = MarkerIdentity { share: config.name.clone(), node };
    let (folder, mut row, history, is_new) = match store.share(&config.name)? {
        Some(row) => {
            let folder = outside.open_folder(&identity)?;
            let was_born = store.marker(row.number)?.map(|marker| marker.born);
            let is_copy = was_born.zip(folder.marker_born()).is_some_and(|(was, is)| was != is);
            let history = judge_history(&row, folder.marker().generation, is_copy);
            (folder, row, history, history != History::Continuous)
        }
        None => {
            let marker = Marker { share: identity.share, node, generation: 0 };
            let folder = outside.create_folder(&marker)?;
            let number = store.unused_share_number()?;
            let (generation, epoch) = (folder.marker().generation, outside.new_epoch());
            let row = ShareRow { number, epoch, generation, raising: generation };
            (folder, row, History::Continuous, true)
        }
    };
    let before = row.epoch;
    if history != History::Continuous {
        tracing::warn!(share = %config.name, ?history, "restored from an older copy: new epoch");
        row.epoch = outside.new_epoch();
    }
    if history == History::Continuous {
        row = raise_generation(&*folder, store, &config.name, row)?;
    } else {
        // The generations differ until all was read: a death before that must not make absence look
        // like deletion.
        put(store, &config.name, &row)?;
    }
    let (store, name) = (Arc::clone(store), config.name.clone());
    let mut replica = Replica::open(store, node, name, row, history, outside.wall())?;
    if is_new {
        replica.mark_begun_here();
    }
    if before != replica.epoch() {
        replica.remember_past(before)?;
    }
    let problems = clear_leftovers(&*folder, &mut replica)?;
    if history != History::Continuous {
        // What peers learned from the lost history they did not send back.
        replica.forget_peers()?;
    }
    if history == History::StoreRestored {
        replica.forget_wants()?;
    }
    replica.flush()?;
    Ok(Opened { folder, replica, problems })
}

/// The store and the marker raise their generation together; between the two steps the marker may
/// already have what the store calls `raising`. A marker with the right number that `is_copy`, made
/// at another time than the one that stood here, came with files from a backup, or with a folder
/// that was moved by copying it.
fn judge_history(row: &ShareRow, marker: u64, is_copy: bool) -> History {
    if marker == row.generation && is_copy {
        History::FilesRestored
    } else if marker == row.generation || marker == row.raising {
        History::Continuous
    } else if marker > row.generation {
        History::StoreRestored
    } else {
        History::FilesRestored
    }
}

/// Raises the generation in the store and in the folder's marker. A copy of either that was made
/// before is told from now on.
pub(super) fn raise_generation(
    folder: &dyn Folder,
    store: &Store,
    name: &ShareName,
    mut row: ShareRow,
) -> Result<ShareRow, OpenError> {
    let marker = folder.marker();
    row.raising = row.generation.max(marker.generation) + 1;
    put(store, name, &row)?;
    folder.set_marker(&Marker { generation: row.raising, ..marker })?;
    row.generation = row.raising;
    let mut commit = Commit::new();
    commit.put_share(name, &row);
    commit.put_marker(row.number, folder.marker_born().map(|born| MarkerRow { born }));
    store.commit(commit)?;
    Ok(row)
}

fn put(store: &Store, name: &ShareName, row: &ShareRow) -> Result<(), StoreError> {
    let mut commit = Commit::new();
    commit.put_share(name, row);
    store.commit(commit)
}

/// Clears away what a crash left in the stage, and what is staged of contents that nobody wants.
fn clear_leftovers(folder: &dyn Folder, replica: &mut Replica) -> Result<Vec<Problem>, StoreError> {
    let store = Arc::clone(replica.store());
    let number = replica.number();
    let mut wanted: BTreeSet<ContentHash> = BTreeSet::new();
    for want in store.wants(number, WantClass::Live, None) {
        wanted.extend(want?.entry.kind.content().map(|(content, _)| content));
    }
    let mut partial: BTreeSet<Slot> = BTreeSet::new();
    for stage in store.stages(number) {
        let (content, row) = stage?;
        if wanted.contains(&content) {
            partial.insert(Slot::partial(content));
        } else {
            let least = highwater_core::ChunkSizes::for_content(row.size).min as u64;
            replica.forget_stage(&content, row.size.div_ceil(least) as usize);
        }
    }
    replica.flush()?;
    let catalogue = Arc::clone(replica.catalogue());
    let known = |content: ContentHash| {
        wanted.contains(&content)
            || catalogue.find(&store, number, &content).is_ok_and(|row| row.is_some())
    };
    Ok(folder.recover(&known, &|slot| partial.contains(slot)))
}
