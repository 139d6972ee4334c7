//! What feeds each alert: a real cause on real nodes, the alert that fires once, the end of the cause,
//! and the alert that is over once.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::faults::Faults;
use highwater_lab::hostile::frames::Hello;
use highwater_lab::hostile::{Credentials, Peer};
use highwater_lab::node::{Node, NodeSpec};
use highwater_lab::tree;
use highwater_tests::clocks::{shift_clock, with_clock};
use highwater_tests::{Slot, highwater, with_cluster};
use rustix::process::Signal;
use serde_json::Value;

use super::schedule::Schedule;
use super::{PATIENCE, wait_for};

/// How often a scripted peer says that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);

fn number(alert: &Value, field: &str) -> f64 {
    alert[field].as_f64().unwrap_or(f64::NAN)
}

/// Stops a node's process, to its last thread: each stops when it is scheduled next, and may still
/// take in something until then.
fn freeze(node: &Node) -> Result<()> {
    node.signal(Signal::STOP)?;
    let tasks = format!("/proc/{}/task", node.pid().context("it runs")?);
    let is_stopped = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT"))
    };
    wait_for("every thread has stopped", || {
        fs::read_dir(&tasks).ok()?.flatten().all(is_stopped).then_some(())
    });
    Ok(())
}

#[test]
fn a_peer_that_freezes_in_a_transfer_is_told_of_as_a_stall_a_lag_and_a_silence() {
    let rules = ["transfer_stalled", "lag_age", "lag_entries", "peer_silent"];
    with_cluster(&["watcher", "other"], &[(0, 1)], |cluster| {
        let mut schedule = Schedule::new();
        let levels = "transfer_stalled = \"5s\"\nlag_age = \"5s\"\nlag_entries = 2\n\
                      peer_silent = \"5s\"";
        schedule.watch(&cluster.nodes[0], &rules, levels)?;
        cluster.start_all()?;
        cluster.wait_in_sync(PATIENCE)?;
        cluster.proxy(0, 1).set_both(Faults::rate(2_000_000));
        tree::write_file(&cluster.folder(1).join("large"), 40 << 20, 7)?;
        cluster.nodes[0].wait_until("a part has come", PATIENCE, |status| {
            status.transfer("large").is_some_and(|transfer| transfer.acked_offset > 0)
        })?;
        freeze(&cluster.nodes[1])?;
        for name in ["one", "two", "three"] {
            fs::write(cluster.folder(0).join(name), name)?;
        }
        for rule in rules {
            let alert = schedule.wait(rule, "firing")?;
            let (value, threshold) = (number(&alert, "value"), number(&alert, "threshold"));
            ensure!(value >= threshold && threshold <= 5.0, "{alert}");
            let subject = alert["subject"].as_str().context("a subject")?;
            // A peer without a name is called by the first letters of its id.
            let peer = &cluster.nodes[1].id()[..8];
            let about = if rule == "transfer_stalled" { "docs/large" } else { peer };
            ensure!(subject.contains(about), "{alert}");
        }
        cluster.proxy(0, 1).set_both(Faults::default());
        cluster.nodes[1].signal(Signal::CONT)?;
        for rule in rules {
            schedule.wait(rule, "resolved")?;
        }
        schedule.each_once(&rules)
    });
}

/// Changes one byte in place, and puts the modification time back.
fn rot(path: &Path) -> Result<()> {
    let modified = fs::metadata(path)?.modified()?;
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3)?;
    file.write_all_at(&[byte[0] ^ 1], 3)?;
    Ok(file.set_times(fs::FileTimes::new().set_modified(modified))?)
}

/// Runs a check on the first node; its exit code.
fn check(cluster: &Cluster, how: &[&str]) -> Result<i32> {
    let output = cluster.nodes[0].try_run(&[&["check", SHARE], how].concat())?;
    output.status.code().context("it was killed")
}

#[test]
fn what_is_wrong_with_a_share_or_its_bytes_is_told_once_until_it_is_mended() {
    with_cluster(&["watcher", "other"], &[(0, 1)], |cluster| {
        let mut schedule = Schedule::new();
        let rules = ["bit_rot", "check_failed", "share_stopped", "conflict"];
        schedule.watch(&cluster.nodes[0], &rules, "")?;
        fs::write(cluster.folder(0).join("good"), "a few bytes")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;

        rot(&cluster.folder(0).join("good"))?;
        ensure!(number(&schedule.wait("bit_rot", "firing")?, "value") == 1.0);
        ensure!(check(cluster, &["--deep"])? == 3, "the damage is not found");
        schedule.wait("check_failed", "firing")?;
        ensure!(check(cluster, &["--repair"])? == 0, "the damage is not repaired");
        schedule.wait("bit_rot", "resolved")?;
        ensure!(check(cluster, &["--deep"])? == 0, "something is left");
        schedule.wait("check_failed", "resolved")?;

        let (root, away) = (cluster.folder(0), cluster.dir().join("away"));
        fs::rename(&root, &away)?;
        schedule.wait("share_stopped", "firing")?;
        fs::rename(&away, &root)?;
        schedule.wait("share_stopped", "resolved")?;

        cluster.wait_agreed(PATIENCE)?;
        cluster.nodes[1].stop()?;
        fs::write(cluster.folder(0).join("good"), "what the watcher wrote")?;
        cluster.nodes[0].wait_until("the edit is known", PATIENCE, |status| {
            status.share(SHARE).is_some_and(|share| share.state == "idle" && share.head_seq > 1)
        })?;
        fs::write(cluster.folder(1).join("good"), "what the other one wrote meanwhile")?;
        cluster.nodes[1].start()?;
        schedule.wait("conflict", "firing")?;
        let copies = || {
            let names = fs::read_dir(cluster.folder(0)).into_iter().flatten().flatten();
            names
                .map(|entry| entry.path())
                .find(|path| path.to_string_lossy().contains(".conflict-"))
        };
        fs::remove_file(wait_for("the copy is there", copies))?;
        schedule.wait("conflict", "resolved")?;
        schedule.each_once(&rules)?;

        // The last check is some time ago by now; from 40 s on that is too long.
        let mut schedule = Schedule::new();
        schedule.watch(&cluster.nodes[0], &["check_overdue"], "check_overdue = \"40s\"")?;
        cluster.nodes[0].run(&["share", "resume", SHARE])?;
        ensure!(number(&schedule.wait("check_overdue", "firing")?, "threshold") == 40.0);
        check(cluster, &[])?;
        schedule.wait("check_overdue", "resolved")?;
        schedule.each_once(&["check_overdue"])
    });
}

