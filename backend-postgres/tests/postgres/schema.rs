//! The tables: how they are made, who may use them, what operators find in them.

use std::time::Duration;

use crate::common::*;
use lease_core::{Change, LeaseBackend};
use lease_postgres::{Fence, NotMigrated, Postgres, PostgresConfig};
use sqlx::{AssertSqlSafe, Connection};

#[tokio::test]
async fn many_processes_may_migrate_at_once() -> anyhow::Result<()> {
    let server = server().await;
    let config = PostgresConfig::new(&server.url())?.schema(&fresh_schema())?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let config = config.clone();
        tasks.spawn(async move { lease_postgres::migrate(&config).await });
    }
    let mut versions = Vec::new();
    while let Some(version) = tasks.join_next().await {
        versions.push(version??);
    }
    assert_eq!(versions, [8; 8]);
    Postgres::connect(config).await?;
    Ok(())
}

#[tokio::test]
async fn connecting_without_the_tables_is_refused_by_an_error_of_its_own() -> anyhow::Result<()> {
    let server = server().await;
    let config = PostgresConfig::new(&server.url())?.schema(&fresh_schema())?;
    let error = Postgres::connect(config.clone()).await.expect_err("refused");
    assert!(error.refused && error.source.is_some_and(|source| source.is::<NotMigrated>()));

    lease_postgres::migrate(&config).await?;
    let older = "DELETE FROM {s}.leasehold_schema WHERE version > 1";
    server.psql(&older.replace("{s}", schema_of(&config))).await?;
    let error = Postgres::connect(config).await.expect_err("refused");
    assert!(error.refused && error.to_string().contains("version 1 was found, 8 is needed"), "{error}");
    Ok(())
}

fn schema_of(config: &PostgresConfig) -> &str {
    let debug = format!("{config:?}");
    let schema = debug.split("schema: \"").nth(1).and_then(|rest| rest.split('"').next());
    schema.expect("Debug shows the schema").to_owned().leak()
}

/// Runs roles.sql as an operator does, and returns the new role's configuration.
async fn least_role(store: &Store) -> anyhow::Result<PostgresConfig> {
    let role = format!("role_{}", store.schema);
    for _ in 0..2 {
        // Twice: it may be run again.
        let psql = tokio::process::Command::new("psql")
            .args([&store.server.url(), "-q", "-v", &format!("role={role}"), "-v"])
            .args([&format!("schema={}", store.schema), "-f", "roles.sql"])
            .output()
            .await?;
        anyhow::ensure!(psql.status.success(), "psql: {}", String::from_utf8_lossy(&psql.stderr));
    }
    store.psql(&format!("ALTER ROLE {role} PASSWORD 'secret'")).await?;
    Ok(PostgresConfig::new(&store.server.url_for("postgres", &role, "secret"))?.schema(&store.schema)?)
}

