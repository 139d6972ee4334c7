//! Every state of a member meets every event that can be about it; and what each rule of the
//! machine promises.

use bytes::Bytes;

use super::watch::{INDIRECT_WAIT, LOOK_EVERY, SUSPICION};
use super::*;
use crate::member::{Facts, Seal, SealedCard, SealedOrder};

pub(super) fn id(n: u16) -> NodeId {
    let mut bytes = *blake3::hash(&n.to_le_bytes()).as_bytes();
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(bytes)
}

pub(super) fn card(n: u16, incarnation: u64) -> Card {
    let facts = Facts {
        id: id(n),
        incarnation,
        name: format!("node-{n}"),
        user: "someone".into(),
        version: "0".into(),
        mode: "cluster".into(),
        host: "127.0.0.1".into(),
        sync_port: n,
        http_port: n,
    };
    Card::verified(SealedCard { facts, seal: seal() })
}

fn seal() -> Seal {
    Seal { body: Bytes::new(), key: Bytes::new(), signature: Bytes::new() }
}

fn order(target: u16, number: u32, removed: bool, by: u16) -> Order {
    let decision = Decision { target: id(target), number, removed, by: id(by) };
    Order::verified(SealedOrder { decision, seal: seal() })
}

fn at(millis: u64) -> Time {
    Time::since_start(Duration::from_millis(millis))
}

/// A machine of node 0 that has links to nodes 1 and 2, and knows node 3 by hearsay. Each of them
/// has incarnation 5.
struct Bench {
    machine: Membership,
    now: Time,
    effects: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        let machine = Membership::new(at(0), card(0, 5), Vec::new(), Vec::new());
        let mut bench = Self { machine, now: at(0), effects: Vec::new() };
        bench.tell(Event::LinkUp(id(1)));
        bench.tell(Event::LinkUp(id(2)));
        bench.news(1, vec![card(1, 5), card(3, 5)]);
        bench.news(2, vec![card(2, 5)]);
        bench
    }

    fn tell(&mut self, event: Event) {
        self.machine.handle(self.now, event, &mut self.effects);
    }

    fn news(&mut self, from: u16, cards: Vec<Card>) {
        self.tell(Event::News(id(from), cards, Vec::new(), Vec::new()));
    }

    fn claim(&mut self, from: u16, about: u16, incarnation: u64, health: Health) {
        let claim = Claim { id: id(about), incarnation, health };
        self.tell(Event::News(id(from), Vec::new(), vec![claim], Vec::new()));
    }

    /// Lets time pass as the machine wants to be woken, while its links are heard.
    fn pass(&mut self, wait: Duration) {
        let until = self.now + wait;
        while self.now < until {
            self.now = self.machine.deadline().min(until);
            let peers: Vec<NodeId> = self.machine.neighbours.keys().copied().collect();
            for peer in peers {
                self.tell(Event::Heard { peer, ago: Duration::ZERO, silent: false });
            }
            self.tell(Event::TimePassed);
        }
    }

    fn state(&self, n: u16) -> Option<State> {
        self.machine.state_of(&id(n))
    }

    /// Brings a node into a state, by way of events alone.
    fn bring(&mut self, n: u16, state: State) {
        if state == State::Active {
            return;
        }
        self.tell(Event::LinkDown(id(n)));
        self.now = self.now + Duration::from_secs(9);
        self.machine.looked_at = self.now;
        let health = if state == State::Suspect { Health::Suspect } else { Health::Failed };
        self.claim(2, n, 5, health);
        if state == State::Left {
            let decision = self.machine.decide(id(n), true).expect("failed nodes are removed");
            self.tell(Event::Ordered(order(n, decision.number, true, 0)));
        }
        assert_eq!(self.state(n), Some(state));
        self.effects.clear();
    }

    fn sent(&self) -> impl Iterator<Item = (NodeId, &Message)> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Send(to, message) => Some((*to, message)),
            _ => None,
        })
    }
}

