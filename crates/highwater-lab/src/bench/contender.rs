//! Who takes part: anything that keeps a folder at one end equal with a folder at the other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::arena::{Arena, End};
use super::ours::Ours;
use super::rsync::Rsync;
use super::syncthing::Syncthing;

/// A pair of ends under one program.
pub(crate) trait Contender {
    /// Brings both ends up, connected, with empty folders.
    fn start(&mut self) -> Result<()>;
    /// The folder at an end.
    fn folder(&self, end: End) -> PathBuf;
    /// A directory on the filesystem of the source's folder, outside it.
    fn workshop(&self) -> PathBuf;
    /// Says that the source's folder has changed, where the program needs to be told.
    fn nudge(&mut self) -> Result<()>;
    /// Waits until the program itself is done with what has arrived.
    fn settle(&mut self) -> Result<()>;
    /// Kills an end outright.
    fn kill(&mut self, end: End) -> Result<()>;
    /// Starts a killed or stopped end again.
    fn restart(&mut self, end: End) -> Result<()>;
    /// Stops the source in order, starts it, and says how long it took to be in sync again;
    /// `None` where there is no such state.
    fn time_to_rejoin(&mut self) -> Result<Option<Duration>>;
    /// The processes of an end that stay while nothing happens.
    fn resident(&self, end: End) -> Vec<u32>;
    /// Whether changes travel without being asked for.
    fn watches(&self) -> bool;
    /// Content bytes that the sink was sent although it had them, by its own count since its last
    /// start; `None` where it does not count.
    fn resent(&self) -> Option<u64>;
    /// Is called over and over during a transfer that is to be broken: tries again what has failed.
    fn persist(&mut self) -> Result<()>;
}

/// A contender that can be made.
pub(crate) enum Kind {
    Ours(PathBuf),
    Rsync,
    Syncthing,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Ours(_) => "highwater",
            Kind::Rsync => "rsync",
            Kind::Syncthing => "syncthing",
        }
    }

    pub(crate) fn make(&self, arena: &Arena, dir: &Path) -> Result<Box<dyn Contender>> {
        Ok(match self {
            Kind::Ours(exe) => Box::new(Ours::new(exe, arena, dir)?),
            Kind::Rsync => Box::new(Rsync::new(arena, dir)?),
            Kind::Syncthing => Box::new(Syncthing::new(arena, dir)?),
        })
    }
}

/// All contenders that are installed, or those of them that are named.
pub(crate) fn installed(exe: &Path, named: &[String]) -> Vec<Kind> {
    let all = [Kind::Ours(exe.to_owned()), Kind::Rsync, Kind::Syncthing];
    let wanted = |kind: &Kind| named.is_empty() || named.iter().any(|name| name == kind.name());
    all.into_iter().filter(|kind| wanted(kind) && is_installed(kind)).collect()
}

fn is_installed(kind: &Kind) -> bool {
    match kind {
        Kind::Ours(_) => true,
        Kind::Rsync | Kind::Syncthing => {
            let runs = Command::new(kind.name()).arg("--version").output().is_ok();
            if !runs {
                eprintln!("{} is not installed: it is left out", kind.name());
            }
            runs
        }
    }
}
