//! The few steps that the compiler can't check.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use lease_core::Instant;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Signal, getpid, getppid, getpriority_process, set_parent_process_death_signal, setpriority_process,
};
use rustix::thread::{UnshareFlags, set_no_new_privs, unshare_unsafe};

/// A descriptor that was left open for this process at its start, from here on closed to what it starts.
pub(super) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: called once for each number, first thing in this process, with the numbers that its parent put on its
    // command line; nothing else in this process owns them. If one isn't open, the next call says so.
    let inherited = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&inherited, FdFlags::CLOEXEC)?;
    Ok(inherited)
}

/// Prepares the command between fork and exec.
#[derive(Debug)]
pub(super) struct Entry {
    /// `cgroup.procs` of the cgroup that it enters.
    pub(super) cgroup: Option<OwnedFd>,
    /// Set-uid programs below it run without the rights of their owner.
    pub(super) no_new_privs: bool,
    /// Its scheduling priority, which is not the keeper's.
    pub(super) nice: i32,
}

impl Entry {
    /// Also has the kernel kill the command when **this thread** ends (G-3). Not inherited by the command's own
    /// children, and forgotten whenever the command changes its user or group or gains a capability: by a set-uid
    /// program, and by `gosu` or `setpriv` as root. Only a PID namespace holds those too.
    pub(super) fn prepare(self, command: &mut Command) -> &mut Command {
        let parent = getpid();
        let in_the_child = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above; then nobody would ever send the signal.
            if getppid() != Some(parent) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            if let Some(cgroup) = &self.cgroup {
                rustix::io::write(cgroup, b"0")?;
            }
            if self.no_new_privs {
                set_no_new_privs(true)?;
            }
            if getpriority_process(None)? != self.nice {
                let _ = setpriority_process(None, self.nice);
            }
            Ok(())
        };
        // SAFETY: runs between fork and exec; system calls and no allocation, lock or memory of another thread.
        unsafe { command.pre_exec(in_the_child) }
    }
}

/// From here on this process's children are born into a new PID namespace, the first of them as its init. With
/// `user`, also into a new user namespace, where this process may do what it needs.
pub(super) fn unshare_pids(user: bool) -> io::Result<()> {
    let flags = if user { UnshareFlags::NEWPID | UnshareFlags::NEWUSER } else { UnshareFlags::NEWPID };
    // SAFETY: the table of open files stays as it is.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Gives the child a `/proc` of its own PID namespace. Other mounts stay shared as they are.
pub(super) fn with_own_proc(command: &mut Command) -> &mut Command {
    let in_the_child = || {
        // SAFETY: the table of open files stays as it is.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/proc", MountPropagationFlags::PRIVATE)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        Ok(mount(c"proc", c"/proc", c"proc", flags, None)?)
    };
    // SAFETY: runs between fork and exec; system calls and no allocation, lock or memory of another thread.
    unsafe { command.pre_exec(in_the_child) }
}

/// A timer that kills this process, also while it is stopped: SIGKILL needs no instruction of it.
#[derive(Debug)]
pub(super) struct DeathTimer(libc::c_int);

impl DeathTimer {
    /// Not set yet.
    pub(super) fn new() -> io::Result<Self> {
        let mut timer = 0;
        // SAFETY: `sigevent` is plain data, for which all zeros are valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        // SAFETY: both pointers are to live values of the types that the kernel expects.
        let made = unsafe {
            libc::syscall(libc::SYS_timer_create, libc::CLOCK_BOOTTIME, &raw mut event, &raw mut timer)
        };
        if made == 0 { Ok(Self(timer)) } else { Err(io::Error::last_os_error()) }
    }

    /// At this moment, which counts suspended time as a lease's deadline does. A moment that has passed is now.
    pub(super) fn set(&self, at: Instant) -> io::Result<()> {
        let at = at.0.max(1); // an all-zero time would disarm it
        let it_value = libc::timespec {
            tv_sec: (at / 1_000_000_000) as libc::time_t,
            tv_nsec: (at % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: `itimerspec` is plain data, for which all zeros are valid.
        let once = libc::itimerspec { it_value, ..unsafe { std::mem::zeroed() } };
        let old = ptr::null_mut::<libc::itimerspec>();
        // SAFETY: the timer is this process's; the pointer is to a live value, and no old value is asked for.
        let set = unsafe {
            libc::syscall(libc::SYS_timer_settime, self.0, libc::TIMER_ABSTIME, &raw const once, old)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// This process has the shortest turns, which come soonest, and goes before all others where it may: a command that
/// forks without end would otherwise keep it waiting. Its children don't inherit this. Left alone if somebody chose
/// another policy for it.
pub(super) fn go_first() {
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const RESET_ON_FORK: u64 = 1;
    const SHORTEST: u64 = 100_000;
    let size = size_of::<Attributes>() as u32;
    let nice = getpriority_process(None).unwrap_or_default();
    let fair = Attributes {
        size,
        policy: libc::SCHED_OTHER as u32,
        flags: RESET_ON_FORK,
        nice,
        priority: 0,
        runtime: SHORTEST, // since Linux 6.12; the kernels before ignore it
        deadline: 0,
        period: 0,
    };
    // SAFETY: the pointer is to a live value of the size that it states.
    let set = |attributes: &Attributes| unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(attributes), 0)
    };
    // SAFETY: takes a number. Not by libc's function, which does nothing with musl.
    let present = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    // Never a real-time policy: one such process that waits for others to die, and doesn't sleep, keeps them alive.
    if present == libc::c_long::from(libc::SCHED_OTHER) && set(&Attributes { nice: -20, ..fair }) != 0 {
        let _ = set(&fair);
    }
}

/// Left open for one child, which is started next and told this number.
pub(super) fn leave_open(descriptor: &OwnedFd) -> io::Result<String> {
    fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(descriptor.as_raw_fd().to_string())
}
