//! Calls that this node makes of its own accord: one POST, to where its owner said, and nowhere else.
//!
//! A URL may name anything; what counts is the address that its name leads to now. One that is not
//! public is called only if the owner allows its network, and this node's own ports never. The
//! connection goes to the very address that was judged. A redirect is an answer like any other and
//! is not followed. Of the answer only its status is read, within a time; why a call failed is told
//! in words that do not say what listens where.

mod expiry;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, header};
use highwater::config::{Endpoint, Network};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For a connection to be made.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// For all of a call.
const CALL_WAIT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 3;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;
/// Where systems keep the certificates that they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Why a call came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CallError {
    /// The owner has not allowed the network that it leads into.
    Forbidden,
    /// Nobody answered, whatever the reason.
    Unreachable,
    /// The receiver did not prove its name.
    Untrusted,
    /// There are no certificates to prove it by.
    NoRoots(String),
    /// It answered with something else than success.
    Refused(StatusCode),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Forbidden => f.write_str(
                "it leads to an address that is not public; [alerts] allow names networks that may \
                 be called all the same",
            ),
            CallError::Unreachable => f.write_str("there was no answer in time"),
            CallError::Untrusted => f.write_str(
                "it did not prove its name; [alerts] ca_file names certificates to trust",
            ),
            CallError::NoRoots(why) => write!(f, "no certificates to verify it with: {why}"),
            CallError::Refused(status) => write!(f, "it answered {}", status.as_u16()),
        }
    }
}

/// Where calls may lead.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Networks that are not public and may be called.
    pub(crate) allow: Vec<Network>,
    /// This node's own ports.
    pub(crate) own: Vec<SocketAddr>,
    /// Certificates to trust, instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
}

impl Caller {
    /// Posts JSON, with more headers if need be.
    ///
    /// # Errors
    /// Whatever is not success, in time.
    pub(crate) async fn post(
        &self,
        to: &Endpoint,
        headers: &[(&str, String)],
        body: String,
    ) -> Result<(), CallError> {
        let call = async {
            let stream = self.connect(to).await?;
            if !to.https {
                return exchange(stream, to, headers, body).await;
            }
            let roots = self.ca_file.clone();
            let config = tokio::task::spawn_blocking(move || tls(roots.as_deref()));
            let config = config.await.map_err(|_| CallError::Unreachable)??;
            let name = ServerName::try_from(to.host.clone()).map_err(|_| CallError::Untrusted)?;
            let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            exchange(secured.map_err(|e| untrusted(&e))?, to, headers, body).await
        };
        timeout(CALL_WAIT, call).await.unwrap_or(Err(CallError::Unreachable))
    }

    /// Connects to an address of the host that may be called.
    async fn connect(&self, to: &Endpoint) -> Result<TcpStream, CallError> {
        let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
        let found: Vec<SocketAddr> = found.map_err(|_| CallError::Unreachable)?.collect();
        let allowed: Vec<SocketAddr> =
            found.into_iter().filter(|addr| self.may_call(*addr)).take(ADDRESSES_MAX).collect();
        if allowed.is_empty() {
            return Err(CallError::Forbidden);
        }
        for addr in allowed {
            if let Ok(Ok(stream)) = timeout(CONNECT_WAIT, TcpStream::connect(addr)).await {
                return Ok(stream);
            }
        }
        Err(CallError::Unreachable)
    }

    fn may_call(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        let here = |own: &SocketAddr| {
            own.port() == addr.port()
                && (ip.is_loopback() || ip.is_unspecified() || own.ip().to_canonical() == ip)
        };
        let allowed = Network::is_public(ip) || self.allow.iter().any(|net| net.contains(ip));
        allowed && !self.own.iter().any(here)
    }
}

/// One request and the status of its answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    to: &Endpoint,
    headers: &[(&str, String)],
    body: String,
) -> Result<(), CallError> {
    let handshake = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| CallError::Unreachable)?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(&to.path)
        .header(header::HOST, to.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("highwater/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(body).map_err(|_| CallError::Unreachable)?;
    let answered = async { sender.send_request(request).await };
    tokio::pin!(answered);
    tokio::pin!(connection);
    // The connection is driven until the head of the answer is there, and dropped with its body.
    let status = tokio::select! {
        answer = &mut answered => answer.map_err(|_| CallError::Unreachable)?.status(),
        _ = &mut connection => {
            answered.await.map_err(|_| CallError::Unreachable)?.status()
        }
    };
    if status.is_success() { Ok(()) } else { Err(CallError::Refused(status)) }
}

fn untrusted(error: &io::Error) -> CallError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => CallError::Untrusted,
        _ => CallError::Unreachable,
    }
}

/// What https receivers are verified with.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, CallError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| CallError::NoRoots(e.to_string()))?;
    Ok(config.with_root_certificates(roots(ca_file)?).with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates that others are verified by: those of `ca_file`, else the system's.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, CallError> {
    let system = || SYSTEM_ROOTS.into_iter().map(Path::new).find(|path| path.is_file());
    let nowhere = || CallError::NoRoots("this system has none where it is usual".to_owned());
    let path = ca_file.or_else(system).ok_or_else(nowhere)?;
    let unusable = |why: String| CallError::NoRoots(format!("{}: {why}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| unusable(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    // A system's bundle may hold some that this library cannot read; the others count.
    roots.add_parsable_certificates(certificates.flatten());
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
