//! Message size, deadlines, places: what keeps one client from harming the others.

use lease_testbed::{wait_for, wait_until};
use sqlx::{Connection, PgConnection};
use tonic::{Code, Request};

use crate::stage::{
    LIMIT, Ledger, PATIENT, Stage, attempt, fence, field, outcome, reserve, until_ready, won,
};

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_server_goes_on() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&["--ledger-max-message-bytes", "2048"]).await?;
    let mut client = ledger.client().await?;
    let mut large = attempt("a");
    large.audit_event_id = "x".repeat(3_000);
    let refusal = client.acquire_fencing_lease(large).await.expect_err("too large");
    assert_eq!(refusal.code(), Code::OutOfRange, "{refusal}");
    assert_eq!(won(&client, attempt("a")).await?.epoch, 1);
    Ok(())
}

/// The scope is locked by somebody: the client's deadline, or else the server's, ends the call, and the same request
/// with the same key does it later, once.
#[tokio::test]
async fn a_deadline_ends_a_call_and_its_key_tells_what_became_of_it() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&["--ledger-call-timeout", "2s", "--ledger-max-requests", "1"]).await?;
    let mut client = ledger.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut locker = PgConnection::connect(&stage.url).await?;
    let mut lock = locker.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(ledger_scope_lock('payments'))").execute(&mut *lock).await?;

    let mut asked = Request::new(reserve(&fence, "k1", 10));
    asked.metadata_mut().insert("grpc-timeout", "500m".parse()?);
    let late = client.reserve(asked).await.expect_err("the scope is locked");
    // On a busy machine tonic's own timer may be first, which says Cancelled.
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
    let late = wait_for("there is a place", LIMIT, async || {
        let answer = client.clone().reserve(reserve(&fence, "k1", 10)).await;
        let late = answer.expect_err("the scope is locked");
        // The place of the one that was given up may not be free yet.
        if late.code() == Code::ResourceExhausted { Err(late.to_string()) } else { Ok(late) }
    })
    .await?;
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");

    // The calls that were given up are over in the database as well, by its own limit.
    let blocked = async |count: i64| {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND datname = current_database() AND query LIKE '%ledger_reserve%'";
        stage.int(waiting).await.is_ok_and(|waiting| waiting == count)
    };
    wait_until("what was given up is over", LIMIT, || blocked(0)).await?;
    // There is one place: while it is taken, others are told to come back.
    let patient = stage.ledger_with(&[&PATIENT[..], &["--ledger-max-requests", "1"]].concat()).await?;
    let mut other = patient.client().await?;
    let (mut first, held) = (other.clone(), reserve(&fence, "k1", 10));
    let first = tokio::spawn(async move { first.reserve(held).await });
    wait_until("the place is taken", LIMIT, || blocked(1)).await?;
    let busy = other.reserve(reserve(&fence, "k2", 10)).await.expect_err("one place only");
    assert_eq!(busy.code(), Code::ResourceExhausted, "{busy}");
    lock.rollback().await?;
    assert!(outcome(first.await??)?.is_ok());
    wait_until("it is done once", LIMIT, || async {
        let answer = client.clone().reserve(reserve(&fence, "k1", 10)).await;
        answer.is_ok_and(|answer| outcome(answer).is_ok_and(|outcome| outcome.is_ok()))
    })
    .await?;
    assert_eq!(stage.int("SELECT reserved_minor FROM budgets").await?, 10);
    stage.books_balance().await
}

#[tokio::test]
async fn a_database_that_is_away_makes_it_unready_not_dead() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = lease_testbed::Proxy::postgres(crate::stage::server().await?.addr())?;
    let ledger = crate::stage::Ledger::start(&proxy.url(&stage.url)?, &[]).await?;
    let mut client = ledger.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let page = |path: &'static str| crate::stage::page(&ledger.pages, path);
    until_ready(&ledger.pages).await?;
    proxy.refuse(true).await?;
    proxy.cut().await;
    let away = client.reserve(reserve(&fence, "k1", 10)).await.expect_err("no database");
    assert_eq!(away.code(), Code::Unavailable, "{away}");
    assert!(!away.message().contains("postgres"), "details are for the log: {away}");
    assert_eq!(page("/readyz").await?.0, 503);
    assert_eq!(page("/healthz").await?.0, 200);
    proxy.refuse(false).await?;
    assert!(outcome(client.reserve(reserve(&fence, "k1", 10)).await?)?.is_ok(), "it goes on by itself");
    until_ready(&ledger.pages).await
}

/// Whoever opens connections without end leaves it the descriptors that its own work needs.
#[tokio::test]
async fn silent_connections_keep_it_from_nothing() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let few = r#"ulimit -n 160; exec "$0" worker ledger --listen 127.0.0.1:0 --grpc-listen 127.0.0.1:0 "$@""#;
    let program = env!("CARGO_BIN_EXE_leasehold");
    let process = lease_testbed::Process::command("sh")?;
    let process = process.env_clear().args(["-c", few, program, "--ledger-db-url", &stage.url]);
    let process = process.args(PATIENT).spawn()?;
    let line = process.wait_for_line(" started address=", LIMIT).await?;
    let (pages, grpc) = (field(&line, "address")?.to_owned(), field(&line, "grpc")?.to_owned());
    let ledger = Ledger { process, pages, grpc };
    let client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    // More than it may have descriptors; fewer than the places and the queue of the system take.
    let mut silent = Vec::new();
    for _ in 0..180 {
        silent.push(tokio::net::TcpStream::connect(&ledger.grpc).await?);
    }
    // Each on a connection of its own to the database.
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (mut client, asked) = (client.clone(), reserve(&fence("a", &term), &format!("k{number}"), 1));
        writes.spawn(async move { client.reserve(asked).await });
    }
    for answer in writes.join_all().await {
        assert!(outcome(answer?)?.is_ok());
    }
    until_ready(&ledger.pages).await?;
    drop(silent);
    // There is room again.
    assert_eq!(crate::stage::denied(&ledger.client().await?, attempt("b")).await?.current_epoch, 1);
    Ok(())
}
