//! The health page turns red for each cause that is really there, and green again when it is gone.
//! A clock that is off is in `feeds.rs`, beside its alert.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::crash::disk::{self, Disk, FileSystem};
use highwater_lab::node::{Node, NodeSpec};
use highwater_tests::{Slot, highwater, with_cluster};

use super::schedule::Schedule;
use super::secure::SecureReceiver;
use super::{PATIENCE, ask_health, wait_for, wait_longer};

/// Below this many free bytes a disk is not healthy.
const DISK_FREE_BYTES_MIN: u64 = 64 << 20;
/// Files that need more room in a store than it has left when a disk is full.
const FILES: usize = 3000;

/// Why the node is not well, in one word each; nothing while it does not answer.
fn reasons(node: &Node) -> Option<Vec<String>> {
    let said = ask_health(node.spec().http)?;
    let reasons = said["reasons"].as_array()?.iter();
    let kinds: Vec<String> =
        reasons.filter_map(|reason| reason["kind"].as_str().map(str::to_owned)).collect();
    assert_eq!(said["status"], kinds.is_empty(), "{said}");
    // What `highwater status` says is as old as the last look, a few seconds at most.
    let live = highwater_lab::http::get(node.spec().http, "/health/live");
    assert!(live.is_ok(), "whatever is wrong, it lives: {live:?}");
    Some(kinds)
}

fn wait_well(node: &Node) {
    wait_for("it is well", || reasons(node)?.is_empty().then_some(()));
    wait_for("`highwater status` says so", || {
        node.run(&["status"]).is_ok_and(|said| said.contains("well")).then_some(())
    });
}

fn wait_red(node: &Node, kind: &str) {
    wait_longer(&format!("it is red: {kind}, and for nothing else"), || {
        // A store that takes no writes stops the shares that lie in it.
        let other = |found: &String| found != kind && !(kind == "store" && found == "share");
        let found = reasons(node)?;
        (found.iter().any(|found| found == kind) && !found.iter().any(other)).then_some(())
    });
    let message = wait_for("there is a reason", || {
        let said = ask_health(node.spec().http)?;
        said["reasons"][0]["message"].as_str().map(str::to_owned)
    });
    // The free space of a full disk changes from look to look; its beginning does not.
    let words: String = message.chars().skip_while(|c| !c.is_alphabetic()).take(24).collect();
    wait_for("`highwater status` says the same words", || {
        node.run(&["status"]).is_ok_and(|said| said.contains(&words)).then_some(())
    });
}

#[test]
fn a_share_without_its_root_is_red_until_the_root_is_back() {
    with_cluster(&["node"], &[], |cluster| {
        cluster.start_all()?;
        wait_well(&cluster.nodes[0]);
        let (root, away) = (cluster.folder(0), cluster.dir().join("away"));
        fs::rename(&root, &away)?;
        wait_red(&cluster.nodes[0], "share");
        fs::rename(&away, &root)?;
        wait_well(&cluster.nodes[0]);
        Ok(())
    });
}

