//! What stands in the way of one path, told to people.
//!
//! A problem is never fatal: the rest of the share goes on, and whatever the index knows of the
//! path stays as it is until the path can be read again.

use std::fmt;

use highwater_core::Key;
use serde::{Deserialize, Serialize};

/// One path that is not in sync, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The path inside the share; bytes that are not UTF-8 are replaced. Empty for the whole share.
    pub path: String,
    /// What kind of obstacle it is.
    pub kind: ProblemKind,
    /// What happened and what to do about it.
    pub message: String,
}

impl Problem {
    /// A problem with the entry under `key`.
    pub fn at(key: &Key, kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { path: key.to_string(), kind, message: message.into() }
    }

    /// A problem with a path that may not be a key.
    pub fn new(path: impl Into<String>, kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { path: path.into(), kind, message: message.into() }
    }
}

/// The kinds of obstacles. Printed in snake case, as in `"kind":"special_file"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// A device, FIFO or socket: these are not synced.
    SpecialFile,
    /// A name or link target that is not UTF-8, too long or too deep.
    BadName,
    /// Reading failed. Everything known below stays untouched.
    Unreadable,
    /// Another file system is mounted here. Everything below stays untouched.
    MountPoint,
    /// The file is being written without a pause.
    Changing,
    /// The ignore file, or a line of it, cannot be used.
    IgnoreRules,
    /// The kernel grants no more watches; changes are found by scans alone.
    WatchLimit,
    /// The bytes of a file, or what is on record of it, are not what they were, and nobody edited it.
    Corrupt,
    /// Something that may be a user's edit was moved aside and kept.
    Kept,
    /// The disk or the quota is full.
    NoRoom,
    /// Something could not be written, renamed or removed.
    Unwritable,
}

impl ProblemKind {
    /// The kind as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProblemKind::SpecialFile => "special_file",
            ProblemKind::BadName => "bad_name",
            ProblemKind::Unreadable => "unreadable",
            ProblemKind::MountPoint => "mount_point",
            ProblemKind::Changing => "changing",
            ProblemKind::IgnoreRules => "ignore_rules",
            ProblemKind::WatchLimit => "watch_limit",
            ProblemKind::Corrupt => "corrupt",
            ProblemKind::Kept => "kept",
            ProblemKind::NoRoom => "no_room",
            ProblemKind::Unwritable => "unwritable",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