#[tokio::test]
async fn the_least_privileged_role_holds_leases_and_can_do_nothing_else() -> anyhow::Result<()> {
    let store = store().await?;
    let config = least_role(&store).await?;
    let backend = Postgres::connect(config.clone()).await?;
    let lease = name("least");
    let mut seen = init(&backend, &lease).await?;
    seen = acquire(&backend, &lease, &seen, "a").await?;
    seen = renew(&backend, &lease, &seen).await?;
    release(&backend, &lease, &seen).await?;
    assert_eq!(backend.list("").await?.len(), 1);
    assert_eq!(backend.history(&lease, 10).await?.len(), 2);
    drop(backend.watch("").await?);

    let url = store.server.url_for("postgres", &format!("role_{}", store.schema), "secret");
    let role = lease_testbed::PostgresServer::named(&url).await?;
    let term = lease_core::Term { epoch: 3, grant: lease_core::Grant(1) };
    let mut connection = session(&url).await?;
    let fence = Fence::in_schema("outbox", &store.schema)?;
    fence.admit(&mut connection, &term).await?;
    assert_eq!(fence.mark(&mut connection).await?, Some(term));

    for forbidden in [
        "DELETE FROM {s}.coordination_leases",
        "SET leasehold.allow_delete = on; DELETE FROM {s}.coordination_leases",
        "TRUNCATE {s}.coordination_leases",
        "DROP TABLE {s}.coordination_leases",
        "ALTER TABLE {s}.coordination_leases DISABLE TRIGGER ALL",
        "UPDATE {s}.coordination_lease_history SET note = ''",
        "DELETE FROM {s}.coordination_lease_history",
        "SELECT setval('{s}.leasehold_epochs', 1)",
        "UPDATE {s}.leasehold_fence_marks SET epoch = 0",
        "INSERT INTO {s}.leasehold_fence_marks VALUES ('x', 1, gen_random_uuid())",
        "DELETE FROM {s}.leasehold_fence_marks",
        "INSERT INTO {s}.leasehold_fence_lowerings SELECT FROM {s}.leasehold_fence_lowerings",
        "UPDATE {s}.leasehold_settings SET history_retention = '0'",
        "CREATE TABLE {s}.mine ()",
    ] {
        let refusal = role.psql(&forbidden.replace("{s}", &store.schema)).await;
        let refusal = format!("{:#}", refusal.expect_err(forbidden));
        assert!(
            refusal.contains("permission denied") || refusal.contains("must be owner"),
            "{forbidden}: {refusal}"
        );
    }
    let error = lease_postgres::migrate(&config.schema("not_there")?).await.unwrap_err();
    assert!(error.refused && error.to_string().contains("lacks a privilege"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_role_without_a_privilege_is_told_so() -> anyhow::Result<()> {
    let store = store().await?;
    let role = format!("bare_{}", store.schema);
    store.server.create_role(&role, "secret").await?;
    let url = store.server.url_for("postgres", &role, "secret");
    let error =
        Postgres::connect(PostgresConfig::new(&url)?.schema(&store.schema)?).await.expect_err("refused");
    assert!(error.refused && error.to_string().contains("roles.sql"), "{error}");
    Ok(())
}

#[tokio::test]
async fn even_the_owner_deletes_a_register_only_by_saying_so() -> anyhow::Result<()> {
    let store = store().await?;
    init(&store.backend, &name("kept")).await?;
    for sql in ["DELETE FROM {s}.coordination_leases", "TRUNCATE {s}.coordination_leases"] {
        let refusal = format!("{:#}", store.psql(sql).await.unwrap_err());
        assert!(refusal.contains("registers of leases are not deleted"), "{refusal}");
    }
    assert_eq!(store.psql("SELECT count(*) FROM {s}.coordination_leases").await?, "1");
    store
        .psql("BEGIN; SET LOCAL leasehold.allow_delete = on; DELETE FROM {s}.coordination_leases; COMMIT")
        .await?;
    assert_eq!(store.psql("SELECT count(*) FROM {s}.coordination_leases").await?, "0");
    Ok(())
}

#[tokio::test]
async fn the_operators_query_shows_who_holds_a_lease_and_whether_it_has_run_out() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("outbox-forwarder");
    let query = "SELECT lease_name, holder_workload_id, expires_at < clock_timestamp() AS already_expired \
                 FROM {s}.coordination_leases";
    let free = init(&store.backend, &lease).await?;
    assert_eq!(store.psql(query).await?, "outbox-forwarder||t");
    let held = acquire(&store.backend, &lease, &free, "pod-1").await?;
    assert_eq!(store.psql(query).await?, "outbox-forwarder|pod-1|f");
    release(&store.backend, &lease, &held).await?;
    assert_eq!(store.psql(query).await?, "outbox-forwarder|pod-1|t");
    Ok(())
}

/// A report that refers to a row, for example.
#[tokio::test]
async fn an_old_row_of_the_history_that_cannot_go_stops_nobody() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("referred-to");
    let mut seen = init(&store.backend, &lease).await?;
    for _ in 0..2 {
        seen = acquire(&store.backend, &lease, &seen, "a").await?;
        seen = release(&store.backend, &lease, &seen).await?;
    }
    store
        .psql(
            "UPDATE {s}.coordination_lease_history SET event_at = now() - interval '100 days';
             CREATE TABLE {s}.report AS SELECT min(history_id) AS history_id FROM {s}.coordination_lease_history;
             ALTER TABLE {s}.report ADD FOREIGN KEY (history_id) REFERENCES {s}.coordination_lease_history",
        )
        .await?;
    acquire(&store.backend, &lease, &seen, "b").await?;
    let left = "SELECT count(*), count(*) FILTER (WHERE history_id IN (TABLE {s}.report))
        FROM {s}.coordination_lease_history";
    assert_eq!(store.psql(left).await?, "2|1", "what is referred to, and the new one");
    Ok(())
}

#[tokio::test]
async fn history_older_than_the_retention_goes_with_the_next_row() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("old");
    lease_postgres::migrate(&store.config.clone().history_retention(Duration::from_secs(86_400))?).await?;
    let mut seen = init(&store.backend, &lease).await?;
    for _ in 0..3 {
        seen = acquire(&store.backend, &lease, &seen, "a").await?;
        seen = release(&store.backend, &lease, &seen).await?;
    }
    let count = "SELECT count(*) FROM {s}.coordination_lease_history";
    assert_eq!(store.psql(count).await?, "6");
    store
        .psql(
            "UPDATE {s}.coordination_lease_history SET event_at = now() - CASE WHEN history_id IN \
             (SELECT history_id FROM {s}.coordination_lease_history ORDER BY 1 LIMIT 4) \
             THEN interval '25 hours' ELSE interval '23 hours' END",
        )
        .await?;
    seen = renew(&store.backend, &lease, &acquire(&store.backend, &lease, &seen, "a").await?).await?;
    assert_eq!(store.psql(count).await?, "3");
    // Rows that another session has locked are left for later, never waited for.
    store.psql("UPDATE {s}.coordination_lease_history SET event_at = now() - interval '2 days'").await?;
    let mut other = session(&store.server.url()).await?;
    let lock = format!("BEGIN; SELECT FROM {}.coordination_lease_history FOR UPDATE", store.schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut other).await?;
    release(&store.backend, &lease, &seen).await?;
    assert_eq!(store.psql(count).await?, "4");
    Ok(())
}

