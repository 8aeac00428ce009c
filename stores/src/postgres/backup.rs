//! One register's row, as pg_dump and pg_restore would have it.

use lease_core::LeaseName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::PostgresPlace;

/// The whole row, as JSON.
pub(super) async fn back_up(place: &PostgresPlace, lease: &LeaseName) -> anyhow::Result<Vec<u8>> {
    let sql = format!(
        "SELECT to_jsonb(l)::text FROM {}.coordination_leases l WHERE lease_name = '{lease}'",
        place.schema
    );
    let mut administrator = PgConnection::connect_with(&place.admin()?).await?;
    let row: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut administrator).await?;
    administrator.close().await?;
    Ok(row.into())
}

/// The old row in the place of the present one.
pub(super) async fn put_back(place: &PostgresPlace, lease: &LeaseName, kept: &[u8]) -> anyhow::Result<()> {
    let (schema, row) = (&place.schema, str::from_utf8(kept)?);
    let sql = format!(
        "BEGIN; SET LOCAL leasehold.allow_delete = on;
         DELETE FROM {schema}.coordination_leases WHERE lease_name = '{lease}';
         INSERT INTO {schema}.coordination_leases
             SELECT * FROM jsonb_populate_record(NULL::{schema}.coordination_leases, $row${row}$row$::jsonb);
         COMMIT"
    );
    place.as_admin(&sql).await
}
