//! A repair on a disk that has hardly any room left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::{damage, oracle, tree};
use highwater_tests::with_cluster;
use serde_json::Value;

use crate::{PATIENCE, check};

/// A small filesystem in memory, unmounted when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Result<SmallDisk> {
        fs::create_dir_all(at)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(at))?;
        Ok(SmallDisk(at.to_owned()))
    }

    fn resize(&self, size: &str) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,{size}")]).arg(&self.0))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}

/// The large file does not fit beside its damaged self: it stays as it is, and that is said. The small
/// one is mended all the same, and the large one as soon as there is room.
#[test]
fn a_repair_without_room_changes_nothing_says_so_and_is_made_when_there_is_some() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a small filesystem can only be mounted by root");
        return;
    }
    with_cluster(&["a", "b"], &[], |cluster| {
        cluster.nodes[1].run(&["share", "remove", SHARE])?;
        let disk = SmallDisk::mount(&cluster.dir().join("small"), "size=64m")?;
        fs::remove_dir_all(cluster.folder(1))?;
        std::os::unix::fs::symlink(&disk.0, cluster.folder(1))?;
        let path = disk.0.to_str().context("not UTF-8")?;
        cluster.nodes[1].run(&["share", "add", SHARE, path])?;
        cluster.link(1, 0)?;
        tree::write_file(&cluster.folder(0).join("large"), 12 << 20, 1)?;
        fs::write(cluster.folder(0).join("small"), "fits in any case")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let good = oracle::read_tree(&cluster.folder(1))?;
        cluster.nodes[1].stop()?;
        damage::rot_unnoticed(&cluster.nodes[1], SHARE, "large", 5_000_000)?;
        damage::rot_unnoticed(&cluster.nodes[1], SHARE, "small", 3)?;
        let bad = fs::read(cluster.folder(1).join("large"))?;
        disk.resize("size=13m")?;
        cluster.nodes[1].start()?;
        cluster.wait_in_sync(PATIENCE)?;

        let (code, report) = check(cluster, 0, &["--deep", "--repair"])?;
        ensure!(code == 3, "{report}");
        let rows = report["differences"].as_array().cloned().unwrap_or_default();
        let repairs: Vec<_> = rows.iter().map(|row| (&row["key"], &row["repair"])).collect();
        ensure!(
            repairs == [(&"large".into(), &"failed".into()), (&"small".into(), &"done".into())],
            "{report}"
        );
        let message = rows[0]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("room"), "it does not say what to do: {message:?}");
        ensure!(fs::read(cluster.folder(1).join("large"))? == bad, "what was damaged was touched");

        disk.resize("size=64m")?;
        let (code, report) = check(cluster, 0, &["--deep", "--repair"])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");
        ensure!(oracle::read_tree(&cluster.folder(1))? == good, "the repair is not what it was");
        Ok(())
    });
}
