//! The hostile requests of docs/hostile-input.md, row by row: the answer, and then the aftermath: the
//! node lives, answers, has opened nothing and has counted the refusal.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use highwater_lab::node::Resident;

use super::{Answer, PATIENCE, Served};

/// Most memory that hostile requests may cost for good.
const GROWTH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What a proxy says of whom it speaks for: from then on a request comes from elsewhere.
const ELSEWHERE: &str = "X-Forwarded-For: 192.0.2.9";
const JSON: &str = "Content-Type: application/json";

/// Every route: those that are described, and those that the contract names and that are not there.
fn routes(served: &Served) -> Vec<(String, String)> {
    let document = served.get("/api/v1/openapi.json").json();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for verb in operations.as_object().expect("operations").keys() {
            routes
                .push((verb.to_uppercase(), path.replace("{share}", "docs").replace("{id}", "x")));
        }
    }
    let more = ["/", "/nothing"];
    routes.extend(more.map(|path| ("GET".to_owned(), path.to_owned())));
    routes
}

/// Asks, demands the refusal, and that it was counted as `reason`.
#[track_caller]
fn refused(served: &Served, reason: &str, status: u16, ask: impl FnOnce() -> Answer, what: &str) {
    let series = format!("highwater_http_rejected_total{{reason=\"{reason}\"}}");
    let before = served.metric(&series);
    ask().expect_problem(status, what);
    assert_eq!(served.metric(&series), before + 1.0, "{what} was not counted");
}

#[test]
fn no_route_is_open_to_a_stranger_but_the_health_checks() {
    let served = Served::with("");
    let token = served.token("read");
    let (right, wrong) = (format!("Authorization: Bearer {token}"), "Authorization: Bearer hw_0_0");
    let mut bodies = std::collections::BTreeSet::new();
    for (method, path) in routes(&served) {
        let ask = |headers: &[&str]| {
            let headers = [&[JSON], headers].concat();
            served.ask(&method, &path, &headers, if method == "POST" { "{}" } else { "" })
        };
        let what = format!("{method} {path}");
        if path.starts_with("/health") {
            assert_eq!(ask(&[ELSEWHERE]).status, 200, "{what}");
            continue;
        }
        let without = ask(&[ELSEWHERE]);
        without.expect_problem(401, &what);
        if path == "/api/v1/events" {
            continue;
        }
        bodies.insert(without.body);
        let known = ask(&[ELSEWHERE, &right]);
        if method == "POST" {
            known.expect_problem(403, &what);
        } else {
            assert!(![401, 403].contains(&known.status), "{what}: {known:?}");
        }
    }
    let wrong = served.get_with("/api/v1/status", &[wrong]);
    wrong.expect_problem(401, "a wrong token");
    bodies.insert(wrong.body);
    assert_eq!(bodies.len(), 1, "a stranger learns nothing from what differs: {bodies:?}");
}

#[test]
fn a_token_opens_until_it_is_revoked_and_its_scope_is_its_limit() {
    let served = Served::with("");
    let (read, admin) = (served.token("read"), served.token("admin"));
    let rescan = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        let headers = [ELSEWHERE, JSON, &header];
        served.ask("POST", "/api/v1/shares/docs/rescan", &headers, "{}").status
    };
    assert_eq!((rescan(&read), rescan(&admin)), (403, 200));
    let id = admin.split('_').nth(1).expect("three parts").to_owned();
    served.node.run(&["token", "revoke", &id]).expect("revoked");
    assert_eq!(rescan(&admin), 401, "at once, without a restart");
    let said = served.node.run(&["token", "list", "--json"]).expect("listed");
    assert!(!said.contains(&read) && !said.contains(&id), "{said}");
    let query = format!("/api/v1/status?token={read}");
    refused(&served, "query", 400, || served.get(&query), "a token in the address");
    let log = std::fs::read_to_string(served.node.log_path()).expect("a log");
    assert!(!log.contains("hw_"), "a token is in the log: {log}");
}

