//! The watchdog: the process between the guard and the keeper, which dies by the kernel's clock (G-3).
//!
//! Its timer's signal is SIGKILL: it comes at its moment, also while this process is stopped. The kernel then kills the
//! keeper, whose parent this is; and with the init of a PID namespace, which the keeper is, all that is in there. So it
//! is outside of the namespace: an init survives a timer of its own, but not a signal from outside.
//!
//! The keeper puts the timer off as renewals are acknowledged. It takes a guard, a keeper and a watchdog that all run to
//! let the command live on.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use lease_core::Instant;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, getegid, geteuid, getpid, getuid, set_child_subreaper, setpgid};
use rustix::thread::capabilities;
use signal_hook::consts::SIGCHLD;

use super::cgroup::Cgroup;
use super::isolate::Isolate;
use super::tree::{self, Member};
use super::wire::{FromKeeper, line};
use super::{KEEP_RIGHTS, KEEPER, OUR_FAILURE, signals, sys};

/// `leasehold __watchdog SOCKET GROUP ISOLATION RIGHTS COMMAND…`
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let mut number = || arguments.next()?.to_str()?.parse::<i32>().ok();
    let (Some(socket), Some(group)) = (number(), number()) else { return OUR_FAILURE };
    let isolation = arguments.next().and_then(|name| clap::ValueEnum::from_str(name.to_str()?, false).ok());
    let rights = arguments.next();
    let (Some(isolation), Some(rights), Ok(socket)) = (isolation, rights, sys::inherited(socket)) else {
        return OUR_FAILURE;
    };
    let keep_rights = rights == KEEP_RIGHTS;
    let socket = UnixStream::from(socket);
    let started = socket.try_clone().and_then(|socket| {
        Watchdog::start(socket.into(), group, isolation, keep_rights, arguments.collect())
    });
    match started {
        Ok(watchdog) => {
            // From here on its end of file is the keeper's death.
            drop(socket);
            if watchdog.run().is_ok() { 0 } else { OUR_FAILURE }
        }
        Err(error) => {
            let _ = (&socket).write_all(&line(&FromKeeper::Refused { error: error.to_string() }));
            OUR_FAILURE
        }
    }
}

struct Watchdog {
    timer: sys::DeathTimer,
    armed: bool,
    keeper: Member,
    keeper_is_dead: bool,
    /// To and from the keeper; none once it has closed its end, as it does long before it can be reaped.
    link: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    child_changed: UnixStream,
}

