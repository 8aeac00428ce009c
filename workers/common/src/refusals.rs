//! Callers that a listener refuses: each is counted, and some of them are in the log, at a rate that no stranger can raise.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter};
use tracing::warn;

use crate::access::{NotAllowed, Unauthenticated};

/// The least time between two lines of one kind.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The callers that a role's listener has refused.
pub struct Refusals {
    metric: &'static str,
    strangers: Throttle,
    forbidden: Throttle,
}

impl Refusals {
    /// They are counted as `metric`, by `reason`.
    pub const fn new(metric: &'static str) -> Self {
        Self { metric, strangers: Throttle::new(), forbidden: Throttle::new() }
    }

    /// Describes the metric and shows it from the start, at zero.
    pub fn start(&self) {
        describe_counter!(
            self.metric,
            "callers that were refused: unknown ones, and known ones without the right"
        );
        ["unauthenticated", "forbidden"].into_iter().for_each(|reason| self.count(reason, 0));
    }

    /// Nobody whom the listener knows.
    pub fn unauthenticated(&self, unknown: &Unauthenticated) {
        self.count("unauthenticated", 1);
        if let Some(left_out) = self.strangers.pass(Instant::now()) {
            warn!(shown = unknown.shown, left_out, "an unknown caller was refused");
        }
    }

    /// Somebody without the right.
    pub fn forbidden(&self, refused: &NotAllowed) {
        self.count("forbidden", 1);
        if let Some(left_out) = self.forbidden.pass(Instant::now()) {
            // What was asked for has not been checked, and may be long.
            let refused = format!("{:.400}", refused.to_string());
            warn!(refused, left_out, "a caller was refused");
        }
    }

    fn count(&self, reason: &'static str, by: u64) {
        counter!(self.metric, "reason" => reason).increment(by);
    }
}

/// Lets one through in each interval.
struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// The number of those kept back before this one, if it may pass.
    fn pass(&self, now: Instant) -> Option<u64> {
        let (last, kept_back) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY) {
            *kept_back += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_each_interval_says_how_many_were_left_out() {
        let (throttle, began) = (Throttle::new(), Instant::now());
        let at = |seconds: u64| throttle.pass(began + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(9), at(10), at(11), at(25), at(60)],
            [Some(0), None, None, Some(2), None, Some(1), Some(0)]
        );
    }
}
