//! The database of the work says during a term, or at its beginning, that another fleet leads (M-2): the worker ends, and
//! says what to set. Only `--forget-home`, a restore or a hand can bring that about, since each worker asks at its start.

use lease_testbed::{Signal, wait_until};

use crate::stage::{LIMIT, Pools, Stage, Worker};

const MOVED_BY_HAND: &str = "UPDATE leasehold_homes SET mode = 'etcd' WHERE mode IS NOT NULL";

/// It ends by itself, with the exit code and the sentence of a setting that is wrong from the start.
async fn is_told(worker: &Worker) -> anyhow::Result<()> {
    let code = worker.process.wait(LIMIT).await?.code();
    let error = worker.process.lines().into_iter().rev().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_default();
    assert_eq!(code, Some(2), "{error}");
    for part in ["led in mode etcd", "migrateFrom to etcd", "--forget-home"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    Ok(())
}

async fn a_leader_whose_home_is_elsewhere_by_now_ends(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let old = stage.forwarder("old", &ingest.address).await?;
    old.leads().await?;
    stage.append(0, 100).await?;
    stage.all_arrived(100).await?;
    let heir = stage.forwarder("heir", &ingest.address).await?;
    heir.ready().await?;
    match &stage.pools {
        Pools::Sqlite { outbox, .. } => {
            sqlx::query(MOVED_BY_HAND).execute(outbox).await?;
        }
        Pools::Postgres { outbox, .. } => {
            sqlx::query(MOVED_BY_HAND).execute(outbox).await?;
        }
    }
    old.process.signal(Signal::TERM)?;
    assert_eq!(old.process.wait(LIMIT).await?.code(), Some(0));
    is_told(&heir).await?;
    assert!(
        stage.operator(&["status", "outbox-forwarder"]).await?.contains("free"),
        "it gave the lease back"
    );
    Ok(())
}

#[tokio::test]
async fn sqlite_a_leader_whose_home_is_elsewhere_by_now_ends() -> anyhow::Result<()> {
    a_leader_whose_home_is_elsewhere_by_now_ends(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_a_leader_whose_home_is_elsewhere_by_now_ends() -> anyhow::Result<()> {
    a_leader_whose_home_is_elsewhere_by_now_ends(Stage::postgres().await?).await
}

/// Its look at the start is passed, and the home changes while the database gives it a term.
#[tokio::test]
async fn in_mode_disabled_the_refused_term_ends_it_and_waiting_for_one_is_no_lease_stores_silence()
-> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let ingest = stage.ingest().await?;
    let disabled = ["--mode", "disabled"];
    let first = stage.forwarder_with("a", &ingest.address, &stage.outbox, &disabled).await?;
    first.leads().await?;
    first.process.signal(Signal::TERM)?;
    assert_eq!(first.process.wait(LIMIT).await?.code(), Some(0));

    let Pools::Postgres { outbox, .. } = &stage.pools else { unreachable!("it is postgres") };
    let mut by_hand = outbox.begin().await?;
    sqlx::query("SELECT FROM leasehold_fence_marks FOR UPDATE").execute(&mut *by_hand).await?;
    let second = stage.forwarder_with("b", &ingest.address, &stage.outbox, &disabled).await?;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    wait_until("it waits for a term", LIMIT, || async {
        stage.outbox_int(waiting).await.is_ok_and(|sessions| sessions > 0)
    })
    .await?;
    let (status, why) = second.get("/readyz").await?;
    assert!(status == 503 && why.contains("the work's database gives no term"), "{status} {why}");
    sqlx::query(MOVED_BY_HAND).execute(&mut *by_hand).await?;
    by_hand.commit().await?;
    is_told(&second).await
}
