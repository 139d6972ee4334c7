//! What a crash left in the stage: cleared away, except for what may be somebody's work.

use std::sync::atomic::Ordering;

use highwater_core::ContentHash;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::print::{Class, StatPrint};
use crate::problem::{Problem, ProblemKind};
use crate::read::read_content;
use crate::root::Root;
use crate::stage::Slot;

impl Root {
    /// Clears the stage at start: slots that are worth nothing any more are removed, and so are
    /// partial contents that `keep_partial` does not want. One end of an unfinished exchange is
    /// removed when its content is known, in the index or among what is to be fetched; otherwise it
    /// may be a user's edit, and is moved to `.highwater/kept` and reported.
    pub fn recover(
        &self,
        known_content: &dyn Fn(ContentHash) -> bool,
        keep_partial: &dyn Fn(&Slot) -> bool,
    ) -> Vec<Problem> {
        let slots = match self.stage().list() {
            Ok(slots) => slots,
            Err(error) => {
                let message = format!("cannot list '.highwater/stage': {error}; check the disk");
                return vec![Problem::new("", ProblemKind::Unreadable, message)];
            }
        };
        let mut problems = Vec::new();
        for slot in slots {
            if slot.is_partial() && keep_partial(&slot) {
                continue;
            }
            if slot.is_out() && !self.is_expendable(&slot, known_content) {
                problems.push(self.keep(&slot, "recovered"));
            } else if let Err(error) = self.stage().remove(&slot) {
                problems.push(Problem::new("", ProblemKind::Unwritable, error.to_string()));
            }
        }
        problems
    }

    /// Whether nothing is lost with this end of an exchange.
    fn is_expendable(&self, slot: &Slot, known_content: &dyn Fn(ContentHash) -> bool) -> bool {
        let Ok(stat) = self.stage().stat(slot) else { return false };
        match Class::of(&stat) {
            // Goes only if it is empty: otherwise removing it fails, and it stays.
            Class::Directory => {
                rustix::fs::unlinkat(self.stage().dir(), slot.as_str(), AtFlags::REMOVEDIR).is_ok()
            }
            Class::File => {
                let flags = rustix::fs::OFlags::RDONLY;
                let Ok(file) = crate::root::open_beneath(self.stage().dir(), slot.as_str(), flags)
                else {
                    return false;
                };
                read_content(&file.into(), StatPrint::of(&stat).size)
                    .is_ok_and(|(content, _)| known_content(content))
            }
            Class::Symlink | Class::Special => false,
        }
    }

    /// Moves something out of the stage to where only a person removes it, and says so.
    pub(crate) fn keep(&self, slot: &Slot, name: &str) -> Problem {
        for _ in 0..KEPT_TRIES_MAX {
            let number = self.names.fetch_add(1, Ordering::Relaxed);
            let kept = format!("{number}-{}", clipped(name));
            let moved = rustix::fs::renameat_with(
                self.stage().dir(),
                slot.as_str(),
                self.kept(),
                kept.as_str(),
                RenameFlags::NOREPLACE,
            );
            match moved {
                Ok(()) => {
                    let message = format!(
                        "this may be an edit that met an incoming change; it is kept as \
                         '.highwater/kept/{kept}': look at it, then move or remove it"
                    );
                    return Problem::new(name, ProblemKind::Kept, message);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return stuck(slot, name, errno),
            }
        }
        stuck(slot, name, Errno::EXIST)
    }
}

/// Names are numbered from 0 in every run, so those of earlier runs are passed over one by one.
const KEPT_TRIES_MAX: usize = 100_000;

/// Room for the number in a name of 255 bytes.
const KEPT_NAME_BYTES_MAX: usize = 220;

fn clipped(name: &str) -> &str {
    let mut end = name.len().min(KEPT_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

fn stuck(slot: &Slot, name: &str, errno: Errno) -> Problem {
    let message = format!(
        "this may be an edit that met an incoming change; it could not be moved to \
         '.highwater/kept' ({errno}) and is still '.highwater/stage/{slot}'"
    );
    Problem::new(name, ProblemKind::Kept, message)
}