#[test]
fn every_state_meets_every_word_about_it() {
    use State::{Active, Failed, Left, Suspect};
    let said = |health| Claim { id: id(1), incarnation: 5, health };
    let old = Claim { id: id(1), incarnation: 4, health: Health::Failed };
    let future = Claim { id: id(1), incarnation: 6, health: Health::Failed };
    let claims = |claim| Event::News(id(2), vec![], vec![claim], vec![]);
    let cards = |incarnation| Event::News(id(2), vec![card(1, incarnation)], vec![], vec![]);
    let orders = |order| Event::News(id(2), vec![], vec![], vec![order]);
    let events = [
        ("an older card", cards(4), [Active, Suspect, Failed, Left]),
        ("the same card", cards(5), [Active, Suspect, Failed, Left]),
        ("a newer card", cards(6), [Active, Active, Active, Left]),
        ("suspected", claims(said(Health::Suspect)), [Suspect, Suspect, Failed, Left]),
        ("failed", claims(said(Health::Failed)), [Failed, Failed, Failed, Left]),
        ("an older card failed", claims(old), [Active, Suspect, Failed, Left]),
        ("a card nobody signed failed", claims(future), [Active, Suspect, Failed, Left]),
        ("removed", orders(order(1, 1, true, 2)), [Active, Suspect, Left, Left]),
        ("removed by a stranger", orders(order(1, 1, true, 9)), [Active, Suspect, Failed, Left]),
        (
            "removed, absurd number",
            orders(order(1, 1000, true, 2)),
            [Active, Suspect, Failed, Left],
        ),
        ("let in again", orders(order(1, 2, false, 2)), [Active, Suspect, Failed, Failed]),
        ("a link", Event::LinkUp(id(1)), [Active, Suspect, Failed, Left]),
        ("no link", Event::LinkDown(id(1)), [Active, Suspect, Failed, Left]),
        ("no link needed", Event::LinkClosed(id(1)), [Active, Suspect, Failed, Left]),
        ("expected", Event::Expected(id(1)), [Active, Suspect, Failed, Left]),
        ("time", Event::TimePassed, [Active, Suspect, Failed, Left]),
    ];
    for (name, event, expected) in events {
        for (state, expected) in [Active, Suspect, Failed, Left].into_iter().zip(expected) {
            let mut bench = Bench::new();
            // Long unheard, so that nobody is spared as heard lately.
            bench.tell(Event::LinkClosed(id(1)));
            bench.now = at(9000);
            bench.machine.looked_at = at(9000);
            bench.bring(1, state);
            bench.tell(event.clone());
            assert_eq!(bench.state(1), Some(expected), "{state} meets {name}");
        }
    }
}

#[test]
fn a_killed_neighbour_is_suspect_within_three_seconds_and_failed_within_ten() {
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(5));
    bench.tell(Event::LinkDown(id(1)));
    bench.pass(Duration::from_millis(1500));
    assert_eq!(bench.state(1), Some(State::Suspect));
    bench.pass(Duration::from_millis(5500));
    assert_eq!(bench.state(1), Some(State::Failed));
}

#[test]
fn a_neighbour_that_a_helper_reaches_is_not_suspected() {
    let mut bench = Bench::new();
    bench.effects.clear();
    bench.tell(Event::LinkDown(id(1)));
    let asked = bench.sent().find_map(|(to, message)| match message {
        Message::Probe { target, number } if *target == id(1) => Some((to, *number)),
        _ => None,
    });
    let (helper, number) = asked.expect("a helper is asked");
    assert_eq!(helper, id(2));
    bench.tell(Event::Probed { number, alive: true });
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.state(1), Some(State::Active));
}

#[test]
fn when_every_helper_has_failed_nobody_waits_longer_than_a_redial_takes() {
    for silent in [false, true] {
        let mut bench = Bench::new();
        bench.pass(Duration::from_secs(5));
        bench.effects.clear();
        bench.tell(Event::LinkDown(id(1)));
        let number = bench.sent().find_map(|(_, message)| match message {
            Message::Probe { number, .. } => Some(*number),
            _ => None,
        });
        if !silent {
            bench.tell(Event::Probed { number: number.expect("asked"), alive: false });
        }
        bench.pass(Duration::from_millis(500));
        assert_eq!(bench.state(1), Some(State::Active), "a redial may still succeed");
        bench.pass(Duration::from_millis(200));
        let expected = if silent { State::Active } else { State::Suspect };
        assert_eq!(bench.state(1), Some(expected));
    }
}

#[test]
fn a_node_that_wakes_late_gives_others_more_time() {
    let mut bench = Bench::new();
    for _ in 0..6 {
        bench.now = bench.now + LOOK_EVERY + Duration::from_millis(700);
        bench.tell(Event::TimePassed);
    }
    bench.tell(Event::LinkDown(id(1)));
    bench.pass(INDIRECT_WAIT * 4);
    assert_eq!(bench.state(1), Some(State::Active));
    bench.pass(INDIRECT_WAIT);
    assert_eq!(bench.state(1), Some(State::Suspect));
    bench.pass(SUSPICION * 2);
    assert_eq!(bench.state(1), Some(State::Suspect));
}

#[test]
fn a_member_without_a_link_is_suspected_when_its_signs_of_life_stop() {
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.state(3), Some(State::Active));
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.state(3), Some(State::Suspect));
    bench.pass(SUSPICION);
    assert_eq!(bench.state(3), Some(State::Failed));
}

#[test]
fn a_claim_about_this_node_is_contradicted_and_an_unheard_of_card_is_not_claimed_away() {
    let mut bench = Bench::new();
    bench.effects.clear();
    for incarnation in [4, 6, u64::MAX] {
        bench.claim(1, 0, incarnation, Health::Failed);
        assert!(!bench.effects.contains(&Effect::Sign(incarnation.wrapping_add(1))));
    }
    bench.claim(1, 0, 5, Health::Suspect);
    assert!(bench.effects.contains(&Effect::Sign(6)));
    bench.tell(Event::OwnCard(card(0, 6)));
    bench.effects.clear();
    bench.pass(Duration::from_millis(60));
    let told = bench.sent().filter(|(_, message)| {
        matches!(message, Message::News(gossip) if gossip.cards.iter().any(|c| c.facts.incarnation == 6))
    });
    assert_eq!(told.count(), 2, "both neighbours are told");
}

