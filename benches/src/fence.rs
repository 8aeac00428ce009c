//! The cost of the fence, and the ledger's use of its database: 16 clients, in turns.
//!
//! - Reservations with the admission lock against the same without it, each in a database of its own on one server:
//!   on one hot scope, and over 64.
//! - The ledger's store, and a real ledger over gRPC, against pgbench with the same statement. The latter with the
//!   database on processors of its own: on shared ones the gRPC work of 16 clients would be measured as the ledger's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lease_core::Grant;
use lease_spendguard::ledger;
use lease_spendguard::ledger::store::{LedgerStore, ScopeTerm};
use lease_spendguard::rpc::ledger::v1::{self, ledger_client::LedgerClient};
use lease_testbed::{Postgres as Server, PostgresOptions, Process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tonic::transport::Channel;

use crate::paired::{BarResult, Samples, judge};

const CLIENTS: usize = 16;
const SCOPES: usize = 64;
/// The number and length of each side's turns: short, so that what changes meanwhile changes for both.
const TURNS: usize = 60;
const TURN: Duration = Duration::from_millis(250);
/// Against pgbench, whose sessions are new in each turn: a second of its work doesn't count.
const LONG_TURNS: usize = 10;
const LONG_TURN: Duration = Duration::from_secs(2);
const GRANT: Grant = Grant(7);
const LIMIT: Duration = Duration::from_secs(30);

/// One ledger's database: its scopes are held by the bench.
struct Books {
    url: String,
    store: Arc<LedgerStore>,
    fences: Vec<ScopeTerm>,
}

impl Books {
    async fn new(server: &Server, name: &str, fenced: bool) -> anyhow::Result<Self> {
        let url = server.create_database(name).await?;
        let options: PgConnectOptions = url.parse()?;
        ledger::migrate(&options).await?;
        if !fenced {
            let mut connection: PgConnection = options.connect().await?;
            let source: String = sqlx::query_scalar("SELECT pg_get_functiondef('ledger_admit'::regproc)")
                .fetch_one(&mut connection)
                .await?;
            let (head, _) = source.split_once("BEGIN").context("the function has a body")?;
            let without = format!("{head}BEGIN RETURN true; END $function$");
            sqlx::raw_sql(AssertSqlSafe(without)).execute(&mut connection).await?;
            connection.close().await?;
        }
        let store = Arc::new(LedgerStore::open(&options, CLIENTS as u32, LIMIT));
        let mut fences = Vec::new();
        for number in 0..SCOPES {
            let (scope, tenant) = (format!("scope-{number}"), format!("tenant-{number}"));
            ledger::add_scope(&options, &scope, &tenant).await?;
            ledger::set_budget(&options, &tenant, "EUR", i64::MAX / 2).await?;
            fences.push(ScopeTerm { scope, tenant, instance: "bench".into(), epoch: 1, grant: GRANT });
        }
        // One grant for all, so that pgbench's script can name it.
        let mut connection: PgConnection = options.connect().await?;
        sqlx::query(
            "UPDATE fencing_scopes SET current_holder_instance_id = 'bench', current_epoch = 1, current_grant = $1,
                    ttl_expires_at = clock_timestamp() + interval '1 day'",
        )
        .bind(sqlx::types::Uuid::from_u128(GRANT.0))
        .execute(&mut connection)
        .await?;
        connection.close().await?;
        Ok(Self { url, store, fences })
    }

    /// Reservations by 16 clients for one `turn`, over the first `scopes` scopes; returns the time for one.
    async fn through_the_store(&self, scopes: usize, turn: Duration) -> anyhow::Result<Duration> {
        let until = Instant::now() + turn;
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (store, fences) = (self.store.clone(), self.fences[..scopes].to_vec());
            clients.spawn(async move {
                let mut done = 0;
                while Instant::now() < until {
                    let fence = &fences[(client + done as usize * 7) % fences.len()];
                    store.reserve(fence, &key(), "bench", 1, "EUR", 600).await?;
                    done += 1;
                }
                Ok(done)
            });
        }
        per_write(clients).await
    }

    /// The same through a ledger's gRPC, each client with a connection of its own.
    async fn through_grpc(&self, clients: &[LedgerClient<Channel>]) -> anyhow::Result<Duration> {
        let until = Instant::now() + LONG_TURN;
        let mut tasks = tokio::task::JoinSet::new();
        for (number, client) in clients.iter().enumerate() {
            let (mut client, fences) = (client.clone(), self.fences.clone());
            tasks.spawn(async move {
                let mut done = 0;
                while Instant::now() < until {
                    let fence = &fences[(number + done as usize * 7) % fences.len()];
                    let asked = v1::ReserveRequest {
                        fence: Some(v1::Fence {
                            fencing_scope_id: fence.scope.clone(),
                            tenant_id: fence.tenant.clone(),
                            workload_instance_id: fence.instance.clone(),
                            epoch: fence.epoch.unsigned_abs(),
                            grant: fence.grant.0.to_be_bytes().to_vec(),
                        }),
                        idempotency_key: key(),
                        amount_minor: 1,
                        currency: "EUR".into(),
                        ttl_seconds: 600,
                        request_id: "bench".into(),
                    };
                    let answer = client.reserve(asked).await?.into_inner().outcome;
                    let reserved = matches!(answer, Some(v1::reservation_response::Outcome::Reservation(_)));
                    anyhow::ensure!(reserved, "{answer:?}");
                    done += 1;
                }
                Ok(done)
            });
        }
        per_write(tasks).await
    }

    /// The same statement by pgbench, prepared, over all scopes. Its sessions' first second, in which each of them
    /// compiles and plans, doesn't count: those of the other side have done that before.
    async fn through_pgbench(&self, pgbench: &Path, script: &Path) -> anyhow::Result<Duration> {
        let url = url::Url::parse(&self.url)?;
        let seconds = (LONG_TURN.as_secs() + 1).to_string();
        let output = tokio::process::Command::new(pgbench)
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--progress=1", "--time", &seconds])
            .arg(format!("--client={CLIENTS}"))
            .arg("--file")
            .arg(script)
            .arg(url.path().trim_start_matches('/'))
            .env("PGHOST", url.host_str().unwrap_or_default())
            .env("PGPORT", url.port().unwrap_or(5432).to_string())
            .env("PGUSER", url.username())
            .env("PGPASSWORD", url.password().unwrap_or_default())
            .output()
            .await?;
        // progress: 2.0 s, 8765.4 tps, lat 1.8 ms stddev 0.7, 0 failed
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let seconds = text.lines().filter_map(|line| line.strip_prefix("progress: ")?.split(", ").nth(1));
        let rates: Vec<f64> =
            seconds.skip(1).filter_map(|rate| rate.strip_suffix(" tps")?.parse().ok()).collect();
        anyhow::ensure!(output.status.success() && !rates.is_empty(), "pgbench gave no figure: {text}");
        Ok(Duration::from_secs_f64(rates.len() as f64 / rates.iter().sum::<f64>()))
    }

    fn script(folder: &Path) -> anyhow::Result<PathBuf> {
        let grant = sqlx::types::Uuid::from_u128(GRANT.0);
        let script = format!(
            "\\set n random(0, {})\n\
             SELECT * FROM ledger_reserve('scope-' || :n, 'tenant-' || :n, 'bench', 1, '{grant}', \
             gen_random_uuid()::text, 'bench', gen_random_uuid(), 1, 'EUR', 600);\n",
            SCOPES - 1
        );
        let path = folder.join("reserve.sql");
        std::fs::write(&path, script)?;
        Ok(path)
    }
}

