//! Each fault of the proxy does what its name says, before a real server and its real client.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use lease_testbed::{Direction, Flow, Postgres, PostgresOptions, Proxy, wait_until};
use sqlx::{
    Connection, Executor, PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{sync::OnceCell, time::timeout};

const LIMIT: Duration = Duration::from_secs(30);

/// Long enough to call it silence.
const SILENCE: Duration = Duration::from_millis(300);

const UPDATE: &str = "update t set n = n + $1";

/// A database of its own on the server that all of these tests share, and a client behind a proxy.
struct Setup {
    proxy: Proxy,
    database: String,
    url: String,
    client: PgConnection,
}

async fn server() -> anyhow::Result<&'static Postgres> {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    SERVER.get_or_try_init(|| Postgres::start(PostgresOptions::default())).await
}

async fn setup() -> anyhow::Result<Setup> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let database = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let url = server().await?.create_database(&database).await?;
    server().await?.psql_in(&database, "create table t (n bigint); insert into t values (0)").await?;
    let proxy = Proxy::postgres(server().await?.addr())?;
    let url = proxy.url(&url)?;
    let client = PgConnection::connect(&url).await?;
    Ok(Setup { proxy, database, url, client })
}

/// The sum on the server, asked without the proxy.
async fn stored(database: &str) -> anyhow::Result<i64> {
    Ok(server().await?.psql_in(database, "select sum(n) from t").await?.parse()?)
}

async fn add(client: &mut PgConnection, n: i64) -> sqlx::Result<u64> {
    Ok(sqlx::query(UPDATE).bind(n).execute(client).await?.rows_affected())
}

#[tokio::test]
async fn passes_everything_on() -> anyhow::Result<()> {
    let mut s = setup().await?;
    let big = "x".repeat(3_000_000);
    let echo: String = sqlx::query_scalar("select $1 || 'y'").bind(&big).fetch_one(&mut s.client).await?;
    assert_eq!(echo.len(), 3_000_001);
    let mut copy = s.client.copy_in_raw("copy t from stdin").await?;
    copy.send("1\n2\n".as_bytes()).await?;
    copy.send("3\n".as_bytes()).await?;
    assert_eq!(copy.finish().await?, 3);
    let mut listener = PgListener::connect(&s.url).await?;
    listener.listen("news").await?;
    s.client.execute("notify news, 'hello'").await?;
    assert_eq!(timeout(LIMIT, listener.recv()).await??.payload(), "hello");
    assert!(s.client.execute("select 1/0").await.is_err());
    assert_eq!(stored(&s.database).await?, 6);
    drop(listener);
    s.client.close().await?;
    wait_until("closed connections are closed on both sides", LIMIT, async || s.proxy.open_connections() == 0)
        .await
}

#[tokio::test]
async fn counts_one_request_and_one_reply_for_each_round_trip() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?; // prepares it
    let before = s.proxy.round_trips();
    for _ in 0..5 {
        add(&mut s.client, 1).await?;
    }
    let updates = s.proxy.round_trips().since(&before);
    assert_eq!((updates.matching(UPDATE).requests, updates.matching(UPDATE).replies), (5, 5));
    assert_eq!(updates.total(), updates.matching(UPDATE), "nothing else went through: {updates:?}");

    let before = s.proxy.round_trips();
    let mut transaction = s.client.begin().await?;
    add(&mut transaction, 1).await?;
    transaction.commit().await?;
    let transaction = s.proxy.round_trips().since(&before);
    assert_eq!(transaction.total().replies, 3, "{transaction:?}");
    assert_eq!(transaction.matching("BEGIN").replies, 1);
    assert_eq!(transaction.matching("COMMIT").replies, 1);
    assert_eq!(stored(&s.database).await?, 7);
    Ok(())
}

#[tokio::test]
async fn a_refused_statement_is_a_round_trip_too() -> anyhow::Result<()> {
    let mut s = setup().await?;
    let before = s.proxy.round_trips();
    assert!(sqlx::raw_sql("select 1/0").execute(&mut s.client).await.is_err());
    let count = || s.proxy.round_trips().since(&before).matching("1/0");
    assert_eq!(count().requests, 1);
    // The client returns with the error, before the end of the reply.
    wait_until("the reply has ended", LIMIT, async || count().replies == 1).await
}

