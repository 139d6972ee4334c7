//! Lies in a log: S3, S4, S21, S28, S29, S31, S37, and versions and sizes that would
//! poison what the victim tells others.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::frames::{self, Batch, Checkpoint, Entry, Offer};
use highwater_lab::hostile::{Ending, Offered, Peer};

use crate::stage::{Effect, MISBEHAVED, Stage, has_said, on_stage, until};

pub(crate) const EPOCH: [u8; 16] = [0x55; 16];

/// A log of these entries, offered and sent, and acknowledged as durable by the victim.
pub(crate) fn announce(
    stage: &Stage<'_>,
    epoch: [u8; 16],
    entries: &[Entry],
) -> Result<(Peer, Offered)> {
    let (mut peer, offered) = stage.sharing(epoch, entries.len() as u64)?;
    peer.control.say(&Batch::of(SHARE, epoch, 0, entries).frame())?;
    peer.wait_for(5).context("no acknowledgement")?;
    Ok((peer, offered))
}

/// A fresh epoch for each attack, so that each begins with a log that nobody has met.
pub(crate) fn epoch(number: u8) -> [u8; 16] {
    let mut epoch = EPOCH;
    epoch[0] = number;
    epoch
}

/// The epoch and position of the victim's own log, for lies about it.
fn at(offered: &Offered, seq: u64) -> Checkpoint {
    Checkpoint { epoch: offered.epoch.to_vec(), seq, digest: vec![0; 16] }
}

/// What is said after both sides have offered, given what the victim offered.
type Lie = fn(&Offered) -> Vec<highwater_lab::hostile::proto::Message>;