fn key() -> String {
    Grant::random().to_string()
}

/// The time for one write, all clients together.
async fn per_write(mut clients: tokio::task::JoinSet<anyhow::Result<u32>>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut all = 0;
    while let Some(done) = clients.join_next().await {
        all += done??;
    }
    anyhow::ensure!(all > 0, "nothing was written in a turn");
    Ok(began.elapsed() / all)
}

fn pgbench() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let folders = std::env::split_paths(&path).chain(debian.map(|version| version.path().join("bin")));
    folders
        .map(|folder| folder.join("pgbench"))
        .find(|file| file.is_file())
        .context("pgbench is missing: install PostgreSQL's client programs, then run this again")
}

/// A ledger of the same build: its binary lies beside this one.
fn ledger_beside() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("leasehold");
    anyhow::ensure!(program.is_file(), "{} is missing: run make bench, which builds it", program.display());
    Ok(program)
}

/// Starts it, and connects each client.
async fn serve(program: PathBuf, url: &str) -> anyhow::Result<(Process, Vec<LedgerClient<Channel>>)> {
    let process = Process::command(program)?
        .env_clear()
        .env("LEASEHOLD_LOG", "info,leasehold::requests=warn")
        .args([
            "worker",
            "ledger",
            "--listen",
            "127.0.0.1:0",
            "--grpc-listen",
            "127.0.0.1:0",
            "--ledger-db-url",
            url,
        ])
        .spawn()?;
    let line = process.wait_for_line(" started address=", LIMIT).await?;
    let grpc =
        line.split("grpc=").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no address")?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(LedgerClient::connect(format!("http://{grpc}")).await?);
    }
    Ok((process, clients))
}

