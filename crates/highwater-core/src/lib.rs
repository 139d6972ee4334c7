//! Decides. Everything that Highwater believes about versions, changes, transfers and links is
//! worked out here, from values that others bring.
//!
//! This crate never touches a disk, a socket or a clock, draws no random numbers and runs no
//! tasks. The time comes in as an argument, decisions go out as values, so a whole cluster can be
//! played through in one test. Content bytes pass through only where they are hashed or cut.
#![forbid(unsafe_code)]

pub mod alert;
pub mod check;
pub mod choice;
pub mod chunk;
pub mod clock;
pub mod compare;
pub mod content;
pub mod entry;
pub mod fetch;
pub mod fingerprint;
pub mod health;
pub mod id;
pub mod intake;
pub mod key;
pub mod lag;
pub mod log;
pub mod member;
pub mod membership;
pub mod merge;
pub mod observe;
pub mod overlay;
pub mod quality;
pub mod verdict;
pub mod version;
pub mod way;
pub mod window;
pub mod wire;

pub use chunk::{ChunkSizes, Cutter, SMALL_BYTES_MAX};
pub use clock::{BEAT, Hlc, Mtime, Time, WallTime};
pub use content::{Chunk, ChunkId, ContentHash, Manifest, PrefixHasher, PrefixState};
pub use entry::{Entry, EntryKind, Mode};
pub use id::{InstanceId, NodeId, NodeTag, ShareName};
pub use key::Key;
pub use log::{Actor, Checkpoint, Epoch, LogDigest, Seq};
pub use version::{Version, VersionOrder};
