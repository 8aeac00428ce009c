//! The steps of an attacked command that the compiler can't check.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::AtomicU64;

/// This process goes on in two: true in the child. Only for a process with one thread.
pub(super) fn fork() -> io::Result<bool> {
    // SAFETY: the process has one thread, so the child finds no lock that nobody would release.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid == 0),
    }
}

/// Ends this process without its destructors, which its parent will run.
pub(super) fn exit_now() -> ! {
    // SAFETY: it takes nothing and returns never.
    unsafe { libc::_exit(0) }
}

/// Signals that a command may be deaf to, and the end of a child, which leaves no zombie then.
pub(super) fn ignore(signal: rustix::process::Signal) {
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
}

/// `count` numbers in a file, which all processes that map it share, for as long as this one lives.
pub(super) fn shared_numbers(file: &File, count: usize) -> io::Result<&'static [AtomicU64]> {
    let length = count * size_of::<AtomicU64>();
    file.set_len(length as u64)?;
    let (rights, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(ptr::null_mut(), length, rights, shared, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has this length, begins at a page, and is never undone; the file is never shortened.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), count) })
}
