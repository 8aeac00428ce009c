//! A small pool of connections to Postgres, as lease-postgres has one: sqlx's asks each connection that comes back for
//! a sign of life (a second round trip for each write, without a time limit), and takes back what was dropped in
//! mid-statement.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::database::StoreError;

/// A connection that nobody has used for longer may have been forgotten by a firewall on the way.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// The first statement on each connection: says why this server can't be used, or nothing.
pub const LASTING: &str = "SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
        OR current_setting('fsync') = 'off'
    THEN 'a crash would lose acknowledged writes: set fsync = on and synchronous_commit = on' END";

/// See the module.
pub struct Pool {
    options: PgConnectOptions,
    begin: &'static str,
    idle: Mutex<Vec<(Instant, PgConnection)>>,
    slots: Semaphore,
}

impl Pool {
    /// `begin` is as [`LASTING`], or asks for more. `limit`: the server itself gives up what nobody waits for any more,
    /// and what is stopped in the middle of a transaction. It notices soon that a client that waits for a lock has
    /// gone; the number of its sessions would else not be bounded by that of our connections.
    pub fn new(options: &PgConnectOptions, connections: u32, limit: Duration, begin: &'static str) -> Self {
        let limit = limit.as_millis().max(1).to_string();
        let options = options.clone().options([
            ("statement_timeout", limit.as_str()),
            ("lock_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
            ("client_connection_check_interval", "500ms"),
            // Fences read what others have committed meanwhile; a snapshot would hide it, or fail.
            ("default_transaction_isolation", "read committed"),
        ]);
        Self { options, begin, idle: Mutex::new(Vec::new()), slots: Semaphore::new(connections as usize) }
    }

    /// A connection that is ready for a statement.
    pub async fn take(&self) -> Result<Lent<'_>, StoreError> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let idle = loop {
            match self.idle().pop() {
                Some((since, _)) if since.elapsed() > IDLE_LIMIT => {}
                Some((_, connection)) => break Some(connection),
                None => break None,
            }
        };
        let connection = match idle {
            Some(connection) => connection,
            None => self.open().await?,
        };
        Ok(Lent { pool: self, connection: Some(connection), _slot: slot })
    }

    async fn open(&self) -> Result<PgConnection, StoreError> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let unfit: Option<String> = sqlx::query_scalar(self.begin).fetch_one(&mut connection).await?;
        match unfit {
            Some(why) => Err(StoreError::Failed(sqlx::Error::Configuration(why.into()))),
            None => Ok(connection),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, PgConnection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan. Dropped, it is closed; only [`keep`](Self::keep) gives it back.
pub struct Lent<'a> {
    pool: &'a Pool,
    connection: Option<PgConnection>,
    _slot: SemaphorePermit<'a>,
}

impl Lent<'_> {
    /// Its statement has been answered to the end: the next caller may have it.
    pub fn keep(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.idle().push((Instant::now(), connection));
        }
    }

    /// After all that was to be done with it. If that failed, a transaction may be open: it is closed, and so are the
    /// idle ones, which are probably broken if it was.
    pub fn after<T>(self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Ok(_) => self.keep(),
            Err(StoreError::Failed(_)) => self.pool.idle().clear(),
            Err(_) => {}
        }
        outcome
    }

    /// What becomes of it after a failed statement. When one connection is broken, the idle ones probably are too.
    pub fn failed(self, error: &sqlx::Error) {
        match error {
            // An error within a statement leaves the session as it was, unless its class says that the session ends.
            sqlx::Error::Database(database)
                if database
                    .code()
                    .is_some_and(|code| !code.starts_with("08") && !code.starts_with("57P")) =>
            {
                self.keep();
            }
            sqlx::Error::Io(_) | sqlx::Error::Database(_) => self.pool.idle().clear(),
            _ => {}
        }
    }
}

impl Deref for Lent<'_> {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("only keep takes it, and ends the loan")
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("only keep takes it, and ends the loan")
    }
}
