//! How much is logged about members: every change of a peer, and of the others only so many lines. A
//! member can make others up by the hundred, and each would be a line in everybody's log.

use std::time::Duration;

use tokio::time::Instant;

/// Lines about members that are no peers,
const LINES_MAX: u32 = 8;
/// in this time.
const WITHIN: Duration = Duration::from_secs(10);

/// What was logged lately.
#[derive(Debug)]
pub(super) struct Voice {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for Voice {
    fn default() -> Self {
        Self { since: Instant::now(), lines: 0, left_out: 0 }
    }
}

impl Voice {
    /// Whether one more line may be logged at `now`; those that may not are counted.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        let may = self.lines < LINES_MAX;
        match may {
            true => self.lines += 1,
            false => self.left_out += 1,
        }
        if self.lines == 1 && may {
            self.since = now;
        }
        may
    }

    /// How many lines were left out, once the time has passed; it begins anew.
    pub(super) fn left_out(&mut self, now: Instant) -> Option<u64> {
        if self.lines == 0 || now.duration_since(self.since) < WITHIN {
            return None;
        }
        self.lines = 0;
        Some(std::mem::take(&mut self.left_out)).filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_their_number() {
        let (mut voice, began) = (Voice::default(), Instant::now());
        let said = (0..1000).filter(|_| voice.may(began)).count();
        assert_eq!(said, LINES_MAX as usize);
        assert_eq!(voice.left_out(began), None, "too early");
        let later = began + WITHIN;
        assert_eq!(voice.left_out(later), Some(1000 - u64::from(LINES_MAX)));
        assert_eq!(voice.left_out(later), None, "told once");
        assert!(voice.may(later));
        assert_eq!(voice.left_out(later + WITHIN), None, "nothing was left out");
    }
}
