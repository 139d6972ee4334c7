//! Who may ask, and how: looked at before any handler is.
//!
//! - *Where from.* Being on this machine opens everything; from elsewhere a token does, and the
//!   health checks are open. A request that a proxy has passed on comes from elsewhere.
//! - *By whose hand.* A web page from anywhere can make a browser on this machine send requests to
//!   this machine, under a name of its own that it lets point here. So a request without a token
//!   has to name this machine as its host, none may come from a page of another origin, and what
//!   changes something has to be JSON, which such a page cannot send unasked.
//! - *How.* Paths are read once, by strict rules; bodies come only where they are wanted, with a
//!   limit of size and time.
//!
//! A refusal says the same whatever was wrong with a token, and nothing of what there is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use highwater::tokens::{Scope, Tokens};
use highwater_core::WallTime;

use crate::figures::{Figures, Reason};
use crate::problem::Problem;
use crate::routes::{self, Access, Verb};
use crate::seat::Seat;
use crate::throttle::Throttle;

/// The two ends of the connection that a request came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What requests are judged by.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) tokens: Tokens,
    pub(crate) throttle: Throttle,
    pub(crate) figures: Arc<Figures>,
    last_request: AtomicU64,
}

/// A refusal, and why for those who count.
type Refusal = (Reason, Problem);

/// An answer is put together from memory; one that takes longer waits for something broken.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long a body may take to arrive. The largest one takes a second at 64 kB/s.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// Longest body: what is changed here is named in a few words.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest path and query.
const URI_BYTES_MAX: usize = 2048;
/// Headers by which a request asks to be taken for another one.
const METHOD_OVERRIDES: [&str; 3] =
    ["x-http-method-override", "x-http-method", "x-method-override"];
/// Headers by which a proxy says that it passes on what somebody else asks.
const FORWARDED: [&str; 5] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
/// Names under which tokens are put into queries elsewhere. A query is logged and passed on.
const TOKEN_PARAMETERS: [&str; 4] = ["token", "access_token", "api_key", "authorization"];

impl Gate {
    pub(crate) fn new(tokens: Tokens, figures: Arc<Figures>) -> Self {
        let throttle = Throttle::default();
        Self { tokens, throttle, figures, last_request: AtomicU64::new(0) }
    }
}

/// Passes a request on if it may be asked, and answers in time.
pub(crate) async fn guard(
    State(gate): State<Arc<Gate>>,
    Extension(ends): Extension<Ends>,
    Extension(seat): Extension<Arc<Seat>>,
    request: Request,
    next: Next,
) -> Response {
    let _busy = seat.busy();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map(MatchedPath::as_str);
    let response = match admit(Arc::clone(&gate), request, ends, path).await {
        Ok(request) => answer(&gate, request, next).await,
        Err((reason, problem)) => {
            gate.figures.rejected(reason);
            problem.into_response()
        }
    };
    let kind = response.headers().get(header::CONTENT_TYPE);
    let follows = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let response = if follows && !seat.follow() {
        gate.figures.rejected(Reason::Followers);
        let detail = "as many as this node serves follow it already; end one of them";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(30).into_response()
    } else {
        response
    };
    gate.figures.answered(response.status().as_u16());
    sealed(response)
}

/// Runs the handler. One that fails by a bug takes nothing else with it, and says nothing of the
/// inside.
async fn answer(gate: &Gate, request: Request, next: Next) -> Response {
    let mut handler = tokio::spawn(next.run(request));
    match tokio::time::timeout(ANSWER_WAIT, &mut handler).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            let id = gate.last_request.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(request = id, "an HTTP handler ended by a bug");
            let detail = format!("a bug stood in the way; the log has more under request {id}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
        }
        Err(_) => {
            handler.abort();
            gate.figures.rejected(Reason::Late);
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "the node is too busy").into_response()
        }
    }
}

/// The request, with its body read, if it may be asked. `path` is the route that it matched.
async fn admit(
    gate: Arc<Gate>,
    request: Request,
    ends: Ends,
    path: Option<&str>,
) -> Result<Request, Refusal> {
    let verb = form(&request)?;
    let (access, known) = (routes::access(path, verb), routes::is_known(path, verb));
    let headers = request.headers();
    match bearer(headers)? {
        Some(token) => {
            let (token, remote) = (token.to_owned(), ends.remote.ip().to_canonical());
            let judged = move || show_token(&gate, &token, remote, access);
            tokio::task::spawn_blocking(judged).await.unwrap_or_else(|_| Err(unauthorised()))?;
        }
        None => {
            if access != Access::Open
                && (!ends.remote.ip().to_canonical().is_loopback()
                    || FORWARDED.iter().any(|name| headers.contains_key(*name)))
            {
                return Err(unauthorised());
            }
            demand_host(headers, ends)?;
        }
    }
    demand_same_origin(headers)?;
    if !known {
        // There is nothing to read a body for; what there is instead, the router says.
        return Ok(request.map(|_| Body::empty()));
    }
    with_body(request, verb).await
}

