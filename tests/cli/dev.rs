//! The development cluster: started, seen, mended, tried and stopped through the command alone.

use std::net::TcpListener;
use std::path::PathBuf;

use highwater_tests::Slot;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use super::{Outcome, program};

/// A development cluster on ports of its own, stopped and removed at the end.
struct Dev {
    dir: tempfile::TempDir,
    ports: [String; 2],
    _slot: Slot,
}

impl Dev {
    fn new() -> Dev {
        let _slot = Slot::take();
        let dir = tempfile::tempdir().expect("a temporary directory");
        Dev { dir, ports: [(); 2].map(|()| free_run(3).to_string()), _slot }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let place = self.place();
        Outcome::of(program().arg("dev").args(args).arg("--dir").arg(place), &args.join(" "))
    }

    fn up(&self, more: &[&str]) -> Outcome {
        let [http, sync] = &self.ports;
        self.run(&[&["up", "--json", "--http", http, "--sync", sync], more].concat())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// A port with free ones at 100 and 200 above it.
fn free_run(count: u16) -> u16 {
    for _ in 0..100 {
        let first = highwater_lab::net::free_loopback().expect("a free port").port();
        let free = |step: u16| TcpListener::bind(("127.0.0.1", first + 100 * step)).is_ok();
        if (0..count).all(free) {
            return first;
        }
    }
    panic!("no {count} free ports a hundred apart");
}

fn pids(report: &Value) -> Vec<i64> {
    let nodes = report["nodes"].as_array().expect("nodes");
    nodes.iter().filter_map(|node| node["pid"].as_i64()).collect()
}

fn pid(number: i64) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("a pid")).expect("a pid")
}

#[test]
fn a_development_cluster_comes_up_is_mended_and_goes_down_again() {
    let dev = Dev::new();
    dev.run(&["status"]).expect_code(1);
    let first = dev.up(&["-n", "2"]).expect_code(0).json();
    let (before, names) = (pids(&first), first["started"].clone());
    assert_eq!(before.len(), 2, "{first}");
    assert_eq!(names, serde_json::json!(["alice", "bob"]));
    for node in first["nodes"].as_array().expect("nodes") {
        assert_eq!((&node["in_sync"], &node["connected"]), (&true.into(), &1.into()), "{node}");
    }

    let again = dev.up(&[]).expect_code(0).json();
    assert_eq!((pids(&again), &again["started"]), (before.clone(), &serde_json::json!([])));
    let other = dev.up(&["-n", "3"]);
    assert!(other.expect_code(1).stdout().contains("has 2 nodes"), "{}", other.stdout());

    kill_process(pid(before[0]), Signal::KILL).expect("it ran");
    while test_kill_process(pid(before[0])).is_ok() && dev.run(&["status"]).output.status.success()
    {
    }
    let hurt = dev.run(&["status", "--json"]).expect_code(1).json();
    assert_eq!((hurt["well"].as_bool(), pids(&hurt).len()), (Some(false), 1), "{hurt}");
    let mended = dev.up(&[]).expect_code(0).json();
    assert_eq!(mended["started"], serde_json::json!(["alice"]));
    assert_eq!(pids(&mended)[1], before[1], "the other one was left alone");

    let down = dev.run(&["down", "--purge", "--json"]).expect_code(0).json();
    assert_eq!(down["stopped"], serde_json::json!(["alice", "bob"]));
    assert_eq!(down["killed"], serde_json::json!([]));
    assert!(!dev.place().exists());
}

#[test]
fn a_taken_port_is_named_with_who_may_have_it_and_nothing_is_left_running() {
    let dev = Dev::new();
    let second: u16 = dev.ports[0].parse::<u16>().expect("a port") + 100;
    let taken = TcpListener::bind(("127.0.0.1", second)).expect("free a moment ago");
    let refused = dev.up(&["-n", "2"]).expect_code(1).stdout();
    let holder = format!("process {} (", std::process::id());
    assert!(refused.contains(&format!("port {second}")) && refused.contains(&holder), "{refused}");
    drop(taken);
    assert_eq!(pids(&dev.up(&["-n", "2"]).expect_code(0).json()).len(), 2);
}

#[test]
fn the_fault_test_cuts_a_real_transfer_and_every_check_holds() {
    let dev = Dev::new();
    dev.up(&[]).expect_code(0);
    let report = dev.run(&["fault-test", "--json"]).expect_code(0).json();
    let (cut, size) = (&report["cut"], report["cut"]["bytes"].as_u64().expect("a size"));
    let before = cut["before"].as_u64().expect("an offset");
    assert!(before > 0 && before < size, "the cut fell outside: {cut}");
    assert!(cut["resumed_from"].as_u64() >= Some(before), "{cut}");
    assert_eq!(cut["passed_during_cut"], 0);
    for link in report["links"].as_array().expect("links") {
        let trips = link["round_trips_ms"].as_array().expect("round trips");
        assert!(trips.len() == 10 && trips.iter().all(|trip| trip.as_f64() > Some(0.0)), "{link}");
    }
    let checks = report["checks"].as_array().expect("checks");
    assert!(checks.len() >= 14 && checks.iter().all(|check| check["holds"] == true), "{checks:?}");
    dev.run(&["status"]).expect_code(0);
    let left = dev.place().join("alice/docs/fault-test");
    assert!(!left.exists(), "the test's files are gone");
}
