//! The ttl-sweeper: of several exactly one leads; what it releases is in the books; an old leader knows before it acts.

use std::path::Path;

use lease_testbed::{Process, Proxy, Signal, wait_until};
use lease_worker_common::bad_rows::is_of_the_data;

use crate::stage::{LIMIT, Stage, expired, field, metric, page, server, start, until_ready};

/// For tests in which a lease runs out.
pub(crate) const SHORT: [&str; 2] = ["--ttl", "2s"];

/// Else it looks as often, but no late beat ends a term.
const LONG: [&str; 6] = ["--ttl", "15s", "--renew-interval", "600ms", "--retry-interval", "130ms"];

/// One process of `leasehold worker ttl-sweeper`.
pub(crate) struct Sweeper {
    pub(crate) process: Process,
    pub(crate) pages: String,
}

impl Sweeper {
    pub(crate) async fn start(name: &str, url: &str, leases: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let leases = leases.join("leases.sqlite").display().to_string();
        let lease = ["--mode", "sqlite", "--sqlite-path", &leases];
        // `more` may say its own.
        let lease = if more.contains(&"--mode") { &[] } else { &lease[..] };
        let times = if more.contains(&"--ttl") { &[] } else { &LONG[..] };
        let args = [
            "worker",
            "ttl-sweeper",
            "--workload-id",
            name,
            "--sweeper-db-url",
            url,
            "--listen",
            "127.0.0.1:0",
        ];
        let batches = ["--sweeper-poll-interval", "50ms", "--sweeper-batch-size", "100"];
        let args = [&args[..], &batches, lease, times, more].concat();
        let (process, line) = start(&args).await?;
        let pages = field(&line, "address")?.to_owned();
        Ok(Self { process, pages })
    }

    pub(crate) async fn leads(&self) -> anyhow::Result<String> {
        self.process.wait_for_line("leading", LIMIT).await
    }

    /// Waits for the count of rows that it has swept, which follows the sweep.
    async fn has_counted(&self, all: f64) -> anyhow::Result<()> {
        wait_until(&format!("{all} are counted"), LIMIT, async || {
            self.metric("reservations_swept_total").await.is_ok_and(|swept| swept == all)
        })
        .await
    }

    pub(crate) async fn metric(&self, what: &str) -> anyhow::Result<f64> {
        metric(&self.pages, &format!("spendguard_ttl_sweeper_{what}")).await
    }
}

/// Waits until nothing is left to release, and each reservation was released once.
pub(crate) async fn swept(stage: &Stage, all: i64) -> anyhow::Result<()> {
    wait_until("every expired reservation is released", LIMIT, || async {
        let left = stage.int("SELECT count(*) FROM reservations WHERE current_state = 'reserved'").await;
        left.is_ok_and(|left| left == 0)
    })
    .await?;
    assert_eq!(stage.int("SELECT count(*) FROM reservation_events WHERE action = 'expire'").await?, all);
    assert_eq!(
        stage.int("SELECT count(*) FROM audit_outbox WHERE payload ->> 'action' = 'expire'").await?,
        all
    );
    assert_eq!(stage.int("SELECT reserved_minor FROM budgets").await?, 0);
    stage.books_balance().await
}

