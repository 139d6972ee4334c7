//! HTTP/2 as bare frames, for what no library would send: floods, resets, broken rules.
//!
//! Source: RFC 9113, sections 4 and 6; header fields as literals without indexing (RFC 7541,
//! section 6.2.2), so that no compressor is needed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::task::JoinHandle;

use super::tls::{Credentials, Secure, secure};
use super::{runtime, step};

/// Frame types.
pub mod kind {
    /// Content.
    pub const DATA: u8 = 0;
    /// The begin of a header block.
    pub const HEADERS: u8 = 1;
    /// The end of a stream, by one side.
    pub const RST_STREAM: u8 = 3;
    /// Settings of a connection.
    pub const SETTINGS: u8 = 4;
    /// A probe.
    pub const PING: u8 = 6;
    /// The end of a connection.
    pub const GOAWAY: u8 = 7;
    /// Room for more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a header block.
    pub const CONTINUATION: u8 = 9;
}

/// The end of a header block.
pub const END_HEADERS: u8 = 4;
/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the victim has sent, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames in all.
    pub frames: u64,
    /// The error code of a GOAWAY.
    pub goaway: Option<u32>,
    /// Streams that were reset.
    pub resets: u64,
    /// Whether the connection has ended.
    pub ended: bool,
}

/// A connection that speaks frames.
#[derive(Debug)]
pub struct Raw {
    outgoing: WriteHalf<Secure>,
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
}

impl Raw {
    /// Connects, shakes hands, and sends the preface and empty settings.
    pub fn open(addr: SocketAddr, credentials: Option<&Credentials>) -> Result<Self> {
        let mut raw = step("opening a raw connection", async {
            let stream = secure(addr, credentials, &[b"h2"], &[&TLS13]).await?;
            let (incoming, outgoing) = split(stream);
            let seen = Arc::<Mutex<Seen>>::default();
            let reader = runtime()?.spawn(read_frames(incoming, Arc::clone(&seen)));
            Ok(Self { outgoing, seen, reader })
        })?;
        raw.write(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat())?;
        Ok(raw)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        step("writing", async {
            self.outgoing.write_all(bytes).await?;
            Ok(self.outgoing.flush().await?)
        })
    }

    /// What has been heard so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the victim has ended the connection.
    pub fn ended(&mut self) -> Result<Seen> {
        step("waiting for the end of a connection", async {
            (&mut self.reader).await.map_err(|error| anyhow!("the reader failed: {error}"))
        })?;
        Ok(self.seen())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_frames(mut incoming: ReadHalf<Secure>, seen: Arc<Mutex<Seen>>) {
    let mut head = [0; 9];
    let note = |change: &dyn Fn(&mut Seen)| {
        change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
    };
    while incoming.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if incoming.read_exact(&mut payload).await.is_err() {
            break;
        }
        let code = payload.get(4..8).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
        note(&|seen| {
            seen.frames += 1;
            match head[3] {
                kind::GOAWAY => seen.goaway = code,
                kind::RST_STREAM => seen.resets += 1,
                _ => {}
            }
        });
    }
    note(&|seen| seen.ended = true);
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a call of this method.
pub fn call_headers(method: &str) -> Vec<u8> {
    let path = format!("/highwater.v1.Sync/{method}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "victim"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

/// One header field as a literal that is never indexed.
pub fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x10][..], &text(name.as_bytes()), &text(value)].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut length = Vec::new();
    if bytes.len() < 127 {
        length.push(bytes.len() as u8);
    } else {
        length.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            length.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        length.push(rest as u8);
    }
    [&length[..], bytes].concat()
}
