//! The real net over a simulated network: dialling, TLS, gRPC streams, flow control, probes and
//! back-off, in simulated time. Each seed first breaks what it likes, then everything is healed, and
//! the demands are made: every pair is linked again in bounded time by one link, streams deliver in
//! order what was said, a link that was replaced is silent, nobody is dialled in a storm, nothing is
//! left over.
//!
//! `NETWORK_SEEDS=A..B` plays others than the usual ones; a seed that fails prints how to play it
//! again and what happened in it.

#![forbid(unsafe_code)]

mod node;
mod plan;
mod record;
mod sockets;
mod talk;
mod world;

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use plan::Plan;
use world::{Homes, Outcome, World};

/// Seeds of one run: the first half always the same ones, the others new.
const SEEDS: u64 = 100;
/// One seed of so many is played twice.
const TWICE_ONE_IN: u64 = 50;
/// Most nodes of a world.
const NODES_MAX: usize = 4;

fn play(seed: u64, homes: &Homes) -> Outcome {
    let plan = Plan::draw(seed);
    World::new(seed, &plan, homes).play()
}

/// The seeds of this run, in ranges.
fn seeds() -> Vec<Range<u64>> {
    if let Ok(asked) = std::env::var("NETWORK_SEEDS") {
        let (from, to) = asked.split_once("..").expect("A..B");
        return vec![from.parse().expect("a seed")..to.parse().expect("a seed")];
    }
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    vec![0..SEEDS / 2, fresh..fresh + SEEDS / 2]
}

/// What all worlds of a run came to.
#[derive(Default)]
struct Sum {
    worlds: u64,
    broken: u64,
    links: usize,
    messages: u64,
    waits_ms: Vec<u64>,
}

#[test]
fn whatever_breaks_every_pair_is_linked_again_and_streams_stay_whole() {
    let homes = Homes::new(NODES_MAX);
    let mut sum = Sum::default();
    let mut failed = Vec::new();
    for range in seeds() {
        println!("NETWORK_SEEDS={}..{}", range.start, range.end);
        for seed in range {
            let outcome = play(seed, &homes);
            if !outcome.violations.is_empty() {
                tell(seed, &outcome);
                failed.push(seed);
            }
            if seed % TWICE_ONE_IN == 0 {
                assert_eq!(
                    outcome.told,
                    play(seed, &homes).told,
                    "seed {seed} differs from itself"
                );
            }
            sum.worlds += 1;
            sum.broken += u64::from(outcome.broke);
            sum.links += outcome.links;
            sum.messages += outcome.messages;
            sum.waits_ms.push(outcome.linked_after_ms);
        }
    }
    sum.waits_ms.sort_unstable();
    let (worlds, half) = (sum.worlds, sum.waits_ms.len() / 2);
    println!(
        "{worlds} worlds, {} with a broken link, {} ends of links, {} messages; linked after {} ms \
         (median), {} ms (longest); failed: {failed:?}",
        sum.broken,
        sum.links,
        sum.messages,
        sum.waits_ms[half],
        sum.waits_ms[sum.waits_ms.len() - 1]
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(worlds < 10 || sum.broken * 2 > worlds, "most worlds break nothing");
}

fn tell(seed: u64, outcome: &Outcome) {
    println!("SEED={seed}: {:#?}", Plan::draw(seed));
    outcome.told.iter().for_each(|line| println!("    {line}"));
    outcome.violations.iter().take(20).for_each(|line| println!("  violation: {line}"));
    println!(
        "again: NETWORK_SEEDS={seed}..{} cargo test -p highwater-tests --test network -- --nocapture",
        seed + 1
    );
}