pub(crate) async fn fence() -> anyhow::Result<Vec<BarResult>> {
    // Missing requirements are reported before anything is measured.
    crate::processors::can_be_apart()?;
    let (pgbench, ledger) = (pgbench()?, ledger_beside()?);
    let server = Server::start(PostgresOptions::default().setting("max_wal_size", "4GB")).await?;
    let fenced = Books::new(&server, "fenced", true).await?;
    let unfenced = Books::new(&server, "unfenced", false).await?;
    let mut verdicts = Vec::new();
    for (scopes, bar, what) in [(1, 1.4, "one hot scope"), (SCOPES, 1.1, "64 scopes")] {
        let (mut ours, mut reference) = (Samples::default(), Samples::default());
        fenced.through_the_store(scopes, LONG_TURN).await?;
        unfenced.through_the_store(scopes, LONG_TURN).await?;
        for turn in 0..TURNS {
            // Whoever is second writes into what the first has left behind: they take turns in that, too.
            if turn % 2 == 0 {
                ours.add(fenced.through_the_store(scopes, TURN).await?);
                reference.add(unfenced.through_the_store(scopes, TURN).await?);
            } else {
                reference.add(unfenced.through_the_store(scopes, TURN).await?);
                ours.add(fenced.through_the_store(scopes, TURN).await?);
            }
        }
        let what = format!("a reservation with the fence / without, {CLIENTS} clients, {what}");
        verdicts.push(judge(&what, bar, &ours, &reference));
    }
    let folder = tempfile::tempdir()?;
    let script = Books::script(folder.path())?;
    let (mut store, mut reference) = (Samples::default(), Samples::default());
    for _ in 0..LONG_TURNS {
        store.add(fenced.through_the_store(SCOPES, LONG_TURN).await?);
        reference.add(fenced.through_pgbench(&pgbench, &script).await?);
    }
    // 80 % of pgbench's rate is 1.25 times its time.
    let what =
        format!("a reservation through the ledger's store / pgbench, the same statement, {CLIENTS} clients");
    verdicts.push(judge(&what, 1.25, &store, &reference));

    let postmaster = std::fs::read_to_string(server.data_dir().join("postmaster.pid"))?;
    crate::processors::apart(postmaster.lines().next().context("the server runs")?.parse()?)?;
    let (_ledger, clients) = serve(ledger, &fenced.url).await?;
    let (mut grpc, mut reference) = (Samples::default(), Samples::default());
    for _ in 0..LONG_TURNS {
        grpc.add(fenced.through_grpc(&clients).await?);
        reference.add(fenced.through_pgbench(&pgbench, &script).await?);
    }
    let what = format!(
        "a reservation over gRPC, no line logged for each / pgbench, the same statement, {CLIENTS} clients, \
         the database on processors of its own"
    );
    verdicts.push(judge(&what, 1.25, &grpc, &reference));
    Ok(verdicts)
}
