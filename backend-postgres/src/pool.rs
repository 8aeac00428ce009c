//! A pool of connections in which every call ends: for the lease store, and for a program's own effects in PostgreSQL.
//!
//! sqlx's pool pings each connection that comes back (a second round trip for each statement, without a time limit),
//! retries and sleeps while connecting, and takes back connections that were dropped in mid-statement. And sqlx
//! sets neither keepalives nor TCP_USER_TIMEOUT, and lets nobody else set them: a connection whose peer vanished is
//! noticed by the time limit of the call that uses it, and the others then have to give a sign of life.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{self, refuses_startup_options};
use crate::session::{POOLED, READ_ONLY, SETTINGS, SessionMark};

/// A server that takes longer to open a connection is out of reach.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A firewall on the way may have forgotten a connection that was idle for longer.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// An idle connection that is doubted is as dead as the one that was given up, unless it answers so soon, or in a quarter
/// of the time that it took to open, twice as long at most: over a slow link that was six round trips, in [`CONNECT_LIMIT`].
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// The server's own limit ends a statement first; without its answer until then the connection is dead.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Opens the connections of a [`Pool`].
pub trait Connect: Send + Sync {
    /// A [`PgConnection`], and whatever is to be remembered about it.
    type Connection: Send;
    /// Why there is no connection. No statement was sent then.
    type Error;

    /// Opens a connection and checks that its server may be used. The pool limits its time.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// The error for the case that [`connect`](Self::connect) takes too long, or that no connection becomes free.
    fn unavailable(&self, timed_out: sqlx::Error) -> Self::Error;

    /// The connection itself.
    fn postgres(connection: &mut Self::Connection) -> &mut PgConnection;
}

/// The error of a [`call`](Pool::call), as far as the pool needs to know it.
pub trait CallError: From<sqlx::Error> {
    /// Did the statement's own logic raise it, so that the session is as good as before? For an error of sqlx's,
    /// [`raised_by_statement`] knows.
    fn raised_by_statement(&self) -> bool;
}

impl CallError for sqlx::Error {
    fn raised_by_statement(&self) -> bool {
        raised_by_statement(self)
    }
}

/// True for SQLSTATEs that say nothing about the connection or its server: Leasehold's own (class LH), violated
/// constraints (class 23), 40001 (serialization), 40P01 (deadlock) and 55P03 (lock timeout).
pub fn raised_by_statement(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| {
        code.starts_with("LH") || code.starts_with("23") || ["40001", "40P01", "55P03"].contains(&&*code)
    })
}

/// A bounded number of connections, opened when they are needed.
pub struct Pool<C: Connect = Checked> {
    connect: C,
    limit: Duration,
    idle: Mutex<Idle<C::Connection>>,
    slots: Semaphore,
}

/// Connections that nobody uses.
struct Idle<T> {
    /// Each with the time at which it answered last.
    connections: Vec<(Instant, Opened<T>)>,
    /// A call was given up then: what has not answered since may be dead.
    doubted: Option<Instant>,
}

/// A connection, and how long it took to open.
struct Opened<T> {
    connection: T,
    within: Duration,
}

impl<T> Idle<T> {
    /// The one that was used last, and whether it is to give a sign of life.
    fn take(&mut self) -> Option<(Opened<T>, bool)> {
        self.connections.retain(|(answered, _)| answered.elapsed() <= IDLE_LIMIT);
        let (answered, connection) = self.connections.pop()?;
        Some((connection, self.doubted.is_some_and(|doubted| answered < doubted)))
    }
}

/// Dropped before it is disarmed, it says that its call was given up without an answer.
struct GivenUp<'a, C: Connect>(Option<&'a Pool<C>>);

impl<C: Connect> Drop for GivenUp<'_, C> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.idle().doubted = Some(Instant::now());
        }
    }
}

impl<C: Connect> Pool<C> {
    /// At most `connections` at a time. A call gets `limit` in all: waiting for a connection, opening it, and its work.
    ///
    /// # Panics
    /// If `connections` is 0.
    pub fn new(connect: C, connections: u32, limit: Duration) -> Self {
        assert!(connections > 0, "a pool needs at least one connection");
        let idle = Mutex::new(Idle { connections: Vec::new(), doubted: None });
        Self { connect, limit, idle, slots: Semaphore::new(connections as usize) }
    }

    /// The connector that opens the connections.
    pub fn connector(&self) -> &C {
        &self.connect
    }

