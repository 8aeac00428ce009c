//! The watchdog and its keeper, as the guard holds them.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;

use super::cgroup::Cgroup;
use super::isolate::Isolate;
use super::tree::{self, Member, own_group};
use super::wire::{FromKeeper, ToKeeper, line};
use super::{KEEP_RIGHTS, WATCHDOG, sys};

/// A keeper that waits for its term, or keeps one. Dropping it closes the socket, and the keeper ends what it keeps.
pub(super) struct KeeperHandle {
    /// The keeper's parent: if it dies, so does the keeper.
    watchdog: Member,
    cgroup: Option<Cgroup>,
    from: Lines<BufReader<UnixStream>>,
    /// Not the runtime's: that one takes a new socket for full until it has looked at it.
    to: StdUnixStream,
}

impl KeeperHandle {
    /// Starts one. It runs this very program, also if the file was replaced meanwhile, in a process group of its own:
    /// what a terminal sends to its foreground doesn't reach it. With `keep_rights` no isolation takes any from the
    /// command. The `withheld` variables are out of all their environments.
    pub(super) fn spawn(
        isolate: Isolate,
        keep_rights: bool,
        command: &[OsString],
        withheld: &[&str],
    ) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let mut watchdog = Command::new("/proc/self/exe");
        for variable in withheld {
            watchdog.env_remove(variable);
        }
        let watchdog = watchdog
            .arg0("leasehold")
            .args([WATCHDOG, &sys::leave_open(&theirs)?, &own_group().to_string(), isolate.name()])
            .arg(if keep_rights { KEEP_RIGHTS } else { "-" })
            .args(command)
            .process_group(0)
            .spawn()?;
        let watchdog = Member::open(Pid::from_child(&watchdog))?;
        ours.set_nonblocking(true)?;
        let to = ours.try_clone()?;
        Ok(Self { watchdog, cgroup: None, from: BufReader::new(UnixStream::from_std(ours)?).lines(), to })
    }

    /// The process that is this one's child.
    pub(super) fn pid(&self) -> Pid {
        self.watchdog.pid
    }

    /// The command's number, as it is outside of a namespace.
    pub(super) fn command_pid(&self) -> Option<i32> {
        let keeper = *tree::children(self.watchdog.pid).first()?;
        Some(tree::children(keeper).first()?.as_raw_nonzero().get())
    }

    /// False if a keeper can't take a short line: it is stopped or dead. It will act on what it knew before, and it
    /// will be seen to be late or dead.
    pub(super) fn send(&self, message: &ToKeeper) -> bool {
        (&self.to).write_all(&line(message)).is_ok()
    }

    /// Its next message; `None` once it is dead. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<FromKeeper> {
        let line = self.from.next_line().await.ok()??;
        let message = serde_json::from_str(&line).ok();
        if let Some(FromKeeper::Ready { cgroup: Some(path) }) = &message {
            self.cgroup = Some(Cgroup::at(path.clone()));
        }
        message
    }

    /// A stopped one guards nothing: wake it. It does the same for its keeper.
    pub(super) fn wake(&self) {
        self.watchdog.wake();
    }

    /// Its keeper dies with it, and so do the command and all that is in its namespace or cgroup.
    pub(super) fn kill(&self) {
        let _ = self.watchdog.signal(Signal::KILL);
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// Once nothing is left.
    pub(super) fn tidy_up(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}
