//! The keeper: the second process of a guard (G-2, G-3).
//!
//! It is the command's parent and the subreaper of all its descendants, or the init of their PID namespace, and so the
//! one who can prove that none is left. It knows the deadline, and ends them all before it even when the guard is
//! stopped, hung or dead. If it is stopped itself, the watchdog's timer, which it puts off no more, ends it and them. It
//! has one thread, no runtime and no store: as little as possible that can go wrong.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use lease_core::{Clock, Instant};
use lease_worker_common::stderr;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, getpid, getpriority_process, set_child_subreaper, set_parent_process_death_signal,
};
use rustix::thread::{CapabilitySet, capabilities};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use signal_hook::consts::SIGCHLD;

use super::cgroup::Cgroup;
use super::term::{CommandTerm, Isolation, NEVER, watchdog_at};
use super::tree::{self, Member};
use super::wire::{FromKeeper, KeeperEnd, Start, ToKeeper, line};
use super::{OUR_FAILURE, signals, sys};

/// The pauses between sweeps of the killing: from the first to the last, doubled each time.
const SWEEPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(200)];

/// `leasehold __keeper SOCKET WATCHDOG GROUP ISOLATION COMMAND…`
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let mut number = || arguments.next()?.to_str()?.parse::<i32>().ok();
    let (Some(socket), Some(watchdog), Some(group)) = (number(), number(), number()) else {
        return OUR_FAILURE;
    };
    let Some(isolation) = arguments.next() else { return OUR_FAILURE };
    let isolation = Isolation::from_argument(isolation);
    let command = arguments.collect();
    let Ok(socket) = sys::inherited(socket).map(UnixStream::from) else { return OUR_FAILURE };
    let keep = || -> io::Result<()> {
        let link = KeeperEnd::new(socket.try_clone()?)?;
        Keeper::new(link, sys::inherited(watchdog)?, group, isolation, command)?.run()
    };
    match keep() {
        Ok(()) => 0,
        Err(error) => {
            // The command may live, and dies with this process: nobody is waited for. The guard says it.
            let _ = (&socket).write(&line(&FromKeeper::Failed { error: error.to_string() }));
            OUR_FAILURE
        }
    }
}

/// To whoever reads standard error, if anybody still does: a thread of its own tries, and the process's end waits for it
/// a little. Only once nothing is left to keep; until then there is one thread.
fn say(what: std::fmt::Arguments<'_>) {
    stderr::line(format_args!("leasehold run: {what}"));
}

struct Keeper {
    link: KeeperEnd,
    watchdog: OwnedFd,
    group: i32,
    isolation: Isolation,
    /// The priority that this process was started with.
    nice: i32,
    command: Vec<OsString>,
    clock: Clock,
    timer: OwnedFd,
    child_changed: UnixStream,
    guard_is_gone: bool,
    term: Option<CommandTerm>,
}

