//! U-4 and U-5: futures dropped anywhere, and statements that nobody waits for any more.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::common::*;
use futures::{FutureExt, StreamExt};
use lease_core::{Certainty, Change, LeaseBackend, PutOutcome};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Direction, Proxy, wait_until};

/// Polls a future so many times, then drops it: `None` if that was too few.
struct Polls<F> {
    inner: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.inner.poll_unpin(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn polls<F: Future>(left: usize, future: F) -> Polls<F> {
    Polls { inner: Box::pin(future), left }
}

/// A store whose sessions can be told from all others.
struct Watched {
    store: Store,
    url: String,
    backend: Postgres,
}

async fn watched() -> anyhow::Result<Watched> {
    let store = store().await?;
    let url = format!("{}?application_name={}", store.server.url(), store.schema);
    let backend = Postgres::connect(PostgresConfig::new(&url)?.schema(&store.schema)?).await?;
    Ok(Watched { store, url, backend })
}

impl Watched {
    async fn sessions(&self, what: &str) -> anyhow::Result<String> {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{{s}}' AND {what}");
        self.store.psql(&sql).await
    }

    async fn a_statement_is_blocked(&self) -> anyhow::Result<()> {
        let blocked = async || self.sessions("wait_event_type = 'Lock'").await.is_ok_and(|n| n != "0");
        wait_until("a statement waits behind the lock", LIMIT, blocked).await
    }

    async fn none_is_left(&self, what: &str) -> anyhow::Result<()> {
        wait_until(&format!("no session is left where {what}"), LIMIT, async || {
            self.sessions(what).await.is_ok_and(|left| left == "0")
        })
        .await
    }
}

#[tokio::test]
async fn a_future_dropped_at_any_await_leaves_nothing_behind() -> anyhow::Result<()> {
    // Through a proxy that is slow enough for every round trip to be awaited.
    let watched = watched().await?;
    let proxy = Proxy::postgres(watched.store.server.addr())?;
    proxy.set_delay(Direction::ToClient, Duration::from_millis(5));
    let config = PostgresConfig::new(&proxy.url(&watched.url)?)?.schema(&watched.store.schema)?;
    let backend = &Postgres::connect(config.clone()).await?;
    let lease = name("dropped");
    let mut seen = acquire(backend, &lease, &init(backend, &lease).await?, "a").await?;
    let first = seen.clone();
    for (what, awaits) in [("writes", 1), ("conflicts", 2), ("reads", 1), ("watches", 10), ("connects", 10)] {
        let (mut left, mut dropped) = (1, 0);
        loop {
            let beat = renewed(&seen);
            let finished = match what {
                "writes" => polls(left, backend.put_if(&lease, &seen, &beat, Change::Renew)).await.is_some(),
                "conflicts" => {
                    polls(left, backend.put_if(&lease, &first, &beat, Change::Renew)).await.is_some()
                }
                "reads" => polls(left, backend.list("")).await.is_some(),
                "watches" => polls(left, backend.watch("")).await.is_some(),
                _ => polls(left, Postgres::connect(config.clone())).await.is_some(),
            };
            // No session stays busy with it, and the next calls work: they find the register as it was or as it was
            // to be, and a statement that was still on its way only makes one more conflict.
            watched.none_is_left("state <> 'idle'").await?;
            let found = backend.observe(&lease).await?;
            assert!(
                [record(&seen).tag, beat.tag].contains(&record(&found).tag),
                "{what} {dropped}: {found:?}"
            );
            seen = match backend.put_if(&lease, &found, &renewed(&found), Change::Renew).await? {
                PutOutcome::Written(written) => written,
                PutOutcome::Conflict(late) => {
                    assert_eq!(record(&late).tag, beat.tag, "{what} {dropped}");
                    renew(backend, &lease, &late).await?
                }
            };
            if finished {
                break;
            }
            dropped += 1;
            // Logging in yields hundreds of times while it computes: not every one of those is tried.
            left += 1 + left / 8;
        }
        assert!(dropped >= awaits, "{what}: dropped at {dropped} awaits only");
    }
    watched.none_is_left("query LIKE '%LISTEN%'").await?;
    let allowed = 8; // the places of two pools
    wait_until("no more sessions are open than the pools may have", LIMIT, async || {
        watched.sessions("true").await.is_ok_and(|open| open.parse::<u32>().is_ok_and(|open| open <= allowed))
    })
    .await
}

#[tokio::test]
async fn the_server_gives_up_a_statement_that_waits_behind_a_locked_row() -> anyhow::Result<()> {
    let mut watched = watched().await?;
    // Longer than it takes to see that a statement is blocked, by a program that is started for each look.
    let config = PostgresConfig::new(&watched.url)?.schema(&watched.store.schema)?;
    watched.backend = Postgres::connect(config.lock_timeout(Duration::from_secs(6))?).await?;
    let backend = &watched.backend;
    let lease = name("locked");
    let held = acquire(backend, &lease, &init(backend, &lease).await?, "a").await?;
    let mut operator = session(&watched.store.server.url()).await?;
    let lock = format!("BEGIN; SELECT FROM {}.coordination_leases FOR UPDATE", watched.store.schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut operator).await?;

    // Dropped ones end by themselves, while the row is still locked.
    for _ in 0..2 {
        let beat = renewed(&held);
        tokio::select! {
            outcome = backend.put_if(&lease, &held, &beat, Change::Renew) => panic!("not blocked: {outcome:?}"),
            blocked = watched.a_statement_is_blocked() => blocked?,
        }
    }
    watched.none_is_left("state <> 'idle'").await?;

    // One that is waited for is certainly not applied, and is no reason for a new connection.
    let beat = renewed(&held);
    let error = backend.put_if(&lease, &held, &beat, Change::Renew).await.unwrap_err();
    assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, false), "{error}");
    assert!(error.to_string().contains("locked the row"), "{error}");
    let pids = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE application_name = '{s}'";
    let before = watched.store.psql(pids).await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut operator).await?;
    assert_eq!(backend.observe(&lease).await?.record, held.record, "nothing of it was ever applied");
    renew(backend, &lease, &held).await?;
    assert_eq!(watched.store.psql(pids).await?, before);
    Ok(())
}

