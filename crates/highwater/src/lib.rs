//! Runs a node: owns the tasks, the configuration and the shutdown, and carries out what
//! `highwater-core` decides.
#![forbid(unsafe_code)]

mod beat;
pub mod check;
mod cluster;
pub mod config;
pub mod config_edit;
pub mod control;
mod counters;
pub mod engine;
mod fetch;
pub mod home;
mod lines;
pub mod lookout;
pub mod report;
mod router;
mod serve;
mod share;
pub mod simulation;
pub mod tokens;

pub use check::CheckSpec;
pub use config::Config;
pub use engine::{Engine, EngineError, StartError};
pub use highwater_core::{NodeId, ShareName};
pub use home::Home;
