//! Hostile input: every case with the response that it must get, and the common aftermath.
//!
//! `docs/hostile-input.md` says which row of the catalogue is tried where. A case sends its input
//! to a real daemon, asserts the answer, and then [`stage`] asserts what holds after every one of
//! them: the daemon lives in the same process, has not grown, has touched nothing that it should
//! not, has not flooded its log, and still serves its honest peer in both directions.

#![forbid(unsafe_code)]

mod check;
mod content;
mod floods;
mod folder;
mod frames;
mod log;
mod members;
mod names;
mod settings;
mod stage;
mod state;
mod strangers;
