//! A database that crashes, and one that was restored from a backup.

use lease_spendguard::ledger;
use lease_testbed::{Postgres, PostgresOptions, wait_until};
use sqlx::postgres::PgConnectOptions;

use crate::stage::{LIMIT, Ledger, SCOPE, Stage, TENANT, attempt, fence, outcome, reserve, won};

/// Writes go on while the server is killed and started again; each is repeated with its key until it is answered.
#[tokio::test]
async fn a_crash_of_the_database_loses_and_doubles_nothing() -> anyhow::Result<()> {
    let server = Postgres::start(PostgresOptions::default()).await?;
    let url = server.create_database("ledger").await?;
    let options: PgConnectOptions = url.parse()?;
    ledger::migrate(&options).await?;
    ledger::add_scope(&options, SCOPE, TENANT).await?;
    ledger::set_budget(&options, TENANT, "EUR", 1_000_000).await?;
    let stage = Stage { url: url.clone(), pool: sqlx::PgPool::connect_lazy(&url)? };
    let process = Ledger::start(&url, &[]).await?;
    let client = process.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (client, fence) = (client.clone(), fence.clone());
        writers.spawn(async move {
            for number in 0..40 {
                let asked = reserve(&fence, &format!("{writer}-{number}"), 1);
                wait_until("the write is answered", LIMIT, async || {
                    let answer = client.clone().reserve(asked.clone()).await;
                    answer.is_ok_and(|answer| outcome(answer).is_ok_and(|outcome| outcome.is_ok()))
                })
                .await?;
            }
            anyhow::Ok(())
        });
    }
    wait_until("writes go through", LIMIT, || async {
        stage.int("SELECT reserved_minor FROM budgets").await.is_ok_and(|reserved| reserved >= 20)
    })
    .await?;
    server.crash().await?;
    server.start_again().await?;
    writers.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    assert_eq!(stage.int("SELECT reserved_minor FROM budgets").await?, 320);
    stage.books_balance().await
}

/// canonical-ingest knows the numbers that the backup has forgotten: none of them may name another event.
#[tokio::test]
async fn numbers_go_on_above_what_a_restored_backup_has_forgotten() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let before = stage.ledger().await?;
    let mut client = before.client().await?;
    let term = fence("a", &won(&client, attempt("a")).await?);
    assert!(outcome(client.reserve(reserve(&term, "k1", 1)).await?)?.is_ok());
    let newest = stage.int("SELECT max(producer_sequence) FROM audit_outbox").await?;
    // As a backup from long ago has it.
    stage.int("SELECT setval('reservation_events_event_id_seq', 7)").await?;
    let after = stage.ledger().await?;
    assert!(outcome(after.client().await?.reserve(reserve(&term, "k2", 1)).await?)?.is_ok());
    assert!(stage.int("SELECT max(producer_sequence) FROM audit_outbox").await? > newest);
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox WHERE producer_sequence < 1000000").await?, 0);
    stage.books_balance().await
}

/// A server that would forget acknowledged writes is refused, with what to do.
#[tokio::test]
async fn a_database_that_may_forget_acknowledged_writes_is_refused() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let url = format!("{}?options=-csynchronous_commit%3Doff", stage.url);
    let ledger = Ledger::start(&url, &[]).await?;
    let refusal =
        ledger.client().await?.acquire_fencing_lease(attempt("a")).await.expect_err("not safe here");
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
    ledger.process.wait_for_line("set fsync = on and synchronous_commit = on", LIMIT).await?;
    assert_eq!(crate::stage::page(&ledger.pages, "/readyz").await?.0, 503);
    Ok(())
}
