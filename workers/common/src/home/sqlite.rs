//! A fleet's home in an SQLite database. Each function runs in the caller's transaction.

use sqlx::{Row, SqliteConnection};

use super::{Home, KnownWork, Settlement};
use crate::database::StoreError;

/// Makes the table, and names the work on `resource`. May be repeated.
///
/// # Errors
/// The database's.
pub async fn install(connection: &mut SqliteConnection, resource: &str) -> Result<(), StoreError> {
    sqlx::raw_sql(include_str!("sqlite.sql")).execute(&mut *connection).await?;
    let sql = "INSERT OR IGNORE INTO leasehold_homes (resource, work) VALUES (?, lower(hex(randomblob(16))))";
    sqlx::query(sql).bind(resource).execute(connection).await?;
    Ok(())
}

/// What the database knows; `None` until [`install`] has run.
///
/// # Errors
/// The database's.
pub async fn look(
    connection: &mut SqliteConnection,
    resource: &str,
) -> Result<Option<KnownWork>, StoreError> {
    let sql = "SELECT work, mode, lease, epoch FROM leasehold_homes LEFT JOIN leasehold_fence_marks USING (resource)
               WHERE resource = ?";
    let row = sqlx::query(sql).bind(resource).fetch_optional(connection).await?;
    let known = row.map(|row| {
        let home = row.try_get::<Option<String>, _>("mode")?.zip(row.try_get("lease")?);
        let mark = row.try_get::<Option<i64>, _>("epoch")?.and_then(|epoch| epoch.try_into().ok());
        Ok::<_, StoreError>(KnownWork {
            id: row.try_get("work")?,
            home: home.map(|(mode, lease)| Home { mode, lease }),
            mark,
        })
    });
    known.transpose()
}

/// Whose term was just admitted is at home here.
///
/// # Errors
/// The work is at home elsewhere, or the database's. The transaction must be rolled back.
pub async fn settle(
    connection: &mut SqliteConnection,
    resource: &str,
    fleet: &Settlement,
) -> Result<(), StoreError> {
    let Some(known) = look(connection, resource).await? else { return Err(StoreError::NotMigrated) };
    if fleet.is_at(&known) {
        return Ok(());
    }
    if known.home.is_some_and(|home| !fleet.may_take(&home)) {
        return Err(StoreError::LedElsewhere);
    }
    let sql = "UPDATE leasehold_homes
               SET mode = ?, lease = ?, settled_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE resource = ?";
    let settled = sqlx::query(sql).bind(&fleet.home.mode).bind(&fleet.home.lease).bind(resource);
    settled.execute(connection).await?;
    Ok(())
}

/// An operator's command: whoever comes next is at home. Returns the home that was forgotten.
///
/// # Errors
/// The database's.
pub async fn forget(connection: &mut SqliteConnection, resource: &str) -> Result<Option<Home>, StoreError> {
    let known = look(connection, resource).await?;
    let sql = "UPDATE leasehold_homes SET mode = NULL, lease = NULL, settled_at = NULL WHERE resource = ?";
    sqlx::query(sql).bind(resource).execute(connection).await?;
    Ok(known.and_then(|known| known.home))
}
