//! The pool that serves the lease store and effects alike: which connections it keeps, and that every call ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::*;
use lease_core::fence::Stale;
use lease_core::{Grant, Term};
use lease_postgres::pool::{CallError, DURABLE, Pool, raised_by_statement};
use lease_postgres::{Fence, FenceError};
use lease_testbed::{Direction, Proxy, wait_until};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Error, Row};

fn options(url: &str) -> PgConnectOptions {
    url.parse().expect("a valid url")
}

async fn pool(connections: u32, limit: Duration) -> Pool {
    Pool::checked(&options(&server().await.url()), connections, limit, DURABLE)
}

async fn pid(pool: &Pool) -> Result<i32, Error> {
    pool.call(async |c| sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(c).await).await
}

/// Opens two connections, by using them at once.
async fn two(pool: &Pool) -> Result<(i32, i32), Error> {
    pool.call(async |c| {
        let first = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(c).await?;
        Ok((first, pid(pool).await?))
    })
    .await
}

async fn run(pool: &Pool, sql: &str) -> Result<(), Error> {
    pool.call(async |c| sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await.map(drop)).await
}

#[tokio::test]
async fn a_connection_is_kept_only_after_what_the_statements_own_logic_raises() -> anyhow::Result<()> {
    let pool = pool(2, LIMIT).await;
    let first = pid(&pool).await?;
    let raise = |code: &str| format!("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$");
    for code in ["LH001", "LH002", "23505", "23503", "40001", "40P01", "55P03"] {
        let error = run(&pool, &raise(code)).await.expect_err(code);
        assert!(raised_by_statement(&error), "{error}");
        assert_eq!(pid(&pool).await?, first, "{code}");
    }
    let mut before = first;
    for code in [
        "0A000", "25006", "42501", "42P01", "53100", "57014", "57P01", "58000", "08006", "XX000", "P0001",
        "22012",
    ] {
        let error = run(&pool, &raise(code)).await.expect_err(code);
        assert!(!raised_by_statement(&error), "{error}");
        let now = pid(&pool).await?;
        assert_ne!(now, before, "{code}");
        before = now;
    }
    Ok(())
}

#[tokio::test]
async fn one_broken_connection_closes_the_idle_ones_too() -> anyhow::Result<()> {
    let pool = pool(2, LIMIT).await;
    let (first, second) = two(&pool).await?;
    assert_ne!(first, second);
    run(&pool, "SELECT pg_terminate_backend(pg_backend_pid())").await.expect_err("it ends itself");
    let next = pid(&pool).await?;
    assert!(next != first && next != second, "{next} of {first} and {second}");
    Ok(())
}

/// The server's plan for a prepared statement is of no use any more, for as long as the connection lasts.
#[tokio::test]
async fn a_function_whose_result_type_was_changed_costs_one_call() -> anyhow::Result<()> {
    let (server, schema) = (server().await, fresh_schema());
    let make = |columns: &str| {
        format!("CREATE FUNCTION {schema}.f(OUT a int{columns}) LANGUAGE plpgsql AS $$ BEGIN a := 7; END $$")
    };
    server.psql(&format!("CREATE SCHEMA {schema}; {}", make(""))).await?;
    let pool = pool(2, LIMIT).await;
    let ask = async || {
        let sql = format!("SELECT * FROM {schema}.f()");
        pool.call(async |c| sqlx::query(AssertSqlSafe(sql)).fetch_one(c).await).await
    };
    // On two connections.
    pool.call(async |c| {
        sqlx::query(AssertSqlSafe(format!("SELECT * FROM {schema}.f()"))).fetch_one(c).await?;
        ask().await
    })
    .await?;
    server.psql(&format!("DROP FUNCTION {schema}.f; {}", make(", OUT b text"))).await?;
    let error = ask().await.expect_err("its plan is of the old one");
    assert!(error.to_string().contains("cached plan must not change result type"), "{error}");
    for _ in 0..3 {
        assert_eq!(ask().await?.len(), 2, "a new connection, and no other one that is as old");
    }
    Ok(())
}

