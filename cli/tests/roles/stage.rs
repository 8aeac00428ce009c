//! One outbox, one ingest, and forwarders, in stores of their own.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use lease_core::admin::{self, Init};
use lease_core::{Grant, LeaseName, WallTime};
use lease_postgres::{Postgres as Leases, PostgresConfig};
use lease_spendguard::canonical;
use lease_spendguard::cloudevents::{BATCH, EventKey};
use lease_spendguard::outbox::{self, NewEvent};
use lease_testbed::{Postgres, PostgresOptions, Process, Proxy, field, free_port, wait_until};
use lease_worker_common::database::Database;
use lease_worker_common::http_client;
use serde_json::value::to_raw_value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{PgPool, SqlitePool};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const IS_LEADER: &str = "spendguard_outbox_forwarder_is_leader";

/// For tests in which a lease runs out.
pub(crate) const SHORT: [&str; 2] = ["--ttl", "2s"];

/// Else it looks as often, but no late beat ends a term.
const LONG: [&str; 6] = ["--ttl", "15s", "--renew-interval", "600ms", "--retry-interval", "130ms"];

pub(crate) enum Pools {
    Sqlite { outbox: SqlitePool, canonical: SqlitePool },
    Postgres { outbox: PgPool, canonical: PgPool },
}

pub(crate) struct Stage {
    _folder: TempDir,
    pub(crate) server: Option<Postgres>,
    pub(crate) lease_flags: Vec<String>,
    pub(crate) outbox: String,
    pub(crate) canonical: String,
    pub(crate) pools: Pools,
}

