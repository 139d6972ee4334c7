//! What the demo looks like: two live bars on a terminal, plain lines elsewhere, a table at the end.
//!
//! Progress goes to standard error, so that standard output holds the result alone.

use std::cell::Cell;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{BIG_BYTES, BIG_KEY, DemoReport};
use crate::status::Status;

/// Plain lines are written at every tenth of the big file.
const TENTHS: u64 = 10;
const MIB: f64 = 1024.0 * 1024.0;

/// The stage as the audience sees it.
pub(super) struct Show {
    screen: MultiProgress,
    /// Bob's and Carol's big file, on a terminal.
    bars: Option<[ProgressBar; 2]>,
    /// The last tenth that was written for each, elsewhere.
    tenths: [Cell<u64>; 2],
}

impl Show {
    pub(super) fn new() -> Show {
        let screen = MultiProgress::new();
        let bars =
            std::io::stderr().is_terminal().then(|| ["B", "C"].map(|name| screen.add(bar(name))));
        Show { screen, bars, tenths: [Cell::new(0), Cell::new(0)] }
    }

    /// One line of the story.
    pub(super) fn say(&self, line: &str) {
        match &self.bars {
            Some(_) => drop(self.screen.println(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Where the big file stands at Bob's and Carol's.
    pub(super) fn progress(&self, statuses: &[Status]) {
        for (index, status) in statuses.iter().skip(1).take(2).enumerate() {
            let Some(transfer) = status.transfer(BIG_KEY) else { continue };
            let position = transfer.acked_offset;
            match &self.bars {
                Some(bars) => bars[index].set_position(position),
                None => self.write_tenth(index, position),
            }
        }
    }

    fn write_tenth(&self, index: usize, position: u64) {
        let tenth = position * TENTHS / BIG_BYTES;
        if tenth > self.tenths[index].get() {
            self.tenths[index].set(tenth);
            let name = ["B", "C"][index];
            eprintln!("  {name} has {:.0} of {:.0} MiB", mib(position), mib(BIG_BYTES));
        }
    }

    /// Fills the bars: everything has arrived.
    pub(super) fn finish(&self) {
        for bar in self.bars.iter().flatten() {
            bar.set_position(BIG_BYTES);
            bar.abandon();
        }
    }
}

fn bar(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "  {prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
    );
    let bar = ProgressBar::new(BIG_BYTES).with_prefix(name);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The figures, for people.
pub(super) fn table(report: &DemoReport) -> String {
    let mut rows = vec![
        ("acknowledged at the cut", bytes(report.cut_at_bytes)),
        ("resumed at", report.resumed_at_bytes.map_or("not seen".to_owned(), bytes)),
        ("content bytes resent", report.resent_bytes.to_string()),
        ("bytes over the link in all", bytes(report.link_bytes)),
        ("link silent for", format!("{:.1} s", report.silent_seconds)),
        ("link up to data", format!("{:.2} s", report.link_up_to_data_seconds)),
        ("start to identical", format!("{:.1} s", report.seconds)),
    ];
    for node in &report.nodes {
        let label = ["tree of A", "tree of B", "tree of C"]
            .into_iter()
            .find(|label| label.ends_with(&node.name))
            .unwrap_or("tree");
        rows.push((label, node.tree_hash.clone()));
    }
    let mut lines: Vec<String> =
        rows.into_iter().map(|(label, value)| format!("  {label:<28} {value}")).collect();
    lines.insert(0, String::new());
    lines.push(String::new());
    if report.held {
        lines.push(
            "Everything held: the transfer resumed, and the three folders are identical.".into(),
        );
    }
    lines.extend(report.failures.iter().map(|failure| format!("Did not hold: {failure}.")));
    lines.extend(kept(report));
    lines.join("\n")
}

/// How to visit and how to end nodes that were left running.
fn kept(report: &DemoReport) -> Vec<String> {
    let Some(directory) = &report.directory else { return Vec::new() };
    let pids: Vec<String> =
        report.nodes.iter().filter_map(|node| node.pid).map(|pid| pid.to_string()).collect();
    vec![
        format!("The nodes run on, in {}.", directory.display()),
        format!("Stop them with: kill {}", pids.join(" ")),
    ]
}

fn bytes(count: u64) -> String {
    format!("{count} ({:.1} MiB)", mib(count))
}

fn mib(count: u64) -> f64 {
    count as f64 / MIB
}
