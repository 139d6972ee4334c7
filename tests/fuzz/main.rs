//! Everything that reads what comes from outside, on the kept inputs and some thousands of new ones.
//!
//! Longer: `highwater-lab fuzz --seconds 600 --seed 7`. An input that breaks a property is kept in
//! `corpus/failing/` and fails here from then on.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_lab::fuzz::{self, FuzzOptions};

/// New inputs for each target: a second or two in all, without optimisation.
const EXECUTIONS: u64 = 5_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn every_kept_input_is_read_or_refused_and_breaks_nothing() {
    for target in fuzz::targets() {
        let inputs = fuzz::kept(&target, &corpus()).expect("a readable corpus");
        assert!(!inputs.is_empty(), "{} has no inputs", target.name);
        let mut accepted = 0;
        for input in &inputs {
            let made = fuzz::holds(&target, input);
            let made = made.unwrap_or_else(|| panic!("{}: {input:?}", target.name));
            accepted += usize::from(made.accepted);
        }
        assert!(accepted > 0, "{} accepts none of its examples", target.name);
    }
}

#[test]
fn inputs_that_nobody_thought_of_break_nothing_either() {
    let options = FuzzOptions {
        targets: Vec::new(),
        seconds: Duration::ZERO,
        seed: 20_261_123,
        corpus: corpus(),
        keep: false,
    };
    for target in fuzz::targets() {
        let goes_on = |executions| executions < EXECUTIONS;
        let tally = fuzz::try_target(&target, &options, goes_on).expect("it runs");
        assert_eq!(tally.failures, Vec::<Vec<u8>>::new(), "{}", target.name);
        assert!(
            tally.accepted > 0 && tally.accepted < tally.executions,
            "{}: {tally:?}",
            target.name
        );
    }
}
