//! The signals that the guard receives.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use tokio::sync::mpsc;

/// A signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) signal: i32,
    /// The terminal sent it, and sent it to the whole foreground group: the command has had it already.
    pub(super) from_terminal: bool,
}

/// Signals that are passed on to the command; SIGTERM and SIGINT stop the guard as well.
const PASSED_ON: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// Begins to listen, on a thread of its own.
pub(super) fn listen() -> io::Result<mpsc::Receiver<Heard>> {
    // Signals that were ignored at the start stay ignored (nohup), except the two that stop every worker (H-1): a
    // shell makes its background commands ignore SIGINT.
    let wanted =
        PASSED_ON.into_iter().filter(|signal| [SIGTERM, SIGINT].contains(signal) || !ignored(*signal));
    let mut signals = SignalsInfo::<WithOrigin>::new(wanted.chain([SIGCHLD]))?;
    let (tell, told) = mpsc::channel(64);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for origin in signals.forever() {
            let from_terminal =
                matches!(origin.cause, Cause::Kernel) && [SIGINT, SIGQUIT, SIGWINCH].contains(&origin.signal);
            if tell.blocking_send(Heard { signal: origin.signal, from_terminal }).is_err() {
                return;
            }
        }
    })?;
    Ok(told)
}

/// In the watchdog and the keeper these do nothing, since the guard decides what to do about them. They are handled and
/// not ignored, since a command would inherit an ignored signal.
pub(super) fn leave_to_the_guard() -> io::Result<()> {
    let left = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2];
    for signal in left.into_iter().filter(|signal| !ignored(*signal)) {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Is this signal ignored, as by `nohup`, or by a shell for what it starts in the background?
pub(super) fn ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}
