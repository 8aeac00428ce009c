//! Counters that were not copied with their rows, as logical replication and COPY leave them.

use std::time::Duration;

use lease_postgres::PostgresConfig;
use lease_spendguard::canonical;
use lease_worker_common::database::Database;

use crate::stage::{Stage, attempt, expired, fence, outcome, reserve, settle, won};
use crate::sweeping::{Sweeper, swept};

/// As in a database whose rows came from another.
const LEFT_BEHIND: &str = "SELECT setval(seqrelid::regclass, 1, false) FROM pg_sequence";

#[tokio::test]
async fn no_call_fails_for_a_counter_that_is_behind() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let before = fence("a", &won(&client, attempt("a")).await?);
    for key in ["k1", "k2", "k3"] {
        outcome(client.reserve(reserve(&before, key, 10)).await?)?.expect("there is room");
    }
    let numbers = "SELECT max(event_id) FROM reservation_events";
    let copied = stage.int(numbers).await?;

    sqlx::raw_sql(LEFT_BEHIND).execute(&stage.pool).await?;
    let kept = outcome(client.reserve(reserve(&before, "k4", 10)).await?)?.expect("there is room");
    assert!(stage.int(numbers).await? > copied);
    sqlx::raw_sql(LEFT_BEHIND).execute(&stage.pool).await?;
    outcome(client.commit(settle(&before, "k5", &kept.reservation_id)).await?)?.expect("it is live");
    sqlx::raw_sql(LEFT_BEHIND).execute(&stage.pool).await?;
    won(
        &client,
        lease_spendguard::rpc::ledger::v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") },
    )
    .await?;

    expired(&stage, 5).await?;
    let sweeper = Sweeper::start("s", &stage.url, leases.path(), &[]).await?;
    sweeper.leads().await?;
    swept(&stage, 8).await?;
    // Also those that are connected already, and in the middle of their work.
    expired(&stage, 5).await?;
    sqlx::raw_sql(LEFT_BEHIND).execute(&stage.pool).await?;
    expired(&stage, 5).await?;
    swept(&stage, 18).await?;
    assert_eq!(sweeper.metric("rows_left_out_total").await?, 0.0);
    Ok(())
}

/// Of all roles and of the lease store: whoever adds a table with a counter is told here.
#[tokio::test]
async fn every_counter_beside_data_is_lifted_by_whoever_inserts() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let database: Database = stage.url.parse().map_err(anyhow::Error::msg)?;
    canonical::open(&database, false, 1, Duration::from_secs(60)).await?.migrate().await?;
    lease_postgres::migrate(&PostgresConfig::new(&stage.url)?).await?;
    let counted = "SELECT count(*) FROM pg_sequence";
    assert_eq!(stage.int(counted).await?, 7, "this database has them all");
    let unguarded = "SELECT seqrelid::regclass::text FROM pg_sequence
        WHERE seqrelid <> 'leasehold_epochs'::regclass AND NOT EXISTS (
            SELECT FROM pg_depend JOIN pg_trigger ON tgrelid = refobjid
            WHERE objid = seqrelid AND deptype IN ('a', 'i') AND tgname = 'leasehold_counter')";
    assert_eq!(stage.texts(unguarded).await?, [] as [&str; 0]);
    Ok(())
}
