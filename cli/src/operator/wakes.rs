//! When to look at the store again: at a hint, or after a while. Hints only wake; nothing is decided by one.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lease_core::Hints;

use super::session::Session;

/// However many hints come, the store isn't asked more often.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct RegisterWakes {
    hints: Option<Hints>,
    every: Duration,
}

impl RegisterWakes {
    /// Hints about leases whose name begins with `prefix`, if the store has any, and a poll behind them.
    pub(super) async fn new(session: &Session, prefix: &str, every: Duration) -> Self {
        let offered = session.backend.capabilities().watch;
        let hints = if offered { session.read(session.backend.watch(prefix)).await.ok() } else { None };
        Self { hints, every }
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) {
        tokio::time::sleep(SHORTEST_PAUSE).await;
        let rest = tokio::time::sleep(self.every.saturating_sub(SHORTEST_PAUSE));
        let Some(hints) = &mut self.hints else { return rest.await };
        tokio::select! {
            hint = hints.next() => {
                // One look answers all that are there.
                let mut last = hint;
                while last.is_some() {
                    match hints.next().now_or_never() {
                        Some(next) => last = next,
                        None => return,
                    }
                }
                self.hints = None;
            }
            () = rest => {}
        }
    }
}
