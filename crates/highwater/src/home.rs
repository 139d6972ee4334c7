//! The home of a node: one private directory with all that makes it this node.
//!
//! ```text
//! config.toml    what the owner decided
//! config.lock    held while the configuration is edited
//! identity/      the key pair: whoever has it is this node
//! store/         change logs, index, checkpoints
//! members        who else is in the cluster, and this node's incarnation
//! checks/        reports of the consistency checker
//! lock           held by the running daemon, with its process id inside
//! control.sock   where the running daemon takes requests
//! ```
//!
//! Two daemons on one home would write two histories under one identity, so the second is refused
//! by an advisory lock that the kernel drops with the process, however it ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use highwater_net::{Identity, IdentityError};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// Where one node keeps what is its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    dir: PathBuf,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither `XDG_DATA_HOME` nor `HOME` says where user data lives.
    #[error("no home is known for this node; give one with --home DIR")]
    NoDefault,
    /// The directory is not there, or has no configuration.
    #[error("there is no node in {}; make one with `highwater init`", dir.display())]
    NotInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// Somebody else's directory could be changed by them at any time.
    #[error("the home {} belongs to another user; use a directory of your own", dir.display())]
    NotOwned {
        /// The directory.
        dir: PathBuf,
    },
    /// Another daemon runs on this home.
    #[error("a daemon is already running on {} (pid {pid}); stop it first", dir.display())]
    AlreadyRunning {
        /// The directory.
        dir: PathBuf,
        /// Its process id, as it wrote it.
        pid: String,
    },
    /// In the place of a lock stands a link: what it leads to would be written over.
    #[error("{} is a link, which is not followed; remove it", path.display())]
    Link {
        /// Where the lock should be.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}; check the disk and the permissions", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Home {
    /// The home in this directory, whether it exists yet or not.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { dir: std::path::absolute(&dir).unwrap_or(dir) }
    }

    /// The home where the platform keeps a user's data: `$XDG_DATA_HOME/highwater`, else
    /// `$HOME/.local/share/highwater`.
    ///
    /// # Errors
    /// [`HomeError::NoDefault`] when neither variable holds an absolute path.
    pub fn default_place() -> Result<Self, HomeError> {
        let absolute = |name| {
            std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute())
        };
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .ok_or(HomeError::NoDefault)?;
        Ok(Self::at(data.join("highwater")))
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the owner decided.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The key pair.
    pub fn identity_dir(&self) -> PathBuf {
        self.dir.join("identity")
    }

    /// Change logs, index, checkpoints.
    pub fn checks_dir(&self) -> PathBuf {
        self.dir.join("checks")
    }

    /// Where the store lies.
    pub fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Who else is in the cluster, and this node's incarnation.
    pub fn members_path(&self) -> PathBuf {
        self.dir.join("members")
    }

    /// Makes the directory, private to its owner, with the directories above it. Harmless when it
    /// is there already.
    ///
    /// # Errors
    /// What the file system says, or [`HomeError::NotOwned`].
    pub fn create(&self) -> Result<(), HomeError> {
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent).map_err(|e| self.io("make the directory above", e))?;
        }
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(self.io("make the home", e)),
            _ => self.make_private(),
        }
    }

    /// Takes the home for one daemon, as long as the lock lives.
    ///
    /// # Errors
    /// [`HomeError::NotInitialised`] before `init`, [`HomeError::AlreadyRunning`] when another
    /// daemon has it.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        if !self.config_path().is_file() {
            return Err(HomeError::NotInitialised { dir: self.dir.clone() });
        }
        self.make_private()?;
        let mut file = self.open_lock_file("lock")?;
        if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(match e {
                Errno::WOULDBLOCK => self.already_running(&mut file),
                other => self.io("lock the home", other.into()),
            });
        }
        let pid = std::process::id().to_string();
        file.set_len(0)
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(|e| self.io("write the lock of", e))?;
        Ok(HomeLock { _file: file })
    }

    /// Waits until nobody else edits the configuration, and keeps them out.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn lock_config(&self) -> Result<HomeLock, HomeError> {
        let file = self.open_lock_file("config.lock")?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|e| self.io("lock the configuration of", e.into()))?;
        Ok(HomeLock { _file: file })
    }

    /// A short path to the control socket, valid while the handle lives. The address of a Unix
    /// socket holds 107 bytes and a home's path may be longer; a descriptor of the directory is a
    /// short name for it.
    pub(crate) fn control_socket(&self) -> io::Result<SocketPath> {
        let dir = File::open(&self.dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()));
        Ok(SocketPath { path, _dir: dir })
    }

    fn make_private(&self) -> Result<(), HomeError> {
        let meta = fs::metadata(&self.dir).map_err(|e| self.io("look at the home", e))?;
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(HomeError::NotOwned { dir: self.dir.clone() });
        }
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))
                .map_err(|e| self.io("make private the home", e))?;
        }
        Ok(())
    }

    fn open_lock_file(&self, name: &str) -> Result<File, HomeError> {
        let path = self.dir.join(name);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path);
        opened.map_err(|e| match e.raw_os_error() {
            Some(errno) if errno == Errno::LOOP.raw_os_error() => HomeError::Link { path },
            _ => self.io("open a lock file in", e),
        })
    }

    fn already_running(&self, file: &mut File) -> HomeError {
        let mut pid = String::new();
        let read = file.take(PID_BYTES_MAX).read_to_string(&mut pid);
        let known = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
        let pid = if known { pid } else { "unknown".to_owned() };
        HomeError::AlreadyRunning { dir: self.dir.clone(), pid }
    }

    fn io(&self, action: &'static str, source: io::Error) -> HomeError {
        HomeError::Io { action, path: self.dir.clone(), source }
    }
}

/// Longest process id in decimal digits: Linux counts to 2^22.
const PID_BYTES_MAX: u64 = 10;

/// Keeps others out until it is dropped.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// A path that stays valid as long as this lives.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    _dir: File,
}

impl SocketPath {
    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().expect("scratch");
        let home = Home::at(dir.path().join("home"));
        (dir, home)
    }

    #[test]
    fn a_home_is_readable_by_its_owner_alone() {
        let (_dir, home) = scratch();
        home.create().expect("made");
        fs::set_permissions(home.dir(), fs::Permissions::from_mode(0o755)).expect("opened up");
        home.create().expect("harmless");
        assert_eq!(fs::metadata(home.dir()).expect("there").mode() & 0o777, 0o700);
    }

    /// The process id was written over whatever the lock was made to lead to.
    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_written_through() {
        let (dir, home) = scratch();
        home.create().expect("made");
        fs::write(home.config_path(), "").expect("config");
        let elsewhere = dir.path().join("song");
        fs::write(&elsewhere, "yellow").expect("written");
        std::os::unix::fs::symlink(&elsewhere, home.dir().join("lock")).expect("a link");
        let refused = home.lock().expect_err("a link").to_string();
        assert!(refused.contains("lock is a link"), "{refused}");
        assert_eq!(fs::read(&elsewhere).expect("still there"), b"yellow");
    }

    #[test]
    fn a_second_daemon_is_refused_and_told_who_runs() {
        let (_dir, home) = scratch();
        home.create().expect("made");
        assert!(matches!(home.lock(), Err(HomeError::NotInitialised { .. })));
        fs::write(home.config_path(), "").expect("config");
        let first = home.lock().expect("free");
        let refused = home.lock().expect_err("taken").to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(first);
        home.lock().expect("free again");
    }
}