#[tokio::test]
async fn a_hidden_ping_of_a_pool_is_counted() -> anyhow::Result<()> {
    let s = setup().await?;
    for (tests, expected) in [(false, 1), (true, 2)] {
        let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(tests).connect(&s.url).await?;
        sqlx::query(UPDATE).bind(1_i64).execute(&pool).await?;
        // The connection goes back to the pool in the background.
        wait_until("the connection is idle", LIMIT, async || pool.num_idle() == 1).await?;
        let before = s.proxy.round_trips();
        sqlx::query(UPDATE).bind(1_i64).execute(&pool).await?;
        let trips = s.proxy.round_trips().since(&before);
        assert_eq!(trips.total().requests, expected, "{trips:?}");
        pool.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_delay_is_added_to_each_direction() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    s.proxy.set_delay(Direction::ToServer, Duration::from_millis(150));
    s.proxy.set_delay(Direction::ToClient, Duration::from_millis(100));
    let start = Instant::now();
    add(&mut s.client, 1).await?;
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    s.proxy.heal();
    s.proxy.set_delay(Direction::ToServer, Duration::from_secs(60));
    assert!(timeout(SILENCE, add(&mut s.client, 1)).await.is_err());
    assert_eq!(stored(&s.database).await?, 2, "the request is still on its way");
    Ok(())
}

#[tokio::test]
async fn a_delay_is_a_latency_and_no_brake() -> anyhow::Result<()> {
    let s = setup().await?;
    let delay = Duration::from_millis(100);
    s.proxy.set_delay(Direction::ToClient, delay);
    let mut client = PgConnection::connect(&s.url).await?;
    let start = Instant::now();
    let big: String =
        sqlx::raw_sql("select repeat('x', 8000000)").fetch_one(&mut client).await.map(|row| {
            use sqlx::Row;
            row.get(0)
        })?;
    assert_eq!(big.len(), 8_000_000);
    assert!(start.elapsed() >= delay);
    // Piece by piece it would have taken more than 12 s.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_stalled_request_arrives_late_even_after_its_client_has_gone() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    s.proxy.stall();
    assert!(timeout(SILENCE, add(&mut s.client, 10)).await.is_err());
    let Setup { proxy, database, url, client } = s;
    drop(client);
    assert_eq!(stored(&database).await?, 1);
    proxy.heal();
    let arrived = async || stored(&database).await.is_ok_and(|n| n == 11);
    wait_until("the late request is applied", LIMIT, arrived).await?;
    add(&mut PgConnection::connect(&url).await?, 1).await?;
    Ok(())
}

#[tokio::test]
async fn dropped_bytes_never_arrive_and_nothing_is_closed() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    s.proxy.drop_all();
    let mut lost = Box::pin(add(&mut s.client, 10));
    assert!(timeout(SILENCE, &mut lost).await.is_err());
    let connecting = PgConnection::connect(&s.url);
    assert!(timeout(SILENCE, connecting).await.is_err(), "a new connection gets no answer either");
    s.proxy.heal();
    assert!(timeout(SILENCE, &mut lost).await.is_err(), "what was lost stays lost");
    drop(lost);
    assert_eq!(stored(&s.database).await?, 1);
    add(&mut PgConnection::connect(&s.url).await?, 1).await?;
    assert_eq!(stored(&s.database).await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_half_open_connection_applies_what_it_never_answers() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    s.proxy.set_flow(Direction::ToClient, Flow::Drop);
    let before = s.proxy.round_trips();
    assert!(timeout(SILENCE, add(&mut s.client, 10)).await.is_err());
    wait_until("it is applied", LIMIT, async || stored(&s.database).await.is_ok_and(|n| n == 11)).await?;
    let count = s.proxy.round_trips().since(&before).matching(UPDATE);
    assert_eq!((count.requests, count.replies), (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_cut_breaks_what_is_open_and_new_connections_are_well() -> anyhow::Result<()> {
    let mut s = setup().await?;
    let mut other = PgConnection::connect(&s.url).await?;
    let mut sleeping = Box::pin(other.execute("select pg_sleep(600)"));
    assert!(timeout(SILENCE, &mut sleeping).await.is_err());
    s.proxy.cut().await;
    assert_eq!(s.proxy.open_connections(), 0);
    assert!(timeout(LIMIT, sleeping).await?.is_err());
    assert!(timeout(LIMIT, add(&mut s.client, 1)).await?.is_err());
    add(&mut PgConnection::connect(&s.url).await?, 1).await?;
    assert_eq!(stored(&s.database).await?, 1);
    Ok(())
}

#[tokio::test]
async fn refused_connections_look_like_a_port_that_nobody_listens_on() -> anyhow::Result<()> {
    let mut s = setup().await?;
    // A child that is being started has a copy of every socket, of the listening one too, until it is its program.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let spawner = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            std::process::Command::new("true").status().expect("a child is started");
        }
    });
    for _ in 0..30 {
        s.proxy.refuse(true).await?;
        let error = TcpStream::connect(s.proxy.addr()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        add(&mut s.client, 1).await?; // open ones stay
        s.proxy.refuse(false).await?;
        add(&mut PgConnection::connect(&s.url).await?, 1).await?;
    }
    stop.store(true, Ordering::Relaxed);
    spawner.join().expect("the spawner ends");
    Ok(())
}

#[tokio::test]
async fn a_lost_reply_was_applied() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    let mut reply = s
        .proxy
        .lose_reply(|request| request.sql_contains("update t") && request.contains(100_i64.to_be_bytes()));
    assert_eq!(add(&mut s.client, 10).await?, 1, "another request is let through");
    let before = s.proxy.round_trips();
    assert!(timeout(LIMIT, add(&mut s.client, 100)).await?.is_err());
    assert_eq!(reply.lost().await?.sql(), [UPDATE]);
    assert_eq!(stored(&s.database).await?, 111);
    let count = s.proxy.round_trips().since(&before).total();
    assert_eq!((count.requests, count.replies), (1, 0));
    let mut again = PgConnection::connect(&s.url).await?;
    assert_eq!(add(&mut again, 100).await?, 1, "a trap catches once");
    Ok(())
}

#[tokio::test]
async fn a_statements_preparation_is_not_mistaken_for_its_execution() -> anyhow::Result<()> {
    let mut s = setup().await?;
    // sqlx has not prepared it yet, and does so in a round trip of its own.
    let mut reply = s.proxy.lose_reply(|_| true);
    assert!(timeout(LIMIT, add(&mut s.client, 10)).await?.is_err());
    reply.lost().await?;
    assert_eq!(stored(&s.database).await?, 10);
    Ok(())
}

#[tokio::test]
async fn a_held_request_is_unseen_until_it_is_released() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    let mut hold = s.proxy.hold(|request| request.sql_contains("update t"));
    let mut held = Box::pin(add(&mut s.client, 10));
    let request = tokio::select! {
        request = hold.held() => request?,
        done = &mut held => panic!("not held: {done:?}"),
    };
    assert_eq!(request.sql(), [UPDATE]);
    let mut other = PgConnection::connect(&s.url).await?;
    add(&mut other, 100).await?; // overtakes it
    assert_eq!(stored(&s.database).await?, 101);
    assert!(timeout(SILENCE, &mut held).await.is_err());
    hold.release();
    assert_eq!(timeout(LIMIT, held).await??, 1);
    assert_eq!(stored(&s.database).await?, 111);
    Ok(())
}

