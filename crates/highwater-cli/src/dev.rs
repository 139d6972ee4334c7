//! `highwater dev`: a development cluster, made, watched and tried by `highwater-lab`; shown here.

use std::path::{Path, PathBuf};

use highwater::Home;
use highwater_lab::dev::fault_test::{self, FaultReport};
use highwater_lab::dev::{self, DevNode, DevReport, DownReport, UpOptions};

use crate::args::{DevCommand, DevPlace};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::text::{bytes, escaped, table};

/// The directory of a cluster beside the home of a node of one's own.
const DIR_NAME: &str = "highwater-dev";

/// Carries out one command on a development cluster.
pub(crate) fn dev(command: DevCommand, output: &mut Output) -> Result<(), Failure> {
    // Progress goes to standard error, so that standard output holds the answer alone.
    let say = |line: &str| eprintln!("{}", escaped(line));
    match command {
        DevCommand::Up { nodes, shares, http, sync, place } => {
            let exe = std::env::current_exe().map_err(|e| {
                Failure::failed(format!("cannot find this program to start nodes: {e}"))
            })?;
            let shares = shares.iter().map(ToString::to_string).collect();
            let dir = place.dir()?;
            let options = UpOptions { exe, dir, nodes, shares, http_port: http, sync_port: sync };
            let report = dev::up(&options, &say).map_err(told)?;
            show(&report, output)
        }
        DevCommand::Status { place } => show(&dev::status(&place.dir()?).map_err(told)?, output),
        DevCommand::Down { purge, place } => {
            show_down(&dev::down(&place.dir()?, purge).map_err(told)?, output)
        }
        DevCommand::FaultTest { place } => {
            let report = fault_test::fault_test(&place.dir()?, &say).map_err(told)?;
            show_test(&report, output)
        }
    }
}

impl DevPlace {
    fn dir(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let home = Home::default_place()?;
        Ok(home.dir().parent().unwrap_or(Path::new(".")).join(DIR_NAME))
    }
}

fn told(error: impl std::fmt::Display) -> Failure {
    // The alternate form tells the whole chain of causes in one sentence.
    Failure::failed(format!("{error:#}"))
}

/// One table for all nodes; succeeds only if the cluster is well.
fn show(report: &DevReport, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(report)?;
    } else {
        let rows: Vec<_> = report.nodes.iter().map(row).collect();
        let headings =
            ["NODE", "PID", "HTTP", "HEALTH", "PEERS", "IN SYNC", "ENTRIES", "NEEDED", "MEMORY"];
        let mut lines = table(headings, &rows).into_iter();
        if let Some(heading) = lines.next() {
            output.heading(heading)?;
        }
        lines.try_for_each(|line| output.line(line))?;
        for node in &report.nodes {
            if let Some(error) = &node.error {
                output.alarm(format!("{}: {}", node.name, escaped(error)))?;
            }
        }
        let dir = report.directory.display().to_string();
        let started = match (report.started.as_slice(), report.well) {
            ([], _) => String::new(),
            (names, _) => format!("Started {}. ", names.join(", ")),
        };
        output.line(format!("{started}Homes, folders and logs are in {}.", escaped(&dir)))?;
    }
    if report.well { Ok(()) } else { Err(Failure::Shown(Code::Failed)) }
}

fn row(node: &DevNode) -> [String; 9] {
    let health = match (node.pid, node.healthy) {
        (None, _) => "stopped",
        (_, Some(true)) => "well",
        (_, Some(false)) => "not well",
        (_, None) => "no answer",
    };
    let answers = node.error.is_none();
    let if_known = |text: String| if answers { text } else { "-".to_owned() };
    [
        node.name.clone(),
        node.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        format!("http://{}", node.http),
        health.to_owned(),
        if_known(format!("{}/{}", node.connected, node.peers)),
        if_known(if node.in_sync { "yes" } else { "no" }.to_owned()),
        if_known(node.entries.to_string()),
        if_known(node.needed.to_string()),
        node.resident_bytes.map_or("-".to_owned(), bytes),
    ]
}

fn show_down(report: &DownReport, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(report);
    }
    let stopped = match report.stopped.as_slice() {
        [] => "No node ran".to_owned(),
        names => format!("Stopped {}", names.join(", ")),
    };
    let killed = match report.killed.as_slice() {
        [] => String::new(),
        names => format!("; {} had to be killed", names.join(", ")),
    };
    let dir = escaped(&report.directory.display().to_string());
    let rest = match report.purged {
        true => format!("{dir} is gone"),
        false => format!("`highwater dev up` goes on with what is in {dir}"),
    };
    output.line(format!("{stopped}{killed}; {rest}."))
}

/// The report of the fault test; succeeds only if every check holds.
fn show_test(report: &FaultReport, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(report)?;
    } else {
        output.heading("Probes of every link, in ms")?;
        for link in &report.links {
            let trips = link.round_trips_ms.iter().map(|trip| format!("{trip:.2}"));
            let (from, to) = (escaped(&link.from), escaped(&link.to));
            output.line(format!("  {from} to {to}: {}", trips.collect::<Vec<_>>().join(" ")))?;
        }
        let cut = &report.cut;
        output.heading("Progress of the transfer that was cut")?;
        // During the cut nothing changes for ten seconds; one line says so.
        let mut moved = cut.progress.clone();
        moved.dedup_by_key(|sample| sample.acked_offset);
        for sample in &moved {
            let percent = sample.acked_offset * 100 / cut.bytes.max(1);
            let acked = bytes(sample.acked_offset);
            output.line(format!("  {:>6.2} s  {percent:>3} %  {acked}", sample.seconds))?;
        }
        let (before, at_return) = (bytes(cut.before), bytes(cut.at_return));
        output.line(format!(
            "  cut at {before}, back after {:.1} s at {at_return}, first new byte {:.2} s later, {} \
             bytes sent twice",
            cut.cut_seconds, cut.return_to_data_seconds, cut.resent_bytes
        ))?;
        output.heading("Checks")?;
        for check in &report.checks {
            let (what, found) = (escaped(&check.what), escaped(&check.found));
            match check.holds {
                true => output.line(format!("  \u{2713} {what}: {found}"))?,
                false => output.alarm(format!("  \u{2717} {what}: {found}"))?,
            }
        }
        let held = report.checks.iter().filter(|check| check.holds).count();
        output.line(format!("{held} of {} checks hold.", report.checks.len()))?;
    }
    if report.held { Ok(()) } else { Err(Failure::Shown(Code::Failed)) }
}
