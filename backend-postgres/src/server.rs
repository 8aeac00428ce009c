//! The servers that the lease store accepts, and the preparation that makes a fresh connection fast.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lease_core::internal::writes::{self, Fresh};
use lease_core::{BackendError, Change, LeaseName};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};

use crate::config::PostgresConfig;
use crate::error;
use crate::pool::{CallError, Connect, Pool, raised_by_statement};
use crate::rows::ServerState;
use crate::session::SETTINGS;
use crate::statements::{Statements, bind_put, query};
use crate::url;

/// A call without an answer for longer is given up; the elector limits its own calls sooner (U-1).
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The server that holds the leases.
pub(crate) struct Server {
    pub(crate) config: PostgresConfig,
    pub(crate) statements: Statements,
    options: PgConnectOptions,
    /// A pooler in between refused `options` at start-up.
    plain: AtomicBool,
    advised: AtomicBool,
    newest: Arc<NewestTimeline>,
}

/// A connection whose server was accepted.
pub(crate) struct LeaseConnection {
    pub(crate) connection: PgConnection,
    pub(crate) system_id: String,
    pub(crate) pid: i32,
}

/// The greatest timeline seen under a system identifier, kept over reconnections.
#[derive(Debug, Default)]
pub(crate) struct NewestTimeline(Mutex<Option<(String, u64)>>);

/// A failed call on the server.
pub(crate) enum CallFailed {
    /// No statement was sent.
    NotConnected(BackendError),
    Statement(sqlx::Error),
}

impl CallFailed {
    /// Of a call that changes nothing.
    pub(crate) fn of_read(self, context: impl Into<String>) -> BackendError {
        match self {
            Self::NotConnected(error) => error,
            Self::Statement(error) => error::not_applied(context, error),
        }
    }

    pub(crate) fn of_write(self, context: impl Into<String>) -> BackendError {
        match self {
            Self::NotConnected(error) => error,
            Self::Statement(error) => error::of_write(context, error),
        }
    }
}

impl From<BackendError> for CallFailed {
    fn from(error: BackendError) -> Self {
        Self::NotConnected(error)
    }
}

impl From<sqlx::Error> for CallFailed {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement(error)
    }
}

impl CallError for CallFailed {
    fn raised_by_statement(&self) -> bool {
        matches!(self, Self::Statement(error) if raised_by_statement(error))
    }
}

impl Server {
    /// A pool of connections to it.
    pub(crate) fn pool(config: PostgresConfig, newest: Arc<NewestTimeline>) -> Pool<Self> {
        let own_limit = config.options.get_options().is_some_and(|options| options.contains("lock_timeout"));
        // Each statement is planned once, when a connection is opened.
        let options = config.options.clone().options(SETTINGS);
        let options = options.options([("plan_cache_mode", "force_generic_plan")]);
        let options = match own_limit {
            true => options,
            // U-5: the server itself gives up what nobody waits for any more.
            false => options.options([("lock_timeout", config.lock_timeout.as_millis().to_string())]),
        };
        let (connections, limit) = (config.pool_size, ANSWER_LIMIT + config.lock_timeout);
        let server = Self {
            statements: Statements::new(&config),
            options,
            plain: AtomicBool::new(false),
            advised: AtomicBool::new(false),
            newest,
            config,
        };
        Pool::new(server, connections, limit)
    }

    fn failed(&self, error: sqlx::Error) -> BackendError {
        error::not_applied(format!("connecting to {}", url::shown(&self.config.options)), error)
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        if !self.plain.load(Ordering::Relaxed) {
            match PgConnection::connect_with(&self.options).await {
                Err(error) if error::refuses_startup_options(&error) => {
                    self.plain.store(true, Ordering::Relaxed);
                }
                opened => return opened,
            }
        }
        PgConnection::connect_with(&self.config.options).await
    }

    /// Tells an operator once what the server's settings mean.
    fn advise(&self, state: &ServerState) {
        if self.advised.swap(true, Ordering::Relaxed) {
            return;
        }
        let at = url::shown(&self.config.options);
        if state.lock_timeout == "0" {
            tracing::warn!(
                server = at,
                "no lock_timeout: statements that nobody waits for would pile up behind a locked row; \
                 run ALTER ROLE {} SET lock_timeout = '1s'",
                self.config.options.get_username(),
            );
        }
        if !state.waits_for_standby() {
            tracing::info!(
                server = at,
                "commits do not wait for a synchronous standby: after a failover to another server two may lead \
                 for a while, and only fenced effects are safe then"
            );
        }
    }

