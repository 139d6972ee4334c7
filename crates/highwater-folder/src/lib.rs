//! Touches people's files: finds what changed in a share, serves what peers ask for, and puts in
//! place what they sent. Nothing else in Highwater opens a path inside a share.
//!
//! Everything happens beneath one descriptor of the share's root: directories are opened with
//! `openat2` so that neither a symbolic link nor a mount can lead outside, and the last component
//! is only ever touched with calls that do not follow links. A path that could leave the share
//! never gets this far: it is not a [`Key`](highwater_core::Key).
//!
//! The code blocks. It belongs on threads that may wait for a disk.
#![forbid(unsafe_code)]

pub mod aside;
pub mod audit;
pub mod ignore;
pub mod marker;
pub mod place;
pub mod print;
pub mod problem;
pub mod read;
pub mod recover;
pub mod root;
pub mod scan;
pub mod settle;
pub mod stage;
pub mod watch;

pub use crate::audit::{Audit, AuditError, AuditSink, Discord, DiscordCause, Found};
pub use crate::ignore::IgnoreRules;
pub use crate::marker::{Marker, MarkerIdentity};
pub use crate::place::{Expect, PlaceError, Placed, Placement};
pub use crate::print::StatPrint;
pub use crate::problem::{Problem, ProblemKind};
pub use crate::read::{ContentFile, ReadError, hash_content, hash_file, read_content};
pub use crate::root::{Root, RootError};
pub use crate::scan::{
    Finding, Known, KnownEntry, Observation, ScanError, ScanProgress, ScanSummary, Scope, scan,
};
pub use crate::settle::SettleError;
pub use crate::stage::{Slot, Stage, StageError, StageFile};
pub use crate::watch::{Hint, WatchError, Watcher};
