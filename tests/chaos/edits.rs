//! Two people edit: partitions, conflicts, deletes, and files that never hold still.

use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::CutKind;
use highwater_lab::status::Status;
use highwater_lab::tree;
use highwater_tests::with_cluster;

use crate::PATIENCE;

/// Lets both nodes agree on a folder, cuts them apart, and lets each be edited alone.
fn edited_apart(
    prepare: impl FnOnce(&Cluster) -> Result<()>,
    apart: impl FnOnce(&Cluster) -> Result<()>,
    check: impl FnOnce(&Cluster) -> Result<()>,
) {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        prepare(cluster)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        cluster.proxy(0, 1).cut(CutKind::Reset);
        let heads = [head(cluster, 0)?, head(cluster, 1)?];
        apart(cluster)?;
        for (node, head) in heads.into_iter().enumerate() {
            let edited =
                |status: &Status| status.share(SHARE).is_some_and(|share| share.head_seq > head);
            cluster.nodes[node].wait_until("the edit is logged", PATIENCE, edited)?;
        }
        cluster.proxy(0, 1).heal();
        cluster.wait_agreed(PATIENCE)?;
        check(cluster)
    });
}

fn head(cluster: &Cluster, node: usize) -> Result<u64> {
    let status = cluster.nodes[node].status()?;
    status.share(SHARE).map(|share| share.head_seq).context("the share is gone")
}

/// The texts of everything at the top of a folder, sorted.
fn texts(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(cluster.folder(node))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            texts.push(fs::read_to_string(entry.path())?);
        }
    }
    texts.sort();
    Ok(texts)
}

#[test]
fn both_sides_of_a_conflict_are_kept_on_both_nodes_and_listed() {
    edited_apart(
        |cluster| Ok(fs::write(cluster.folder(0).join("plan.txt"), "first")?),
        |cluster| {
            fs::write(cluster.folder(0).join("plan.txt"), "of a")?;
            Ok(fs::write(cluster.folder(1).join("plan.txt"), "of b, longer")?)
        },
        |cluster| {
            for node in [0, 1] {
                ensure!(texts(cluster, node)? == ["of a", "of b, longer"], "{node}");
                let listed = cluster.nodes[node].run(&["conflicts", SHARE])?;
                ensure!(listed.contains(".conflict-"), "node {node} lists {listed:?}");
            }
            Ok(())
        },
    );
}

#[test]
fn an_edit_beats_a_concurrent_delete() {
    edited_apart(
        |cluster| Ok(fs::write(cluster.folder(0).join("plan.txt"), "first")?),
        |cluster| {
            fs::remove_file(cluster.folder(0).join("plan.txt"))?;
            Ok(fs::write(cluster.folder(1).join("plan.txt"), "edited")?)
        },
        |cluster| {
            ensure!(texts(cluster, 0)? == ["edited"]);
            Ok(())
        },
    );
}

#[test]
fn equal_edits_on_both_sides_are_no_conflict() {
    let edit = |cluster: &Cluster, node: usize| -> Result<()> {
        let path = cluster.folder(node).join("plan.txt");
        fs::write(&path, "the same")?;
        let when = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Ok(File::options().append(true).open(&path)?.set_modified(when)?)
    };
    edited_apart(
        |cluster| Ok(fs::write(cluster.folder(0).join("plan.txt"), "first")?),
        |cluster| {
            edit(cluster, 0)?;
            edit(cluster, 1)
        },
        |cluster| {
            ensure!(texts(cluster, 1)? == ["the same"]);
            Ok(())
        },
    );
}

#[test]
fn a_tree_edited_on_both_sides_of_a_partition_comes_together() {
    edited_apart(
        |cluster| tree::write_lifelike(&cluster.folder(0), 300, 1),
        |cluster| {
            tree::edit(&cluster.folder(0), 40, 2)?;
            tree::edit(&cluster.folder(1), 40, 3)
        },
        |_| Ok(()),
    );
}