    /// Runs `work` on a connection. It must leave no transaction open when it succeeds; what it leaves open when it
    /// fails is rolled back.
    ///
    /// The connection is reused after success, and after an error that the statement's own logic
    /// [raised](CallError::raised_by_statement). Any other error, and the time limit, closes it together with all idle
    /// ones, which are probably as broken; the next call connects anew.
    ///
    /// # Errors
    /// - `C::Error`: no connection; no statement was sent.
    /// - Else `work`'s error, or [`sqlx::Error::Io`] with [`TimedOut`](std::io::ErrorKind::TimedOut) for work that was
    ///   cut off at the limit: whether its writes were applied is unknown then.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection. A statement that was sent may still be applied. Since somebody gave up
    /// waiting, the idle connections have to answer within 1 s, or longer over a slow link, before they are used again.
    pub async fn call<T, E>(&self, work: impl AsyncFnOnce(&mut C::Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: CallError + From<C::Error>,
    {
        let deadline = Instant::now() + self.limit;
        let checkout = timeout_at(deadline, self.checkout()).await;
        let (_slot, mut opened) = checkout.unwrap_or_else(|_| {
            let busy = format!("no connection within {:?}", self.limit);
            Err(self.connect.unavailable(timed_out(busy)))
        })?;
        let mut given_up = GivenUp(Some(self));
        let outcome = timeout_at(deadline, work(&mut opened.connection)).await.unwrap_or_else(|_| {
            Err(timed_out(format!("no answer from PostgreSQL within {:?}", self.limit)).into())
        });
        let reusable = match &outcome {
            Ok(_) => true,
            // The ping also sends the rollback that sqlx has only queued, and waits for it.
            Err(error) if error.raised_by_statement() => {
                let pinged = timeout_at(deadline, C::postgres(&mut opened.connection).ping()).await;
                matches!(pinged, Ok(Ok(())))
            }
            Err(_) => false,
        };
        given_up.0 = None;
        let mut idle = self.idle();
        match reusable {
            true => idle.connections.push((Instant::now(), opened)),
            false => idle.connections.clear(),
        }
        drop(idle);
        outcome
    }

    /// Runs `work` in a transaction, and commits it if it succeeds; else it is rolled back. As for
    /// [`call`](Self::call).
    ///
    /// # Errors
    /// As for [`call`](Self::call); an error of the commit leaves its outcome unknown, unless the server raised it.
    pub async fn transaction<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: CallError + From<C::Error>,
    {
        self.call(async move |connection| {
            let mut transaction = C::postgres(connection).begin().await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await
    }

    /// A connection that never becomes part of the pool, and doesn't count as one of its connections.
    ///
    /// # Errors
    /// As of [`Connect::connect`], or [`Connect::unavailable`] after 10 s. Cancel safe.
    pub async fn open(&self) -> Result<C::Connection, C::Error> {
        timeout(CONNECT_LIMIT, self.connect.connect()).await.unwrap_or_else(|_| {
            Err(self.connect.unavailable(timed_out(format!("no answer within {CONNECT_LIMIT:?}"))))
        })
    }

    async fn checkout(&self) -> Result<(SemaphorePermit<'_>, Opened<C::Connection>), C::Error> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        loop {
            let idle = self.idle().take();
            let Some((mut opened, doubted)) = idle else {
                let began = Instant::now();
                let connection = self.open().await?;
                return Ok((slot, Opened { connection, within: began.elapsed() }));
            };
            if !doubted {
                return Ok((slot, opened));
            }
            let limit = SIGN_OF_LIFE.max((opened.within / 4).min(2 * SIGN_OF_LIFE));
            match timeout(limit, C::postgres(&mut opened.connection).ping()).await {
                Ok(Ok(())) => return Ok((slot, opened)),
                _ => self.idle().connections.clear(),
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle<C::Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timed_out(message: String) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message))
}

/// A check for [`Checked`]: refuses a server whose crash would lose acknowledged writes.
pub const DURABLE: &str = "SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
        OR current_setting('fsync') = 'off'
    THEN 'a crash would lose acknowledged writes: set fsync = on and synchronous_commit = on' END";

/// Connections with time limits of their own, each of whose servers is asked once whether it may be used: that it takes
/// writes, and that the session is ours and has the settings that we asked for.
pub struct Checked {
    options: PgConnectOptions,
    check: &'static str,
}

impl Pool<Checked> {
    /// For effects: at most `connections` at a time to `options`.
    ///
    /// `check` is the first statement on each connection, with one row of one text: why this server can't be used,
    /// or NULL. See [`DURABLE`].
    ///
    /// `limit` is how long the server itself lets a statement, a wait for a lock and an idle transaction take, so that
    /// what nobody waits for any more ends there too. A whole call gets 5 s more than that.
    ///
    /// # Panics
    /// If `connections` is 0.
    pub fn checked(
        options: &PgConnectOptions,
        connections: u32,
        limit: Duration,
        check: &'static str,
    ) -> Self {
        let millis = limit.as_millis().max(1).to_string();
        let options = options.clone().options(SETTINGS).options([
            ("statement_timeout", millis.as_str()),
            ("lock_timeout", millis.as_str()),
            ("idle_in_transaction_session_timeout", millis.as_str()),
            // A session whose client has gone while it waited for a lock ends soon: the number of sessions would else
            // not be bounded by that of our connections.
            ("client_connection_check_interval", "500ms"),
            // Fences read what others have committed meanwhile; a snapshot would hide it, or fail.
            ("default_transaction_isolation", "read committed"),
        ]);
        Self::new(Checked { options, check }, connections, limit.saturating_add(ANSWER_GRACE))
    }
}

impl Connect for Checked {
    type Connection = PgConnection;
    type Error = sqlx::Error;

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mark = SessionMark::random();
        let pooled = || {
            format!(
                "{POOLED}, which drops the settings that this program needs, its time limits among them, and lends its \
                 sessions to others: connect to the server itself"
            )
        };
        let refuse = |why: String| sqlx::Error::Configuration(why.into());
        let mut connection = match PgConnection::connect_with(&mark.on(&self.options)).await {
            Err(failed) if refuses_startup_options(&failed) => return Err(refuse(pooled())),
            connected => connected?,
        };
        // Not prepared: a pooler would confuse it with somebody else's. In this order: the check may write.
        let unfit = format!(
            "SELECT CASE WHEN NOT {} THEN '{}' WHEN {READ_ONLY} THEN '{}' ELSE ({}) END",
            mark.is_there(),
            pooled(),
            error::READ_ONLY,
            self.check
        );
        let row = sqlx::raw_sql(AssertSqlSafe(unfit)).fetch_one(&mut connection).await?;
        match row.try_get::<Option<String>, _>(0)? {
            Some(why) => Err(refuse(why)),
            None => Ok(connection),
        }
    }

    fn unavailable(&self, timed_out: sqlx::Error) -> sqlx::Error {
        timed_out
    }

    fn postgres(connection: &mut PgConnection) -> &mut PgConnection {
        connection
    }
}
