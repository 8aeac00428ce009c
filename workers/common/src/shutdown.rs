//! The one place where the program hears that it should stop: SIGTERM and SIGINT alike (H-1).

use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels.
///
/// The second one ends the process at once with 128 + its number. That is safe: nothing is released then that the
/// work might still use; the lease runs out by itself.
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
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if told.is_cancelled() {
                tracing::error!(
                    signal = name,
                    "second signal: ending at once; a lease still held runs out by itself"
                );
                process::exit(128 + number);
            }
            // Whoever reads the line may ask at once: it is so by then.
            told.cancel();
            tracing::info!(signal = name, "stopping; a second signal ends the process at once");
        }
    });
    Ok(token)
}
