//! The messages between the guard and its keeper: one JSON object a line, over a socket that no other process has. Its
//! end of file means that the other one is dead.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lease_core::Instant;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A moment in nanoseconds since boot: one machine, one `CLOCK_BOOTTIME`.
pub(super) type Nanos = u64;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// Start the command: the term has begun.
    Start(Start),
    /// A renewal was acknowledged.
    Deadline(Nanos),
    /// Pass this signal on to the command.
    Signal(i32),
    /// Send this signal to the command and all its descendants, and kill what is left at `kill_at`.
    Stop { signal: i32, kill_at: Nanos },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) lease: String,
    pub(super) epoch: u64,
    pub(super) grant: String,
    /// The term's deadline D.
    pub(super) deadline: Nanos,
    /// SIGTERM comes this long before D at the latest, …
    pub(super) grace: Nanos,
    /// … and SIGKILL this long.
    pub(super) margin: Nanos,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromKeeper {
    /// The watchdog's only message: the keeper can't be started in this way.
    Refused {
        error: String,
    },
    /// The keeper's last message: it ends without having done its duty.
    Failed {
        error: String,
    },
    /// The keeper waits for its term.
    Ready {
        /// The cgroup that the command will be in.
        cgroup: Option<PathBuf>,
    },
    Started,
    /// The command could not be started; there is nothing to end.
    NotStarted {
        code: u8,
        error: String,
    },
    /// The term had too little time left: nothing was started.
    TooLate,
    /// The command ended, and this many of its descendants did not.
    CommandEnded {
        code: u8,
        left: usize,
    },
    /// The proof: neither the command nor any descendant is left.
    Gone {
        code: u8,
        /// The command ended before anybody asked it to stop.
        by_itself: bool,
    },
}

pub(super) fn nanos(at: Instant) -> Nanos {
    at.0
}

/// A message as it is sent.
pub(super) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("these messages are plain data");
    line.push(b'\n');
    line
}

/// The keeper's end of the socket. It never blocks.
#[derive(Debug)]
pub(super) struct KeeperEnd {
    pub(super) socket: UnixStream,
    unread: Vec<u8>,
}

impl KeeperEnd {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, unread: Vec::new() })
    }

    /// Whoever can't take a few short lines is stopped or dead, and will learn of the end from the socket's.
    pub(super) fn send(&mut self, message: &impl Serialize) {
        let _ = self.socket.write_all(&line(message));
    }

    /// The messages that have arrived; an error if the other end is dead.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Vec<T>> {
        let mut chunk = [0; 4096];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut messages = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            messages.push(serde_json::from_slice(&line)?);
        }
        Ok(messages)
    }
}
