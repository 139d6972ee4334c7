//! `highwater check` and `highwater hash --share`.

use std::io::IsTerminal;

use highwater::check::report::{
    CheckReport, CheckState, Difference, Kind, NodeReport, Outcome, Repair, RepairState,
};
use highwater::control::{Client, Next, Request};
use highwater::engine::ShareRoot;
use highwater::home::Home;
use highwater::report::Status;
use highwater::report::cluster::ClusterNodes;
use highwater_core::{NodeId, ShareName};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::CheckArgs;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::text::{bytes, escaped, table};

const TEMPLATE: &str = "{msg:12} {bar:24} {bytes:>10}/{total_bytes:10} {eta:>6}";

/// Differences shown; the rest is counted, and listed by `--json`.
const SHOWN_MAX: usize = 200;

/// Checks one share, or all of them one after the other.
pub(crate) fn check(home: &Home, args: &CheckArgs, output: &mut Output) -> Result<(), Failure> {
    let client = Client::new(home);
    let status: Status = client.one(&Request::Status)?;
    let shares: Vec<ShareName> = match &args.share {
        Some(share) => vec![share.clone()],
        None => status.shares.iter().map(|share| share.name.clone()).collect(),
    };
    if shares.is_empty() {
        return Err(Failure::failed(
            "nothing is shared here; begin with `highwater share add NAME PATH`",
        ));
    }
    let peers = args.peers.iter().map(|peer| named(peer, &status, &client));
    let peers = peers.collect::<Result<_, _>>()?;
    let peers: Vec<String> = peers;
    let mut reports = Vec::new();
    for share in shares {
        let report = lead(&client, share, peers.clone(), args)?;
        if !output.is_json() {
            show(&report, output)?;
            output.finish()?;
        }
        reports.push(report);
    }
    match (output.is_json(), reports.as_slice()) {
        (false, _) => {}
        (true, [report]) => output.json(report)?,
        (true, reports) => output.json(&reports)?,
    }
    code(&reports).map_or(Ok(()), |code| Err(Failure::Shown(code)))
}

/// A node by its id, by its name as a peer, or by what it calls itself in the cluster.
fn named(text: &str, status: &Status, client: &Client) -> Result<String, Failure> {
    if text.parse::<NodeId>().is_ok() {
        return Ok(text.to_owned());
    }
    let mut peers = status.shares.iter().flat_map(|share| &share.peers);
    if let Some(peer) = peers.find(|peer| peer.name == text) {
        return Ok(peer.node_id.to_string());
    }
    let known: ClusterNodes = client.one(&Request::ClusterNodes)?;
    let mut called = known.nodes.into_iter().filter(|(_, node)| node.config.metadata.name == text);
    match (called.next(), called.next()) {
        (Some((id, _)), None) => Ok(id),
        (Some(_), Some(_)) => {
            Err(Failure::wrong(format!("more than one node is called {text:?}; give its id")))
        }
        (None, _) => Err(Failure::wrong(format!(
            "{text:?} is no node's id or name; see `highwater cluster nodes`"
        ))),
    }
}