#[tokio::test]
async fn no_call_waits_for_a_dropped_one() -> anyhow::Result<()> {
    let watched = watched().await?;
    let config = PostgresConfig::new(&watched.url)?.schema(&watched.store.schema)?;
    let backend = Postgres::connect(config.lock_timeout(Duration::from_secs(60))?).await?;
    let lease = name("blocked");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    let mut operator = session(&watched.store.server.url()).await?;
    let lock = format!("BEGIN; SELECT FROM {}.coordination_leases FOR UPDATE", watched.store.schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut operator).await?;
    for _ in 0..5 {
        // More than the pool has places: a dropped call gives its place back.
        let beat = renewed(&held);
        tokio::select! {
            outcome = backend.put_if(&lease, &held, &beat, Change::Renew) => panic!("not blocked: {outcome:?}"),
            blocked = watched.a_statement_is_blocked() => blocked?,
        }
        assert_eq!(tokio::time::timeout(LIMIT, backend.observe(&lease)).await??.record, held.record);
        assert_ne!(watched.sessions("wait_event_type = 'Lock'").await?, "0", "it is still there");
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_of_the_server_costs_one_failed_call() -> anyhow::Result<()> {
    let server = lease_testbed::Postgres::start(lease_testbed::PostgresOptions::default()).await?;
    let config = PostgresConfig::new(&server.url())?;
    lease_postgres::migrate(&config).await?;
    let backend = Postgres::connect(config).await?;
    let lease = name("restart");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    // Two connections are idle now.
    server.restart().await?;
    let beat = renewed(&held);
    let error = backend.put_if(&lease, &held, &beat, Change::Renew).await.unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    renew(&backend, &lease, &held).await?;

    server.crash().await?;
    let error = backend.put_if(&lease, &held, &beat, Change::Renew).await.unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    let error = backend.put_if(&lease, &held, &beat, Change::Renew).await.unwrap_err();
    assert_eq!(error.certainty, Certainty::NotApplied, "it could not even connect: {error}");
    let error = Postgres::connect(PostgresConfig::new(&server.url())?).await.expect_err("it is down");
    assert!(!error.refused, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_watch_ends_with_its_connection_and_with_its_stream() -> anyhow::Result<()> {
    let watched = watched().await?;
    let mut hints = watched.backend.watch("").await?;
    let listening = "query LIKE 'LISTEN%'";
    assert_eq!(watched.sessions(listening).await?, "1");
    watched
        .store
        .psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{s}' AND query LIKE 'LISTEN%'")
        .await?;
    assert_eq!(tokio::time::timeout(LIMIT, hints.next()).await?, None);

    let hints = watched.backend.watch("").await?;
    assert_eq!(watched.sessions(listening).await?, "1");
    drop(hints);
    watched.none_is_left(listening).await?;
    watched.none_is_left("query LIKE 'UNLISTEN%'").await
}
