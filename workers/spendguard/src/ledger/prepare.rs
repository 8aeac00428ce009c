//! An operator's changes of the ledger's database: tables, scopes, budgets, the end of a term. Each may be repeated.

use std::time::Duration;

use lease_worker_common::database::{self, StoreError};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::store::LedgerStore;
use crate::outbox::Outbox;
use crate::outbox::PostgresOutbox;
use lease_postgres::Fence;

/// The longest wait of a revocation behind the holder's writes.
const REVOKE_LIMIT: Duration = Duration::from_secs(10);

/// Makes or upgrades the ledger's tables and functions, the audit outbox's among them, in the schema `public`.
///
/// # Errors
/// The database's; what was made stays, and may be made again.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), StoreError> {
    PostgresOutbox::open(options, Duration::from_secs(60)).migrate().await?;
    let mut connection = options.connect().await?;
    Fence::new("any").install(&mut connection).await?;
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
    let mut connection: PgConnection = options.connect().await?;
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
    let mut connection: PgConnection = options.connect().await?;
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