fn lead(
    client: &Client,
    share: ShareName,
    peers: Vec<String>,
    args: &CheckArgs,
) -> Result<CheckReport, Failure> {
    let repair = match (args.repair, args.dry_run) {
        (true, true) => Repair::DryRun,
        (true, false) => Repair::Yes,
        _ => Repair::No,
    };
    let (deep, from_disk) = (args.deep, args.from_disk);
    let request = Request::Check { share: share.clone(), peers, deep, from_disk, repair };
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut last = None;
    client.each(&request, |report: CheckReport| {
        if let Some(bar) = &bar {
            bar.set_length(report.progress.total.max(1));
            bar.set_position(report.progress.bytes);
            bar.set_message(report.progress.phase.clone());
        }
        last = Some(report);
        Next::Continue(())
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    last.ok_or_else(|| Failure::failed(format!("the check of {share} brought no report")))
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()).with_style(style)
}

/// The worst that a report says.
fn code(reports: &[CheckReport]) -> Option<Code> {
    let is = |outcome| reports.iter().any(|report| report.outcome == outcome);
    match () {
        () if is(Outcome::Different) => Some(Code::Differences),
        () if is(Outcome::Incomplete) || is(Outcome::Unknown) => Some(Code::Failed),
        () => None,
    }
}

/// Shows one report.
fn show(report: &CheckReport, output: &mut Output) -> Result<(), Failure> {
    let depth = if report.deep { ", every byte read again" } else { "" };
    output.heading(format_args!("{}: {}", report.share, conclusion(report)))?;
    output.line(format_args!(
        "{} entries compared{depth}; {:.2} s, {} asked and answered{}",
        report.entries_compared,
        report.seconds,
        bytes(report.wire_bytes),
        if report.deep {
            format!(", {} hashed", bytes(report.bytes_hashed))
        } else {
            String::new()
        },
    ))?;
    output.line("")?;
    let rows: Vec<_> = report.nodes.iter().map(|node| node_row(node, &report.nodes)).collect();
    let text = table(["NODE", "REACHED", "ENTRIES", "ROOT"], &rows);
    text.into_iter().try_for_each(|line| output.line(line))?;
    if report.differences.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let names = |id: &NodeId| {
        let row = report.nodes.iter().find(|row| row.node_id == *id);
        row.map_or_else(|| id.tag().to_string(), |row| escaped(&row.name))
    };
    for difference in report.differences.iter().take(SHOWN_MAX) {
        show_difference(difference, &names, output)?;
    }
    let more = report.more + report.differences.len().saturating_sub(SHOWN_MAX) as u64;
    if more > 0 {
        output.line(format_args!("and {more} more; --json lists up to 10,000"))?;
    }
    Ok(())
}

fn conclusion(report: &CheckReport) -> String {
    if report.state == CheckState::Failed {
        let why = report.error.as_deref().unwrap_or("it could not be carried out");
        return format!("not checked: {why}");
    }
    let away: Vec<String> = report
        .nodes
        .iter()
        .filter(|node| !node.reachable)
        .map(|node| {
            let why = node.error.as_deref().unwrap_or("not reached");
            format!("{} ({})", escaped(&node.name), escaped(why))
        })
        .collect();
    let differences = report.differences.len() as u64 + report.more;
    match report.outcome {
        Outcome::Identical if differences > 0 => {
            format!("identical now, {differences} mended")
        }
        Outcome::Identical => "identical on all nodes".to_owned(),
        Outcome::Pending => format!("the same but for {differences} on their way"),
        Outcome::Incomplete => {
            format!("incomplete: {} did not answer; what was reached is the same", away.join(", "))
        }
        Outcome::Different if away.is_empty() => format!("{differences} different"),
        Outcome::Different => {
            format!("{differences} different, and {} did not answer", away.join(", "))
        }
        Outcome::Unknown => "not known".to_owned(),
    }
}

/// Whether a node was reached, and how.
fn reached(node: &NodeReport, nodes: &[NodeReport]) -> String {
    let name = |id: &NodeId| {
        let row = nodes.iter().find(|row| row.node_id == *id);
        row.map_or_else(|| id.tag().to_string(), |row| escaped(&row.name))
    };
    match (node.reachable, node.through.as_slice()) {
        (false, _) => "no".to_owned(),
        (true, []) => "yes".to_owned(),
        (true, through) => {
            format!("through {}", through.iter().map(name).collect::<Vec<_>>().join(", "))
        }
    }
}

fn node_row(node: &NodeReport, nodes: &[NodeReport]) -> [String; 4] {
    [
        escaped(&node.name),
        reached(node, nodes),
        node.entries.to_string(),
        node.root.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn show_difference(
    difference: &Difference,
    names: &impl Fn(&NodeId) -> String,
    output: &mut Output,
) -> Result<(), Failure> {
    let at: Vec<String> = difference.at.iter().map(names).collect();
    let place = if at.is_empty() { String::new() } else { format!(" at {}", at.join(", ")) };
    let span = difference.range.map(|(from, to)| format!(", bytes {from} to {to}"));
    let head = format!(
        "{}{place}: {}{}",
        difference.kind.as_str(),
        escaped(difference.key.as_str()),
        span.unwrap_or_default()
    );
    match difference.kind {
        Kind::Pending => output.line(head)?,
        _ => output.alarm(head)?,
    }
    output.line(format_args!("    {}", escaped(&difference.verdict)))?;
    match difference.repair {
        RepairState::None | RepairState::Planned => {
            output.line(format_args!("    {}", escaped(&difference.message)))
        }
        RepairState::Done => output.line("    mended, and looked at again"),
        RepairState::Failed => output.alarm(format!("    {}", escaped(&difference.message))),
    }
}

/// Prints the root hash of a share.
pub(crate) fn root(home: &Home, share: ShareName, output: &mut Output) -> Result<(), Failure> {
    let root: ShareRoot = Client::new(home).one(&Request::Root { share })?;
    if output.is_json() {
        return output.json(&root);
    }
    output.line(format_args!("{}  {}", root.root, root.share))
}
