//! The figures for people.

use std::collections::BTreeSet;

use super::RowReport;

/// One row of the table, with a line for each figure and a column for each contender.
pub(super) fn row(report: &RowReport) -> String {
    let names: Vec<&String> = report.figures.keys().chain(report.failed.keys()).collect();
    let names: Vec<&String> = names.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let mut lines = vec![
        format!("{}: {}", report.name, report.work),
        format!("  bar: {}", report.bar),
        line("", names.iter().map(|name| (*name).clone())),
    ];
    let figures: BTreeSet<&str> =
        report.figures.values().flat_map(|figures| figures.keys().copied()).collect();
    for figure in figures {
        let cells = names.iter().map(|name| {
            let measured = report.figures.get(*name).and_then(|figures| figures.get(figure));
            measured.map_or("-".to_owned(), |measured| format!("{:.3}", measured.median))
        });
        lines.push(line(figure, cells));
    }
    for (name, why) in &report.failed {
        lines.push(format!("  {name}: {why}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn line(label: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("{cell:>14}")).collect();
    format!("  {label:<26}{cells}")
}
