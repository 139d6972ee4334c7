//! Having mended what a check judged: each node is sent its orders, and looked at again until what they
//! were about is in order, or nothing more comes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::check::{CheckAnswer, CheckAsk, Order, STATES_MAX};
use highwater_core::verdict::Why;
use highwater_core::{Key, NodeId};
use tokio::time::Instant;

use super::lead::{Judged, LOOK_PAUSES, Lead};
use super::member::Member;
use super::report::{Repair, RepairState};
use super::talk::Silence;
use super::words;

/// How long a repair may take while nothing of it gets done.
const REPAIR_WAIT: Duration = Duration::from_secs(30);

impl Lead {
    /// Sends what each node is to mend, and waits until it is mended.
    pub(super) async fn repair(&self, judged: Judged, repair: Repair) -> Result<(), Silence> {
        let own = self.own().node;
        let mut orders: BTreeMap<NodeId, Vec<Order>> = BTreeMap::new();
        let mut open = BTreeMap::new();
        for (key, (copies, judgement)) in judged {
            let concerned: BTreeSet<NodeId> = copies.iter().map(|copy| copy.node).collect();
            for (node, order) in judgement.remedy {
                let rot = matches!(order, Order::Refetch(_)) && node == own;
                if repair == Repair::Rot && (!rot || judgement.why != Why::Rotted) {
                    continue;
                }
                open.insert(key.clone(), concerned.clone());
                orders.entry(node).or_default().push(order);
            }
        }
        let wanted: BTreeSet<Key> = open.keys().cloned().collect();
        let members: BTreeMap<NodeId, Arc<Member>> =
            self.reachable().into_iter().map(|member| (member.node, member)).collect();
        for (node, orders) in orders {
            let Some(member) = members.get(&node) else { continue };
            for some in orders.chunks(STATES_MAX) {
                match member.ask(CheckAsk::Mend(some.to_vec())).await {
                    Ok(CheckAnswer::Mended(taken)) => {
                        for (order, taken) in some.iter().zip(taken) {
                            tracing::info!(key = %order.key(), %node, taken, "asked to mend");
                        }
                    }
                    Ok(_) => self.lost(member, Silence::Nonsense),
                    Err(silence) => self.lost(member, silence),
                }
            }
        }
        self.await_repair(&mut open).await?;
        let names = self.names();
        self.tell(|report| {
            let share = report.share.clone();
            for row in report.differences.iter_mut().filter(|row| wanted.contains(&row.key)) {
                row.repair = RepairState::Done;
                if open.contains_key(&row.key) {
                    row.repair = RepairState::Failed;
                    row.message = words::not_mended(&row.at, &share, &names);
                }
            }
            let planned =
                report.differences.iter_mut().filter(|r| r.repair == RepairState::Planned);
            planned.for_each(|row| row.repair = RepairState::None);
        });
        self.compare_all(&mut BTreeSet::new()).await
    }

    /// Looks at what is being mended until it is in order on every node that it concerned. A node that
    /// fell silent meanwhile is not taken for one that agrees.
    async fn await_repair(
        &self,
        open: &mut BTreeMap<Key, BTreeSet<NodeId>>,
    ) -> Result<(), Silence> {
        let mut progress_at = Instant::now();
        let mut pauses = LOOK_PAUSES.iter().copied();
        while !open.is_empty() && progress_at.elapsed() < REPAIR_WAIT {
            tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(1))).await;
            let judged = self.look(&open.keys().cloned().collect()).await?;
            let answer: BTreeSet<NodeId> = self.reachable().iter().map(|m| m.node).collect();
            let before = open.len();
            open.retain(|key, concerned| judged.contains_key(key) || !concerned.is_subset(&answer));
            if open.len() < before {
                progress_at = Instant::now();
            }
        }
        Ok(())
    }
}