#[tokio::test]
async fn a_newer_versions_columns_and_fields_survive_an_older_versions_writes() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("newer");
    init(&store.backend, &lease).await?;
    store.psql("ALTER TABLE {s}.coordination_leases ADD COLUMN later text DEFAULT 'x'").await?;
    store
        .psql("UPDATE {s}.coordination_leases SET later = 'kept', extra = '{\"field\": {\"n\": 1}}'")
        .await?;
    store.psql("INSERT INTO {s}.leasehold_schema VALUES (9)").await?;
    let backend = Postgres::connect(store.config.clone()).await?;
    let mut seen = backend.observe(&lease).await?;
    seen = acquire(&store.backend, &lease, &seen, "a").await?;
    seen = renew(&backend, &lease, &seen).await?;
    release(&backend, &lease, &seen).await?;
    let kept = "SELECT later, extra FROM {s}.coordination_leases";
    assert_eq!(store.psql(kept).await?, "kept|{\"field\": {\"n\": 1}}");
    assert_eq!(
        lease_postgres::migrate(&store.config).await?,
        9,
        "an older program leaves newer tables alone"
    );
    Ok(())
}

#[tokio::test]
async fn bad_settings_are_refused_with_their_value_and_without_their_password() {
    let secret = |error: lease_core::InvalidSettings| {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
        text
    };
    for (url, part) in [
        ("mysql://u:hunter2@h/d", "does not begin with postgres://"),
        ("postgres://u:hunter2@h:port/d", "invalid port"),
        ("postgres://u:hunter2", "invalid port"),
        ("host=h password=hunter2", "not shown"),
        ("postgres://u@h/d?sslmode=hard&password=hunter2", "sslmode"),
    ] {
        let text = secret(PostgresConfig::new(url).expect_err(url));
        assert!(text.contains(part) && text.contains("use postgres://"), "{url}: {text}");
    }
    let config = PostgresConfig::new("postgres://u:hunter2@h:7/d").expect("valid");
    assert!(format!("{config:?}").contains("u@h:7/d") && !format!("{config:?}").contains("hunter2"));
    for schema in ["", "Upper", "1st", "a b", "a\"b", &"x".repeat(41)] {
        assert!(config.clone().schema(schema).is_err(), "{schema:?}");
    }
    assert!(config.clone().pool_size(1).is_err() && config.clone().pool_size(101).is_err());
    assert!(config.clone().lock_timeout(Duration::from_millis(9)).is_err());
    assert!(config.clone().history_retention(Duration::from_secs(60)).is_err());
    secret(config.listen_url("http://u:hunter2@h").expect_err("not a postgres url"));
}

