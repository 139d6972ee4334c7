//! The real engine over the simulated network: two or three nodes with their shares, threads, homes and
//! folders, TLS and gRPC, in simulated time. Each seed first breaks what it likes while files are
//! written, then strikes the transfer of a large content midway; then everything is healed, and the
//! demands are made: folders are what was written, byte for byte; nodes call themselves in sync; the
//! transfer went on where it was acknowledged; nothing else crossed twice; nothing is left over.
//!
//! `ENGINE_SEEDS=A..B` plays others than the usual ones. Threads and disks are real, so a seed gives the
//! same plan, not the same moments.

mod host;
mod line;
mod plan;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use plan::{Blow, Plan};
use world::{Outcome, World};

/// Seeds of one run: the first half always the same ones, the others new.
const SEEDS: u64 = 8;
/// Worlds side by side. They sleep more than they work.
const LANES: usize = 3;
/// What is waited for is waited for this long: only a failure takes that.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the worlds of some seeds came to.
#[derive(Debug, Default)]
struct Sum {
    worlds: u64,
    blows: BTreeMap<Blow, u64>,
    missed: u64,
    resumed: u64,
    reconnects: u64,
    resent: u64,
    simulated_ms: u64,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.worlds += 1;
        for (blow, times) in outcome.blows {
            *self.blows.entry(blow).or_default() += times;
        }
        self.missed += outcome.missed;
        self.resumed += outcome.resumed;
        self.reconnects += outcome.reconnects;
        self.resent += outcome.resent;
        self.simulated_ms += outcome.simulated_ms;
        if !outcome.violations.is_empty() {
            self.failed.push(seed);
        }
    }
}

#[test]
fn whatever_breaks_engines_agree_on_what_was_written_and_nothing_crosses_twice() {
    expect_deaths();
    let seeds: Vec<u64> = crate::seeds("ENGINE_SEEDS", SEEDS).into_iter().flatten().collect();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    std::thread::scope(|threads| {
        for _ in 0..LANES {
            threads.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, SeqCst) as usize) {
                    let plan = Plan::draw(*seed);
                    let outcome = World::new(*seed, &plan).play();
                    if !outcome.violations.is_empty() || std::env::var_os("ENGINE_TOLD").is_some() {
                        tell(*seed, &plan, &outcome);
                    }
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(*seed, outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{sum:#?}");
    assert!(sum.failed.is_empty(), "{:?}", sum.failed);
    assert!(sum.worlds < SEEDS || sum.resumed > 0, "no transfer was resumed above offset 0");
    assert!(sum.worlds < SEEDS || sum.reconnects > 0, "no link was lost");
}

/// The line would take all of it, and so would HTTP/2: it is what a receiver asks for that bounds what
/// is on its way to it. A slow line is no dead one, and what waits there is not asked for again.
#[test]
fn an_engine_that_takes_in_slowly_is_sent_no_more_than_it_asked_for_and_nothing_twice() {
    /// The smallest window, what is written and not yet durable, and what is framed.
    const UNDER_WAY_MAX: u64 = 3 * 1024 * 1024;
    for (rate, size) in [(400_000, 12_000_000), (40_000, 2_500_000)] {
        let plan = Plan::undisturbed(2, rate, size);
        let (outcome, most) = World::new(0, &plan).play_undisturbed();
        if !outcome.violations.is_empty() {
            tell(0, &plan, &outcome);
        }
        assert_eq!(outcome.violations, Vec::<String>::new());
        assert!(most <= UNDER_WAY_MAX, "{most} bytes were under way");
        assert!(most > size / 16, "{most} bytes: the line was never full");
        assert_eq!(outcome.reconnects, 0, "{:#?}", outcome.told);
    }
}

/// What the writer still owed was given up for the other receiver, who lacked it too.
#[test]
fn a_transfer_is_not_broken_off_for_a_peer_that_lacks_its_content() {
    let plan = Plan::undisturbed(3, 400_000, 4_000_000);
    let (outcome, _) = World::new(0, &plan).play_undisturbed();
    if !outcome.violations.is_empty() || outcome.taken_up > 0 {
        tell(0, &plan, &outcome);
    }
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert_eq!(outcome.taken_up, 0, "nothing broke, and the transfer was taken up again");
}

/// A killed node's runtime is gone under its shares' threads, which die of it. That needs no report.
fn expect_deaths() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            if !text.is_some_and(|text| text.contains("being shutdown")) {
                usual(panic);
            }
        }));
    });
}

fn tell(seed: u64, plan: &Plan, outcome: &Outcome) {
    println!("SEED={seed}: {plan:#?}");
    outcome.told.iter().for_each(|line| println!("    {line}"));
    outcome.violations.iter().take(20).for_each(|line| println!("  violation: {line}"));
    println!(
        "again: ENGINE_SEEDS={seed}..{} cargo test -p highwater-tests --test network engine -- \
         --nocapture",
        seed + 1
    );
}
