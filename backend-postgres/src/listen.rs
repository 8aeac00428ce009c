//! LISTEN on a connection of its own, which notices when the server has gone.

use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

/// A silent server is asked for a sign of life this often, and given up when it takes as long to give one.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Hears the notifications of one channel. A notification is a hint: while no listener was connected, none was heard.
///
/// A transaction pooler loses notifications: connect to the server itself.
pub struct Listener(PgListener);

impl Listener {
    /// Connects and LISTENs. Every notification that is sent after this has returned is heard, until
    /// [`recv`](Self::recv) fails.
    ///
    /// # Errors
    /// No connection within 5 s, or the server's refusal.
    pub async fn connect(options: &PgConnectOptions, channel: &str) -> Result<Self, sqlx::Error> {
        // PgListener takes its connection from a pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(KEEPALIVE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // A reconnection would hide that notifications were missed.
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
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
            match tokio::time::timeout(KEEPALIVE, self.0.try_recv()).await {
                Ok(Ok(Some(notification))) => return Ok(notification.payload().to_owned()),
                Ok(Ok(None)) => return Err(ended("the server closed the connection")),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    tokio::time::timeout(KEEPALIVE, self.0.execute("SELECT 1"))
                        .await
                        .map_err(|_| ended("the server does not answer any more"))??;
                }
            }
        }
    }
}

fn ended(why: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why))
}
