//! Who sits at the API: every connection has a seat, which says whether it is waiting for its next
//! request, and can be asked to leave when others want to sit down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// Connections that may follow something for as long as they like. A browser's tab takes one.
const FOLLOWERS_MAX: usize = 16;

/// Every seat that is taken.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: Mutex<BTreeMap<u64, Arc<Seat>>>,
    followers: Arc<AtomicUsize>,
}

/// The seat of one connection.
#[derive(Debug)]
pub(crate) struct Seat {
    requests: AtomicUsize,
    follows: AtomicBool,
    idle_since: Mutex<Instant>,
    leave: Notify,
    followers: Arc<AtomicUsize>,
}

/// Keeps a seat from being asked for, while a request is answered.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Seat);

impl Seats {
    pub(crate) fn take(&self, number: u64) -> Arc<Seat> {
        let seat = Arc::new(Seat {
            requests: AtomicUsize::new(0),
            follows: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
            leave: Notify::new(),
            followers: Arc::clone(&self.followers),
        });
        self.all().insert(number, Arc::clone(&seat));
        seat
    }

    pub(crate) fn give_back(&self, number: u64) {
        self.all().remove(&number);
    }

    /// Asks the connection to leave that has been waiting longest for its next request; whether
    /// there is one.
    pub(crate) fn make_room(&self) -> bool {
        let mut all = self.all();
        let idle = all.iter().filter(|(_, seat)| seat.is_idle());
        let oldest = idle.min_by_key(|(_, seat)| *seat.since()).map(|(number, _)| *number);
        match oldest.and_then(|number| all.remove(&number)) {
            Some(seat) => {
                seat.leave.notify_one();
                true
            }
            None => false,
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// A request is being answered, until the answer is dropped.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.requests.fetch_add(1, Ordering::AcqRel);
        Busy(self)
    }

    /// The connection goes on to follow something; whether there is room for one more.
    pub(crate) fn follow(&self) -> bool {
        if self.follows.load(Ordering::Acquire) {
            return true;
        }
        let more = |now: usize| (now < FOLLOWERS_MAX).then_some(now + 1);
        let room = self.followers.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok();
        if room {
            self.follows.store(true, Ordering::Release);
        }
        room
    }

    /// Whether it follows something.
    pub(crate) fn follows(&self) -> bool {
        self.follows.load(Ordering::Acquire)
    }

    /// Waits until somebody else needs the seat.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Acquire) == 0 && !self.follows()
    }

    fn since(&self) -> MutexGuard<'_, Instant> {
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.follows() {
            self.followers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.since() = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waits_longest_leaves_and_nobody_who_is_served() {
        let seats = Seats::default();
        let held: Vec<_> = (0..4).map(|number| seats.take(number)).collect();
        let busy = held[0].busy();
        assert!(held[1].follow());
        drop(held[2].busy());
        assert!(seats.make_room(), "the fourth has waited since before the third asked");
        assert!(!seats.all().contains_key(&3));
        assert!(seats.make_room() && !seats.make_room(), "only two were idle");
        drop(busy);
        assert!(seats.make_room());
        assert_eq!(seats.all().keys().collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn only_so_many_follow_and_a_connection_counts_once() {
        let seats = Seats::default();
        let mut held: Vec<_> = (0..FOLLOWERS_MAX as u64 + 1).map(|at| seats.take(at)).collect();
        let last = held.pop().expect("one too many");
        assert!(held.iter().all(|seat| seat.follow() && seat.follow()));
        assert!(!last.follow());
        seats.give_back(0);
        drop(held.remove(0));
        assert!(last.follow());
    }
}
