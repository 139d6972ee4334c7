//! The one place of this crate that reads the clock. Decisions get a [`Time`] as an argument.

use highwater_core::Time;
use tokio::time::{self, Instant};

/// Monotonic time since the runtime was started, as it reckons it: in a simulation it is the
/// simulation's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that began at `start`.
    pub(crate) fn since(start: Instant) -> Self {
        Self { start }
    }

    /// How late it is.
    pub(crate) fn now(&self) -> Time {
        Time::since_start(self.start.elapsed())
    }

    /// A time of this clock for others, who share no clock with it.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.start + time.since(Time::default())
    }

    /// Waits until `deadline`; at once if it has passed.
    pub(crate) async fn sleep_until(&self, deadline: Time) {
        time::sleep_until(self.start + deadline.since(Time::default())).await;
    }
}
