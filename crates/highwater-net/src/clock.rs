//! The one place of this crate that reads the clock. Decisions get a [`Time`] as an argument.

use std::time::Instant;

use highwater_core::Time;

/// Monotonic time since the net was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
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
        tokio::time::sleep_until(self.instant(deadline).into()).await;
    }
}
