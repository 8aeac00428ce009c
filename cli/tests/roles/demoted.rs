//! Databases that turn away from forwarder and ingest without closing a connection: demoted, closed to the role, or
//! hidden by a pooler. Each says so while it lasts, and goes on by itself afterwards.

use lease_spendguard::outbox;
use lease_testbed::{PgBouncer, Postgres, Proxy, StandbyOptions, wait_until};

use sqlx::SqlitePool;

use crate::stage::{LIMIT, Pools, Stage, Worker, database, event};

const OLDEST: &str = "spendguard_outbox_pending_oldest_age_seconds";

/// Waits until it is not ready, for a reason that has `word`.
async fn says(worker: &Worker, word: &str) -> anyhow::Result<()> {
    wait_until(&format!("it is not ready: {word}"), LIMIT, || async {
        worker.get("/readyz").await.is_ok_and(|(status, why)| status == 503 && why.contains(word))
    })
    .await
}

fn server(stage: &Stage) -> &Postgres {
    stage.server.as_ref().expect("it is Postgres")
}

/// Appends rows to the outbox at `url`, and waits until the canonical store of the same server has `all`.
async fn arrive(server: &Postgres, url: &str, from: i64, all: i64) -> anyhow::Result<()> {
    let events: anyhow::Result<Vec<_>> = (from..all).map(event).collect();
    outbox::open(&database(url)?, false, LIMIT).await?.append(&events?).await?;
    wait_until(&format!("{all} events are kept"), LIMIT, || async {
        let kept = server.psql_in("canonical", "SELECT count(*) FROM canonical_events").await;
        kept.is_ok_and(|kept| kept == all.to_string())
    })
    .await
}

#[tokio::test]
async fn postgres_a_demoted_primary_shows_and_is_left_for_the_new_one() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let old = server(&stage);
    let (before_outbox, before_canonical) = (Proxy::tcp(old.addr())?, Proxy::tcp(old.addr())?);
    let ingest = ["worker", "canonical-ingest", "--canonical-url", &before_canonical.url(&stage.canonical)?];
    let ingest = Worker::start(&ingest).await?;
    // It leads by a term of the outbox's own. With nothing pending and nothing to prune it would only read.
    let reads = ["--mode", "disabled", "--outbox-retention-days", "0", "--poll-interval", "50ms"];
    let outbox = before_outbox.url(&stage.outbox)?;
    let leader = stage.forwarder_with("a", &ingest.address, &outbox, &reads).await?;
    arrive(old, &stage.outbox, 0, 10).await?;
    leader.ready().await?;
    ingest.ready().await?;
    let new = old.standby(StandbyOptions::asynchronous("b")).await?;

    old.set("default_transaction_read_only", "on").await?;
    says(&leader, "read-only").await?;
    says(&ingest, "read-only").await?;
    assert!(leader.metric(OLDEST).await?.is_nan(), "what it read there is not the present age");
    wait_until("its rounds fail", LIMIT, || async {
        let failed = "spendguard_outbox_forwarder_skip_total{reason=\"outbox_unavailable\"}";
        leader.metric(failed).await.is_ok_and(|failed| failed >= 1.0)
    })
    .await?;

    new.catch_up_with(old).await?;
    new.promote().await?;
    [&before_outbox, &before_canonical].iter().for_each(|proxy| proxy.switch_upstream(new.addr()));
    let there = stage.outbox.replace(&old.port().to_string(), &new.port().to_string());
    arrive(&new, &there, 10, 20).await?;
    leader.ready().await?;
    ingest.ready().await?;
    wait_until("its age is known again", LIMIT, || async {
        leader.metric(OLDEST).await.is_ok_and(|age| age == 0.0)
    })
    .await
}

#[tokio::test]
async fn postgres_a_right_that_is_taken_away_shows_and_is_used_again_when_it_is_back() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let server = server(&stage);
    server.create_role("worker", "secret").await?;
    for database in ["outbox", "canonical"] {
        let grant = "GRANT ALL ON ALL TABLES IN SCHEMA public TO worker;
                     GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO worker";
        server.psql_in(database, grant).await?;
    }
    let url = |database: &str| server.url_for(database, "worker", "secret");
    let ingest = Worker::start(&["worker", "canonical-ingest", "--canonical-url", &url("canonical")]).await?;
    let more = ["--mode", "disabled", "--poll-interval", "50ms"];
    let leader = stage.forwarder_with("a", &ingest.address, &url("outbox"), &more).await?;
    let mut all = 0;
    for (database, right, worker, word) in [
        (
            "outbox",
            "UPDATE ON audit_outbox",
            &leader,
            "permission denied for table audit_outbox (SQLSTATE 42501)",
        ),
        // Only a batch needs this one.
        ("outbox", "EXECUTE ON FUNCTION leasehold_admit", &leader, "the last batch failed"),
        (
            "canonical",
            "INSERT ON canonical_events",
            &ingest,
            "permission denied for table canonical_events (SQLSTATE 42501)",
        ),
    ] {
        arrive(server, &stage.outbox, all, all + 10).await?;
        all += 10;
        worker.ready().await?;
        server.psql_in(database, &format!("REVOKE {right} FROM worker")).await?;
        stage.append(all, all + 1).await?;
        all += 1;
        says(worker, word).await?;
        server.psql_in(database, &format!("GRANT {right} TO worker")).await?;
    }
    arrive(server, &stage.outbox, all, all + 10).await?;
    leader.ready().await?;
    ingest.ready().await
}

/// Through it half of the calls would fail, some with another caller's parameters.
#[tokio::test]
async fn postgres_a_pooler_before_a_workers_database_is_refused() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let pooler = PgBouncer::start(server(&stage), 2).await?;
    let through = |database: &str| pooler.url().replace("/postgres", &format!("/{database}"));
    let ingest = ["worker", "canonical-ingest", "--canonical-url", &through("canonical")];
    let ingest = Worker::start(&ingest).await?;
    let forwarder = stage.forwarder_with("a", &ingest.address, &through("outbox"), &[]).await?;
    for worker in [&ingest, &forwarder] {
        says(worker, "a pooler stands in between").await?;
    }
    Ok(())
}

/// SQLite's way of being somewhere else: what was opened before is a file that nobody else sees.
#[tokio::test]
async fn an_outbox_whose_file_was_replaced_is_opened_anew() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let Pools::Sqlite { outbox, .. } = &stage.pools else { unreachable!("it is SQLite") };
    let ingest = stage.ingest().await?;
    let leader = stage.forwarder("a", &ingest.address).await?;
    stage.append(0, 10).await?;
    stage.drained().await?;
    let path = stage.outbox.trim_start_matches("sqlite:").to_owned();
    let copy = format!("{path}.restored");
    sqlx::query("VACUUM INTO ?1").bind(&copy).execute(outbox).await?;
    let restored = SqlitePool::connect(&copy).await?;
    sqlx::query("UPDATE audit_outbox SET pending_forward = 1, forwarded_at = NULL")
        .execute(&restored)
        .await?;
    restored.close().await;
    for beside in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{path}{beside}"))?;
    }
    std::fs::rename(&copy, &path)?;
    wait_until("the rows of the restored file are forwarded", LIMIT, || async {
        let forwarded = leader.metric("spendguard_outbox_forwarder_rows_forwarded_total").await;
        forwarded.is_ok_and(|rows| rows == 20.0)
    })
    .await?;
    leader.ready().await
}
