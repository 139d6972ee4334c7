//! The text format of Prometheus, as far as it is used here.

use std::fmt::Write;

/// What kind of figure a family holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It only grows, until the daemon is started again.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A page of families.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
    series_left: usize,
    truncated: bool,
}

impl Page {
    pub(super) fn new(series_max: usize) -> Self {
        Self { text: String::new(), series_left: series_max, truncated: false }
    }

    /// Begins a family; its samples follow before the next one begins.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One series of the family.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        if self.series_left == 0 {
            self.truncated = true;
            return;
        }
        self.series_left -= 1;
        self.write(format_args!("{name}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            self.write(format_args!("{before}{label}=\"{}\"", escaped(text)));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{after} {value}\n"));
    }

    /// A family of one series without labels.
    pub(super) fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The whole page.
    pub(super) fn finish(mut self) -> String {
        let truncated = f64::from(u8::from(self.truncated));
        self.series_left = 1;
        self.single(
            "highwater_metrics_truncated",
            Kind::Gauge,
            "1 when there are more series than this page holds.",
            truncated,
        );
        self.text
    }

    fn write(&mut self, what: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _ = self.text.write_fmt(what);
    }
}

/// A label's text, with what would end it made harmless.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_labels() {
        let mut page = Page::new(10);
        page.family("x", Kind::Gauge, "A figure.");
        page.sample("x", &[("a", "\"} 1\nevil 2"), ("b", "c\\")], 1.5);
        let expected =
            "# HELP x A figure.\n# TYPE x gauge\nx{a=\"\\\"} 1\\nevil 2\",b=\"c\\\\\"} 1.5\n";
        assert!(page.finish().starts_with(expected));
    }

    #[test]
    fn a_page_has_an_end_and_says_when_it_was_reached() {
        let mut page = Page::new(3);
        page.family("x", Kind::Gauge, "A figure.");
        for number in 0..9 {
            page.sample("x", &[("n", &number.to_string())], 0.0);
        }
        let text = page.finish();
        assert_eq!(text.lines().filter(|line| line.starts_with("x{")).count(), 3);
        assert!(text.ends_with("highwater_metrics_truncated 1\n"), "{text}");
    }
}
