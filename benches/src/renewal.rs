//! A renewal against a bare sqlx UPDATE of the same row, on a real Postgres that really syncs its log.

use std::time::Instant;

use lease_conformance::by_hand::{held, name, renew};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Postgres as Server, PostgresOptions};
use sqlx::{Connection, PgConnection};

use crate::paired::{BarResult, Samples, judge};

const TURNS: usize = 1500;

pub(crate) async fn renewal() -> anyhow::Result<BarResult> {
    let server = Server::start(PostgresOptions::default()).await?;
    let config = PostgresConfig::new(&server.url())?;
    lease_postgres::migrate(&config).await?;
    let backend = Postgres::connect(config).await?;
    let name = name("bench");
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
