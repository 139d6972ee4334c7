//! What a scan could not read is tried again by itself: a disk that failed once, or a machine that
//! had no descriptor left, tells nobody when it works again.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_core::Key;
use highwater_folder::{Problem, ProblemKind, Scope};
use tokio::time::Instant;

use super::local::PROBLEMS_MAX;

/// The first wait. Each that follows is twice as long as the one before it.
const WAIT_MIN: Duration = Duration::from_secs(5);
/// What cannot be read for good, as for want of permission, costs one attempt in this time.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// When what could not be read is tried again.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    due: Option<Instant>,
    waited: Option<Duration>,
}

impl Unread {
    /// When to try again, if there is anything to try.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A scan has ended, and these are the problems that there are.
    pub(crate) fn scanned(&mut self, problems: &BTreeMap<String, Problem>, now: Instant) {
        if !problems.values().any(is_unreadable) {
            *self = Unread::default();
        } else if self.due.is_none() {
            let wait = self.waited.map_or(WAIT_MIN, |waited| (2 * waited).min(WAIT_MAX));
            (self.due, self.waited) = (Some(now + wait), Some(wait));
        }
    }

    /// What is to be read again now, if anything.
    pub(crate) fn take(
        &mut self,
        problems: &BTreeMap<String, Problem>,
        now: Instant,
    ) -> Option<Scope> {
        self.due.take_if(|due| *due <= now)?;
        // Those that there was no room for are anywhere.
        if problems.len() >= PROBLEMS_MAX {
            return Some(Scope::Whole);
        }
        let unreadable = problems.values().filter(|problem| is_unreadable(problem));
        let paths = unreadable.map(|problem| Key::new(&problem.path)).collect::<Result<_, _>>();
        Some(paths.map_or(Scope::Whole, Scope::Paths))
    }
}

fn is_unreadable(problem: &Problem) -> bool {
    matches!(problem.kind, ProblemKind::Unreadable | ProblemKind::Changing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, kind: ProblemKind) -> BTreeMap<String, Problem> {
        [(path.to_owned(), Problem::new(path, kind, "a message"))].into()
    }

    #[test]
    fn what_cannot_be_read_is_tried_again_ever_more_seldom_and_at_once_after_it_was_read() {
        let (began, mut unread) = (Instant::now(), Unread::default());
        let unreadable = problems("dir/file", ProblemKind::Unreadable);
        let (mut now, mut waits) = (began, Vec::new());
        for _ in 0..10 {
            unread.scanned(&unreadable, now);
            let due = unread.due().expect("a time");
            // Other scans meanwhile put nothing off.
            unread.scanned(&unreadable, due - Duration::from_millis(1));
            assert_eq!(unread.due(), Some(due));
            assert_eq!(unread.take(&unreadable, due - Duration::from_millis(1)), None);
            let key = Key::new("dir/file").expect("a key");
            assert_eq!(unread.take(&unreadable, due), Some(Scope::Paths([key].into())));
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
        unread.scanned(&BTreeMap::new(), now);
        assert_eq!(unread.due(), None);
        unread.scanned(&unreadable, now);
        assert_eq!(unread.due(), Some(now + WAIT_MIN));
    }

    #[test]
    fn what_people_have_to_change_is_not_tried_again() {
        let mut unread = Unread::default();
        for kind in [ProblemKind::BadName, ProblemKind::SpecialFile, ProblemKind::MountPoint] {
            unread.scanned(&problems("x", kind), Instant::now());
            assert_eq!(unread.due(), None);
        }
    }
}
