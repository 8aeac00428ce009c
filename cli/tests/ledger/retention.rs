//! The ledger forgets what is old: in batches, by the leader only, and nothing that somebody still needs.

use std::time::Duration;

use lease_core::{Grant, Term};
use lease_spendguard::sweeper::store::{Expired, Retention};
use lease_testbed::{Proxy, wait_until};
use lease_worker_common::database::StoreError;
use lease_worker_common::home::{Home, Settlement};

use crate::stage::{LIMIT, Stage, expired, server};
use crate::sweeping::{SHORT, Sweeper, swept};

const KEEP: Retention = Retention { scope_days: 90, audit_days: 400 };
const AUDITS: &str = "SELECT count(*) FROM reservation_events";
const SCOPES: &str = "SELECT count(*) FROM fencing_scope_events";

fn term(epoch: u64) -> Term {
    Term { epoch, grant: Grant(epoch.into()) }
}

fn sweeper(stage: &Stage) -> Expired {
    let options = stage.url.parse().expect("it was used already");
    let home = Home { mode: "sqlite".into(), lease: "ttl-sweeper".into() };
    Expired::open(&options, Duration::from_secs(30), Settlement { home, from: None })
}

async fn prune(stage: &Stage, epoch: u64, keep: Retention, limit: u32) -> Result<u64, StoreError> {
    sweeper(stage).prune(term(epoch), keep, limit).await
}

/// Reservations that were made so many days ago, each with its audit row and its outbox row.
async fn made(stage: &Stage, count: i32, days: i32, state: &str, pending: bool) -> anyhow::Result<()> {
    sqlx::query(
        "WITH reservation AS (
            INSERT INTO reservations (reservation_id, tenant_id, amount_minor, currency, current_state, ttl_expires_at,
                fencing_scope_id, fencing_epoch, created_at)
            SELECT gen_random_uuid(), 'acme', 1, 'EUR', $3, clock_timestamp() + interval '1 hour', 'payments', 1,
                clock_timestamp() - make_interval(days => $2)
            FROM generate_series(1, $1) RETURNING *
         ), event AS (
            INSERT INTO reservation_events (tenant_id, idempotency_key, action, reservation_id, amount_minor, currency,
                state, expires_at, fencing_epoch, owner_instance_id, created_at)
            SELECT tenant_id, $2 || reservation_id::text, 'reserve', reservation_id, amount_minor, currency,
                'reserved', ttl_expires_at, 1, 'a', created_at
            FROM reservation RETURNING *
         )
         INSERT INTO audit_outbox (tenant_id, workload_instance_id, producer_sequence, event_time, payload,
                fencing_epoch, pending_forward, created_at)
         SELECT tenant_id, owner_instance_id, event_id, created_at, '{}', 1, $4, created_at FROM event",
    )
    .bind(count)
    .bind(days)
    .bind(state)
    .bind(pending)
    .execute(&stage.pool)
    .await?;
    Ok(())
}

/// Changes of the scope's holder, so many days ago, each a term of its own; the last is the present one.
async fn held(stage: &Stage, count: i32, days: i32) -> anyhow::Result<()> {
    sqlx::query(
        "WITH scope AS (
            UPDATE fencing_scopes SET current_epoch = current_epoch + $1 WHERE fencing_scope_id = 'payments'
            RETURNING current_epoch - $1 AS before
         )
         INSERT INTO fencing_scope_events (fencing_scope_id, tenant_id, old_epoch, new_epoch, owner_instance_id, action,
                created_at)
         SELECT 'payments', 'acme', before + n - 1, before + n, 'a', 'promote',
                clock_timestamp() - make_interval(days => $2)
         FROM scope, generate_series(1, $1) AS n",
    )
    .bind(count)
    .bind(days)
    .execute(&stage.pool)
    .await?;
    Ok(())
}

#[tokio::test]
async fn old_rows_go_batch_after_batch_and_young_ones_stay() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    held(&stage, 350, 91).await?;
    held(&stage, 3, 89).await?;
    made(&stage, 550, 401, "committed", false).await?;
    made(&stage, 5, 399, "released", false).await?;
    let sweeper = Sweeper::start("a", &stage.url, leases.path(), &[]).await?;
    // Well before the minute is over after which it looks again: of 100 rows a batch, a backlog waits for nothing.
    let soon = Duration::from_secs(30);
    wait_until("the old rows are gone", soon, || async {
        sweeper.metric("rows_pruned_total").await.is_ok_and(|rows| rows == 900.0)
    })
    .await?;
    assert_eq!(stage.int(SCOPES).await?, 3);
    assert_eq!(stage.int(AUDITS).await?, 5);
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 555, "budgets are sums of them");
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox").await?, 555);
    assert_eq!(sweeper.metric("skip_total{reason=\"ledger_unavailable\"}").await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn one_batch_is_no_more_than_its_limit_of_each_table() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    held(&stage, 26, 500).await?;
    made(&stage, 35, 500, "released", false).await?;
    for (pruned, scopes, audits) in [(20, 16, 25), (20, 6, 15), (15, 1, 5), (5, 1, 0), (0, 1, 0)] {
        assert_eq!(prune(&stage, 1, KEEP, 10).await?, pruned);
        assert_eq!((stage.int(SCOPES).await?, stage.int(AUDITS).await?), (scopes, audits));
    }
    Ok(())
}

