//! Standard output of commands, whose reader may have gone.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use lease_core::printable;
use lease_settings::Failure;

/// Prints one line, and never more: what a store holds is written by others. A reader that went away (`| head`) ends the
/// command without a word.
///
/// # Errors
/// It can't be written.
pub fn line(text: impl Display) -> Result<(), Failure> {
    written(writeln!(io::stdout(), "{}", printable(&text.to_string())))
}

/// Is it written, and seen at once?
///
/// # Errors
/// It isn't.
pub fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.and_then(|()| io::stdout().flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Code(1, String::new()),
        _ => Failure::new(format!("standard output can't be written: {error}")),
    })
}
