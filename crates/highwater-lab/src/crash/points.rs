//! The places at which a node can be made to fail, and the order in which they have their turn.

use super::Role;
use super::trace::{Injection, When};
use crate::dice::Dice;

/// Some places; each has its turn once before any has it again.
#[derive(Clone, Debug, Default)]
pub struct Points {
    all: Vec<(Role, Injection)>,
    left: Vec<(Role, Injection)>,
}

impl Points {
    /// Adds places for a role.
    pub fn add(&mut self, role: Role, injections: impl IntoIterator<Item = Injection>) {
        self.all.extend(injections.into_iter().map(|injection| (role, injection)));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// Whose turn it is; `None` where there are none.
    pub fn next(&mut self, dice: &mut Dice) -> Option<(Role, Injection)> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            dice.shuffle(&mut self.left);
        }
        self.left.pop()
    }

    /// A place was never reached. A thread makes a few calls more or less each time; later ones
    /// would not be reached either.
    pub fn never_reached(&mut self, role: Role, injection: Injection) {
        let reached = |&(other_role, other): &(Role, Injection)| {
            other_role != role || !is_as_late(other, injection)
        };
        self.all.retain(reached);
        self.left.retain(reached);
    }
}

fn is_as_late(one: Injection, other: Injection) -> bool {
    match (one.when, other.when) {
        (When::Call(one_number), When::Call(other_number)) => {
            one.call == other.call && one_number >= other_number
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::Fault;
    use super::*;

    #[test]
    fn what_is_later_than_a_place_that_is_never_reached_has_no_turn_any_more() {
        let at = |number| Injection { call: "fsync", fault: Fault::Kill, when: When::Call(number) };
        let (mut points, mut dice) = (Points::default(), Dice::new(1));
        points.add(Role::Sender, (1..=4).map(at));
        points.add(Role::Receiver, (1..=4).map(at));
        points.never_reached(Role::Sender, at(3));
        assert_eq!(points.count(), 6);
        let mut turns: Vec<_> = (0..6).filter_map(|_| points.next(&mut dice)).collect();
        turns.sort_by_key(|(role, injection)| format!("{role:?} {injection:?}"));
        turns.dedup();
        assert_eq!(turns.len(), 6, "{turns:?}");
        assert!(!turns.contains(&(Role::Sender, at(3))));
    }
}
