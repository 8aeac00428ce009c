//! Ctrl-C and SIGTERM: a run ends what it started, removes what it made, and says by its exit code that it was ended.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which of the two it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted(u8);

impl Interrupted {
    /// As a shell tells it: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.0
    }
}

/// Resolves at the first SIGINT or SIGTERM from the call on: neither ends the process any more by itself.
pub(crate) fn interrupted() -> impl Future<Output = Interrupted> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    let [mut interrupt, mut terminate] = kinds.map(|kind| signal(kind).ok());
    async move {
        tokio::select! {
            () = next(&mut interrupt) => Interrupted(2),
            () = next(&mut terminate) => Interrupted(15),
        }
    }
}

/// Without a handler the signal keeps its default: it ends the process.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Runs `work` until it ends or is interrupted: then it is dropped, and with it all that it had started and made.
pub(crate) async fn unless_interrupted(
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let interrupted = interrupted();
    tokio::select! {
        outcome = work => outcome,
        signal = interrupted => {
            eprintln!("interrupted: all started processes were stopped, and their folders removed");
            Ok(ExitCode::from(signal.exit_code()))
        }
    }
}
