//! The fault proxy itself, over plain sockets: a test that trusts a fault must know that it fell.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use highwater_lab::faults::{CutKind, Direction, EndAfter, Faults, Flip, Newcomers, Survivors};
use highwater_lab::proxy::Proxy;

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence is listened to before it is believed. Too short can only miss a failure.
const SILENCE: Duration = Duration::from_millis(100);

struct Ends {
    proxy: Proxy,
    listener: TcpListener,
}

impl Ends {
    fn new() -> Ends {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).expect("loopback is there");
        let target = listener.local_addr().expect("it is bound");
        Ends { proxy: Proxy::start(any, target).expect("a free port"), listener }
    }

    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.addr()).expect("the proxy listens");
        let (server, _) = self.listener.accept().expect("the proxy dials on");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        }
        (client, server)
    }
}

fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut found = vec![0; wanted.len()];
    stream.read_exact(&mut found).expect("the bytes arrive");
    assert_eq!(found, wanted);
}

fn expect_silence(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).expect("a valid timeout");
    let error = stream.read(&mut [0]).expect_err("nothing arrives");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
}

#[test]
fn bytes_pass_both_ways_and_are_counted() {
    let ends = Ends::new();
    let (mut client, mut server) = ends.connect();
    client.write_all(b"hello").expect("open");
    expect(&mut server, b"hello");
    server.write_all(b"hi").expect("open");
    expect(&mut client, b"hi");
    drop(client);
    assert_eq!(server.read(&mut [0]).expect("end of stream"), 0);
    let report = ends.proxy.report();
    assert_eq!(report.bytes(Direction::Forward), 5);
    assert_eq!(report.bytes(Direction::Backward), 2);
}

#[test]
fn a_silent_link_hides_even_the_end_of_a_stream_and_loses_nothing() {
    let ends = Ends::new();
    let (mut client, mut server) = ends.connect();
    ends.proxy.cut(CutKind::Silent);
    client.write_all(b"late").expect("the socket is open");
    drop(client);
    expect_silence(&mut server);
    ends.proxy.heal();
    expect(&mut server, b"late");
    assert_eq!(server.read(&mut [0]).expect("end of stream"), 0);
}

#[test]
fn connections_opened_on_a_silent_link_are_held_or_refused_as_asked() {
    let ends = Ends::new();
    ends.proxy.cut(CutKind::Silent);
    let mut client = TcpStream::connect(ends.proxy.addr()).expect("held, not refused");
    client.write_all(b"x").expect("the socket is open");
    ends.proxy.heal();
    let (mut server, _) = ends.listener.accept().expect("dialled on");
    expect(&mut server, b"x");

    ends.proxy.cut_with(CutKind::Silent, Newcomers::Refused);
    wait_until(|| TcpStream::connect(ends.proxy.addr()).is_err());
    ends.proxy.heal();
    wait_until(|| TcpStream::connect(ends.proxy.addr()).is_ok());
}

#[test]
fn a_healed_link_can_have_forgotten_what_was_connected_over_it() {
    let ends = Ends::new();
    let (mut client, _server) = ends.connect();
    ends.proxy.cut(CutKind::Silent);
    expect_silence(&mut client);
    ends.proxy.heal_with(Survivors::Reset);
    let error = client.read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    ends.connect();
}

#[test]
fn a_reset_is_a_reset_and_a_close_is_a_close() {
    let ends = Ends::new();
    let (mut client, mut server) = ends.connect();
    ends.proxy.sever(CutKind::Reset);
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0]).expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let (mut client, mut server) = ends.connect();
    ends.proxy.cut(CutKind::Close);
    assert_eq!(client.read(&mut [0]).expect("end of stream"), 0);
    assert_eq!(server.read(&mut [0]).expect("end of stream"), 0);
    wait_until(|| TcpStream::connect(ends.proxy.addr()).is_err());
    ends.proxy.heal();
    wait_until(|| TcpStream::connect(ends.proxy.addr()).is_ok());
}

#[test]
fn a_connection_ends_after_exactly_the_bytes_it_was_given() {
    for kind in [CutKind::Close, CutKind::Reset, CutKind::Silent] {
        let ends = Ends::new();
        let end_after = Some(EndAfter { bytes: 70_000, kind, at_record: false });
        ends.proxy.set(Direction::Forward, Faults { end_after, ..Faults::default() });
        let (mut client, mut server) = ends.connect();
        client.write_all(&[7; 100_000]).expect("it fits the buffers");
        expect(&mut server, &[7; 70_000]);
        match kind {
            CutKind::Close => assert_eq!(server.read(&mut [0]).expect("end"), 0),
            CutKind::Reset => assert!(server.read(&mut [0]).is_err()),
            CutKind::Silent => expect_silence(&mut server),
        }
        assert_eq!(ends.proxy.report().bytes(Direction::Forward), 70_000, "{kind:?}");
    }
}

#[test]
fn bytes_are_falsified_once_or_at_a_rate() {
    let ends = Ends::new();
    let (mut client, mut server) = ends.connect();
    ends.proxy.set(Direction::Forward, Faults { flip: Flip::Once, ..Faults::default() });
    client.write_all(&[0; 10]).expect("open");
    expect(&mut server, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ends.proxy.set(Direction::Forward, Faults { flip: Flip::Every(4), ..Faults::default() });
    client.write_all(&[0; 8]).expect("open");
    expect(&mut server, &[0, 1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_rate_holds_back_and_a_delay_comes_late() {
    let ends = Ends::new();
    ends.proxy.set(Direction::Forward, Faults::rate(1_000_000));
    ends.proxy.set(Direction::Backward, Faults::delay(Duration::from_millis(80)));
    let (mut client, mut server) = ends.connect();
    let began = Instant::now();
    let sender = thread::spawn(move || {
        client.write_all(&[7; 300_000]).expect("open");
        client
    });
    expect(&mut server, &[7; 300_000]);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    let mut client = sender.join().expect("no panic");
    let began = Instant::now();
    server.write_all(b"x").expect("open");
    expect(&mut client, b"x");
    assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
}

#[test]
fn single_bytes_still_make_the_whole() {
    let ends = Ends::new();
    ends.proxy.set_both(Faults { one_byte_slices: true, ..Faults::default() });
    let (mut client, mut server) = ends.connect();
    client.write_all(b"piecemeal").expect("open");
    expect(&mut server, b"piecemeal");
}

#[test]
fn a_trigger_acts_when_its_event_comes_and_keeps_the_evidence() {
    let ends = Ends::new();
    let (mut client, mut server) = ends.connect();
    let watched = ends.proxy.clone();
    let trigger = ends.proxy.when(
        move || Some(watched.report().bytes(Direction::Forward)).filter(|&bytes| bytes >= 3),
        |proxy| proxy.cut(CutKind::Close),
    );
    client.write_all(b"abc").expect("open");
    expect(&mut server, b"abc");
    assert_eq!(server.read(&mut [0]).expect("end of stream"), 0);
    assert_eq!(trigger.wait(PATIENCE), Some(3));
    let never = ends.proxy.when(|| None::<()>, |_| {});
    assert_eq!(never.wait(Duration::ZERO), None);
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come about within {PATIENCE:?}");
        thread::yield_now();
    }
}
