//! Who this node is: one Ed25519 key, in `key.pem`, and a certificate around it, in `cert.pem`.
//!
//! The key is the identity: the node id is a hash of its public half. The certificate is only the
//! envelope in which TLS carries that half; it is self-signed, nobody reads its names or dates, and
//! it is made anew from the key when it is missing. The key is written once, readable by its owner
//! alone, and never overwritten: whoever loses it becomes another node.
//!
//! A crash while an identity is made leaves either no `key.pem`, or a whole one, or one that
//! [`Identity::load`] refuses with a sentence that says so.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use highwater_core::NodeId;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData, SigningKey};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "cert.pem";

/// Longest key file that is read, in bytes: an Ed25519 key in PEM has about 240.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// The key pair of this node, ready for TLS.
pub struct Identity {
    node_id: NodeId,
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is one already; it was left as it is.
    #[error(
        "cannot make an identity in {}: {KEY_FILE} exists there already; keep it, or choose another home", dir.display()
    )]
    Exists {
        /// The directory that holds it.
        dir: PathBuf,
    },
    /// There is none yet.
    #[error("no identity in {}: {KEY_FILE} is missing; make one with `highwater init`", dir.display())]
    Missing {
        /// The directory that was looked in.
        dir: PathBuf,
    },
    /// Others than its owner can get at the key.
    #[error(
        "the key {} can be read or written by others (mode {mode:o}); run `chmod 600` on it, and make a new identity if someone may have copied it", path.display()
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// In the place of the key stands a link: where it leads to, others may write.
    #[error("the key {} is a link, which is not followed; put the key itself there", path.display())]
    Link {
        /// Where the key should be.
        path: PathBuf,
    },
    /// The file does not hold a key.
    #[error(
        "{} is not a usable private key ({why}); restore it from a backup, or remove it and run `highwater init` to become a new node", path.display()
    )]
    NotAKey {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key could not be generated or the certificate not be signed.
    #[error("cannot make a certificate for this node: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The file system refused.
    #[error("cannot {doing} {}: {source}; check the disk and the permissions", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Identity {
    /// Makes a new identity in `dir`, durably, and the directory itself where it is missing.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if there is a key already, which is left untouched.
    pub fn create(dir: &Path) -> Result<Self, IdentityError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| io_error("create the directory", dir, source))?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        write_new(&dir.join(KEY_FILE), key.serialize_pem().as_bytes()).map_err(
            |error| match error {
                IdentityError::Io { source, .. }
                    if source.kind() == io::ErrorKind::AlreadyExists =>
                {
                    IdentityError::Exists { dir: dir.to_owned() }
                }
                other => other,
            },
        )?;
        sync_dir(dir)?;
        Self::with_key(dir, key)
    }

    /// Loads the identity in `dir`.
    ///
    /// # Errors
    /// When the key is missing, damaged, or open to others than its owner.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(KEY_FILE);
        let pem = read_private(dir, &path)?;
        let not_a_key = |why: String| IdentityError::NotAKey { path: path.clone(), why };
        let key = KeyPair::from_pem(&pem).map_err(|error| not_a_key(error.to_string()))?;
        if !key.is_compatible(&rcgen::PKCS_ED25519) {
            return Err(not_a_key("it is not an Ed25519 key".to_owned()));
        }
        Self::with_key(dir, key)
    }

    /// The name by which peers know this node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The public half of the key.
    pub(crate) fn public_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        let raw = self.key.public_key_raw();
        // An Ed25519 key, which `load` and `create` demand, has no other length.
        key.copy_from_slice(raw.get(..32).unwrap_or(&[0; 32]));
        key
    }

    /// Signs a message. `None` when the library refuses, which it does for no key of this kind.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.key.sign(message).ok()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    fn with_key(dir: &Path, key: KeyPair) -> Result<Self, IdentityError> {
        let node_id = NodeId::of_public_key(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node_id.to_string());
        let certificate = params.self_signed(&key)?;
        let path = dir.join(CERTIFICATE_FILE);
        match write_new(&path, certificate.pem().as_bytes()) {
            Ok(()) => sync_dir(dir)?,
            Err(IdentityError::Io { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Self { node_id, key, certificate: certificate.der().clone() })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.node_id).finish()
    }
}

/// Writes a file that must not exist yet, for its owner alone, durably.
fn write_new(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| io_error("write", path, source))
}

fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(|source| io_error("make durable", dir, source))
}

/// Reads the key file, after asking the open file itself who else may.
fn read_private(dir: &Path, path: &Path) -> Result<String, IdentityError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing { dir: dir.to_owned() },
        _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            IdentityError::Link { path: path.to_owned() }
        }
        _ => io_error("read", path, source),
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o177 != 0 {
        return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
    }
    let mut pem = String::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut pem).map_err(failed)?;
    Ok(pem)
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    #[test]
    fn an_identity_is_the_same_after_it_is_loaded_again() {
        let home = home();
        let made = Identity::create(home.path()).expect("create");
        let loaded = Identity::load(home.path()).expect("load");
        assert_eq!(made.node_id(), loaded.node_id());
        std::fs::remove_file(home.path().join(CERTIFICATE_FILE)).expect("remove");
        let without = Identity::load(home.path()).expect("load without certificate");
        assert_eq!(made.node_id(), without.node_id());
    }

    #[test]
    fn an_identity_is_never_overwritten() {
        let home = home();
        let first = Identity::create(home.path()).expect("create").node_id();
        let again = Identity::create(home.path());
        assert!(matches!(again, Err(IdentityError::Exists { .. })), "{again:?}");
        assert_eq!(Identity::load(home.path()).expect("load").node_id(), first);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let home = home();
        Identity::create(home.path()).expect("create");
        let key = home.path().join(KEY_FILE);
        for mode in [0o640, 0o604, 0o620, 0o700] {
            std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).expect("chmod");
            let loaded = Identity::load(home.path());
            assert!(matches!(loaded, Err(IdentityError::TooOpen { .. })), "{mode:o}: {loaded:?}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused_with_its_name() {
        let home = home();
        assert!(matches!(Identity::load(home.path()), Err(IdentityError::Missing { .. })));
        write_new(&home.path().join(KEY_FILE), b"").expect("write");
        let error = Identity::load(home.path()).expect_err("empty key");
        assert!(error.to_string().contains("key.pem"), "{error}");
    }

    #[test]
    fn a_key_is_not_read_through_a_symlink() {
        let (home, elsewhere) = (home(), home());
        Identity::create(elsewhere.path()).expect("create");
        let link = home.path().join(KEY_FILE);
        std::os::unix::fs::symlink(elsewhere.path().join(KEY_FILE), link).expect("symlink");
        assert!(matches!(Identity::load(home.path()), Err(IdentityError::Link { .. })));
        assert!(matches!(Identity::create(home.path()), Err(IdentityError::Exists { .. })));
    }
}
