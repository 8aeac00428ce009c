//! Places for a process's output where it can't be written.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A pipe that is full: whoever writes into it waits until somebody reads its other end.
///
/// # Errors
/// The system can't make one.
pub fn full_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    let flags = fcntl_getfl(&writer)?;
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK)?;
    // Whole pages, so that no byte more fits in.
    while match writer.write(&[b'\n'; 4096]) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => return Err(error),
    } {}
    fcntl_setfl(&writer, flags)?;
    Ok((reader, writer))
}

/// A pipe whose reader has gone.
///
/// # Errors
/// The system can't make one.
pub fn closed_pipe() -> io::Result<PipeWriter> {
    io::pipe().map(|(_, writer)| writer)
}

/// A file on a full disk.
///
/// # Errors
/// The system has no `/dev/full`.
pub fn full_disk() -> io::Result<File> {
    File::options().write(true).open("/dev/full")
}
