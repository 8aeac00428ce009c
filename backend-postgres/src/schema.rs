//! The tables: made by `migrate`, checked by every connection's owner, granted by `roles.sql`.

use std::time::Duration;

use lease_core::BackendError;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::time::{Instant, sleep};

use crate::config::{PostgresConfig, Schema};
use crate::error::{NotMigrated, not_applied};
use crate::pool::Pool;
use crate::server::{CallFailed, LeaseConnection, Server};
use crate::statements::query;
use crate::url;

/// Makes a role that may hold leases and nothing else:
/// `psql -v role=leasehold -v schema=public -f roles.sql`, run by the tables' owner after [`migrate`].
pub const ROLES_SQL: &str = include_str!("../roles.sql");

/// The migrations that make the fence, and what the tables beside it need; each may be run again.
pub(crate) const FENCE: [&str; 4] = [
    include_str!("../migrations/0002_fence.sql"),
    include_str!("../migrations/0003_fence_ceiling.sql"),
    include_str!("../migrations/0006_counters.sql"),
    include_str!("../migrations/0007_old_rows.sql"),
];

/// Each is applied once, in this order; a released one never changes.
const MIGRATIONS: [&str; 8] = [
    include_str!("../migrations/0001_leases.sql"),
    FENCE[0],
    FENCE[1],
    include_str!("../migrations/0004_what_programs_write.sql"),
    include_str!("../migrations/0005_restored.sql"),
    FENCE[2],
    FENCE[3],
    include_str!("../migrations/0008_counters_and_history.sql"),
];

/// Lifts all counters, which may be behind their tables again: an insert does so first, also one of no row.
const LIFT_COUNTERS: &str = "
    INSERT INTO {schema}.coordination_leases (lease_name) SELECT '' WHERE false;
    INSERT INTO {schema}.coordination_lease_history (lease_name) SELECT '' WHERE false;
    INSERT INTO {schema}.leasehold_fence_lowerings (resource) SELECT '' WHERE false";

/// The longest wait for others, who make tables or read them.
const PATIENCE: Duration = Duration::from_secs(60);

/// A change of a table waits for its readers, a backup for example, and holders' reads and renewals wait behind it. So
/// it waits for no longer than this at a time, and lets them through before it tries again.
const TURN: Duration = Duration::from_millis(500);

/// Makes or upgrades the tables in the configured schema (and the schema), in one transaction, lifts their counters, and
/// writes the configured history retention. Returns the schema's version.
///
/// Any number of processes may do so at once; once done, it changes nothing. Programs that only hold leases don't
/// need it: they run as a role that may not create tables ([`ROLES_SQL`]).
///
/// # Errors
/// Nothing is applied then. Refused if the role may not create tables. Cancellation safe, in the sense that an
/// abandoned transaction either commits as a whole or not at all.
pub async fn migrate(config: &PostgresConfig) -> Result<i32, BackendError> {
    let at = url::shown(&config.options);
    let context = format!("making the lease tables in schema {} of {at}", config.schema.name());
    let failed = |failure| not_applied(context.clone(), failure);
    let mut connection = PgConnection::connect_with(&config.options).await.map_err(failed)?;
    let give_up_at = Instant::now() + PATIENCE;
    let version = loop {
        match apply(&mut connection, config).await {
            Err(error) if is_in_use(&error) && Instant::now() < give_up_at => sleep(TURN).await,
            applied => break applied.map_err(failed)?,
        }
    };
    connection.close().await.map_err(failed)?;
    Ok(version)
}

async fn apply(connection: &mut PgConnection, config: &PostgresConfig) -> Result<i32, sqlx::Error> {
    let schema = &config.schema;
    let mut tx = connection.begin().await?;
    one_at_a_time(&mut tx).await?;
    let turn = format!("SET LOCAL lock_timeout = '{}ms'", TURN.as_millis());
    sqlx::raw_sql(AssertSqlSafe(turn)).execute(&mut *tx).await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL")
        .bind(schema.name())
        .persistent(false)
        .fetch_one(&mut *tx)
        .await?;
    if !exists {
        // Not IF NOT EXISTS, which asks for the privilege even where there is nothing to do.
        run(&mut tx, schema, "CREATE SCHEMA {schema}").await?;
    }
    run(
        &mut tx,
        schema,
        "CREATE TABLE IF NOT EXISTS {schema}.leasehold_schema \
         (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
    )
    .await?;
    let version = schema.render("SELECT coalesce(max(version), 0) FROM {schema}.leasehold_schema");
    let mut version: i32 =
        sqlx::query_scalar(AssertSqlSafe(version)).persistent(false).fetch_one(&mut *tx).await?;
    for migration in MIGRATIONS.iter().skip(version.max(0) as usize) {
        version += 1;
        run(&mut tx, schema, migration).await?;
        run(
            &mut tx,
            schema,
            &format!("INSERT INTO {{schema}}.leasehold_schema (version) VALUES ({version})"),
        )
        .await?;
    }
    run(&mut tx, schema, LIFT_COUNTERS).await?;
    if let Some(retention) = config.history_retention {
        let seconds = retention.as_secs();
        let set = format!(
            "UPDATE {{schema}}.leasehold_settings SET history_retention = make_interval(secs => {seconds})"
        );
        run(&mut tx, schema, &set).await?;
    }
    tx.commit().await?;
    Ok(version)
}

/// Serialises those who make tables; freed with the transaction, so it holds through poolers too.
pub(crate) async fn one_at_a_time(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // The other may take its time, and so may a table that is in use.
    let lock = format!(
        "SET LOCAL lock_timeout = '{}s'; SELECT pg_advisory_xact_lock(7810759524420219996)",
        PATIENCE.as_secs()
    );
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *connection).await?;
    Ok(())
}

fn is_in_use(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("55P03")
}

/// Runs statements of ours.
pub(crate) async fn run(
    connection: &mut PgConnection,
    schema: &Schema,
    sql: &str,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(schema.render(sql))).execute(connection).await.map(drop)
}

/// Are the tables there, and new enough? Later versions keep what earlier programs need.
pub(crate) async fn check(pool: &Pool<Server>) -> Result<(), BackendError> {
    let Server { config, statements, .. } = pool.connector();
    let context = format!("looking for the tables in schema {}", config.schema.name());
    let version = pool.call(async |opened: &mut LeaseConnection| {
        let row = query(&statements.schema_version).fetch_one(&mut opened.connection).await?;
        Ok::<Option<i32>, CallFailed>(row.try_get("version")?)
    });
    match version.await.map_err(|failed| failed.of_read(context.as_str()))? {
        Some(version) if version as usize >= MIGRATIONS.len() => Ok(()),
        found => {
            let (found, needed) = (found.unwrap_or(0), MIGRATIONS.len());
            Err(NotMigrated::refusal(
                format!("{context}: version {found} was found, {needed} is needed"),
                None,
            ))
        }
    }
}
