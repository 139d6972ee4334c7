//! Talks. Everything between two nodes happens here: who the other is, whether it may speak, one
//! connection that serves both directions, and the translation of its bytes into values of
//! `highwater-core` that cannot be wrong.
//!
//! [`Net::start`] listens, dials the peers that have an address, and reports every connection that
//! has come up as a [`Link`]: four channels of core messages. Identity is the peer's key and
//! nothing else. A stranger is refused inside the TLS handshake, before a byte of the protocol.
//!
//! The decisions are plain structs with the time brought in: `link` (is the other side still
//! there, which of two connections stays) and `dial` (when to try again). `peer` carries them
//! out, one task for each peer; `session` runs one connection; `accept` and `connect` make
//! connections out of what `system` brings; `wire` translates; `tls` and `identity` say who is who.
//!
//! This crate never touches a share and never decides what is replicated. Nothing in it survives
//! a crash but the identity, which is written once.
#![forbid(unsafe_code)]

mod accept;
mod clock;
mod connect;
mod dial;
mod events;
mod identity;
mod kernel;
mod link;
mod net;
mod peer;
mod retry;
mod seal;
mod service;
mod session;
mod socket;
mod system;
mod tls;
mod wire;

pub use events::{
    DownReason, Link, LinkHandle, LinkStats, NetEvent, PeerAddress, PeerState, WarningKind,
};
pub use identity::{Identity, IdentityError};
pub use kernel::Segments;
pub use net::{Net, NetConfig, StartError};
pub use seal::{open_card, open_order, verify_card, verify_order};
pub use system::{Breaker, Connection, Listener, Sockets, Soon, System};
pub use wire::{
    entry_bytes_max, read_content, read_control, wire_bytes, write_content, write_control,
};

/// The generated protobuf types: how frames lie on the wire, not yet believed.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("highwater.v1");
}
