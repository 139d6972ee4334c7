//! The daemon: its ready line, its status, its health, its end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Home, Outcome};

/// Longest wait for a daemon to end; the contract says 5 s, a loaded machine more.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon; killed when dropped.
struct Daemon {
    home: Home,
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: Value,
}

impl Daemon {
    /// A daemon with one share that holds one file.
    fn start() -> Daemon {
        let home = Home::initialised();
        let folder = home.dir.path().join("folder");
        fs::create_dir(&folder).expect("free");
        fs::write(folder.join("file"), "content").expect("writable");
        home.run_on(&["share", "add", "docs"], &folder).expect_code(0);
        let mut command = home.command();
        command.arg("run").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("readable");
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        Daemon { home, child, stdout, ready }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let addr = self.ready["http"].as_str().expect("the ready line names it");
        let mut stream = TcpStream::connect(addr).expect("it serves");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("readable");
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (code, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    fn wait_for_end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("own child") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the daemon did not end within {STOP_PATIENCE:?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every field of the example is there, with a value of the same kind.
fn demand_shape(found: &Value, example: &Value, at: &str) {
    match example {
        Value::Object(fields) => {
            for (name, example) in fields {
                let value = found.get(name).unwrap_or_else(|| panic!("{at}.{name} is missing"));
                demand_shape(value, example, &format!("{at}.{name}"));
            }
        }
        Value::Array(examples) => {
            let items = found.as_array().unwrap_or_else(|| panic!("{at} is not a list"));
            for (item, example) in items.iter().zip(examples.iter().cycle()) {
                demand_shape(item, example, &format!("{at}[]"));
            }
        }
        Value::String(_) => assert!(found.is_string(), "{at} is {found}"),
        Value::Number(_) => assert!(found.is_number(), "{at} is {found}"),
        Value::Bool(_) => assert!(found.is_boolean(), "{at} is {found}"),
        Value::Null => {}
    }
}

#[test]
fn the_ready_line_names_the_node_and_where_it_serves() {
    let daemon = Daemon::start();
    let id = daemon.home.run(&["id"]).stdout();
    assert_eq!(daemon.ready["event"], "ready");
    assert_eq!(daemon.ready["node_id"], id.trim());
    for name in ["sync", "http"] {
        let addr = daemon.ready[name].as_str().unwrap_or_default();
        TcpStream::connect(addr).unwrap_or_else(|error| panic!("{name} {addr:?}: {error}"));
    }
}

#[test]
fn status_is_the_document_of_the_contract_by_command_and_by_http() {
    let daemon = Daemon::start();
    let example: Value = serde_json::from_str(
        r#"{"node_id":"","name":"","user":"","version":"","uptime_seconds":0,
            "shares":[{"name":"","path":"","mode":"","state":"","entries":0,"bytes":0,"head_seq":0,
              "needed":{"entries":0,"bytes":0},"conflicts":0,"problems":[],"peers":[]}],
            "transfers":[],
            "counters":{"content_bytes_received":0,"content_bytes_reused":0,
              "content_bytes_resent":0,"entries_applied":0,"reconnects":0,"hash_mismatches":0}}"#,
    )
    .expect("the example is valid");
    let by_command = daemon.home.run(&["--json", "status"]).expect_code(0).json();
    demand_shape(&by_command, &example, "status");
    let (code, by_http) = daemon.get("/api/v1/status");
    assert_eq!(code, 200);
    demand_shape(&by_http, &example, "status");
    assert_eq!(by_http["shares"][0]["name"], "docs");
}

#[test]
fn health_is_the_document_of_the_contract() {
    let daemon = Daemon::start();
    let (code, health) = daemon.get("/health");
    assert_eq!(code, 200, "{health}");
    let example: Value = serde_json::from_str(
        r#"{"status":true,"version":"","mode":"","timestamp":"",
            "checks":{"store":{"status":true,"type":""},"disk":{"status":true,"free_bytes":0},
              "shares":{"status":true},"cluster":{"enabled":true,"status":true}},
            "services":{"sync":"","http":""}}"#,
    )
    .expect("the example is valid");
    demand_shape(&health, &example, "health");
    assert_eq!(daemon.get("/health/live").0, 200);
    assert_eq!(daemon.get("/health/ready").0, 200);
}

#[test]
fn the_cluster_is_told_as_the_contract_has_it_by_command_and_by_http() {
    let daemon = Daemon::start();
    let status: Value = serde_json::from_str(
        r#"{"enabled":true,"status":{"cluster_id":"","total_nodes":3,"active_nodes":3,
            "failed_nodes":0,"total_requests":0,"successful_requests":0,"failed_requests":0,
            "average_response_time":0.0,"last_updated":""}}"#,
    )
    .expect("the example is valid");
    let id = daemon.ready["node_id"].as_str().expect("an id");
    let node: Value = serde_json::from_str(
        r#"{"config":{"node_id":"","host":"","port":8080,"weight":100,"status":"active",
              "metadata":{"name":"","user":"","service":"highwater","version":"","mode":""}},
            "last_seen":"","connections":0,"response_time":0.0,"success_rate":100.0}"#,
    )
    .expect("the example is valid");
    let by_command = |what| daemon.home.run(&["--json", "cluster", what]).expect_code(0).json();
    for found in [by_command("status"), daemon.get("/api/v1/cluster/status").1] {
        demand_shape(&found, &status, "status");
        assert_eq!(found["status"]["total_nodes"], 1, "a node alone is its own cluster");
        assert_eq!(found["enabled"], false);
    }
    for found in [by_command("nodes"), daemon.get("/api/v1/cluster/nodes").1] {
        demand_shape(&found["nodes"][id], &node, "node");
        let http = daemon.ready["http"].as_str().and_then(|addr| addr.rsplit_once(':'));
        let port = found["nodes"][id]["config"]["port"].to_string();
        assert_eq!(Some(port.as_str()), http.map(|(_, port)| port), "the port that it really has");
    }
}

