//! A receiver of alerts over https, whose certificate can be replaced by one that ends at another time.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Longest wait for a byte of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is shown to the next who connects.
type Shown = Arc<Mutex<Option<Arc<ServerConfig>>>>;

/// The receiver; it serves as long as the test's process.
pub(crate) struct SecureReceiver {
    pub(crate) port: u16,
    /// The authority that its certificates are signed by.
    pub(crate) ca_file: PathBuf,
    authority: Issuer<'static, KeyPair>,
    shown: Shown,
}

impl SecureReceiver {
    /// Listens; it shows nothing until it is told what.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let ca_file = dir.join("authority.pem");
        fs::write(&ca_file, params.self_signed(&key)?.pem())?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (port, shown) = (listener.local_addr()?.port(), Shown::default());
        let showing = Arc::clone(&shown);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = showing.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(config) = config {
                    thread::spawn(move || serve(stream, config));
                }
            }
        });
        Ok(Self { port, ca_file, authority: Issuer::new(params, key), shown })
    }

    /// Shows a certificate from now on that ends in so many seconds, or ended so many ago.
    pub(crate) fn show(&self, seconds: i64) -> Result<()> {
        let now = SystemTime::now();
        let length = Duration::from_secs(seconds.unsigned_abs());
        let end = if seconds < 0 { now - length } else { now + length };
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.not_before = (end - Duration::from_secs(365 * 86_400)).into();
        params.not_after = end.into();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).ok().context("a key")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }
}

fn serve(stream: std::net::TcpStream, config: Arc<ServerConfig>) {
    let Ok(connection) = ServerConnection::new(config) else { return };
    // Whoever does not trust the certificate hangs up.
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut stream = StreamOwned::new(connection, stream);
    let mut request = [0; 16 * 1024];
    if stream.read(&mut request).is_ok_and(|length| length > 0) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }
}