impl Stage {
    pub(crate) async fn sqlite() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = |name: &str| folder.path().join(name).display().to_string();
        let lease_flags = ["--mode", "sqlite", "--sqlite-path"].map(str::to_owned).to_vec();
        let lease_flags = [lease_flags, vec![file("leases.sqlite")]].concat();
        let urls =
            [format!("sqlite:{}", file("outbox.sqlite")), format!("sqlite:{}", file("canonical.sqlite"))];
        Self::set(folder, None, lease_flags, urls).await
    }

    pub(crate) async fn postgres() -> anyhow::Result<Self> {
        let server = Postgres::start(PostgresOptions::default()).await?;
        let leases = server.create_database("leases").await?;
        let config = PostgresConfig::new(&leases)?;
        lease_postgres::migrate(&config).await?;
        let backend = Leases::connect(config).await?;
        let new = Init { new: true, above: 0, max_ttl: Duration::from_secs(15) };
        admin::init(&backend, &LeaseName::new("outbox-forwarder")?, new).await?;
        let lease_flags = ["--mode", "postgres", "--postgres-url"].map(str::to_owned).to_vec();
        let urls = [server.create_database("outbox").await?, server.create_database("canonical").await?];
        Self::set(tempfile::tempdir()?, Some(server), [lease_flags, vec![leases]].concat(), urls).await
    }

    async fn set(
        folder: TempDir,
        server: Option<Postgres>,
        lease_flags: Vec<String>,
        [outbox, canonical]: [String; 2],
    ) -> anyhow::Result<Self> {
        let (at_outbox, at_canonical) = (database(&outbox)?, database(&canonical)?);
        outbox::open(&at_outbox, true, LIMIT).await?.migrate().await?;
        canonical::open(&at_canonical, true, 1, LIMIT).await?.migrate().await?;
        let sqlite = |path| SqlitePool::connect_with(SqliteConnectOptions::new().filename(path));
        let pools = match (at_outbox, at_canonical) {
            (Database::Sqlite(outbox), Database::Sqlite(canonical)) => {
                Pools::Sqlite { outbox: sqlite(outbox).await?, canonical: sqlite(canonical).await? }
            }
            (Database::Postgres(outbox), Database::Postgres(canonical)) => Pools::Postgres {
                outbox: PgPool::connect_with(*outbox).await?,
                canonical: PgPool::connect_with(*canonical).await?,
            },
            _ => unreachable!("both are of one kind"),
        };
        Ok(Self { _folder: folder, server, lease_flags, outbox, canonical, pools })
    }

    pub(crate) async fn ingest(&self) -> anyhow::Result<Worker> {
        Worker::start(&["worker", "canonical-ingest", "--canonical-url", &self.canonical]).await
    }

    /// An operator's command on the lease store; what it printed.
    pub(crate) async fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_leasehold"));
        let ran = command.args(&self.lease_flags).args(args).env("USER", "op").output().await?;
        anyhow::ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        Ok(String::from_utf8(ran.stdout)?)
    }

    /// A candidate whose lease doesn't run out.
    pub(crate) async fn forwarder(&self, name: &str, ingest: &str) -> anyhow::Result<Worker> {
        self.forwarder_with(name, ingest, &self.outbox, &[]).await
    }

    pub(crate) async fn forwarder_with(
        &self,
        name: &str,
        ingest: &str,
        outbox: &str,
        more: &[&str],
    ) -> anyhow::Result<Worker> {
        let args = self.forwarder_args(name, ingest, outbox, more);
        Worker::start(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// One whose log goes elsewhere.
    pub(crate) async fn unheard_forwarder(
        &self,
        name: &str,
        ingest: &str,
        log: impl Into<Stdio>,
        more: &[&str],
    ) -> anyhow::Result<Worker> {
        Worker::unheard(&self.forwarder_args(name, ingest, &self.outbox, more), log).await
    }

    fn forwarder_args(&self, name: &str, ingest: &str, outbox: &str, more: &[&str]) -> Vec<String> {
        let ingest = format!("http://{ingest}/v1/events");
        // `more` may say its own.
        let at = if more.contains(&"--ingest-url") { vec![] } else { vec!["--ingest-url", &ingest] };
        let args = ["worker", "outbox-forwarder", "--workload-id", name, "--outbox-url", outbox];
        let args = [&args[..], &at, more].concat();
        let lease_flags: Vec<_> = self.lease_flags.iter().map(String::as_str).collect();
        let flags = if more.contains(&"--mode") { &[] } else { &lease_flags[..] };
        let times = if more.contains(&"--ttl") { &[] } else { &LONG[..] };
        [&args[..], flags, times].concat().into_iter().map(str::to_owned).collect()
    }

    /// Writes rows `from..to` of the one producer, each of an epoch of its own: a row's epoch is only data.
    pub(crate) async fn append(&self, from: i64, to: i64) -> anyhow::Result<()> {
        let events: anyhow::Result<Vec<_>> = (from..to).map(event).collect();
        Ok(outbox::open(&database(&self.outbox)?, false, LIMIT).await?.append(&events?).await?)
    }

    /// Waits until exactly the rows `0..written` were ingested and none is pending.
    pub(crate) async fn all_arrived(&self, written: i64) -> anyhow::Result<()> {
        self.drained().await?;
        for (sql, expected) in [
            ("SELECT count(*) FROM canonical_events", written),
            ("SELECT min(producer_sequence) FROM canonical_events", 0),
            ("SELECT max(producer_sequence) FROM canonical_events", written - 1),
            // F-1, judged by the effects: in the order of ingestion no epoch follows a greater one.
            (
                "SELECT count(*) FROM (SELECT forwarder_epoch, lag(forwarder_epoch) OVER (ORDER BY ingest_id) AS before
                 FROM canonical_events) AS e WHERE forwarder_epoch < before",
                0,
            ),
        ] {
            anyhow::ensure!(self.canonical_int(sql).await? == expected, "{sql} is not {expected}");
        }
        Ok(())
    }

    /// Waits until no row is pending.
    pub(crate) async fn drained(&self) -> anyhow::Result<()> {
        wait_until("no row is pending", LIMIT, || async {
            let pending =
                self.outbox_int("SELECT count(*) FROM audit_outbox WHERE forwarded_at IS NULL").await;
            pending.is_ok_and(|pending| pending == 0)
        })
        .await
    }

    pub(crate) async fn outbox_int(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(match &self.pools {
            Pools::Sqlite { outbox, .. } => sqlx::query_scalar(sql).fetch_one(outbox).await?,
            Pools::Postgres { outbox, .. } => sqlx::query_scalar(sql).fetch_one(outbox).await?,
        })
    }

    pub(crate) async fn canonical_int(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(match &self.pools {
            Pools::Sqlite { canonical, .. } => sqlx::query_scalar(sql).fetch_one(canonical).await?,
            Pools::Postgres { canonical, .. } => sqlx::query_scalar(sql).fetch_one(canonical).await?,
        })
    }
}

