//! LISTEN on a connection of its own, which notices when the server has gone.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::timeout;

use crate::error::{self, refuses_startup_options};
use crate::session::{POOLED, READ_ONLY, SETTINGS, SessionMark};

/// A silent server is asked for a sign of life this often, and given up when it takes as long to give one.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Hears the notifications of one channel. A notification is a hint: while no listener was connected, none was heard.
pub struct Listener(PgListener);

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The connection has no session of its own at the server: a pooler stands in between. No LISTEN was sent. Trying
    /// again can't help: connect to the server itself.
    #[error(
        "{POOLED}, which would lose notifications and leave its server's connection listening for other programs"
    )]
    Pooled,
    /// No connection, the server's refusal, or no answer.
    #[error("{}", crate::error::words(.0))]
    Failed(#[from] sqlx::Error),
}

impl Listener {
    /// Connects, makes certain that no pooler stands in between, and LISTENs. Every notification that is sent after this
    /// has returned is heard, until [`recv`](Self::recv) fails.
    ///
    /// # Errors
    /// [`ListenError`]; a failed connection after 5 s at the latest.
    pub async fn connect(options: &PgConnectOptions, channel: &str) -> Result<Self, ListenError> {
        let mark = SessionMark::random();
        // PgListener takes its connection from a pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(KEEPALIVE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(mark.on(options).options(SETTINGS));
        let mut listener = match PgListener::connect_with(&pool).await {
            Err(error) if refuses_startup_options(&error) => return Err(ListenError::Pooled),
            connected => connected?,
        };
        // A reconnection would hide that notifications were missed.
        listener.eager_reconnect(false);
        let begun = async {
            if !is_true(&mut listener, &mark.is_there()).await? {
                return Err(ListenError::Pooled);
            }
            refuse_read_only(&mut listener).await?;
            Ok(listener.listen(channel).await?)
        };
        timeout(KEEPALIVE, begun).await.map_err(|_| ended("the server does not answer"))??;
        Ok(Self(listener))
    }

    /// The next notification's payload.
    ///
    /// # Errors
    /// The connection has ended, the server gave no sign of life for 10 s, or it has become read-only. The listener is of no use any more:
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
                    timeout(KEEPALIVE, refuse_read_only(&mut self.0))
                        .await
                        .map_err(|_| ended("the server does not answer any more"))??;
                }
            }
        }
    }
}

/// A server that was demoted with its connections open notifies nobody.
async fn refuse_read_only(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    if is_true(listener, READ_ONLY).await? { Err(ended(error::READ_ONLY)) } else { Ok(()) }
}

async fn is_true(listener: &mut PgListener, condition: &str) -> Result<bool, sqlx::Error> {
    listener.fetch_one(sqlx::raw_sql(AssertSqlSafe(format!("SELECT {condition}")))).await?.try_get(0)
}

fn ended(why: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why))
}