#[tokio::test]
async fn a_live_reservation_keeps_its_audit_row() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    made(&stage, 2, 500, "reserved", false).await?;
    made(&stage, 7, 450, "released", false).await?;
    assert_eq!(prune(&stage, 1, KEEP, 4).await?, 4);
    assert_eq!(prune(&stage, 1, KEEP, 4).await?, 3);
    assert_eq!(prune(&stage, 1, KEEP, 4).await?, 0);
    let left = "SELECT count(*) FROM reservation_events NATURAL JOIN
                (SELECT reservation_id FROM reservations WHERE current_state = 'reserved') AS live";
    assert_eq!((stage.int(left).await?, stage.int(AUDITS).await?), (2, 2));
    Ok(())
}

#[tokio::test]
async fn what_is_still_to_be_forwarded_stays_and_keeps_nothing_else() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    made(&stage, 4, 500, "released", false).await?;
    made(&stage, 3, 450, "committed", true).await?;
    made(&stage, 2, 410, "released", false).await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 6);
    let waiting = "SELECT count(*) FROM reservation_events JOIN audit_outbox ON producer_sequence = event_id
                   WHERE pending_forward";
    assert_eq!((stage.int(waiting).await?, stage.int(AUDITS).await?), (3, 3));
    sqlx::raw_sql("UPDATE audit_outbox SET pending_forward = false").execute(&stage.pool).await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 3);
    Ok(())
}

/// A report that refers to a row, for example.
#[tokio::test]
async fn a_row_that_cannot_go_keeps_no_other() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    made(&stage, 5, 500, "released", false).await?;
    held(&stage, 5, 500).await?;
    sqlx::raw_sql(
        "CREATE TABLE report (event bigint REFERENCES reservation_events, change bigint REFERENCES fencing_scope_events);
         INSERT INTO report SELECT (SELECT min(event_id) FROM reservation_events), min(event_id) FROM fencing_scope_events",
    )
    .execute(&stage.pool)
    .await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 4 + 3);
    assert_eq!((stage.int(AUDITS).await?, stage.int(SCOPES).await?), (1, 2), "and the present term's");
    Ok(())
}

/// Somebody's trigger, which knows Leasehold's conventions no better than Leasehold knows its.
#[tokio::test]
async fn a_row_that_a_strangers_trigger_keeps_by_a_sqlstate_of_its_own_keeps_no_other() -> anyhow::Result<()>
{
    let stage = Stage::new().await?;
    made(&stage, 5, 500, "released", false).await?;
    sqlx::raw_sql(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF OLD.event_id = (SELECT min(event_id) FROM public.reservation_events) THEN
                 RAISE EXCEPTION 'an auditor keeps it' USING ERRCODE = 'AU001';
             END IF;
             RETURN OLD;
         END $$;
         CREATE TRIGGER keep BEFORE DELETE ON reservation_events FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .execute(&stage.pool)
    .await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 4);
    assert_eq!(stage.int(AUDITS).await?, 1);
    Ok(())
}

/// Only the head of a long queue is looked at. What waits behind it is younger by the database's clock, whatever times its
/// events claim.
#[tokio::test]
async fn what_waits_behind_a_thousand_events_of_the_future_stays() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    made(&stage, 3, 600, "released", false).await?;
    sqlx::raw_sql(
        "INSERT INTO audit_outbox (tenant_id, workload_instance_id, producer_sequence, event_time, payload, fencing_epoch,
                created_at)
         SELECT 'acme', 'ahead', n, clock_timestamp() + interval '10 years', '{}', 1, clock_timestamp() - interval '500 days'
         FROM generate_series(1000001, 1001000) AS n",
    )
    .execute(&stage.pool)
    .await?;
    made(&stage, 4, 450, "committed", true).await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 3, "older than all that waits");
    assert_eq!(stage.int(AUDITS).await?, 4);
    Ok(())
}

#[tokio::test]
async fn a_scopes_present_term_keeps_its_rows() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    held(&stage, 5, 500).await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 4);
    assert_eq!(
        stage.texts("SELECT old_epoch || ' to ' || new_epoch FROM fencing_scope_events").await?,
        ["4 to 5"]
    );
    held(&stage, 1, 0).await?;
    assert_eq!(prune(&stage, 1, KEEP, 100).await?, 1);
    Ok(())
}

