//! The output of operators' commands, and the format of times in it.

use std::io::{Write, stdout};
use std::time::Duration;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use lease_core::{WallTime, printable};
use lease_settings::Failure;
pub(super) use lease_worker_common::stdout::line;
use lease_worker_common::stdout::written;

/// Several lines at once, which hold nothing but [`printable`] text and our own styles.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    written(stdout().write_all(text.as_bytes()))
}

/// As [`text`], on a thread of its own: whoever reads slowly makes this command wait, and neither Ctrl-C nor SIGTERM.
pub(super) async fn print(lines: String) -> Result<(), Failure> {
    let writing = tokio::task::spawn_blocking(move || text(&lines));
    writing.await.unwrap_or_else(|error| Err(Failure::new(error.to_string())))
}

/// A note on a change, which goes into the record and its history.
pub(super) fn note(text: &str) -> Result<String, String> {
    match printable(text) {
        same if same == text => Ok(same.into_owned()),
        _ => Err("use one line without control or hidden characters".to_owned()),
    }
}

/// A wall time for people, in UTC.
pub(super) fn wall(time: WallTime) -> String {
    let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
    match Timestamp::from_millisecond(time.0).and_then(|time| time.round(whole)) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{} ms after 1970", time.0),
    }
}

/// A span for people: `15s`, `7.6s`, `250ms`, `5m`, `168h`.
pub(super) fn span(span: Duration) -> String {
    let millis = span.as_millis() as u64;
    if millis < 1000 {
        format!("{millis}ms")
    } else if millis.is_multiple_of(3_600_000) {
        format!("{}h", millis / 3_600_000)
    } else if millis.is_multiple_of(60_000) {
        format!("{}m", millis / 60_000)
    } else {
        format!("{:?}", Duration::from_millis(millis / 100 * 100))
    }
}

/// A time between two clocks, in whole seconds and its two greatest units: `4s`, `5m12s`, `3h4m`, `2d5h`; below zero
/// where the clocks disagree, or where it is over.
pub(super) fn clock(millis: i64) -> String {
    let (sign, seconds) = (if millis <= -1_000 { "-" } else { "" }, millis.unsigned_abs() / 1_000);
    let of = |unit: u64, within: u64| (seconds / unit, seconds % unit / within);
    match seconds {
        0..60 => format!("{sign}{seconds}s"),
        60..3_600 => format!("{sign}{}m{}s", of(60, 1).0, of(60, 1).1),
        3_600..86_400 => format!("{sign}{}h{}m", of(3_600, 60).0, of(3_600, 60).1),
        _ => format!("{sign}{}d{}h", of(86_400, 3_600).0, of(86_400, 3_600).1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_clocks_are_told_in_two_units() {
        let told = [0, 999, 4_400, -999, -3_000, 312_000, 11_040_000, 190_800_000].map(clock);
        assert_eq!(told, ["0s", "0s", "4s", "0s", "-3s", "5m12s", "3h4m", "2d5h"]);
    }

    #[test]
    fn spans_are_told_in_the_greatest_whole_unit() {
        let told = [250, 7_650, 15_000, 90_000, 300_000, 5_400_000, 604_800_000]
            .map(Duration::from_millis)
            .map(span);
        assert_eq!(told, ["250ms", "7.6s", "15s", "90s", "5m", "90m", "168h"]);
    }
}
