//! A backup is put back: of the folder, of the store, of both, with edits before the peer is met.
//! Nothing that anybody wrote is lost, nothing that was deleted comes back unless its file does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::status::Status;
use highwater_tests::with_cluster;

use crate::PATIENCE;

const A: usize = 0;
const B: usize = 1;

/// What is put back on A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Restored {
    /// The store alone, from before the last changes.
    Store,
    /// No store at all: it is lost.
    NoStore,
    /// The folder alone, marker included.
    Folder,
    /// Both, as when a whole machine is put back.
    Both,
}

#[test]
fn an_older_store_is_noticed_and_the_node_catches_up() {
    restored(Restored::Store, |_| Ok(()), &["", "kept", "new", "second"]);
}

#[test]
fn a_lost_store_is_rebuilt_from_the_folder_and_the_peer() {
    restored(Restored::NoStore, |_| Ok(()), &["", "kept", "new", "second"]);
}

#[test]
fn an_older_folder_gets_what_is_newer_and_keeps_what_was_put_back() {
    restored(Restored::Folder, |_| Ok(()), &["", "doomed", "first", "kept", "new", "second"]);
}

#[test]
fn an_older_machine_catches_up_and_deletes_stay_deleted() {
    restored(Restored::Both, |_| Ok(()), &["", "kept", "new", "second"]);
}

#[test]
fn an_edit_on_an_older_machine_before_it_meets_its_peer_is_kept_beside_the_lost_one() {
    let edit = |folder: &Path| {
        fs::write(folder.join("edited"), "third")?;
        Ok(fs::write(folder.join("more"), "fresh")?)
    };
    restored(Restored::Both, edit, &["", "fresh", "kept", "new", "second", "third"]);
}

/// A and B agree; a backup of A is taken; both change; the backup is put back and A is edited alone.
/// In the end both hold `texts` and nothing else.
fn restored(what: Restored, edit: impl FnOnce(&Path) -> Result<()>, texts: &[&str]) {
    with_cluster(&["a", "b"], &[(A, B)], |cluster| {
        let folder = cluster.folder(A);
        for (name, text) in [("kept", "kept"), ("doomed", "doomed"), ("edited", "first")] {
            fs::write(folder.join(name), text)?;
        }
        fs::write(folder.join("empty"), "")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        cluster.nodes[A].stop()?;
        let backup = cluster.dir().join("backup");
        copy(&cluster.dir().join("a"), &backup)?;
        cluster.nodes[A].start()?;
        fs::write(folder.join("new"), "new")?;
        fs::write(folder.join("edited"), "second")?;
        fs::remove_file(folder.join("doomed"))?;
        wait_gone(cluster, "doomed")?;
        cluster.wait_agreed(PATIENCE)?;
        cluster.nodes[A].stop()?;
        cluster.nodes[B].stop()?;
        put_back(cluster, what, &backup)?;
        cluster.nodes[A].start()?;
        scanned(cluster)?;
        edit(&folder)?;
        cluster.nodes[B].start()?;
        cluster.wait_agreed(PATIENCE)?;
        let expected: BTreeSet<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let found = all_texts(&cluster.folder(B))?;
        ensure!(found == expected, "B holds {found:?} instead of {expected:?}");
        Ok(())
    });
}

fn put_back(cluster: &Cluster, what: Restored, backup: &Path) -> Result<()> {
    let (store, folder) = (cluster.nodes[A].home().join("store"), cluster.folder(A));
    let of =
        |path: &Path| -> Result<_> { Ok(backup.join(path.strip_prefix(cluster.dir().join("a"))?)) };
    if what != Restored::Folder {
        fs::remove_dir_all(&store)?;
    }
    if matches!(what, Restored::Store | Restored::Both) {
        copy(&of(&store)?, &store)?;
    }
    if matches!(what, Restored::Folder | Restored::Both) {
        fs::remove_dir_all(&folder)?;
        copy(&of(&folder)?, &folder)?;
    }
    Ok(())
}

/// Copies a directory with all that a backup keeps.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().context("running cp")?;
    ensure!(status.success(), "cp -a {} {}", from.display(), to.display());
    Ok(())
}

fn scanned(cluster: &Cluster) -> Result<()> {
    let idle = |status: &Status| status.share(SHARE).is_some_and(|share| share.state != "scanning");
    cluster.nodes[A].wait_until("the folder was read", PATIENCE, idle).map(drop)
}

fn wait_gone(cluster: &Cluster, name: &str) -> Result<()> {
    let path = cluster.folder(B).join(name);
    cluster.nodes[B].wait_until("the delete is here", PATIENCE, |_| !path.exists()).map(drop)
}

fn all_texts(folder: &Path) -> Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            texts.insert(fs::read_to_string(entry.path())?);
        }
    }
    Ok(texts)
}