#[tokio::test]
async fn zero_days_keep_for_ever() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    held(&stage, 5, 30_000).await?;
    made(&stage, 5, 30_000, "released", false).await?;
    assert_eq!(prune(&stage, 1, Retention { scope_days: 0, audit_days: 0 }, 100).await?, 0);
    assert_eq!(prune(&stage, 1, Retention { scope_days: 90, audit_days: 0 }, 100).await?, 4);
    assert_eq!((stage.int(SCOPES).await?, stage.int(AUDITS).await?), (1, 5));
    Ok(())
}

#[tokio::test]
async fn an_old_term_removes_nothing() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    assert_eq!(prune(&stage, 8, KEEP, 100).await?, 0);
    held(&stage, 5, 500).await?;
    made(&stage, 5, 500, "released", false).await?;
    let refusal = prune(&stage, 7, KEEP, 100).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Stale(_)), "{refusal}");
    assert_eq!((stage.int(SCOPES).await?, stage.int(AUDITS).await?), (5, 5));
    Ok(())
}

/// Its statement is on its way while it is stopped past its ttl, and arrives after its successor's first.
#[tokio::test]
async fn a_late_batch_of_a_paused_leader_removes_nothing() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    held(&stage, 5, 500).await?;
    let proxy = Proxy::postgres(server().await?.addr())?;
    let mut hold = proxy.hold(|request| request.sql_contains("ledger_prune"));
    // It must not give its call up before it has heard the answer, however long the successor takes.
    let patient = ["--ttl", "2s", "--sweeper-call-timeout", "120s"];
    let old = Sweeper::start("old", &proxy.url(&stage.url)?, leases.path(), &patient).await?;
    hold.held().await?;
    old.process.pause().await?;
    let for_ever = ["--sweeper-scope-event-retention-days", "0", "--sweeper-audit-retention-days", "0"];
    let for_ever = [&for_ever[..], &SHORT].concat();
    let new = Sweeper::start("new", &stage.url, leases.path(), &for_ever).await?;
    new.leads().await?;
    wait_until("the successor has acted", LIMIT, || async {
        new.metric("loop_iterations_total").await.is_ok_and(|n| n >= 3.0)
    })
    .await?;
    hold.release();
    old.process.resume()?;
    old.process.wait_for_line("lease expired locally; skip batch until renewed", LIMIT).await?;
    old.process.wait_for_line("a late write was refused by the fence", LIMIT).await?;
    assert_eq!(stage.int(SCOPES).await?, 5);
    assert_eq!(old.metric("rows_pruned_total").await?, 0.0);
    Ok(())
}

/// As in an upgrade whose migration has not run yet.
#[tokio::test]
async fn where_it_cannot_remove_rows_it_says_so_and_goes_on_sweeping() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    sqlx::raw_sql("DROP FUNCTION ledger_prune").execute(&stage.pool).await?;
    let sweeper = Sweeper::start("a", &stage.url, leases.path(), &[]).await?;
    let warning = sweeper.process.wait_for_line("batch failed; retrying", LIMIT).await?;
    assert!(warning.contains("ledger_prune"), "{warning}");
    expired(&stage, 150).await?;
    swept(&stage, 150).await?;
    assert_eq!(sweeper.metric("skip_total{reason=\"ledger_unavailable\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn no_statement_of_a_sweeper_admits_a_term_of_a_fleet_that_is_not_at_home() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    expired(&stage, 2).await?;
    let home =
        "UPDATE leasehold_homes SET mode = 'etcd', lease = 'ttl-sweeper' WHERE resource = 'ttl_sweeper'";
    sqlx::raw_sql(home).execute(&stage.pool).await?;
    let rows: Vec<_> =
        sqlx::query_scalar("SELECT reservation_id FROM reservations").fetch_all(&stage.pool).await?;
    let refused = prune(&stage, 1, KEEP, 10).await;
    assert!(matches!(refused, Err(StoreError::LedElsewhere)), "{refused:?}");
    assert!(sweeper(&stage).sweep_these(term(1), "a", &rows).await.is_err());
    assert!(sweeper(&stage).sweep(term(1), "a", 10).await.is_err());
    let marks = "SELECT count(*) FROM leasehold_fence_marks WHERE resource = 'ttl_sweeper' AND epoch > 0";
    assert_eq!(stage.int(marks).await?, 0);
    sqlx::raw_sql("UPDATE leasehold_homes SET mode = NULL, lease = NULL").execute(&stage.pool).await?;
    assert_eq!(sweeper(&stage).sweep_these(term(1), "a", &rows).await?, 2);
    let home = "SELECT count(*) FROM leasehold_homes WHERE resource = 'ttl_sweeper' AND mode = 'sqlite'";
    assert_eq!(stage.int(home).await?, 1, "where it leads is known from its first term on");
    stage.books_balance().await
}
