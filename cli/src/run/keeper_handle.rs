//! The keeper, as the guard holds it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;

use super::KEEPER;
use super::tree::{Member, own_group};
use super::wire::{FromKeeper, ToKeeper, line};

/// A keeper that waits for its term, or keeps one. Dropping it closes the socket, and the keeper ends what it keeps.
pub(super) struct KeeperHandle {
    process: Member,
    from: Lines<BufReader<UnixStream>>,
    /// Not the runtime's: that one takes a new socket for full until it has looked at it.
    to: StdUnixStream,
}

impl KeeperHandle {
    /// Starts one. It runs this very program, also if the file was replaced meanwhile, in a process group of its own:
    /// what a terminal sends to its foreground doesn't reach it.
    pub(super) fn spawn(command: &[OsString]) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let keeper = Command::new("/proc/self/exe")
            .arg0("leasehold")
            .args([KEEPER, &theirs.as_raw_fd().to_string(), &own_group().to_string()])
            .args(command)
            .process_group(0)
            .spawn()?;
        let process = Member::open(Pid::from_child(&keeper))?;
        ours.set_nonblocking(true)?;
        let to = ours.try_clone()?;
        Ok(Self { process, from: BufReader::new(UnixStream::from_std(ours)?).lines(), to })
    }

    pub(super) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// False if a keeper can't take a short line: it is stopped or dead. It will act on what it knew before, and it
    /// will be seen to be late or dead.
    pub(super) fn send(&self, message: &ToKeeper) -> bool {
        (&self.to).write_all(&line(message)).is_ok()
    }

    /// Its next message; `None` once it is dead. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<FromKeeper> {
        let line = self.from.next_line().await.ok()??;
        serde_json::from_str(&line).ok()
    }

    /// A keeper that somebody stopped guards nothing should its guard die: wake it.
    pub(super) fn wake(&self) {
        let stopped = waitid(WaitId::Pid(self.process.pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        if matches!(stopped, Ok(Some(_))) {
            let _ = self.process.signal(Signal::CONT);
        }
    }
}