#[test]
fn both_signals_end_the_daemon_in_order_and_nothing_follows_the_ready_line() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start();
        daemon.signal(signal);
        assert_eq!(daemon.wait_for_end(), Some(0), "{signal:?}");
        let mut rest = String::new();
        daemon.stdout.read_to_string(&mut rest).expect("readable");
        assert_eq!(rest, "", "logs belong on standard error");
    }
}

#[test]
fn a_second_daemon_on_one_home_is_refused_and_the_first_lives_on() {
    let daemon = Daemon::start();
    let second = daemon.home.run(&["run"]);
    assert_ne!(second.output.status.code(), Some(0));
    assert_eq!(daemon.get("/health/live").0, 200);
}

#[test]
fn the_control_socket_is_for_its_owner_alone() {
    let daemon = Daemon::start();
    let sockets = sockets_below(&daemon.home.path());
    assert!(!sockets.is_empty(), "no control socket in the home");
    for (path, mode) in sockets {
        assert_eq!(mode & 0o077, 0, "{path}: {mode:o}");
    }
}

fn sockets_below(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let metadata = entry.metadata().expect("readable");
        if metadata.is_dir() {
            found.extend(sockets_below(&entry.path()));
        } else if metadata.file_type().is_socket() {
            found.push((entry.path().display().to_string(), metadata.permissions().mode()));
        }
    }
    found
}

#[test]
fn a_share_added_to_a_running_daemon_takes_effect_at_once() {
    let daemon = Daemon::start();
    let folder = daemon.home.dir.path().join("second");
    fs::create_dir(&folder).expect("free");
    daemon.home.run_on(&["share", "add", "second"], &folder).expect_code(0);
    let (_, status) = daemon.get("/api/v1/status");
    let names: Vec<_> = status["shares"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|share| share["name"].as_str())
        .collect();
    assert!(names.contains(&"second"), "{names:?}");
}

#[test]
fn the_log_shows_what_was_scanned() {
    let daemon = Daemon::start();
    let deadline = Instant::now() + STOP_PATIENCE;
    loop {
        let outcome: Outcome = daemon.home.run(&["log", "docs"]);
        if outcome.expect_code(0).stdout().contains("file") {
            return;
        }
        assert!(Instant::now() < deadline, "{}", outcome.stdout());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_unknown_http_path_is_a_problem_document() {
    let daemon = Daemon::start();
    let (code, problem) = daemon.get("/api/v1/nonsense");
    assert_eq!(code, 404);
    assert!(problem["status"] == 404 || problem["title"].is_string(), "{problem}");
}
