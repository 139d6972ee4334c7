//! The common beat of what a node does again and again: a timer that goes off costs an idle node more
//! than what is then done, so all of it falls on the same moments.

use std::time::Duration;

use highwater_core::Time;
use tokio::time::Instant;

/// Waits for the next multiple of `every` after `began`, the moment from which a node reckons.
pub(crate) async fn next(began: Instant, every: Duration) {
    let now = Time::since_start(began.elapsed());
    let next = (now + every).rounded_down(every);
    tokio::time::sleep_until(began + next.since(Time::default())).await;
}