/// The tables as an older version made them, in which a hand could write anything.
#[tokio::test]
async fn a_time_that_no_program_writes_neither_stops_the_register_nor_gets_into_new_tables()
-> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("infinite");
    let free = init(&store.backend, &lease).await?;
    let held = acquire(&store.backend, &lease, &free, "a").await?;
    release(&store.backend, &lease, &held).await?;
    let by_hand = async |time: &str| {
        let set = "UPDATE {s}.coordination_leases SET (acquired_at, renewed_at, expires_at) =";
        store.psql(&format!("{set} ('{time}', '{time}', '{time}')")).await
    };
    let refusal = format!("{:#}", by_hand("infinity").await.unwrap_err());
    assert!(refusal.contains("coordination_leases_times"), "{refusal}");

    store.psql("ALTER TABLE {s}.coordination_leases DROP CONSTRAINT coordination_leases_times").await?;
    store.psql("UPDATE {s}.coordination_lease_history SET event_at = 'infinity'").await?;
    assert_eq!(store.backend.history(&lease, 10).await?.len(), 2);
    for time in ["infinity", "-infinity", "294276-12-31", "4713-01-01 BC"] {
        by_hand(time).await?;
        let mut seen = store.backend.observe(&lease).await?;
        assert_eq!(store.backend.list("").await?.len(), 1);
        seen = acquire(&store.backend, &lease, &seen, "a").await?;
        by_hand(time).await?;
        seen = renew(&store.backend, &lease, &seen).await?;
        release(&store.backend, &lease, &seen).await?;
    }
    by_hand("infinity").await?;
    store.psql("ALTER TABLE {s}.coordination_leases DROP CONSTRAINT coordination_leases_ttls").await?;
    store.psql("DELETE FROM {s}.leasehold_schema WHERE version >= 4").await?;
    assert_eq!(lease_postgres::migrate(&store.config).await?, 8);
    by_hand("9999-12-31 23:59:59+00").await?;
    by_hand("infinity").await.unwrap_err();
    Ok(())
}

#[tokio::test]
async fn a_ttl_that_no_program_writes_gets_into_no_table() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("endless");
    init(&store.backend, &lease).await?;
    let by_hand = "UPDATE {s}.coordination_leases SET ttl_ms = 9223372036854775807, max_ttl_ms = 86400001";
    let refusal = format!("{:#}", store.psql(by_hand).await.unwrap_err());
    assert!(refusal.contains("coordination_leases_ttls"), "{refusal}");
    store.psql("ALTER TABLE {s}.coordination_leases DROP CONSTRAINT coordination_leases_ttls").await?;
    store.psql(by_hand).await?;
    store.psql("ALTER TABLE {s}.coordination_leases DROP CONSTRAINT coordination_leases_times").await?;
    store.psql("DELETE FROM {s}.leasehold_schema WHERE version >= 4").await?;
    lease_postgres::migrate(&store.config).await?;
    let record = store.backend.observe(&lease).await?.record.unwrap();
    assert_eq!((record.ttl_ms, record.max_ttl_ms), (86_400_000, 86_400_000));
    Ok(())
}

/// `pg_dump`, for example, reads the tables for as long as it takes.
#[tokio::test]
async fn a_migration_that_waits_for_a_reader_lets_renewals_through() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("busy");
    let mut held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    store.psql("ALTER TABLE {s}.coordination_leases DROP CONSTRAINT coordination_leases_ttls").await?;
    store.psql("ALTER TABLE {s}.coordination_leases DROP CONSTRAINT coordination_leases_times").await?;
    store.psql("DELETE FROM {s}.leasehold_schema WHERE version >= 4").await?;
    let mut reader = session(&store.server.url()).await?;
    let mut reading = reader.begin().await?;
    let dump = format!("SELECT * FROM {0}.coordination_leases, {0}.coordination_lease_history", store.schema);
    sqlx::raw_sql(AssertSqlSafe(dump)).execute(&mut *reading).await?;
    let migration = tokio::spawn({
        let config = store.config.clone();
        async move { lease_postgres::migrate(&config).await }
    });
    let until = std::time::Instant::now() + Duration::from_secs(4);
    while std::time::Instant::now() < until {
        let renewal = tokio::time::timeout(TTL / 3, renew(&store.backend, &lease, &held)).await;
        held = renewal.expect("no renewal waits behind the migration for long")?;
    }
    assert!(!migration.is_finished(), "it waits for the reader");
    reading.rollback().await?;
    assert_eq!(migration.await??, 8);
    Ok(())
}

#[tokio::test]
async fn the_stores_wall_clock_decides_nothing() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("clock");
    let mut held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    for moved in ["now() - interval '1 hour'", "now() + interval '1 hour'"] {
        // Neither does "long expired" let an old observation take the lease, nor "expires in an hour" keep it.
        let old = held.clone();
        held = renew(&store.backend, &lease, &held).await?;
        let set = "UPDATE {s}.coordination_leases SET (acquired_at, renewed_at, expires_at) =";
        store.psql(&format!("{set} ({moved}, {moved}, {moved})")).await?;
        conflict(store.backend.put_if(&lease, &old, &acquired(&old, "b"), Change::Acquire).await?);
        held = acquire(&store.backend, &lease, &held, "b").await?;
    }
    Ok(())
}
