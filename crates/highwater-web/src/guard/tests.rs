//! What is let in and what is not, one row for each thing that can be wrong.

use super::*;

fn gate() -> (tempfile::TempDir, Arc<Gate>) {
    let dir = tempfile::tempdir().expect("scratch");
    let home = highwater::Home::at(dir.path().join("home"));
    home.create().expect("made");
    (dir, Arc::new(Gate::new(Tokens::of(&home), Arc::default())))
}

/// A request as it is written in a row: `METHOD PATH`, headers, and who sends it.
async fn verdict(gate: &Arc<Gate>, line: &str, headers: &[(&str, &str)], remote: &str) -> u16 {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let local = "192.0.2.1:8080".parse().expect("addr");
    let remote = SocketAddr::new(remote.parse().expect("ip"), 5000);
    // What is asked in a way that there is; what there is not, the router answers.
    let route = match method {
        "POST" => "/api/v1/shares/{share}/rescan",
        _ => "/api/v1/status",
    };
    match admit(Arc::clone(gate), request, Ends { local, remote }, Some(route)).await {
        Ok(_) => 200,
        Err((_, problem)) => problem.into_response().status().as_u16(),
    }
}

const HERE: &str = "127.0.0.1";
const THERE: &str = "192.0.2.9";
const LOCALHOST: (&str, &str) = ("host", "localhost");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a_request_from_here_must_name_this_machine() {
    let (_dir, gate) = gate();
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080"] {
        assert_eq!(verdict(&gate, "GET /x", &[("host", host)], HERE).await, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "192.0.2.2", "localhost.evil", "127.1.x"] {
        assert_eq!(verdict(&gate, "GET /x", &[("host", host)], HERE).await, 421, "{host}");
    }
    let twice = [LOCALHOST, LOCALHOST];
    for hosts in [&[][..], &twice, &[("host", "localhost:x")], &[("host", "localhost:99999")]] {
        assert_eq!(verdict(&gate, "GET /x", hosts, HERE).await, 400, "{hosts:?}");
    }
}

#[tokio::test]
async fn from_elsewhere_a_token_opens_and_nothing_else_does() {
    let (_dir, gate) = gate();
    let now = WallTime(1);
    let (read, _) = gate.tokens.create(Scope::Read, None, now).expect("made");
    let host = ("host", "nas.example");
    let right = format!("Bearer {read}");
    assert_eq!(verdict(&gate, "GET /x", &[host, ("authorization", &right)], THERE).await, 200);
    for header in ["", "Bearer", "Bearer ", "Basic YTpi", &read, &format!("{right}0")] {
        let shown = [host, ("authorization", header)];
        assert_eq!(verdict(&gate, "GET /x", &shown, "192.0.2.8").await, 401, "{header:?}");
    }
    assert_eq!(verdict(&gate, "GET /x", &[host], THERE).await, 401, "no token");
    assert_eq!(verdict(&gate, "GET /x", &[LOCALHOST], THERE).await, 401, "a host is no token");
    let twice = [host, ("authorization", right.as_str()), ("authorization", right.as_str())];
    assert_eq!(verdict(&gate, "GET /x", &twice, THERE).await, 401, "two are none");
    for name in FORWARDED {
        let passed_on = [LOCALHOST, (name, "192.0.2.9")];
        assert_eq!(verdict(&gate, "GET /x", &passed_on, HERE).await, 401, "{name}");
    }
    assert_eq!(verdict(&gate, "GET /x", &[LOCALHOST], "::ffff:127.0.0.1").await, 200);
}

#[tokio::test]
async fn ten_wrong_tokens_close_the_ears_for_right_ones_too() {
    let (_dir, gate) = gate();
    let (token, _) = gate.tokens.create(Scope::Admin, None, WallTime(1)).expect("made");
    let right = format!("Bearer {token}");
    for _ in 0..10 {
        let wrong = [("authorization", "Bearer hw_0_0")];
        assert_eq!(verdict(&gate, "GET /x", &wrong, THERE).await, 401);
    }
    let right = [("authorization", right.as_str())];
    assert_eq!(verdict(&gate, "GET /x", &right, THERE).await, 429);
    assert_eq!(verdict(&gate, "GET /x", &right, "192.0.2.8").await, 200, "others are heard");
}

#[tokio::test]
async fn a_page_of_another_origin_asks_nothing() {
    let (_dir, gate) = gate();
    let post = "POST /x";
    for (origin, expected) in [
        ("http://localhost", 200),
        ("https://localhost", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
    ] {
        let headers = [LOCALHOST, JSON, ("origin", origin)];
        assert_eq!(verdict(&gate, post, &headers, HERE).await, expected, "{origin}");
    }
    for (site, expected) in
        [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("x", 403)]
    {
        let headers = [LOCALHOST, JSON, ("sec-fetch-site", site)];
        assert_eq!(verdict(&gate, post, &headers, HERE).await, expected, "{site}");
    }
    let cookie = [LOCALHOST, JSON, ("cookie", "a=b")];
    assert_eq!(verdict(&gate, post, &cookie, HERE).await, 403, "a cookie without an origin");
}

#[tokio::test]
async fn what_changes_something_is_json_by_a_plain_post() {
    let (_dir, gate) = gate();
    for (kind, expected) in [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 415),
        ("application/jsonx", 415),
    ] {
        let headers = [LOCALHOST, ("content-type", kind)];
        assert_eq!(verdict(&gate, "POST /x", &headers, HERE).await, expected, "{kind}");
    }
    assert_eq!(verdict(&gate, "POST /x", &[LOCALHOST], HERE).await, 415, "no kind");
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let line = format!("{method} /x");
        assert_eq!(verdict(&gate, &line, &[LOCALHOST, JSON], HERE).await, 405, "{method}");
    }
    for name in METHOD_OVERRIDES {
        let headers = [LOCALHOST, JSON, (name, "DELETE")];
        assert_eq!(verdict(&gate, "POST /x", &headers, HERE).await, 405, "{name}");
    }
    assert_eq!(verdict(&gate, "HEAD /x", &[LOCALHOST], HERE).await, 200);
}

#[tokio::test]
async fn a_path_means_one_thing_and_a_query_holds_no_token() {
    let (_dir, gate) = gate();
    let long = format!("GET /{}", "a".repeat(URI_BYTES_MAX));
    for (line, expected) in [
        ("GET /a/b%20c/%C3%A9", 200),
        ("GET /a%00", 400),
        ("GET /a%0a", 400),
        ("GET /%c0%af", 400),
        ("GET /%ff", 400),
        ("GET /a%2fb", 400),
        ("GET /%2e%2e/a", 400),
        ("GET /a/../b", 400),
        ("GET /./a", 400),
        ("GET //a", 400),
        ("GET /a/", 400),
        ("GET /a%5cb", 400),
        ("GET /%252e%252e/a", 400),
        ("GET /%zz", 400),
        ("GET /%", 400),
        ("GET /a?token=x", 400),
        ("GET /a?x=1&ACCESS_TOKEN=x", 400),
        ("GET /a?tokens=x", 200),
        (&long, 414),
    ] {
        assert_eq!(verdict(&gate, line, &[LOCALHOST], HERE).await, expected, "{line}");
    }
}
