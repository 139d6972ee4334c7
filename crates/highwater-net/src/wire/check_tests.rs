//! What a check asks and answers comes out as it went in; what breaks a rule is refused.

use highwater_core::check::{
    AskId, CheckAnswer, CheckAsk, CheckId, CheckRefusal, Claim, Damage, DamageCause, DeepProgress,
    Hold, ItemTag, KeyState, Look, Order, States, Stuck, Wanted,
};
use highwater_core::fingerprint::{Fingerprint, KeyRange, StateDigest};
use highwater_core::log::Actor;
use highwater_core::way::{NEAR_MAX, Near, Onward};
use highwater_core::wire::Control;
use highwater_core::{
    ContentHash, Entry, EntryKind, Hlc, Key, Mode, Mtime, NodeId, NodeTag, Seq, Version,
};

use super::{read_control, write_control};

fn key(path: &str) -> Key {
    path.parse().expect("a key")
}

fn entry(path: &str) -> Entry {
    let mtime = Mtime { seconds: -3, nanos: 7 };
    let content = ContentHash::of(b"content");
    Entry {
        key: key(path),
        kind: EntryKind::File { size: 7, content, mode: Mode::new(0o640), mtime },
        version: Version::from_counters([(Actor(1), Seq(1))]),
        stamp: Hlc(9),
        author: NodeTag::from_bytes([5; 5]),
    }
}

fn fingerprint() -> Fingerprint {
    let mut sum = Fingerprint::default();
    sum.add(&StateDigest::of(&key("a"), &entry("a").kind));
    sum
}

fn range(from: Option<&str>, before: Option<&str>) -> KeyRange {
    KeyRange { from: from.map(key), before: before.map(key) }
}

fn asks() -> Vec<CheckAsk> {
    let claim = |range| Claim { range, fingerprint: fingerprint() };
    let check = CheckId([7; 16]);
    vec![
        CheckAsk::Look(vec![claim(KeyRange::ALL), claim(range(Some("a/b"), Some("c")))]),
        CheckAsk::States(vec![key("a"), key("b/\u{5e9}")]),
        CheckAsk::Deep { check, rate: 5, from_disk: true },
        CheckAsk::Found { check: Some(check), after: Some(key("x")) },
        CheckAsk::Found { check: None, after: None },
        CheckAsk::Mend(vec![
            Order::Adopt(entry("a")),
            Order::Refetch(key("b")),
            Order::Record(entry("c")),
            Order::Rescan(key("d")),
        ]),
        onward([1, 2], CheckAsk::States(vec![key("a")])),
    ]
}

fn onward<const N: usize>(way: [u8; N], ask: CheckAsk) -> CheckAsk {
    let way = way.map(|n| NodeId::from_bytes([n; 32])).to_vec();
    CheckAsk::Onward(Onward { way, ask: Box::new(ask) })
}

fn states() -> Vec<KeyState> {
    let causes = [
        DamageCause::Rot,
        DamageCause::Hidden,
        DamageCause::Record,
        DamageCause::Unrecorded,
        DamageCause::Unreadable,
        DamageCause::Changing,
    ];
    let damages = causes.into_iter().map(|cause| Damage {
        cause,
        found: Some(entry("a").kind),
        range: Some((3, 9)),
    });
    let mut states: Vec<KeyState> =
        damages.map(|damage| KeyState { damage: Some(damage), ..KeyState::default() }).collect();
    for hold in [Hold::Ignored, Hold::SendOnly, Hold::ReceiveOnly, Hold::MassDelete] {
        states.push(KeyState { hold: Some(hold), ..KeyState::default() });
    }
    for stuck in [None, Some(Stuck::ContentLost), Some(Stuck::CannotPlace)] {
        let wanted = Some(Wanted { entry: entry("w"), stuck });
        let recorded = Some((Seq(4), Entry { kind: EntryKind::Tombstone, ..entry("r") }));
        states.push(KeyState { recorded, wanted, ..KeyState::default() });
    }
    states.push(KeyState {
        damage: Some(Damage { cause: DamageCause::Rot, found: None, range: None }),
        ..KeyState::default()
    });
    states
}