#[test]
fn ten_wrong_tokens_and_the_address_is_not_listened_to() {
    let served = Served::with("");
    let right = format!("Authorization: Bearer {}", served.token("admin"));
    for _ in 0..10 {
        let wrong = ["Authorization: Bearer hw_00000000_00"];
        served.get_with("/api/v1/status", &wrong).expect_problem(401, "a wrong token");
    }
    let late = served.get_with("/api/v1/status", &[&right]);
    late.expect_problem(429, "a right one, too late");
    assert!(late.head.contains("retry-after:"), "{late:?}");
    assert_eq!(served.get("/api/v1/status").status, 200, "without a token nothing has changed");
}

#[test]
fn a_page_in_a_browser_can_neither_ask_nor_change() {
    let served = Served::with("");
    let post = |headers: &[&str]| served.ask("POST", "/api/v1/shares/docs/rescan", headers, "{}");
    let rows: [(&str, u16, &[&str]); 6] = [
        ("origin", 403, &[JSON, "Origin: https://evil.example"]),
        ("origin", 403, &[JSON, "Sec-Fetch-Site: cross-site"]),
        ("origin", 403, &[JSON, "Cookie: a=b"]),
        ("media_type", 415, &["Content-Type: text/plain"]),
        ("media_type", 415, &["Content-Type: application/x-www-form-urlencoded"]),
        ("host", 421, &[JSON, "Host: evil.example"]),
    ];
    for (reason, status, headers) in rows {
        refused(&served, reason, status, || post(headers), &format!("{headers:?}"));
    }
    let preflight = served.ask("OPTIONS", "/api/v1/status", &["Origin: https://evil.example"], "");
    preflight.expect_problem(405, "a preflight");
    assert!(!preflight.head.contains("access-control"), "{preflight:?}");
    assert_eq!(post(&[JSON]).status, 200);
    let sealed = served.get("/api/v1/status").head;
    for part in ["nosniff", "no-store", "no-referrer", "frame-ancestors 'none'"] {
        assert!(sealed.contains(part), "{part}: {sealed}");
    }
}

#[test]
fn odd_methods_paths_headers_and_bodies_are_refused() {
    let served = Served::with("");
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        refused(&served, "method", 405, || served.ask(method, "/health", &[], ""), method);
    }
    let tricked = ["X-HTTP-Method-Override: DELETE", JSON];
    let ask = || served.ask("POST", "/api/v1/shares/docs/rescan", &tricked, "{}");
    refused(&served, "method", 405, ask, "an overridden method");
    for path in ["/api/v1/shares/a%00b", "/api/v1/shares/%c0%af", "/%2e%2e/etc", "/a%2fb", "/%252e"]
    {
        refused(&served, "uri", 400, || served.get(path), path);
    }
    let long = format!("/{}", "a".repeat(4000));
    refused(&served, "uri", 414, || served.get(&long), "a long path");
    let query = "/api/v1/shares/docs/changes";
    for wrong in [
        "limit=0",
        "limit=-1",
        "limit=1000000000000",
        "since=x",
        "since=-1",
        "x=1",
        "since=1&since=2",
        "follow=perhaps",
        "since=18446744073709551616",
    ] {
        served.get(&format!("{query}?{wrong}")).expect_problem(400, wrong);
    }
    for name in ["nope", "DOCS", "docs.", "%F0%9F%92%A9", &"a".repeat(65)] {
        served.get(&format!("/api/v1/shares/{name}")).expect_problem(404, name);
    }
    let deep = "[".repeat(100_000);
    let keys: String = (0..5000).map(|key| format!("\"{key}\":1,")).collect();
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{} {}",
        "\u{feff}{}",
        "{\"a\":1}",
        "{\"a\":NaN}",
        &deep[..60_000],
        &format!("{{{keys}\"a\":1}}"),
    ] {
        let answer = served.ask("POST", "/api/v1/shares/docs/rescan", &[JSON], body);
        answer.expect_problem(400, &body[..body.len().min(20)]);
    }
    let answer = served.ask("POST", "/api/v1/shares/docs/rescan", &[JSON], &deep);
    answer.expect_problem(413, "a body that is too long");
    assert_eq!(served.get("/health").status, 200);
}