#[tokio::test]
async fn a_held_request_arrives_though_its_client_has_gone() -> anyhow::Result<()> {
    let mut s = setup().await?;
    let mut hold = s.proxy.hold(|request| request.sql_contains(UPDATE));
    let held = async {
        tokio::select! {
            request = hold.held() => request,
            done = add(&mut s.client, 10) => panic!("not held: {done:?}"),
        }
    };
    held.await?;
    let Setup { proxy, database, client, .. } = s;
    drop(client);
    assert_eq!(stored(&database).await?, 0);
    drop(hold); // releases
    let arrived = async || stored(&database).await.is_ok_and(|n| n == 10);
    wait_until("the late request is applied", LIMIT, arrived).await?;
    wait_until("its connection ends", LIMIT, async || proxy.open_connections() == 0).await
}

#[tokio::test]
async fn a_discarded_request_was_never_applied() -> anyhow::Result<()> {
    let mut s = setup().await?;
    add(&mut s.client, 1).await?;
    let mut hold = s.proxy.hold(|_| true);
    let mut client = s.client;
    let update = tokio::spawn(async move { add(&mut client, 10).await });
    hold.held().await?;
    hold.discard();
    assert!(timeout(LIMIT, update).await??.is_err());
    assert_eq!(stored(&s.database).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_dropped_handle_disarms_its_trap() -> anyhow::Result<()> {
    let mut s = setup().await?;
    drop(s.proxy.hold(|_| true));
    drop(s.proxy.lose_reply(|_| true));
    assert_eq!(timeout(LIMIT, add(&mut s.client, 10)).await??, 1);
    Ok(())
}

#[tokio::test]
async fn an_address_can_move_to_another_server() -> anyhow::Result<()> {
    let mut s = setup().await?;
    let other = Postgres::start(PostgresOptions::default()).await?;
    other.create_database(&s.database).await?;
    s.proxy.switch_upstream(other.addr());
    add(&mut s.client, 1).await?; // stays where it is
    s.proxy.cut().await;
    let mut client = PgConnection::connect(&s.url).await?;
    let port: String = sqlx::query_scalar("show port").fetch_one(&mut client).await?;
    assert_eq!(port, other.port().to_string());
    Ok(())
}

#[tokio::test]
async fn a_server_that_crashes_breaks_its_clients_connections() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let proxy = Proxy::postgres(postgres.addr())?;
    let url = proxy.url(&postgres.url())?;
    let mut client = PgConnection::connect(&url).await?;
    postgres.crash().await?;
    assert!(timeout(LIMIT, client.execute("select 1")).await?.is_err());
    drop(client);
    assert!(timeout(LIMIT, PgConnection::connect(&url)).await?.is_err());
    wait_until("no connection is left", LIMIT, async || proxy.open_connections() == 0).await
}

#[test]
fn it_goes_on_while_the_runtime_of_its_client_is_blocked() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let s = runtime.block_on(setup())?;
    // Nobody drives the runtime now; a thread with a runtime of its own is served all the same.
    let added = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            add(&mut PgConnection::connect(&s.url).await?, 5).await?;
            stored(&s.database).await
        })
    });
    assert_eq!(added.join().unwrap()?, 5);
    drop(runtime);
    Ok(())
}

