//! Those who have no place at the sync port: S1, S2, S6, S41, M1, M7.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use highwater_lab::hostile::{Connection, Credentials, Ending, Heard, agrees_to};
use highwater_lab::node::{Node, NodeSpec};

use crate::stage::{Effect, PATIENCE, Stage, has_said, on_stage};

/// Nothing of the protocol is heard: not one frame, whatever was asked.
fn nothing_is_heard(addr: SocketAddr, credentials: Option<&Credentials>) -> Result<()> {
    let Ok(mut connection) = Connection::open(addr, credentials) else { return Ok(()) };
    let Ok(mut call) = connection.call("Control") else { return Ok(()) };
    let heard = call.hear()?;
    ensure!(matches!(heard, Heard::Broken(_)), "a stranger heard {heard:?}");
    Ok(())
}

#[test]
fn a_stranger_hears_nothing_whatever_it_shows() {
    on_stage(|stage| {
        let exe = stage.victim().spec().exe.clone();
        let stranger = Node::init(NodeSpec::on_loopback(&exe, "stranger")?, &stage.cluster.dir())?;
        let own = Credentials::of_home(&stranger.home())?;
        let good = stage.credentials.clone();
        let shown = [
            ("S1 no certificate", None),
            ("S2 a certificate of its own", Some(own.clone())),
            ("S2 a peer's certificate without its key", Some(own.posing_as(&good))),
            ("S2 a peer's certificate behind its own", Some(own.with_a_second(&good))),
            ("S2 a peer's certificate and one more", Some(good.with_a_second(&own))),
            ("S2 no certificate at all", Some(good.with_certificate(b"garbage".to_vec()))),
            ("S2 an empty certificate", Some(good.with_certificate(Vec::new()))),
            ("S2 64 KiB of certificate", Some(good.with_certificate(vec![0x30; 65_000]))),
        ];
        for (what, credentials) in shown {
            let (addr, credentials) = (stage.addr(), credentials.as_ref());
            stage.attack(what, Effect::Nothing, |_| nothing_is_heard(addr, credentials))?;
        }
        ensure!(has_said(stage.victim(), stranger.id())?, "the stranger's id is not named");
        Ok(())
    });
}

/// Sends bytes that are no TLS, and waits to be hung up on.
fn is_hung_up_on(addr: SocketAddr, pieces: &[&[u8]]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => Ok(heard),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(heard),
        Err(error) => Err(error).context("it was never hung up"),
    }
}

#[test]
fn what_is_no_tls_is_hung_up_on() {
    // The beginning of a TLS 1.3 greeting, cut off.
    let hello: Vec<u8> = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[0; 90]].concat();
    let single: Vec<&[u8]> = hello.chunks(1).collect();
    // Every record with one byte of the greeting in it.
    let records: Vec<u8> = hello[5..].iter().flat_map(|b| [22, 3, 1, 0, 1, *b]).collect();
    let endless = vec![22; 1 << 20];
    let rows: [(&str, Vec<&[u8]>); 7] = [
        ("S6 plain HTTP", vec![b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]),
        ("S6 HTTP/2 without TLS", vec![b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"]),
        ("S6 a greeting byte by byte", single),
        ("S6 a record for every byte", vec![&records]),
        ("S6 a megabyte of nothing", vec![&endless]),
        ("M1 a membership message in clear", vec![b"{\"join\":\"me\"}\n"]),
        ("S6 not a word", vec![]),
    ];
    on_stage(|stage| {
        for (what, pieces) in rows {
            let addr = stage.addr();
            stage.attack(what, Effect::Nothing, |_| {
                let heard = is_hung_up_on(addr, &pieces)?;
                ensure!(heard.len() < 64, "heard {} bytes", heard.len());
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_crowd_that_says_nothing_keeps_no_peer_out() {
    on_stage(|stage| {
        let addr = stage.addr();
        stage.attack("S6 300 silent connections", Effect::Nothing, |stage| {
            let crowd: Vec<TcpStream> =
                (0..300).map(|_| TcpStream::connect(addr)).collect::<Result<_, _>>()?;
            stage.linked().context("a peer behind the crowd")?;
            drop(crowd);
            Ok(())
        })
    });
}

#[test]
fn nothing_but_http_2_is_spoken() {
    on_stage(|stage| {
        for (what, alpn) in [("S6 HTTP/1.1 by ALPN", &b"http/1.1"[..]), ("S6 HTTP/3", b"h3")] {
            let (addr, credentials) = (stage.addr(), stage.credentials.clone());
            stage.attack(what, Effect::Nothing, |_| {
                ensure!(!agrees_to(addr, &credentials, alpn)?, "{what} was agreed to");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn other_services_are_not_served_not_even_to_peers() {
    on_stage(|stage| {
        let rows = [
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.health.v1.Health/Check",
            "/highwater.v1.Sync/Admin",
            "/highwater.v1.Control/Status",
            "/",
        ];
        for path in rows {
            stage.attack(&format!("S41 {path}"), Effect::Nothing, |stage| {
                let mut connection = Connection::open(stage.addr(), Some(&stage.credentials))?;
                let mut call = connection.call_path(path)?;
                let heard = call.hear()?;
                ensure!(matches!(heard, Heard::Status(12, _)), "UNIMPLEMENTED, not {heard:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_peer_that_is_removed_is_let_go_at_once_and_refused_from_then_on() {
    on_stage(|stage| {
        stage.attack("M7", Effect::Nothing, removed_in_mid_stream)?;
        ensure!(fs::metadata(stage.canary.join("song")).is_ok());
        Ok(())
    });
}

fn removed_in_mid_stream(stage: &mut Stage<'_>) -> Result<()> {
    let (mut peer, _) = stage.sharing([1; 16], 0)?;
    let mallory = stage.mallory.id().to_owned();
    stage.victim().run(&["peer", "remove", &mallory])?;
    let ending = peer.ending()?;
    ensure!(ending == Ending::Goodbye(6), "let go with {ending:?}");
    nothing_is_heard(stage.addr(), Some(&stage.credentials))
}