#[test]
fn requests_that_end_in_two_ways_are_not_guessed_at() {
    let served = Served::with("");
    let host = "Host: localhost\r\n";
    let rows = [
        (
            "two lengths",
            format!("POST /x HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
        ),
        (
            "a length and chunks",
            format!(
                "POST /x HTTP/1.1\r\n{host}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "a chunk without end",
            format!(
                "POST /api/v1/shares/docs/rescan HTTP/1.1\r\n{host}{JSON}\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n"
            ),
        ),
        ("a bare line feed in a name", format!("GET /health HTTP/1.1\r\n{host}A\nB: c\r\n\r\n")),
        (
            "a body where none belongs",
            format!("GET /health HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc"),
        ),
        ("two hosts", format!("GET /health HTTP/1.1\r\n{host}{host}\r\n")),
        ("no host", "GET /health HTTP/1.1\r\n\r\n".to_owned()),
        ("garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned()),
    ];
    for (what, request) in rows {
        let answer = served.raw(request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: answered twice: {answer}");
    }
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let answer = served.raw(format!("GET /health HTTP/1.1\r\n{host}{many}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer =
        served.raw(format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(65_536)).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 414") || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(served.get("/health").status, 200);
}

#[test]
fn a_slow_client_is_told_and_left_and_idle_ones_keep_nobody_out() {
    let served = Served::with("");
    let pid = served.node.pid().expect("it runs");
    let before = Resident::of(pid).expect("memory").now;
    let mut slow = TcpStream::connect(served.addr()).expect("connected");
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: loc").expect("sent");
    let mut slower = TcpStream::connect(served.addr()).expect("connected");
    let head =
        "POST /api/v1/shares/docs/rescan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n";
    slower.write_all(format!("{head}{JSON}\r\n\r\n{{").as_bytes()).expect("sent");
    for (what, stream) in [("half a head", &mut slow), ("half a body", &mut slower)] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered and closed");
        Answer::of(&answer).expect_problem(408, what);
    }
    let idle: Vec<_> = (0..1000).map_while(|_| TcpStream::connect(served.addr()).ok()).collect();
    let asked = Instant::now();
    assert_eq!(served.get("/health/live").status, 200, "with {} idle connections", idle.len());
    eprintln!("answered after {:?} beside {} idle connections", asked.elapsed(), idle.len());
    assert!(served.metric("highwater_http_evicted_total") > 0.0);
    drop(idle);
    let now = Resident::of(pid).expect("memory").now;
    assert!(now < before + GROWTH_BYTES_MAX, "it has grown from {before} to {now}");
}

#[test]
fn followers_get_what_is_to_come_and_there_are_only_so_many() {
    let served = Served::with("");
    let follow = || {
        let mut stream = TcpStream::connect(served.addr()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let head =
            "GET /api/v1/shares/docs/changes?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("answered");
        (stream, String::from_utf8_lossy(&start).into_owned())
    };
    let mut followers: Vec<_> = (0..16).map(|_| follow()).collect();
    assert!(followers.iter().all(|(_, start)| start == "HTTP/1.1 200"));
    assert_eq!(follow().1, "HTTP/1.1 503", "one too many");
    assert_eq!(served.get("/health").status, 200);
    std::fs::write(served.node.folder("docs").join("new.txt"), "x").expect("written");
    let (stream, _) = &mut followers[0];
    let (mut heard, mut piece) = (String::new(), [0; 1024]);
    while !heard.contains("new.txt") {
        let length = stream.read(&mut piece).expect("an event comes");
        assert!(length > 0, "it ended: {heard}");
        heard.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    assert!(heard.contains("id: ") && heard.contains("data: {"), "{heard}");
    drop(followers);
    super::wait_for("a follower's place is free again", || {
        std::thread::sleep(Duration::from_millis(10));
        (follow().1 == "HTTP/1.1 200").then_some(())
    });
}

impl Served {
    fn get_with(&self, path: &str, headers: &[&str]) -> Answer {
        self.ask("GET", path, headers, "")
    }
}
