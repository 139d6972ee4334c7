//! Tokens: what opens the HTTP API to who is not on this machine. `tokens.json` in the home.
//!
//! A token is shown once, when it is made. What is kept is a hash of it, which opens nothing; a
//! token that is lost is revoked, not read again. The random part has 256 bits, so that neither
//! guessing nor searching for a fitting hash leads anywhere, and a hash is compared in a time that
//! does not depend on where it differs.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use highwater_core::WallTime;
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError};
use crate::report::rfc3339;

/// Tokens of one node: one for each program and person that looks at it from elsewhere.
const TOKENS_MAX: usize = 64;
/// Longest file that is read: that many tokens, with room.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// What a token begins with, so that one that leaked is recognised.
const PREFIX: &str = "hw";
/// What a hash of a token is derived for; nothing else hashes in this way.
const PURPOSE: &str = "highwater 2026-11-23 token for the HTTP API";
const ID_BYTES: usize = 4;
const SECRET_BYTES: usize = 32;

/// What a token allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To see everything.
    Read,
    /// To change things as well.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Scope::Read => "read",
            Scope::Admin => "admin",
        })
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Scope::Read),
            "admin" => Ok(Scope::Admin),
            _ => Err(format!("a scope is read or admin, not {text:?}")),
        }
    }
}

/// What is on record of a token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRow {
    /// What it is called.
    pub id: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it ends, RFC 3339; `null` for never.
    pub expires: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    scope: Scope,
    created_ms: u64,
    expires_ms: Option<u64>,
    /// In hexadecimal.
    hash: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    tokens: Vec<Record>,
}

