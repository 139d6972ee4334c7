//! What may happen to a folder: it vanishes, it is emptied, its node restarts, its mode is set.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::oracle::{self, Tree};
use highwater_lab::status::Status;
use highwater_lab::tree;
use highwater_tests::with_cluster;

use crate::PATIENCE;

const A: usize = 0;
const B: usize = 1;

fn in_error(status: &Status) -> bool {
    status.share(SHARE).is_some_and(|share| share.state == "error" && !share.problems.is_empty())
}

/// Lets A and B agree on a tree; what it is.
fn agreed_tree(cluster: &mut Cluster, files: u64) -> Result<Tree> {
    tree::write_many(&cluster.folder(A), files, 100, 1)?;
    cluster.start_all()?;
    cluster.wait_agreed(PATIENCE)?;
    oracle::read_tree(&cluster.folder(A))
}

/// Something new is written on A and arrives nowhere else by accident: a barrier behind which B
/// would long have sent what it wrongly took for deletes.
fn a_still_has(cluster: &Cluster, tree: &Tree) -> Result<()> {
    let lost = oracle::differences(tree, &oracle::read_tree(&cluster.folder(A))?);
    ensure!(lost.is_empty(), "A lost files that nobody deleted: {lost:?}");
    Ok(())
}

#[test]
fn a_root_that_vanishes_under_a_running_node_stops_the_share_and_deletes_nothing() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        let tree = agreed_tree(cluster, 300)?;
        let (folder, aside) = (cluster.folder(B), cluster.dir().join("aside"));
        fs::rename(&folder, &aside)?;
        cluster.nodes[B].wait_until("the share is in error", PATIENCE, in_error)?;
        a_still_has(cluster, &tree)?;
        fs::rename(&aside, &folder)?;
        cluster.nodes[B].kill()?;
        cluster.nodes[B].start()?;
        cluster.wait_agreed(PATIENCE)?;
        a_still_has(cluster, &tree)
    });
}

#[test]
fn a_root_that_is_another_directory_at_the_start_stops_the_share_and_deletes_nothing() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        let tree = agreed_tree(cluster, 300)?;
        cluster.nodes[B].stop()?;
        let (folder, aside) = (cluster.folder(B), cluster.dir().join("aside"));
        fs::rename(&folder, &aside)?;
        fs::create_dir(&folder)?;
        cluster.nodes[B].start()?;
        cluster.nodes[B].wait_until("the share is in error", PATIENCE, in_error)?;
        a_still_has(cluster, &tree)?;
        cluster.nodes[B].stop()?;
        fs::remove_dir_all(&folder)?;
        fs::rename(&aside, &folder)?;
        cluster.nodes[B].start()?;
        cluster.wait_agreed(PATIENCE)
    });
}

/// Deletes nearly everything on B while it is down, and starts it.
fn mass_delete(cluster: &mut Cluster) -> Result<Tree> {
    const FILES: u64 = 1_500;
    let tree = agreed_tree(cluster, FILES)?;
    cluster.nodes[B].stop()?;
    for entry in fs::read_dir(cluster.folder(B))? {
        let entry = entry?;
        if entry.file_name() != ".highwater" && entry.file_name() != "d0000" {
            fs::remove_dir_all(entry.path())?;
        }
    }
    cluster.nodes[B].start()?;
    let held =
        |status: &Status| status.share(SHARE).is_some_and(|share| !share.problems.is_empty());
    cluster.nodes[B].wait_until("the deletes are held back", PATIENCE, held)?;
    a_still_has(cluster, &tree)?;
    Ok(tree)
}

#[test]
fn a_mass_delete_is_held_until_it_is_confirmed() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        mass_delete(cluster)?;
        cluster.nodes[B].run(&["share", "confirm", SHARE])?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(!cluster.folder(A).join("d0005").exists(), "the confirmed delete did not go out");
        Ok(())
    });
}

#[test]
fn a_large_tree_that_is_renamed_is_no_mass_delete_and_moves_no_content() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        const FILES: u64 = 1_500;
        tree::write_many(&cluster.folder(B).join("old"), FILES, 100, 1)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let before = cluster.nodes[A].status()?.counters.content_bytes_received;
        fs::rename(cluster.folder(B).join("old"), cluster.folder(B).join("new"))?;
        cluster.nodes[A].wait_until("the new tree is here", PATIENCE, |status: &Status| {
            status.counters.entries_applied >= 2 * FILES
        })?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(!cluster.folder(A).join("old").exists(), "the old name is still there");
        let after = cluster.nodes[A].status()?.counters.content_bytes_received;
        ensure!(after == before, "{} bytes crossed for a rename", after - before);
        Ok(())
    });
}

