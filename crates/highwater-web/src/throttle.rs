//! How often an address may show a wrong token.
//!
//! Guessing 256 bits leads nowhere at any speed; this is for the processor and the log. An address
//! that was wrong too often is not listened to for a while, right tokens included, so that it
//! learns nothing by trying.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens from one address before it is not listened to.
const WRONG_MAX: u32 = 10;
/// For how long wrong tokens are remembered, from the last one.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Addresses that are remembered. Beyond them the one that was wrong longest ago is forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Addresses that were wrong lately.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<IpAddr, (u32, Instant)>>);

impl Throttle {
    /// How long `addr` has to wait before it is listened to, if it has to.
    pub(crate) fn wait(&self, addr: IpAddr, now: Instant) -> Option<Duration> {
        let (wrong, last) = self.wrong().get(&addr).copied()?;
        let left =
            FORGET_AFTER.checked_sub(now.duration_since(last)).filter(|left| !left.is_zero());
        left.filter(|_| wrong >= WRONG_MAX)
    }

    /// `addr` has shown a wrong token.
    pub(crate) fn was_wrong(&self, addr: IpAddr, now: Instant) {
        let mut all = self.wrong();
        all.retain(|_, (_, last)| now.duration_since(*last) < FORGET_AFTER);
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&addr) {
            let oldest = all.iter().min_by_key(|(_, (_, last))| *last).map(|(addr, _)| *addr);
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        let (wrong, last) = all.entry(addr).or_insert((0, now));
        (*wrong, *last) = (wrong.saturating_add(1), now);
    }

    fn wrong(&self) -> MutexGuard<'_, BTreeMap<IpAddr, (u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_wrong_too_often_waits_and_others_do_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let [bad, good] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().expect("ip"));
        for _ in 0..WRONG_MAX {
            assert_eq!(throttle.wait(bad, now), None);
            throttle.was_wrong(bad, now);
        }
        assert_eq!(throttle.wait(bad, now), Some(FORGET_AFTER));
        assert_eq!(throttle.wait(good, now), None);
        assert_eq!(throttle.wait(bad, now + FORGET_AFTER), None);
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for number in 0..ADDRESSES_MAX as u32 * 2 {
            throttle
                .was_wrong(IpAddr::V4(number.into()), now + Duration::from_millis(number.into()));
        }
        assert_eq!(throttle.wrong().len(), ADDRESSES_MAX);
    }
}