/// A small disk in memory, for as long as the value lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a small disk can only be mounted by root");
            return Ok(None);
        }
        fs::create_dir_all(at)?;
        run("mount", &["-t", "tmpfs", "-o", "size=256m", "tmpfs", &at.to_string_lossy()])?;
        Ok(Some(Self(at.to_owned())))
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Leaves no more than this free.
    fn fill(&self, leave: u64) -> Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.0.join("filler"))?;
        while self.free()? > leave {
            let piece = (self.free()? - leave).min(1 << 20) as usize;
            if filler.write_all(&vec![1; piece]).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["--lazy", &self.0.to_string_lossy()]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output()?;
    if !output.status.success() {
        bail!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[test]
fn a_full_disk_is_red_until_there_is_room_and_a_store_that_it_broke_until_the_restart() -> Result<()>
{
    let _slot = Slot::take();
    let dir = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&dir.path().join("node/home"))? else { return Ok(()) };
    let mut node = Node::init(NodeSpec::on_loopback(&highwater(), "node")?, dir.path())?;
    node.add_share(SHARE)?;
    let mut schedule = Schedule::new();
    schedule.watch(&node, &["disk_low"], "disk_low = \"100MiB\"")?;
    node.start()?;
    wait_well(&node);
    disk.fill(DISK_FREE_BYTES_MIN - (16 << 20))?;
    wait_red(&node, "disk");
    let alert = schedule.wait("disk_low", "firing")?;
    ensure!(alert["value"].as_f64() < alert["threshold"].as_f64(), "{alert}");
    disk.clear()?;
    wait_well(&node);
    schedule.wait("disk_low", "resolved")?;
    schedule.each_once(&["disk_low"])?;

    disk.fill(0)?;
    for number in 0..FILES {
        fs::write(node.folder(SHARE).join(number.to_string()), number.to_string())?;
    }
    wait_longer("the store takes no writes", || {
        reasons(&node)?.contains(&"store".to_owned()).then_some(())
    });
    disk.clear()?;
    wait_red(&node, "store");
    node.stop()?;
    node.start()?;
    wait_well(&node);
    node.wait_until("everything is known", PATIENCE, |status| {
        status.share(SHARE).is_some_and(|share| share.entries == FILES as u64)
    })?;
    Ok(())
}

/// A file system that takes no writes and tells nobody, as a disk or a server that hangs.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(at: &Path) -> Result<Self> {
        run("fsfreeze", &["-f", &at.to_string_lossy()])?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = run("fsfreeze", &["-u", &self.0.to_string_lossy()]);
    }
}

#[test]
fn a_share_on_a_disk_that_hangs_is_red_until_the_disk_goes_on() {
    let why = disk::missing().or_else(|| {
        let there = Command::new("fsfreeze").arg("--version").output();
        there.is_err().then_some("fsfreeze is not installed")
    });
    if let Some(why) = why {
        eprintln!("skipped: {why}");
        return;
    }
    with_cluster(&["node", "other"], &[(0, 1)], |cluster| {
        let root = cluster.folder(0);
        let volume = Disk::make(FileSystem::Ext4, &cluster.dir(), &root)?;
        fs::remove_dir(root.join("lost+found"))?;
        cluster.start_all()?;
        fs::write(cluster.folder(1).join("first"), "while it works")?;
        cluster.wait_agreed(PATIENCE)?;
        wait_well(&cluster.nodes[0]);
        let frozen = Frozen::freeze(&root)?;
        fs::write(cluster.folder(1).join("second"), vec![7; 100_000])?;
        wait_red(&cluster.nodes[0], "progress");
        drop(frozen);
        wait_well(&cluster.nodes[0]);
        cluster.wait_in_sync(PATIENCE)?;
        ensure!(fs::read(root.join("second"))? == vec![7; 100_000]);
        cluster.nodes[0].stop()?;
        drop(volume);
        Ok(())
    });
}

#[test]
fn a_receivers_certificate_is_an_alert_before_it_ends_and_red_once_it_has() {
    with_cluster(&["node"], &[], |cluster| {
        let mut schedule = Schedule::new();
        let receiver = SecureReceiver::start(&cluster.dir())?;
        let levels = format!(
            "alertmanager = \"https://localhost:{}/\"\nca_file = \"{}\"",
            receiver.port,
            receiver.ca_file.display()
        );
        schedule.watch(&cluster.nodes[0], &["certificate_ending"], &levels)?;
        receiver.show(3600)?;
        cluster.start_all()?;
        let alert = schedule.wait("certificate_ending", "firing")?;
        ensure!(alert["value"].as_f64().is_some_and(|left| (3000.0..=3600.0).contains(&left)));
        ensure!(reasons(&cluster.nodes[0]).is_some_and(|all| all.is_empty()), "red too early");
        receiver.show(-3600)?;
        wait_red(&cluster.nodes[0], "certificate");
        receiver.show(90 * 86_400)?;
        wait_well(&cluster.nodes[0]);
        schedule.wait("certificate_ending", "resolved")?;
        schedule.each_once(&["certificate_ending"])
    });
}