#[tokio::test]
async fn after_a_call_was_given_up_a_dead_idle_connection_costs_a_second_and_no_place() -> anyhow::Result<()>
{
    let server = server().await;
    let proxy = Proxy::postgres(server.addr())?;
    let [old, new] = [proxy.url(&server.url())?, server.url()].map(|url| options(&url));
    let pool = Pool::new(Moving { old, new, moved: AtomicBool::new(false) }, 3, LIMIT);
    let select = async || pool.call(async |c| sqlx::query("SELECT 1").execute(c).await.map(drop)).await;
    // Three at a time, so that there are three.
    pool.call(async |_| pool.call(async |_| select().await).await).await?;
    assert_eq!(proxy.open_connections(), 3);

    // As after a host has vanished: what is open stays silent, and its address is another host's.
    proxy.drop_all();
    pool.connector().moved.store(true, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_millis(200), select()).await.expect_err("nobody answers");
    let begun = Instant::now();
    select().await?;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}, of {LIMIT:?}", begun.elapsed());
    pool.call(async |_| pool.call(async |_| select().await).await).await?;
    Ok(())
}

/// A server whose address leads to another one some day.
struct Moving {
    old: PgConnectOptions,
    new: PgConnectOptions,
    moved: AtomicBool,
}

impl lease_postgres::pool::Connect for Moving {
    type Connection = PgConnection;
    type Error = Error;

    async fn connect(&self) -> Result<PgConnection, Error> {
        let at = if self.moved.load(Ordering::Relaxed) { &self.new } else { &self.old };
        PgConnection::connect_with(at).await
    }

    fn unavailable(&self, timed_out: Error) -> Error {
        timed_out
    }

    fn postgres(connection: &mut PgConnection) -> &mut PgConnection {
        connection
    }
}

#[tokio::test]
async fn a_call_that_was_given_up_costs_no_connection_that_still_answers() -> anyhow::Result<()> {
    let pool = pool(2, LIMIT).await;
    let (first, second) = two(&pool).await?;
    tokio::select! {
        biased;
        done = run(&pool, "SELECT pg_sleep(30)") => panic!("it sleeps, on {first}: {done:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(pid(&pool).await?, second, "it has answered, and is used again");
    Ok(())
}

/// Its holders renew in time by round trips of a quarter of their ttl (L-9): of more than a second, for example.
#[tokio::test]
async fn over_a_slow_link_a_connection_may_take_longer_to_show_that_it_lives() -> anyhow::Result<()> {
    let server = server().await;
    let proxy = Proxy::tcp(server.addr())?;
    proxy.set_delay(Direction::ToClient, Duration::from_millis(1_100));
    let pool = Pool::checked(&options(&proxy.url(&server.url())?), 2, LIMIT, DURABLE);
    let (first, second) = two(&pool).await?;
    tokio::select! {
        biased;
        done = run(&pool, "SELECT pg_sleep(30)") => panic!("it sleeps, on {first}: {done:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(pid(&pool).await?, second, "it lives, at the speed of its link");
    Ok(())
}

#[tokio::test]
async fn the_servers_half_of_a_dead_connection_ends_too() -> anyhow::Result<()> {
    let look =
        "SELECT current_setting('tcp_keepalives_idle') || ' ' || current_setting('tcp_keepalives_interval')
        || ' ' || current_setting('tcp_keepalives_count') || ' ' || current_setting('tcp_user_timeout')";
    let of: String = pool(1, LIMIT).await.call(async |c| sqlx::query_scalar(look).fetch_one(c).await).await?;
    assert_eq!(of, "10 5 3 20000", "as the kernel has it");
    Ok(())
}

#[tokio::test]
async fn defaults_of_a_role_do_not_reach_its_sessions() -> anyhow::Result<()> {
    let (server, store) = (server().await, store().await?);
    server
        .psql(
            "CREATE ROLE impatient SUPERUSER LOGIN PASSWORD 'secret';
             ALTER ROLE impatient SET statement_timeout = '1ms';
             ALTER ROLE impatient SET default_transaction_isolation = serializable",
        )
        .await?;
    let url = server.url_for("postgres", "impatient", "secret");
    let pool = Pool::checked(&options(&url), 1, LIMIT, DURABLE);
    run(&pool, "SELECT pg_sleep(0.05)").await?;
    let isolation = async |c: &mut PgConnection| {
        sqlx::query_scalar::<_, String>("SELECT current_setting('transaction_isolation')").fetch_one(c).await
    };
    assert_eq!(pool.call(isolation).await?, "read committed");

    let config = lease_postgres::PostgresConfig::new(&url)?.schema(&store.schema)?;
    let backend = lease_postgres::Postgres::connect(config).await?;
    let lease = name("defaults");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    renew(&backend, &lease, &held).await?;
    Ok(())
}

#[tokio::test]
async fn a_failed_transaction_is_rolled_back_before_its_connection_is_idle() -> anyhow::Result<()> {
    let server = server().await;
    let schema = fresh_schema();
    let mut session = session(&server.url()).await?;
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (n int PRIMARY KEY)"
    )))
    .execute(&mut session)
    .await?;
    let pool = pool(1, LIMIT).await;
    let first = pid(&pool).await?;
    let insert = format!("INSERT INTO {schema}.t VALUES (1)");
    let twice = async |tx: &mut PgConnection| {
        for _ in 0..2 {
            sqlx::raw_sql(AssertSqlSafe(insert.as_str())).execute(&mut *tx).await?;
        }
        Ok::<_, Error>(())
    };
    pool.transaction(twice).await.expect_err("the second violates the key");
    let state = format!("SELECT state FROM pg_stat_activity WHERE pid = {first}");
    assert_eq!(server.psql(&state).await?, "idle", "no transaction is left open");

    let once = async |tx: &mut PgConnection| {
        sqlx::raw_sql(AssertSqlSafe(insert.as_str())).execute(tx).await.map(drop)
    };
    pool.transaction(once).await?;
    assert_eq!(server.psql(&format!("SELECT count(*) FROM {schema}.t")).await?, "1");
    assert_eq!(pid(&pool).await?, first, "neither closed it");
    Ok(())
}

#[tokio::test]
async fn a_refused_term_costs_no_connection() -> anyhow::Result<()> {
    let schema = fresh_schema();
    let mut session = session(&server().await.url()).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut session).await?;
    let fence = Fence::in_schema("pool", &schema)?;
    fence.install(&mut session).await?;
    let pool = pool(1, LIMIT).await;
    let first = pid(&pool).await?;
    let term = |epoch| Term { epoch, grant: Grant(7) };
    let admit =
        async |term: Term| pool.transaction(async |tx: &mut PgConnection| fence.admit(tx, &term).await).await;
    admit(term(5)).await?;
    let refused = admit(term(4)).await;
    assert!(
        matches!(refused, Err(FenceError::Stale(Stale { refused })) if refused == term(4)),
        "{refused:?}"
    );
    admit(term(6)).await?;
    assert_eq!(pid(&pool).await?, first);
    Ok(())
}

