//! Databases that turn away from ledger and sweeper without closing a connection. Each says so while it lasts, and goes on
//! by itself afterwards.

use lease_spendguard::ledger;
use lease_testbed::{PgBouncer, Postgres, PostgresOptions, Process, Proxy, StandbyOptions, wait_until};
use sqlx::PgPool;

use crate::stage::{
    LIMIT, Ledger, SCOPE, Stage, TENANT, attempt, expired, fence, outcome, page, reserve, server,
    until_ready, won,
};
use crate::sweeping::Sweeper;

/// Waits until it is not ready, for a reason that has `word`.
async fn says(pages: &str, word: &str) -> anyhow::Result<()> {
    wait_until(&format!("it is not ready: {word}"), LIMIT, || async {
        page(pages, "/readyz").await.is_ok_and(|(status, why)| status == 503 && why.contains(word))
    })
    .await
}

#[tokio::test]
async fn a_demoted_primary_shows_and_is_left_for_the_new_one() -> anyhow::Result<()> {
    let (old, leases) = (Postgres::start(PostgresOptions::default()).await?, tempfile::tempdir()?);
    let url = old.create_database("ledger").await?;
    ledger::migrate(&url.parse()?).await?;
    ledger::add_scope(&url.parse()?, SCOPE, TENANT).await?;
    ledger::set_budget(&url.parse()?, TENANT, "EUR", 1_000_000).await?;
    let standby = old.standby(StandbyOptions::asynchronous("b")).await?;
    let (before_ledger, before_sweeper) = (Proxy::tcp(old.addr())?, Proxy::tcp(old.addr())?);
    let process = Ledger::start(&before_ledger.url(&url)?, &[]).await?;
    let sweeper = Sweeper::start("s", &before_sweeper.url(&url)?, leases.path(), &[]).await?;
    let mut client = process.client().await?;
    let term = fence("a", &won(&client, attempt("a")).await?);
    outcome(client.reserve(reserve(&term, "before", 1)).await?)?.expect("there is room");
    until_ready(&process.pages).await?;
    until_ready(&sweeper.pages).await?;

    old.set("default_transaction_read_only", "on").await?;
    says(&process.pages, "read-only").await?;
    says(&sweeper.pages, "read-only").await?;
    let refused = client.reserve(reserve(&term, "during", 1)).await.expect_err("it is read-only");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(sweeper_age(&sweeper).await?.is_nan(), "what it read there is not the present age");

    standby.catch_up_with(&old).await?;
    standby.promote().await?;
    [&before_ledger, &before_sweeper].iter().for_each(|proxy| proxy.switch_upstream(standby.addr()));
    let there = url.replace(&old.port().to_string(), &standby.port().to_string());
    let stage = Stage { pool: PgPool::connect_lazy(&there)?, url: there };
    wait_until("a write is answered", LIMIT, async || {
        let answer = client.clone().reserve(reserve(&term, "during", 1)).await;
        answer.is_ok_and(|answer| outcome(answer).is_ok_and(|outcome| outcome.is_ok()))
    })
    .await?;
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 2);
    expired(&stage, 5).await?;
    wait_until("the sweeper sweeps there", LIMIT, || async {
        let swept = stage.int("SELECT count(*) FROM reservation_events WHERE action = 'expire'").await;
        swept.is_ok_and(|swept| swept >= 5)
    })
    .await?;
    until_ready(&process.pages).await?;
    until_ready(&sweeper.pages).await?;
    assert_eq!(sweeper_age(&sweeper).await?, 0.0);
    stage.books_balance().await
}

async fn sweeper_age(sweeper: &Sweeper) -> anyhow::Result<f64> {
    crate::stage::metric(&sweeper.pages, "spendguard_reservations_expired_oldest_age_seconds").await
}

/// The plans of its connections are of the old one.
#[tokio::test]
async fn a_function_whose_result_was_changed_costs_calls_and_no_restart() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let term = fence("a", &won(&client, attempt("a")).await?);
    outcome(client.reserve(reserve(&term, "before", 1)).await?)?.expect("there is room");
    sqlx::raw_sql(
        "DO $$ DECLARE v_made text := pg_get_functiondef('ledger_reserve'::regproc);
         BEGIN
             DROP FUNCTION ledger_reserve;
             EXECUTE replace(v_made, 'OUT o_code text', 'OUT o_more text, OUT o_code text');
         END $$",
    )
    .execute(&stage.pool)
    .await?;
    client.reserve(reserve(&term, "after", 1)).await.expect_err("cached plan must not change result type");
    for key in ["after", "later"] {
        outcome(client.reserve(reserve(&term, key, 1)).await?)?.expect("a new connection");
    }
    Ok(())
}

/// Through it half of the calls would fail, some with another caller's parameters.
#[tokio::test]
async fn a_pooler_before_the_database_is_refused() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let pooler = PgBouncer::start(server().await?, 2).await?;
    let database = stage.url.rsplit('/').next().expect("a database");
    let through = pooler.url().replace("/postgres", &format!("/{database}"));
    let ledger = Ledger::start(&through, &[]).await?;
    let sweeper = Sweeper::start("s", &through, leases.path(), &[]).await?;
    for _ in 0..3 {
        let refused = ledger.client().await?.acquire_fencing_lease(attempt("a")).await;
        assert_eq!(refused.expect_err("not through it").code(), tonic::Code::Unavailable);
    }
    for pages in [&ledger.pages, &sweeper.pages] {
        says(pages, "a pooler stands in between").await?;
    }
    for command in [
        &["--migrate"][..],
        &["--add-scope", "refunds", TENANT],
        &["--set-budget", TENANT, "USD", "5"],
        &["--revoke-scope", SCOPE, TENANT],
        &["--lower-scope", SCOPE, TENANT, "0"],
    ] {
        let args = [&["worker", "ledger", "--ledger-db-url", &through], command].concat();
        let process = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(args).spawn()?;
        assert_eq!(process.wait(LIMIT).await?.code(), Some(1), "{command:?}");
        let lines = process.lines();
        assert!(
            lines.iter().any(|line| line.contains("a pooler stands in between")),
            "{command:?}: {lines:?}"
        );
    }
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scopes").await?, 1, "nothing was done through it");
    Ok(())
}