#[tokio::test]
async fn of_two_exactly_one_leads_and_a_stop_hands_over() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    expired(&stage, 250).await?;
    let first = Sweeper::start("a", &stage.url, leases.path(), &[]).await?;
    first.leads().await?;
    let second = Sweeper::start("b", &stage.url, leases.path(), &[]).await?;
    second.process.wait_for_line("standing by", LIMIT).await?;
    swept(&stage, 250).await?;
    assert_eq!((first.metric("is_leader").await?, second.metric("is_leader").await?), (1.0, 0.0));
    first.has_counted(250.0).await?;
    assert_eq!(second.metric("reservations_swept_total").await?, 0.0);
    assert!(first.metric("loop_iterations_total").await? >= 3.0, "250 are at least 3 batches");
    assert_eq!(second.metric("loop_iterations_total").await?, 0.0);
    assert_eq!(first.metric("skip_total{reason=\"lease_expired\"}").await?, 0.0);
    wait_until("a beat was counted", LIMIT, || async {
        first.metric("leader_age_seconds_count").await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    for sweeper in [&first, &second] {
        until_ready(&sweeper.pages).await?;
        assert_eq!(metric(&sweeper.pages, "spendguard_reservations_expired_oldest_age_seconds").await?, 0.0);
    }
    let rows = stage
        .texts("SELECT DISTINCT concat_ws(' ', workload_instance_id, fencing_epoch) FROM audit_outbox WHERE payload ->> 'action' = 'expire'")
        .await?;
    assert_eq!(rows, ["a 1"], "in the name and epoch of the leader");

    first.process.signal(Signal::TERM)?;
    assert_eq!(first.process.wait(LIMIT).await?.code(), Some(0));
    second.leads().await?;
    expired(&stage, 50).await?;
    swept(&stage, 300).await?;
    second.process.signal(Signal::INT)?;
    assert_eq!(second.process.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}

/// A reservation whose time is not over stays.
#[tokio::test]
async fn leaves_live_reservations_alone() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    expired(&stage, 3).await?;
    sqlx::raw_sql(
        "UPDATE reservations SET ttl_expires_at = clock_timestamp() + interval '1 hour'
         WHERE reservation_id = (SELECT min(reservation_id::text)::uuid FROM reservations)",
    )
    .execute(&stage.pool)
    .await?;
    let sweeper = Sweeper::start("a", &stage.url, leases.path(), &[]).await?;
    wait_until("two are released", LIMIT, || async {
        sweeper.metric("reservations_swept_total").await.is_ok_and(|swept| swept == 2.0)
    })
    .await?;
    let before = sweeper.metric("loop_iterations_total").await?;
    wait_until("it looked again", LIMIT, || async {
        sweeper.metric("loop_iterations_total").await.is_ok_and(|now| now >= before + 3.0)
    })
    .await?;
    assert_eq!(stage.int("SELECT reserved_minor FROM budgets").await?, 1);
    stage.books_balance().await
}

/// Its statement is on its way while it is stopped past its ttl: it warns before anything else, and is refused.
#[tokio::test]
async fn a_late_batch_of_a_paused_leader_is_refused() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let proxy = Proxy::postgres(server().await?.addr())?;
    // It must not give its call up before it has heard the answer, however long the successor takes.
    let patient = ["--ttl", "2s", "--sweeper-call-timeout", "120s"];
    let old = Sweeper::start("old", &proxy.url(&stage.url)?, leases.path(), &patient).await?;
    old.leads().await?;
    wait_until("it polls", LIMIT, || async {
        old.metric("loop_iterations_total").await.is_ok_and(|n| n >= 2.0)
    })
    .await?;
    let mut hold = proxy.hold(|request| request.sql_contains("ledger_sweep"));
    hold.held().await?;
    old.process.pause().await?;
    expired(&stage, 120).await?;
    let new = Sweeper::start("new", &stage.url, leases.path(), &SHORT).await?;
    new.leads().await?;
    swept(&stage, 120).await?;
    expired(&stage, 1).await?;
    hold.release();
    old.process.resume()?;
    let warning = old.process.wait_for_line("lease expired locally; skip batch until renewed", LIMIT).await?;
    assert!(warning.contains("WARN") && warning.contains("expires_at=20"), "{warning}");
    let refusal = old.process.wait_for_line("a late write was refused by the fence", LIMIT).await?;
    assert!(refusal.contains("FENCING_EPOCH_STALE"), "{refusal}");
    let lines = old.process.lines();
    let at = |text: &str| lines.iter().position(|line| line.contains(text));
    assert!(at("lease expired locally") < at("a late write was refused"));
    assert_eq!(old.metric("skip_total{reason=\"fence_refused\"}").await?, 1.0);
    assert_eq!(old.metric("skip_total{reason=\"lease_expired\"}").await?, 1.0);
    assert_eq!(old.metric("reservations_swept_total").await?, 0.0);
    swept(&stage, 121).await?;
    assert_eq!(old.process.exit_status(), None, "it stands by");
    Ok(())
}

