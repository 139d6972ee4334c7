//! The figures as a picture: one small diagram for each kind, the number of nodes from left to right,
//! in SVG that any browser shows.

use std::fmt::Write;

use super::{Row, ScaleReport};

/// One diagram, in the picture's own units.
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 240.0;
/// From a diagram's edge to its axes, and between its top and what it shows.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 40.0;
/// Diagrams in a row.
const COLUMNS: usize = 2;
/// Marks on the upright axis.
const MARKS: u32 = 4;
/// Lines in one diagram have these colours, told apart by the colour-blind too (Okabe and Ito).
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

type Figure = fn(&Row) -> Option<f64>;

/// One diagram: its title with the unit, its lines with their names, and the bar, if there is one.
struct Diagram {
    title: &'static str,
    lines: &'static [(&'static str, Figure)],
    bar: Option<f64>,
}

const DIAGRAMS: [Diagram; 6] = [
    Diagram {
        title: "Memory of an idle node, MB",
        lines: &[
            ("resident", |row| Some(row.idle.rss_mb.mean)),
            ("proportional", |row| Some(row.idle.pss_mb.mean)),
        ],
        bar: None,
    },
    Diagram {
        title: "Processor of an idle node, % of a core",
        lines: &[("mean", |row| Some(row.idle.cpu_percent.mean))],
        bar: None,
    },
    Diagram {
        title: "Links of a node",
        lines: &[("most", |row| Some(row.links.max)), ("middle", |row| Some(row.links.p50))],
        bar: Some(16.0),
    },
    Diagram {
        title: "A small change at every node, s",
        lines: &[
            ("p99", |row| Some(row.changes.as_ref()?.arrivals.p99 / 1000.0)),
            ("p50", |row| Some(row.changes.as_ref()?.arrivals.p50 / 1000.0)),
        ],
        bar: Some(5.0),
    },
    Diagram {
        title: "Killed: suspect at the last node, s",
        lines: &[
            ("one killed", |row| Some(row.one_killed.as_ref()?.suspect.max / 1000.0)),
            ("ten at once", |row| Some(row.many_killed.as_ref()?.suspect.max / 1000.0)),
        ],
        bar: Some(3.0),
    },
    Diagram {
        title: "Killed: failed at the last node, s",
        lines: &[
            ("one killed", |row| Some(row.one_killed.as_ref()?.failed.max / 1000.0)),
            ("ten at once", |row| Some(row.many_killed.as_ref()?.failed.max / 1000.0)),
        ],
        bar: Some(10.0),
    },
];

/// The whole picture.
pub(super) fn draw(report: &ScaleReport) -> String {
    let rows = DIAGRAMS.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (at, diagram) in DIAGRAMS.iter().enumerate() {
        let (x, y) = ((at % COLUMNS) as f64 * WIDTH, (at / COLUMNS) as f64 * HEIGHT);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        draw_one(&mut svg, diagram, &report.rows);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_one(svg: &mut String, diagram: &Diagram, rows: &[Row]) {
    let figures = |figure: Figure| -> Vec<(f64, f64)> {
        rows.iter().filter_map(|row| Some((row.nodes as f64, figure(row)?))).collect()
    };
    let lines: Vec<_> = diagram.lines.iter().map(|(name, of)| (*name, figures(*of))).collect();
    let highest = lines.iter().flat_map(|(_, points)| points).map(|(_, y)| *y);
    let top = round_up(highest.chain(diagram.bar).fold(0.0, f64::max));
    let most = rows.iter().map(|row| row.nodes).max().unwrap_or(1) as f64;
    let x = |nodes: f64| LEFT + nodes / most * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"20\" font-size=\"13\">{}</text>", diagram.title);
    for mark in 0..=MARKS {
        let value = top * f64::from(mark) / f64::from(MARKS);
        let (at, end) = (y(value), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#ddd\"/><text x=\"{:.0}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            short(value)
        );
    }
    for row in rows {
        let at = x(row.nodes as f64);
        let below = HEIGHT - BOTTOM + 16.0;
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
            row.nodes
        );
    }
    if let Some(bar) = diagram.bar {
        let (at, end) = (y(bar), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#555\" stroke-dasharray=\"5 4\"/>\
             <text x=\"{end}\" y=\"{:.1}\" text-anchor=\"end\">bar</text>",
            at - 4.0
        );
    }
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let path: Vec<String> = points
            .iter()
            .map(|(nodes, value)| format!("{:.1} {:.1}", x(*nodes), y(*value)))
            .collect();
        let path = path.join("L");
        let _ = writeln!(
            svg,
            "<path d=\"M{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        for (nodes, value) in points {
            let (at_x, at_y) = (x(*nodes), y(*value));
            let _ = writeln!(
                svg,
                "<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
        let at = LEFT + 110.0 * number as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{at} 34h16\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" \
             y=\"38\">{name}</text>",
            at + 22.0
        );
    }
}

/// The least of 1, 2, 4, 5, 8 and 10 times a power of ten that is not below `value`.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_figure_that_holds_everything() {
        for (value, top) in [(0.0, 1.0), (0.13, 0.2), (1.0, 1.0), (16.0, 20.0), (43.0, 50.0)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}: {}", round_up(value));
        }
        assert_eq!(
            (short(12.5), short(20.0), short(0.0)),
            ("12.5".into(), "20".into(), "0".into())
        );
    }
}
