//! Lies to the consistency checker: a peer that claims what it does not have, answers nonsense, or
//! orders repairs that nothing bears out.

use std::fs;
use std::thread;

use anyhow::{Context, Result, ensure};
use highwater_core::check::{
    AskId, CheckAnswer, CheckAsk, CheckId, Claim, DeepProgress, ItemTag, KeyState, Look, Order,
    States,
};
use highwater_core::fingerprint::{Fingerprint, KeyRange};
use highwater_core::log::{Actor, Epoch};
use highwater_core::way::{Near, Onward};
use highwater_core::wire::Control;
use highwater_core::{
    ContentHash, Entry, EntryKind, Hlc, Key, Mode, Mtime, NodeId, NodeTag, Seq, Version,
};
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::{Peer, framed, proto};
use highwater_net::write_control;
use serde_json::Value;

use crate::stage::{Effect, Stage, on_stage};

fn say(peer: &mut Peer, message: Control) -> Result<()> {
    let bytes = write_control(message);
    peer.control.say_raw(&framed(0, bytes.len() as u64, &bytes))
}

/// Answers every question of the victim with `answer`, until the link ends.
fn answering(peer: Peer, answer: impl Fn(u64) -> CheckAnswer) {
    answering_each(peer, |which, _| answer(which));
}

/// As [`answering`], by the kind of the question and how many keys it is about.
fn answering_each(mut peer: Peer, answer: impl Fn(u64, usize) -> CheckAnswer) {
    loop {
        let Ok(ask) = peer.wait_for(20) else { return };
        let Ok(fields) = proto::read(&ask) else { return };
        let id = AskId(proto::number(&fields, 1));
        let which = fields.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let keys = if which == 4 { records(proto::bytes(&fields, 4)) } else { 0 };
        if say(&mut peer, Control::CheckAnswer { id, answer: answer(which, keys) }).is_err() {
            return;
        }
    }
}

/// How many short messages there are, each behind its length in one byte.
fn records(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(length) = bytes.first() {
        bytes = bytes.get(1 + usize::from(*length)..).unwrap_or_default();
        count += 1;
    }
    count
}

/// A check that the victim leads against the hostile peer alone.
fn check_against(stage: &Stage<'_>, how: &[&str]) -> Result<(i32, Value)> {
    let mallory = stage.mallory.id().to_owned();
    let args: Vec<&str> =
        ["check", SHARE, "--json", "--peer", &mallory].iter().chain(how).copied().collect();
    let output = stage.victim().try_run(&args)?;
    let code = output.status.code().context("killed")?;
    Ok((code, serde_json::from_slice(&output.stdout)?))
}

fn file(path: &str, content: &[u8]) -> Entry {
    let mtime = Mtime { seconds: 1, nanos: 0 };
    let content = ContentHash::of(content);
    Entry {
        key: path.parse().expect("a key"),
        kind: EntryKind::File { size: 9, content, mode: Mode::new(0o644), mtime },
        version: Version::from_counters([(Actor(77), Seq(1))]),
        stamp: Hlc(9),
        author: NodeTag::from_bytes([5; 5]),
    }
}

fn told(looks: Vec<Look>, near: Vec<Near>) -> CheckAnswer {
    CheckAnswer::Looked { all: Fingerprint::default(), damaged: false, looks, near }
}

fn looked(look: Look) -> CheckAnswer {
    told(vec![look], Vec::new())
}

type Lie = fn(u64) -> CheckAnswer;

