//! `highwater net` and `highwater net test`: what the lines to the peers are like.

use highwater::Home;
use highwater::control::{Client, Request};
use highwater::report::net::{LineMinute, NetTest, Peer, PeerDetail, Peers, Percentiles};

use crate::args::{NetArgs, NetCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::show::print;
use crate::text::{bytes, escaped, span, table};

/// Minutes of the last day that are shown to people; `--json` has them all.
const MINUTES_SHOWN: usize = 15;

/// Shows all lines, one with its last day, or measures one.
pub(crate) fn net(home: &Home, args: &NetArgs, output: &mut Output) -> Result<(), Failure> {
    let client = Client::new(home);
    match (&args.command, &args.node) {
        (Some(NetCommand::Test { node, pings }), _) => {
            let request = Request::NetTest { node: node.clone(), pings: *pings };
            let test: NetTest = client.one(&request)?;
            if output.is_json() { output.json(&test) } else { show_test(&test, output) }
        }
        (None, Some(node)) => {
            let peer: PeerDetail = client.one(&Request::Peer { node: node.clone() })?;
            if output.is_json() { output.json(&peer) } else { show_peer(&peer, output) }
        }
        (None, None) => {
            let peers: Peers = client.one(&Request::Peers)?;
            if output.is_json() { output.json(&peers) } else { show_peers(&peers.peers, output) }
        }
    }
}

fn show_peers(peers: &[Peer], output: &mut Output) -> Result<(), Failure> {
    if peers.is_empty() {
        return output.line("There are no peers yet; `highwater peer add` makes one.");
    }
    let rows: Vec<[String; 8]> = peers.iter().map(row).collect();
    let headings =
        ["PEER", "SCORE", "ROUND TRIP", "JITTER", "LOSS", "RECEIVES", "SENDS", "THE LINE IS"];
    print(output, table(headings, &rows))
}

fn row(peer: &Peer) -> [String; 8] {
    let quality = &peer.quality;
    [
        escaped(&peer.name),
        quality.score.to_string(),
        middle(quality.rtt_ms),
        middle(quality.jitter_ms),
        percent(quality.loss_percent),
        rate(quality.receive_bytes_per_second),
        rate(quality.send_bytes_per_second),
        escaped(&quality.rating),
    ]
}

fn show_peer(detail: &PeerDetail, output: &mut Output) -> Result<(), Failure> {
    let (peer, quality) = (&detail.peer, &detail.peer.quality);
    output.heading(format_args!("{} ({})", escaped(&peer.name), peer.node_id))?;
    output.line(format_args!(
        "the line is {}, score {}",
        escaped(&quality.rating),
        quality.score
    ))?;
    if let Some(error) = &peer.last_error {
        output.line(format_args!("last error: {}", escaped(error)))?;
    }
    let up = quality.connected_seconds.map_or_else(|| "down".to_owned(), |s| span(s) + " up");
    output.line(format_args!("{up}, {} reconnects", quality.reconnects))?;
    for (what, spread) in [("round trip", quality.rtt_ms), ("jitter", quality.jitter_ms)] {
        if let Some(Percentiles { p50, p95, p99 }) = spread {
            let text = format!("{what}: {p50:.1} ms; 95 % below {p95:.1}, 99 % below {p99:.1} ms");
            output.line(text)?;
        }
    }
    output.line(format_args!(
        "loss {}, receives {}, sends {}",
        percent(quality.loss_percent),
        rate(quality.receive_bytes_per_second),
        rate(quality.send_bytes_per_second)
    ))?;
    let rows: Vec<[String; 6]> =
        detail.history.iter().rev().take(MINUTES_SHOWN).map(past).collect();
    if rows.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let headings = ["MINUTE", "ROUND TRIP", "LOSS", "RECEIVED", "SENT", "LINKS LOST"];
    print(output, table(headings, &rows))
}

fn past(minute: &LineMinute) -> [String; 6] {
    let loss = minute.segments_resent as f64 * 100.0 / minute.segments.max(1) as f64;
    [
        escaped(minute.began.get(..16).unwrap_or(&minute.began)),
        middle(minute.rtt_ms),
        percent((minute.segments > 0).then_some(loss)),
        bytes(minute.bytes_received),
        bytes(minute.bytes_sent),
        minute.links_lost.to_string(),
    ]
}

fn show_test(test: &NetTest, output: &mut Output) -> Result<(), Failure> {
    output.heading(format_args!("{} ({})", escaped(&test.name), test.node_id))?;
    output.line(format_args!(
        "round trip {}, jitter {}, {} pings lost, loss {}",
        middle(test.rtt_ms),
        middle(test.jitter_ms),
        test.pings_lost,
        percent(test.loss_percent)
    ))?;
    if test.bytes == 0 {
        let trips: Vec<String> = test.round_trips_ms.iter().map(|ms| format!("{ms:.2}")).collect();
        return output.line(format_args!("each in ms: {}", trips.join(" ")));
    }
    output.line(format_args!(
        "receives {}, sends {}; {} moved in {:.1} s",
        rate(test.receive_bytes_per_second),
        rate(test.send_bytes_per_second),
        bytes(test.bytes),
        test.seconds
    ))
}

fn middle(spread: Option<Percentiles>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.1} ms", spread.p50))
}

fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %"))
}

fn rate(rate: Option<u64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(rate)))
}