/// Why a token was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The file cannot be read or written.
    #[error("cannot use {}: {source}; look at the file, or remove it to revoke every token", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There are enough.
    #[error("this node has {TOKENS_MAX} tokens already; revoke one that is not used any more")]
    TooMany,
    /// There is none of this name.
    #[error("there is no token {0}; `highwater token list` shows which there are")]
    Unknown(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// The tokens of one node.
#[derive(Clone, Debug)]
pub struct Tokens {
    home: Home,
}

impl Tokens {
    /// The tokens of the node in `home`.
    pub fn of(home: &Home) -> Self {
        Self { home: home.clone() }
    }

    /// Makes a token: its text, which is nowhere else, and its record.
    ///
    /// # Errors
    /// When there are too many, or the file cannot be written.
    pub fn create(
        &self,
        scope: Scope,
        expires: Option<Duration>,
        now: WallTime,
    ) -> Result<(String, TokenRow), TokenError> {
        let _lock = self.home.lock_config()?;
        let mut records = self.read().map_err(|e| self.error(e))?;
        records.tokens.retain(|record| !record.is_over(now));
        if records.tokens.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let mut random = [0; ID_BYTES + SECRET_BYTES];
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        let (id, secret) = random.split_at(ID_BYTES);
        let id = hex(id);
        let token = format!("{PREFIX}_{id}_{}", hex(secret));
        let expires_ms = expires
            .map(|left| now.0.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
        let hash = hash(&token).to_hex().to_string();
        let record = Record { id, scope, created_ms: now.0, expires_ms, hash };
        let row = record.row();
        records.tokens.push(record);
        self.write(&records).map_err(|e| self.error(e))?;
        Ok((token, row))
    }

    /// Every token that is not over.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self, now: WallTime) -> Result<Vec<TokenRow>, TokenError> {
        let records = self.read().map_err(|e| self.error(e))?;
        let valid = records.tokens.iter().filter(|record| !record.is_over(now));
        Ok(valid.map(Record::row).collect())
    }

    /// Makes a token worthless, at once.
    ///
    /// # Errors
    /// When there is none of this name, or the file cannot be written.
    pub fn revoke(&self, id: &str) -> Result<(), TokenError> {
        let _lock = self.home.lock_config()?;
        let mut records = self.read().map_err(|e| self.error(e))?;
        let before = records.tokens.len();
        records.tokens.retain(|record| record.id != id);
        if records.tokens.len() == before {
            return Err(TokenError::Unknown(id.to_owned()));
        }
        self.write(&records).map_err(|e| self.error(e))
    }

    /// What `token` allows; `None` when it is none of this node's, or over. The file is read every
    /// time, so that a token that was revoked opens nothing any more.
    ///
    /// # Errors
    /// When the file cannot be read: then nothing is allowed.
    pub fn allows(&self, token: &str, now: WallTime) -> io::Result<Option<Scope>> {
        let (found, mut allowed) = (hash(token), None);
        for record in &self.read()?.tokens {
            let Ok(expected) = blake3::Hash::from_hex(&record.hash) else { continue };
            // Comparing two of these takes the same time wherever they differ.
            if expected == found && !record.is_over(now) {
                allowed = Some(record.scope);
            }
        }
        Ok(allowed)
    }

    fn path(&self) -> PathBuf {
        self.home.dir().join("tokens.json")
    }

    fn error(&self, source: io::Error) -> TokenError {
        TokenError::File { path: self.path(), source }
    }

    fn read(&self) -> io::Result<Records> {
        let file = match fs::File::open(self.path()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Records::default()),
            file => file?,
        };
        if file.metadata()?.mode() & 0o077 != 0 {
            return Err(io::Error::other("others can read or write it; chmod 600 it"));
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn write(&self, records: &Records) -> io::Result<()> {
        let (path, aside) = (self.path(), self.home.dir().join("tokens.json.new"));
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec(records)?)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        fs::File::open(self.home.dir())?.sync_all()
    }
}

impl Record {
    fn is_over(&self, now: WallTime) -> bool {
        self.expires_ms.is_some_and(|end| now.0 >= end)
    }

    fn row(&self) -> TokenRow {
        TokenRow {
            id: self.id.clone(),
            scope: self.scope,
            created: rfc3339(WallTime(self.created_ms)),
            expires: self.expires_ms.map(|end| rfc3339(WallTime(end))),
        }
    }
}

fn hash(token: &str) -> blake3::Hash {
    blake3::Hasher::new_derive_key(PURPOSE).update(token.as_bytes()).finalize()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch() -> (tempfile::TempDir, Tokens) {
        let dir = tempfile::tempdir().expect("scratch");
        let home = Home::at(dir.path().join("home"));
        home.create().expect("made");
        (dir, Tokens::of(&home))
    }

    #[test]
    fn a_token_opens_until_it_ends_or_is_revoked_and_is_nowhere_on_disk() {
        let (_dir, tokens) = scratch();
        let now = WallTime(1_000_000);
        let day = Duration::from_secs(86_400);
        let (read, row) = tokens.create(Scope::Read, Some(day), now).expect("made");
        let (admin, other) = tokens.create(Scope::Admin, None, now).expect("made");
        let allows = |token: &str, now| tokens.allows(token, now).expect("readable");
        assert_eq!(allows(&read, now), Some(Scope::Read));
        assert_eq!(allows(&admin, WallTime(u64::MAX)), Some(Scope::Admin));
        assert_eq!(allows(&read, WallTime(now.0 + 86_400_000)), None, "its end has come");
        for wrong in ["", "hw", &read[..read.len() - 1], &format!("{read}0"), &read.to_uppercase()]
        {
            assert_eq!(allows(wrong, now), None, "{wrong}");
        }
        let text = fs::read_to_string(tokens.path()).expect("there");
        for token in [&read, &admin] {
            let secret = token.rsplit('_').next().expect("three parts");
            assert!(!text.contains(secret), "the token itself is kept");
        }
        assert_eq!(fs::metadata(tokens.path()).expect("there").mode() & 0o777, 0o600);
        assert_eq!(tokens.list(now).expect("readable"), [row, other.clone()]);
        tokens.revoke(&other.id).expect("known");
        assert_eq!(allows(&admin, now), None);
        assert!(matches!(tokens.revoke(&other.id), Err(TokenError::Unknown(_))));
    }

    #[test]
    fn a_file_that_is_spoilt_or_open_to_others_allows_nothing() {
        let (_dir, tokens) = scratch();
        let now = WallTime(0);
        let (token, _) = tokens.create(Scope::Admin, None, now).expect("made");
        fs::set_permissions(tokens.path(), fs::Permissions::from_mode(0o644)).expect("opened up");
        assert!(tokens.allows(&token, now).is_err());
        fs::set_permissions(tokens.path(), fs::Permissions::from_mode(0o600)).expect("closed");
        assert!(tokens.allows(&token, now).expect("readable").is_some());
        fs::write(tokens.path(), "{\"tokens\":[").expect("spoilt");
        assert!(tokens.allows(&token, now).is_err());
    }

    #[test]
    fn there_are_only_so_many_tokens_and_those_that_ended_make_room() {
        let (_dir, tokens) = scratch();
        let second = Some(Duration::from_secs(1));
        for _ in 0..TOKENS_MAX {
            tokens.create(Scope::Read, second, WallTime(0)).expect("room");
        }
        assert!(matches!(
            tokens.create(Scope::Read, None, WallTime(999)),
            Err(TokenError::TooMany)
        ));
        tokens.create(Scope::Read, None, WallTime(1000)).expect("the others have ended");
        assert_eq!(tokens.list(WallTime(1000)).expect("readable").len(), 1);
    }
}
