//! Lies about content: S22, S23, S26, S27, and answers that have no end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::Peer;
use highwater_lab::hostile::frames::{self, Batch, Entry};
use highwater_lab::hostile::proto::{self, Message};

use crate::stage::{Effect, PATIENCE, Stage, on_stage};

const EPOCH: [u8; 16] = [0x44; 16];
/// A content that is small enough to be asked for in bulk, and one that is not.
const SMALL: u64 = 1000;
const LARGE: u64 = 200_000;

/// What the victim asks for.
#[derive(Debug)]
enum Asked {
    Manifest(u64),
    Range {
        id: u64,
        offset: u64,
        length: u64,
    },
    /// The number of the request, and the place in it of the content that is lied about.
    Smalls(u64, u64),
}

/// The next request of the victim for the content with this hash.
fn asked(peer: &mut Peer, hash: &[u8]) -> Result<Asked> {
    loop {
        let frame = peer.content_message()?;
        let fields = proto::read(&frame)?;
        let request = proto::read(proto::bytes(&fields, 1))?;
        let id = proto::number(&request, 1);
        let smalls = proto::bytes(&request, 5);
        if let Some(place) = smalls.chunks(32).position(|asked| asked == hash) {
            return Ok(Asked::Smalls(id, place as u64));
        }
        if proto::bytes(&request, 3) == hash {
            return Ok(Asked::Manifest(id));
        }
        let range = proto::read(proto::bytes(&request, 4))?;
        if proto::bytes(&range, 1) == hash {
            let (offset, length) = (proto::number(&range, 2), proto::number(&range, 3));
            return Ok(Asked::Range { id, offset, length });
        }
    }
}

/// So many bytes that are not all alike.
fn bytes(count: u64) -> Vec<u8> {
    (0..count).map(|n| (n * 31 % 251) as u8).collect()
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Announces a file of `size` bytes that would hash to `content`, and passes requests for it to
/// `answer` until that says that it is done. The file must never come to be.
fn lie(
    stage: &mut Stage<'_>,
    what: &str,
    (size, content): (u64, [u8; 32]),
    mut answer: impl FnMut(&mut Peer, Asked) -> Result<bool>,
) -> Result<()> {
    let mut epoch = EPOCH;
    epoch[..8].copy_from_slice(&hash(what.as_bytes())[..8]);
    stage.attack(what, Effect::Log, |stage| {
        let (mut peer, _) = stage.sharing(epoch, 1)?;
        let kind = frames::file(size, &content, 0o644, frames::mtime(0, 0));
        let entry =
            Entry::new("lie", kind).version(&[(u64::from_be_bytes(epoch[..8].try_into()?), 1)]);
        peer.control.say(&Batch::of(SHARE, epoch, 0, std::slice::from_ref(&entry)).frame())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = asked(&mut peer, &content).context("the victim does not ask")?;
            if answer(&mut peer, request)? {
                break;
            }
            ensure!(Instant::now() < deadline, "the victim asks and asks");
        }
        ensure!(!stage.cluster.folder(0).join("lie").exists(), "a lie is in the folder");
        let gone = Entry { kind: Some((6, Message::new())), ..entry };
        let gone = Entry { version: vec![(gone.version[0].0, 2)], ..gone };
        peer.control.say(&Batch::of(SHARE, epoch, 1, &[gone]).frame())?;
        peer.is_up(3).context("the link is down")
    })
}

