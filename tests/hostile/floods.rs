//! Too much of everything: S7, S8, S9, S11, S38, S39.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::frames::{self, Batch, Hello, Offer};
use highwater_lab::hostile::proto::Message;
use highwater_lab::hostile::raw::{END_HEADERS, Raw, call_headers, frame, kind, literal};
use highwater_lab::hostile::{Call, Connection, Ending, Heard, Peer, framed};

use crate::stage::{Effect, MISBEHAVED, Stage, on_stage};

const EPOCH: [u8; 16] = [0x33; 16];

fn raw(stage: &Stage<'_>) -> Result<Raw> {
    Raw::open(stage.addr(), Some(&stage.credentials))
}

/// Writes a flood in pieces; whether the victim took all of it.
fn pour(raw: &mut Raw, pieces: impl IntoIterator<Item = Vec<u8>>) -> bool {
    pieces.into_iter().all(|piece| raw.write(&piece).is_ok())
}

/// A thousand times the frames for a stream, from this number of streams on.
fn thousand(first: u32, frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (first..first + 1000).flat_map(|number| frames(2 * number + 1)).collect()
}

#[test]
fn a_flood_of_http_2_frames_ends_the_connection() {
    let headers = call_headers("Control");
    let open = |stream| frame(kind::HEADERS, END_HEADERS, stream, &headers);
    let cancel = |stream| frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let rapid = |stream| [open(stream), cancel(stream)].concat();
    let made = |stream| [open(stream), frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat();
    let first = frame(kind::HEADERS, 0, 1, &headers[..4]);
    let filler = frame(kind::CONTINUATION, 0, 1, &literal("x", &[b'y'; 1000]));
    let huge = literal("x-huge", &vec![b'y'; 16_000]);
    let large_block = frame(kind::HEADERS, 0, 1, &headers);
    let more = frame(kind::CONTINUATION, 0, 1, &huge);
    let tiny: Vec<u8> = (0..4000).flat_map(|n| literal(&format!("t{n}"), b"")).collect();
    let on_stream = |payload: &[u8]| frame(kind::DATA, 0, 1, payload);
    let rows: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "S7 100,000 streams opened and reset",
            (0..100).map(|k| thousand(k * 1000, rapid)).collect(),
        ),
        (
            "S7 100,000 streams that the victim must reset",
            (0..100).map(|k| thousand(k * 1000, made)).collect(),
        ),
        ("S8 a header block without end", [vec![first], vec![filler; 100_000]].concat()),
        ("S8 a megabyte of headers", [vec![large_block.clone()], vec![more; 66]].concat()),
        (
            "S8 4,000 tiny headers",
            vec![
                frame(kind::HEADERS, 0, 1, &headers),
                frame(kind::CONTINUATION, 0, 1, &tiny[..16_000]),
                frame(kind::CONTINUATION, END_HEADERS, 1, &tiny[16_000..32_000.min(tiny.len())]),
            ],
        ),
        ("S7 data on a stream that was never opened", vec![frame(kind::DATA, 0, 9, b"x")]),
        (
            "S7 a window beyond all numbers",
            vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
        ),
        ("S7 100,000 empty pieces", [vec![open(1)], vec![on_stream(b""); 100_000]].concat()),
        (
            "S7 a frame of 16 MiB",
            vec![
                frame(kind::DATA, 0, 1, &[])[..0].to_vec(),
                vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
            ],
        ),
    ];
    on_stage(|stage| {
        for (what, pieces) in rows {
            stage.attack(what, Effect::Nothing, |stage| {
                let mut raw = raw(stage)?;
                pour(&mut raw, pieces);
                let seen = raw.ended()?;
                ensure!(seen.ended, "{seen:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn probes_and_settings_without_end_are_answered_or_end_and_cost_nothing() {
    let ping = frame(kind::PING, 0, 0, &[7; 8]);
    let settings = frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]);
    on_stage(|stage| {
        for (what, one) in [("S7 100,000 pings", ping), ("S7 100,000 settings", settings)] {
            stage.attack(what, Effect::Nothing, |stage| {
                let mut raw = raw(stage)?;
                pour(&mut raw, vec![one.repeat(1000); 100]);
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn more_streams_than_two_are_refused() {
    on_stage(|stage| {
        stage.attack("S9 200 streams beside the link", Effect::Nothing, |stage| {
            let mut peer = stage.linked()?;
            let mut refused = 0;
            for _ in 0..200 {
                // FAILED_PRECONDITION, or a stream that HTTP/2 refuses.
                let heard = peer.connection.call("Control").and_then(|mut call| call.hear());
                refused +=
                    u32::from(matches!(heard, Ok(Heard::Status(9, _) | Heard::Broken(_)) | Err(_)));
            }
            ensure!(refused == 200, "{refused} of 200 were refused");
            peer.is_up(4)
        })?;
        stage.attack("S9 two control streams and no content", Effect::Nothing, |stage| {
            let mut connection = Connection::open(stage.addr(), Some(&stage.credentials))?;
            let mut calls = [connection.call("Control")?, connection.call("Control")?];
            ensure!(!matches!(last(&mut calls[0])?, Heard::Message(_)));
            Ok(())
        })
    });
}

/// What is heard last on a call.
fn last(call: &mut Call) -> Result<Heard> {
    loop {
        match call.hear()? {
            Heard::Message(_) => {}
            other => return Ok(other),
        }
    }
}

/// A message on one of the streams, many times, by a peer that reads nothing.
struct Flood {
    what: &'static str,
    times: usize,
    on_content: bool,
    messages: Vec<Message>,
}

#[test]
fn messages_without_end_from_a_peer_that_reads_nothing_cost_no_memory() {
    let on_control = |what, times, messages| Flood { what, times, on_content: false, messages };
    let on_content = |what, times, messages| Flood { what, times, on_content: true, messages };
    let ours = *blake3::hash(b"what the victim holds").as_bytes();
    let rows = [
        on_control("S38 pings", 100_000, vec![frames::ping(1)]),
        on_control("S38 offers", 50_000, vec![Offer::of(SHARE, EPOCH, 0).frame()]),
        on_control(
            "S38 offers, taken back each time",
            50_000,
            vec![frames::withdraw(SHARE), Offer::of(SHARE, EPOCH, 0).frame()],
        ),
        on_control("S38 standings", 100_000, vec![frames::standing(SHARE, &EPOCH, 1, 2, 3)]),
        on_control(
            "S38 withdrawals of what is not there",
            100_000,
            vec![frames::withdraw("nowhere")],
        ),
        on_content(
            "S38 requests of 256 contents",
            5_000,
            vec![frames::request(1, SHARE, 5, [0x99; 256 * 32])],
        ),
        on_content(
            "S38 requests for what there is",
            70_000,
            vec![frames::range(1, SHARE, &ours, 0, 9)],
        ),
        on_content("S38 cancels", 100_000, (0..100).map(frames::cancel).collect()),
        on_content(
            "S38 complaints about what there is",
            100_000,
            vec![frames::mismatch(SHARE, &ours, 0, 9)],
        ),
        on_content(
            "S38 complaints about nothing",
            50_000,
            (0..200).map(|n| frames::mismatch(SHARE, &[n; 32], 0, 9)).collect(),
        ),
        on_content("S38 acknowledgements", 100_000, vec![frames::acked(SHARE, &ours, 9, 21)]),
    ];
    on_stage(|stage| {
        for flood in rows {
            stage.attack(flood.what, Effect::Nothing, |stage| pour_messages(stage, &flood))?;
        }
        Ok(())
    });
}

fn pour_messages(stage: &Stage<'_>, flood: &Flood) -> Result<()> {
    // Windows of nothing: whatever the victim wants to say, waits at its end.
    let connection = Connection::open_with_window(stage.addr(), Some(&stage.credentials), 4096)?;
    let mut peer = Peer::on(connection)?;
    peer.greet(&Hello::default())?;
    peer.control.say(&Offer::of(SHARE, EPOCH, 0).frame())?;
    let piece: Vec<u8> = (0..100)
        .flat_map(|n| {
            let message = flood.messages[n % flood.messages.len()].encoded();
            framed(0, message.len() as u64, message)
        })
        .collect();
    let call = if flood.on_content { &mut peer.content } else { &mut peer.control };
    for _ in 0..flood.times / 100 {
        if call.say_raw(&piece).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn batches_of_nothing_without_end_hold_nobody_up() {
    on_stage(|stage| {
        stage.attack("S38 2,000 batches", Effect::Nothing, |stage| {
            let (mut peer, _) = stage.sharing(EPOCH, 0)?;
            for _ in 0..2_000 {
                peer.control.say(&Batch::of(SHARE, EPOCH, 0, &[]).frame())?;
            }
            peer.is_up(4)
        })
    });
}

#[test]
fn a_peer_that_comes_and_goes_does_not_fill_the_log() {
    on_stage(|stage| {
        stage.attack("S38 200 links one after the other", Effect::Nothing, |stage| {
            for _ in 0..100 {
                stage.sharing(EPOCH, 0)?;
                let (mut peer, _) = stage.sharing(EPOCH, 0)?;
                peer.control.say(&frames::goodbye(0))?;
                ensure!(peer.ending()? == MISBEHAVED);
            }
            Ok(())
        })
    });
}

#[test]
fn a_store_that_was_not_restored_is_said_to_be_once_and_no_more() {
    on_stage(|stage| {
        stage.attack("S38 50 forged checkpoints", Effect::Nothing, |stage| {
            let mut epochs = std::collections::BTreeSet::new();
            for _ in 0..50 {
                let (mut peer, offered) = stage.sharing(EPOCH, 0)?;
                epochs.insert(offered.epoch);
                let (epoch, digest) = (offered.epoch.to_vec(), vec![0; 16]);
                let pulled = Some(frames::Checkpoint { epoch, seq: offered.head + 9, digest });
                peer.control.say(&Offer { pulled, ..Offer::of(SHARE, EPOCH, 0) }.frame())?;
                let _ = peer.is_up(4);
            }
            ensure!(epochs.len() <= 2, "{} histories were begun", epochs.len());
            Ok(())
        })
    });
}

#[test]
fn a_greeting_that_drips_is_not_waited_for_for_ever() {
    on_stage(|stage| {
        stage.attack("S11 a byte a second", Effect::Nothing, |stage| {
            let mut peer = Peer::connect(stage.addr(), &stage.credentials)?;
            let hello = Hello::default().frame();
            let bytes = framed(0, hello.encoded().len() as u64, hello.encoded());
            let began = Instant::now();
            for byte in bytes.chunks(1) {
                if peer.control.say_raw(byte).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_secs(1));
            }
            let dripped = began.elapsed();
            ensure!(dripped < Duration::from_secs(bytes.len() as u64 - 1), "it took all of it");
            Ok(())
        })?;
        stage.attack(
            "S11 a message that never ends, on a link that is up",
            Effect::Nothing,
            |stage| {
                let mut peer = stage.linked()?;
                peer.content.say_raw(&framed(0, 1000, b"only this"))?;
                peer.is_up(5)
            },
        )
    });
}

#[test]
fn a_second_daemon_of_one_identity_is_refused_and_told_why() {
    on_stage(|stage| {
        stage.attack("S39 M6 another instance", Effect::Nothing, |stage| {
            let (mut first, _) = stage.sharing(EPOCH, 0)?;
            let mut second = Peer::connect(stage.addr(), &stage.credentials)?;
            let other = Hello { instance: vec![0xdd; 16], ..Hello::default() };
            second.control.say(&other.frame())?;
            second.wait_for(1)?;
            second.control.say(&frames::ping(1))?;
            // The first is asked whether it lives, and does.
            let told = std::thread::scope(|scope| {
                let told = scope.spawn(|| second.ending());
                while !told.is_finished() {
                    first.is_up(6)?;
                }
                told.join().unwrap_or_else(|_| anyhow::bail!("the second has failed"))
            })?;
            ensure!(told == Ending::Goodbye(3), "the second is told {told:?}");
            first.is_up(7)
        })
    });
}
