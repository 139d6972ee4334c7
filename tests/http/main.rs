//! The HTTP API of the real daemon: every hostile request of the catalogue, the OpenAPI document
//! held against what is served, and the real Prometheus and Alertmanager where they are installed.

#![forbid(unsafe_code)]

mod alerts;
mod attacks;
mod feeds;
mod health;
mod openapi;
mod prometheus;
mod receiver;
mod schedule;
mod schema;
mod secure;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use highwater_lab::net::free_loopback;
use highwater_lab::node::{Node, NodeSpec};
use highwater_tests::{Slot, highwater};
use serde_json::Value;

/// Longest wait for an answer, and for anything that a test waits for: far beyond what either takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at while a test waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A node that serves HTTP, with one share.
struct Served {
    node: Node,
    dir: tempfile::TempDir,
    _slot: Slot,
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Served {
    /// A node whose configuration ends with `more`.
    fn with(more: &str) -> Served {
        let served = Served::stopped(more);
        Served { node: started(served.node), ..served }
    }

    fn stopped(more: &str) -> Served {
        let _slot = Slot::take();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let spec = NodeSpec::on_loopback(&highwater(), "node").expect("free ports");
        let node = Node::init(spec, dir.path()).expect("a node");
        node.add_share("docs").expect("a share");
        let mut config = OpenOptions::new();
        let config = config.append(true).open(node.home().join("config.toml"));
        config.expect("there").write_all(more.as_bytes()).expect("written");
        Served { node, dir, _slot }
    }

    fn addr(&self) -> SocketAddr {
        self.node.spec().http
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Sends bytes as they are and reads until the connection ends.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr()).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // A node that has refused already may have hung up.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Asks with these headers, each as `Name: value`.
    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = match (method, body) {
            ("GET" | "HEAD", "") => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let host =
            if headers.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}{length}Connection: close\r\n\r\n{body}"
        );
        Answer::of(&self.raw(request.as_bytes()))
    }

    /// Whether `path` answers with a stream of events; it is hung up on.
    fn begins_stream(&self, path: &str) -> bool {
        let mut stream = TcpStream::connect(self.addr()).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        head.starts_with("http/1.1 200") && head.contains("content-type: text/event-stream")
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// The value of a series of `/metrics`, 0 where there is none.
    fn metric(&self, series: &str) -> f64 {
        let page = self.get("/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    fn token(&self, scope: &str) -> String {
        let said =
            self.node.run(&["token", "create", "--scope", scope, "--json"]).expect("a token");
        let made: Value = serde_json::from_str(&said).expect("JSON");
        made["token"].as_str().expect("a token").to_owned()
    }
}

fn started(mut node: Node) -> Node {
    node.start().expect("it starts");
    node
}

impl Answer {
    fn of(raw: &str) -> Answer {
        let (head, body) = raw.split_once("\r\n\r\n").unwrap_or((raw, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Demands a refusal that is a problem document and tells nothing of the inside.
    #[track_caller]
    fn expect_problem(&self, status: u16, what: &str) {
        assert_eq!(self.status, status, "{what}: {self:?}");
        assert!(self.head.contains("application/problem+json"), "{what}: {self:?}");
        assert_eq!(self.json()["status"], status, "{what}");
        for inside in ["src/", ".rs", "panicked", "hw_"] {
            assert!(!self.body.contains(inside), "{what}: {self:?}");
        }
    }
}

/// Waits until `look` finds something.
#[track_caller]
fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Waits for something that a node says only after two minutes.
#[track_caller]
fn wait_longer<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE * 4, what, look)
}

#[track_caller]
fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain until {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Another program that serves on a port of its own, killed at the end.
struct Other(Child);

impl Other {
    /// Starts `program`, or says that it is not installed.
    fn start(program: &str, args: &[String]) -> Option<Other> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Other(child)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: {program} is not installed (apt-get install {program})");
                None
            }
            Err(error) => panic!("starting {program}: {error}"),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks another program on this machine; `None` while it does not answer with success.
fn ask_other(addr: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut raw = String::new();
    stream.read_to_string(&mut raw).ok()?;
    let answer = Answer::of(&raw);
    let found = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body));
    (answer.status == 200).then_some(found)
}

fn free() -> SocketAddr {
    free_loopback().expect("a free port")
}

/// What `/health` of the node at `addr` says, whether it is well or not.
fn ask_health(addr: SocketAddr) -> Option<Value> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET /health HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut raw = String::new();
    stream.read_to_string(&mut raw).ok()?;
    let answer = Answer::of(&raw);
    let said: Value = serde_json::from_str(&answer.body).ok()?;
    let expected = if said["status"] == true { 200 } else { 503 };
    assert_eq!(answer.status, expected, "{said}");
    Some(said)
}
