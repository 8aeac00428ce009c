//! The command of one term, as the keeper keeps it: its moments, and the means by which all of it is ended.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lease_core::Instant;
use rustix::process::Signal;

use super::cgroup::Cgroup;
use super::tree::{self, Member};
use super::wire::Start;

/// Later than everything.
pub(super) const NEVER: Instant = Instant(u64::MAX);

/// The means that the command's processes are ended by.
#[derive(Debug)]
pub(super) enum Isolation {
    /// This process is the init of their namespace.
    Pid,
    Cgroup(Cgroup),
    /// Only the tree of processes.
    None,
}

impl Isolation {
    /// From the keeper's command line.
    pub(super) fn from_argument(argument: OsString) -> Self {
        match argument.to_str() {
            Some("pid") => Self::Pid,
            Some("none") => Self::None,
            _ => Self::Cgroup(Cgroup::at(PathBuf::from(argument))),
        }
    }

    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        if let Self::Cgroup(cgroup) = self { Some(cgroup) } else { None }
    }

    pub(super) fn signal_all(&self, signal: Signal) {
        if matches!(self, Self::Pid) {
            tree::signal_namespace(signal);
            tree::signal_namespace(Signal::CONT);
        } else {
            tree::signal_all(signal);
        }
    }

    pub(super) fn kill_all(&self) {
        match self {
            Self::Pid => tree::signal_namespace(Signal::KILL),
            Self::Cgroup(cgroup) => {
                cgroup.kill();
                tree::kill_all(); // who left the cgroup
            }
            Self::None => tree::kill_all(),
        }
    }
}

/// The command of one term.
pub(super) struct CommandTerm {
    pub(super) start: Start,
    pub(super) deadline: Instant,
    pub(super) command: Member,
    /// Its exit code, once it has ended.
    pub(super) ended: Option<u8>,
    pub(super) by_itself: bool,
    pub(super) stopping: bool,
    /// It has had the clock's SIGTERM; the guard's, which the same clock asks for, adds nothing.
    pub(super) told_by_clock: bool,
    pub(super) kill_at: Instant,
    pub(super) next_sweep: Option<(Instant, Duration)>,
}

impl CommandTerm {
    pub(super) fn new(start: Start, command: Member) -> Self {
        Self {
            deadline: Instant(start.deadline),
            start,
            command,
            ended: None,
            by_itself: false,
            stopping: false,
            told_by_clock: false,
            kill_at: NEVER,
            next_sweep: None,
        }
    }

    pub(super) fn stop_at(&self) -> Option<Instant> {
        (!self.stopping).then(|| self.deadline.minus(Duration::from_nanos(self.start.grace)))
    }

    /// SIGKILL never comes later than this, whatever else was said.
    pub(super) fn kill_at(&self) -> Instant {
        self.kill_at.min(self.deadline.minus(Duration::from_nanos(self.start.margin)))
    }

    pub(super) fn wake_at(&self) -> Instant {
        let kill = self.next_sweep.map_or(self.kill_at(), |(at, _)| at);
        self.stop_at().map_or(kill, |stop| stop.min(kill))
    }

    pub(super) fn stop(&mut self, isolation: &Isolation, signal: Signal, kill_at: Instant) {
        self.stopping = true;
        self.kill_at = self.kill_at.min(kill_at);
        isolation.signal_all(signal);
    }
}

/// The watchdog's message: the moment of its timer. After the keeper's own SIGKILL, and before the guard gives the
/// keeper up.
pub(super) fn watchdog_at(deadline: Instant, start: &Start) -> [u8; 8] {
    deadline.minus(Duration::from_nanos(start.margin / 4 * 3)).0.to_ne_bytes()
}
