//! The forwarder that leads removes what it has forwarded long ago, and nothing else.

use lease_core::{Grant, Term};
use lease_spendguard::outbox;
use lease_testbed::{Signal, wait_until};
use lease_worker_common::database::{Database, StoreError};

use crate::stage::{LIMIT, Pools, Stage, Worker};

const ROWS: &str = "SELECT count(*) FROM audit_outbox";
const KEYS: &str = "SELECT count(*) FROM audit_outbox_global_keys";

/// Makes the first rows 31 days older.
async fn age(stage: &Stage, rows: i64) -> anyhow::Result<()> {
    match &stage.pools {
        Pools::Postgres { outbox, .. } => {
            let sql = "UPDATE audit_outbox SET forwarded_at = forwarded_at - interval '31 days',
                       created_at = created_at - interval '31 days' WHERE producer_sequence < $1";
            sqlx::query(sql).bind(rows).execute(outbox).await?;
        }
        Pools::Sqlite { outbox, .. } => {
            let sql = "UPDATE audit_outbox SET forwarded_at = forwarded_at - 31 * 86400000,
                       created_at = created_at - 31 * 86400000 WHERE producer_sequence < ?1";
            sqlx::query(sql).bind(rows).execute(outbox).await?;
        }
    }
    Ok(())
}

async fn stop(worker: Worker) -> anyhow::Result<()> {
    worker.process.signal(Signal::TERM)?;
    assert_eq!(worker.process.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}

async fn old_rows_go_batch_after_batch(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    stage.append(0, 1_200).await?;
    let first = stage.forwarder("a", &ingest.address).await?;
    stage.drained().await?;
    stop(first).await?;
    age(&stage, 1_100).await?;

    let keeps = ["--outbox-retention-days", "0"];
    let keeps = stage.forwarder_with("b", &ingest.address, &stage.outbox, &keeps).await?;
    wait_until("it has had time to remove them", LIMIT, || async {
        let rounds = keeps.metric("spendguard_outbox_forwarder_loop_iterations_total").await;
        rounds.is_ok_and(|rounds| rounds >= 3.0)
    })
    .await?;
    assert_eq!(stage.outbox_int(ROWS).await?, 1_200, "0 days are for ever");
    stop(keeps).await?;

    let removes = stage.forwarder("c", &ingest.address).await?;
    let metric = "spendguard_outbox_forwarder_rows_pruned_total";
    wait_until("old rows are gone", LIMIT, || async {
        removes.metric(metric).await.is_ok_and(|rows| rows == 1_100.0)
    })
    .await?;
    assert_eq!(stage.outbox_int(ROWS).await?, 100);
    assert_eq!(stage.outbox_int("SELECT min(producer_sequence) FROM audit_outbox").await?, 1_100);
    assert_eq!(stage.outbox_int(KEYS).await?, 1_200);
    assert!(stage.append(0, 1).await.is_err(), "a key is used only once");
    stage.append(1_200, 1_210).await?;
    stage.all_arrived(1_210).await
}

async fn what_waits_stays_and_an_old_term_removes_nothing(stage: Stage) -> anyhow::Result<()> {
    let database: Database = stage.outbox.parse().map_err(anyhow::Error::msg)?;
    let outbox = outbox::open(&database, false, LIMIT).await?;
    let term = |epoch: u64| Term { epoch, grant: Grant(epoch.into()) };
    stage.append(0, 3).await?;
    let first = outbox.pending(1, &[]).await?[0].outbox_id;
    outbox.mark_forwarded(term(2), &[first]).await?;
    age(&stage, 3).await?;
    assert!(matches!(outbox.prune(term(1), 30, 10).await, Err(StoreError::Stale(_))));
    assert_eq!(outbox.prune(term(2), 32, 10).await?, 0, "younger");
    assert_eq!(outbox.prune(term(2), 30, 10).await?, 1);
    assert_eq!(outbox.pending(10, &[]).await?.len(), 2, "however old");
    assert_eq!(outbox.prune(term(2), 30, 10).await?, 0);
    Ok(())
}

#[tokio::test]
async fn old_rows_go_and_their_keys_stay_in_postgres() -> anyhow::Result<()> {
    old_rows_go_batch_after_batch(Stage::postgres().await?).await
}

#[tokio::test]
async fn old_rows_go_and_their_keys_stay_in_sqlite() -> anyhow::Result<()> {
    old_rows_go_batch_after_batch(Stage::sqlite().await?).await
}

#[tokio::test]
async fn only_what_was_forwarded_goes_and_only_by_the_present_term_in_postgres() -> anyhow::Result<()> {
    what_waits_stays_and_an_old_term_removes_nothing(Stage::postgres().await?).await
}

#[tokio::test]
async fn only_what_was_forwarded_goes_and_only_by_the_present_term_in_sqlite() -> anyhow::Result<()> {
    what_waits_stays_and_an_old_term_removes_nothing(Stage::sqlite().await?).await
}

/// As where the tables are older than the program.
#[tokio::test]
async fn where_it_cannot_remove_rows_it_says_so_and_goes_on_forwarding() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let Pools::Postgres { outbox, .. } = &stage.pools else { unreachable!("it is Postgres") };
    sqlx::raw_sql("DROP FUNCTION audit_outbox_prune").execute(outbox).await?;
    let ingest = stage.ingest().await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    forwarder.process.wait_for_line("audit_outbox_prune", LIMIT).await?;
    stage.append(0, 10).await?;
    stage.all_arrived(10).await
}

/// The owner's trigger, which refuses, or which says nothing at all and keeps the rows.
#[tokio::test]
async fn rows_that_a_trigger_keeps_are_told_in_the_workers_log() -> anyhow::Result<()> {
    for (does, says) in [
        ("RAISE EXCEPTION 'an auditor keeps it'", "an auditor keeps it"),
        ("RETURN NULL", "a trigger or a rule of that table keeps them"),
    ] {
        let stage = Stage::postgres().await?;
        let ingest = stage.ingest().await?;
        stage.append(0, 20).await?;
        let first = stage.forwarder("a", &ingest.address).await?;
        stage.drained().await?;
        stop(first).await?;
        age(&stage, 10).await?;
        let Pools::Postgres { outbox, .. } = &stage.pools else { unreachable!("it is Postgres") };
        let trigger = format!(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; END $$;
             CREATE TRIGGER keep BEFORE DELETE ON audit_outbox FOR EACH ROW EXECUTE FUNCTION keep()"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(trigger)).execute(outbox).await?;
        let second = stage.forwarder("b", &ingest.address).await?;
        let told = second
            .process
            .wait_for_line("10 of 10 old rows of public.audit_outbox can not be removed", LIMIT)
            .await?;
        assert!(told.contains("WARN") && told.contains(says), "{told}");
        assert_eq!(stage.outbox_int(ROWS).await?, 20);
        stop(second).await?;
    }
    Ok(())
}