#[test]
fn a_log_that_does_not_fit_and_an_acknowledgement_of_nothing_end_the_link() {
    let rows: [(&str, Lie); 9] = [
        ("S28 a gap", |_| vec![Batch::of(SHARE, EPOCH, 5, &[]).frame()]),
        ("S28 the same positions twice", |_| {
            // Without an entry: the first of them is as it should be, and would be taken in.
            let batch = Batch { upto: 1, head: 1, ..Batch::of(SHARE, EPOCH, 0, &[]) }.frame();
            vec![batch.clone(), batch]
        }),
        ("S28 positions that go back", |_| {
            let ahead = Batch { upto: 9, head: 9, ..Batch::of(SHARE, EPOCH, 0, &[]) };
            vec![ahead.frame(), Batch::of(SHARE, EPOCH, 3, &[]).frame()]
        }),
        ("S29 a batch of another epoch", |_| vec![Batch::of(SHARE, [9; 16], 0, &[]).frame()]),
        ("S29 the victim's own epoch", |o| vec![Batch::of(SHARE, o.epoch, 0, &[]).frame()]),
        ("S21 an acknowledgement of what was never sent", |o| {
            vec![frames::ack(SHARE, &at(o, o.head + 1))]
        }),
        ("S21 an acknowledgement of all numbers", |o| {
            vec![frames::ack(SHARE, &at(o, i64::MAX as u64))]
        }),
        ("S21 an acknowledgement of another epoch", |_| {
            let epoch = vec![3; 16];
            vec![frames::ack(SHARE, &Checkpoint { epoch, seq: 0, digest: vec![0; 16] })]
        }),
        ("S21 an acknowledgement that goes back", |o| {
            vec![frames::ack(SHARE, &at(o, o.head)), frames::ack(SHARE, &at(o, 0))]
        }),
    ];
    on_stage(|stage| {
        for (what, lie) in rows {
            stage.attack(what, Effect::Nothing, |stage| {
                let (mut peer, offered) = stage.sharing(EPOCH, 1)?;
                // The victim's log comes first: what is acknowledged has been sent.
                peer.wait_for(4)?;
                for message in lie(&offered) {
                    let _ = peer.control.say(&message);
                }
                let ending = peer.ending()?;
                ensure!(ending == MISBEHAVED, "answered with {ending:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Everything about a share that is not there, or not listed, is passed over without a word.
#[test]
fn a_share_that_is_not_listed_is_as_one_that_is_not_there() {
    on_stage(|stage| {
        stage.victim().add_share("private")?;
        fs::write(stage.victim().folder("private").join("diary"), "for nobody")?;
        let diary = *blake3::hash(b"for nobody").as_bytes();
        for share in ["private", "nowhere"] {
            stage.attack(&format!("S4 {share}"), Effect::Nothing, |stage| {
                let mut peer = stage.linked()?;
                peer.control.say(&Offer::of(share, EPOCH, 1).frame())?;
                let entry = Entry::file("planted", b"planted");
                peer.control.say(&Batch::of(share, EPOCH, 0, &[entry]).frame())?;
                peer.control.say(&frames::withdraw(share))?;
                peer.control.say(&frames::standing(share, &EPOCH, 1, 1, 1))?;
                peer.content.say(&frames::request(1, share, 5, diary))?;
                peer.content.say(&frames::range(2, share, &diary, 0, 10))?;
                peer.content.say(&frames::request(3, share, 3, diary))?;
                peer.content.say(&frames::mismatch(share, &diary, 0, 10))?;
                let heard = [(); 3].map(|()| peer.content_message());
                let heard: BTreeSet<Vec<u8>> = heard.into_iter().collect::<Result<_>>()?;
                let lacks = (1..=3).map(|id| frames::refused(id, 1).encoded().to_vec());
                ensure!(heard == lacks.collect(), "{share}: {heard:?}");
                peer.is_up(77)
            })?;
        }
        ensure!(!stage.victim().folder("private").join("planted").exists());
        Ok(())
    });
}

#[test]
fn a_checkpoint_that_the_victim_never_gave_makes_it_offer_again_and_loses_nothing() {
    on_stage(|stage| {
        stage.attack("S28 a peer that knows more than there is", Effect::Entries, |stage| {
            let (mut peer, offered) = stage.sharing(EPOCH, 0)?;
            let forged = Some(at(&offered, offered.head + 1000));
            peer.control.say(&Offer { pulled: forged, ..Offer::of(SHARE, EPOCH, 0) }.frame())?;
            let again = peer.offered()?;
            ensure!(
                again.epoch != offered.epoch,
                "the victim keeps a history that it may have lost"
            );
            peer.is_up(5)?;
            // Of a history that this process began for such a word nobody can know more.
            let forged = Some(at(&again, again.head + 1000));
            peer.control.say(&Offer { pulled: forged, ..Offer::of(SHARE, EPOCH, 0) }.frame())?;
            let ending = peer.ending()?;
            ensure!(ending == MISBEHAVED, "the second lie is answered with {ending:?}");
            Ok(())
        })
    });
}

#[test]
fn a_file_that_says_it_is_empty_must_have_the_hash_of_nothing() {
    on_stage(|stage| {
        let nothing = *blake3::hash(b"").as_bytes();
        for (size, hash) in [(0, [0x42; 32]), (7, nothing)] {
            stage.attack(
                "S22 a size and a hash that cannot both be",
                Effect::Nothing,
                |stage| {
                    let kind = frames::file(size, &hash, 0o644, frames::mtime(0, 0));
                    let (mut peer, _) = stage.sharing(EPOCH, 1)?;
                    let hollow = Entry::new("hollow", kind);
                    peer.control.say(&Batch::of(SHARE, EPOCH, 0, &[hollow]).frame())?;
                    let ending = peer.ending()?;
                    ensure!(ending == MISBEHAVED, "answered with {ending:?}");
                    Ok(())
                },
            )?;
        }
        Ok(())
    });
}

#[test]
fn times_at_the_ends_of_numbers_are_kept_or_clamped_and_do_not_go_round() {
    let times =
        [(i64::MIN, 0), (i64::MAX, 999_999_999), (-1, 1), (0, 0), (1 << 40, 7), (-(1 << 40), 7)];
    on_stage(|stage| {
        stage.attack("T4 modification times", Effect::Entries, |stage| {
            let nothing = *blake3::hash(b"").as_bytes();
            let entry = |(number, (seconds, nanos)): (usize, &(i64, u64))| {
                let kind = frames::file(0, &nothing, 0o644, frames::mtime(*seconds, *nanos));
                Entry::new(&format!("time-{number}"), kind)
            };
            let entries: Vec<Entry> = times.iter().enumerate().map(entry).collect();
            let (_peer, _) = announce(stage, EPOCH, &entries)?;
            let folder = stage.cluster.folder(1);
            until("the honest peer has them all", || {
                Ok((0..times.len()).all(|number| folder.join(format!("time-{number}")).is_file()))
            })?;
            stage.stays_quiet()
        })
    });
}

/// Versions that name every actor there can be meet versions that name others.
#[test]
fn versions_full_of_actors_poison_no_other_peer() {
    let full = |first: u64| (first..first + 256).map(|actor| (actor, 1)).collect::<Vec<_>>();
    on_stage(|stage| {
        stage.attack("S17 two full versions of one key", Effect::Entries, |stage| {
            let entries = [
                Entry::file("full", b"").version(&full(1)),
                Entry::symlink("full", "other").version(&full(1000)),
                Entry::file("kept.txt", b"").version(&full(5000)),
            ];
            let (_peer, _) = announce(stage, EPOCH, &entries)?;
            stage.settled()
        })?;
        fs::write(stage.cluster.folder(0).join("full"), "edited by the victim's user")?;
        stage.attack("S17 an edit on top", Effect::Entries, |_| Ok(()))?;
        let text = fs::read_to_string(stage.cluster.folder(1).join("full"))?;
        ensure!(text.contains("edited"), "the edit is lost: {text:?}");
        Ok(())
    });
}

/// The actor of the victim in its versions, as `docs/protocol.md` has it.
fn actor_of(victim: &str, epoch: &[u8; 16]) -> Result<u64> {
    let id: [u8; 32] = node_id(victim)?;
    let mut hasher = blake3::Hasher::new_derive_key("highwater 2026-11 actor");
    hasher.update(&id).update(epoch).update(SHARE.as_bytes());
    let hash = hasher.finalize();
    let eight: [u8; 8] = hash.as_bytes()[..8].try_into()?;
    Ok(u64::from_be_bytes(eight))
}

/// The bytes of a node id from its letters.
fn node_id(text: &str) -> Result<[u8; 32]> {
    let mut bits = Vec::new();
    for letter in text.bytes() {
        let five = match letter {
            b'a'..=b'z' => letter - b'a',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => anyhow::bail!("{text} is no node id"),
        };
        bits.extend((0..5).rev().map(|bit| five >> bit & 1));
    }
    let bytes: Vec<u8> =
        bits.chunks(8).map(|eight| eight.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
    Ok(bytes[..32].try_into()?)
}

/// A peer claims to know changes of the victim that the victim never made. The next edit of the
/// victim's user must still be later than what it was made on.
#[test]
fn counters_of_the_victim_itself_cannot_be_forged_to_drown_its_edits() {
    for (what, counter) in [("S28 far ahead", 1 << 40), ("S28 at the end", i64::MAX as u64)] {
        on_stage(|stage| {
            stage.attack(what, Effect::Entries, |stage| {
                let (mut peer, offered) = stage.sharing(EPOCH, 1)?;
                let actor = actor_of(stage.victim().id(), &offered.epoch)?;
                let forged = Entry::file("forged", b"").version(&[(actor, counter)]);
                let batch = Batch::of(SHARE, EPOCH, 0, &[forged]).frame();
                peer.control.say(&batch)?;
                // The victim cannot tell a lie from a store that was restored, and is safe in both
                // cases: it begins another history, and everybody offers anew.
                let again = peer.offered()?;
                ensure!(again.epoch != offered.epoch, "the victim goes on in the forged history");
                peer.control.say(&Offer::of(SHARE, EPOCH, 1).frame())?;
                peer.control.say(&batch)?;
                peer.wait_for(5)?;
                let [victims, honests] =
                    [0, 1].map(|node| stage.cluster.folder(node).join("forged"));
                until("the entry is everywhere", || Ok(victims.is_file() && honests.is_file()))?;
                fs::write(&victims, "edited by the victim's user")?;
                until("the edit reaches the honest peer", || {
                    Ok(fs::read_to_string(&honests).is_ok_and(|text| text.contains("edited")))
                })
            })
        });
    }
}

#[test]
fn sizes_that_do_not_add_up_poison_no_other_peer() {
    on_stage(|stage| {
        stage.attack("S19 S22 three files of nearly 2^63 bytes", Effect::Entries, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, 3)?;
            let kind = || frames::file(i64::MAX as u64, &[0x43; 32], 0o644, frames::mtime(0, 0));
            let entries: Vec<Entry> =
                (0..3).map(|n| Entry::new(&format!("vast-{n}"), kind())).collect();
            let _ = peer.control.say(&Batch::of(SHARE, EPOCH, 0, &entries).frame());
            let ending = peer.ending()?;
            ensure!(ending == MISBEHAVED, "answered with {ending:?}");
            Ok(())
        })?;
        stage.attack("S22 many files of what a manifest can name", Effect::Entries, |stage| {
            let (mut peer, _) = stage.sharing(epoch(2), 512)?;
            let kind = || frames::file(8 << 40, &[0x44; 32], 0o644, frames::mtime(0, 0));
            let entries: Vec<Entry> =
                (0..512).map(|n| Entry::new(&format!("large-{n}"), kind())).collect();
            peer.control.say(&Batch::of(SHARE, epoch(2), 0, &entries).frame())?;
            peer.wait_for(5)?;
            peer.is_up(4)?;
            let tombstone = |n| Entry::tombstone(&format!("large-{n}")).version(&[(0xbad, 2)]);
            let gone: Vec<Entry> = (0..512).map(tombstone).collect();
            peer.control.say(&Batch::of(SHARE, epoch(2), 512, &gone).frame())?;
            peer.wait_for(5)?;
            peer.is_up(6)
        })
    });
}

#[test]
fn a_stamp_from_the_far_future_is_shown_to_people_and_moves_no_clock() {
    on_stage(|stage| {
        let ten_years = (STAMP_NOW_MS + 10 * 365 * 86_400_000) << 16;
        let rows = [("future", ten_years), ("end", u64::MAX), ("zero", 0), ("counter", 0xffff)];
        stage.attack("S31 stamps", Effect::Entries, |stage| {
            let entries = rows.map(|(key, stamp)| Entry::file(key, b"").stamp(stamp));
            let (mut peer, _) = announce(stage, EPOCH, &entries)?;
            let folder = stage.cluster.folder(1);
            until("they are everywhere", || {
                Ok(rows.iter().all(|(key, _)| folder.join(key).is_file()))
            })?;
            peer.is_up(3)
        })?;
        let flagged = |key: &str| -> Result<bool> {
            let share = stage.share()?;
            Ok(share.problems.iter().any(|p| p.kind == "clock" && p.path == key))
        };
        ensure!(
            flagged("future")? && flagged("end")?,
            "not flagged: {:?}",
            stage.share()?.problems
        );
        ensure!(
            !flagged("zero")? && !flagged("counter")?,
            "flagged: {:?}",
            stage.share()?.problems
        );
        fs::write(stage.cluster.folder(0).join("end"), "edited after the end of time")?;
        stage.attack("S31 an edit on top", Effect::Nothing, |_| Ok(()))?;
        until("the edit has a stamp of today and the flag is gone", || {
            let share = stage.share()?;
            Ok(!share.problems.iter().any(|p| p.kind == "clock" && p.path == "end"))
        })
    });
}

/// Some day of 2026, in milliseconds.
const STAMP_NOW_MS: u64 = 1_795_000_000_000;

#[test]
fn thousands_of_conflicts_on_one_key_are_carried_and_listed() {
    const CONFLICTS: u64 = 2_000;
    on_stage(|stage| {
        stage.attack("S37 conflicts on one key", Effect::Entries, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, CONFLICTS)?;
            for first in (0..CONFLICTS).step_by(500) {
                let entry = |n: u64| {
                    let stamp = frames::STAMP + (n << 26);
                    Entry::symlink("contested", &format!("t{n}"))
                        .version(&[(n + 1, 1)])
                        .stamp(stamp)
                };
                let entries: Vec<Entry> = (first..first + 500).map(entry).collect();
                let batch = Batch::of(SHARE, EPOCH, first, &entries);
                peer.control.say(&Batch { head: CONFLICTS, ..batch }.frame())?;
                peer.wait_for(5)?;
            }
            stage.settled()?;
            peer.is_up(3)
        })?;
        let conflicts = stage.share()?.conflicts;
        ensure!(conflicts == CONFLICTS - 1, "{conflicts} conflict copies");
        Ok(())
    });
}

#[test]
fn a_frame_of_an_old_session_is_worth_nothing_in_a_new_one() {
    on_stage(|stage| {
        let entry = Entry::file("replayed", b"");
        let batch = Batch::of(SHARE, EPOCH, 0, &[entry]);
        stage.attack("S29 the first time", Effect::Entries, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, 1)?;
            peer.control.say(&batch.frame())?;
            peer.wait_for(5)?;
            let file = stage.cluster.folder(1).join("replayed");
            until("it has come", || Ok(file.is_file()))
        })?;
        fs::remove_file(stage.cluster.folder(0).join("replayed"))?;
        stage.attack("S29 between", Effect::Nothing, |_| Ok(()))?;
        stage.attack("S29 the recorded frames again", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, 1)?;
            peer.control.say(&batch.frame())?;
            let ending = peer.ending()?;
            ensure!(ending == MISBEHAVED, "answered with {ending:?}");
            Ok(())
        })?;
        stage.attack("S29 the same entries as a new log", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing(epoch(3), 1)?;
            peer.control.say(&Batch { epoch: epoch(3).to_vec(), ..batch.clone() }.frame())?;
            peer.wait_for(5)?;
            stage.settled()
        })?;
        ensure!(!stage.cluster.folder(0).join("replayed").exists(), "a deleted file came back");
        ensure!(!has_said(stage.victim(), "panicked")?, "a panic");
        Ok(())
    });
}

