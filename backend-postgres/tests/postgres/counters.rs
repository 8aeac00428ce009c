//! Counters that were left behind when their rows were copied: by logical replication, by COPY.

use std::sync::Arc;

use crate::common::*;
use lease_core::LeaseBackend;
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Postgres as Server, PostgresOptions, wait_until};
use tokio::task::JoinSet;

/// What a copy of 100 rows leaves: the rows, and a counter that knows nothing of them.
const COPIED: &str = "INSERT INTO {s}.coordination_lease_history OVERRIDING SYSTEM VALUE
    SELECT n, 'copied', n, n, 'a', 'acquired' FROM generate_series(1, 100) AS n";
const NUMBERED: &str =
    "SELECT coalesce(pg_sequence_last_value('{s}.coordination_lease_history_history_id_seq'), 0)";
const ISSUED: &str = "SELECT coalesce(pg_sequence_last_value('{s}.leasehold_epochs'), 0)";

/// As an operator changes the server: the tables are made, and filled by a subscription, under who is connected already.
#[tokio::test]
async fn after_a_logical_switch_over_no_term_is_without_its_history() -> anyhow::Result<()> {
    let server = Server::start(PostgresOptions::default().setting("wal_level", "logical")).await?;
    let (old, new) = (server.create_database("old").await?, server.create_database("new").await?);
    for url in [&old, &new] {
        lease_postgres::migrate(&PostgresConfig::new(url)?).await?;
    }
    let (on_old, on_new) = (
        Postgres::connect(PostgresConfig::new(&old)?).await?,
        Postgres::connect(PostgresConfig::new(&new)?).await?,
    );
    let lease = name("moved");
    let mut seen = init(&on_old, &lease).await?;
    for _ in 0..20 {
        seen = acquire(&on_old, &lease, &seen, "a").await?;
        seen = release(&on_old, &lease, &seen).await?;
    }
    let publish = "CREATE PUBLICATION moved FOR TABLE coordination_leases, coordination_lease_history";
    server.psql_in("old", publish).await?;
    server.psql_in("old", "SELECT pg_create_logical_replication_slot('moved', 'pgoutput')").await?;
    let subscribe =
        format!("CREATE SUBSCRIPTION moved CONNECTION '{old}' PUBLICATION moved WITH (create_slot = false)");
    server.psql_in("new", &subscribe).await?;
    wait_until("the rows have arrived", LIMIT, async || {
        let count = "SELECT count(*) FROM coordination_leases, coordination_lease_history";
        server.psql_in("new", count).await.is_ok_and(|count| count == "40")
    })
    .await?;
    server.psql_in("new", "DROP SUBSCRIPTION moved").await?;

    let copied = on_new.observe(&lease).await?;
    assert_eq!(copied.record, seen.record);
    let held = acquire(&on_new, &lease, &copied, "b").await?;
    assert!(record(&held).epoch > record(&copied).epoch);
    let history = on_new.history(&lease, 100).await?;
    assert_eq!(history.len(), 41);
    assert_eq!(history.last().map(|row| row.epoch), Some(record(&held).epoch), "it is the last");
    Ok(())
}

#[tokio::test]
async fn many_who_meet_a_counter_that_is_behind_get_numbers_of_their_own() -> anyhow::Result<()> {
    let store = store().await?;
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(Arc::new(Postgres::connect(store.config.clone()).await?));
    }
    let mut free = Vec::new();
    for number in 0..24 {
        let lease = name(&format!("lease-{number}"));
        free.push((lease.clone(), init(&store.backend, &lease).await?));
    }
    store
        .psql(&format!("ALTER SEQUENCE {{s}}.coordination_lease_history_history_id_seq RESTART; {COPIED}"))
        .await?;
    assert_eq!(store.psql(NUMBERED).await?, "0");
    let mut acquiring = JoinSet::new();
    for (number, (lease, seen)) in free.into_iter().enumerate() {
        let backend = backends[number % backends.len()].clone();
        acquiring.spawn(async move { acquire(&*backend, &lease, &seen, "b").await });
    }
    while let Some(acquired) = acquiring.join_next().await {
        acquired??;
    }
    let rows = "SELECT count(*), min(history_id) FILTER (WHERE lease_name <> 'copied') > 100
        FROM {s}.coordination_lease_history";
    assert_eq!(store.psql(rows).await?, "124|t");
    Ok(())
}

#[tokio::test]
async fn migrations_and_new_connections_lift_what_is_behind_and_lower_nothing() -> anyhow::Result<()> {
    let store = store().await?;
    let lowered = "INSERT INTO {s}.leasehold_fence_lowerings OVERRIDING SYSTEM VALUE
        SELECT n, 'outbox', 2, gen_random_uuid(), 1, gen_random_uuid(), 'op', '' FROM generate_series(1, 7) AS n";
    store.psql(&format!("{COPIED}; {lowered}")).await?;
    let behind = "ALTER SEQUENCE {s}.coordination_lease_history_history_id_seq RESTART";
    store.psql(behind).await?;
    lease_postgres::migrate(&store.config).await?;
    assert!(store.psql(NUMBERED).await?.parse::<i64>()? >= 100);
    let lowerings = "SELECT pg_sequence_last_value('{s}.leasehold_fence_lowerings_lowering_id_seq') >= 7";
    assert_eq!(store.psql(lowerings).await?, "t");

    store.psql(behind).await?;
    Postgres::connect(store.config.clone()).await?;
    let numbered = store.psql(NUMBERED).await?.parse::<i64>()?;
    assert!(numbered >= 100, "{numbered}");
    lease_postgres::migrate(&store.config).await?;
    Postgres::connect(store.config.clone()).await?;
    assert!(store.psql(NUMBERED).await?.parse::<i64>()? >= numbered);
    Ok(())
}

#[tokio::test]
async fn epochs_outlive_a_deletion_also_where_their_counter_was_not_copied() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("deleted");
    init(&store.backend, &lease).await?;
    store.psql("UPDATE {s}.coordination_leases SET epoch = epoch + 5000").await?;
    let on_new = Postgres::connect(store.config.clone()).await?;
    let copied = record(&on_new.observe(&lease).await?).epoch;
    store
        .psql("BEGIN; SET LOCAL leasehold.allow_delete = on; DELETE FROM {s}.coordination_leases; COMMIT")
        .await?;
    let held = held(&on_new, &lease).await?;
    assert!(record(&held).epoch > copied, "{} after {copied}", record(&held).epoch);
    Ok(())
}

/// An operator may raise an epoch as far as he likes; the sequence's last numbers are not given away by that.
#[tokio::test]
async fn an_epoch_at_the_end_of_the_counters_numbers_does_not_use_them_up() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("raised");
    init(&store.backend, &lease).await?;
    store.psql("UPDATE {s}.coordination_leases SET epoch = (epoch >> 46 << 46) + 70368744177660").await?;
    let backend = Postgres::connect(store.config.clone()).await?;
    assert!(store.psql(ISSUED).await?.parse::<i64>()? < 1_000);
    let mut seen = backend.observe(&lease).await?;
    for _ in 0..10 {
        let before = record(&seen).epoch;
        seen = acquire(&backend, &lease, &seen, "a").await?;
        assert!(record(&seen).epoch > before);
        seen = release(&backend, &lease, &seen).await?;
    }
    Ok(())
}
