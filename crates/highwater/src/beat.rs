//! The common beat of what a node does again and again: all of it falls on multiples of [`BEAT`].

use std::time::Duration;

use highwater_core::{BEAT, Time};
use tokio::time::Instant;

/// Waits for `every`, in whole beats as near to it as they come, reckoned from `began` as all of a
/// node's regular work is.
pub(crate) async fn next(began: Instant, every: Duration) {
    let every = in_beats(every);
    let now = Time::since_start(began.elapsed());
    let next = (now + every).rounded_down(every);
    tokio::time::sleep_until(began + next.since(Time::default())).await;
}

/// The whole number of beats that is nearest to `every`; one at least.
fn in_beats(every: Duration) -> Duration {
    let beats = (every + BEAT / 2).as_nanos() / BEAT.as_nanos();
    BEAT * u32::try_from(beats).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_again_and_again_is_due_on_whole_beats() {
        for (seconds, beats) in [(0, 1), (1, 1), (2, 2), (5, 5), (30, 29), (3600, 3516)] {
            assert_eq!(in_beats(Duration::from_secs(seconds)), BEAT * beats, "{seconds} s");
        }
    }
}
