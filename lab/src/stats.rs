//! The distribution of measured times.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Times of one kind, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) min_ms: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Spread {
    /// # Panics
    /// Of nothing.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |quantile: f64| {
            let rank = (quantile * times.len() as f64).ceil() as usize;
            times[rank.clamp(1, times.len()) - 1].as_secs_f64() * 1000.0
        };
        Self { count: times.len(), min_ms: at(0.0), median_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, min_ms, median_ms, p99_ms, max_ms } = self;
        write!(
            f,
            "n={count:<4} min {min_ms:>8.1}  median {median_ms:>8.1}  p99 {p99_ms:>8.1}  max {max_ms:>8.1} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_times() {
        let spread = Spread::of((1..=200).map(Duration::from_millis).collect());
        assert_eq!((spread.count, spread.min_ms, spread.max_ms), (200, 1.0, 200.0));
        assert_eq!((spread.median_ms, spread.p99_ms), (100.0, 198.0));
        assert_eq!(Spread::of(vec![Duration::from_millis(5)]).p99_ms, 5.0);
    }
}
