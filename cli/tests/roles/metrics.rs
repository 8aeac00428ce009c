//! Every metric that operators' dashboards name, scraped, with its value.

use lease_testbed::{Signal, wait_until};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use crate::fake::Fake;
use crate::stage::{LIMIT, Pools, Stage, Worker};

fn of(what: &str) -> String {
    format!("spendguard_outbox_forwarder_{what}")
}

fn skipped(reason: &str) -> String {
    of(&format!("skip_total{{reason=\"{reason}\"}}"))
}

const OLDEST: &str = "spendguard_outbox_pending_oldest_age_seconds";
const REASONS: [&str; 7] = [
    "lease_expired",
    "lease_revoked",
    "lease_lost",
    "fence_refused",
    "outbox_unavailable",
    "ingest_unavailable",
    "ingest_rejected",
];

/// Waits for a value: a batch is marked a moment before it is counted.
async fn comes_to(worker: &Worker, name: &str, wanted: f64) -> anyhow::Result<()> {
    let what = format!("{name} is {wanted}");
    wait_until(&what, LIMIT, || async { worker.metric(name).await.is_ok_and(|value| value == wanted) }).await
}

async fn leader_and_standby(stage: &Stage, ingest: &Worker) -> anyhow::Result<(Worker, Worker)> {
    let leader = stage.forwarder("a", &ingest.address).await?;
    leader.leads().await?;
    let standby = stage.forwarder("b", &ingest.address).await?;
    standby.process.wait_for_line("standing by", LIMIT).await?;
    Ok((leader, standby))
}

#[tokio::test]
async fn a_leaders_and_a_standbys() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let (leader, standby) = leader_and_standby(&stage, &ingest).await?;
    stage.append(0, 700).await?;
    stage.drained().await?;
    comes_to(&leader, &of("rows_forwarded_total"), 700.0).await?;
    comes_to(&leader, &of("is_leader"), 1.0).await?;
    comes_to(&leader, OLDEST, 0.0).await?;
    assert!(leader.metric(&of("loop_iterations_total")).await? >= 2.0, "700 rows are at least two batches");
    let takeovers = "spendguard_lease_takeovers_total{lease=\"outbox-forwarder\"}";
    assert_eq!(leader.metric(takeovers).await?, 0.0, "the lease's first term is no takeover");
    assert_eq!(standby.metric(takeovers).await?, 0.0, "shown before it happens");
    for (name, value) in [("is_leader", 0.0), ("rows_forwarded_total", 0.0), ("loop_iterations_total", 0.0)] {
        assert_eq!(standby.metric(&of(name)).await?, value, "{name}");
    }
    for reason in REASONS {
        assert_eq!(leader.metric(&skipped(reason)).await?, 0.0, "{reason} is shown before it happens");
        assert_eq!(standby.metric(&skipped(reason)).await?, 0.0, "{reason}");
    }
    wait_until("two beats are counted", LIMIT, || async {
        leader.metric(&of("leader_age_seconds_count")).await.is_ok_and(|count| count >= 2.0)
    })
    .await?;
    let (_, page) = leader.get("/metrics").await?;
    assert!(page.contains("# TYPE spendguard_outbox_forwarder_leader_age_seconds histogram"), "{page}");
    assert!(leader.metric(&of("leader_age_seconds_sum")).await? > 0.0);
    let (all, count) = (
        leader.metric(&of("leader_age_seconds_bucket{le=\"+Inf\"}")).await?,
        leader.metric(&of("leader_age_seconds_count")).await?,
    );
    assert!(all >= 2.0 && count >= all, "{all} {count}");

    for (name, value) in
        [("events_accepted_total", 700.0), ("events_duplicate_total", 0.0), ("fence_refused_total", 0.0)]
    {
        assert_eq!(ingest.metric(&format!("spendguard_canonical_ingest_{name}")).await?, value, "{name}");
    }
    assert!(ingest.metric("spendguard_canonical_ingest_requests_total{code=\"200\"}").await? >= 2.0);
    Ok(())
}

#[tokio::test]
async fn a_takeover_is_counted_by_the_one_that_took_over() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let (leader, standby) = leader_and_standby(&stage, &ingest).await?;
    leader.process.signal(Signal::TERM)?;
    standby.leads().await?;
    comes_to(&standby, "spendguard_lease_takeovers_total{lease=\"outbox-forwarder\"}", 1.0).await
}

/// The other two reasons are in `pauses`, where leases run out.
#[tokio::test]
async fn each_reason_to_skip_is_counted_as_such() -> anyhow::Result<()> {
    for (answer, reason) in [(400, "ingest_rejected"), (500, "ingest_unavailable")] {
        let stage = Stage::sqlite().await?;
        let fake = Fake::start(&[(answer, None), (200, None)]).await?;
        let leader = stage.forwarder("a", &fake.address).await?;
        stage.append(0, 10).await?;
        stage.drained().await?;
        for each in REASONS {
            let expected = f64::from(u8::from(each == reason));
            assert_eq!(leader.metric(&skipped(each)).await?, expected, "{each} after {answer}");
        }
    }
    let stage = Stage::sqlite().await?;
    let Pools::Sqlite { outbox, .. } = &stage.pools else { unreachable!("it is SQLite") };
    let ingest = stage.ingest().await?;
    let proxy = ingest.proxy()?;
    let more = ["--call-timeout", "1s"];
    let leader = stage.forwarder_with("a", &proxy.addr().to_string(), &stage.outbox, &more).await?;
    leader.leads().await?;
    // Its term is admitted before its first look at the rows.
    wait_until("it polls", LIMIT, || async {
        leader.metric(&of("loop_iterations_total")).await.is_ok_and(|rounds| rounds >= 2.0)
    })
    .await?;
    stage.append(0, 10).await?;
    stage.drained().await?;
    // Else it might have marked them all again before the lock is there.
    proxy.refuse(true).await?;
    proxy.cut().await;
    let mut writer: sqlx::pool::PoolConnection<sqlx::Sqlite> = outbox.acquire().await?;
    let mut lock = SqliteConnection::begin_with(&mut writer, "BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE audit_outbox SET pending_forward = 1, forwarded_at = NULL")
        .execute(&mut *lock)
        .await?;
    lock.commit().await?;
    let lock = SqliteConnection::begin_with(&mut writer, "BEGIN IMMEDIATE").await?;
    proxy.refuse(false).await?;
    wait_until("the outbox does not answer", LIMIT, || async {
        leader.metric(&skipped("outbox_unavailable")).await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    wait_until("reading goes on beside a writer", LIMIT, || async {
        leader.metric(OLDEST).await.is_ok_and(|age| age > 0.0)
    })
    .await?;
    lock.rollback().await?;
    stage.drained().await?;
    comes_to(&leader, OLDEST, 0.0).await
}