/// How a small content is answered: the messages, given the request and the place in it.
type SmallLie = (&'static str, fn(u64, u64) -> Vec<Message>);

#[test]
fn a_small_content_that_is_not_what_was_asked_for_is_never_put_in_place() {
    let rows: [SmallLie; 8] = [
        ("S23 other bytes", |id, place| vec![frames::small(id, place, &[7; SMALL as usize])]),
        ("S23 a byte too many", |id, place| vec![frames::small(id, place, &bytes(SMALL + 1))]),
        ("S23 a byte too few", |id, place| vec![frames::small(id, place, &bytes(SMALL - 1))]),
        ("S23 nothing", |id, place| vec![frames::small(id, place, &[])]),
        ("S26 one that was not asked for", |id, _| vec![frames::small(id, 255, &bytes(SMALL))]),
        ("S23 a manifest", |id, _| vec![frames::manifest_part(id, &[([1; 32], 1000)], true)]),
        ("S23 a piece of a range", |id, _| vec![frames::reply(id, 3, bytes(SMALL))]),
        ("S23 wrong bytes a hundred times", |id, place| {
            vec![frames::small(id, place, &[8; SMALL as usize]); 100]
        }),
    ];
    on_stage(|stage| {
        for (what, answers) in rows {
            let mut lies = 0;
            lie(stage, what, (SMALL, hash(&bytes(SMALL))), |peer, asked| {
                let Asked::Smalls(id, place) = asked else { bail!("asked {asked:?}") };
                answers(id, place).iter().try_for_each(|answer| peer.content.say(answer))?;
                lies += 1;
                // Asked again means that the first answer was not taken.
                Ok(lies > 1)
            })?;
        }
        Ok(())
    });
}

/// What a lying manifest says: chunks and lengths of `LARGE` bytes.
type Chunks = Vec<([u8; 32], u32)>;

fn halves(content: &[u8]) -> Chunks {
    content.chunks(100_000).map(|half| (hash(half), half.len() as u32)).collect()
}

#[test]
fn a_manifest_that_does_not_fit_is_asked_for_no_byte() {
    let content = bytes(LARGE);
    let rows: [(&str, Chunks); 4] = [
        ("S22 chunks of too many bytes", vec![([1; 32], LARGE as u32 + 1)]),
        ("S22 chunks of too few bytes", vec![([1; 32], 1)]),
        ("S22 no chunks", vec![]),
        ("S22 chunks twice", [halves(&content), halves(&content)].concat()),
    ];
    on_stage(|stage| {
        for (what, chunks) in rows {
            let mut manifests = 0;
            lie(stage, what, (LARGE, hash(&content)), |peer, asked| {
                let Asked::Manifest(id) = asked else { bail!("asked {asked:?}") };
                peer.content.say(&frames::manifest_part(id, &chunks, true))?;
                manifests += 1;
                Ok(manifests > 1)
            })?;
        }
        Ok(())
    });
}

/// How the ranges of a large content are answered: the bytes, given the range.
type Range = fn(u64, u64) -> Vec<u8>;

#[test]
fn chunks_that_are_not_what_they_should_be_are_refused_one_by_one_and_as_a_whole() {
    let (content, mut swapped) = (bytes(LARGE), bytes(LARGE));
    swapped.rotate_left(100_000);
    let rows: [(&str, Chunks, Range); 5] = [
        ("S23 other bytes", halves(&content), |_, length| vec![7; length as usize]),
        ("S23 the bytes of another offset", halves(&content), |offset, length| {
            let mut bytes = bytes(LARGE);
            bytes.rotate_left(100_000);
            bytes[offset as usize..][..length as usize].to_vec()
        }),
        ("S23 the chunks in another order", halves(&swapped), |offset, length| {
            let mut bytes = bytes(LARGE);
            bytes.rotate_left(100_000);
            bytes[offset as usize..][..length as usize].to_vec()
        }),
        ("S23 chunks of another content", halves(&[7; LARGE as usize]), |_, length| {
            vec![7; length as usize]
        }),
        ("S23 a byte too many", halves(&content), |_, length| vec![9; length as usize + 1]),
    ];
    assert_ne!(content, swapped, "the lie is none");
    on_stage(|stage| {
        for (what, chunks, range) in rows {
            let mut answers = 0;
            lie(stage, what, (LARGE, hash(&content)), |peer, asked| {
                match asked {
                    Asked::Manifest(id) => {
                        answers += 1;
                        if answers <= 2 {
                            peer.content.say(&frames::manifest_part(id, &chunks, true))?;
                        }
                    }
                    Asked::Range { id, offset, length } => {
                        for piece in range(offset, length).chunks(50_000) {
                            peer.content.say(&frames::reply(id, 3, piece))?;
                        }
                        answers += 1;
                    }
                    Asked::Smalls(..) => bail!("asked {asked:?}"),
                }
                Ok(answers > 3)
            })?;
        }
        Ok(())
    });
}

/// Whether more can be said: the victim has not hung up.
fn flood(peer: &mut Peer, times: usize, message: &Message) -> Result<()> {
    for _ in 0..times {
        if peer.content.say(message).is_err() {
            break;
        }
    }
    Ok(())
}

/// 64 MiB and more for one request each. Memory is judged by the aftermath.
#[test]
fn an_answer_without_end_is_not_kept() {
    on_stage(|stage| {
        let content = bytes(LARGE);
        lie_and_flood(
            stage,
            "S23 the same small content for ever",
            (SMALL, hash(&bytes(SMALL))),
            2_000,
            |asked| {
                let Asked::Smalls(id, place) = asked else { bail!("asked {asked:?}") };
                Ok(Some(frames::small(*id, *place, &[3; 60_000])))
            },
        )?;
        lie_and_flood(stage, "S23 a range for ever", (LARGE, hash(&content)), 500, |asked| {
            match asked {
                Asked::Range { id, .. } => Ok(Some(frames::reply(*id, 3, vec![4; 250_000]))),
                _ => Ok(None),
            }
        })?;
        lie_and_flood(stage, "S22 a manifest for ever", (LARGE, hash(&content)), 2_000, |asked| {
            let Asked::Manifest(id) = asked else { return Ok(None) };
            Ok(Some(frames::manifest_part(*id, &vec![([5; 32], 1); 4096], false)))
        })?;
        lie_and_flood(
            stage,
            "S22 an empty manifest for ever",
            (LARGE, hash(&content)),
            20_000,
            |asked| {
                let Asked::Manifest(id) = asked else { return Ok(None) };
                Ok(Some(frames::manifest_part(*id, &[], false)))
            },
        )
    });
}

/// Answers what is asked first with one message again and again, whatever becomes of the link.
fn lie_and_flood(
    stage: &mut Stage<'_>,
    what: &str,
    (size, content): (u64, [u8; 32]),
    times: usize,
    answer: impl Fn(&Asked) -> Result<Option<Message>>,
) -> Result<()> {
    let mut epoch = EPOCH;
    epoch[..8].copy_from_slice(&hash(what.as_bytes())[..8]);
    let actor = u64::from_be_bytes(epoch[..8].try_into()?);
    stage.attack(what, Effect::Nothing, |stage| {
        let (mut peer, _) = stage.sharing(epoch, 1)?;
        let kind = frames::file(size, &content, 0o644, frames::mtime(0, 0));
        let entry = Entry::new("flood", kind).version(&[(actor, 1)]);
        peer.control.say(&Batch::of(SHARE, epoch, 0, &[entry]).frame())?;
        loop {
            let asked = asked(&mut peer, &content)?;
            if let Some(message) = answer(&asked)? {
                break flood(&mut peer, times, &message)?;
            }
            let Asked::Manifest(id) = asked else { bail!("asked {asked:?}") };
            peer.content.say(&frames::manifest_part(id, &halves(&bytes(LARGE)), true))?;
        }
        ensure!(!stage.cluster.folder(0).join("flood").exists(), "a lie is in the folder");
        Ok(())
    })?;
    stage.attack(&format!("{what}, taken back"), Effect::Log, |stage| {
        epoch[15] += 1;
        let (mut peer, _) = stage.sharing(epoch, 1)?;
        let gone = Entry::tombstone("flood").version(&[(actor, 2)]);
        peer.control.say(&Batch::of(SHARE, epoch, 0, &[gone]).frame())?;
        peer.wait_for(5).map(drop)
    })
}

#[test]
fn answers_to_questions_that_nobody_asked_are_dropped() {
    on_stage(|stage| {
        stage.attack("S26 a thousand answers", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, 0)?;
            for id in 0..1000 {
                peer.content.say(&frames::small(id, 0, b"planted"))?;
                peer.content.say(&frames::reply(id, 3, b"planted"))?;
                peer.content.say(&frames::manifest_part(id, &[([1; 32], 7)], true))?;
                peer.content.say(&frames::refused(id, 1))?;
                peer.content.say(&frames::cancel(id))?;
            }
            let of_ours = hash(b"what the victim holds");
            peer.content.say(&frames::acked(SHARE, &of_ours, 21, 21))?;
            peer.content.say(&frames::mismatch(SHARE, &of_ours, 0, 21))?;
            peer.content.say(&frames::mismatch(SHARE, &[9; 32], 1 << 40, 21))?;
            peer.is_up(3)
        })
    });
}

