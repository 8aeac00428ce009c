//! All descendants of this process: found, signalled, proven dead (G-2).
//!
//! This process must be a *child subreaper*: then a descendant whose parent dies becomes its child, however often it
//! forked or called setsid, and 'no child is left' means 'no descendant is left'.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process_group,
    pidfd_open, pidfd_send_signal, wait, waitid,
};

/// One process. The pidfd means this very one, even after its number was given to another.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) pid: Pid,
    handle: OwnedFd,
}

impl Member {
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, handle: pidfd_open(pid, PidfdFlags::empty())? })
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        pidfd_send_signal(&self.handle, signal)
    }

    /// A watchdog or keeper that somebody stopped does nothing for the command: its parent wakes it.
    pub(super) fn wake(&self) {
        let stopped = waitid(WaitId::Pid(self.pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        if matches!(stopped, Ok(Some(_))) {
            let _ = self.signal(Signal::CONT);
        }
    }

    fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }
}

/// Can this kernel tell who a process's children are?
pub(super) fn check() -> io::Result<()> {
    fs::read(format!("/proc/self/task/{}/children", getpid().as_raw_nonzero())).map(drop)
}

/// All descendants, parents before their children.
///
/// Some may be missing: those born meanwhile, those whose parent died meanwhile (their next parent is this process),
/// and those for which there was no file descriptor. So whoever wants all of them dead asks again until [`reap`]
/// finds no child.
pub(super) fn descendants() -> Vec<Member> {
    let mut found: Vec<Member> = Vec::new();
    add_children(getpid(), None, &mut found);
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        add_children(parent.pid, Some(next), &mut found);
        next += 1;
    }
    found
}

fn add_children(parent: Pid, index: Option<usize>, found: &mut Vec<Member>) {
    for child in children(parent) {
        let Ok(member) = Member::open(child) else { continue };
        // A number may have been given to a stranger since the list was read. If its parent is still the one we
        // know, and that one still lives, it is the child.
        if parent_of(child) == Some(parent) && index.is_none_or(|index| !found[index].has_exited()) {
            found.push(member);
        }
    }
}

/// The children of all threads of `pid`; empty if it is gone.
pub(super) fn children(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let lists =
        tasks.into_iter().flatten().flatten().map(|task| fs::read_to_string(task.path().join("children")));
    lists
        .flatten()
        .flat_map(|list| list.split_whitespace().filter_map(pid_from).collect::<Vec<_>>())
        .collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    pid_from(&stat_field(&pid.as_raw_nonzero().to_string(), 1)?)
}

/// This process's group; 0 if it is that of a process outside of our PID namespace.
pub(super) fn own_group() -> i32 {
    stat_field("self", 2).and_then(|group| group.parse().ok()).unwrap_or(0)
}

/// `/proc/PID/stat` is `pid (name) state ppid pgrp …`, and the name may hold anything; fields count from the state.
fn stat_field(pid: &str, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(index).map(str::to_owned)
}

fn pid_from(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

/// Sends a signal to all descendants, and wakes those that are stopped so that they can heed it.
pub(super) fn signal_all(signal: Signal) {
    let members = descendants();
    for member in &members {
        let _ = member.signal(signal);
    }
    for member in &members {
        let _ = member.signal(Signal::CONT);
    }
}

/// Kills all descendants that it finds. The first pass stops them, so that the second
/// one meets no parent that replaces its dead children, and no child that was born in between.
pub(super) fn kill_all() {
    for member in descendants() {
        let _ = member.signal(Signal::STOP);
    }
    let members = descendants();
    for member in members.iter().rev() {
        let _ = member.signal(Signal::KILL);
    }
}

/// Sends a signal to all of the PID namespace whose init this process is: in one go, so that none is missed that is
/// born meanwhile.
pub(super) fn signal_namespace(signal: Signal) {
    // In any other process `kill(-1)` would reach all of the machine.
    assert!(getpid().is_init(), "only the init of a namespace may do this");
    let _ = kill_process_group(Pid::INIT, signal); // that is: kill(-1)
}

/// Buries the children that have died; `each` is told of every one. True if **no child is left**, and thereby no
/// descendant: that is the proof of G-2.
pub(super) fn reap(mut each: impl FnMut(Pid, WaitStatus)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => each(pid, status),
            Ok(None) => return false,
            Err(Errno::CHILD) => return true,
            Err(Errno::INTR) => {}
            Err(error) => unreachable!("wait fails only without children or by a signal, not with {error}"),
        }
    }
}

/// The exit code that a shell would show: the command's own, or 128 + n if signal n killed it.
pub(super) fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| code.try_into().ok()).unwrap_or(super::OUR_FAILURE)
}