impl Keeper {
    fn new(
        mut link: KeeperEnd,
        watchdog: OwnedFd,
        group: i32,
        isolation: Isolation,
        command: Vec<OsString>,
    ) -> io::Result<Self> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The watchdog may have died before the line above; then nobody would ever send the signal.
        let mut watchdog_died = [PollFd::new(&watchdog, PollFlags::empty())];
        if poll(&mut watchdog_died, Some(&Timespec::default()))? > 0 {
            return Err(io::Error::other("the watchdog is dead"));
        }
        tree::check().map_err(|error| {
            io::Error::other(format!(
                "can't read /proc/self/task/…/children ({error}): mount /proc, on a kernel with \
                 CONFIG_PROC_CHILDREN"
            ))
        })?;
        set_child_subreaper(Some(getpid()))?;
        signals::leave_to_the_guard()?;
        let nice = getpriority_process(None)?;
        sys::go_first();
        let (child_changed, tell) = UnixStream::pair()?;
        child_changed.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, tell)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let cgroup = isolation.cgroup().map(|cgroup| cgroup.path().to_path_buf());
        link.send(&FromKeeper::Ready { cgroup });
        Ok(Self {
            link,
            watchdog,
            group,
            isolation,
            nice,
            command,
            clock: Clock::boot(),
            timer,
            child_changed,
            guard_is_gone: false,
            term: None,
        })
    }

    /// Returns once there is nothing left to keep.
    fn run(mut self) -> io::Result<()> {
        loop {
            let done = self.read()? || self.bury();
            if done {
                return Ok(());
            }
            self.enforce();
            self.sleep()?;
        }
    }

    /// Handles the guard's messages. True if there is nothing left to do.
    fn read(&mut self) -> io::Result<bool> {
        if self.guard_is_gone {
            return Ok(false);
        }
        let Ok(messages) = self.link.receive() else {
            self.guard_is_gone = true;
            let Some(term) = &mut self.term else { return Ok(true) };
            // The lease stays ours until the deadline: time enough to end in order.
            let kill_at = self.clock.now().plus(Duration::from_nanos(term.start.grace));
            term.stop(&self.isolation, Signal::TERM, kill_at);
            return Ok(false);
        };
        for message in messages {
            match (message, &mut self.term) {
                (ToKeeper::Start(start), None) => {
                    if !self.start(start)? {
                        return Ok(true);
                    }
                }
                (ToKeeper::Deadline(at), Some(term)) => {
                    term.deadline = term.deadline.max(Instant(at));
                    // Full or closed, it leaves the timer as it is.
                    let _ = rustix::io::write(&self.watchdog, &watchdog_at(term.deadline, &term.start));
                }
                (ToKeeper::Signal(signal), Some(term)) => {
                    if let Some(signal) = Signal::from_named_raw(signal) {
                        let _ = term.command.signal(signal);
                    }
                }
                (ToKeeper::Stop { signal, kill_at }, Some(term)) => {
                    if std::mem::take(&mut term.told_by_clock) {
                        term.kill_at = term.kill_at.min(Instant(kill_at));
                    } else {
                        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::TERM);
                        term.stop(&self.isolation, signal, Instant(kill_at));
                    }
                }
                (ToKeeper::Start(_), Some(_)) | (_, None) => {
                    return Err(io::Error::other("the guard said something out of turn"));
                }
            }
        }
        Ok(false)
    }

    /// True if the command runs.
    fn start(&mut self, start: Start) -> io::Result<bool> {
        if !self.arm(&start)? {
            self.link.send(&FromKeeper::TooLate);
            return Ok(false);
        }
        let (program, arguments) = self.command.split_first().expect("the guard was given a command");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("LEASEHOLD_LEASE", &start.lease)
            .env("LEASEHOLD_EPOCH", start.epoch.to_string())
            .env("LEASEHOLD_GRANT", &start.grant);
        // The guard's own group: what the terminal sends to its foreground reaches the command too. In a namespace that
        // is this process's.
        if !matches!(self.isolation, Isolation::Pid) {
            command.process_group(self.group);
        }
        let entry = sys::Entry {
            cgroup: self.isolation.cgroup().map(Cgroup::entrance).transpose()?,
            // Else it might become somebody whom this process may not kill.
            no_new_privs: matches!(self.isolation, Isolation::None)
                && !capabilities(None)?.effective.contains(CapabilitySet::KILL),
            nice: self.nice,
        };
        match entry.prepare(&mut command).spawn() {
            Ok(child) => {
                let command = Member::open(Pid::from_child(&child))?;
                self.link.send(&FromKeeper::Started);
                self.term = Some(CommandTerm::new(start, command));
                Ok(true)
            }
            Err(error) => {
                // As a shell, env and timeout have it.
                let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                let error = format!("{}: {error}", program.display());
                self.link.send(&FromKeeper::NotStarted { code, error });
                Ok(false)
            }
        }
    }

    /// Has the watchdog set its timer, and waits for its word: the command never runs without. False if the command would
    /// have to end by then.
    fn arm(&self, start: &Start) -> io::Result<bool> {
        let deadline = Instant(start.deadline);
        rustix::io::write(&self.watchdog, &watchdog_at(deadline, start))?;
        let stop_at = deadline.minus(Duration::from_nanos(start.grace));
        loop {
            let left = stop_at.since(self.clock.now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.watchdog, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match rustix::io::read(&self.watchdog, &mut [0]) {
            Ok(1) => Ok(self.clock.now() < stop_at),
            _ => Err(io::Error::other("the watchdog is dead")),
        }
    }

    /// Reaps the children that have died. True if no child is left.
    fn bury(&mut self) -> bool {
        while matches!(self.child_changed.read(&mut [0; 64]), Ok(1..)) {}
        let Some(term) = &mut self.term else { return false };
        let had_ended = term.ended.is_some();
        let none_left = tree::reap(|pid, status| {
            if pid == term.command.pid && term.ended.is_none() {
                term.ended = Some(tree::exit_code(status));
                term.by_itself = !term.stopping;
            }
        });
        let code = term.ended.unwrap_or(OUR_FAILURE);
        if none_left {
            self.link.send(&FromKeeper::Gone { code, by_itself: term.by_itself });
            if self.guard_is_gone {
                say(format_args!(
                    "lease {} epoch {}: the guard is gone; the command and all its descendants were ended, and the \
                     lease runs out by itself",
                    term.start.lease, term.start.epoch
                ));
            }
            return true;
        }
        if term.ended.is_some() && !had_ended {
            let left = tree::descendants().len();
            self.link.send(&FromKeeper::CommandEnded { code, left });
            if term.stopping {
                // Some may not have had the first signal: out of the terminal's group, or born since.
                self.isolation.signal_all(Signal::TERM);
            }
        }
        false
    }

    /// Stops or kills the command when its time has come.
    fn enforce(&mut self) {
        let now = self.clock.now();
        let Some(term) = &mut self.term else { return };
        // Once begun it is brought to its end, whatever is renewed meanwhile.
        if term.next_sweep.is_some() || now >= term.kill_at() {
            term.stopping = true;
            let (at, pause) = term.next_sweep.unwrap_or((now, SWEEPS[0]));
            if now >= at {
                self.isolation.kill_all();
                term.next_sweep = Some((now.plus(pause), (pause * 2).min(SWEEPS[1])));
            }
        } else if term.stop_at().is_some_and(|at| now >= at) {
            // If the guard lives, it sets a limit of its own; a renewal still counts.
            term.stop(&self.isolation, Signal::TERM, NEVER);
            term.told_by_clock = true;
        }
    }

    /// Until something happens. The timer counts suspended time, as the deadline does.
    fn sleep(&mut self) -> io::Result<()> {
        // An all-zero time would disarm the timer.
        let at = self.term.as_ref().map_or(0, |term| term.wake_at().0.max(1));
        let (tv_sec, tv_nsec) = ((at / 1_000_000_000) as i64, (at % 1_000_000_000) as i64);
        let once = Itimerspec { it_interval: Timespec::default(), it_value: Timespec { tv_sec, tv_nsec } };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        let mut fds =
            vec![PollFd::new(&self.timer, PollFlags::IN), PollFd::new(&self.child_changed, PollFlags::IN)];
        if !self.guard_is_gone {
            fds.push(PollFd::new(&self.link.socket, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
