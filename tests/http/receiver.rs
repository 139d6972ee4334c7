//! A receiver of webhooks that keeps what it was sent, and verifies it as a user's would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ring::hmac;
use serde_json::Value;

/// Longest wait for the next one.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that answers every request with the same status.
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    taken: mpsc::Receiver<Taken>,
}

/// What it was sent.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Receiver {
    /// Listens at `addr`, and answers with each of `statuses` in turn, and then with the last one.
    pub(crate) fn at(addr: SocketAddr, statuses: &'static [u16]) -> Receiver {
        let listener = TcpListener::bind(addr).expect("the port is free");
        let addr = listener.local_addr().expect("bound");
        let (sender, taken) = mpsc::channel();
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { continue };
                let Some(request) = read(&mut stream) else { continue };
                let status = statuses[index.min(statuses.len() - 1)];
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes());
                if (200..300).contains(&status) && sender.send(request).is_err() {
                    return;
                }
            }
        });
        Receiver { addr, taken }
    }

    /// The next one that was taken.
    pub(crate) fn next(&self) -> Taken {
        self.taken.recv_timeout(PATIENCE).expect("nothing was sent")
    }

    /// The next one that is taken within `patience`.
    pub(crate) fn within(&self, patience: Duration) -> Option<Taken> {
        self.taken.recv_timeout(patience).ok()
    }

    /// Whether nothing more has come by now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.taken.try_recv().is_err()
    }
}

fn read(stream: &mut impl Read) -> Option<Taken> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        all.extend_from_slice(&piece[..length]);
        let text = String::from_utf8(all.clone()).ok()?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(Taken { head: head.to_owned(), body: body.to_owned() });
        }
    }
}

impl Taken {
    pub(crate) fn header(&self, name: &str) -> &str {
        let named = |line: &'_ str| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value.len())
        };
        let line = self.head.lines().find(|line| named(line).is_some());
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Whether the signature is right for `secret`, as docs/operating.md says it is made.
    pub(crate) fn is_signed_with(&self, secret: &[u8]) -> bool {
        let Some((time, signature)) = self.header("highwater-signature").split_once(",v1=") else {
            return false;
        };
        let seconds = time.strip_prefix("t=").unwrap_or_default();
        let signed = format!("{seconds}.{}.{}", self.header("highwater-id"), self.body);
        let bytes: Option<Vec<u8>> = (0..signature.len() / 2)
            .map(|at| u8::from_str_radix(&signature[at * 2..at * 2 + 2], 16).ok())
            .collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        bytes.is_some_and(|bytes| hmac::verify(&key, signed.as_bytes(), &bytes).is_ok())
    }
}
