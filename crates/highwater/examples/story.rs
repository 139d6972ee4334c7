//! Plays simulated stories and says which rule one of them breaks: `story SEED [HOW MANY]`. The same
//! stories as `highwater-lab sim` tells, in a program that is built much sooner: a broken rule is
//! tried with it again and again (`.ci/sabotage`).

#![forbid(unsafe_code)]

use std::process::ExitCode;

use highwater::simulation::{Story, play};

fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|arg| arg.parse()).collect();
    let (first, count) = match numbers.as_deref() {
        Ok([first]) => (*first, 1),
        Ok([first, count]) => (*first, *count),
        _ => {
            eprintln!("usage: story SEED [HOW MANY]");
            return ExitCode::from(2);
        }
    };
    for seed in first..first.saturating_add(count) {
        if let Some(violation) = play(&Story::of_seed(seed), false).violation {
            println!("seed {seed}: BROKEN {violation}");
            return ExitCode::FAILURE;
        }
    }
    println!("{count} stories held");
    ExitCode::SUCCESS
}
