//! The two steps that the compiler can't check.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// The socket that the guard left open for this process at its start, from here on closed to the command.
pub(super) fn inherited_socket(number: RawFd) -> io::Result<UnixStream> {
    // SAFETY: called once, first thing in this process, with the number that the guard put on its command line;
    // nothing else in this process owns it. If it isn't open, the next call says so.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(UnixStream::from(socket))
}

/// Has the kernel kill the command when **this thread** ends (G-3). Not inherited by the command's own children, and
/// forgotten by set-uid programs: those are left to the keeper's and the guard's other means.
pub(super) fn dies_with_this_thread(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let in_the_child = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above; then nobody would ever send the signal.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    };
    // SAFETY: runs between fork and exec; two system calls and no allocation, lock or memory of another thread.
    unsafe { command.pre_exec(in_the_child) }
}
