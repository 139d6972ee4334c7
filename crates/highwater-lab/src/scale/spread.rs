//! Many figures in a few: the least, the middle, the 99th percentile and the most.

use std::fmt;

use serde::Serialize;

/// How some figures are spread. All are 0 when there were none.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Ninety-nine of a hundred are at most this.
    pub p99: f64,
    /// The most.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
}

impl Spread {
    /// The spread of these figures.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        // The smallest figure that so many of a hundred do not exceed, without interpolation.
        let percentile = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted[rank - 1]
        };
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        let (p50, p99) = (percentile(50), percentile(99));
        Self { count: sorted.len(), min, p50, p99, max, mean }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50, p99, max, .. } = self;
        write!(f, "p50 {p50:.1}, p99 {p99:.1}, max {max:.1} of {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_occurred_and_are_never_too_low() {
        for (figures, p50, p99, max) in [
            (vec![7.0], 7.0, 7.0, 7.0),
            (vec![3.0, 1.0, 2.0], 2.0, 3.0, 3.0),
            ((1..=100).map(f64::from).collect(), 50.0, 99.0, 100.0),
            ((1..=101).map(f64::from).collect(), 51.0, 100.0, 101.0),
            ((1..=200).map(f64::from).collect(), 100.0, 198.0, 200.0),
        ] {
            let spread = Spread::of(figures);
            assert_eq!((spread.p50, spread.p99, spread.max), (p50, p99, max), "{spread:?}");
        }
        assert_eq!(Spread::of([]).count, 0);
    }
}
