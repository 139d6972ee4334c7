//! Remembers: the index of every share, its change log, checkpoints, what is still wanted, and
//! what is staged. One embedded database, and one meaning of "durable".
//!
//! - [`rows`] says what is stored, and how it is encoded.
//! - [`commit`] gathers changes that become durable together or not at all.
//! - [`store`] opens the database, reads rows, and commits; `sled.rs` is the only file that names
//!   the database underneath, [`memory`] is the one that simulations put in its place, and [`fuse`]
//!   what lets it fail at any step.
//!
//! The store never holds the only copy of anything: it can be rebuilt from the share's files and
//! from peers, under a new epoch.
#![forbid(unsafe_code)]

mod backend;
pub mod commit;
pub mod fuse;
pub mod memory;
mod nudge;
pub mod rows;
mod sled;
pub mod store;

pub use commit::Commit;
pub use fuse::{Fuse, FuseEnd};
pub use memory::{DiskFault, MemoryDisk, MemoryImage};
pub use rows::{
    DeepRow, EntryRow, FoundRow, LogRow, MarkerRow, PastRow, PeerRow, RetiredRow, ShareNumber,
    ShareRow, StageRow, WantClass, WantRow,
};
pub use store::{OpenError, Store, StoreError};