/// Answers each piece it reads by the same piece, and counts them.
fn echo() -> anyhow::Result<(std::net::SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let (seen, all) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let (mut stream, mut buffer) = (stream, [0; 1000]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if seen.send(buffer[..length].to_vec()).is_err()
                        || stream.write_all(&buffer[..length]).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    Ok((addr, all))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plain_tcp_is_held_lost_and_cut_too() -> anyhow::Result<()> {
    let (addr, seen) = echo()?;
    let proxy = Proxy::tcp(addr)?;
    let mut client = TcpStream::connect(proxy.addr())?;
    client.set_read_timeout(Some(LIMIT))?;
    let mut reply = [0; 100];
    client.write_all(b"one")?;
    assert_eq!(client.read(&mut reply)?, 3);

    let mut hold = proxy.hold(|request| request.contains("two"));
    client.write_all(b"two")?;
    assert_eq!(hold.held().await?.bytes(), b"two");
    hold.release();
    assert_eq!(client.read(&mut reply)?, 3);

    let mut lost = proxy.lose_reply(|_| true);
    client.write_all(b"three")?;
    lost.lost().await?;
    assert_eq!(client.read(&mut reply).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let seen: Vec<Vec<u8>> = (0..3).map(|_| seen.recv_timeout(LIMIT)).collect::<Result<_, _>>()?;
    assert_eq!(seen, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    Ok(())
}
