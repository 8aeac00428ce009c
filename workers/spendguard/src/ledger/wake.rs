//! Wakes calls that wait for a scope, by LISTEN/NOTIFY: one listener for the whole server. A notification is a hint; it
//! may be late, repeated or missing, and a poll stands behind it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lease_core::internal::repeated::Repeated;
use lease_postgres::listen::{ListenError, Listener};
use lease_postgres::url;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::broadcast;
use tracing::{debug, info, warn};

/// The channel that `ledger_fencing_scope` notifies.
const CHANNEL: &str = "leasehold_fencing_scopes";
/// The pause before the listener connects again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// Names that a waiter has not looked at yet; one that falls behind looks at its scope.
const CAPACITY: usize = 64;

/// Hands the names of scopes that became free to all waiters.
#[derive(Clone)]
pub(super) struct Wakes(broadcast::Sender<Arc<str>>);

/// One waiter's end.
pub(super) struct Wake(broadcast::Receiver<Arc<str>>);

impl Wakes {
    /// Listens in the background, for as long as the runtime lives.
    pub(super) fn start(options: &PgConnectOptions) -> Self {
        let this = Self(broadcast::Sender::new(CAPACITY));
        let (wakes, options) = (this.clone(), url::named(options.clone(), "leasehold ledger hints"));
        tokio::spawn(async move {
            let mut failures = Repeated::default();
            loop {
                let Err(error) = wakes.listen(&options, &mut failures).await;
                if matches!(error, ListenError::Pooled) {
                    warn!(%error, "no notifications: waiters find a free scope by polling");
                    return;
                }
                if let Some(count) = failures.failed(&error.to_string(), Instant::now()) {
                    let failures = (count > 1).then_some(count);
                    warn!(%error, failures, "no notifications: waiters find a free scope by polling until the listener is back");
                }
                // Notifications may have been missed.
                wakes.everybody();
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        });
        this
    }

    /// From now on, also for what happens before the first call of [`Wake::heard`].
    pub(super) fn subscribe(&self) -> Wake {
        Wake(self.0.subscribe())
    }

    /// It is fine if there is no waiter.
    fn tell(&self, scope: &str) {
        let _ = self.0.send(scope.into());
    }

    /// An empty name wakes all waiters.
    fn everybody(&self) {
        self.tell("");
    }

    async fn listen(
        &self,
        options: &PgConnectOptions,
        failures: &mut Repeated,
    ) -> Result<Infallible, ListenError> {
        let mut listener = Listener::connect(options, CHANNEL).await?;
        match failures.works(Instant::now()) {
            Some((failures, after)) => info!(failures, ?after, "notifications of free scopes are back"),
            None => debug!("listening for free scopes"),
        }
        self.everybody();
        loop {
            self.tell(&listener.recv().await?);
        }
    }
}

impl Wake {
    /// Resolves when `scope` may be free. Cancel safe.
    pub(super) async fn heard(&mut self, scope: &str) {
        loop {
            match self.0.recv().await {
                Ok(name) if !name.is_empty() && *name != *scope => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The server is going: the poll goes on by itself.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
