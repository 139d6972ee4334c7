//! What a judgement says to people: who is right, why, and what to do.

use std::collections::BTreeMap;

use highwater_core::check::{DamageCause, Hold, KeyState, Order};
use highwater_core::verdict::{Cause, Copy, Judgement, Why};
use highwater_core::{EntryKind, Key, NodeId, ShareName};

use super::report::{Difference, RepairState};

/// The names of nodes.
pub(crate) type Names = BTreeMap<NodeId, String>;

/// A judgement as a row of the report.
pub(crate) fn difference(
    key: &Key,
    share: &ShareName,
    copies: &[Copy],
    judged: &Judgement,
    names: &Names,
) -> Difference {
    let ranges = copies.iter().filter_map(|copy| copy.state.damage.as_ref()?.range);
    Difference {
        key: key.clone(),
        kind: judged.cause,
        nodes: copies.iter().map(|copy| (copy.node.to_string(), holds(&copy.state))).collect(),
        at: judged.at.clone(),
        range: ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))),
        verdict: verdict(judged, names),
        held: judged.hold.map(|hold| word(hold).to_owned()),
        repair: RepairState::None,
        message: message(judged, share),
    }
}

/// What a repair would do.
pub(crate) fn plan(judged: &Judgement, names: &Names) -> String {
    let right = named(&judged.right, names);
    let from = if right.is_empty() { String::new() } else { format!(" from {right}") };
    let steps = judged.remedy.iter().map(|(node, order)| {
        let node = named(&[*node], names);
        match order {
            Order::Adopt(entry) if !entry.kind.is_live() => format!("{node} deletes it"),
            Order::Adopt(_) => format!("{node} takes in the newest state"),
            Order::Refetch(_) => format!("{node} fetches what it has on record again{from}"),
            Order::Record(_) => format!("{node} sets its record right by its file"),
            Order::Rescan(_) => format!("{node} reads its file again, as an edit"),
        }
    });
    format!("would be mended: {}", steps.collect::<Vec<_>>().join("; "))
}

/// What to do about a difference that could not be mended.
pub(crate) fn not_mended(at: &[NodeId], share: &ShareName, names: &Names) -> String {
    format!(
        "it could not be mended: `highwater status` at {} says what stands in the way, as when there is \
         no room; see to that, then `highwater check {share} --repair`",
        named(at, names)
    )
}

/// What stands under a key on one node, in a word.
fn holds(state: &KeyState) -> Option<String> {
    let recorded = state.recorded.as_ref().map(|(_, entry)| &entry.kind);
    let found = match &state.damage {
        Some(damage) if damage.found.is_none() && damage.cause == DamageCause::Unreadable => {
            return Some("unreadable".to_owned());
        }
        // Bytes that are known to be wrong, and not what they are.
        Some(damage) if damage.found.is_none() && damage.cause == DamageCause::Rot => {
            return Some("damaged".to_owned());
        }
        Some(damage) => damage.found.as_ref(),
        None => recorded,
    };
    match found? {
        EntryKind::Tombstone => None,
        EntryKind::File { content, .. } => Some(content.to_string()),
        EntryKind::Symlink { target, .. } => Some(format!("link to {target}")),
        EntryKind::Directory { mode } => Some(format!("directory {:03o}", mode.bits())),
    }
}

fn word(hold: Hold) -> &'static str {
    match hold {
        Hold::Ignored => "ignored",
        Hold::SendOnly => "send-only",
        Hold::ReceiveOnly => "receive-only",
        Hold::MassDelete => "mass-delete",
    }
}

fn named(nodes: &[NodeId], names: &Names) -> String {
    let name = |node: &NodeId| names.get(node).cloned().unwrap_or_else(|| node.tag().to_string());
    nodes.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn verdict(judged: &Judgement, names: &Names) -> String {
    let (at, right) = (named(&judged.at, names), named(&judged.right, names));
    if let Some(hold) = judged.hold {
        return match hold {
            Hold::Ignored => format!("held by policy: {at} ignores it"),
            Hold::SendOnly => format!("held by policy: the share is send-only at {at}"),
            Hold::ReceiveOnly => {
                format!("held by policy: it was changed at {at}, where the share is receive-only")
            }
            Hold::MassDelete => format!("held by policy: a mass delete waits for a word at {at}"),
        };
    }
    // As many as there are.
    let has = if judged.right.len() == 1 { "has" } else { "have" };
    let beside = |what: &str| match right.is_empty() {
        true => format!("{what}; no node that was reached has the right content"),
        false => format!("{what}; {right} {has} what is on record"),
    };
    match judged.why {
        Why::OnItsWay => format!("on its way to {at}"),
        Why::HeldUp => format!("{at} knows of it and cannot put it in place"),
        Why::ContentLost => format!("{at} waits for content that no node has any more"),
        Why::Behind if judged.cause == Cause::Extra && right.is_empty() => {
            format!("only {at} has it, and the others were never told of it")
        }
        Why::Behind => format!("{right} {has} the newest state on record, {at} not"),
        Why::OneVersion => {
            "the nodes have different states on record under one version, and nothing proves which \
             is right"
                .to_owned()
        }
        Why::Unsettled => "they were made independently, and no node has settled them".to_owned(),
        Why::Rotted => beside(&format!("the bytes at {at} changed though nobody edited them")),
        Why::HiddenChange => {
            beside(&format!("the bytes at {at} changed while size and modification time stayed"))
        }
        Why::BadRecord => match right.is_empty() {
            true => format!("the record at {at} contradicts itself; its file may be right"),
            false => {
                format!(
                    "the file at {at} is what {right} {has} on record; the record at {at} is wrong"
                )
            }
        },
        Why::NotTakenIn => format!("{at} does not take in what stands in its folder"),
        Why::BeingWritten => format!("it is being written at {at}"),
        Why::Unreadable => beside(&format!("the file at {at} cannot be read")),
    }
}

fn message(judged: &Judgement, share: &ShareName) -> String {
    if let Some(hold) = judged.hold {
        return match hold {
            Hold::Ignored => "remove the rule from .highwaterignore if it is to be synced".into(),
            Hold::SendOnly => "change the mode of the share there if it is to take it in".into(),
            Hold::ReceiveOnly => "undo the change there, or change the mode of the share".into(),
            Hold::MassDelete => {
                format!(
                    "`highwater share confirm {share}` or `highwater share revert {share}` there"
                )
            }
        };
    }
    let repair = || format!("`highwater check {share} --repair` mends it");
    let deep = || format!("`highwater check {share} --deep --repair` mends it");
    match judged.why {
        Why::BeingWritten => "check again when it is not".into(),
        Why::OnItsWay => "wait, or look at `highwater status` if it lasts".into(),
        Why::HeldUp => "`highwater status` there says what stands in the way".into(),
        Why::ContentLost => "write the file anew, or put it back from a backup".into(),
        _ if judged.remedy.is_empty() => {
            "nothing is changed, every copy stays as it is: look at them, and write the right one \
             anew"
                .into()
        }
        Why::Unreadable => format!(
            "see what stands there: correct its permissions, remove what is no file, or check the disk; \
             then {}",
            deep()
        ),
        Why::Rotted | Why::BadRecord => deep(),
        Why::HiddenChange => {
            format!("touch the file there if it was an edit, else {}", repair())
        }
        Why::Behind | Why::Unsettled | Why::OneVersion | Why::NotTakenIn => repair(),
    }
}
