//! A holder that is paused in the middle of a write, and its successor.

use lease_testbed::{Proxy, wait_until};
use sqlx::{Connection, PgConnection};

use crate::stage::{LIMIT, Ledger, PATIENT, Stage, attempt, fence, outcome, reserve, server, won};
use lease_workers::rpc::ledger::v1;

/// Its statement is on its way to the database while another takes over.
#[tokio::test]
async fn a_write_that_arrives_after_a_takeover_is_refused() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = Proxy::postgres(server().await?.addr())?;
    let slow = Ledger::start(&proxy.url(&stage.url)?, &PATIENT).await?;
    let (mut old_client, new_ledger) = (slow.client().await?, stage.ledger().await?);
    let new_client = new_ledger.client().await?;
    let old = fence("old", &won(&old_client, attempt("old")).await?);
    // Prepared by now, so that what is held is the execution.
    assert!(outcome(old_client.reserve(reserve(&old, "k0", 1)).await?)?.is_ok());

    let mut hold = proxy.hold(|request| request.sql_contains("ledger_reserve"));
    let late = tokio::spawn(async move { old_client.reserve(reserve(&old, "k1", 100)).await });
    hold.held().await?;
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("new") };
    let new = won(&new_client, force).await?;
    hold.release();
    assert_eq!(outcome(late.await??)?.expect_err("refused"), "FENCING_EPOCH_STALE");
    slow.process.wait_for_line("a late call was refused", LIMIT).await?;
    assert!(outcome(new_client.clone().reserve(reserve(&fence("new", &new), "k2", 100)).await?)?.is_ok());
    stage.books_balance().await
}

/// How many rows of an old epoch were written after a newer term had begun.
const OVERLAPS: &str = "SELECT count(*) FROM reservation_events e JOIN fencing_scope_events s
    ON s.new_epoch > e.fencing_epoch AND s.created_at < e.created_at";

/// Its transaction has been admitted and is paused there; returns what the takeover did meanwhile.
async fn paused_after_admission(stage: &Stage) -> anyhow::Result<bool> {
    let ledger = stage.ledger_with(&PATIENT).await?;
    let client = ledger.client().await?;
    let old = won(&client, attempt("old")).await?;
    let mut paused = PgConnection::connect(&stage.url).await?;
    let mut transaction = paused.begin().await?;
    let grant = sqlx::types::Uuid::from_slice(&old.grant)?;
    let admitted: bool = sqlx::query_scalar("SELECT ledger_admit('payments', 'acme', 'old', 1, $1)")
        .bind(grant)
        .fetch_one(&mut *transaction)
        .await?;
    assert!(admitted);

    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("new") };
    let takeover = tokio::spawn({
        let client = client.clone();
        async move { won(&client, force).await }
    });
    wait_until("the takeover waits for the lock, or is done", LIMIT, || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND datname = current_database() AND query LIKE '%ledger_fencing_scope%'";
        takeover.is_finished() || stage.int(waiting).await.is_ok_and(|waiting| waiting == 1)
    })
    .await?;
    let waited = !takeover.is_finished();
    // The old term's effect, in the transaction that was admitted.
    sqlx::query(
        "INSERT INTO reservation_events (tenant_id, action, reservation_id, amount_minor, currency, state, expires_at,
            fencing_epoch, owner_instance_id) VALUES ('acme', 'reserve', gen_random_uuid(), 1, 'EUR', 'reserved', now(), 1, 'old')",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    assert_eq!(takeover.await??.epoch, 2);
    Ok(waited)
}

#[tokio::test]
async fn a_takeover_waits_for_a_write_that_was_admitted() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    assert!(paused_after_admission(&stage).await?, "the takeover had to wait");
    assert_eq!(stage.int(OVERLAPS).await?, 0, "no effect of an epoch follows a greater one");
    Ok(())
}

/// Changes the admission in this test's own schema.
async fn admit_without(stage: &Stage, part: &str) -> anyhow::Result<()> {
    let source: String = sqlx::query_scalar("SELECT pg_get_functiondef('ledger_admit'::regproc)")
        .fetch_one(&stage.pool)
        .await?;
    let changed = source.replace(part, "");
    assert_ne!(source, changed);
    sqlx::raw_sql(sqlx::AssertSqlSafe(changed)).execute(&stage.pool).await?;
    Ok(())
}

/// What the two locks are for, both taken away.
#[tokio::test]
async fn without_the_lock_an_old_term_writes_beside_its_successor() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    admit_without(&stage, "FOR KEY SHARE").await?;
    admit_without(&stage, QUEUE).await?;
    assert!(!paused_after_admission(&stage).await?, "nothing to wait for");
    assert_eq!(stage.int(OVERLAPS).await?, 1, "the fault that the lock prevents");
    Ok(())
}

const QUEUE: &str = "PERFORM pg_advisory_xact_lock_shared(ledger_scope_queue(p_scope));";

/// A write is under way, a takeover waits for it, and another write comes: does it pass the takeover?
async fn a_writer_passes_a_waiting_takeover(stage: &Stage) -> anyhow::Result<bool> {
    let ledger = stage.ledger_with(&PATIENT).await?;
    let client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let mut paused = PgConnection::connect(&stage.url).await?;
    let mut transaction = paused.begin().await?;
    sqlx::query("SELECT ledger_admit('payments', 'acme', 'a', 1, $1)")
        .bind(sqlx::types::Uuid::from_slice(&term.grant)?)
        .execute(&mut *transaction)
        .await?;
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") };
    let takeover = tokio::spawn({
        let client = client.clone();
        async move { won(&client, force).await }
    });
    let waiting = async |count: i64| {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND datname = current_database() AND application_name = 'leasehold ledger'";
        stage.int(waiting).await.is_ok_and(|now| now == count)
    };
    wait_until("the takeover waits", LIMIT, || waiting(1)).await?;
    let asked = reserve(&fence("a", &term), "k1", 1);
    let mut writer = client.clone();
    let write = tokio::spawn(async move { writer.reserve(asked).await });
    wait_until("the write waits too, or is done", LIMIT, async || write.is_finished() || waiting(2).await)
        .await?;
    let passed = write.is_finished();
    assert!(!takeover.is_finished());
    // A renewal waits for neither: it lets the write's lock be, and stands in no queue.
    let renewal = v1::AcquireFencingLeaseRequest { grant: term.grant.clone(), ..attempt("a") };
    assert_eq!(won(&client, renewal).await?.action, "renew");
    transaction.rollback().await?;
    assert_eq!(takeover.await??.action, "revoke");
    assert_eq!(outcome(write.await??)?.is_ok(), passed, "after the takeover the old term's write is refused");
    Ok(passed)
}

/// Else writers, one after the other, would keep it waiting for as long as they are busy.
#[tokio::test]
async fn no_writer_passes_a_waiting_takeover() -> anyhow::Result<()> {
    assert!(!a_writer_passes_a_waiting_takeover(&Stage::new().await?).await?);
    Ok(())
}

#[tokio::test]
async fn without_the_queue_writers_pass_a_waiting_takeover() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    admit_without(&stage, QUEUE).await?;
    assert!(a_writer_passes_a_waiting_takeover(&stage).await?, "the fault that the queue prevents");
    Ok(())
}
