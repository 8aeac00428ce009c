//! A sweeper or a ledger that is killed in the middle of a write: done once or not at all.

use lease_testbed::{Proxy, wait_until};
use sqlx::{Connection, PgConnection};

use crate::stage::{LIMIT, Ledger, Stage, attempt, expired, fence, outcome, reserve, server, won};
use crate::sweeping::{SHORT, Sweeper, swept};

/// The point that the leader has reached when SIGKILL comes.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Its statement never arrives.
    Lost,
    /// Its statement is on its way, and still arrives.
    Sent,
    /// Its statement has written everything but the budget.
    Half,
    /// All is committed; it hasn't heard so.
    Unheard,
}

#[tokio::test]
async fn a_sweeper_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let mut all = 0;
    for step in [Step::Lost, Step::Sent, Step::Half, Step::Unheard] {
        let proxy = Proxy::postgres(server().await?.addr())?;
        let name = format!("{step:?}");
        let leader = Sweeper::start(&name, &proxy.url(&stage.url)?, leases.path(), &SHORT).await?;
        leader.leads().await?;
        wait_until("it polls", LIMIT, || async {
            leader.metric("loop_iterations_total").await.is_ok_and(|n| n >= 2.0)
        })
        .await?;
        // The rows that the last leader left are done by now, so that the trap catches the new ones.
        swept(&stage, all).await?;
        all += 150;
        match step {
            Step::Lost | Step::Sent => {
                let mut hold = proxy.hold(|request| request.sql_contains("ledger_sweep"));
                hold.held().await?;
                expired(&stage, 150).await?;
                leader.process.kill().await?;
                match step {
                    Step::Sent => hold.release(),
                    _ => hold.discard(),
                }
            }
            Step::Half => {
                let mut hold = proxy.hold(|request| request.sql_contains("ledger_sweep"));
                hold.held().await?;
                expired(&stage, 150).await?;
                let mut locker = PgConnection::connect(&stage.url).await?;
                let mut lock = locker.begin().await?;
                sqlx::query("SELECT FROM budgets FOR UPDATE").execute(&mut *lock).await?;
                hold.release();
                wait_until("its batch waits for the budget", LIMIT, || async {
                    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                        AND datname = current_database() AND query LIKE '%ledger_sweep%'";
                    stage.int(waiting).await.is_ok_and(|waiting| waiting == 1)
                })
                .await?;
                leader.process.kill().await?;
                lock.rollback().await?;
            }
            Step::Unheard => {
                let mut hold = proxy.hold(|request| request.sql_contains("ledger_sweep"));
                hold.held().await?;
                expired(&stage, 150).await?;
                let mut lost = proxy.lose_reply(|request| request.sql_contains("ledger_sweep"));
                hold.release();
                // The held one did a batch; the reply of the next is lost.
                lost.lost().await?;
                leader.process.kill().await?;
            }
        }
    }
    let last = Sweeper::start("last", &stage.url, leases.path(), &SHORT).await?;
    last.leads().await?;
    swept(&stage, all).await?;
    let epochs =
        "SELECT count(*) FROM (SELECT fencing_epoch, lag(fencing_epoch) OVER (ORDER BY event_id) AS before
        FROM reservation_events WHERE action = 'expire') AS e WHERE fencing_epoch < before";
    assert_eq!(stage.int(epochs).await?, 0, "no batch of an epoch follows one of a greater");
    Ok(())
}

/// A ledger that is killed has no state of its own: the client asks another with the same key.
#[tokio::test]
async fn a_ledger_killed_before_its_answer_did_it_once() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = Proxy::postgres(server().await?.addr())?;
    let first = Ledger::start(&proxy.url(&stage.url)?, &[]).await?;
    let mut client = first.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    assert!(outcome(client.reserve(reserve(&fence, "k0", 10)).await?)?.is_ok());
    let mut lost = proxy.lose_reply(|request| request.sql_contains("ledger_reserve"));
    let asked = reserve(&fence, "k1", 100);
    let request = asked.clone();
    let unanswered = tokio::spawn(async move { client.reserve(request).await });
    lost.lost().await?;
    first.process.kill().await?;
    assert!(unanswered.await?.is_err());
    let second = stage.ledger().await?;
    assert!(outcome(second.client().await?.reserve(asked).await?)?.is_ok());
    assert_eq!(stage.int("SELECT reserved_minor FROM budgets").await?, 110, "done once");
    stage.books_balance().await
}
