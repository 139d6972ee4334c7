//! The daemon's answers as tables for people.

use highwater::report::{
    AlertRow, AlertsReport, CheckBrief, ConflictRow, Delivery, LogRow, PeerStatus, Position,
    ShareStatus, Status, Transfer,
};

use crate::failure::Failure;
use crate::output::Output;
use crate::text::{bytes, escaped, span, table};

/// Problems shown for one share; the rest is counted, and listed by `--json`.
const PROBLEMS_SHOWN_MAX: usize = 10;

/// Shows how everything stands.
pub(crate) fn status(status: &Status, output: &mut Output) -> Result<(), Failure> {
    output.heading(format_args!("{} ({})", escaped(&status.name), escaped(&status.user)))?;
    output.line(format_args!("node {}", status.node_id))?;
    output.line(format_args!(
        "version {}, up {}",
        escaped(&status.version),
        span(status.uptime_seconds)
    ))?;
    if status.unwell.is_empty() {
        output.line("well")?;
    }
    for reason in &status.unwell {
        output.alarm(format_args!("NOT WELL: {}", escaped(&reason.message)))?;
    }
    output.line("")?;
    if status.shares.is_empty() {
        return output.line("Nothing is shared yet; begin with `highwater share add NAME PATH`.");
    }
    print(output, table(SHARE_HEADINGS, &status.shares.iter().map(share_row).collect::<Vec<_>>()))?;
    let peers: Vec<_> = status
        .shares
        .iter()
        .flat_map(|share| share.peers.iter().map(|peer| peer_row(share, peer)))
        .collect();
    if !peers.is_empty() {
        output.line("")?;
        print(output, table(["PEER", "SHARE", "LINK", "IN SYNC", "PULLED", "PUSHED"], &peers))?;
    }
    checks(status, output)?;
    if !status.transfers.is_empty() {
        output.line("")?;
        transfers(&status.transfers, output)?;
    }
    status.shares.iter().try_for_each(|share| problems(share, output))
}

const SHARE_HEADINGS: [&str; 8] =
    ["SHARE", "STATE", "MODE", "ENTRIES", "SIZE", "NEEDED", "CONFLICTS", "PATH"];

fn share_row(share: &ShareStatus) -> [String; 8] {
    let needed = match share.needed.entries {
        0 => "-".to_owned(),
        entries => format!("{entries} ({})", bytes(share.needed.bytes)),
    };
    [
        share.name.to_string(),
        share.state.to_string(),
        share.mode.to_string(),
        share.entries.to_string(),
        bytes(share.bytes),
        needed,
        share.conflicts.to_string(),
        escaped(&share.path.to_string_lossy()),
    ]
}

fn peer_row(share: &ShareStatus, peer: &PeerStatus) -> [String; 6] {
    let position = |at: &Position| format!("{}/{}", at.acked_seq, at.head_seq);
    [
        escaped(&peer.name),
        share.name.to_string(),
        if peer.connected { "up" } else { "down" }.to_owned(),
        if peer.in_sync { "yes" } else { "no" }.to_owned(),
        position(&peer.pull),
        position(&peer.push),
    ]
}

/// The latest check of each share, in a line.
fn checks(status: &Status, output: &mut Output) -> Result<(), Failure> {
    let brief = |check: &CheckBrief| {
        let depth = if check.deep { "every byte read again" } else { "not deep" };
        format!("{} at {} ({depth}, check {})", check.outcome, check.started, check.id)
    };
    for share in &status.shares {
        let Some(checks) = &share.check else { continue };
        output.line("")?;
        if checks.running.is_some() {
            output.line(format_args!("{} is being checked", share.name))?;
        }
        if let Some(last) = &checks.last {
            output.line(format_args!("last check of {}: {}", share.name, brief(last)))?;
        }
        if let Some(scrub) = checks.scrub.as_ref().filter(|_| checks.scrub != checks.last) {
            output.line(format_args!("last scrub of {}: {}", share.name, brief(scrub)))?;
        }
    }
    Ok(())
}

fn problems(share: &ShareStatus, output: &mut Output) -> Result<(), Failure> {
    if share.problems.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.heading(format_args!("PROBLEMS OF {}", share.name))?;
    for problem in share.problems.iter().take(PROBLEMS_SHOWN_MAX) {
        let (path, message) = (escaped(&problem.path), escaped(&problem.message));
        let separator = if path.is_empty() { "" } else { ": " };
        output.alarm(format_args!("{path}{separator}{message}"))?;
    }
    match share.problems.len().saturating_sub(PROBLEMS_SHOWN_MAX) {
        0 => Ok(()),
        more => output.line(format_args!("and {more} more; `highwater status --json` lists all")),
    }
}

