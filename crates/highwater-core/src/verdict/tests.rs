//! Every cause of a difference, from what copies say of themselves.

use super::*;
use crate::check::Wanted;
use crate::clock::{Hlc, Mtime};
use crate::content::ContentHash;
use crate::entry::Mode;
use crate::id::NodeTag;
use crate::log::Actor;
use crate::version::Version;

const A: NodeId = NodeId::from_bytes([1; 32]);
const B: NodeId = NodeId::from_bytes([2; 32]);
const C: NodeId = NodeId::from_bytes([3; 32]);

fn file(content: &str) -> EntryKind {
    let (size, content) = (content.len() as u64, ContentHash::of(content.as_bytes()));
    let mtime = Mtime { seconds: 1, nanos: 0 };
    EntryKind::File { size, content, mode: Mode::new(0o644), mtime }
}

fn entry(seq: u64, kind: EntryKind) -> Entry {
    Entry {
        key: "k".parse().expect("a key"),
        kind,
        version: Version::from_counters([(Actor(1), Seq(seq))]),
        stamp: Hlc(1),
        author: NodeTag::from_bytes([0; 5]),
    }
}

/// A copy of one of three nodes that have told each other everything.
fn copy(node: NodeId, recorded: Option<Entry>) -> Copy {
    let acked = [A, B, C].into_iter().filter(|peer| *peer != node).map(|peer| (peer, Seq(99)));
    let state = KeyState { recorded: recorded.map(|entry| (Seq(7), entry)), ..KeyState::default() };
    Copy { node, state, caught_up: true, acked: acked.collect() }
}

fn wanting(mut copy: Copy, entry: Entry, stuck: Option<Stuck>) -> Copy {
    copy.state.wanted = Some(Wanted { entry, stuck });
    copy
}

fn damaged(mut copy: Copy, cause: DamageCause, found: Option<EntryKind>) -> Copy {
    copy.state.damage = Some(Damage { cause, found, range: None });
    copy
}

fn held(mut copy: Copy, hold: Hold) -> Copy {
    copy.state.hold = Some(hold);
    copy
}

fn untold(mut copy: Copy) -> Copy {
    copy.acked.iter_mut().for_each(|(_, acked)| *acked = Seq(1));
    copy
}

/// A name, the copies, and what is to be judged: cause, why, where, how many orders.
type Row = (&'static str, Vec<Copy>, Cause, Why, Vec<NodeId>, usize);

fn demand(rows: Vec<Row>) {
    for (name, copies, cause, why, at, orders) in rows {
        let judged = judge(&copies).unwrap_or_else(|| panic!("{name}: nothing is wrong"));
        let told = (judged.cause, judged.why, judged.at.clone(), judged.remedy.len());
        assert_eq!(told, (cause, why, at, orders), "{name}");
    }
}

fn old() -> Entry {
    entry(1, file("old"))
}

fn new() -> Entry {
    entry(2, file("new"))
}

fn a(entry: Entry) -> Copy {
    copy(A, Some(entry))
}

fn b(entry: Entry) -> Copy {
    copy(B, Some(entry))
}

#[test]
fn a_node_that_has_something_else_is_behind_or_about_to_have_it() {
    use Cause::{Content, Extra, Missing, Pending};
    let (c, gone) = (copy(C, Some(new())), entry(3, EntryKind::Tombstone));
    let wants = |stuck| vec![a(new()), wanting(b(old()), new(), stuck)];
    let (lost, placed) = (Some(Stuck::ContentLost), Some(Stuck::CannotPlace));
    let none = |node| copy(node, None);
    let one = vec![B];
    demand(vec![
        ("told", vec![untold(a(new())), b(old()), c.clone()], Content, Why::Behind, one.clone(), 1),
        ("untold", vec![untold(a(new())), b(old())], Pending, Why::OnItsWay, one.clone(), 0),
        ("wants it", wants(None), Pending, Why::OnItsWay, one.clone(), 0),
        ("cannot place it", wants(placed), Content, Why::HeldUp, one.clone(), 0),
        ("nobody has it", wants(lost), Content, Why::ContentLost, one.clone(), 0),
        ("missing", vec![a(new()), none(B), c], Missing, Why::Behind, one.clone(), 1),
        ("extra", vec![a(new()), none(B), none(C)], Extra, Why::Behind, vec![A], 2),
        ("deleted elsewhere", vec![a(gone), b(new())], Extra, Why::Behind, one, 1),
    ]);
}

#[test]
fn what_nothing_orders_is_left_as_it_is() {
    let mut dressed = new();
    if let EntryKind::File { mode, .. } = &mut dressed.kind {
        *mode = Mode::new(0o600);
    }
    let other = entry(2, file("other"));
    let ignored = held(copy(B, None), Hold::Ignored);
    let both = vec![A, B];
    let (why, held_up) = (Why::OneVersion, Why::HeldUp);
    demand(vec![
        ("one version", vec![a(new()), b(other)], Cause::Content, why, both.clone(), 0),
        ("one version, two modes", vec![a(new()), b(dressed)], Cause::Metadata, why, both, 0),
        ("ignored", vec![a(new()), ignored], Cause::Missing, held_up, vec![B], 0),
    ]);
}

#[test]
fn a_folder_that_is_not_as_recorded_is_told_by_how_it_came_about() {
    use Cause::{Content, Corrupt, Pending};
    use DamageCause::{Changing, Hidden, Rot, Unreadable, Unrecorded};
    let beside = |copy| vec![a(new()), copy];
    let hurt = |cause, found: Option<&str>| damaged(b(new()), cause, found.map(file));
    let forged = damaged(b(entry(2, file("x"))), Rot, Some(file("new")));
    let rotten = vec![damaged(a(new()), Rot, Some(file("y"))), hurt(Rot, Some("x"))];
    let one = vec![B];
    demand(vec![
        ("rotted", beside(hurt(Rot, Some("x"))), Corrupt, Why::Rotted, one.clone(), 1),
        ("rotted everywhere", rotten, Corrupt, Why::Rotted, vec![A, B], 0),
        ("hidden", beside(hurt(Hidden, Some("x"))), Corrupt, Why::HiddenChange, one.clone(), 1),
        ("bad record", beside(forged), Corrupt, Why::BadRecord, one.clone(), 1),
        ("edit", beside(hurt(Unrecorded, Some("x"))), Content, Why::NotTakenIn, one.clone(), 1),
        ("written", beside(hurt(Changing, None)), Pending, Why::BeingWritten, one.clone(), 0),
        ("unreadable", beside(hurt(Unreadable, None)), Corrupt, Why::Unreadable, one, 1),
    ]);
}

#[test]
fn what_looks_the_same_is_the_same_whatever_the_versions() {
    let same = file("same");
    let copies = [copy(A, Some(entry(1, same.clone()))), copy(B, Some(entry(2, same)))];
    assert_eq!(judge(&copies), None);
    let gone = [copy(A, Some(entry(4, EntryKind::Tombstone))), copy(B, None)];
    assert_eq!(judge(&gone), None);
}

#[test]
fn most_nodes_are_not_right_because_they_are_most() {
    let (old, new) = (entry(1, file("old")), entry(2, file("new")));
    let copies = [copy(A, Some(old.clone())), copy(B, Some(old)), copy(C, Some(new.clone()))];
    let judged = judge(&copies).expect("a difference");
    assert_eq!((judged.at, judged.right), (vec![A, B], vec![C]));
    assert_eq!(judged.remedy, [(A, Order::Adopt(new.clone())), (B, Order::Adopt(new))]);
}