#[test]
fn a_storm_of_false_claims_is_contradicted_a_few_times_at_once_and_then_now_and_then() {
    let mut bench = Bench::new();
    let mut signed = 0;
    for _ in 0..600 {
        let own = bench.machine.own().facts().incarnation;
        bench.effects.clear();
        bench.claim(1, 0, own, Health::Suspect);
        bench.pass(Duration::from_millis(100));
        let wanted = bench.effects.iter().find_map(|effect| match effect {
            Effect::Sign(incarnation) => Some(*incarnation),
            _ => None,
        });
        if let Some(incarnation) = wanted {
            signed += 1;
            bench.tell(Event::OwnCard(card(0, incarnation)));
        }
    }
    assert!((25..=45).contains(&signed), "{signed} cards in a minute");
}

#[test]
fn who_was_heard_a_moment_ago_is_only_suspected_on_the_word_of_others() {
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(2));
    bench.claim(2, 1, 5, Health::Failed);
    assert_eq!(bench.state(1), Some(State::Suspect));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.state(1), Some(State::Suspect), "there is a link to it: it lives");
}

#[test]
fn a_node_that_works_cannot_be_removed_and_one_that_was_stays_so_until_it_is_let_in() {
    let mut bench = Bench::new();
    let refused = bench.machine.decide(id(1), true);
    assert_eq!(refused, Err(OrderError::StillThere(id(1), State::Active)));
    assert_eq!(bench.machine.decide(id(0), true), Err(OrderError::Own));
    assert_eq!(bench.machine.decide(id(9), true), Err(OrderError::Unknown(id(9))));
    assert_eq!(bench.machine.decide(id(1), false), Err(OrderError::NotRemoved(id(1))));
    bench.bring(1, State::Left);
    assert_eq!(bench.machine.decide(id(1), true), Err(OrderError::Already(id(1))));
    bench.news(2, vec![card(1, 77)]);
    assert_eq!(bench.state(1), Some(State::Left));
    let decision = bench.machine.decide(id(1), false).expect("it was removed");
    bench.tell(Event::Ordered(order(1, decision.number, false, 0)));
    bench.news(2, vec![card(1, 78)]);
    assert_eq!(bench.state(1), Some(State::Active));
}

#[test]
fn what_a_neighbour_lacks_is_found_by_its_roll_and_told_once() {
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(1));
    bench.effects.clear();
    bench.tell(Event::Roll(id(1), Vec::new()));
    bench.pass(Duration::from_millis(100));
    let cards: Vec<NodeId> = bench
        .sent()
        .filter(|(to, _)| *to == id(1))
        .filter_map(|(_, message)| match message {
            Message::News(gossip) => Some(gossip.cards.iter().map(|card| card.facts.id)),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(cards.len(), 4, "{cards:?}");
    bench.effects.clear();
    let roll = bench.machine.roll_for_tests();
    bench.tell(Event::Roll(id(1), roll));
    bench.pass(Duration::from_millis(100));
    let news = bench.sent().filter(|(_, message)| matches!(message, Message::News(_))).count();
    assert_eq!(news, 0, "it knows everything");
}

#[test]
fn a_flood_of_invented_members_is_bounded_and_neighbours_still_come_in() {
    let mut bench = Bench::new();
    let many: Vec<Card> = (100..3000).map(|n| card(n, 1)).collect();
    bench.news(1, many);
    assert_eq!(bench.machine.members.len(), MEMBERS_MAX);
    bench.claim(1, 100, 1, Health::Suspect);
    bench.pass(INDIRECT_WAIT + SUSPICION + Duration::from_secs(1));
    bench.tell(Event::LinkUp(id(5000)));
    bench.news(5000, vec![card(5000, 1)]);
    assert_eq!(bench.state(5000), Some(State::Active));
    assert_eq!(bench.machine.members.len(), MEMBERS_MAX);
}

#[test]
fn a_process_that_was_stopped_blames_nobody() {
    let mut bench = Bench::new();
    bench.pass(Duration::from_secs(2));
    bench.now = bench.now + Duration::from_secs(3600);
    bench.tell(Event::TimePassed);
    assert_eq!(bench.state(3), Some(State::Active));
    assert_eq!(bench.state(1), Some(State::Active));
}

#[test]
fn what_failed_is_remembered_as_failed_over_a_restart() {
    let mut bench = Bench::new();
    bench.bring(1, State::Failed);
    let (members, orders) = bench.machine.saved();
    let machine = Membership::new(at(0), card(0, 6), members, orders);
    assert_eq!(machine.state_of(&id(1)), Some(State::Failed));
    assert_eq!(machine.state_of(&id(2)), Some(State::Active));
}
