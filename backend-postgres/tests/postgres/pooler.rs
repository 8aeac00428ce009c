//! Transaction poolers in between: one that loses prepared statements, as PgBouncer before 1.21 does, and one that
//! follows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::common::*;
use lease_core::LeaseBackend;
use lease_postgres::pool::{DURABLE, Pool};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::PgBouncer;
use sqlx::{Executor, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

#[tokio::test]
async fn a_pooler_that_loses_prepared_statements_is_refused_at_start() -> anyhow::Result<()> {
    let store = store().await?;
    for refuses_options in [false, true] {
        let pooler = Pooler::start(store.server.addr(), false, refuses_options).await?;
        let config = PostgresConfig::new(&pooler.url(&store))?.schema(&store.schema)?;
        for _ in 0..3 {
            let error = Postgres::connect(config.clone()).await.expect_err("it loses statements");
            assert!(error.refused && error.to_string().contains("max_prepared_statements"), "{error}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_pooler_that_follows_prepared_statements_serves_all_but_the_watch() -> anyhow::Result<()> {
    let store = store().await?;
    for refuses_options in [false, true] {
        let pooler = Pooler::start(store.server.addr(), true, refuses_options).await?;
        let config = PostgresConfig::new(&pooler.url(&store))?.schema(&store.schema)?;
        lease_postgres::migrate(&config).await?;
        let backend = Postgres::connect(config.clone()).await?;
        let lease = name(&format!("pooled-{refuses_options}"));
        let mut seen = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
        for _ in 0..5 {
            // Others come and go on the same servers.
            let other = Postgres::connect(config.clone()).await?;
            assert_eq!(other.observe(&lease).await?.record, seen.record);
            seen = renew(&backend, &lease, &seen).await?;
        }
        release(&backend, &lease, &seen).await?;

        let error = backend.watch("").await.err().expect("it would hear nothing");
        assert!(error.refused && error.to_string().contains("listen_url"), "{error}");
        let direct = Postgres::connect(config.listen_url(&store.server.url())?).await?;
        drop(direct.watch("").await?);
    }
    Ok(())
}

/// A connection that was left listening would go on when this process has ended, and another program's statements
/// would meet its notifications.
#[tokio::test]
async fn a_real_pooler_is_found_out_before_anything_listens_through_it() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 4;
    let store = store().await?;
    let pooler = PgBouncer::start(store.server, CONNECTIONS as u32).await?;
    // Others use it, so that each statement meets another of its connections.
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut other = session(&pooler.url()).await?;
        others.spawn(async move { while other.execute("SELECT 1").await.is_ok() {} });
    }
    for _ in 0..3 {
        let backend = Postgres::connect(store.config.clone().listen_url(&pooler.url())?).await?;
        for _ in 0..3 {
            let error = backend.watch("").await.err().expect("it would hear nothing");
            assert!(error.refused && error.to_string().contains("listen_url"), "{error}");
        }
    }
    others.shutdown().await;
    // As many transactions at once as it has connections: each has one to itself.
    let (mut apart, mut pids) = (Vec::new(), BTreeSet::new());
    for _ in 0..CONNECTIONS {
        let mut session = session(&pooler.url()).await?;
        session.execute("BEGIN").await?;
        let look = "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_listening_channels())";
        let row = session.fetch_one(sqlx::raw_sql(look)).await?;
        assert_eq!(row.try_get::<i64, _>(1)?, 0, "it was left listening");
        pids.insert(row.try_get::<i32, _>(0)?);
        apart.push(session);
    }
    assert_eq!(pids.len(), CONNECTIONS);
    Ok(())
}

/// Half of the calls would fail, some with another caller's parameters, and nothing would end them in time.
#[tokio::test]
async fn effects_are_refused_through_a_pooler_on_each_connection() -> anyhow::Result<()> {
    let store = store().await?;
    let real = PgBouncer::start(store.server, 2).await?;
    let refuses = Pooler::start(store.server.addr(), true, true).await?;
    for url in [real.url(), refuses.url(&store)] {
        let pool = Pool::checked(&url.parse()?, 2, LIMIT, DURABLE);
        for _ in 0..3 {
            let error = pool.call(async |c| c.execute("SELECT 1").await.map(drop)).await;
            let error = error.expect_err("its settings are not in force").to_string();
            assert!(error.contains("a pooler stands in between"), "{error}");
            assert!(error.contains("connect to the server itself"), "{error}");
        }
    }
    Ok(())
}

// === a pooler ===

/// One server connection, which its clients use in turn, a transaction each.
struct Pooler {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    upstream: SocketAddr,
    follows: bool,
    refuses_options: bool,
    server: Arc<Mutex<Option<Server>>>,
}

struct Server {
    stream: TcpStream,
    prepared: BTreeSet<String>,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pooler {
    async fn start(upstream: SocketAddr, follows: bool, refuses_options: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { upstream, follows, refuses_options, server: Arc::default() });
        let accept = async move {
            let mut clients = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                clients.spawn(serve(client, number, shared.clone()));
            }
        };
        Ok(Self { addr, task: tokio::spawn(accept) })
    }

    fn url(&self, store: &Store) -> String {
        let direct = format!("127.0.0.1:{}", store.server.port());
        store.server.url().replace(&direct, &self.addr.to_string())
    }
}

/// One client, until it leaves; what goes wrong ends it.
async fn serve(mut client: TcpStream, number: u32, shared: Arc<Shared>) -> std::io::Result<()> {
    let Some(server) = log_in(&mut client, &shared).await? else { return Ok(()) };
    shared.server.lock().await.get_or_insert(server);
    let mut parsed = BTreeMap::new();
    let mut transaction = None;
    loop {
        let mut batch = Vec::new();
        loop {
            let message = read(&mut client).await?;
            batch.push(message);
            match batch[batch.len() - 1][0] {
                b'S' | b'Q' => break,
                b'X' => return Ok(()),
                _ => {}
            }
        }
        let mut turn = match transaction.take() {
            Some(turn) => turn,
            None => shared.server.clone().lock_owned().await,
        };
        let server = turn.as_mut().expect("the first client has left it here");
        let mut hidden = 0;
        for message in batch {
            let (message, first) = match shared.follows {
                true => follow(message, number, &mut parsed, &mut server.prepared),
                false => (message, None),
            };
            if let Some(parse) = first {
                hidden += 1;
                server.stream.write_all(&parse).await?;
            }
            server.stream.write_all(&message).await?;
        }
        loop {
            let reply = read(&mut server.stream).await?;
            if reply[0] == b'1' && hidden > 0 {
                hidden -= 1;
                continue;
            }
            client.write_all(&reply).await?;
            if reply[0] == b'Z' {
                transaction = (reply[5] != b'I').then_some(turn);
                break;
            }
        }
    }
}

/// Passes start-up and authentication through, for the first connection to a server as for all others.
async fn log_in(client: &mut TcpStream, shared: &Shared) -> std::io::Result<Option<Server>> {
    let mut startup = read_startup(client).await?;
    if startup[4..8] == 80_877_103_u32.to_be_bytes() {
        client.write_all(b"N").await?;
        startup = read_startup(client).await?;
    }
    let text = String::from_utf8_lossy(&startup).into_owned();
    if shared.refuses_options && text.contains("\0options\0") {
        let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
        client.write_all(&message(b'E', fields)).await?;
        return Ok(None);
    }
    let mut stream = TcpStream::connect(shared.upstream).await?;
    stream.write_all(&startup).await?;
    loop {
        let reply = read(&mut stream).await?;
        client.write_all(&reply).await?;
        match reply[0] {
            b'E' => return Ok(None),
            b'Z' => return Ok(Some(Server { stream, prepared: BTreeSet::new() })),
            // 0: authenticated; 12: the last of SCRAM. All others ask the client for something.
            b'R' if ![0, 12].contains(&reply[8]) => stream.write_all(&read(client).await?).await?,
            _ => {}
        }
    }
}

/// Names each client's statements apart, and prepares one where it is missing, before its first use there.
fn follow(
    whole: Vec<u8>,
    client: u32,
    parsed: &mut BTreeMap<String, Vec<u8>>,
    prepared: &mut BTreeSet<String>,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let (kind, body) = (whole[0], &whole[5..]);
    let (before, rest) = match kind {
        b'P' => (&body[..0], body),
        b'B' => body.split_at(body.iter().position(|byte| *byte == 0).expect("a portal's name") + 1),
        b'D' | b'C' if body[0] == b'S' => body.split_at(1),
        _ => return (whole, None),
    };
    let end = rest.iter().position(|byte| *byte == 0).expect("a statement's name");
    if end == 0 {
        return (whole, None); // Unnamed ones last no longer than their batch.
    }
    let name = format!("c{client}_{}", String::from_utf8_lossy(&rest[..end]));
    let renamed = message(kind, &[before, name.as_bytes(), &rest[end..]].concat());
    match kind {
        b'P' => {
            parsed.insert(name.clone(), renamed.clone());
            prepared.insert(name);
            (renamed, None)
        }
        _ if prepared.insert(name.clone()) => (renamed, parsed.get(&name).cloned()),
        _ => (renamed, None),
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message").to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let kind = stream.read_u8().await?;
    Ok([vec![kind], read_startup(stream).await?].concat())
}

async fn read_startup(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.resize(length as usize, 0);
    stream.read_exact(&mut whole[4..]).await?;
    Ok(whole)
}
