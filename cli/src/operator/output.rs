//! The output of operators' commands, and the format of times in it.

use std::io::{self, Write};
use std::time::Duration;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use lease_core::{WallTime, printable};
use lease_settings::Failure;

/// Prints one line, and never more: what a store holds is written by others. A reader that went away (`| head`) ends the
/// command without a word.
pub(super) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    written(writeln!(io::stdout(), "{}", printable(&text.to_string())))
}

/// A note on a change, which goes into the record and its history.
pub(super) fn note(text: &str) -> Result<String, String> {
    match printable(text) {
        same if same == text => Ok(same.into_owned()),
        _ => Err("use one line without control or hidden characters".to_owned()),
    }
}

/// Is it written, and seen at once?
pub(super) fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.and_then(|()| io::stdout().flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Code(1, String::new()),
        _ => Failure::new(format!("standard output can't be written: {error}")),
    })
}

/// A wall time for people, in UTC.
pub(super) fn wall(time: WallTime) -> String {
    let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
    match Timestamp::from_millisecond(time.0).and_then(|time| time.round(whole)) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{} ms after 1970", time.0),
    }
}

/// A span for people: `15s`, `7.6s`, `250ms`.
pub(super) fn span(span: Duration) -> String {
    let millis = span.as_millis() as u64;
    if millis < 1000 {
        format!("{millis}ms")
    } else {
        format!("{:?}", Duration::from_millis(millis / 100 * 100))
    }
}
