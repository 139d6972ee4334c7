//! A countdown to the step at which a played disk fails. Everything that stands on one disk shares
//! one fuse, so that the failure falls between any two steps, of a commit as of a folder.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What counts the steps of one disk. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<Mutex<State>>);

/// How a disk fails when its fuse is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FuseEnd {
    /// Nothing reaches it any more.
    Dead,
    /// It has no room for more.
    Full,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Whole,
    Lit {
        steps: u32,
        end: FuseEnd,
    },
    Out(FuseEnd),
}

impl Fuse {
    /// Lets so many more steps go well.
    pub fn light(&self, steps: u32, end: FuseEnd) {
        *self.state() = State::Lit { steps, end };
    }

    /// The disk works again, for good.
    pub fn replace(&self) {
        *self.state() = State::Whole;
    }

    /// How the disk has failed, if it has.
    pub fn end(&self) -> Option<FuseEnd> {
        match *self.state() {
            State::Out(end) => Some(end),
            State::Whole | State::Lit { .. } => None,
        }
    }

    /// Takes a step that needs no room.
    ///
    /// # Errors
    /// When the disk is dead.
    pub fn step(&self) -> io::Result<()> {
        match self.burn() {
            Some(FuseEnd::Dead) => Err(io::Error::other("the disk is dead")),
            Some(FuseEnd::Full) | None => Ok(()),
        }
    }

    /// Takes a step that needs room.
    ///
    /// # Errors
    /// When the disk is dead or full.
    pub fn grow(&self) -> io::Result<()> {
        match self.burn() {
            Some(FuseEnd::Dead) => Err(io::Error::other("the disk is dead")),
            Some(FuseEnd::Full) => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn burn(&self) -> Option<FuseEnd> {
        let mut state = self.state();
        *state = match *state {
            State::Lit { steps: 0, end } => State::Out(end),
            State::Lit { steps, end } => State::Lit { steps: steps - 1, end },
            state => state,
        };
        match *state {
            State::Out(end) => Some(end),
            State::Whole | State::Lit { .. } => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lit_fuse_lets_just_so_many_steps_go_well() {
        let fuse = Fuse::default();
        fuse.step().expect("nobody lit it");
        fuse.light(2, FuseEnd::Dead);
        fuse.clone().step().expect("the first");
        fuse.grow().expect("the second");
        assert_eq!(fuse.end(), None);
        fuse.step().expect_err("the disk is dead");
        assert_eq!(fuse.end(), Some(FuseEnd::Dead));
        fuse.replace();
        fuse.grow().expect("it works again");
    }

    #[test]
    fn a_full_disk_takes_steps_that_need_no_room() {
        let fuse = Fuse::default();
        fuse.light(0, FuseEnd::Full);
        let refused = fuse.grow().expect_err("no room");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        fuse.step().expect("needs none");
    }
}
