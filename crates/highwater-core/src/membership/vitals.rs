//! Signs of life of members that this node has no link to, and what they count about themselves.
//!
//! Every node numbers its own signs of life, one in each round. In each round it tells one neighbour
//! the freshest it has of everybody; so in a cluster of hundreds they reach all in some ten rounds,
//! at the cost of one message a round and node. Ages travel, never times of day: nobody's clock
//! matters.

use std::collections::BTreeMap;
use std::time::Duration;

use super::watch::LOOK_EVERY;
use super::{Effect, Membership, Message};
use crate::clock::Time;
use crate::id::NodeId;
use crate::member::{VITAL_ROWS_MAX, VitalRow, Vitals};

/// A round of a small cluster: one look of the machine.
const ROUND: Duration = LOOK_EVERY;
/// A round is this much longer for every so many members.
const ROUND_MEMBERS: usize = 100;
/// A member that gave no sign of life for this many rounds is suspected: three times what one
/// takes to cross a cluster of hundreds.
const UNHEARD_ROUNDS: u32 = 30;

impl Membership {
    fn round(&self) -> Duration {
        ROUND * (1 + (self.members.len() / ROUND_MEMBERS) as u32)
    }

    /// How long a member without a link may be unheard.
    pub(super) fn unheard_max(&self) -> Duration {
        self.round() * UNHEARD_ROUNDS
    }

    pub(super) fn vitals_due(&self) -> Time {
        (self.vitals_at + self.round()).rounded_down(LOOK_EVERY)
    }

    /// Tells the next neighbour what is known, if a round has passed.
    pub(super) fn spread_vitals(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if now < self.vitals_due() {
            return;
        }
        self.vitals_at = now;
        self.beat += 1;
        self.vitals_turn = self.vitals_turn.wrapping_add(1);
        let turn = self.vitals_turn % self.neighbours.len().max(1);
        let Some(peer) = self.neighbours.keys().nth(turn).copied() else { return };
        let (digest, rows) = (self.digest(), self.vital_rows(now));
        effects.push(Effect::Send(peer, Message::Vitals(Vitals { digest, wall_millis: 0, rows })));
    }

    fn vital_rows(&self, now: Time) -> Vec<VitalRow> {
        let own = VitalRow {
            member: prefix(&self.own_id()),
            incarnation: self.own.facts().incarnation,
            beat: self.beat,
            age_millis: 0,
            load: self.load,
        };
        let unheard_max = self.unheard_max();
        let others = self.members.iter().filter(|(_, m)| now.since(m.seen) < unheard_max);
        let mut others: Vec<VitalRow> = others
            .map(|(id, member)| VitalRow {
                member: prefix(id),
                incarnation: member.beat.0,
                beat: member.beat.1,
                age_millis: now.since(member.seen).as_millis() as u64,
                load: member.load,
            })
            .collect();
        others.sort_by_key(|row| row.age_millis);
        std::iter::once(own).chain(others).take(VITAL_ROWS_MAX).collect()
    }

    pub(super) fn take_vitals(
        &mut self,
        now: Time,
        from: NodeId,
        vitals: &Vitals,
        effects: &mut Vec<Effect>,
    ) {
        let ids: BTreeMap<[u8; 8], NodeId> =
            self.members.keys().map(|id| (prefix(id), *id)).collect();
        for row in &vitals.rows {
            let Some(id) = ids.get(&row.member) else { continue };
            let Some(member) = self.members.get_mut(id) else { continue };
            let newer = (row.incarnation, row.beat) > member.beat;
            // Of an incarnation that nobody here has seen a card of, nothing is believed.
            if newer && row.incarnation <= member.incarnation() {
                member.beat = (row.incarnation, row.beat);
                member.load = row.load;
                let seen = now - Duration::from_millis(row.age_millis);
                if seen > member.seen {
                    self.vouched(seen, *id);
                }
            }
        }
        if self.note_digest(now, from, vitals.digest) {
            self.send_roll(from, effects);
        }
    }
}

fn prefix(id: &NodeId) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&id.as_bytes()[..8]);
    prefix
}
