//! Wakes a wait that was forgotten: while some work takes long, something of no consequence is done
//! to whoever the work waits for, so that it looks around.
//!
//! The database underneath needs it: see `sled.rs`.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it is looked whether somebody works. On a slow disk work takes longer now and then; a
/// nudge costs it next to nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A thread that nudges as long as some work takes long.
pub(crate) struct Nudger {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Watched {
    at_work: AtomicU32,
    /// Whether the thread sleeps until somebody works.
    rests: AtomicBool,
    closing: Mutex<bool>,
    stirred: Condvar,
}

/// What is done to whoever is waited for. It may itself come to wait.
type Nudge = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for Nudger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nudger").field("at_work", &self.watched.at_work).finish_non_exhaustive()
    }
}

impl Nudger {
    /// Starts the thread.
    pub(crate) fn start(nudge: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let watched = Arc::<Watched>::default();
        let (shared, nudge): (_, Nudge) = (Arc::clone(&watched), Arc::new(nudge));
        let thread = thread::Builder::new().name("store-nudge".into());
        let thread = thread.spawn(move || shared.watch(&nudge))?;
        Ok(Self { watched, thread: Some(thread) })
    }

    /// Does the work, and nudges if it takes long.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.watch().during(work)
    }

    /// What does work in this nudger's name for as long as it is needed.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.watched))
    }
}

impl Drop for Nudger {
    fn drop(&mut self) {
        *self.watched.closing.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.watched.stirred.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Whoever works while a [`Nudger`] watches.
pub(crate) struct Watch(Arc<Watched>);

impl Watch {
    /// Does the work, and has it nudged if it takes long.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.at_work.fetch_add(1, Ordering::SeqCst);
        if self.0.rests.load(Ordering::SeqCst) {
            self.0.stir();
        }
        let outcome = work();
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

impl Watched {
    /// Wakes the thread that rests. Under the lock, for it rests only once it has let go of that.
    fn stir(&self) {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        self.stirred.notify_all();
    }

    /// Waits for the next look: a while, or, when nobody works, until somebody does.
    fn wait<'a>(&self, closing: MutexGuard<'a, bool>) -> MutexGuard<'a, bool> {
        self.rests.store(true, Ordering::SeqCst);
        // Who begins to work after this question sees that the thread rests.
        let closing = match self.at_work.load(Ordering::SeqCst) {
            0 => self.stirred.wait(closing).unwrap_or_else(PoisonError::into_inner),
            _ => closing,
        };
        self.rests.store(false, Ordering::SeqCst);
        if *closing {
            return closing;
        }
        self.stirred.wait_timeout(closing, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Nudges when somebody was at work at the last 2, 4, 8, ... looks: as a nudge that comes to
    /// wait itself wakes nobody, each has a thread of its own, and there are few of them.
    fn watch(&self, nudge: &Nudge) {
        let mut looks = 0_u32;
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        while !*closing {
            closing = self.wait(closing);
            let works = self.at_work.load(Ordering::SeqCst) > 0;
            looks = if works { looks.saturating_add(1) } else { 0 };
            if looks > 1 && looks.is_power_of_two() {
                let nudge = Arc::clone(nudge);
                let thread = thread::Builder::new().name("store-nudge-once".into());
                // Where there is no thread to be had now, there may be at a later look.
                let _ = thread.spawn(move || nudge());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Far longer than the second nudge takes to come.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn work_that_waits_for_ever_is_nudged_though_the_first_nudge_waits_too() {
        let (nudge, nudged) = mpsc::sync_channel(0);
        let times = AtomicU32::new(0);
        let nudger = Nudger::start(move || {
            if times.fetch_add(1, Ordering::Relaxed) == 0 {
                loop {
                    thread::park();
                }
            }
            // Nobody waits any more after the first.
            let _ = nudge.send(());
        });
        let nudger = nudger.expect("a thread");
        nudger.during(|| nudged.recv_timeout(PATIENCE)).expect("a second nudge");
    }

    #[test]
    fn work_after_a_rest_is_nudged_too() {
        let (nudge, nudged) = mpsc::channel();
        let nudger = Nudger::start(move || nudge.send(()).unwrap_or(())).expect("a thread");
        while !nudger.watched.rests.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        nudger.during(|| nudged.recv_timeout(LOOK_EVERY * 60)).expect("a nudge");
    }

    #[test]
    fn whoever_does_nothing_is_left_alone() {
        let (nudge, nudged) = mpsc::channel();
        let nudger = Nudger::start(move || nudge.send(()).unwrap_or(())).expect("a thread");
        nudger.during(|| ());
        drop(nudger);
        assert!(nudged.recv().is_err(), "it was nudged");
    }
}
