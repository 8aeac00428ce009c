//! LISTEN on a connection of its own, which notices when the server has gone.

use std::time::Duration;

use lease_core::Tag;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::timeout;

use crate::error::refuses_startup_options;

/// A silent server is asked for a sign of life this often, and given up when it takes as long to give one.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A parameter that changes nothing in a session that only LISTENs; see [`has_its_own_session`].
const MARK: &str = "gin_fuzzy_search_limit";

/// Hears the notifications of one channel. A notification is a hint: while no listener was connected, none was heard.
pub struct Listener(PgListener);

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The connection has no session of its own at the server: a pooler stands in between. No LISTEN was sent. Trying
    /// again can't help: connect to the server itself.
    #[error(
        "a pooler stands in between, which would lose notifications and leave its server's connection listening for \
         other programs"
    )]
    Pooled,
    /// No connection, the server's refusal, or no answer.
    #[error(transparent)]
    Failed(#[from] sqlx::Error),
}

impl Listener {
    /// Connects, makes certain that no pooler stands in between, and LISTENs. Every notification that is sent after this
    /// has returned is heard, until [`recv`](Self::recv) fails.
    ///
    /// # Errors
    /// [`ListenError`]; a failed connection after 5 s at the latest.
    pub async fn connect(options: &PgConnectOptions, channel: &str) -> Result<Self, ListenError> {
        let mark = (1 << 30) | (Tag::random().0 as u32 >> 2);
        // PgListener takes its connection from a pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(KEEPALIVE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.clone().options([(MARK, mark.to_string())]));
        let mut listener = match PgListener::connect_with(&pool).await {
            Err(error) if refuses_startup_options(&error) => return Err(ListenError::Pooled),
            connected => connected?,
        };
        // A reconnection would hide that notifications were missed.
        listener.eager_reconnect(false);
        let begun = async {
            if !has_its_own_session(&mut listener, mark).await? {
                return Err(ListenError::Pooled);
            }
            Ok(listener.listen(channel).await?)
        };
        timeout(KEEPALIVE, begun).await.map_err(|_| ended("the server does not answer"))??;
        Ok(Self(listener))
    }

    /// The next notification's payload.
    ///
    /// # Errors
    /// The connection has ended, or the server gave no sign of life for 10 s. The listener is of no use any more:
    /// connect another, and look at what may have changed meanwhile.
    ///
    /// # Cancel safety
    /// No notification is lost.
    pub async fn recv(&mut self) -> Result<String, sqlx::Error> {
        loop {
            match timeout(KEEPALIVE, self.0.try_recv()).await {
                Ok(Ok(Some(notification))) => return Ok(notification.payload().to_owned()),
                Ok(Ok(None)) => return Err(ended("the server closed the connection")),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    timeout(KEEPALIVE, self.0.execute("SELECT 1"))
                        .await
                        .map_err(|_| ended("the server does not answer any more"))??;
                }
            }
        }
    }
}

/// Was the server's session begun by this very connection? Our start-up packet gave a parameter a random value. A pooler
/// refuses it, drops it, or sets it by a SET of its own, which the server tells apart (`source`): its sessions were
/// begun by the pooler. Process ids and prepared statements tell nothing while a pooler lends the same session again.
async fn has_its_own_session(listener: &mut PgListener, mark: u32) -> Result<bool, sqlx::Error> {
    let begun_here =
        format!("SELECT setting = '{mark}' AND source = 'client' FROM pg_settings WHERE name = '{MARK}'");
    let row = listener.fetch_one(sqlx::raw_sql(AssertSqlSafe(begun_here))).await?;
    row.try_get(0)
}

fn ended(why: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why))
}