/// A peer that says which version it runs, and stays until it is dropped.
struct Versioned {
    leave: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

impl Versioned {
    fn link(to: &Node, credentials: &Credentials, version: &str) -> Result<Self> {
        let mut peer = Peer::connect(to.spec().sync, credentials)?;
        peer.greet(&Hello { version: version.into(), ..Hello::default() })?;
        let leave = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&leave);
        let thread = thread::spawn(move || {
            for number in 2.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                peer.is_up(number)?;
                thread::sleep(SIGN_OF_LIFE);
            }
            Ok(())
        });
        Ok(Self { leave, thread: Some(thread) })
    }
}

impl Drop for Versioned {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
        // What became of the link is what the node says of it.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn a_peer_of_another_version_is_told_of_until_it_is_updated() {
    with_cluster(&["watcher"], &[], |cluster| {
        let mut schedule = Schedule::new();
        let exe = cluster.nodes[0].spec().exe.clone();
        let old = Node::init(NodeSpec::on_loopback(&exe, "old")?, &cluster.dir())?;
        cluster.nodes[0].add_peer(old.id(), None, &[SHARE])?;
        schedule.watch(&cluster.nodes[0], &["version_skew"], "version_skew = \"5s\"")?;
        cluster.start_all()?;
        let credentials = Credentials::of_home(&old.home())?;
        let before = Versioned::link(&cluster.nodes[0], &credentials, "0.0.9")?;
        let alert = schedule.wait("version_skew", "firing")?;
        ensure!(alert["cause"].as_str().is_some_and(|cause| cause.contains("0.0.9")), "{alert}");
        drop(before);
        let status = cluster.nodes[0].run(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let version = status["version"].as_str().context("a version")?;
        let _after = Versioned::link(&cluster.nodes[0], &credentials, version)?;
        schedule.wait("version_skew", "resolved")?;
        schedule.each_once(&["version_skew"])
    });
}

/// Whether `/health` says so, and for which reasons.
fn health(node: &Node) -> Option<(bool, Vec<String>)> {
    let said = super::ask_health(node.spec().http)?;
    let reasons = said["reasons"].as_array()?.iter();
    let kinds = reasons.filter_map(|reason| reason["kind"].as_str().map(str::to_owned));
    Some((said["status"].as_bool()?, kinds.collect()))
}

#[test]
fn a_clock_that_is_off_is_an_alert_and_turns_both_sides_red_until_it_is_set() -> Result<()> {
    let _slot = Slot::take();
    let dir = tempfile::tempdir()?;
    let Some(exe) = with_clock(&highwater(), dir.path())? else { return Ok(()) };
    let mut cluster = Cluster::new(&exe, &["watcher", "other"], &[(0, 1)])?;
    let mut schedule = Schedule::new();
    schedule.watch(&cluster.nodes[0], &["clock_skew"], "")?;
    let home = cluster.nodes[1].home();
    shift_clock(&home, 0)?;
    cluster.start_all()?;
    cluster.wait_in_sync(PATIENCE)?;
    let (well, off) = ((true, vec![]), (false, vec!["clock".to_owned()]));
    let both = |cluster: &Cluster, wanted: &(bool, Vec<String>)| {
        let nodes = cluster.nodes.iter();
        nodes.map(health).all(|said| said.as_ref() == Some(wanted)).then_some(())
    };
    wait_for("both are well", || both(&cluster, &well));
    shift_clock(&home, 120)?;
    wait_for("both are red", || both(&cluster, &off));
    let alert = schedule.wait("clock_skew", "firing")?;
    ensure!((number(&alert, "value") - 120.0).abs() < 10.0, "{alert}");
    ensure!(number(&alert, "threshold") == 60.0, "{alert}");
    shift_clock(&home, 0)?;
    wait_for("both are well again", || both(&cluster, &well));
    schedule.wait("clock_skew", "resolved")?;
    schedule.each_once(&["clock_skew"])
}
