//! A fleet's home in a Postgres database.

use sqlx::{PgConnection, Row};

use super::{Home, KnownWork, Settlement};
use crate::database::{self, StoreError};

/// The SQLSTATE of a function that isn't there.
const UNDEFINED_FUNCTION: &str = "42883";

/// Makes the table and the functions, and names the work on `resource`. May be repeated.
///
/// # Errors
/// The database's.
pub async fn install(connection: &mut PgConnection, resource: &str) -> Result<(), StoreError> {
    database::migrate(connection, include_str!("postgres.sql")).await?;
    let sql = "INSERT INTO leasehold_homes (resource) VALUES ($1) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(resource).execute(connection).await?;
    Ok(())
}

/// What the database knows; `None` until [`install`] has run. Fails where nothing can be written.
///
/// # Errors
/// The database's.
pub async fn look(connection: &mut PgConnection, resource: &str) -> Result<Option<KnownWork>, StoreError> {
    let sql = "SELECT work, mode, lease, epoch FROM leasehold_home($1)";
    let row = match sqlx::query(sql).bind(resource).fetch_one(connection).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_FUNCTION) => {
            return Ok(None);
        }
        row => row?,
    };
    let Some(id) = row.try_get("work")? else { return Ok(None) };
    let home = row.try_get::<Option<String>, _>("mode")?.zip(row.try_get("lease")?);
    let mark = row.try_get::<Option<i64>, _>("epoch")?.and_then(|epoch| epoch.try_into().ok());
    Ok(Some(KnownWork { id, home: home.map(|(mode, lease)| Home { mode, lease }), mark }))
}

/// Whose term was just admitted is at home here. Where a statement admits it, `leasehold_settle` is part of that one.
///
/// # Errors
/// The work is at home elsewhere, or the database's. The transaction must be rolled back.
pub async fn settle(
    connection: &mut PgConnection,
    resource: &str,
    fleet: &Settlement,
) -> Result<(), StoreError> {
    let settle = sqlx::query("SELECT leasehold_settle($1, $2, $3, $4)").bind(resource);
    let settle = settle.bind(&fleet.home.mode).bind(&fleet.home.lease).bind(&fleet.from);
    Ok(settle.execute(connection).await.map(drop)?)
}

/// An operator's command: whoever comes next is at home. Returns the home that was forgotten. Needs the rights of the
/// table's owner.
///
/// # Errors
/// The database's.
pub async fn forget(connection: &mut PgConnection, resource: &str) -> Result<Option<Home>, StoreError> {
    let row: Option<(Option<String>, Option<String>)> = sqlx::query_as(
        "WITH known AS (SELECT mode, lease FROM leasehold_homes WHERE resource = $1 FOR UPDATE)
         UPDATE leasehold_homes SET mode = NULL, lease = NULL, settled_at = NULL FROM known WHERE resource = $1
         RETURNING known.mode, known.lease",
    )
    .bind(resource)
    .fetch_optional(connection)
    .await?;
    Ok(row.and_then(|(mode, lease)| mode.zip(lease)).map(|(mode, lease)| Home { mode, lease }))
}