    /// A server's new process reads catalogs, plans, and compiles the history's trigger when it first acquires:
    /// milliseconds that a hand-over would wait for. So it holds a lease of its own once, in a transaction that is
    /// rolled back: nobody sees its name, which no other connection has, and nothing waits for the disk. An epoch and
    /// a few history numbers are used up (E-1: gaps are normal).
    async fn rehearse(&self, connection: &mut PgConnection, state: &ServerState) -> Result<(), sqlx::Error> {
        let mut rehearsal = connection.begin().await?;
        let mut expected = state.observation_of_nothing();
        let name = LeaseName::new(format!("rehearsal-{}", Fresh::random().tag)).expect("a valid name");
        for change in [Change::Init, Change::Acquire, Change::Renew, Change::Release] {
            let fresh = Fresh::random();
            let record = writes::init(&expected, Duration::from_secs(1), 0, Some(fresh.grant), &fresh);
            let statement = query(self.statements.put(change, expected.record.is_some()));
            bind_put(statement, &name, &expected, &record, change)
                .map_err(|invalid| sqlx::Error::Encode(invalid.into()))?
                .execute(&mut *rehearsal)
                .await?;
            expected.record = Some(record);
        }
        rehearsal.rollback().await
    }

    /// May this server hold leases (PG-1, R-2)? A read-only one can't now.
    pub(crate) fn judge(&self, state: &ServerState) -> Result<(), BackendError> {
        let refuse = |why: String| Err(BackendError::refused(why));
        let at = url::shown(&self.config.options);
        let user = self.config.options.get_username();
        if state.read_only {
            return Err(BackendError::not_applied(format!("{at}: {}", error::READ_ONLY)));
        }
        if state.fsync != "on" {
            return refuse(format!(
                "{at} runs with fsync = off, so a crash loses acknowledged beats; set fsync = on"
            ));
        }
        if state.synchronous_commit == "off" {
            return refuse(format!(
                "synchronous_commit is off for {user} at {at}, so a crash loses acknowledged beats; \
                 run ALTER ROLE {user} SET synchronous_commit = on"
            ));
        }
        if self.config.synchronous_replication && !state.waits_for_standby() {
            return refuse(format!(
                "commits at {at} do not wait for a synchronous standby, which require_synchronous_replication asks \
                 for; set synchronous_standby_names, and synchronous_commit = on"
            ));
        }
        let number = state.timeline_number;
        let mut newest = self.newest.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *newest {
            Some((system_id, newest)) if *system_id == state.system_id => {
                if number < *newest {
                    return refuse(format!(
                        "{at} is on timeline {number}, and timeline {newest} of the same cluster was seen before: \
                         this is an old primary; shut it down, and connect to the present one; or, if the cluster was \
                         restored to before a promotion, start this process again"
                    ));
                }
                *newest = number;
            }
            other => *other = Some((state.system_id.clone(), number)),
        }
        Ok(())
    }
}

impl Connect for Server {
    type Connection = LeaseConnection;
    type Error = BackendError;

    async fn connect(&self) -> Result<LeaseConnection, BackendError> {
        let mut connection = self.open().await.map_err(|error| self.failed(error))?;
        let row = query(&self.statements.observe).bind("").fetch_one(&mut connection).await;
        let state = row.and_then(|row| ServerState::of(&row)).map_err(|error| self.failed(error))?;
        self.judge(&state)?;
        self.rehearse(&mut connection, &state).await.map_err(|error| self.failed(error))?;
        self.advise(&state);
        Ok(LeaseConnection { connection, system_id: state.system_id, pid: state.pid })
    }

    fn unavailable(&self, timed_out: sqlx::Error) -> BackendError {
        self.failed(timed_out)
    }

    fn postgres(opened: &mut LeaseConnection) -> &mut PgConnection {
        &mut opened.connection
    }
}

/// Refuses a transaction pooler that loses prepared statements, as far as it shows now: the first statement that is lost
/// later is refused as well. It can't be certain that there is no pooler; [`Listener`](crate::listen::Listener) is.
///
/// Two connections: while the second keeps a server's connection to itself by a transaction, the first must
/// find its statement on whatever server's connection it is given now.
pub(crate) async fn refuse_lost_statements(pool: &Pool<Server>) -> Result<(), BackendError> {
    let probed = pool.call(async |first: &mut LeaseConnection| {
        // Not of the pool: one connection is enough while calls don't overlap, and a server's process costs memory.
        let mut second = pool.open().await?;
        let mut apart = second.connection.begin().await?;
        let row = sqlx::raw_sql("SELECT pg_backend_pid() AS pid").fetch_one(&mut *apart).await?;
        // A pooler's only connection to the server would not come back to the first.
        if row.try_get::<i32, _>("pid")? != first.pid {
            query(&pool.connector().statements.observe).bind("").fetch_one(&mut first.connection).await?;
        }
        apart.rollback().await?;
        Ok::<_, CallFailed>(())
    });
    probed.await.map_err(|failed| failed.of_read("looking for a pooler"))
}
