//! What a difference between copies means: its cause, who is right, and what would mend it.
//!
//! Right is what recorded history proves, never what most nodes have: a state whose version includes
//! every other, held by a node whose folder still agrees with its record. Where nothing proves it,
//! nothing is mended, and it is said so.

use serde::{Deserialize, Serialize};

use crate::check::{Damage, DamageCause, Hold, KeyState, Order, Stuck};
use crate::entry::{Entry, EntryKind};
use crate::id::NodeId;
use crate::log::Seq;
use crate::version::VersionOrder;

/// One node's copy of a key, as it told of it.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Whose.
    pub node: NodeId,
    /// What it told.
    pub state: KeyState,
    /// Whether it has taken in all that its peers have told it, and they all that it has.
    pub caught_up: bool,
    /// How far the peers that it is connected to have acknowledged its log.
    pub acked: Vec<(NodeId, Seq)>,
}

impl Copy {
    /// What it has on record, a deletion among it.
    fn entry(&self) -> Option<&Entry> {
        self.state.recorded.as_ref().map(|(_, entry)| entry)
    }

    /// Whether `node` has acknowledged what is on record here; `None` when the two do not talk.
    fn has_told(&self, node: NodeId) -> Option<bool> {
        let (_, acked) = self.acked.iter().find(|(peer, _)| *peer == node)?;
        self.state.recorded.as_ref().map(|(seq, _)| acked >= seq)
    }
}

/// The kind of a difference, as the interface names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Replication has not carried it over yet.
    Pending,
    /// A node does not have it.
    Missing,
    /// A node has it that should not.
    Extra,
    /// Other bytes.
    Content,
    /// The same bytes under another mode or time.
    Metadata,
    /// A node's bytes, or its record, are not what that node itself recorded.
    Corrupt,
}

impl Cause {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Pending => "pending",
            Cause::Missing => "missing",
            Cause::Extra => "extra",
            Cause::Content => "content",
            Cause::Metadata => "metadata",
            Cause::Corrupt => "corrupt",
        }
    }
}

/// What is thought of one difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Its kind.
    pub cause: Cause,
    /// The nodes that are not as they should be, or that hold it up.
    pub at: Vec<NodeId>,
    /// The nodes that have what is right.
    pub right: Vec<NodeId>,
    /// What keeps a node different on purpose.
    pub hold: Option<Hold>,
    /// Why, beyond the kind.
    pub why: Why,
    /// What would mend it, by node; empty when nothing is proved.
    pub remedy: Vec<(NodeId, Order)>,
}

/// What a judgement rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// A newer state is on its way.
    OnItsWay,
    /// A node has been told of a newer state, and holds it back or cannot place it.
    HeldUp,
    /// No node has the content of the newest state any more.
    ContentLost,
    /// A node has an older state and has not been told of the newer one.
    Behind,
    /// Nodes have different states under one version.
    OneVersion,
    /// The states were made independently of each other and have not been settled.
    Unsettled,
    /// Bytes changed that nobody edited.
    Rotted,
    /// Bytes changed while size and modification time were kept.
    HiddenChange,
    /// The node's record is wrong and its file is right.
    BadRecord,
    /// The node does not take in what stands in its folder.
    NotTakenIn,
    /// The file cannot be read.
    Unreadable,
    /// The file is being written.
    BeingWritten,
}

/// Judges the copies of one key; `None` when they are the same and nothing is wrong with any.
pub fn judge(copies: &[Copy]) -> Option<Judgement> {
    let damaged: Vec<&Copy> = copies.iter().filter(|copy| copy.state.damage.is_some()).collect();
    if let Some(judgement) = of_damage(copies, &damaged) {
        return Some(judgement);
    }
    if all_equal(copies) {
        return None;
    }
    let newest = newest(copies);
    match newest {
        Newest::One(entry) => Some(against(copies, entry)),
        Newest::Rivals => Some(of_rivals(copies)),
        Newest::Twice => Some(of_one_version(copies)),
    }
}

/// The live kind that a node has on record.
fn recorded(copy: &Copy) -> Option<&EntryKind> {
    copy.entry().map(|entry| &entry.kind).filter(|kind| kind.is_live())
}

fn all_equal(copies: &[Copy]) -> bool {
    copies.windows(2).all(|pair| recorded(&pair[0]) == recorded(&pair[1]))
}

/// What the records say is the latest.
enum Newest<'a> {
    /// One state includes all others.
    One(&'a Entry),
    /// Two include neither the other.
    Rivals,
    /// Two of one version differ.
    Twice,
}

