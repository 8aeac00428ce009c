//! The register: `observe` and `put_if`, each one statement.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Change, Connector, Hints, HistoryRow, LeaseBackend, LeaseName, Listed,
    Observation, PutOutcome, Record,
};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::config::PostgresConfig;
use crate::pool::Pool;
use crate::rows::{ServerState, floor, history_row, lease_name, observation};
use crate::server::{CallFailed, LeaseConnection, NewestTimeline, Server, refuse_lost_statements};
use crate::statements::{PgQuery, Statements, bind_put, is_beat, query, split};
use crate::{error, schema, watch};

/// PostgreSQL as a lease store.
pub struct Postgres {
    pool: Pool<Server>,
    /// A watch found a pooler in between.
    pooled: AtomicBool,
}

/// Connects a [`Postgres`] backend on the lease thread; see [`Postgres::connector`].
#[derive(Clone, Debug)]
pub struct PostgresConnector {
    config: PostgresConfig,
    newest: Arc<NewestTimeline>,
}

impl Postgres {
    /// For the elector. Nothing is opened yet.
    pub fn connector(config: PostgresConfig) -> PostgresConnector {
        PostgresConnector { config, newest: Arc::default() }
    }

    /// Opens the store on the present tokio runtime, and checks that it may hold leases.
    ///
    /// # Errors
    /// - refused, and the message says what to do: the tables are missing or too old (its source is
    ///   [`NotMigrated`](crate::NotMigrated)), a missing privilege, `synchronous_commit` or `fsync` off, an old primary,
    ///   a pooler that loses prepared statements, no synchronous standby although one was asked for;
    /// - not applied, and worth trying again: no connection, or a standby that may be promoted yet.
    ///
    /// Cancellation safe.
    pub async fn connect(config: PostgresConfig) -> Result<Self, BackendError> {
        Self::connector(config).open().await
    }

    fn config(&self) -> &PostgresConfig {
        &self.pool.connector().config
    }

    fn statements(&self) -> &Statements {
        &self.pool.connector().statements
    }

    /// As [`rows`](Self::rows), from a server that may be believed. One that may not costs its connection: the next call
    /// reaches whatever server the address leads to then.
    async fn believed(&self, context: &str, query: PgQuery<'_>) -> Result<Vec<PgRow>, BackendError> {
        let rows = self.pool.call(async |opened: &mut LeaseConnection| {
            let rows = query.fetch_all(&mut opened.connection).await?;
            for row in &rows {
                self.pool.connector().judge(&ServerState::of(row)?)?;
            }
            Ok::<_, CallFailed>(rows)
        });
        rows.await.map_err(|failed| failed.of_read(context))
    }

    /// All rows of a statement that changes nothing.
    async fn rows(&self, context: &str, query: PgQuery<'_>) -> Result<Vec<PgRow>, BackendError> {
        let rows = self.pool.call(async |opened: &mut LeaseConnection| {
            Ok::<_, CallFailed>(query.fetch_all(&mut opened.connection).await?)
        });
        rows.await.map_err(|failed| failed.of_read(context))
    }
}

/// What a row of a [believed](Postgres::believed) server shows.
fn shown(context: &str, row: &PgRow) -> Result<Observation, BackendError> {
    ServerState::of(row)
        .and_then(|state| observation(row, &state))
        .map_err(|failure| error::not_applied(context, failure))
}

/// A row that somebody has written by hand hides no other.
fn left_out<T>(context: &str, failure: &sqlx::Error) -> Option<T> {
    tracing::warn!(error = error::words(failure), "{context}: a row that can't be read is left out");
    None
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("config", self.config()).finish_non_exhaustive()
    }
}

impl PostgresConnector {
    async fn open(&self) -> Result<Postgres, BackendError> {
        let pool = Server::pool(self.config.clone(), self.newest.clone());
        schema::check(&pool).await?;
        refuse_lost_statements(&pool).await?;
        Ok(Postgres { pool, pooled: AtomicBool::new(false) })
    }
}

#[async_trait]
impl Connector for PostgresConnector {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(self.open().await?))
    }
}

#[async_trait]
impl LeaseBackend for Postgres {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let statement = query(&self.statements().observe).bind(name.as_str());
        let context = format!("reading lease {name}");
        let rows = self.believed(&context, statement).await?;
        let row = rows.first();
        shown(&context, row.ok_or_else(|| BackendError::not_applied("the server answered with no row"))?)
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let statement = query(self.statements().put(change, expected.record.is_some()));
        let statement = bind_put(statement, name, expected, record, change)?;
        let (system_id, timeline) = split(&expected.lineage);
        let written = self.pool.call(async |opened: &mut LeaseConnection| {
            if !is_beat(expected, change) {
                let row = statement.fetch_optional(&mut opened.connection).await?;
                Ok::<_, CallFailed>(row.map(|row| floor(&row, timeline)).transpose()?)
            } else if opened.system_id == system_id {
                let done = statement.execute(&mut opened.connection).await?;
                // It still had its tag, so nobody made a later epoch of it: the floor that was seen is high enough.
                Ok((done.rows_affected() == 1).then_some(expected.floor))
            } else {
                Ok(None)
            }
        });
        match written.await {
            Ok(Some(floor)) => {
                let (record, lineage) = (Some(record.clone()), expected.lineage.clone());
                Ok(PutOutcome::Written(Observation { record, lineage, floor, version: String::new() }))
            }
            Ok(None) => Ok(PutOutcome::Conflict(self.observe(name).await?)),
            Err(failed) => Err(failed.of_write(format!("writing lease {name} ({change:?})"))),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "postgres",
            watch: true,
            list: true,
            history: true,
            creates_registers: false,
            ttl_granularity: Duration::from_millis(1),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let context = "listing leases";
        let rows = self.believed(context, query(&self.statements().list).bind(prefix)).await?;
        let read = |row: &PgRow| match lease_name(row) {
            Ok(name) => {
                let seen = shown(&format!("reading lease {name}"), row);
                Some((name, seen))
            }
            // Nobody can ask for it by that name.
            Err(failure) => left_out(context, &failure),
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// LISTENs on a connection of its own. Wakes on releases, revocations and requests only.
    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        watch::hints(self.config(), &self.pooled, prefix).await
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let context = format!("reading the history of lease {name}");
        let statement = query(&self.statements().history).bind(name.as_str()).bind(i64::from(limit));
        let rows = self.rows(&context, statement).await?;
        let read = |row: &PgRow| match history_row(row) {
            Ok(row) => Some(row),
            Err(failure) => {
                let number = row.try_get::<i64, _>("history_id").unwrap_or_default();
                left_out(&format!("{context}, row {number}"), &failure)
            }
        };
        Ok(rows.iter().rev().filter_map(read).collect())
    }
}
