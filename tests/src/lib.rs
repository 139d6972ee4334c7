//! What the tests with real processes share: the program under test, and a bound on how many
//! clusters run at once.

#![forbid(unsafe_code)]

pub mod clocks;

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;
use highwater_lab::cluster::Cluster;

/// Clusters that run at once. Each is several processes; more than the cores of a small machine
/// only make each other late.
const CLUSTERS_MAX: usize = 2;

/// The program under test: what `HIGHWATER_EXE` names, else the one that was built with the tests.
pub fn highwater() -> PathBuf {
    std::env::var_os("HIGHWATER_EXE").map_or_else(built, PathBuf::from)
}

/// Cargo builds the programs of this package with its tests. A test's own executable is in
/// `<target>/<profile>/deps`; the program stands one level up.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.ancestors().nth(2).expect("tests are built below the target directory");
    profile.join("highwater-under-test")
}

/// Makes a cluster, none of its nodes running, and tells it a story. The cluster's directory is
/// kept and named if the story fails.
pub fn with_cluster(
    names: &[&str],
    links: &[(usize, usize)],
    story: impl FnOnce(&mut Cluster) -> Result<()>,
) {
    let _slot = Slot::take();
    let mut cluster = Cluster::new(&highwater(), names, links)
        .unwrap_or_else(|error| panic!("making the cluster {names:?}: {error:?}"));
    if let Err(error) = story(&mut cluster) {
        for proxy in cluster.proxies() {
            eprintln!("link {}: {:#?}", proxy.addr(), proxy.report());
        }
        panic!("{error:?}");
    }
}

/// The right to run a cluster.
#[derive(Debug)]
pub struct Slot(());

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

impl Slot {
    /// Waits for the right to run a cluster, which ends with the value.
    pub fn take() -> Slot {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = GIVEN_BACK
            .wait_while(taken, |taken| *taken >= CLUSTERS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Slot(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        GIVEN_BACK.notify_one();
    }
}