#[test]
fn a_peer_that_answers_lies_and_nonsense_is_never_called_identical() {
    let rows: [(&str, Lie); 7] = [
        ("the same, of something else", |_| looked(Look::Same)),
        ("no answer to the question", |_| CheckAnswer::Deep(DeepProgress::default())),
        ("more answers than questions", |_| CheckAnswer::Looked {
            all: Fingerprint::default(),
            damaged: false,
            looks: vec![Look::Same; 5],
            near: Vec::new(),
        }),
        ("parts that are the whole again and again", |_| {
            let cut: Key = "m".parse().expect("a key");
            looked(Look::Parts { cuts: vec![cut], parts: vec![Fingerprint::default(); 2] })
        }),
        ("entries out of order", |_| {
            let item = |path: &str| (path.parse().expect("a key"), ItemTag([1; 16]));
            looked(Look::Items(vec![item("b"), item("a")]))
        }),
        ("damage without end", |which| match which {
            3 => CheckAnswer::Looked {
                all: Fingerprint::default(),
                damaged: true,
                looks: vec![Look::Items(Vec::new())],
                near: Vec::new(),
            },
            4 => CheckAnswer::States(States {
                caught_up: true,
                acked: Vec::new(),
                states: vec![KeyState::default()],
            }),
            _ => CheckAnswer::Found(vec!["a".parse().expect("a key")]),
        }),
        ("a deep pass that never ends, of what it does not have", |which| match which {
            5 => CheckAnswer::Deep(DeepProgress { done: true, ..DeepProgress::default() }),
            6 => CheckAnswer::Found(Vec::new()),
            _ => looked(Look::Items(Vec::new())),
        }),
    ];
    on_stage(|stage| {
        for (name, lie) in rows {
            stage.attack(name, Effect::Nothing, |stage| {
                let (peer, _) = stage.sharing([0x77; 16], 0)?;
                // It ends when its link does: the next attack's takes its place.
                thread::spawn(move || answering(peer, lie));
                let how: &[&str] = if name.starts_with("a deep") { &["--deep"] } else { &[] };
                let (code, report) = check_against(stage, how)?;
                ensure!(code != 0 && report["identical"] == Value::Bool(false), "{report}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn orders_to_mend_what_is_not_damaged_change_nothing() {
    on_stage(|stage| {
        stage.attack("orders", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing([0x78; 16], 0)?;
            let kept: Key = "kept.txt".parse()?;
            let orders = vec![
                Order::Refetch(kept.clone()),
                Order::Record(file("kept.txt", b"something")),
                Order::Record(file("dir/inner.txt", b"something")),
                Order::Refetch("no/such/file".parse()?),
                Order::Rescan(kept),
                Order::Rescan("no/such/file".parse()?),
            ];
            let ask = CheckAsk::Mend(orders);
            let share = SHARE.parse()?;
            say(&mut peer, Control::CheckAsk { id: AskId(1), share, ask })?;
            let answer = peer.wait_for(21)?;
            let taken = proto::bytes(&proto::read(&answer)?, 6).to_vec();
            ensure!(taken[..4] == [0, 0, 0, 0], "orders were taken: {taken:?}");
            stage.settled()?;
            let text = fs::read_to_string(stage.cluster.folder(0).join("kept.txt"))?;
            ensure!(text == "what the victim holds", "{text}");
            Ok(())
        })
    });
}

/// Thousands of questions at once cost the victim a few at a time, and its other peers nothing.
#[test]
fn a_flood_of_questions_is_answered_a_few_at_a_time() {
    on_stage(|stage| {
        stage.attack("questions", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing([0x79; 16], 0)?;
            for id in 0..3000 {
                let share = SHARE.parse()?;
                let claim = Claim { range: KeyRange::ALL, fingerprint: Fingerprint::default() };
                let ask = match id % 2 {
                    0 => CheckAsk::Look(vec![claim; 32]),
                    _ => {
                        CheckAsk::Deep { check: CheckId([id as u8; 16]), rate: 1, from_disk: true }
                    }
                };
                say(&mut peer, Control::CheckAsk { id: AskId(id), share, ask })?;
            }
            peer.is_up(9)?;
            let (code, report) = {
                let honest = stage.cluster.nodes[1].id().to_owned();
                let args = ["check", SHARE, "--json", "--peer", &honest];
                let output = stage.victim().try_run(&args)?;
                let report: Value = serde_json::from_slice(&output.stdout)?;
                (output.status.code(), report)
            };
            ensure!(code == Some(0), "{report}");
            Ok(())
        })
    });
}

/// A peer claims a newer state of a file, by the hash of bytes that it never sends: the difference is
/// told, the repair comes to nothing, and what stands here stays. So it does when the peer makes no
/// sense in the middle of it, which used to be taken for agreement: "mended, and looked at again".
#[test]
fn a_hash_that_a_peer_claims_and_does_not_have_replaces_nothing() {
    for (name, keeps_to_it) in [("keeps to it", true), ("makes no sense later", false)] {
        on_stage(|stage| {
            stage.attack(name, Effect::Log, |stage| {
                let (peer, offered) = stage.sharing([0x7c; 16], 0)?;
                let victim: NodeId = stage.victim().id().parse()?;
                let actor = Epoch(offered.epoch).actor(&victim, &SHARE.parse()?);
                let newer = [(Actor(77), Seq(1)), (actor, Seq(offered.head))];
                let version = Version::from_counters(newer);
                let claimed = Entry { version, ..file("kept.txt", name.as_bytes()) };
                thread::spawn(move || {
                    answering_each(peer, |which, keys| {
                        claim(which, &claimed, victim, if keeps_to_it { keys } else { ENTRIES })
                    });
                });
                let (code, report) = check_against(stage, &["--repair"])?;
                ensure!(code == 3 && report["identical"] == Value::Bool(false), "{report}");
                let rows = report["differences"].as_array().cloned().unwrap_or_default();
                let row = rows.iter().find(|row| row["key"] == "kept.txt").context("not told")?;
                ensure!(row["repair"] == "failed" && row["kind"] == "content", "{row}");
                let text = fs::read_to_string(stage.cluster.folder(0).join("kept.txt"))?;
                ensure!(text == "what the victim holds", "{text}");
                Ok(())
            })
        });
    }
}

/// Entries of the victim; `kept.txt` is the last.
const ENTRIES: usize = 3;

/// Answers that fit each other, and are borne out by nothing.
fn claim(which: u64, claimed: &Entry, victim: NodeId, keys: usize) -> CheckAnswer {
    let recorded = Some((Seq(1), claimed.clone()));
    let mut states = vec![KeyState::default(); keys.saturating_sub(1)];
    states.push(KeyState { recorded, ..KeyState::default() });
    match which {
        3 => looked(Look::Items(vec![(claimed.key.clone(), ItemTag([1; 16]))])),
        4 => CheckAnswer::States(States { caught_up: true, acked: vec![(victim, Seq(1))], states }),
        _ => CheckAnswer::Mended(vec![true]),
    }
}

/// A peer makes up a crowd behind it and answers for all of it: the check costs a little more, ends, and
/// does not call the crowd identical.
#[test]
fn a_crowd_that_a_peer_makes_up_leaves_a_check_incomplete() {
    on_stage(|stage| {
        stage.attack("a crowd", Effect::Nothing, |stage| {
            let (peer, _) = stage.sharing([0x7a; 16], 0)?;
            thread::spawn(move || {
                answering(peer, |_| told(vec![Look::Items(Vec::new())], crowd()))
            });
            let output = stage.victim().try_run(&["check", SHARE, "--json"])?;
            let report: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(output.status.code() != Some(0), "{report}");
            ensure!(report["identical"] == Value::Bool(false), "{report}");
            let rows = report["nodes"].as_array().context("no nodes")?;
            let honest = rows.iter().find(|row| row["node_id"] == stage.cluster.nodes[1].id());
            ensure!(honest.is_some_and(|row| row["reachable"] == true), "{report}");
            Ok(())
        })
    });
}

/// Nodes that there are not, as far as a node can tell all linked with the one that tells of them.
fn crowd() -> Vec<Near> {
    (0..40).map(|n| Near { node: NodeId::from_bytes([n; 32]), linked: true }).collect()
}

/// Questions are passed on between neighbours that the share is listed for, once, and never back.
#[test]
fn a_question_is_passed_on_to_a_neighbour_and_to_nobody_else() {
    on_stage(|stage| {
        stage.attack("ways", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing([0x7b; 16], 0)?;
            let id = |text: &str| text.parse::<NodeId>().context("no id");
            let (victim, honest) = (id(stage.victim().id())?, id(stage.cluster.nodes[1].id())?);
            let (own, nobody) = (id(stage.mallory.id())?, NodeId::from_bytes([9; 32]));
            let rows = [
                ("to itself", vec![victim], Some(NO_WAY)),
                ("back", vec![own], Some(NO_WAY)),
                ("back in two steps", vec![honest, own], Some(NO_WAY)),
                ("to a stranger", vec![nobody], Some(NOT_OPEN)),
                ("to a stranger behind a neighbour", vec![honest, nobody], Some(NOT_OPEN)),
                ("to a neighbour", vec![honest], None),
            ];
            for (number, (name, way, refusal)) in (1..).zip(rows) {
                let claim = Claim { range: KeyRange::ALL, fingerprint: Fingerprint::default() };
                let ask = Box::new(CheckAsk::Look(vec![claim]));
                let ask = CheckAsk::Onward(Onward { way, ask });
                say(
                    &mut peer,
                    Control::CheckAsk { id: AskId(number), share: SHARE.parse()?, ask },
                )?;
                let answer = peer.wait_for(21)?;
                let fields = proto::read(&answer)?;
                let refused = fields.iter().any(|(field, _)| *field == 7);
                let reason = refused.then(|| proto::number(&fields, 7));
                ensure!(reason == refusal, "{name}: refused for {reason:?}");
            }
            Ok(())
        })
    });
}

/// `CHECK_REFUSAL_NOT_OPEN` and `CHECK_REFUSAL_NO_WAY`.
const NOT_OPEN: u64 = 1;
const NO_WAY: u64 = 4;