/// Identity comes from the certificate alone: two homes that greet alike stay two peers.
#[test]
fn a_peer_that_poses_as_another_in_its_words_is_still_itself() {
    on_stage(|stage| {
        stage.attack("S3 the honest peer's name and author", Effect::Entries, |stage| {
            let honest = stage.cluster.nodes[1].id().to_owned();
            let mut entry = Entry::file("posing", b"");
            entry.author = node_id(&honest)?[..5].to_vec();
            let mut peer = Peer::connect(stage.addr(), &stage.credentials)?;
            let hello = frames::Hello {
                name: b"honest".to_vec(),
                user: b"honest".to_vec(),
                ..Default::default()
            };
            peer.greet(&hello)?;
            peer.control.say(&Offer::of(SHARE, EPOCH, 1).frame())?;
            peer.control.say(&Batch::of(SHARE, EPOCH, 0, &[entry]).frame())?;
            peer.wait_for(5)?;
            // People are told a moment later than the peer.
            until("both are told to be connected", || {
                let share = stage.share()?;
                let linked =
                    |id: &str| share.peers.iter().any(|peer| peer.node_id == id && peer.connected);
                Ok(linked(stage.mallory.id()) && linked(&honest))
            })?;
            ensure!(peer.is_up(4).is_ok());
            let other = Ending::Goodbye(2);
            let mut second = stage.linked()?;
            ensure!(peer.ending()? == other, "the older link of one instance is replaced");
            second.is_up(9)
        })
    });
}