fn newest(copies: &[Copy]) -> Newest<'_> {
    let entries: Vec<&Entry> = copies.iter().filter_map(Copy::entry).collect();
    let includes_all =
        |entry: &&&Entry| entries.iter().all(|other| entry.version.includes(&other.version));
    let Some(newest) = entries.iter().find(includes_all) else { return Newest::Rivals };
    let twice = entries.iter().any(|other| {
        other.version.compare(&newest.version) == VersionOrder::Equal && other.kind != newest.kind
    });
    if twice { Newest::Twice } else { Newest::One(newest) }
}

/// One recorded state is the newest: what of the others?
fn against(copies: &[Copy], newest: &Entry) -> Judgement {
    let live = Some(&newest.kind).filter(|kind| kind.is_live());
    let (right, wrong): (Vec<&Copy>, Vec<&Copy>) =
        copies.iter().partition(|copy| recorded(copy) == live);
    let ids = |copies: &[&Copy]| copies.iter().map(|copy| copy.node).collect::<Vec<NodeId>>();
    let hold = wrong.iter().find_map(|copy| copy.state.hold);
    let (at, right_ids) = (ids(&wrong), ids(&right));
    let pending = wrong.iter().all(|copy| is_under_way(copy, newest, &right, copies));
    let lost = wrong.iter().any(|copy| is_stuck(copy, Stuck::ContentLost));
    let held_up = wrong.iter().any(|copy| is_stuck(copy, Stuck::CannotPlace));
    let why = match (hold.is_some(), lost, held_up, pending) {
        (true, ..) => Why::HeldUp,
        (_, true, ..) => Why::ContentLost,
        (_, _, true, _) => Why::HeldUp,
        (_, _, _, true) => Why::OnItsWay,
        _ => Why::Behind,
    };
    if why == Why::OnItsWay {
        return Judgement {
            cause: Cause::Pending,
            at,
            right: right_ids,
            hold,
            why,
            remedy: vec![],
        };
    }
    let only_one_knows = right.len() == 1
        && wrong.len() > 1
        && wrong.iter().all(|copy| copy.state.recorded.is_none() && copy.state.wanted.is_none());
    if only_one_knows && hold.is_none() {
        let remedy = adopt(&wrong, newest);
        return Judgement { cause: Cause::Extra, at: right_ids, right: vec![], hold, why, remedy };
    }
    let cause = wrong.iter().map(|copy| cause_of(recorded(copy), live)).max();
    let remedy = if why == Why::Behind { adopt(&wrong, newest) } else { Vec::new() };
    Judgement { cause: cause.unwrap_or(Cause::Content), at, right: right_ids, hold, why, remedy }
}

fn adopt(wrong: &[&Copy], newest: &Entry) -> Vec<(NodeId, Order)> {
    wrong.iter().map(|copy| (copy.node, Order::Adopt(newest.clone()))).collect()
}

/// Whether a node that lacks the newest state is going to have it: it wants it, or nobody that has
/// it has told it yet.
fn is_under_way(copy: &Copy, newest: &Entry, holders: &[&Copy], all: &[Copy]) -> bool {
    match &copy.state.wanted {
        Some(wanted) if wanted.entry.version.includes(&newest.version) => wanted.stuck.is_none(),
        _ => {
            let mut told =
                holders.iter().filter_map(|holder| holder.has_told(copy.node)).peekable();
            match told.peek() {
                Some(_) => !told.any(|told| told),
                None => !all.iter().all(|copy| copy.caught_up),
            }
        }
    }
}

fn is_stuck(copy: &Copy, how: Stuck) -> bool {
    copy.state.wanted.as_ref().is_some_and(|wanted| wanted.stuck == Some(how))
}

fn cause_of(has: Option<&EntryKind>, should: Option<&EntryKind>) -> Cause {
    match (has, should) {
        (None, _) => Cause::Missing,
        (Some(_), None) => Cause::Extra,
        (Some(has), Some(should)) if has.same_content(should) => Cause::Metadata,
        _ => Cause::Content,
    }
}

/// States that were made independently.
fn of_rivals(copies: &[Copy]) -> Judgement {
    let at: Vec<NodeId> = copies.iter().map(|copy| copy.node).collect();
    let hold = copies.iter().find_map(|copy| copy.state.hold);
    let under_way = copies.iter().any(|copy| {
        !copy.caught_up || copy.state.wanted.as_ref().is_some_and(|want| want.stuck.is_none())
    });
    if under_way && hold.is_none() {
        let (right, why, remedy) = (Vec::new(), Why::OnItsWay, Vec::new());
        return Judgement { cause: Cause::Pending, at, right, hold, why, remedy };
    }
    // Each takes in what the others have, and settles it as any conflict.
    let entries = copies.iter().filter_map(|copy| Some((copy.node, copy.entry()?.clone())));
    let entries: Vec<(NodeId, Entry)> = entries.collect();
    let others = |node| entries.iter().filter(move |(other, _)| *other != node);
    let orders = |copy: &Copy| {
        let node = copy.node;
        others(node).map(move |(_, entry)| (node, Order::Adopt(entry.clone()))).collect::<Vec<_>>()
    };
    let remedy = if hold.is_some() { vec![] } else { copies.iter().flat_map(orders).collect() };
    let cause = worst(copies);
    Judgement { cause, at, right: Vec::new(), hold, why: Why::Unsettled, remedy }
}