#[test]
fn a_mass_delete_that_is_reverted_brings_the_files_back() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        let tree = mass_delete(cluster)?;
        cluster.nodes[B].run(&["share", "revert", SHARE])?;
        cluster.wait_agreed(PATIENCE)?;
        a_still_has(cluster, &tree)
    });
}

/// Files that leave a running node's folder are held back. What comes back is held back no more, and
/// neither is what a peer has really deleted: nothing stands between copies that are the same.
#[test]
fn what_is_held_back_ends_with_its_return_or_with_its_delete_elsewhere() {
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        let tree = agreed_tree(cluster, 1_500)?;
        let (folder, aside) = (cluster.folder(B), cluster.dir().join("aside"));
        fs::create_dir(&aside)?;
        let moved: Vec<String> = (1..12).map(|number| format!("d{number:04}")).collect();
        for dir in &moved {
            fs::rename(folder.join(dir), aside.join(dir))?;
        }
        cluster.nodes[B].wait_until("the deletes are held back", PATIENCE, holds_deletes)?;
        a_still_has(cluster, &tree)?;
        for dir in &moved[1..] {
            fs::rename(aside.join(dir), folder.join(dir))?;
        }
        let gone = cluster.folder(A).join(&moved[0]);
        fs::remove_dir_all(&gone)?;
        cluster.nodes[B].wait_until("nothing is held back", PATIENCE, |status: &Status| {
            !holds_deletes(status)
        })?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(!gone.exists(), "what A deleted came back");
        let rest: Tree =
            tree.into_iter().filter(|(path, _)| !path.starts_with(&moved[0])).collect();
        a_still_has(cluster, &rest)?;
        cluster.nodes[B].run(&["check", SHARE, "--deep"])?;
        Ok(())
    });
}

fn holds_deletes(status: &Status) -> bool {
    let problems = status.share(SHARE).map(|share| &share.problems);
    problems.is_some_and(|problems| problems.iter().any(|problem| problem.kind == "mass_delete"))
}

/// The kernel's own count of what the daemon has read since it started, whatever it says.
fn bytes_read(cluster: &Cluster, node: usize) -> Result<u64> {
    let pid = cluster.nodes[node].pid().context("the node is down")?;
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(line.context("the kernel counts no reads")?.trim().parse()?)
}

#[test]
fn a_restart_reads_no_unchanged_file_again() {
    const SIZE: u64 = 128 * 1024 * 1024;
    with_cluster(&["a", "b"], &[(B, A)], |cluster| {
        tree::write_file(&cluster.folder(A).join("big"), SIZE, 1)?;
        tree::write_many(&cluster.folder(A), 200, 1000, 1)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        for node in &mut cluster.nodes {
            node.stop()?;
        }
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        for node in [A, B] {
            let read = bytes_read(cluster, node)?;
            ensure!(read < SIZE / 4, "node {node} read {read} bytes after a restart");
            let counters = cluster.nodes[node].status()?.counters;
            ensure!(counters.content_bytes_received == 0, "node {node}: {counters:?}");
        }
        Ok(())
    });
}

/// B takes the share's changes and gives none.
fn let_only_receive(cluster: &mut Cluster) -> Result<()> {
    let path = cluster.folder(B);
    let path = path.to_str().context("not UTF-8")?;
    cluster.nodes[B].run(&["share", "remove", SHARE])?;
    cluster.nodes[B].run(&["share", "add", SHARE, path, "--mode", "receive-only"])?;
    cluster.link(B, A)
}

#[test]
fn a_receive_only_share_takes_and_does_not_give() {
    with_cluster(&["a", "b"], &[], |cluster| {
        let_only_receive(cluster)?;
        fs::write(cluster.folder(B).join("of b"), "stays here")?;
        fs::write(cluster.folder(A).join("of a"), "goes out")?;
        cluster.start_all()?;
        let arrived = |name: &'static str| {
            let path = cluster.folder(B).join(name);
            move |_: &Status| path.exists()
        };
        cluster.nodes[B].wait_until("the first file is here", PATIENCE, arrived("of a"))?;
        fs::write(cluster.folder(A).join("of a, later"), "goes out too")?;
        cluster.nodes[B].wait_until("the second is here", PATIENCE, arrived("of a, later"))?;
        ensure!(!cluster.folder(A).join("of b").exists(), "a receive-only share gave");
        Ok(())
    });
}