#[tokio::test]
async fn a_call_without_an_answer_ends_and_gives_its_place_back() -> anyhow::Result<()> {
    let server = server().await;
    let proxy = Proxy::postgres(server.addr())?;
    let options = Some(options(&proxy.url(&server.url())?));
    let pool = Pool::new(Unlimited { options }, 1, Duration::from_millis(500));
    select(&pool).await?;

    proxy.stall(); // as a host that vanished: no FIN, no RST
    let begun = Instant::now();
    let error = select(&pool).await.expect_err("nobody answers");
    assert!(matches!(&error, Error::Io(io) if io.kind() == std::io::ErrorKind::TimedOut), "{error}");
    assert!(!error.raised_by_statement());
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    proxy.heal();
    wait_until("the one place is free for a new connection", LIMIT, async || select(&pool).await.is_ok())
        .await
}

#[tokio::test]
async fn a_call_that_gets_no_connection_ends_too() -> anyhow::Result<()> {
    let pool = Pool::new(Unlimited { options: None }, 1, Duration::from_millis(200));
    for _ in 0..2 {
        let error = select(&pool).await.expect_err("it never connects");
        assert!(error.to_string().contains("no connection within 200ms"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_would_lose_acknowledged_writes_is_refused() -> anyhow::Result<()> {
    let options = options(&server().await.url()).options([("synchronous_commit", "off")]);
    let error =
        pid(&Pool::checked(&options, 1, LIMIT, DURABLE)).await.expect_err("a crash would lose writes");
    assert!(error.to_string().contains("set fsync = on and synchronous_commit = on"), "{error}");
    Ok(())
}

/// Connections without any limit of the server's, so that only the pool's can end a call; or none, ever.
struct Unlimited {
    options: Option<PgConnectOptions>,
}

async fn select(pool: &Pool<Unlimited>) -> Result<(), Error> {
    pool.call(async |c| sqlx::query("SELECT 1").execute(c).await.map(drop)).await
}

impl lease_postgres::pool::Connect for Unlimited {
    type Connection = PgConnection;
    type Error = Error;

    async fn connect(&self) -> Result<PgConnection, Error> {
        match &self.options {
            Some(options) => PgConnection::connect_with(options).await,
            None => std::future::pending().await,
        }
    }

    fn unavailable(&self, timed_out: Error) -> Error {
        timed_out
    }

    fn postgres(connection: &mut PgConnection) -> &mut PgConnection {
        connection
    }
}