fn answers() -> Vec<CheckAnswer> {
    let items = vec![(key("a"), ItemTag([1; 16])), (key("b"), ItemTag([2; 16]))];
    let parts = vec![fingerprint(), Fingerprint::default()];
    let looks = vec![Look::Same, Look::Items(items), Look::Parts { cuts: vec![key("m")], parts }];
    let acked = vec![(NodeId::from_bytes([3; 32]), Seq(8))];
    let progress = DeepProgress { done: true, files: 1, bytes: 2, total: 3, found: 4 };
    let near = [(4, true), (5, false)];
    let near = near.map(|(n, linked)| Near { node: NodeId::from_bytes([n; 32]), linked }).to_vec();
    let mut answers = vec![
        CheckAnswer::Looked { all: fingerprint(), damaged: true, looks, near },
        CheckAnswer::States(States { caught_up: true, acked, states: states() }),
        CheckAnswer::Deep(progress),
        CheckAnswer::Found(vec![key("a"), key("b")]),
        CheckAnswer::Found(Vec::new()),
        CheckAnswer::Mended(vec![true, false]),
    ];
    let refusals =
        [CheckRefusal::NotOpen, CheckRefusal::NotNow, CheckRefusal::Failed, CheckRefusal::NoWay];
    answers.extend(refusals.map(CheckAnswer::Refused));
    answers
}

#[test]
fn every_question_and_answer_comes_out_as_it_went_in() {
    let share = || "docs".parse().expect("a share name");
    let asks =
        asks().into_iter().map(|ask| Control::CheckAsk { id: AskId(5), share: share(), ask });
    let answers = answers().into_iter().map(|answer| Control::CheckAnswer { id: AskId(6), answer });
    for message in asks.chain(answers) {
        let bytes = write_control(message.clone());
        assert_eq!(read_control(&bytes), Ok(message));
    }
}

#[test]
fn a_question_that_breaks_a_rule_is_refused() {
    let share = || "docs".parse().expect("a share name");
    let void = Claim { range: range(Some("c"), Some("a")), fingerprint: fingerprint() };
    let claim = Claim { range: KeyRange::ALL, fingerprint: fingerprint() };
    let states = || CheckAsk::States(vec![key("a")]);
    let rows = [
        (CheckAsk::Look(Vec::new()), "no range"),
        (CheckAsk::Look(vec![claim; 33]), "too many ranges"),
        (CheckAsk::Look(vec![void]), "a range that holds nothing"),
        (CheckAsk::States(Vec::new()), "no key"),
        (CheckAsk::States(vec![key("a"); 33]), "too many keys"),
        (CheckAsk::Mend(vec![Order::Refetch(key("a")); 33]), "too many orders"),
        (CheckAsk::Deep { check: CheckId([0; 16]), rate: u64::MAX, from_disk: false }, "a rate"),
        (onward([], states()), "no way"),
        (onward([1, 2, 3, 4, 5, 6, 7, 8, 9], states()), "a way that is too long"),
        (onward([1, 2, 1], states()), "a way in a circle"),
        (onward([1], onward([2], states())), "a way within a way"),
        (onward([1], CheckAsk::States(Vec::new())), "what breaks a rule at its end"),
    ];
    for (ask, why) in rows {
        let message = Control::CheckAsk { id: AskId(1), share: share(), ask };
        assert!(read_control(&write_control(message)).is_err(), "{why}");
    }
}

#[test]
fn an_answer_that_breaks_a_rule_is_refused() {
    let two = |a: &str, b: &str| vec![key(a), key(b)];
    let parts = |cuts, count| Look::Parts { cuts, parts: vec![Fingerprint::default(); count] };
    let told =
        |looks, near| CheckAnswer::Looked { all: fingerprint(), damaged: false, looks, near };
    let looked = |look| told(vec![look], Vec::new());
    let crowd = vec![Near { node: NodeId::from_bytes([4; 32]), linked: true }; NEAR_MAX + 1];
    let span = |range| {
        let damage = Damage { cause: DamageCause::Rot, found: None, range: Some(range) };
        let state = KeyState { damage: Some(damage), ..KeyState::default() };
        CheckAnswer::States(States { caught_up: true, acked: Vec::new(), states: vec![state] })
    };
    let rows = [
        (CheckAnswer::Found(two("b", "a")), "keys that fall"),
        (CheckAnswer::Found(two("a", "a")), "a key twice"),
        (looked(parts(Vec::new(), 1)), "no cut"),
        (looked(parts(two("a", "b"), 2)), "a part too few"),
        (CheckAnswer::Mended(Vec::new()), "no order"),
        (told(vec![Look::Same], crowd), "too many neighbours"),
        (span((9, 3)), "a span that ends before it begins"),
    ];
    for (answer, why) in rows {
        let message = Control::CheckAnswer { id: AskId(1), answer };
        assert!(read_control(&write_control(message)).is_err(), "{why}");
    }
}
