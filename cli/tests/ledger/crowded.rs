//! Writes that are stuck, of whichever tenant: no scope is lost because of them.

use std::time::Duration;

use lease_spendguard::rpc::ledger::v1;
use lease_testbed::{Signal, wait_until};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tonic::Code;

use crate::stage::{
    LIMIT, Ledger, PATIENT, SCOPE, Stage, TENANT, attempt, fence, outcome, reserve, until_ready, won,
};

/// More writes than there are places wait for a budget that somebody has locked.
#[tokio::test]
async fn a_locked_budget_keeps_no_scope_from_being_renewed_taken_or_freed() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let few =
        ["--ledger-max-connections", "2", "--ledger-max-requests", "8", "--ledger-call-timeout", "600s"];
    let ledger = stage.ledger_with(&few).await?;
    let client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let elsewhere = |instance| v1::AcquireFencingLeaseRequest {
        fencing_scope_id: format!("{SCOPE}/{instance}"),
        ..attempt(instance)
    };
    let other = won(&client, elsewhere("b")).await?;

    let mut locker = PgConnection::connect(&stage.url).await?;
    let mut lock = locker.begin().await?;
    sqlx::query("SELECT FROM budgets FOR UPDATE").execute(&mut *lock).await?;
    let mut stuck = JoinSet::new();
    for number in 0..12 {
        let (client, asked) = (client.clone(), reserve(&fence("a", &term), &format!("k{number}"), 1));
        stuck.spawn(async move {
            loop {
                match client.clone().reserve(asked.clone()).await {
                    Err(busy) if busy.code() == Code::ResourceExhausted => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    answer => return answer,
                }
            }
        });
    }
    wait_until("every place is taken", LIMIT, async || {
        let mut asked = tonic::Request::new(reserve(&fence("a", &term), "k9", 1));
        // It may be sooner than one of them, and stuck itself.
        asked.set_timeout(Duration::from_secs(1));
        let one_more = client.clone().reserve(asked).await;
        one_more.is_err_and(|status| status.code() == Code::ResourceExhausted)
    })
    .await?;

    // Also that of the very scope whose writes are stuck.
    let renewal = v1::AcquireFencingLeaseRequest { grant: term.grant.clone(), ..attempt("a") };
    assert_eq!(won(&client, renewal).await?.action, "renew");
    assert_eq!(won(&client, elsewhere("c")).await?.action, "acquire");
    let of_b = v1::Fence { fencing_scope_id: format!("{SCOPE}/b"), ..fence("b", &other) };
    client.clone().release_fencing_lease(v1::ReleaseFencingLeaseRequest { fence: Some(of_b) }).await?;
    let waits = v1::AwaitFencingScopeRequest {
        fencing_scope_id: format!("{SCOPE}/b"),
        tenant_id: TENANT.into(),
        limit_ms: 30_000,
        ..v1::AwaitFencingScopeRequest::default()
    };
    assert!(client.clone().await_fencing_scope(waits).await?.into_inner().free);
    until_ready(&ledger.pages).await?;
    assert!(!stuck.is_empty() && stuck.try_join_next().is_none(), "they were stuck all the time");

    lock.rollback().await?;
    for answer in stuck.join_all().await {
        assert!(outcome(answer?)?.is_ok());
    }
    stage.books_balance().await
}

/// A client that is cut off in a lock's queue is over at the server as well, long before the statement's own limit.
#[tokio::test]
async fn the_server_gives_up_what_nobody_waits_for_any_more() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&PATIENT).await?;
    let mut client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let mut locker = PgConnection::connect(&stage.url).await?;
    let mut lock = locker.begin().await?;
    sqlx::query("SELECT FROM budgets FOR UPDATE").execute(&mut *lock).await?;
    let asked = reserve(&fence("a", &term), "k", 1);
    let write = tokio::spawn(async move { client.reserve(asked).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database() AND query LIKE '%ledger_reserve%'";
    wait_until("it waits", LIMIT, async || stage.int(waiting).await.is_ok_and(|now| now == 1)).await?;
    write.abort();
    assert!(write.await.is_err_and(|cut_off| cut_off.is_cancelled()));
    wait_until("nothing waits", LIMIT, async || stage.int(waiting).await.is_ok_and(|now| now == 0)).await?;
    lock.rollback().await?;
    stage.books_balance().await
}

/// One that never says a word, and one whose client is stopped: neither is a call.
#[tokio::test]
async fn a_stop_does_not_wait_for_open_connections() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = Ledger::start(&stage.url, &["--stop-budget", "600s"]).await?;
    let silent = tokio::net::TcpStream::connect(&ledger.grpc).await?;
    let proxy = lease_testbed::Proxy::grpc(ledger.grpc.parse()?)?;
    let through = v1::ledger_client::LedgerClient::connect(format!("http://{}", proxy.addr())).await?;
    won(&through, attempt("a")).await?;
    proxy.stall();
    ledger.process.signal(Signal::TERM)?;
    assert_eq!(ledger.process.wait(LIMIT).await?.code(), Some(0));
    drop((silent, through));
    Ok(())
}
