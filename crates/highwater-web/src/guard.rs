//! Who may ask, and how: looked at before any route is.
//!
//! A web page from anywhere can make a browser on this machine send requests to this machine, under
//! a name of its own that it lets point here. Such a request carries that name as its host, so one
//! that does not name this machine is refused.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{Extension, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// The two ends of the connection that a request came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// An answer is put together from memory; one that takes longer waits for something broken.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Passes a request on if it may be asked, and answers in time.
pub(crate) async fn guard(
    Extension(ends): Extension<Ends>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(problem) = judge(&request, ends) {
        return sealed(problem.into_response());
    }
    match tokio::time::timeout(ANSWER_WAIT, next.run(request)).await {
        Ok(response) => sealed(response),
        Err(_) => {
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "the node is too busy");
            sealed(problem.into_response())
        }
    }
}

fn judge(request: &Request, ends: Ends) -> Result<(), Problem> {
    let begins_check =
        *request.method() == Method::POST && request.uri().path() == "/api/v1/checks";
    if !begins_check && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let detail = "this API only tells; use the highwater command to change something";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let host = host(request.headers())?;
    if !names_this_machine(host, ends.local.ip()) {
        let detail = "the Host header does not name this machine; use its address or localhost";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let path = request.uri().path();
    let health = path == "/health" || path.starts_with("/health/");
    if !health && !ends.remote.ip().to_canonical().is_loopback() {
        let detail = "only the health checks are told to other machines in this version";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// The host that the one `Host` header names, without its port.
fn host(headers: &HeaderMap) -> Result<&str, Problem> {
    let bad = || Problem::new(StatusCode::BAD_REQUEST, "send exactly one valid Host header");
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return Err(bad()) };
    let host = host.to_str().map_err(|_| bad())?;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    port.parse::<u16>().map_err(|_| bad())?;
    Ok(name)
}

fn names_this_machine(host: &str, local: IpAddr) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback() || ip.to_canonical() == local.to_canonical())
}

/// What every answer says: it is not to be guessed at, nor kept.
fn sealed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn verdict(method: &str, path: &str, hosts: &[&str], remote: &str) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(Body::empty()).expect("request");
        let local = "192.0.2.1:8080".parse().expect("addr");
        let remote = SocketAddr::new(remote.parse().expect("ip"), 5000);
        match judge(&request, Ends { local, remote }) {
            Ok(()) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[test]
    fn a_request_must_name_this_machine() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080"] {
            assert_eq!(verdict("GET", "/", &[host], "127.0.0.1"), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "192.0.2.2", "localhost.evil", "127.1.x"]
        {
            assert_eq!(verdict("GET", "/", &[host], "127.0.0.1"), 421, "{host}");
        }
        for hosts in [&[][..], &["localhost", "localhost"], &["localhost:x"], &["localhost:99999"]]
        {
            assert_eq!(verdict("GET", "/", hosts, "127.0.0.1"), 400, "{hosts:?}");
        }
    }

    #[test]
    fn another_machine_is_told_only_the_health() {
        for path in ["/health", "/health/live", "/health/ready"] {
            assert_eq!(verdict("GET", path, &["192.0.2.1"], "192.0.2.9"), 200, "{path}");
        }
        for path in ["/api/v1/status", "/", "/healthy", "/api/v1/../../health/live"] {
            assert_eq!(verdict("GET", path, &["192.0.2.1"], "192.0.2.9"), 403, "{path}");
        }
        assert_eq!(verdict("GET", "/api/v1/status", &["localhost"], "::ffff:127.0.0.1"), 200);
    }

    #[test]
    fn nothing_but_reading_is_allowed() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
            assert_eq!(verdict(method, "/health", &["localhost"], "127.0.0.1"), 405, "{method}");
        }
        assert_eq!(verdict("HEAD", "/health", &["localhost"], "127.0.0.1"), 200);
    }
}