/// What can be had of the victim under one hash, asked for in every way.
fn answers(peer: &mut Peer, content: &[u8]) -> Result<BTreeMap<u64, Vec<u8>>> {
    peer.content.say(&frames::request(1, SHARE, 3, content))?;
    peer.content.say(&frames::range(2, SHARE, content, 0, 5))?;
    peer.content.say(&frames::range(3, SHARE, content, 1 << 40, 5))?;
    peer.content.say(&frames::request(4, SHARE, 5, content))?;
    let mut answers = BTreeMap::new();
    while answers.len() < 4 {
        let frame = peer.content_message()?;
        let fields = proto::read(&frame)?;
        let reply = proto::read(proto::bytes(&fields, 3))?;
        answers.insert(proto::number(&reply, 1), frame.clone());
    }
    Ok(answers)
}

#[test]
fn what_is_not_in_the_share_cannot_be_told_from_what_is_nowhere() {
    on_stage(|stage| {
        stage.victim().add_share("private")?;
        let secret = b"a secret of another share";
        fs::write(stage.victim().folder("private").join("secret"), secret)?;
        stage.victim().wait_until("it is scanned", PATIENCE, |status| {
            status.share("private").is_some_and(|share| share.entries == 1)
        })?;
        stage.attack("S27 probes", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, 0)?;
            let nowhere = answers(&mut peer, &hash(b"nowhere at all"))?;
            let elsewhere = answers(&mut peer, &hash(secret))?;
            ensure!(nowhere == elsewhere, "{nowhere:?} is not {elsewhere:?}");
            let here = answers(&mut peer, &hash(b"what the victim holds"))?;
            ensure!(here[&4] != nowhere[&4], "what is shared is not served");
            Ok(())
        })?;
        let size = secret.len() as u64;
        let mut asks = 0;
        lie(stage, "S27 a probe by announcing it", (size, hash(secret)), |peer, asked| {
            // It is asked for: what lies in another share is not used.
            let Asked::Smalls(id, place) = asked else { bail!("asked {asked:?}") };
            peer.content.say(&frames::small(id, place, b""))?;
            asks += 1;
            Ok(asks > 1)
        })
    });
}

