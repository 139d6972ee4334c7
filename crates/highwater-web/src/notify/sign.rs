//! Signatures of what is posted to a webhook.
//!
//! ```text
//! Highwater-Id: ID
//! Highwater-Signature: t=SECONDS,v1=HEX
//! ```
//! `HEX` is the HMAC-SHA256 of `SECONDS.ID.BODY` under the secret. The time keeps an old one from
//! being replayed, the id tells one that is posted twice.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use highwater::Home;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// Shortest secret that is taken: what is shorter can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// Longest secret that is read.
const SECRET_BYTES_MAX: u64 = 4096;

/// The secret in `file`; without one, that of the home, which is made when it is first needed.
///
/// # Errors
/// When it cannot be read or made, or is too short.
pub(super) fn secret(home: &Home, file: Option<&Path>) -> io::Result<Vec<u8>> {
    let own = home.dir().join("webhook.secret");
    let path = file.unwrap_or(&own);
    if file.is_none() && !own.exists() {
        make(&own)?;
    }
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_end(&mut text))
        .map_err(named)?;
    let secret = text.trim_ascii().to_vec();
    if secret.len() < SECRET_BYTES_MIN {
        let why = format!("a secret has at least {SECRET_BYTES_MIN} bytes");
        return Err(named(io::Error::other(why)));
    }
    Ok(secret)
}

fn make(path: &Path) -> io::Result<()> {
    let mut random = [0; 32];
    let nothing = |_| io::Error::other("the system gives no random numbers");
    SystemRandom::new().fill(&mut random).map_err(nothing)?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", hex(&random))?;
    file.sync_all()
}

/// The signature header for a body that is posted at `seconds` since 1970.
pub(super) fn header(secret: &[u8], seconds: u64, id: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{seconds}.{id}.").as_bytes());
    context.update(body);
    format!("t={seconds},v1={}", hex(context.sign().as_ref()))
}

/// A byte for waits that are not all alike. Without random numbers they are.
pub(super) fn random_byte() -> u8 {
    let mut byte = [128];
    let _ = SystemRandom::new().fill(&mut byte);
    byte[0]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256_of_time_id_and_body() {
        // From `printf '1700000000.id-1.{}' | openssl dgst -sha256 -hmac secret-of-16-bytes`.
        let expected = "88f3f7d59ecf324cfa4398769911298847ae8e51ae494f31c0f841db2213b7e2";
        let header = header(b"secret-of-16-bytes", 1_700_000_000, "id-1", b"{}");
        assert_eq!(header, format!("t=1700000000,v1={expected}"));
    }

    #[test]
    fn the_secret_is_made_once_for_its_owner_alone_and_a_weak_one_is_refused() {
        let dir = tempfile::tempdir().expect("scratch");
        let home = Home::at(dir.path());
        let made = secret(&home, None).expect("made");
        assert_eq!(made.len(), 64);
        assert_eq!(secret(&home, None).expect("read"), made);
        let mode = fs::metadata(dir.path().join("webhook.secret")).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        let weak = dir.path().join("weak");
        fs::write(&weak, "short\n").expect("written");
        let refused = secret(&home, Some(&weak)).expect_err("weak").to_string();
        assert!(refused.contains("weak") && refused.contains("16 bytes"), "{refused}");
    }
}
