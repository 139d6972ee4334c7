//! The cluster with real processes: who sees whom, what a kill, a restart and a removal do to that,
//! and whether all nodes tell the same.

#![forbid(unsafe_code)]

mod lines;
mod membership;
mod moves;
mod suspicion;
