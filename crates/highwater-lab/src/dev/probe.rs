//! Measured probes of a link: how long the listening node takes to answer on the route that the
//! link takes.
//!
//! A probe opens a connection to the sync address, sends the first message of a TLS handshake and
//! waits for the first byte of the answer: that byte has been through the whole route and comes
//! from the node itself, not from a kernel or a proxy on the way. Then it hangs up. Nothing more is
//! asked: a probe needs no identity, and disturbs no link that stands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde::Serialize;

/// Probes of one link.
pub(super) const PROBES: usize = 10;
/// Longest wait for one answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// What came of the probes of one link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkProbes {
    /// Who dials.
    pub from: String,
    /// Who listens.
    pub to: String,
    /// What was dialled.
    pub addr: SocketAddr,
    /// From the question to the first byte of the answer, in milliseconds, one for each probe that
    /// was answered.
    pub round_trips_ms: Vec<f64>,
    /// Why others were not, a sentence each.
    pub failures: Vec<String>,
}

impl LinkProbes {
    /// Probes the link from `from` to `to`, which listens at `addr`.
    pub(super) fn measure(from: &str, to: &str, addr: SocketAddr) -> Self {
        let mut probes = Self {
            from: from.to_owned(),
            to: to.to_owned(),
            addr,
            round_trips_ms: Vec::new(),
            failures: Vec::new(),
        };
        for _ in 0..PROBES {
            match probe(addr) {
                Ok(took) => probes.round_trips_ms.push(took.as_secs_f64() * 1000.0),
                Err(error) => probes.failures.push(format!("{error:#}")),
            }
        }
        probes
    }

    /// Whether every probe was answered.
    pub fn all_answered(&self) -> bool {
        self.round_trips_ms.len() == PROBES
    }

    /// The shortest, the middle and the longest answer, in milliseconds.
    pub fn spread_ms(&self) -> Option<[f64; 3]> {
        let mut sorted = self.round_trips_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = *sorted.get(sorted.len() / 2)?;
        Some([*sorted.first()?, middle, *sorted.last()?])
    }
}

fn probe(addr: SocketAddr) -> Result<Duration> {
    let mut stream = TcpStream::connect_timeout(&addr, PROBE_PATIENCE)
        .with_context(|| format!("connecting to {addr}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PROBE_PATIENCE))?;
    let greeting = greeting(addr)?;
    let asked = Instant::now();
    stream.write_all(&greeting).with_context(|| format!("greeting {addr}"))?;
    let mut first = [0];
    let length = stream.read(&mut first).with_context(|| format!("no answer from {addr}"))?;
    ensure!(length == 1, "{addr} hung up without an answer");
    Ok(asked.elapsed())
}

/// The first message of a TLS handshake. The answer is not gone into, so it trusts nobody.
fn greeting(addr: SocketAddr) -> Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), ServerName::from(addr.ip()))?;
    let mut greeting = Vec::new();
    client.write_tls(&mut greeting)?;
    Ok(greeting)
}
