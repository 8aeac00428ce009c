//! SIGTERM and SIGINT: what is under way is finished, within the stop budget; the standard health service says so.

use lease_spendguard::rpc::ledger::v1;
use lease_testbed::{Signal, wait_until};
use sqlx::{Connection, PgConnection};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::stage::{
    LIMIT, Ledger, PATIENT, SCOPE, Stage, TENANT, attempt, fence, outcome, page, reserve, won,
};

const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
    AND datname = current_database() AND query LIKE '%ledger_reserve%'";

async fn stops(signal: Signal) -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&[&PATIENT[..], &["--stop-budget", "600s"]].concat()).await?;
    let mut client = ledger.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut health = {
        let channel = tonic::transport::Channel::from_shared(format!("http://{}", ledger.grpc))?;
        HealthClient::new(channel.connect().await?)
    };
    let named = HealthCheckRequest { service: "spendguard.ledger.v1.Ledger".into() };
    let status = health.check(named.clone()).await?.into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    let mut watch = health.watch(named).await?.into_inner();
    assert_eq!(watch.message().await?.map(|now| now.status()), Some(ServingStatus::Serving));

    let mut locker = PgConnection::connect(&stage.url).await?;
    let mut lock = locker.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(ledger_scope_lock('payments'))").execute(&mut *lock).await?;
    let mut waiting = client.clone();
    let under_way = tokio::spawn(async move { client.reserve(reserve(&fence, "k1", 10)).await });
    let waits = tokio::spawn(async move {
        let asked = v1::AwaitFencingScopeRequest {
            fencing_scope_id: SCOPE.into(),
            tenant_id: TENANT.into(),
            limit_ms: 30_000,
            ..v1::AwaitFencingScopeRequest::default()
        };
        waiting.await_fencing_scope(asked).await
    });
    wait_until("a call is under way", LIMIT, || async { stage.int(BLOCKED).await.is_ok_and(|n| n == 1) })
        .await?;
    wait_until("another waits", LIMIT, || async {
        ledger.metric("spendguard_ledger_scope_waiters").await.is_ok_and(|n| n == 1.0)
    })
    .await?;
    ledger.process.signal(signal)?;
    assert_eq!(waits.await?.expect_err("nobody waits any longer").code(), tonic::Code::Unavailable);
    assert_eq!(watch.message().await?.map(|now| now.status()), Some(ServingStatus::NotServing));
    let (status, why) = page(&ledger.pages, "/readyz").await?;
    assert_eq!((status, why.as_str()), (503, "stopping\n"));
    lock.rollback().await?;
    assert!(outcome(under_way.await??)?.is_ok(), "what was under way is finished");
    assert_eq!(ledger.process.wait(LIMIT).await?.code(), Some(0));
    stage.books_balance().await
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way() -> anyhow::Result<()> {
    stops(Signal::TERM).await
}

#[tokio::test]
async fn sigint_finishes_what_is_under_way() -> anyhow::Result<()> {
    stops(Signal::INT).await
}

#[tokio::test]
async fn past_the_budget_it_says_what_was_abandoned() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let more = [&PATIENT[..], &["--stop-budget", "300ms"]].concat();
    let ledger: Ledger = stage.ledger_with(&more).await?;
    let mut client = ledger.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut locker = PgConnection::connect(&stage.url).await?;
    let mut lock = locker.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(ledger_scope_lock('payments'))").execute(&mut *lock).await?;
    let under_way = tokio::spawn(async move { client.reserve(reserve(&fence, "k1", 10)).await });
    wait_until("a call is under way", LIMIT, || async { stage.int(BLOCKED).await.is_ok_and(|n| n == 1) })
        .await?;
    ledger.process.signal(Signal::TERM)?;
    assert_eq!(ledger.process.wait(LIMIT).await?.code(), Some(1));
    ledger.process.wait_for_line("calls=1", LIMIT).await?;
    assert!(under_way.await?.is_err());
    lock.rollback().await?;
    stage.books_balance().await
}
