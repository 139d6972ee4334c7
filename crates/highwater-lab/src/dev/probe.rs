//! Measured probes of a link: how long a node takes to answer over the link that stands.
//!
//! The dialling node is told to ping the other one (`highwater net test --pings`), over the very
//! connection on which content travels, so that a ping has been through TLS, both nodes and whatever
//! lies between them. How long each took is what that node measured.

use serde::{Deserialize, Serialize};

use crate::node::Node;

/// Probes of one link.
pub(super) const PROBES: usize = 10;

/// What came of the probes of one link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkProbes {
    /// Who asks.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// From the question to the answer, in milliseconds, one for each probe that was answered.
    pub round_trips_ms: Vec<f64>,
    /// Why others were not, a sentence each.
    pub failures: Vec<String>,
}

/// What `net test --json` says of its pings.
#[derive(Deserialize)]
struct Measured {
    round_trips_ms: Vec<f64>,
    pings_lost: u64,
}

impl LinkProbes {
    /// Lets `from` probe its link to `to`.
    pub(super) fn measure(from: &Node, to: &Node) -> Self {
        let mut probes = Self {
            from: from.spec().name.clone(),
            to: to.spec().name.clone(),
            round_trips_ms: Vec::new(),
            failures: Vec::new(),
        };
        let count = PROBES.to_string();
        let said = from.run(&["net", "test", to.id(), "--pings", &count, "--json"]);
        let measured = said.and_then(|said| Ok(serde_json::from_str::<Measured>(&said)?));
        match measured {
            Ok(measured) => {
                let lost = |_| "it was not answered in time".to_owned();
                probes.round_trips_ms = measured.round_trips_ms;
                probes.failures = (0..measured.pings_lost).map(lost).collect();
            }
            Err(error) => probes.failures.push(format!("{error:#}")),
        }
        probes
    }

    /// Whether every probe was answered.
    pub fn all_answered(&self) -> bool {
        self.round_trips_ms.len() == PROBES
    }

    /// The shortest, the middle and the longest answer, in milliseconds.
    pub fn spread_ms(&self) -> Option<[f64; 3]> {
        let mut sorted = self.round_trips_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = *sorted.get(sorted.len() / 2)?;
        Some([*sorted.first()?, middle, *sorted.last()?])
    }
}