pub(crate) fn database(url: &str) -> anyhow::Result<Database> {
    url.parse().map_err(anyhow::Error::msg)
}

pub(crate) fn event(number: i64) -> anyhow::Result<NewEvent> {
    let key = EventKey {
        tenant_id: "acme".into(),
        workload_instance_id: "ledger-0".into(),
        producer_sequence: number,
    };
    // Epochs fall and rise: whoever compared them would refuse rows.
    let fencing_epoch = (number * 7_919) % 1_000;
    Ok(NewEvent { key, event_time: WallTime::now().0, fencing_epoch, payload: to_raw_value(&number)? })
}

/// One process of the binary, and where it listens.
pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Worker {
    pub(crate) async fn start(args: &[&str]) -> anyhow::Result<Self> {
        let process = Process::command(env!("CARGO_BIN_EXE_leasehold"))?
            .env_clear()
            .args(args)
            .args(["--listen", "127.0.0.1:0"])
            .spawn()?;
        let line = process.wait_for_line(" started address=", LIMIT).await?;
        let address = field(&line, "address")?.to_owned();
        Ok(Self { process, address })
    }

    /// One that can't say where it listens.
    async fn unheard(args: &[String], log: impl Into<Stdio>) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let process = Process::command(env!("CARGO_BIN_EXE_leasehold"))?
            .env_clear()
            .args(args)
            .args(["--listen", &address])
            .stderr(log)
            .spawn()?;
        let this = Self { process, address };
        wait_until("it serves its pages", LIMIT, || async { this.get("/healthz").await.is_ok() }).await?;
        Ok(this)
    }

    /// Sends the head of a batch whose body has `length` bytes. Returns once the ingest asks for the body: it has begun,
    /// and has taken a place.
    pub(crate) async fn begun(&self, length: usize) -> anyhow::Result<TcpStream> {
        const CONTINUE: &[u8; 25] = b"HTTP/1.1 100 Continue\r\n\r\n";
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: {BATCH}\r\ncontent-length: {length}\r\n\
             expect: 100-continue\r\nleasehold-lease: l\r\nleasehold-epoch: 1\r\nleasehold-grant: {}\r\n\r\n",
            Grant(7)
        );
        let mut client = TcpStream::connect(&self.address).await?;
        client.write_all(head.as_bytes()).await?;
        let mut answer = [0; CONTINUE.len()];
        tokio::time::timeout(LIMIT, client.read_exact(&mut answer)).await.context("no answer")??;
        anyhow::ensure!(&answer == CONTINUE, "{}", String::from_utf8_lossy(&answer));
        Ok(client)
    }

    pub(crate) fn proxy(&self) -> anyhow::Result<Proxy> {
        Proxy::tcp(self.address.parse()?)
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let reply = http_client(LIMIT)?.get(format!("http://{}{path}", self.address)).send().await?;
        Ok((reply.status().as_u16(), reply.text().await?))
    }

    /// Waits until it is ready: on a busy machine a probe may run into its limit.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        wait_until("it is ready", LIMIT, || async {
            self.get("/readyz").await.is_ok_and(|(status, text)| status == 200 && text == "ok\n")
        })
        .await
    }

    /// The value of the metric whose line begins with `name`.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, page) = self.get("/metrics").await?;
        let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
        let value =
            line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name}: {page}"))?;
        Ok(value.parse()?)
    }

    pub(crate) async fn leads(&self) -> anyhow::Result<()> {
        self.process.wait_for_line("leading", LIMIT).await.map(drop)
    }

    /// Waits until its metrics say that it leads.
    pub(crate) async fn says_that_it_leads(&self) -> anyhow::Result<()> {
        wait_until("it leads", LIMIT, || async {
            self.metric(IS_LEADER).await.is_ok_and(|leads| leads == 1.0)
        })
        .await
    }

    /// The epoch of the term that it began last.
    pub(crate) fn epoch(&self) -> anyhow::Result<i64> {
        let lines = self.process.lines();
        let line = lines.iter().rev().find(|line| line.contains("leading")).context("it never led")?;
        let epoch = line.split("epoch=").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(epoch.context("no epoch")?.parse()?)
    }
}
