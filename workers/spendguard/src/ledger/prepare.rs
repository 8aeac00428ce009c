//! An operator's changes of the ledger's database: tables, scopes, budgets, the end of a term. Each may be repeated.

use std::time::Duration;

use anyhow::Context;
use lease_core::Term;
use lease_worker_common::database::{self, StoreError};
use lease_worker_common::home;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::PREPARE_LIMIT;
use super::store::LedgerStore;
use crate::outbox::Outbox;
use crate::outbox::PostgresOutbox;
use crate::sweeper::store::RESOURCE;
use lease_postgres::pool::{DURABLE, Pool};
use lease_postgres::{Fence, url};

/// The longest wait of a revocation behind the holder's writes.
const REVOKE_LIMIT: Duration = Duration::from_secs(10);

/// Of which the same is asked as of a ledger's own (0066).
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let options = url::named(options.clone(), "leasehold ledger");
    Pool::checked(&options, 1, PREPARE_LIMIT, DURABLE).open().await
}

/// Makes or upgrades the ledger's tables and functions, the audit outbox's among them, in the schema `public`.
///
/// # Errors
/// The database's; what was made stays, and may be made again.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), StoreError> {
    PostgresOutbox::open(options, Duration::from_secs(60)).migrate().await?;
    let mut connection = connect(options).await?;
    Fence::new("any").install(&mut connection).await?;
    home::postgres::install(&mut connection, RESOURCE).await?;
    database::migrate(&mut connection, include_str!("sql/scopes.sql")).await?;
    database::migrate(&mut connection, include_str!("sql/reservations.sql")).await?;
    database::migrate(&mut connection, include_str!("sql/retention.sql")).await?;
    Ok(connection.close().await?)
}

/// Makes a fencing scope of a tenant.
///
/// # Errors
/// The database's, or that the scope is another tenant's.
pub async fn add_scope(options: &PgConnectOptions, scope: &str, tenant: &str) -> anyhow::Result<()> {
    let mut connection = connect(options).await?;
    sqlx::query(
        "INSERT INTO fencing_scopes (fencing_scope_id, tenant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    )
    .bind(scope)
    .bind(tenant)
    .execute(&mut connection)
    .await?;
    let owner: String =
        sqlx::query_scalar("SELECT tenant_id FROM fencing_scopes WHERE fencing_scope_id = $1")
            .bind(scope)
            .fetch_one(&mut connection)
            .await?;
    anyhow::ensure!(owner == tenant, "fencing scope {scope} is tenant {owner}'s: choose another name");
    Ok(connection.close().await?)
}

/// Sets a tenant's budget in one currency. Below what is reserved or spent already, it only keeps more from being
/// reserved.
///
/// # Errors
/// The database's.
pub async fn set_budget(
    options: &PgConnectOptions,
    tenant: &str,
    currency: &str,
    limit_minor: i64,
) -> anyhow::Result<()> {
    let mut connection = connect(options).await?;
    sqlx::query(
        "INSERT INTO budgets (tenant_id, currency, limit_minor) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, currency) DO UPDATE SET limit_minor = excluded.limit_minor",
    )
    .bind(tenant)
    .bind(currency)
    .bind(limit_minor)
    .execute(&mut connection)
    .await?;
    Ok(connection.close().await?)
}

/// Ends whatever term there is on a scope; returns its epoch from now on, and who held it. Its holder's writes are
/// refused from then on, and whoever waits for the scope is told.
///
/// # Errors
/// The database's, or that the tenant has no such scope. After the former it may have been done all the same: repeat
/// it, which ends whatever term has begun meanwhile. So it is if the future is dropped.
pub async fn revoke_scope(
    options: &PgConnectOptions,
    scope: &str,
    tenant: &str,
    by: &str,
) -> anyhow::Result<(i64, Option<String>)> {
    let note = format!("revoked by {by}");
    Ok(LedgerStore::open(options, 1, REVOKE_LIMIT).revoke(scope, tenant, &note).await?)
}

/// The repair of a scope that nobody can hold, or that claims an epoch which no term ever had.
pub struct ScopeLowering<'a> {
    /// The scope.
    pub scope: &'a str,
    /// Its tenant.
    pub tenant: &'a str,
    /// Its epoch from now on: the next term has one more.
    pub epoch: u64,
    /// The name of whoever does it, for audits.
    pub by: &'a str,
}

/// Sets a scope's epoch back, never below what its events say was issued up to [`Term::MAX_ABOVE`], where no scope comes by
/// itself. Whatever term there is ends, and a row in `fencing_scope_events` tells who did it. Returns the epoch before.
///
/// # Errors
/// The database's, or what keeps it from being set back. Repeated, it changes nothing.
pub async fn lower_scope(options: &PgConnectOptions, how: &ScopeLowering<'_>) -> anyhow::Result<i64> {
    let ScopeLowering { scope, tenant, epoch, by } = how;
    let (to, real) = (i64::try_from(*epoch)?, i64::try_from(Term::MAX_ABOVE)?);
    let mut connection = connect(options).await?;
    let mut change = connection.begin().await?;
    // In the order in which every change of holder takes its locks.
    sqlx::query("SELECT pg_advisory_xact_lock(ledger_scope_lock($1))")
        .bind(scope)
        .execute(&mut *change)
        .await?;
    let found: Option<(i64, Option<i64>)> = sqlx::query_as(
        "SELECT current_epoch, (SELECT max(new_epoch) FROM fencing_scope_events event
                                WHERE event.fencing_scope_id = scope.fencing_scope_id AND new_epoch <= $3)
         FROM fencing_scopes scope WHERE fencing_scope_id = $1 AND tenant_id = $2 FOR UPDATE",
    )
    .bind(scope)
    .bind(tenant)
    .bind(real)
    .fetch_optional(&mut *change)
    .await?;
    let (before, issued) = found.context("the tenant has no such scope")?;
    let issued = issued.unwrap_or(0);
    anyhow::ensure!(to >= issued, "its events say that epoch {issued} was issued: use at least that");
    anyhow::ensure!(
        to < before,
        "it is at epoch {before}: it can only be set back, and {to} is not below that"
    );
    sqlx::query(
        "UPDATE fencing_scopes SET current_epoch = $2, current_holder_instance_id = NULL, current_grant = NULL,
                ttl_expires_at = NULL WHERE fencing_scope_id = $1",
    )
    .bind(scope)
    .bind(to)
    .execute(&mut *change)
    .await?;
    sqlx::query(
        "INSERT INTO fencing_scope_events (fencing_scope_id, tenant_id, old_epoch, new_epoch, action, note)
         VALUES ($1, $2, $3, $4, 'revoke', $5)",
    )
    .bind(scope)
    .bind(tenant)
    .bind(before)
    .bind(to)
    .bind(format!("epoch set back by {by}"))
    .execute(&mut *change)
    .await?;
    sqlx::query("SELECT pg_notify('leasehold_fencing_scopes', $1)").bind(scope).execute(&mut *change).await?;
    change.commit().await?;
    connection.close().await?;
    Ok(before)
}
