//! The output of operators' commands, and the format of times in it.

use std::time::Duration;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use lease_core::{WallTime, printable};
pub(super) use lease_worker_common::stdout::{line, written};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_the_greatest_whole_unit() {
        let told = [250, 7_650, 15_000, 90_000, 300_000, 5_400_000, 604_800_000]
            .map(Duration::from_millis)
            .map(span);
        assert_eq!(told, ["250ms", "7.6s", "15s", "90s", "5m", "90m", "168h"]);
    }
}