/// Shows the contents in flight.
pub(crate) fn transfers(transfers: &[Transfer], output: &mut Output) -> Result<(), Failure> {
    if transfers.is_empty() {
        return output.line("Nothing is in flight.");
    }
    let rows: Vec<_> = transfers
        .iter()
        .map(|transfer| {
            let resumed = match transfer.resumed_from {
                0 => "-".to_owned(),
                offset => bytes(offset),
            };
            [
                transfer.share.to_string(),
                transfer.state.to_string(),
                bytes(transfer.acked_offset),
                bytes(transfer.size),
                resumed,
                format!("{}/s", bytes(transfer.bytes_per_second)),
                time_left(transfer),
                transfer.peer.chars().take(PEER_CHARS).collect(),
                escaped(transfer.key.as_str()),
            ]
        })
        .collect();
    let headings = ["SHARE", "STATE", "ACKED", "SIZE", "RESUMED", "RATE", "LEFT", "PEER", "KEY"];
    print(output, table(headings, &rows))
}

/// As much of a node id as its tag has.
const PEER_CHARS: usize = 8;

fn time_left(transfer: &Transfer) -> String {
    let left = transfer.size.saturating_sub(transfer.acked_offset);
    left.checked_div(transfer.bytes_per_second).map_or_else(|| "-".to_owned(), span)
}

/// Shows what the columns of [`log_row`] are. Rows come one by one, so their widths are fixed.
pub(crate) fn log_heading(output: &mut Output) -> Result<(), Failure> {
    output.heading(format_args!(
        "{:>8}  {:9}  {:>10}  {:24}  {:8}  KEY",
        "SEQ", "KIND", "SIZE", "CHANGED", "BY"
    ))
}

/// Shows one change.
pub(crate) fn log_row(row: &LogRow, output: &mut Output) -> Result<(), Failure> {
    output.line(format_args!(
        "{:>8}  {:9}  {:>10}  {:24}  {:8}  {}",
        row.seq.0,
        escaped(&row.kind),
        if row.content.is_some() { bytes(row.size) } else { "-".to_owned() },
        escaped(&row.stamp),
        escaped(&row.author),
        escaped(row.key.as_str())
    ))
}

/// Lists the preserved losing versions.
pub(crate) fn conflicts(rows: &[ConflictRow], output: &mut Output) -> Result<(), Failure> {
    if rows.is_empty() {
        return output.line("There are no conflicts.");
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.share.to_string(),
                bytes(row.size),
                escaped(&row.stamp),
                escaped(&row.author),
                escaped(row.of.as_str()),
                escaped(row.key.as_str()),
            ]
        })
        .collect();
    print(output, table(["SHARE", "SIZE", "CHANGED", "BY", "LOST TO", "KEPT AS"], &rows))
}

/// Shows what fires, what was resolved lately, and whether it was told.
pub(crate) fn alerts(report: &AlertsReport, output: &mut Output) -> Result<(), Failure> {
    if report.firing.is_empty() {
        output.line("No alert is firing.")?;
    }
    for alert in &report.firing {
        output.alarm(format_args!("{} since {}", headline(alert), escaped(&alert.since)))?;
        output.line(format_args!("  {}", escaped(&alert.cause)))?;
        output.line(format_args!("  {}", escaped(&alert.what_to_do)))?;
    }
    if !report.recent.is_empty() {
        output.line("")?;
        output.heading("Resolved lately")?;
        for alert in &report.recent {
            let ended = alert.resolved.as_deref().unwrap_or_default();
            let (since, ended) = (escaped(&alert.since), escaped(ended));
            output.line(format_args!("{} from {since} to {ended}", headline(alert)))?;
        }
    }
    for (name, told) in [("webhook", &report.webhook), ("Alertmanager", &report.alertmanager)] {
        if told.failing || told.dropped > 0 {
            let Delivery { queued, sent, dropped, .. } = told;
            output.alarm(format_args!(
                "the {name} does not take alerts: {queued} wait, {sent} taken, {dropped} given up"
            ))?;
        }
    }
    Ok(())
}

fn headline(alert: &AlertRow) -> String {
    format!("{}: {}", alert.rule.as_str(), escaped(&alert.subject))
}

/// Shows a table, its first line as the heading.
pub(crate) fn print(output: &mut Output, lines: Vec<String>) -> Result<(), Failure> {
    let mut lines = lines.into_iter();
    if let Some(heading) = lines.next() {
        output.heading(heading)?;
    }
    lines.try_for_each(|line| output.line(line))
}
