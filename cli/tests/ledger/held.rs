//! A holder that is paused in the middle of a write, and its successor.

use lease_testbed::{Proxy, wait_until};
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::stage::{LIMIT, Ledger, PATIENT, Stage, attempt, fence, outcome, reserve, server, won};
use lease_spendguard::rpc::ledger::v1::{
    self, acquire_fencing_lease_response::Success, ledger_client::LedgerClient,
};
use tonic::transport::Channel;

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

/// The number of rows of an old epoch that were written after a newer term had begun.
const OVERLAPS: &str = "SELECT count(*) FROM reservation_events e JOIN fencing_scope_events s
    ON s.new_epoch > e.fencing_epoch AND s.created_at < e.created_at";

/// A transaction that has been admitted, and has written nothing yet.
async fn admitted<'a>(
    session: &'a mut PgConnection,
    holder: &str,
    term: &Success,
) -> anyhow::Result<Transaction<'a, Postgres>> {
    let mut transaction = session.begin().await?;
    let admitted: bool = sqlx::query_scalar("SELECT ledger_admit('payments', 'acme', $1, $2, $3)")
        .bind(holder)
        .bind(i64::try_from(term.epoch)?)
        .bind(sqlx::types::Uuid::from_slice(&term.grant)?)
        .fetch_one(&mut *transaction)
        .await?;
    assert!(admitted, "{holder} holds the scope");
    Ok(transaction)
}

/// Its transaction has been admitted and is paused there; returns whether what `takes` the scope waited for it.
async fn paused_after_admission(
    stage: &Stage,
    takes: impl AsyncFnOnce(LedgerClient<Channel>) -> anyhow::Result<()> + 'static,
) -> anyhow::Result<bool> {
    let ledger = stage.ledger_with(&PATIENT).await?;
    let client = ledger.client().await?;
    let old = won(&client, attempt("old")).await?;
    let mut paused = PgConnection::connect(&stage.url).await?;
    let mut transaction = admitted(&mut paused, "old", &old).await?;

    let mut takeover = Box::pin(takes(client));
    let waits = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database()";
        wait_until("it waits for the lock", LIMIT, async || stage.int(waiting).await.is_ok_and(|n| n == 1))
            .await
    };
    let waited = tokio::select! {
        done = &mut takeover => done.map(|()| false)?,
        waits = waits => waits.map(|()| true)?,
    };
    // The old term's effect, in the transaction that was admitted.
    sqlx::query(
        "INSERT INTO reservation_events (tenant_id, action, reservation_id, amount_minor, currency, state, expires_at,
            fencing_epoch, owner_instance_id) VALUES ('acme', 'reserve', gen_random_uuid(), 1, 'EUR', 'reserved', now(), 1, 'old')",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    if waited {
        takeover.await?;
    }
    Ok(waited)
}

async fn by_force(client: LedgerClient<Channel>) -> anyhow::Result<()> {
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("new") };
    assert_eq!(won(&client, force).await?.epoch, 2);
    Ok(())
}

#[tokio::test]
async fn a_takeover_waits_for_a_write_that_was_admitted() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    assert!(paused_after_admission(&stage, by_force).await?, "the takeover had to wait");
    assert_eq!(stage.int(OVERLAPS).await?, 0, "no effect of an epoch follows a greater one");
    Ok(())
}

/// Changes the admission in this test's own schema.
async fn admit_with(stage: &Stage, changes: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut source: String = sqlx::query_scalar("SELECT pg_get_functiondef('ledger_admit'::regproc)")
        .fetch_one(&stage.pool)
        .await?;
    for (part, instead) in changes {
        assert_eq!(source.matches(part).count(), 1, "{part}");
        source = source.replace(part, instead);
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(source)).execute(&stage.pool).await?;
    Ok(())
}

const LOCK: &str = "PERFORM pg_advisory_xact_lock_shared(ledger_scope_lock(p_scope));";

#[tokio::test]
async fn without_the_lock_an_old_term_writes_beside_its_successor() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    admit_with(&stage, &[(LOCK, "")]).await?;
    assert!(!paused_after_admission(&stage, by_force).await?, "nothing to wait for");
    assert_eq!(stage.int(OVERLAPS).await?, 1, "the fault that the lock prevents");
    Ok(())
}

const BY_HAND: [&str; 3] = [
    "UPDATE fencing_scopes SET current_epoch = current_epoch + 1",
    "UPDATE fencing_scopes SET current_holder_instance_id = NULL, current_grant = NULL, ttl_expires_at = NULL",
    "DELETE FROM fencing_scopes",
];

