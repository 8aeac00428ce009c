//! Who waits for a scope is woken by LISTEN/NOTIFY: one listener for the whole server. A notification is a hint; it
//! may be late, repeated or missing, and a poll stands behind it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::broadcast;
use tracing::{debug, warn};

/// As in the functions that notify.
const CHANNEL: &str = "leasehold_fencing_scopes";
/// A silent connection is asked for a sign of life this often, and given up when none comes for as long.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The pause before the listener connects again.
const AGAIN: Duration = Duration::from_secs(1);
/// Names that a waiter has not looked at yet; one that falls behind looks at its scope.
const PLACES: usize = 64;

/// Hands the names of scopes that became free to whoever waits.
#[derive(Clone)]
pub(super) struct Wakes(broadcast::Sender<Arc<str>>);

/// One waiter's ear.
pub(super) struct Wake(broadcast::Receiver<Arc<str>>);

impl Wakes {
    /// Listens in the background, for as long as the runtime lives.
    pub(super) fn start(options: &PgConnectOptions) -> Self {
        let this = Self(broadcast::Sender::new(PLACES));
        let (told, options) = (this.clone(), options.clone().application_name("leasehold ledger hints"));
        tokio::spawn(async move {
            loop {
                if let Err(error) = told.listen(&options).await {
                    warn!(%error, "no notifications: who waits for a scope finds it by polling until they are back");
                }
                // What happened meanwhile was not heard.
                told.everybody();
                tokio::time::sleep(AGAIN).await;
            }
        });
        this
    }

    /// From now on, also what happens before the first look.
    pub(super) fn subscribe(&self) -> Wake {
        Wake(self.0.subscribe())
    }

    /// Nobody hears it; that is fine.
    fn tell(&self, scope: &str) {
        let _ = self.0.send(scope.into());
    }

    /// An empty name is everybody's.
    fn everybody(&self) {
        self.tell("");
    }

    async fn listen(&self, options: &PgConnectOptions) -> Result<(), sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(KEEPALIVE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        debug!("listening for free scopes");
        self.everybody();
        loop {
            match tokio::time::timeout(KEEPALIVE, listener.try_recv()).await {
                Ok(heard) => match heard? {
                    Some(notification) => self.tell(notification.payload()),
                    None => return Ok(()),
                },
                Err(_) => {
                    let alive = tokio::time::timeout(KEEPALIVE, listener.execute("SELECT 1")).await;
                    alive.map_err(|_| sqlx::Error::PoolTimedOut)??;
                }
            }
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