#[test]
fn a_deleted_file_stays_deleted_over_restarts() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join("doomed"), "x")?;
        fs::write(cluster.folder(0).join("kept"), "y")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        cluster.nodes[1].stop()?;
        fs::remove_file(cluster.folder(0).join("doomed"))?;
        cluster.nodes[0].stop()?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(texts(cluster, 1)? == ["y"]);
        Ok(())
    });
}

/// Every version of the file is one letter, many times over: a mixture is seen at once.
#[test]
fn a_file_rewritten_ten_times_a_second_is_only_ever_seen_whole() {
    const LENGTH: usize = 2_000_000;
    const VERSIONS: u8 = 30;
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let source = cluster.folder(0).join("busy");
        let arrived = cluster.folder(1).join("busy");
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| -> Result<usize> {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    seen += usize::from(look(&arrived, LENGTH)?);
                }
                Ok(seen)
            });
            let written = (0..VERSIONS).try_for_each(|version| -> Result<()> {
                rewrite_in_place(&source, b'A' + version, LENGTH)?;
                thread::sleep(Duration::from_millis(100));
                Ok(())
            });
            let agreed = written.and_then(|()| cluster.wait_agreed(PATIENCE));
            done.store(true, Ordering::Relaxed);
            let seen = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
            agreed?;
            ensure!(seen > 0, "the file was never looked at");
            Ok(())
        })
    });
}

/// As many programs do it: no new file, no rename.
fn rewrite_in_place(path: &std::path::Path, letter: u8, length: usize) -> Result<()> {
    let mut file = File::options().create(true).write(true).truncate(false).open(path)?;
    Ok(file.write_all(&vec![letter; length])?)
}

/// Reads the file, if it is there, and demands that it is whole.
fn look(path: &std::path::Path, length: usize) -> Result<bool> {
    let Ok(bytes) = fs::read(path) else { return Ok(false) };
    let whole = bytes.len() == length && bytes.iter().all(|&byte| byte == bytes[0]);
    ensure!(whole, "a mixture of {} bytes was seen", bytes.len());
    Ok(true)
}

#[test]
fn only_the_touched_part_of_a_large_file_crosses() {
    const MIB: u64 = 1024 * 1024;
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let path = cluster.folder(0).join("big");
        tree::write_file(&path, 32 * MIB, 1)?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let received =
            || -> Result<u64> { Ok(cluster.nodes[1].status()?.counters.content_bytes_received) };
        let first = received()?;
        let mut bytes = fs::read(&path)?;
        bytes.splice(0..0, b"at the very front".iter().copied());
        fs::write(&path, &bytes)?;
        cluster.wait_agreed(PATIENCE)?;
        let inserted = received()? - first;
        ensure!(inserted < 2 * MIB, "{inserted} content bytes crossed for 17");
        fs::rename(&path, cluster.folder(0).join("renamed"))?;
        fs::copy(cluster.folder(0).join("renamed"), cluster.folder(0).join("copied"))?;
        cluster.wait_agreed(PATIENCE)?;
        let moved = received()? - first - inserted;
        ensure!(moved == 0, "{moved} content bytes crossed for a rename and a copy");
        Ok(())
    });
}

#[test]
fn a_change_becomes_visible_while_a_large_transfer_runs() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        tree::write_file(&cluster.folder(0).join("big"), 64 * 1024 * 1024, 1)?;
        let rate = highwater_lab::faults::Faults::rate(8_000_000);
        cluster.proxy(0, 1).set_both(rate);
        cluster.start_all()?;
        let running = |status: &Status| {
            status.transfer("big").is_some_and(|transfer| transfer.acked_offset > 0)
        };
        cluster.nodes[1].wait_until("the transfer runs", PATIENCE, running)?;
        fs::write(cluster.folder(0).join("note"), "quick")?;
        let note = cluster.folder(1).join("note");
        let deadline = Instant::now() + PATIENCE;
        while !note.exists() {
            ensure!(Instant::now() < deadline, "the note never came");
            thread::sleep(Duration::from_millis(10));
        }
        let status = cluster.nodes[1].status()?;
        ensure!(status.transfer("big").is_some(), "the note came only after the large file");
        cluster.wait_agreed(PATIENCE)
    });
}
