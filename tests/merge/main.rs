//! The core's judgement of concurrent changes: a million histories a run, some of them always the
//! same, most of them new. `MERGE_CASES` and `SEED` choose others.

#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use highwater_lab::merge::{self, MergeReport};

/// Cases of one run: what fails once in a hundred thousand is found on the same day.
const CASES: u64 = 1_000_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn hold(seed: u64, cases: u64) -> MergeReport {
    merge::run(seed, cases).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn whatever_order_changes_arrive_in_everybody_agrees_and_nothing_is_lost() {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let seed = from_environment("SEED").unwrap_or(millis as u64);
    let cases = from_environment("MERGE_CASES").unwrap_or(CASES);
    println!("highwater-lab merge --seed {seed} --cases {cases}");
    let half = cases / 2;
    let mut report = std::thread::scope(|threads| {
        let first = threads.spawn(move || hold(seed, half));
        let second = hold(seed + half, cases - half);
        let mut both = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        both += second;
        both
    });
    // The oldest seeds stay: what they showed once they must not show again.
    report += hold(0, 20_000);
    println!("{report}");
    assert_eq!(report.never_happened(), Vec::<&str>::new(), "not tried at all");
}
