//! A renewal against a bare sqlx UPDATE of the same row, on a real Postgres that really syncs its log.

use std::time::Instant;

use lease_core::writes::{self, Candidate, Fresh};
use lease_core::{Change, LeaseBackend, LeaseName, Observation, PutOutcome, admin};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Postgres as Server, PostgresOptions};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

use crate::paired::{BarResult, Samples, judge};

const TURNS: usize = 1500;
const TTL: Duration = Duration::from_secs(15);

/// Takes the lease `name` in a fresh schema; what an elector does first.
pub(crate) async fn held(backend: &dyn LeaseBackend, name: &LeaseName) -> anyhow::Result<Observation> {
    let (seen, _) = admin::init(backend, name, admin::Init { new: true, above: 0, max_ttl: TTL }).await?;
    let who = Candidate {
        holder: "bench".into(),
        region: String::new(),
        ttl: TTL,
        max_ttl: TTL,
        preemptible: false,
    };
    let before = seen.record.clone().expect("init makes it");
    let fresh = Fresh::random();
    put(backend, name, &seen, writes::acquire(&seen, &before, &who, fresh.grant, &fresh), Change::Acquire)
        .await
}

/// One write that must apply.
pub(crate) async fn put(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    seen: &Observation,
    record: lease_core::Record,
    change: Change,
) -> anyhow::Result<Observation> {
    match backend.put_if(name, seen, &record, change).await? {
        PutOutcome::Written(written) => Ok(written),
        PutOutcome::Conflict(_) => anyhow::bail!("nobody else writes here"),
    }
}

/// The next beat.
pub(crate) async fn renew(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    seen: &Observation,
) -> anyhow::Result<Observation> {
    let before = seen.record.as_ref().expect("held");
    put(backend, name, seen, writes::renew(seen, before, &Fresh::random()), Change::Renew).await
}

pub(crate) async fn renewal() -> anyhow::Result<BarResult> {
    let server = Server::start(PostgresOptions::default()).await?;
    let config = PostgresConfig::new(&server.url())?;
    lease_postgres::migrate(&config).await?;
    let backend = Postgres::connect(config).await?;
    let name = LeaseName::new("bench")?;
    let mut seen = held(&backend, &name).await?;
    let mut bare = PgConnection::connect(&server.url()).await?;

    let (mut ours, mut reference) = (Samples::default(), Samples::default());
    for turn in 0..TURNS + 100 {
        let start = Instant::now();
        let done = sqlx::query("UPDATE coordination_leases SET renewed_at = now() WHERE lease_name = $1")
            .bind(name.as_str())
            .execute(&mut bare)
            .await?;
        let bare_took = start.elapsed();
        anyhow::ensure!(done.rows_affected() == 1, "the reference updates the same row");

        let start = Instant::now();
        seen = renew(&backend, &name, &seen).await?;
        let took = start.elapsed();
        if turn >= 100 {
            reference.add(bare_took);
            ours.add(took);
        }
    }
    Ok(judge("renewal on Postgres / bare sqlx UPDATE of the same row", 1.10, &ours, &reference))
}