impl Watchdog {
    fn start(
        socket: OwnedFd,
        group: i32,
        isolate: Isolate,
        keep_rights: bool,
        command: Vec<OsString>,
    ) -> io::Result<Self> {
        signals::leave_to_the_guard()?;
        let (child_changed, tell) = UnixStream::pair()?;
        child_changed.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, tell)?;
        set_child_subreaper(Some(getpid()))?;
        let timer =
            sys::DeathTimer::new().map_err(|error| io::Error::other(format!("timer_create: {error}")))?;
        let cgroup = match isolate {
            Isolate::Cgroup => Some(Cgroup::create()?),
            Isolate::Pid => {
                unshare(keep_rights)?;
                None
            }
            Isolate::Auto | Isolate::None => None,
        };
        let spawned = spawn(&socket, group, isolate, cgroup.as_ref(), command);
        if let (Err(_), Some(cgroup)) = (&spawned, &cgroup) {
            cgroup.remove();
        }
        let (keeper, link) = spawned?;
        sys::go_first();
        Ok(Self {
            timer,
            armed: false,
            keeper,
            keeper_is_dead: false,
            link: Some(link),
            cgroup,
            child_changed,
        })
    }

    /// Returns once there is nothing left.
    fn run(mut self) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        loop {
            self.put_off()?;
            while matches!(self.child_changed.read(&mut [0; 64]), Ok(1..)) {}
            if tree::reap(|pid, _| self.keeper_is_dead |= pid == self.keeper.pid) {
                if let Some(cgroup) = &self.cgroup {
                    cgroup.remove();
                }
                return Ok(());
            }
            if self.keeper_is_dead {
                // It left these behind: they are this process's children now.
                if let Some(cgroup) = &self.cgroup {
                    cgroup.kill();
                }
                tree::kill_all();
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
                continue;
            }
            self.keeper.wake();
            let mut fds = vec![PollFd::new(&self.child_changed, PollFlags::IN)];
            if let Some(link) = &self.link {
                fds.push(PollFd::new(link, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sets the timer to the last moment that the keeper has told, and tells it once when it is set at all.
    fn put_off(&mut self) -> io::Result<()> {
        let mut at = [0; 8];
        while let Some(link) = &self.link {
            match rustix::io::read(link, &mut at) {
                Ok(8) => {}
                Err(Errno::AGAIN | Errno::INTR) => break,
                Ok(_) | Err(_) => {
                    self.link = None;
                    break;
                }
            }
            // For `leasehold-lab attack --without-watchdog`, which must see what the timer is for; never in a release.
            if !cfg!(debug_assertions) || std::env::var_os("LEASEHOLD_LAB_WITHOUT_TIMER").is_none() {
                self.timer.set(Instant(u64::from_ne_bytes(at)))?;
            }
            if !std::mem::replace(&mut self.armed, true) {
                let _ = rustix::io::write(link, &[1]);
            }
        }
        Ok(())
    }
}

/// A new PID namespace for the keeper: by this process's own rights, else by those that a user namespace gives. The
/// command has no rights outside of that one, so nobody who has some to lose is put there unasked.
fn unshare(keep_rights: bool) -> io::Result<()> {
    let named = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let Err(error) = sys::unshare_pids(false) else { return Ok(()) };
    if keep_rights && has_rights()? {
        return Err(io::Error::new(
            error.kind(),
            format!(
                "unshare: {error}, and in a user namespace the program would lose the rights that it has as root or by \
                 capabilities (--isolate=pid takes them away)"
            ),
        ));
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if getuid().as_raw() != user {
        return Err(io::Error::other("this program is set-uid"));
    }
    sys::unshare_pids(true).map_err(|error| named("unshare", error))?;
    // The command stays who it is. A process may map its own group only if it gives up setgroups.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} {user} 1")),
        ("gid_map", format!("{group} {group} 1")),
    ] {
        let file = format!("/proc/self/{file}");
        fs::write(&file, text).map_err(|error| named(&file, error))?;
    }
    Ok(())
}

/// Has this process, and so the command, more rights than its user's? Executed just now, as the command will be, its
/// ambient capabilities are among the effective ones.
fn has_rights() -> io::Result<bool> {
    Ok(geteuid().is_root() || !capabilities(None)?.effective.is_empty())
}

/// Starts the keeper, which runs this very program, also if the file was replaced meanwhile.
fn spawn(
    socket: &OwnedFd,
    group: i32,
    isolate: Isolate,
    cgroup: Option<&Cgroup>,
    command: Vec<OsString>,
) -> io::Result<(Member, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (link, keepers_link) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg0("leasehold").arg(KEEPER);
    keeper.args([sys::leave_open(socket)?, sys::leave_open(&keepers_link)?, group.to_string()]);
    keeper.arg(cgroup.map_or(isolate.name().as_ref(), |cgroup| cgroup.path().as_os_str())).args(command);
    let spawned = if isolate == Isolate::Pid {
        // The command is to be in the guard's own group, which has no number in the namespace: it inherits it. What a
        // terminal sends to its foreground doesn't hurt an init.
        let group = Pid::from_raw(group);
        setpgid(None, group)?;
        let spawned = sys::with_own_proc(&mut keeper).spawn();
        setpgid(None, None)?;
        spawned.map_err(|error| {
            io::Error::new(error.kind(), format!("can't give the PID namespace a /proc of its own: {error}"))
        })?
    } else {
        keeper.process_group(0).spawn()?
    };
    Ok((Member::open(Pid::from_child(&spawned))?, link))
}