async fn by_hand(stage: &Stage, statement: &'static str) -> anyhow::Result<bool> {
    let pool = stage.pool.clone();
    paused_after_admission(stage, async move |_| {
        sqlx::query(statement).execute(&pool).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_change_by_hand_waits_for_a_write_that_was_admitted() -> anyhow::Result<()> {
    for statement in BY_HAND {
        assert!(by_hand(&Stage::new().await?, statement).await?, "{statement}");
    }
    Ok(())
}

#[tokio::test]
async fn without_the_trigger_a_change_by_hand_waits_for_no_write() -> anyhow::Result<()> {
    for statement in BY_HAND {
        let stage = Stage::new().await?;
        sqlx::query("DROP TRIGGER fencing_scopes_changes ON fencing_scopes").execute(&stage.pool).await?;
        assert!(!by_hand(&stage, statement).await?, "the fault that the trigger prevents: {statement}");
    }
    Ok(())
}

/// The outcome of a write that came while a takeover waited for another.
#[derive(Debug, PartialEq, Eq)]
enum Late {
    /// It did not wait for the takeover, whose turn may never come.
    Passed,
    /// It waited, and was admitted after it.
    Admitted,
    /// It waited, and was refused.
    Refused,
}

async fn a_write_that_comes_while_a_takeover_waits(stage: &Stage) -> anyhow::Result<Late> {
    let ledger = stage.ledger_with(&PATIENT).await?;
    let client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let mut paused = PgConnection::connect(&stage.url).await?;
    let transaction = admitted(&mut paused, "a", &term).await?;
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
    let admitted = outcome(write.await??)?.is_ok();
    Ok(match (passed, admitted) {
        (true, admitted) => {
            assert!(admitted, "the term was still its own");
            Late::Passed
        }
        (false, true) => Late::Admitted,
        (false, false) => Late::Refused,
    })
}

/// Else writers, one after the other, would keep it waiting for as long as they are busy.
#[tokio::test]
async fn no_write_passes_a_waiting_takeover_and_none_of_the_old_term_follows_it() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    assert_eq!(a_write_that_comes_while_a_takeover_waits(&stage).await?, Late::Refused);
    Ok(())
}

const OF_THE_ROW: [(&str, &str); 2] =
    [(LOCK, ""), ("current_grant = p_grant;", "current_grant = p_grant FOR KEY SHARE;")];

/// Why the lock is not the row's: that is safe, but a takeover may starve.
#[tokio::test]
async fn with_the_lock_of_the_row_instead_writes_pass_a_waiting_takeover() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    admit_with(&stage, &OF_THE_ROW).await?;
    let late = a_write_that_comes_while_a_takeover_waits(&stage).await?;
    assert_eq!(late, Late::Passed, "the fault that a fair lock prevents");
    Ok(())
}

/// The traces of a write in its scope's row: Postgres keeps the lockers there, and those of two at once elsewhere, as a
/// MultiXact (decision 0052).
async fn an_admission_marks_the_row(stage: &Stage) -> anyhow::Result<bool> {
    let ledger = stage.ledger().await?;
    let term = won(&ledger.client().await?, attempt("a")).await?;
    let row = async || stage.texts("SELECT xmax || ' ' || ctid FROM fencing_scopes").await;
    let before = row().await?;
    let mut session = PgConnection::connect(&stage.url).await?;
    admitted(&mut session, "a", &term).await?.commit().await?;
    Ok(before != row().await?)
}

#[tokio::test]
async fn an_admission_leaves_no_mark_in_the_scopes_row() -> anyhow::Result<()> {
    assert!(!an_admission_marks_the_row(&Stage::new().await?).await?);
    Ok(())
}

#[tokio::test]
async fn with_the_lock_of_the_row_instead_each_admission_marks_it() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    admit_with(&stage, &OF_THE_ROW).await?;
    assert!(an_admission_marks_the_row(&stage).await?, "the cost that another lock saves");
    Ok(())
}

/// Why the look is a statement of its own: one that waits for the lock itself sees what was there before.
#[tokio::test]
async fn with_lock_and_look_in_one_statement_an_old_term_writes_after_a_takeover() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let together =
        "FROM (SELECT pg_advisory_xact_lock_shared(ledger_scope_lock(p_scope))) AS lock, fencing_scopes";
    admit_with(&stage, &[(LOCK, ""), ("FROM fencing_scopes", together)]).await?;
    let late = a_write_that_comes_while_a_takeover_waits(&stage).await?;
    assert_eq!(late, Late::Admitted, "the fault that a look after the lock prevents");
    assert_eq!(stage.int(OVERLAPS).await?, 1);
    Ok(())
}

/// A transaction with one snapshot would be that same fault; poolers may drop what our connections ask for.
#[tokio::test]
async fn a_transaction_that_is_not_read_committed_is_not_admitted() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let mut session = PgConnection::connect(&stage.url).await?;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut transaction =
            session.begin_with(sqlx::AssertSqlSafe(format!("BEGIN ISOLATION LEVEL {level}"))).await?;
        let unfit: Option<String> =
            sqlx::query_scalar("SELECT ledger_begin_session()").fetch_one(&mut *transaction).await?;
        let unfit = unfit.expect("no ledger serves from such a session");
        assert!(unfit.contains(&format!("transactions are {}", level.to_lowercase())), "{unfit}");
        assert!(unfit.contains("SET default_transaction_isolation = 'read committed'"), "{unfit}");
        let refused = sqlx::query("SELECT ledger_admit('payments', 'acme', 'a', 1, gen_random_uuid())")
            .execute(&mut *transaction)
            .await
            .expect_err("it can't see what was committed meanwhile");
        assert!(refused.to_string().contains("a fenced write needs READ COMMITTED"), "{refused}");
        transaction.rollback().await?;
    }
    Ok(())
}
