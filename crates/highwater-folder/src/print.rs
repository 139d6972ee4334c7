//! The facts by which a file that did not change is known without reading it.
//!
//! Any write moves a file's change time (ctime), which no program can set back, so an equal print
//! means equal content, with one exception: kernels stamp with a clock that ticks every few
//! milliseconds, and two writes within one tick look alike. A print is therefore only taken of a
//! file whose last change lies [`TICK_MAX`] back.
//!
//! The device number is left out on purpose. A share lies on one file system, which the scan and
//! the marker see to, and many file systems get another number at every mount: with it in the
//! print, a restart would read every file again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_core::{Mode, Mtime};
use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

/// A kernel's time stamps are never coarser than this: one tick at 100 Hz.
pub const TICK_MAX: Duration = Duration::from_millis(10);

/// What `lstat` says of an entry, as far as it tells one state from another.
///
/// The times and the size of a directory move with every change inside it and say nothing about the
/// directory as an entry, so they are zero here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StatPrint {
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time: moved by every change of content or metadata.
    pub ctime: Mtime,
    /// The synced permission bits.
    pub mode: Mode,
}

impl StatPrint {
    pub(crate) fn of(stat: &Stat) -> Self {
        let mode = Mode::new(stat.st_mode);
        if Class::of(stat) == Class::Directory {
            let zero = Mtime { seconds: 0, nanos: 0 };
            return Self { ino: stat.st_ino, size: 0, mtime: zero, ctime: zero, mode };
        }
        Self {
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            mode,
        }
    }

    /// Whether both are of one inode whose content was not written in between. Renames move the
    /// ctime, so it does not count here.
    pub(crate) fn same_but_for_ctime(&self, other: &StatPrint) -> bool {
        Self { ctime: other.ctime, ..*self } == *other
    }

    /// Whether a write right now could still leave the print as it is. A stamp from the future (the
    /// clock was set back) cannot be met by a write now, so it is not fresh.
    pub(crate) fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = u64::try_from(self.ctime.seconds).unwrap_or(0);
        let changed = Duration::new(changed, self.ctime.nanos.min(999_999_999));
        now.abs_diff(changed) < TICK_MAX
    }
}

// The field types differ between architectures.
#[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
fn time(seconds: impl TryInto<i64>, nanos: impl TryInto<u32>) -> Mtime {
    Mtime { seconds: seconds.try_into().unwrap_or(0), nanos: nanos.try_into().unwrap_or(0) }
}

/// What an inode is, as far as syncing goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    File,
    Directory,
    Symlink,
    Special,
}

impl Class {
    pub(crate) fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Class::File,
            FileType::Directory => Class::Directory,
            FileType::Symlink => Class::Symlink,
            _ => Class::Special,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stamp_of_this_very_moment_could_be_met_again() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let hour = Duration::from_secs(3600);
        let rows = [(now, true), (now - 2 * TICK_MAX, false), (now + hour, false)];
        for (changed, is_fresh) in rows {
            let seconds = i64::try_from(changed.as_secs()).expect("a time");
            let ctime = Mtime { seconds, nanos: changed.subsec_nanos() };
            let mode = Mode::new(0o600);
            let print = StatPrint { ino: 1, size: 0, mtime: ctime, ctime, mode };
            assert_eq!(print.is_fresh(), is_fresh, "{changed:?} at {now:?}");
        }
    }
}
