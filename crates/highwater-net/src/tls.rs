//! Who may speak: TLS 1.3 with pinned keys on both sides.
//!
//! A certificate counts for the key inside it and for nothing else: no authority, no names, no
//! dates. The dialling side accepts exactly the node that it meant to reach, the accepting side
//! exactly its peers. The handshake's signature is really verified, so that a certificate alone,
//! which anyone can copy, proves nothing. Sessions are never resumed: resumption would skip the
//! check, and a removed peer would come back.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use highwater_core::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
};

use crate::identity::Identity;

/// The one application protocol: HTTP/2, under gRPC.
const ALPN: &[u8] = b"h2";

/// Whose connections are accepted. Shared by the handshake and by every request after it.
#[derive(Debug, Default)]
pub(crate) struct Pins(RwLock<BTreeSet<NodeId>>);

impl Pins {
    pub(crate) fn contains(&self, id: &NodeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    pub(crate) fn insert(&self, id: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    pub(crate) fn remove(&self, id: &NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// The other side proved to be a node, but not one that may be here.
#[derive(Debug, thiserror::Error)]
#[error("the other side is node {0}")]
pub(crate) struct UnexpectedNode(pub(crate) NodeId);

/// The accepting side's TLS configuration.
pub(crate) fn server_config(
    identity: &Identity,
    pins: Arc<Pins>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    let verifier = PinnedPeers { pins, provider: provider.clone() };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![identity.certificate()], identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The dialling side's TLS configuration for one peer.
pub(crate) fn client_config(
    identity: &Identity,
    expected: NodeId,
) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let verifier = PinnedServer { expected, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The node that a certificate belongs to, if whoever presents it holds its key.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(NodeId::of_public_key(parsed.subject_public_key_info().as_ref()))
}

/// The node that a handshake's failure found instead of the expected one.
pub(crate) fn unexpected_node(error: &std::io::Error) -> Option<NodeId> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<UnexpectedNode>().map(|unexpected| unexpected.0)
        }
        _ => None,
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The node behind a chain of exactly one certificate.
fn sole_node(
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<NodeId, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    if !intermediates.is_empty() {
        return Err(bad());
    }
    node_of(certificate).ok_or_else(bad)
}

fn refuse(node: NodeId) -> rustls::Error {
    let unexpected = OtherError(Arc::new(UnexpectedNode(node)));
    rustls::Error::InvalidCertificate(CertificateError::Other(unexpected))
}

struct PinnedServer {
    expected: NodeId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let node = sole_node(certificate, intermediates)?;
        if node == self.expected { Ok(ServerCertVerified::assertion()) } else { Err(refuse(node)) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for PinnedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedServer").field(&self.expected).finish()
    }
}

struct PinnedPeers {
    pins: Arc<Pins>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for PinnedPeers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let node = sole_node(certificate, intermediates)?;
        if self.pins.contains(&node) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(refuse(node))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for PinnedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedPeers").field(&self.pins).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConnection, ServerConnection};

    fn identity() -> Identity {
        let home = tempfile::tempdir().expect("temporary directory");
        Identity::create(home.path()).expect("identity")
    }

    fn pins(ids: &[NodeId]) -> Arc<Pins> {
        let pins = Arc::new(Pins::default());
        ids.iter().for_each(|id| pins.insert(*id));
        pins
    }

    /// `victim`'s certificate with `thief`'s key.
    fn stolen(victim: &Identity, thief: &Identity) -> Arc<SingleCertAndKey> {
        let key = provider().key_provider.load_private_key(thief.private_key()).expect("key");
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![victim.certificate()], key)))
    }

    /// Plays the handshake until both sides are content or one is not.
    fn shake(client: ClientConfig, server: ServerConfig) -> Result<(), rustls::Error> {
        let name = ServerName::try_from("highwater.invalid").expect("name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("to memory");
            server.read_tls(&mut bytes.as_slice()).expect("from memory");
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).expect("to memory");
            client.read_tls(&mut bytes.as_slice()).expect("from memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn two_peers_shake_hands_and_nobody_else_does() {
        let (a, b, stranger) = (identity(), identity(), identity());
        let server = || server_config(&b, pins(&[a.node_id()])).expect("server");
        let client = |who, whom| client_config(who, whom).expect("client");
        shake(client(&a, b.node_id()), server()).expect("peers");
        assert!(shake(client(&a, stranger.node_id()), server()).is_err(), "another node answers");
        assert!(shake(client(&stranger, b.node_id()), server()).is_err(), "a stranger dials");
    }

    #[test]
    fn a_copied_certificate_without_its_key_proves_nothing() {
        let (a, b, thief) = (identity(), identity(), identity());
        let server = || server_config(&b, pins(&[a.node_id()])).expect("server");
        let client = || client_config(&a, b.node_id()).expect("client");

        let mut posing_as_a = client();
        posing_as_a.client_auth_cert_resolver = stolen(&a, &thief);
        let refused = shake(posing_as_a, server());
        assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))), "{refused:?}");

        let mut posing_as_b = server();
        posing_as_b.cert_resolver = stolen(&b, &thief);
        let refused = shake(client(), posing_as_b);
        assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))), "{refused:?}");
    }

    #[test]
    fn a_client_without_a_certificate_is_refused() {
        let (a, b) = (identity(), identity());
        let server = server_config(&b, pins(&[a.node_id()])).expect("server");
        let mut client = client_config(&a, b.node_id()).expect("client");
        client.client_auth_cert_resolver = Arc::new(NoCertificate);
        assert_eq!(shake(client, server), Err(rustls::Error::NoCertificatesPresented));
    }

    #[derive(Debug)]
    struct NoCertificate;

    impl rustls::client::ResolvesClientCert for NoCertificate {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }

        fn has_certs(&self) -> bool {
            false
        }
    }
}
