//! When the certificate of an https receiver ends.
//!
//! A call shows it, but calls are seldom: nobody is told anything for months while nothing is wrong,
//! and the day on which something is wrong would be the day on which the certificate is found to have
//! expired. So it is looked at apart from calls, by a handshake after which nothing is sent.
//!
//! The receiver is verified as for a call. A date counts only if the certificate is good otherwise;
//! what somebody else shows in the receiver's place says nothing about the receiver.

use std::sync::{Arc, Mutex, PoisonError};

use highwater::config::Endpoint;
use highwater::report::parse_rfc3339;
use highwater_core::WallTime;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{CALL_WAIT, CallError, Caller, provider, roots};

/// Tags of DER that lie on the way to the date.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Caller {
    /// When the certificate of `to` ends, or has ended.
    ///
    /// # Errors
    /// When it was not seen in time, or is not good for another reason.
    pub(crate) async fn certificate_end(&self, to: &Endpoint) -> Result<WallTime, CallError> {
        let look = async {
            let stream = self.connect(to).await?;
            let (ca_file, noted) = (self.ca_file.clone(), Noted::default());
            let kept = noted.clone();
            let config = tokio::task::spawn_blocking(move || watched(ca_file.as_deref(), kept));
            let config = config.await.map_err(|_| CallError::Unreachable)??;
            let name = ServerName::try_from(to.host.clone()).map_err(|_| CallError::Untrusted)?;
            // Whether it comes about does not matter: with an expired certificate it cannot.
            let _ = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            noted.take().ok_or(CallError::Untrusted)
        };
        timeout(CALL_WAIT, look).await.unwrap_or(Err(CallError::Unreachable))
    }
}

/// The end that a verifier has seen.
#[derive(Clone, Debug, Default)]
struct Noted(Arc<Mutex<Option<WallTime>>>);

impl Noted {
    fn note(&self, end: Option<WallTime>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    fn take(&self) -> Option<WallTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a receiver is verified with while its dates are noted.
fn watched(ca_file: Option<&std::path::Path>, noted: Noted) -> Result<ClientConfig, CallError> {
    let (roots, provider) = (Arc::new(roots(ca_file)?), provider());
    let unusable = |error: String| CallError::NoRoots(error);
    let judge = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let judge = judge.build().map_err(|error| unusable(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?;
    let watching = Watching { judge, noted };
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(watching))
        .with_no_client_auth())
}

/// Judges as `judge` does, and notes until when.
#[derive(Debug)]
struct Watching {
    judge: Arc<WebPkiServerVerifier>,
    noted: Noted,
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.judge.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let counts = match &verdict {
            Ok(_) => true,
            Err(Error::InvalidCertificate(why)) => {
                matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. })
            }
            Err(_) => false,
        };
        self.noted.note(end_of(certificate).filter(|_| counts));
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// The end of an X.509 certificate's validity (RFC 5280, 4.1); `None` of what is none, and of dates
/// before 1970.
fn end_of(certificate: &[u8]) -> Option<WallTime> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = any(rest)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = any(rest)?.2;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (tag, text, _) = any(any(validity)?.2)?;
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            // Two digits reach from 1950 to 2049.
            let century = if year < "50" { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.to_owned(), rest)
        }
        _ => return None,
    };
    let [month, day, hour, minute, second] =
        [0, 2, 4, 6, 8].map(|at| rest.get(at..at + 2).unwrap_or_default());
    if rest.get(10..) != Some("Z") {
        return None;
    }
    parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

/// The content of an element that must have this tag, and what follows it.
fn element(bytes: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    any(bytes).filter(|(tag, ..)| *tag == expected).map(|(_, content, rest)| (content, rest))
}

/// The tag and content of the first element, and what follows it.
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate is shorter than 16 MiB: at most three bytes of length.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use highwater::report::rfc3339;

    use super::*;

    fn ending(year: i32, month: u8, day: u8) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["example".to_owned()]).expect("names");
        params.not_after = rcgen::date_time_ymd(year, month, day);
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_ways_of_writing_it() {
        for (year, month, day, expected) in [
            (2027, 1, 31, "2027-01-31T00:00:00.000Z"),
            (2049, 12, 31, "2049-12-31T00:00:00.000Z"),
            (2050, 1, 1, "2050-01-01T00:00:00.000Z"),
            (4096, 1, 1, "4096-01-01T00:00:00.000Z"),
            (1999, 6, 1, "1999-06-01T00:00:00.000Z"),
        ] {
            let end = end_of(&ending(year, month, day)).map(rfc3339);
            assert_eq!(end.as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end_wherever_it_is_cut_or_altered() {
        let whole = ending(2027, 1, 31);
        let body = whole.len() / 2;
        for length in 0..body {
            assert_eq!(end_of(&whole[..length]), None, "cut at {length}");
        }
        for place in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut altered = whole.clone();
                altered[place] = byte;
                // It may still have an end, and another one; it must not bring anything down.
                let _ = end_of(&altered);
            }
        }
    }
}
