//! Giving what stands under a key a second name, so that the key can be given to something else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use highwater_core::Key;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::print::StatPrint;
use crate::root::{Root, proves_absence};

/// Names of earlier runs that are passed over to find a free one.
const NAMES_TRIED_MAX: usize = 100_000;

impl Root {
    /// Gives the file under `key`, if it still has this `print`, a second name in `.highwater/kept`.
    /// That name and the print it has now (a link moves the ctime), or `None` when something else
    /// stands there.
    ///
    /// # Errors
    /// When it cannot be linked.
    pub fn keep_aside(
        &self,
        key: &Key,
        print: &StatPrint,
    ) -> io::Result<Option<(String, StatPrint)>> {
        let dir = match self.open_parent(key) {
            Ok(dir) => dir,
            Err(errno) if proves_absence(errno) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let look = |dir: BorrowedFd<'_>, name: &str| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| StatPrint::of(&s))
        };
        if look(dir.as_fd(), key.name()).ok() != Some(*print) {
            return Ok(None);
        }
        for _ in 0..NAMES_TRIED_MAX {
            let number = self.names.fetch_add(1, Ordering::Relaxed);
            let name = format!("{number}-damaged");
            match rustix::fs::linkat(&dir, key.name(), self.kept(), &*name, AtFlags::empty()) {
                Ok(()) => {
                    let now = look(self.kept(), &name)?;
                    return Ok(now.same_but_for_ctime(print).then_some((name, now)));
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Removes what [`Root::keep_aside`] kept under this name.
    ///
    /// # Errors
    /// What the system says.
    pub fn drop_aside(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.kept(), name, AtFlags::empty())?)
    }

    /// Links what stands under `key`, if it still has this `print`, to the name of `aside` in the
    /// same directory. The print it has now (a link moves the ctime), or `None` when something else
    /// stands there.
    ///
    /// # Errors
    /// When the name is taken by something else, or the entry cannot be linked: a directory.
    pub fn link_aside(
        &self,
        key: &Key,
        aside: &Key,
        print: &StatPrint,
    ) -> io::Result<Option<StatPrint>> {
        let dir = match self.open_parent(key) {
            Ok(dir) => dir,
            Err(errno) if proves_absence(errno) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let look = |name: &str| {
            rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| StatPrint::of(&s))
        };
        match look(key.name()) {
            Ok(found) if found == *print => {}
            Ok(_) => return Ok(None),
            Err(errno) if proves_absence(errno) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        match rustix::fs::linkat(&dir, key.name(), &dir, aside.name(), AtFlags::empty()) {
            Err(Errno::EXIST) if look(aside.name())?.ino == print.ino => {}
            linked => linked?,
        }
        let now = look(key.name())?;
        Ok((now.ino == print.ino && look(aside.name())?.same_but_for_ctime(print)).then_some(now))
    }
}
