//! Wakes a wait that was forgotten: while some work takes long, something of no consequence is done
//! to whoever the work waits for, so that it looks around.
//!
//! The database underneath needs it: see `sled.rs`.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long work may take before it is looked at whether it waits in vain. On a slow disk it takes
/// longer now and then; a nudge costs it next to nothing.
const NUDGE_AFTER: Duration = Duration::from_secs(1);

/// A thread that nudges as long as some work takes long.
#[derive(Debug)]
pub(crate) struct Nudger {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Watched {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    at_work: u32,
    closing: bool,
}

impl Nudger {
    /// Starts the thread.
    pub(crate) fn start(nudge: impl Fn() + Send + 'static) -> io::Result<Self> {
        let watched = Arc::<Watched>::default();
        let shared = Arc::clone(&watched);
        let thread = thread::Builder::new().name("store-nudge".into());
        let thread = thread.spawn(move || shared.watch(&nudge))?;
        Ok(Self { watched, thread: Some(thread) })
    }

    /// Does the work, and nudges if it takes long.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.watched.change(|state| state.at_work += 1);
        let outcome = work();
        self.watched.change(|state| state.at_work -= 1);
        outcome
    }
}

impl Drop for Nudger {
    fn drop(&mut self) {
        self.watched.change(|state| state.closing = true);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn watch(&self, nudge: &impl Fn()) {
        let mut state = self.lock();
        while !state.closing {
            if state.at_work == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let goes_on = |state: &mut State| state.at_work > 0 && !state.closing;
            let waited = self.changed.wait_timeout_while(state, NUDGE_AFTER, goes_on);
            let (held, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            state = held;
            if waited.timed_out() {
                drop(state);
                nudge();
                state = self.lock();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn work_that_waits_for_ever_is_nudged() {
        let (nudge, nudged) = mpsc::channel();
        let nudger = Nudger::start(move || nudge.send(()).unwrap_or(())).expect("a thread");
        nudger.during(|| nudged.recv()).expect("a nudge");
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
