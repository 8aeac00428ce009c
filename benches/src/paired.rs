//! Samples, medians and verdicts.

use std::fmt;
use std::time::Duration;

/// Whether one bar holds, with the figures.
pub(crate) struct BarResult {
    pub(crate) holds: bool,
    pub(crate) what: String,
    pub(crate) figures: String,
}

impl fmt::Display for BarResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.holds { "holds " } else { "MISSED" };
        write!(f, "{word}  {}: {}", self.what, self.figures)
    }
}

/// Times of one side.
#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The sample below which `share` of all lie.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let index = ((sorted.len() - 1) as f64 * share).round() as usize;
        sorted[index]
    }
}

/// Judges the ratio of two medians taken in turns.
pub(crate) fn judge(what: &str, bar: f64, ours: &Samples, reference: &Samples) -> BarResult {
    let (a, b) = (ours.quantile(0.5), reference.quantile(0.5));
    let ratio = a.as_secs_f64() / b.as_secs_f64();
    BarResult {
        holds: ratio <= bar,
        what: what.to_owned(),
        figures: format!(
            "{ratio:.2}× of a bar of {bar:.2}× (ours {a:?}, p99 {:?}; reference {b:?}, p99 {:?}; {} turns)",
            ours.quantile(0.99),
            reference.quantile(0.99),
            ours.0.len(),
        ),
    }
}
