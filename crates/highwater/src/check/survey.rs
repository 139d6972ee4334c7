//! Finding the nodes of a check: asks everybody about everything, near ones first, and hears from each
//! who else there is. Carries out what [`highwater_core::way::Survey`] decides.
//!
//! What the nodes answer is the first step of the comparison already, so that a check of equal copies
//! takes one question to each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::check::{CheckAnswer, CheckAsk, Claim};
use highwater_core::fingerprint::{Fingerprint, KeyRange};
use highwater_core::way::{Near, Survey};
use highwater_core::{NodeId, ShareName};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::member::{Member, REACH_WAIT, Reach};
use super::talk::Silence;

/// How long a link with a listed peer is waited for before the peer is asked through others: as long as
/// dialling takes on a line of 100 ms.
const DIRECT_WAIT: Duration = Duration::from_secs(1);
/// How long the search goes on while it finds somebody now and then.
const SEARCH_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks for links that have come up.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is to be found.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) share: ShareName,
    /// The peers that this node lists for it, by name.
    pub(crate) listed: BTreeMap<NodeId, String>,
    /// Who is looked for; empty for all.
    pub(crate) chosen: BTreeSet<NodeId>,
    pub(crate) reach: Arc<dyn Reach>,
}

/// A node that was found.
#[derive(Debug)]
pub(crate) struct FoundNode {
    pub(crate) member: Arc<Member>,
    /// What it answered when it was asked about everything; or why it did not.
    pub(crate) answer: Result<CheckAnswer, Silence>,
}

impl Search {
    /// Finds all that can be reached, and names the others; `ours` is all that this node has.
    pub(crate) async fn run(&self, ours: Fingerprint) -> Vec<FoundNode> {
        let names = self.reach.names().await;
        let listed = self.listed.keys().copied();
        let mut survey = Survey::new(self.reach.own(), listed, self.chosen.clone());
        let mut answers: BTreeMap<NodeId, FoundNode> = BTreeMap::new();
        let mut asking = JoinSet::new();
        let (began, mut progress_at) = (Instant::now(), Instant::now());
        while !(survey.is_complete() && asking.is_empty()) && began.elapsed() < SEARCH_WAIT_MAX {
            let linked = self.listed.keys().filter(|node| self.reach.link(node).is_some());
            linked.for_each(|node| survey.linked(*node));
            for (node, way) in survey.ask(began.elapsed() < DIRECT_WAIT) {
                let member = Arc::new(self.member(node, way, &names));
                asking.spawn(ask_about_everything(member, ours));
            }
            if asking.is_empty() && progress_at.elapsed() >= REACH_WAIT {
                break;
            }
            tokio::select! {
                Some(Ok(found)) = asking.join_next() => {
                    self.heard(&found, &mut survey);
                    progress_at = Instant::now();
                    answers.insert(found.member.node, found);
                }
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        let absent = |node| FoundNode {
            member: Arc::new(self.member(node, Vec::new(), &names)),
            answer: Err(Silence::Unreachable),
        };
        let nodes = survey.nodes().map(|(node, _)| node);
        nodes.map(|node| answers.remove(&node).unwrap_or_else(|| absent(node))).collect()
    }

    fn heard(&self, found: &FoundNode, survey: &mut Survey) {
        let node = found.member.node;
        match &found.answer {
            Ok(CheckAnswer::Looked { near, .. }) => {
                let there = near.iter().filter(|near| !self.reach.is_removed(&near.node));
                survey.answered(node, &there.copied().collect::<Vec<Near>>());
            }
            // It is there, and makes no sense: another way to it would not help.
            Ok(_) | Err(Silence::Nonsense) => survey.answered(node, &[]),
            Err(_) => survey.silent(node),
        }
    }

    fn member(&self, node: NodeId, way: Vec<NodeId>, names: &BTreeMap<NodeId, String>) -> Member {
        let name = self.listed.get(&node).or_else(|| names.get(&node)).cloned();
        let name = name.unwrap_or_else(|| node.tag().to_string());
        Member::peer(node, name, self.share.clone(), Arc::clone(&self.reach), way)
    }
}

async fn ask_about_everything(member: Arc<Member>, ours: Fingerprint) -> FoundNode {
    let claim = Claim { range: KeyRange::ALL, fingerprint: ours };
    let answer = member.ask(CheckAsk::Look(vec![claim])).await;
    FoundNode { member, answer }
}