/// Different states under one version: never legitimate, and nothing on record tells who is right.
fn of_one_version(copies: &[Copy]) -> Judgement {
    let at = copies.iter().map(|copy| copy.node).collect();
    let (hold, remedy) = (copies.iter().find_map(|copy| copy.state.hold), Vec::new());
    let cause = worst(copies);
    Judgement { cause, at, right: Vec::new(), hold, why: Why::OneVersion, remedy }
}

fn worst(copies: &[Copy]) -> Cause {
    let first = copies.iter().find_map(recorded);
    let causes = copies.iter().filter(|copy| recorded(copy) != first);
    causes.map(|copy| cause_of(recorded(copy), first)).max().unwrap_or(Cause::Content)
}

/// Nodes whose folder is not as they recorded it.
fn of_damage(copies: &[Copy], damaged: &[&Copy]) -> Option<Judgement> {
    let first = damaged.first()?;
    let hold = damaged.iter().find_map(|copy| copy.state.hold);
    let mut judgement = Judgement {
        cause: cause_of_damage(first),
        at: damaged.iter().map(|copy| copy.node).collect(),
        right: Vec::new(),
        hold,
        why: Why::NotTakenIn,
        remedy: Vec::new(),
    };
    for copy in damaged {
        if let Some(damage) = &copy.state.damage {
            against_damage(copies, copy, damage, &mut judgement);
        }
    }
    Some(judgement)
}

/// One damaged copy: is it the file that is wrong, or the record?
fn against_damage(copies: &[Copy], copy: &Copy, damage: &Damage, judgement: &mut Judgement) {
    judgement.why = why_of(damage);
    let Some(own) = copy.entry() else { return };
    if copy.state.hold.is_some() || damage.cause == DamageCause::Changing {
        return;
    }
    if damage.cause == DamageCause::Unrecorded {
        judgement.remedy.push((copy.node, Order::Rescan(own.key.clone())));
        return;
    }
    let sound = copies.iter().filter(|other| other.state.damage.is_none());
    let others: Vec<(NodeId, &Entry)> = sound.filter_map(|o| Some((o.node, o.entry()?))).collect();
    // What stands in the folder is what others have on record, and not an older state of it.
    let is_found = |entry: &Entry| {
        damage.found.as_ref() == Some(&entry.kind) && entry.version.includes(&own.version)
    };
    if let Some((holder, entry)) = others.iter().find(|(_, entry)| is_found(entry)) {
        judgement.why = Why::BadRecord;
        judgement.right = vec![*holder];
        judgement.remedy.push((copy.node, Order::Record((*entry).clone())));
        return;
    }
    let content = own.kind.content();
    let holds = |entry: &Entry| match content {
        Some(content) => entry.kind.content() == Some(content),
        None => entry.kind == own.kind,
    };
    let right = others.iter().filter(|(_, entry)| holds(entry)).map(|(holder, _)| *holder);
    judgement.right = right.collect();
    if !judgement.right.is_empty() {
        judgement.remedy.push((copy.node, Order::Refetch(own.key.clone())));
    }
}

fn why_of(damage: &Damage) -> Why {
    match damage.cause {
        DamageCause::Rot => Why::Rotted,
        DamageCause::Hidden => Why::HiddenChange,
        DamageCause::Record => Why::BadRecord,
        DamageCause::Unrecorded => Why::NotTakenIn,
        DamageCause::Unreadable => Why::Unreadable,
        DamageCause::Changing => Why::BeingWritten,
    }
}

fn cause_of_damage(copy: &Copy) -> Cause {
    let Some(damage) = &copy.state.damage else { return Cause::Corrupt };
    let found = damage.found.as_ref();
    let same_content =
        matches!((found, recorded(copy)), (Some(found), Some(own)) if found.same_content(own));
    match damage.cause {
        DamageCause::Changing => Cause::Pending,
        DamageCause::Unrecorded if copy.state.hold.is_none() && !copy.caught_up => Cause::Pending,
        DamageCause::Unrecorded => match (found, recorded(copy)) {
            (None, _) => Cause::Missing,
            (Some(_), None) => Cause::Extra,
            (found, own) => cause_of(found, own),
        },
        _ if same_content => Cause::Metadata,
        _ => Cause::Corrupt,
    }
}

#[cfg(test)]
mod tests;
