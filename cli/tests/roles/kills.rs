//! A leader that is killed at any point loses nothing and doubles nothing.

use lease_testbed::{Direction, Flow, Proxy, wait_until};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use crate::stage::{LIMIT, Pools, SHORT, Stage, Worker};

const POST: &str = "POST /v1/events";

/// The point that the leader has reached when SIGKILL comes.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Its request is on its way, and still arrives.
    RequestSent,
    /// Its request is on its way, and never arrives.
    RequestLost,
    /// The events are in the canonical store; it hasn't heard so.
    ReplyLost,
    /// It has heard so; its rows aren't marked.
    BeforeMarking,
    /// Its rows are marked; it hasn't heard so. (SQLite answers within the process: there is no such moment.)
    MarkedUnheard,
}

async fn killed_at(
    step: Step,
    stage: &Stage,
    ingest: &Worker,
    rows: std::ops::Range<i64>,
) -> anyhow::Result<()> {
    let http = ingest.proxy()?;
    let postgres = stage.server.as_ref().map(|server| Proxy::postgres(server.addr())).transpose()?;
    let outbox = match &postgres {
        Some(proxy) => proxy.url(&stage.outbox)?,
        None => stage.outbox.clone(),
    };
    let name = format!("{step:?}");
    let leader = stage.forwarder_with(&name, &http.addr().to_string(), &outbox, &SHORT).await?;
    leader.leads().await?;
    // The rows that the last leader left go first, so that the trap catches the new ones.
    stage.drained().await?;
    let before = stage.canonical_int("SELECT count(*) FROM canonical_events").await?;
    match (step, &postgres) {
        (Step::RequestSent | Step::RequestLost, _) => {
            let mut hold = http.hold(|request| request.contains(POST));
            stage.append(rows.start, rows.end).await?;
            hold.held().await?;
            leader.process.kill().await?;
            match step {
                Step::RequestSent => hold.release(),
                _ => hold.discard(),
            }
        }
        (Step::ReplyLost, _) => {
            let mut lost = http.lose_reply(|request| request.contains(POST));
            stage.append(rows.start, rows.end).await?;
            lost.lost().await?;
            leader.process.kill().await?;
            assert!(stage.canonical_int("SELECT count(*) FROM canonical_events").await? > before);
        }
        (Step::BeforeMarking, Some(postgres)) => {
            // Its first act, the admission of its term, is over once it has asked for rows and found none.
            wait_until("it polls", LIMIT, || async {
                leader
                    .metric("spendguard_outbox_forwarder_loop_iterations_total")
                    .await
                    .is_ok_and(|n| n >= 2.0)
            })
            .await?;
            let mut hold = postgres.hold(|request| request.sql_contains("leasehold_admit"));
            stage.append(rows.start, rows.end).await?;
            hold.held().await?;
            leader.process.kill().await?;
            hold.release();
        }
        (Step::BeforeMarking, None) => {
            let Pools::Sqlite { outbox, .. } = &stage.pools else { unreachable!("no Postgres, so SQLite") };
            let mut hold = http.hold(|request| request.contains(POST));
            stage.append(rows.start, rows.end).await?;
            hold.held().await?;
            let mut writer: sqlx::pool::PoolConnection<sqlx::Sqlite> = outbox.acquire().await?;
            let lock = SqliteConnection::begin_with(&mut writer, "BEGIN IMMEDIATE").await?;
            hold.release();
            wait_until("the batch is ingested", LIMIT, || async {
                let now = stage.canonical_int("SELECT count(*) FROM canonical_events").await;
                now.is_ok_and(|now| now > before)
            })
            .await?;
            leader.process.kill().await?;
            lock.rollback().await?;
        }
        (Step::MarkedUnheard, Some(postgres)) => {
            let mut lost = postgres.lose_reply(|request| request.sql_contains("COMMIT"));
            stage.append(rows.start, rows.end).await?;
            lost.lost().await?;
            leader.process.kill().await?;
        }
        (Step::MarkedUnheard, None) => unreachable!("there is no such moment"),
    }
    Ok(())
}

async fn killed_at_each(steps: &[Step], stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let mut written = 0;
    for step in steps {
        killed_at(*step, &stage, &ingest, written..written + 300).await?;
        written += 300;
    }
    let last = stage.forwarder_with("last", &ingest.address, &stage.outbox, &SHORT).await?;
    stage.all_arrived(written).await?;
    // At least the batches of which the ingest had already heard were sent again.
    assert!(ingest.metric("spendguard_canonical_ingest_events_duplicate_total").await? >= 1.0);
    assert_eq!(last.process.exit_status(), None);
    Ok(())
}

#[tokio::test]
async fn sqlite_a_leader_killed_at_any_step_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let steps = [Step::RequestSent, Step::RequestLost, Step::ReplyLost, Step::BeforeMarking];
    killed_at_each(&steps, Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_a_leader_killed_at_any_step_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let steps =
        [Step::RequestSent, Step::RequestLost, Step::ReplyLost, Step::BeforeMarking, Step::MarkedUnheard];
    killed_at_each(&steps, Stage::postgres().await?).await
}

/// The ingest is killed too: what it hasn't acknowledged is sent again, what it has is kept.
#[tokio::test]
async fn an_ingest_killed_in_the_middle_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let proxy = ingest.proxy()?;
    let leader = stage.forwarder("a", &proxy.addr().to_string()).await?;
    leader.leads().await?;
    // No answer of this one gets back, however late it is killed.
    proxy.set_flow(Direction::ToClient, Flow::Stall);
    stage.append(0, 300).await?;
    wait_until("the events are ingested", LIMIT, || async {
        stage.canonical_int("SELECT count(*) FROM canonical_events").await.is_ok_and(|count| count == 300)
    })
    .await?;
    ingest.process.kill().await?;
    let again = stage.ingest().await?;
    proxy.switch_upstream(again.address.parse()?);
    proxy.cut().await;
    proxy.heal();
    stage.append(300, 600).await?;
    stage.all_arrived(600).await?;
    assert!(again.metric("spendguard_canonical_ingest_events_duplicate_total").await? >= 1.0);
    assert_eq!(leader.process.exit_status(), None);
    Ok(())
}