/// Whether the request is one at all: its method, its path, its query, its headers.
fn form(request: &Request) -> Result<Verb, Refusal> {
    let refuse = |reason, status, detail: &str| Err((reason, Problem::new(status, detail)));
    let headers = request.headers();
    let overridden = METHOD_OVERRIDES.iter().any(|name| headers.contains_key(*name));
    let verb = match *request.method() {
        Method::GET | Method::HEAD if !overridden => Verb::Get,
        Method::POST if !overridden => Verb::Post,
        _ => {
            let detail = "this API takes GET, HEAD and POST, as they are";
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail);
            return Err((Reason::Method, problem.allowing("GET, HEAD, POST")));
        }
    };
    if request.uri().to_string().len() > URI_BYTES_MAX {
        return refuse(Reason::Uri, StatusCode::URI_TOO_LONG, "the path is too long");
    }
    if !is_plain(request.uri()) {
        let detail = "a path is UTF-8 without control characters, dots as parts, or hidden slashes";
        return refuse(Reason::Uri, StatusCode::BAD_REQUEST, detail);
    }
    let query = request.uri().query().unwrap_or_default();
    let named = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let is_token = |name: &str| TOKEN_PARAMETERS.iter().any(|t| name.eq_ignore_ascii_case(t));
    if named.into_iter().any(is_token) {
        let detail = "a token in the address is seen by everyone on the way; send it as a header";
        return refuse(Reason::Query, StatusCode::BAD_REQUEST, detail);
    }
    let both = headers.contains_key(header::CONTENT_LENGTH)
        && headers.contains_key(header::TRANSFER_ENCODING);
    if both || headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        let detail = "say the length of the body once";
        return refuse(Reason::Headers, StatusCode::BAD_REQUEST, detail);
    }
    Ok(verb)
}

/// Whether a path means the same to everyone who reads it: decoded once, it is text without control
/// characters, no encoded slash or percent sign, no empty parts and no dots as parts.
fn is_plain(uri: &Uri) -> bool {
    let path = uri.path();
    let Some(parts) = path.strip_prefix('/') else { return false };
    parts.is_empty() || parts.split('/').all(|part| decoded(part).is_some_and(|p| is_name(&p)))
}

fn is_name(part: &str) -> bool {
    let forbidden = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%');
    !matches!(part, "" | "." | "..") && !part.contains(forbidden)
}

fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The token that the request carries, if it carries one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    match (shown.next(), shown.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let token = value.to_str().ok().and_then(|value| value.split_once(' '));
            let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            Ok(Some(token.map_or("", |(_, token)| token.trim())))
        }
        _ => Err(unauthorised()),
    }
}

fn show_token(gate: &Gate, token: &str, from: IpAddr, access: Access) -> Result<(), Refusal> {
    let now = Instant::now();
    if let Some(wait) = gate.throttle.wait(from, now) {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens");
        return Err((Reason::Throttled, problem.retry_after(wait.as_secs() + 1)));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let allowed = gate.tokens.allows(token, wall).unwrap_or_else(|e| {
        tracing::error!("cannot read the tokens: {e}; nobody is let in by one");
        None
    });
    match (allowed, access) {
        (None, _) => {
            gate.throttle.was_wrong(from, now);
            Err(unauthorised())
        }
        (Some(Scope::Read), Access::Token(Scope::Admin)) => {
            let detail = "this needs a token with the scope admin";
            Err((Reason::Scope, Problem::new(StatusCode::FORBIDDEN, detail)))
        }
        (Some(_), _) => Ok(()),
    }
}

fn unauthorised() -> Refusal {
    let detail = "send a valid token as `Authorization: Bearer TOKEN`; `highwater token create` \
                  on the node makes one";
    (Reason::Token, Problem::new(StatusCode::UNAUTHORIZED, detail))
}

/// Demands exactly one host that means this machine.
fn demand_host(headers: &HeaderMap, ends: Ends) -> Result<(), Refusal> {
    let bad = || {
        let detail = "send exactly one valid Host header";
        (Reason::Host, Problem::new(StatusCode::BAD_REQUEST, detail))
    };
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return Err(bad()) };
    let name = host_name(host.to_str().map_err(|_| bad())?).ok_or_else(bad)?;
    if names_this_machine(name, ends.local.ip()) {
        return Ok(());
    }
    let detail = "the Host header does not name this machine; use its address or localhost";
    Err((Reason::Host, Problem::new(StatusCode::MISDIRECTED_REQUEST, detail)))
}

/// A host without its port.
fn host_name(host: &str) -> Option<&str> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    port.parse::<u16>().ok().map(|_| name)
}

fn names_this_machine(host: &str, local: IpAddr) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback() || ip.to_canonical() == local.to_canonical())
}

/// Refuses what a page of another origin has made a browser send. A program sends neither header.
fn demand_same_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let foreign = || {
        let detail = "a page of another origin may not ask this";
        (Reason::Origin, Problem::new(StatusCode::FORBIDDEN, detail))
    };
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return Err(foreign());
    }
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let own = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let rest = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
    };
    let cookie = headers.contains_key(header::COOKIE);
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        // No cookie is ever set here; one without an origin is a form of another time.
        (None, _) if !cookie => Ok(()),
        (Some(origin), None) if own(origin) => Ok(()),
        _ => Err(foreign()),
    }
}

/// The request with its body in memory, if it has one and may have one.
async fn with_body(request: Request, verb: Verb) -> Result<Request, Refusal> {
    let (parts, body) = request.into_parts();
    if verb == Verb::Get {
        if !body.is_end_stream() {
            let problem = Problem::new(StatusCode::BAD_REQUEST, "what only asks has no body");
            return Err((Reason::Body, problem));
        }
        return Ok(Request::from_parts(parts, Body::empty()));
    }
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        let detail = "send JSON, as application/json; {} where there is nothing to say";
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
        return Err((Reason::MediaType, problem));
    }
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX);
    let bytes: Bytes = match tokio::time::timeout(BODY_WAIT, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a body has at most 64 KiB");
            return Err((Reason::Body, problem));
        }
        Err(_) => {
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long");
            return Err((Reason::Late, problem));
        }
    };
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// What every answer says: it is not to be guessed at, nor kept, nor shown inside another page.
fn sealed(mut response: Response) -> Response {
    let closes = matches!(
        response.status(),
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST
    );
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if closes {
        // What is left of the request cannot be told from the next one.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