#[test]
fn a_change_in_a_receive_only_share_stays_beside_the_peers_newer_one() {
    with_cluster(&["a", "b"], &[], |cluster| {
        let_only_receive(cluster)?;
        fs::write(cluster.folder(A).join("plan"), "first")?;
        cluster.start_all()?;
        let plan = cluster.folder(B).join("plan");
        let holds = |text: &'static str| {
            let plan = plan.clone();
            move |_: &Status| fs::read_to_string(&plan).is_ok_and(|found| found == text)
        };
        cluster.nodes[B].wait_until("the first version is here", PATIENCE, holds("first"))?;
        fs::write(&plan, "of b")?;
        let noticed =
            |status: &Status| status.share(SHARE).is_some_and(|share| !share.problems.is_empty());
        cluster.nodes[B].wait_until("the local change is reported", PATIENCE, noticed)?;
        fs::write(cluster.folder(A).join("plan"), "of a, later")?;
        cluster.nodes[B].wait_until("the newer version is here", PATIENCE, holds("of a, later"))?;
        let kept = oracle::read_tree(&cluster.folder(B))?;
        let copies =
            kept.keys().filter(|key| key.to_string_lossy().contains("plan.conflict-")).count();
        ensure!(copies == 1, "B holds {:?}", kept.keys());
        ensure!(oracle::read_tree(&cluster.folder(A))?.len() == 1, "a receive-only share gave");
        Ok(())
    });
}

#[test]
fn a_send_only_share_gives_and_does_not_take() {
    with_cluster(&["a", "b"], &[], |cluster| {
        let path = cluster.folder(A);
        let path = path.to_str().context("not UTF-8")?;
        cluster.nodes[A].run(&["share", "remove", SHARE])?;
        cluster.nodes[A].run(&["share", "add", SHARE, path, "--mode", "send-only"])?;
        cluster.link(B, A)?;
        fs::write(cluster.folder(B).join("of b"), "is not taken")?;
        cluster.start_all()?;
        for name in ["first", "second"] {
            fs::write(cluster.folder(A).join(name), name)?;
            let path = cluster.folder(B).join(name);
            cluster.nodes[B].wait_until("it is here", PATIENCE, |_| path.exists())?;
        }
        ensure!(!cluster.folder(A).join("of b").exists(), "a send-only share took");
        Ok(())
    });
}

/// A small filesystem of its own, unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, options: &str) -> Result<SmallDisk> {
        fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
        ensure!(mount.status()?.success(), "mounting {}", at.display());
        Ok(SmallDisk(at.to_owned()))
    }

    fn grow(&self, options: &str) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        ensure!(mount.status()?.success(), "remounting {}", self.0.display());
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_the_share_goes_on_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a small filesystem can only be mounted by root");
        return;
    }
    with_cluster(&["a", "b"], &[], |cluster| {
        cluster.nodes[B].run(&["share", "remove", SHARE])?;
        let disk = SmallDisk::mount(&cluster.dir().join("small"), "size=16m")?;
        let folder = cluster.folder(B);
        fs::remove_dir_all(&folder)?;
        std::os::unix::fs::symlink(&disk.0, &folder)?;
        let path = disk.0.to_str().context("not UTF-8")?;
        cluster.nodes[B].run(&["share", "add", SHARE, path])?;
        cluster.link(B, A)?;
        tree::write_file(&cluster.folder(A).join("too big"), 24 * 1024 * 1024, 1)?;
        fs::write(cluster.folder(A).join("small"), "fits")?;
        cluster.start_all()?;
        let full =
            |status: &Status| status.share(SHARE).is_some_and(|share| !share.problems.is_empty());
        cluster.nodes[B].wait_until("the full disk is reported", PATIENCE, full)?;
        ensure!(!disk.0.join("too big").exists(), "a part of a file is under its name");
        disk.grow("size=64m")?;
        cluster.wait_agreed(PATIENCE)
    });
}
