//! The HTTP requests that the lab makes: small, one to a connection, with a short patience.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Longest wait for a connection or an answer. A node on the same machine takes milliseconds; one
/// that is stopped must not hold up the test that stopped it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gets `path` from `addr` and returns the body of an answer that says it went well.
///
/// # Errors
/// Any other answer, or none.
pub fn get(addr: SocketAddr, path: &str) -> Result<Vec<u8>> {
    request(addr, "GET", path, "")
}

/// Posts a JSON document to `path` and returns the body of an answer that says it went well.
///
/// # Errors
/// Any other answer, or none.
pub fn post(addr: SocketAddr, path: &str, document: &serde_json::Value) -> Result<Vec<u8>> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)
        .with_context(|| format!("connecting to http://{addr}{path}"))?;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n");
    let answer = exchange(stream, &head, &document.to_string())
        .with_context(|| format!("POST http://{addr}{path}"))?;
    well(answer)
}

/// The status code of the answer of `addr` for `path`.
pub(crate) fn status(addr: SocketAddr, path: &str) -> Result<u16> {
    Ok(ask(addr, "GET", path, "")?.status)
}

/// Asks `addr` and returns the body of an answer that says it went well. Each of `headers` ends its line.
pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> Result<Vec<u8>> {
    well(ask(addr, method, path, headers)?).with_context(|| format!("{method} http://{addr}{path}"))
}

/// The body of an answer that says it went well.
fn well(Answer { status, body }: Answer) -> Result<Vec<u8>> {
    let said = || String::from_utf8_lossy(&body);
    ensure!((200..300).contains(&status), "answered {status}: {}", said());
    Ok(body)
}

/// What came back.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn ask(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Result<Answer> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)
        .with_context(|| format!("connecting to http://{addr}{path}"))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\n{headers}");
    exchange(stream, &head, "").with_context(|| format!("{method} http://{addr}{path}"))
}

fn exchange(mut stream: TcpStream, head: &str, body: &str) -> Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        bail!("the answer has no end of headers");
    };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.split_off(end + 4);
    let first = head.lines().next().unwrap_or_default();
    let code = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = code.with_context(|| format!("the answer begins with '{first}'"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Answer { status, body: if chunked { unchunk(&body)? } else { body } })
}

fn unchunk(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line =
            body.windows(2).position(|two| two == b"\r\n").context("a chunk has no length")?;
        let digits = std::str::from_utf8(&body[..line])?.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(digits.trim(), 16)?;
        if length == 0 {
            return Ok(whole);
        }
        let chunk = body.get(line + 2..line + 2 + length).context("a chunk is cut short")?;
        whole.extend_from_slice(chunk);
        body = body.get(line + 4 + length..).context("a chunk is cut short")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together() {
        let whole = unchunk(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").expect("valid chunks");
        assert_eq!(whole, b"abcde");
        assert!(unchunk(b"5\r\nabc").is_err());
    }
}