/// Bytes on disk below a directory.
fn allocated(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        sum += if facts.is_dir() { allocated(&entry.path())? } else { facts.blocks() * 512 };
    }
    Ok(sum)
}

#[test]
fn a_terabyte_that_is_only_announced_takes_no_room() {
    on_stage(|stage| {
        let own = stage.cluster.folder(0).join(".highwater");
        let before = allocated(&own)?;
        let content = [0x31; 32];
        let chunk = 4 << 20;
        // What is known of a chunk while its content is under way: hash, length and offset.
        stage.growth_max += 64 * 4096 * (32 + 4 + 8);
        let mut asks = 0;
        lie(stage, "S22 a terabyte", (1 << 40, content), |peer, asked| {
            match asked {
                Asked::Manifest(id) => {
                    let part: Chunks = vec![([6; 32], chunk); 4096];
                    for number in 0..64 {
                        peer.content.say(&frames::manifest_part(id, &part, number == 63))?;
                    }
                }
                Asked::Range { id, .. } => peer.content.say(&frames::reply(id, 3, b"x"))?,
                Asked::Smalls(..) => bail!("asked {asked:?}"),
            }
            asks += 1;
            Ok(asks > 1)
        })?;
        let grown = allocated(&own)?.saturating_sub(before);
        ensure!(grown < 16 << 20, "the stage has grown by {grown} bytes");
        Ok(())
    });
}
