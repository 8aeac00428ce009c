//! Shared by the tests: one server per test binary, and a schema of its own for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::PostgresOptions;
use tokio::sync::OnceCell;

pub(crate) use lease_conformance::by_hand::*;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The server that all tests of one binary share.
pub(crate) async fn server() -> &'static lease_testbed::Postgres {
    static SERVER: OnceCell<lease_testbed::Postgres> = OnceCell::const_new();
    let start = async || lease_testbed::Postgres::start(PostgresOptions::default()).await;
    SERVER.get_or_init(async || start().await.expect("PostgreSQL starts")).await
}

/// A store in a schema of its own.
pub(crate) struct Store {
    pub(crate) server: &'static lease_testbed::Postgres,
    pub(crate) schema: String,
    pub(crate) config: PostgresConfig,
    pub(crate) backend: Postgres,
}

/// A fresh store on the shared server.
pub(crate) async fn store() -> anyhow::Result<Store> {
    let server = server().await;
    let schema = fresh_schema();
    let config = PostgresConfig::new(&server.url())?.schema(&schema)?;
    lease_postgres::migrate(&config).await?;
    let backend = Postgres::connect(config.clone()).await?;
    Ok(Store { server, schema, config, backend })
}

pub(crate) fn fresh_schema() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Store {
    /// As the superuser, with `{s}` for the schema.
    pub(crate) async fn psql(&self, sql: &str) -> anyhow::Result<String> {
        self.server.psql(&sql.replace("{s}", &self.schema)).await
    }
}

/// A plain session, past the backend.
pub(crate) async fn session(url: &str) -> sqlx::Result<sqlx::PgConnection> {
    <sqlx::PgConnection as sqlx::Connection>::connect(url).await
}
