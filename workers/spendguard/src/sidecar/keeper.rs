//! Keeps the scope: takes it, renews it, gives it up. Runs on the process's lease thread with a connection of its own,
//! so that no renewal ever waits behind the requests' work.

use std::time::Duration;

use lease_core::{Clock, lease_thread};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::campaign::Campaign;
use super::held::Held;
use super::ledger::Ledger;
use super::settings::ScopePlan;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the start: there is no scope to be had, and waiting for it was not asked for.
    Refused(String),
    /// It was given up, or there was nothing to give up.
    GivenUp,
    /// It could not be given up; it runs out by itself.
    LeftToExpire(String),
}

/// The keeper, from outside.
pub(super) struct Keeper {
    /// True from the first term on.
    has_held: watch::Receiver<bool>,
    give_up: CancellationToken,
    task: JoinHandle<End>,
}

impl Keeper {
    /// Starts to campaign.
    pub(super) fn start(ledger: Ledger, plan: ScopePlan, clock: Clock, held: Held) -> Self {
        let (tell, has_held) = watch::channel(false);
        let give_up = CancellationToken::new();
        let stop = give_up.clone();
        let task = lease_thread::handle().spawn(async move {
            let ttl = Duration::from_secs(plan.ttl_seconds.into());
            // Made here, so that the connection is served here.
            let client = ledger.client(ttl / 3);
            Campaign { ledger, client, plan, ttl, clock, held, has_held: tell, stop }.run().await
        });
        Self { has_held, give_up, task }
    }

    /// Resolves when the first term has begun, or with how it ended without one. Cancel safe.
    pub(super) async fn first_term(&mut self) -> Result<(), End> {
        if self.has_held.wait_for(|held| *held).await.is_ok() {
            return Ok(());
        }
        // Its end of the channel goes a moment before it does.
        Err(joined((&mut self.task).await))
    }

    /// Resolves only if it ends without having been told to. Cancel safe.
    pub(super) async fn ended(&mut self) -> End {
        joined((&mut self.task).await)
    }

    /// Gives the scope up, if it is held.
    pub(super) async fn give_up(mut self) -> End {
        self.give_up.cancel();
        joined((&mut self.task).await)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Nothing is released then: whoever drops it could not wait for the work.
        self.task.abort();
    }
}

fn joined(ended: Result<End, tokio::task::JoinError>) -> End {
    ended.unwrap_or_else(|error| End::LeftToExpire(format!("the keeper of the scope ended: {error}")))
}
