//! Checks that the server has connections enough for the suite before anything starts, instead of failing fifty cases.

use anyhow::{Context, bail};
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};

/// The largest case's connections: ten shared ones of three each, its own, and an administrator's.
const ONE_CASE: i64 = 48;
/// The connections that each further case adds: most have far fewer, and two of the largest rarely meet.
const EACH_FURTHER: i64 = 9;
/// More cases at once would gain little time, and overload small machines.
const MOST: i64 = 8;

/// The number of cases that may run at once.
///
/// # Errors
/// Not even one may: the message names the setting, its value, and what to do.
pub(super) async fn parallel_cases(
    worker: &PgConnectOptions,
    admin: &PgConnectOptions,
) -> anyhow::Result<usize> {
    let reach = "cannot reach the server";
    let (free, limit) = free(worker).await.context(reach)?;
    PgConnection::connect_with(admin).await.context(reach)?.close().await?;
    if free < ONE_CASE {
        bail!(
            "{limit} leaves room for {free} more connections of this role: the suite needs at least {ONE_CASE} \
             at once; raise it, or end what else is connected, or leave out --url to have a server started"
        );
    }
    Ok((1 + (free - ONE_CASE) / EACH_FURTHER).min(MOST) as usize)
}

/// The number of connections that the role may still open, and the setting that limits it.
async fn free(worker: &PgConnectOptions) -> Result<(i64, String), sqlx::Error> {
    let mut connection = PgConnection::connect_with(worker).await?;
    let limits: Vec<(String, i64)> = sqlx::query_as(
        "SELECT format('max_connections = %s', m.setting),
                m.setting::int8 - (SELECT sum(r.setting::int8)::int8 FROM pg_settings r
                                   WHERE r.name IN ('superuser_reserved_connections', 'reserved_connections'))
                - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
         FROM pg_settings m WHERE m.name = 'max_connections'
         UNION ALL
         SELECT format('the connection limit of the role %I = %s', rolname, rolconnlimit),
                rolconnlimit - (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname)
         FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0 AND NOT rolsuper
         UNION ALL
         SELECT format('the connection limit of the database %I = %s', d.datname, datconnlimit),
                datconnlimit - (SELECT count(*) FROM pg_stat_activity a WHERE a.datname = d.datname)
         FROM pg_database d JOIN pg_roles ON rolname = current_user
         WHERE d.datname = current_database() AND datconnlimit >= 0 AND NOT rolsuper",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    // Our own is in the counts.
    let smallest = limits.into_iter().min_by_key(|(_, free)| *free).expect("max_connections is always there");
    Ok((smallest.1 + 1, smallest.0))
}
