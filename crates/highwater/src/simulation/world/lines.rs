//! Links: dialled, broken, and what is said over them.

use std::sync::Arc;

use highwater_core::wire::Control;

use super::{DIAL_MAX, Happening, LINK_UP_MAX, World};
use crate::fetch::source::LinkId;
use crate::share::Event;
use crate::share::actor::Turn;
use crate::simulation::network::End;

impl World {
    pub(in crate::simulation) fn wire_of(&self, a: usize, b: usize) -> Option<usize> {
        self.pairs.iter().position(|&pair| pair == (a, b))
    }

    /// Lets somebody dial, if the two could be linked and are not.
    pub(in crate::simulation) fn dial_later(&mut self, wire: usize) {
        let (a, b) = self.pairs[wire];
        let up = self.nodes[a].life.is_some() && self.nodes[b].life.is_some();
        let link = &mut self.wires[wire];
        if up && !link.cut && link.ends.is_none() && !link.dialling {
            link.dialling = true;
            self.soon(DIAL_MAX, Happening::Dial { wire });
        }
    }

    pub(super) fn dial(&mut self, wire: usize) {
        let (a, b) = self.pairs[wire];
        self.wires[wire].dialling = false;
        let up = self.nodes[a].life.is_some() && self.nodes[b].life.is_some();
        if !up || self.wires[wire].cut || self.wires[wire].ends.is_some() {
            return;
        }
        self.links += 2;
        let (ids, lives) =
            ([self.links - 1, self.links], [self.nodes[a].lives, self.nodes[b].lives]);
        let (mut end_a, control_a) = End::new(a, lives[0], ids[0], self.nodes[b].id);
        let (mut end_b, control_b) = End::new(b, lives[1], ids[1], self.nodes[a].id);
        for (end, control) in [(&mut end_a, control_a), (&mut end_b, control_b)] {
            let source = Arc::clone(&end.source);
            let up = Event::LinkUp { source, control, fresh: true };
            self.tell(end.node, LINK_UP_MAX, Turn::Event(up));
            // A node hears of a link before it hears anything through it.
            end.last_arrival = self.clock.micros() + LINK_UP_MAX;
        }
        self.wires[wire].ends = Some([end_a, end_b]);
        self.note(a, "linked to", &b);
    }

    /// Ends a link; each side hears of it within `longest`.
    pub(in crate::simulation) fn break_wire(&mut self, wire: usize, longest: u64) {
        let Some(ends) = self.wires[wire].ends.take() else { return };
        self.judge.count("links broken", 1);
        for end in &ends {
            if self.is_life(end.node, end.life) {
                self.tell(end.node, longest, Turn::Event(Event::LinkDown(end.id)));
            }
        }
        self.dial_later(wire);
    }

    /// Takes what both ends have said and sends it on its way.
    pub(super) fn carry(&mut self, wire: usize) {
        let Some(mut ends) = self.wires[wire].ends.take() else { return };
        for from in 0..2 {
            let (to, link) = (ends[1 - from].node, ends[1 - from].id);
            while let Ok(message) = ends[from].outgoing.try_recv() {
                let travel = 50 + self.chance.below(self.habits.latency_max);
                let arrival = (self.now() + travel).max(ends[from].last_arrival + 1);
                ends[from].last_arrival = arrival;
                self.look_at_history(ends[from].node, &message);
                let message = Box::new(message);
                self.at(arrival, Happening::Arrives { wire, link, to, message });
            }
        }
        let closed = ends.iter().any(End::is_closed);
        self.wires[wire].ends = Some(ends);
        if closed {
            self.judge.count("links closed by a node", 1);
            self.break_wire(wire, 1_000);
        }
    }

    /// Counts the histories of a node beyond its first. There is none where no older state was put back and
    /// no announced content was lost: what peers had of a history is told to them again as new, and so
    /// what they deleted comes back.
    fn look_at_history(&mut self, node: usize, message: &Control) {
        let Control::Offer(offer) = message else { return };
        let before = self.nodes[node].offered.replace(offer.epoch);
        let anew = before.is_some_and(|before| before != offer.epoch);
        self.judge.count("histories begun anew", u64::from(anew));
        let open = self.nodes[node].life.as_ref().and_then(|life| life.actor.open.as_ref());
        let has_lost = open.is_some_and(|open| open.replica.lost_states().next().is_some());
        let put_back = self.judge.happened("restores") || self.judge.happened("stores lost");
        if anew && !has_lost && !put_back {
            let time = self.now();
            self.judge.broken(time, &format!("V1: node {node} begins a history anew for nothing"));
        }
    }

    pub(super) fn arrives(&mut self, wire: usize, link: LinkId, to: usize, message: Box<Control>) {
        if self.wires[wire].carries(link) && self.nodes[to].life.is_some() {
            self.note(to, "receives", &message);
            self.take_turn(to, Turn::Event(Event::Control(link, message)), false);
        }
    }
}
