//! Transfers as progress bars on a terminal.

use std::collections::BTreeMap;

use highwater::report::Transfer;
use highwater_core::{Key, ShareName};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text::escaped;

/// Bars shown at once: what fits on a small terminal.
const BARS_MAX: usize = 20;

const TEMPLATE: &str = "{msg:32!} {bar:24} {bytes:>10}/{total_bytes:10} {eta:>6}";

/// One bar for each transfer; a bar goes when its transfer is done.
#[derive(Debug)]
pub(crate) struct Bars {
    screen: MultiProgress,
    bars: BTreeMap<(ShareName, Key), ProgressBar>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        Self { screen, bars: BTreeMap::new() }
    }

    /// Brings the screen up to date with what is in flight now.
    pub(crate) fn show(&mut self, transfers: &[Transfer]) {
        self.bars.retain(|(share, key), bar| {
            let flies = transfers.iter().any(|t| t.share == *share && t.key == *key);
            if !flies {
                bar.finish_and_clear();
            }
            flies
        });
        for transfer in transfers {
            let name = (transfer.share.clone(), transfer.key.clone());
            if !self.bars.contains_key(&name) && self.bars.len() >= BARS_MAX {
                continue;
            }
            let screen = &self.screen;
            let bar = self.bars.entry(name).or_insert_with(|| screen.add(bar(transfer)));
            bar.set_position(transfer.acked_offset);
        }
    }
}

fn bar(transfer: &Transfer) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    let name = escaped(transfer.key.as_str());
    ProgressBar::new(transfer.size)
        .with_style(style)
        .with_position(transfer.acked_offset)
        .with_message(name)
}
