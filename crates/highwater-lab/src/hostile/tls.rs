//! The hostile side's TLS: any certificate, any key, no questions about the other side.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection on which TLS stands.
pub(super) type Secure = TlsStream<TcpStream>;

/// What the hostile side presents: certificates, and a key that need not belong to them.
#[derive(Clone, Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

impl Credentials {
    /// Those of the node in this home, a good peer's.
    pub fn of_home(home: &Path) -> Result<Self> {
        let identity = home.join("identity");
        let certificate = CertificateDer::from_pem_file(identity.join("cert.pem"))
            .context("reading the certificate of a home")?;
        let key = PrivateKeyDer::from_pem_file(identity.join("key.pem"))
            .context("reading the key of a home")?;
        let key = ring::sign::any_supported_type(&key).context("using the key of a home")?;
        Ok(Self { chain: vec![certificate], key })
    }

    /// Another's certificate with this one's key: what a thief of certificates has.
    #[must_use]
    pub fn posing_as(&self, other: &Credentials) -> Self {
        Self { chain: other.chain.clone(), key: Arc::clone(&self.key) }
    }

    /// The own certificate, and another's behind it.
    #[must_use]
    pub fn with_a_second(&self, other: &Credentials) -> Self {
        let chain = self.chain.iter().chain(&other.chain).cloned().collect();
        Self { chain, key: Arc::clone(&self.key) }
    }

    /// The public half of the key: 32 bytes.
    pub fn public_key(&self) -> Result<Vec<u8>> {
        let spki = self.key.public_key().context("the key has no public half")?;
        let bytes = spki.as_ref();
        Ok(bytes[bytes.len().saturating_sub(32)..].to_vec())
    }

    /// Something that is no certificate, with this key.
    #[must_use]
    pub fn with_certificate(&self, der: Vec<u8>) -> Self {
        Self { chain: vec![CertificateDer::from(der)], key: Arc::clone(&self.key) }
    }
}

/// Shakes hands with whoever listens at `addr`. In TLS 1.3 this side finishes first: that it was
/// refused, it learns with the first byte that it reads.
pub(super) async fn secure(
    addr: SocketAddr,
    credentials: Option<&Credentials>,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Secure> {
    let tcp = TcpStream::connect(addr).await.with_context(|| format!("connecting to {addr}"))?;
    tcp.set_nodelay(true)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_cert_resolver(Arc::new(Presented(credentials.cloned())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.enable_sni = false;
    let name = ServerName::from(addr.ip());
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("shaking hands")
}

#[derive(Debug)]
struct Presented(Option<Credentials>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let Credentials { chain, key } = self.0.clone()?;
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Takes any server for the right one.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
