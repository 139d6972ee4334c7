//! A schedule of faults, and the turns of alerts that were posted meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_lab::node::Node;
use serde_json::Value;

use super::free;
use super::receiver::Receiver;

/// Longest wait for a turn: an alert rests for a minute before it is over.
const PATIENCE: Duration = Duration::from_secs(150);

/// Every alert there is.
const RULES: [&str; 14] = [
    "peer_silent",
    "lag_age",
    "lag_entries",
    "transfer_stalled",
    "check_failed",
    "check_overdue",
    "bit_rot",
    "disk_low",
    "clock_skew",
    "conflict",
    "mass_delete",
    "certificate_ending",
    "version_skew",
    "share_stopped",
];

/// The turns that one node has posted.
pub(crate) struct Schedule {
    receiver: Receiver,
    turns: Vec<Value>,
}

impl Schedule {
    pub(crate) fn new() -> Self {
        Self { receiver: Receiver::at(free(), &[200]), turns: Vec::new() }
    }

    /// Adds to the configuration of `node` that only these rules are on, with these levels, and that
    /// turns are posted here.
    pub(crate) fn watch(&self, node: &Node, rules: &[&str], levels: &str) -> Result<()> {
        let off: Vec<&str> = RULES.into_iter().filter(|rule| !rules.contains(rule)).collect();
        let path = node.home().join("config.toml");
        let text = fs::read_to_string(&path)?;
        let alerts = format!(
            "[alerts]\nallow = [\"127.0.0.1\", \"::1\"]\nwebhook = \"http://{}/\"\noff = {off:?}\n{levels}\n",
            self.receiver.addr
        );
        let kept = text.split("[alerts]").next().unwrap_or_default();
        Ok(fs::write(&path, format!("{kept}\n{alerts}"))?)
    }

    /// Waits until an alert of this rule turns so, and demands all that it has to say.
    pub(crate) fn wait(&mut self, rule: &str, event: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut from = 0;
        loop {
            let is_it = |turn: &&Value| turn["alert"]["rule"] == rule && turn["event"] == event;
            if let Some(turn) = self.turns[from..].iter().find(is_it) {
                let alert = turn["alert"].clone();
                for field in ["since", "subject", "cause", "what_to_do", "severity"] {
                    ensure!(alert[field].as_str().is_some_and(|text| !text.is_empty()), "{alert}");
                }
                for field in ["value", "threshold"] {
                    ensure!(alert[field].is_number(), "{field} of {alert}");
                }
                return Ok(alert);
            }
            from = self.turns.len();
            let next = self.receiver.within(deadline.saturating_duration_since(Instant::now()));
            let next =
                next.with_context(|| format!("{rule} was never {event}: {:?}", self.told()))?;
            self.turns.push(next.json());
        }
    }

    /// What was posted, in its order.
    fn told(&self) -> Vec<String> {
        let told = self.turns.iter().map(|turn| {
            let (rule, subject) = (&turn["alert"]["rule"], &turn["alert"]["subject"]);
            format!("{rule} {subject} {}", turn["event"])
        });
        told.collect()
    }

    /// Demands that each of these rules fired once and was over once, for one subject, and no other.
    pub(crate) fn each_once(&mut self, rules: &[&str]) -> Result<()> {
        while let Some(turn) = self.receiver.within(Duration::ZERO) {
            self.turns.push(turn.json());
        }
        let mut turns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for turn in &self.turns {
            let rule = turn["alert"]["rule"].as_str().context("a rule")?;
            turns.entry(rule).or_default().push(turn["event"].as_str().context("an event")?);
        }
        let once = vec!["firing", "resolved"];
        let expected = rules.iter().map(|rule| (*rule, once.clone())).collect();
        ensure!(turns == expected, "{:?}", self.told());
        Ok(())
    }
}