#[tokio::test]
async fn disabled_an_accidental_second_instance_fences_the_first_out() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let alone = &["--mode", "disabled"];
    let first = Sweeper::start("a", &stage.url, leases.path(), alone).await?;
    first.leads().await?;
    let second = Sweeper::start("b", &stage.url, leases.path(), alone).await?;
    second.leads().await?;
    first.process.wait_for_line("another instance does this work", LIMIT).await?;
    assert_eq!(page(&first.pages, "/readyz").await?.0, 503);
    expired(&stage, 10).await?;
    swept(&stage, 10).await?;
    second.has_counted(10.0).await?;
    for sweeper in [first, second] {
        sweeper.process.signal(Signal::TERM)?;
        assert_eq!(sweeper.process.wait(LIMIT).await?.code(), Some(0));
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_no_event_id_can_hold_is_refused_before_the_start() -> anyhow::Result<()> {
    let process = Process::command(env!("CARGO_BIN_EXE_leasehold"))?
        .env_clear()
        .args(["worker", "ttl-sweeper", "--mode", "disabled", "--workload-id", "pod/1"])
        .args(["--sweeper-db-url", "postgres://me@127.0.0.1:1/ledger"])
        .spawn()?;
    assert_eq!(process.wait(LIMIT).await?.code(), Some(2));
    process.wait_for_line("use one without '/'", LIMIT).await?;
    Ok(())
}

/// More of them than the pool has connections: each is left at its limit, and another takes its place.
#[tokio::test]
async fn calls_that_are_never_answered_use_no_connections_up() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let proxy = Proxy::postgres(server().await?.addr())?;
    // Long enough for a first call, which connects.
    let impatient = ["--sweeper-call-timeout", "2s"];
    let sweeper = Sweeper::start("a", &proxy.url(&stage.url)?, leases.path(), &impatient).await?;
    sweeper.leads().await?;
    let mut never = Vec::new();
    for _ in 0..5 {
        let mut hold = proxy.hold(|request| request.executes() && request.sql_contains("ledger_sweep"));
        hold.held().await?;
        never.push(hold);
    }
    expired(&stage, 1).await?;
    swept(&stage, 1).await
}

/// One whose release the tables refuse, the oldest of all: its budget has less reserved than it.
#[tokio::test]
async fn a_reservation_that_cannot_be_released_is_named_and_holds_up_no_other() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    expired(&stage, 250).await?;
    let bad = "00000000-0000-0000-0000-00000000bad1";
    sqlx::raw_sql(
        "INSERT INTO budgets (tenant_id, currency, limit_minor) VALUES ('globex', 'EUR', 100);
         INSERT INTO reservations (reservation_id, tenant_id, amount_minor, currency, ttl_expires_at, fencing_scope_id,
             fencing_epoch)
         VALUES ('00000000-0000-0000-0000-00000000bad1', 'globex', 5, 'EUR', now() - interval '1 day', 'payments', 1)",
    )
    .execute(&stage.pool)
    .await?;
    let sweeper = Sweeper::start("a", &stage.url, leases.path(), &[]).await?;
    let named = sweeper.process.wait_for_line(&format!("reservation {bad} can't be released"), LIMIT).await?;
    assert!(named.contains("WARN") && named.contains("budgets_reserved_minor_check"), "{named}");
    let left = "SELECT count(*) FROM reservations WHERE current_state = 'reserved'";
    wait_until("all others are released", LIMIT, || async {
        stage.int(left).await.is_ok_and(|left| left == 1)
    })
    .await?;
    sweeper.has_counted(250.0).await?;
    assert!(sweeper.metric("rows_left_out_total").await? >= 1.0);
    assert!(sweeper.metric("skip_total{reason=\"reservation_refused\"}").await? >= 1.0);
    assert_eq!(sweeper.metric("skip_total{reason=\"ledger_unavailable\"}").await?, 0.0);
    // Those that expire later don't wait for it either.
    expired(&stage, 10).await?;
    sweeper.has_counted(260.0).await?;
    // It is tried again, once it may have been put right.
    sqlx::raw_sql("UPDATE budgets SET reserved_minor = 5 WHERE tenant_id = 'globex'")
        .execute(&stage.pool)
        .await?;
    sweeper.has_counted(261.0).await?;
    assert_eq!(stage.int(left).await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_the_data_are_at_fault_for_is_told_from_an_outage() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    for (sql, of_the_data) in [
        ("SELECT 1 / 0", true),
        ("INSERT INTO budgets VALUES ('', 'EUR', 1)", true),
        ("SELECT ('\"' || chr(1) || '\"')::json", true),
        ("SELECT (repeat('[', 100000) || repeat(']', 100000))::json", true),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)", false),
        ("SELECT nothing FROM nowhere", false),
        ("SET LOCAL transaction_read_only = on; DELETE FROM budgets", false),
        ("SELECT pg_terminate_backend(pg_backend_pid())", false),
    ] {
        let error = sqlx::raw_sql(sql).execute(&stage.pool).await.expect_err(sql);
        assert_eq!(is_of_the_data(&error), of_the_data, "{sql}: {error}");
    }
    Ok(())
}
