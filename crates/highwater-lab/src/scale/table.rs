//! The figures for people: a few lines for each size while it goes on, and at the end a table in
//! Markdown, a column for each size, to be put into a document as it is.

use super::deaths::DeathReport;
use super::load::LoadReport;
use super::spread::Spread;
use super::{Row, ScaleReport};

/// One size, in a few lines.
pub(super) fn row(row: &Row) -> String {
    let mut lines = vec![format!("{} nodes", row.nodes)];
    lines.extend(cells(row).into_iter().map(|(name, cell)| format!("  {name:<48}{cell}")));
    lines.join("\n")
}

/// All sizes, side by side, with where and how they were measured.
pub(super) fn all(report: &ScaleReport) -> String {
    let machine = &report.machine;
    let mut lines = vec![
        format!(
            "{}; commit {}; {} cores ({}), {:.0} GiB, Linux {}; `{}`",
            report.date.split('T').next().unwrap_or_default(),
            report.commit,
            machine.cores,
            machine.processor,
            machine.memory_bytes as f64 / f64::from(1 << 30),
            machine.kernel,
            report.command
        ),
        String::new(),
    ];
    let columns: Vec<Vec<(&str, String)>> = report.rows.iter().map(cells).collect();
    let Some(first) = columns.first() else { return lines.join("\n") };
    let heads: String = report.rows.iter().map(|row| format!(" {} nodes |", row.nodes)).collect();
    lines.push(format!("| |{heads}"));
    lines.push(format!("| --- |{}", " ---: |".repeat(columns.len())));
    for (at, (name, _)) in first.iter().enumerate() {
        let cells: String = columns.iter().map(|cells| format!(" {} |", cells[at].1)).collect();
        lines.push(format!("| {name} |{cells}"));
    }
    lines.join("\n")
}

/// The figures of one size, each with what it is. Every size has the same ones.
fn cells(row: &Row) -> Vec<(&'static str, String)> {
    let idle = &row.idle;
    let seconds = |millis: u64| format!("{:.1}", millis as f64 / 1000.0);
    let half_and_most = |of: Spread| format!("{:.1} / {:.1}", of.p50, of.max);
    let died = |report: &Option<DeathReport>, of: fn(&DeathReport) -> Spread| {
        report.as_ref().map_or("-".to_owned(), |report| {
            let spread = of(report);
            format!("{:.2} / {:.2}", spread.p50 / 1000.0, spread.max / 1000.0)
        })
    };
    let changes = row.changes.as_ref().map_or("-".to_owned(), |changes| {
        let Spread { p50, p99, max, .. } = changes.arrivals;
        format!("{:.2} / {:.2} / {:.2}", p50 / 1000.0, p99 / 1000.0, max / 1000.0)
    });
    let mut cells = vec![
        ("all serve, s", seconds(row.started_ms)),
        ("every node sees every other, s", seconds(row.all_seen_ms)),
        ("peers listed", row.peers_listed_max.to_string()),
        ("links of a node, middle / most", {
            format!("{:.0} / {:.0}", row.links.p50, row.links.max)
        }),
        ("idle: resident MB, middle / most", half_and_most(idle.rss_mb)),
        ("idle: proportional MB, middle / most", half_and_most(idle.pss_mb)),
        ("idle: % of a core, mean / most", {
            format!("{:.2} / {:.2}", idle.cpu_percent.mean, idle.cpu_percent.max)
        }),
        ("idle: woken a second, mean", format!("{:.0}", idle.wakes_a_second.mean)),
        ("threads / open files, most", {
            format!("{:.0} / {:.0}", idle.threads.max, idle.files.max)
        }),
        ("idle: machine busy %, memory left GB", {
            let left = idle.machine_available_mb / 1000.0;
            format!("{:.0} / {left:.1}", idle.machine_busy_percent)
        }),
        ("small change at every node, s, p50 / p99 / most", changes),
        ("one killed: suspect everywhere, s, middle / last", {
            died(&row.one_killed, |report| report.suspect)
        }),
        ("one killed: failed everywhere, s, middle / last", {
            died(&row.one_killed, |report| report.failed)
        }),
        ("ten killed at once: suspect, s, middle / last", {
            died(&row.many_killed, |report| report.suspect)
        }),
        ("ten killed at once: failed, s, middle / last", {
            died(&row.many_killed, |report| report.failed)
        }),
        ("living nodes falsely suspect, at start / later", {
            format!("{} / {}", row.suspected_at_start, row.false_suspicions)
        }),
        ("living nodes falsely failed, at start / later", {
            format!("{} / {}", row.failed_at_start, row.false_failures)
        }),
        ("not stopped in order", row.not_stopped.len().to_string()),
    ];
    cells.extend(row.load.iter().flat_map(under_load));
    cells
}

/// What is added where nodes were loaded.
fn under_load(load: &LoadReport) -> [(&'static str, String); 5] {
    let resident = load.cost.rss_mb;
    [
        ("load: minutes, nodes that write", {
            format!("{:.1}, {}", load.seconds / 60.0, load.writers)
        }),
        ("load: GB arrived, MB/s", {
            format!("{:.1}, {:.1}", load.bytes_arrived as f64 / 1e9, load.rate_mb())
        }),
        ("load: resident MB, middle / most", format!("{:.1} / {:.1}", resident.p50, resident.max)),
        ("load: machine busy %", format!("{:.0}", load.cost.machine_busy_percent)),
        ("load: all folders equal", load.equal.to_string()),
    ]
}
