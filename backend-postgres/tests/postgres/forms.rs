//! Tables of earlier versions, as they lie in databases.

use crate::common::*;
use lease_core::{Grant, LeaseBackend, Term};
use lease_postgres::{Fence, Postgres, PostgresConfig};

/// A released migration never changes.
const FIRST: [&str; 3] = [
    include_str!("../../migrations/0001_leases.sql"),
    include_str!("../../migrations/0002_fence.sql"),
    include_str!("../forms/first.sql"),
];

#[tokio::test]
async fn the_first_versions_tables_are_migrated_with_all_that_is_in_them() -> anyhow::Result<()> {
    let (server, schema, lease) = (server().await, fresh_schema(), name("forwarder"));
    let config = PostgresConfig::new(&server.url())?.schema(&schema)?;
    server.psql(&format!("CREATE SCHEMA {schema}")).await?;
    for part in FIRST {
        server.psql(&part.replace("{schema}", &schema)).await?;
    }
    let refused = Postgres::connect(config.clone()).await.expect_err("refused");
    assert!(refused.to_string().contains("version 2 was found, 8 is needed"), "{refused}");

    assert_eq!(lease_postgres::migrate(&config).await?, 8);
    let backend = Postgres::connect(config).await?;
    let seen = backend.observe(&lease).await?;
    let held = Term { epoch: (1 << 46) + 42, grant: Grant(0xfedc_ba98_7654_3210_fedc_ba98_7654_3210) };
    assert_eq!(record(&seen).term(), Some(held));
    let seen = renew(&backend, &lease, &seen).await?;
    assert_eq!((record(&seen).beat, record(&seen).max_ttl_ms), (8, 30_000));
    assert_eq!(record(&seen).extra["of_a_later_version"], serde_json::json!({ "n": [1, 2] }));
    let mut app = session(&server.url()).await?;
    assert_eq!(Fence::in_schema("outbox", &schema)?.mark(&mut app).await?, Some(held));
    Ok(())
}
