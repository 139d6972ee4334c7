//! The long runs of the lab, short: a storm over everything with an auditor, and a few dozen cuts.
//!
//! `highwater-lab chaos` and `highwater-lab cuts` are the same for hours. One seed is always the
//! same, the other is of the moment and printed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_lab::chaos::{self, ChaosOptions};
use highwater_lab::cuts::{self, CutOptions};
use highwater_tests::{Slot, highwater};

/// A seed of its own for every run.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs()
}

#[test]
fn what_clients_wrote_survives_a_storm_of_every_fault() {
    let _slot = Slot::take();
    for seed in [13, fresh_seed()] {
        println!("seed {seed}");
        let report = chaos::run(&ChaosOptions {
            exe: highwater(),
            seed,
            time: Duration::from_secs(25),
            nodes: Some(3),
            storm: Duration::from_secs(10),
            sharing: 0,
            keep: None,
            demand_rare: false,
        });
        let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        for skipped in &report.skipped {
            println!("skipped: {skipped}");
        }
        assert!(report.held(), "{report:#?}");
        assert!(report.rounds > 0 && report.fell > 0, "{report:#?}");
    }
}

#[test]
fn a_transfer_goes_on_after_every_way_to_cut_its_link() {
    let _slot = Slot::take();
    let seed = fresh_seed();
    println!("seed {seed}");
    let options = CutOptions { exe: highwater(), count: 30, seed, pairs: 1 };
    let report = cuts::run(&options).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
    assert!(report.held(), "{report:#?}");
    assert!(report.cuts >= 30 && report.resumed > 0, "{report:#?}");
}
