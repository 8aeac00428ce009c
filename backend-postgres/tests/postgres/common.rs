//! Shared by the tests: one server per test binary, and a schema of its own for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lease_core::writes::{self, Candidate, Fresh};
use lease_core::{Change, LeaseBackend, LeaseName, Observation, PutOutcome, Record};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::PostgresOptions;
use tokio::sync::OnceCell;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const TTL: Duration = Duration::from_secs(15);

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

pub(crate) fn name(text: &str) -> LeaseName {
    LeaseName::new(text).expect("a valid name")
}

pub(crate) fn candidate(holder: &str) -> Candidate {
    Candidate {
        holder: holder.to_owned(),
        region: "here".to_owned(),
        ttl: TTL,
        max_ttl: TTL,
        preemptible: false,
    }
}

/// The observation that a put left, which must have written.
pub(crate) fn written(outcome: PutOutcome) -> Observation {
    match outcome {
        PutOutcome::Written(observation) => observation,
        PutOutcome::Conflict(found) => panic!("a conflict: {found:?}"),
    }
}

/// The observation that a put found, which must not have written.
pub(crate) fn conflict(outcome: PutOutcome) -> Observation {
    match outcome {
        PutOutcome::Conflict(observation) => observation,
        PutOutcome::Written(wrote) => panic!("it was written: {wrote:?}"),
    }
}

pub(crate) fn record(observation: &Observation) -> &Record {
    observation.record.as_ref().expect("a register")
}

/// A free register, made on what is there now.
pub(crate) async fn init(backend: &dyn LeaseBackend, lease: &LeaseName) -> anyhow::Result<Observation> {
    let absent = backend.observe(lease).await?;
    let free = writes::init(&absent, TTL, 0, None, &Fresh::random());
    Ok(written(backend.put_if(lease, &absent, &free, Change::Init).await?))
}

pub(crate) fn acquired(seen: &Observation, holder: &str) -> Record {
    let fresh = Fresh::random();
    writes::acquire(seen, record(seen), &candidate(holder), fresh.grant, &fresh)
}

pub(crate) async fn acquire(
    backend: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
    holder: &str,
) -> anyhow::Result<Observation> {
    Ok(written(backend.put_if(lease, seen, &acquired(seen, holder), Change::Acquire).await?))
}

pub(crate) fn renewed(seen: &Observation) -> Record {
    writes::renew(seen, record(seen), &Fresh::random())
}

pub(crate) fn released(seen: &Observation) -> Record {
    writes::release(seen, record(seen), &Fresh::random())
}

pub(crate) async fn renew(
    backend: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
) -> anyhow::Result<Observation> {
    Ok(written(backend.put_if(lease, seen, &renewed(seen), Change::Renew).await?))
}

pub(crate) async fn release(
    backend: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
) -> anyhow::Result<Observation> {
    Ok(written(backend.put_if(lease, seen, &released(seen), Change::Release).await?))
}
