//! The one place where the program hears that it should stop: SIGTERM and SIGINT alike (H-1).

use std::process;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::stderr;

/// A further signal within this time of the first belongs to the same request: `timeout` signals its child and then its
/// child's group, a terminal and a supervisor may both signal.
pub const ONE_REQUEST: Duration = Duration::from_secs(1);

/// A token that the first SIGTERM or SIGINT cancels.
///
/// One that comes a second later or more ends the process at once with 128 + its number. That is safe: nothing is
/// released then that the work might still use; the lease runs out by itself.
///
/// # Errors
/// The operating system refuses to watch signals.
///
/// # Panics
/// Outside a tokio runtime.
pub fn token() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let told = token.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut first = None::<Instant>;
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if let Some(first) = first {
                if first.elapsed() < ONE_REQUEST {
                    continue;
                }
                tracing::error!(
                    signal = name,
                    "second signal: ending at once; a lease still held runs out by itself"
                );
                stderr::flush();
                process::exit(128 + number);
            }
            first = Some(Instant::now());
            // The line is written when it is true: its reader may ask at once.
            told.cancel();
            tracing::info!(
                signal = name,
                "stopping; a second signal ends the process at once, from a second later on"
            );
        }
    });
    Ok(token)
}
