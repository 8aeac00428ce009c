//! `leasehold-lab roll`: a fleet of forwarders changes its lease store, again and again, under load (M-1).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lease_core::LeaseName;
use lease_judge::history::{Effects, History};
use lease_spendguard::{canonical, forwarder, outbox};
use lease_testbed::{
    ControlPlane, ControlPlaneOptions, Etcd, EtcdOptions, Postgres, PostgresOptions, Process, Signal, field,
    wait_until,
};
use lease_worker_common::database::Database;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use sqlx::PgPool;

use crate::demo::DemoWriter;
use crate::judged::Judged;

/// Roll a fleet of forwarders from store to store under load, and judge what it leaves behind
///
/// Each move is a rolling restart with leaderElection.migrateFrom, while `leasehold migrate` is started and killed at
/// random moments beside it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The stores, in order
    #[arg(long, value_delimiter = ',', default_value = "postgres,etcd,k8s,postgres",
          value_parser = ["postgres", "etcd", "k8s"])]
    through: Vec<String>,
    /// Outbox rows written in a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    rate: u64,
    /// Makes the same kills again
    #[arg(long)]
    seed: Option<u64>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

const PODS: usize = 2;
const TTL_MS: &str = "3000";
const LIMIT: Duration = Duration::from_secs(60);
const KILLS_A_MOVE: usize = 3;

#[derive(Debug, Serialize)]
struct Move {
    from: String,
    to: String,
    /// The longest time without a new row while it was made.
    gap_ms: i64,
    /// The number of runs of `leasehold migrate` that were killed.
    killed: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    holds: bool,
    seed: u64,
    moves: Vec<Move>,
    claims: Vec<(String, bool)>,
    #[serde(flatten)]
    judged: Judged,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::set(&args.through).await?;
    let written = Arc::new(AtomicU64::new(0));
    let writer = DemoWriter::start(&stage.outbox, written, 0, args.rate).await?;
    let mut fleet = Vec::new();
    for number in 0..PODS {
        fleet.push(stage.forwarder(number, &args.through[0], None)?);
    }
    stage.leads(&args.through[0]).await?;
    let (mut moves, mut exits) = (Vec::new(), Vec::new());
    for pair in args.through.windows(2) {
        let [from, to] = pair else { continue };
        eprintln!("{from} → {to}");
        let began = stage.clock().await?;
        let mut killed = 0;
        for _ in 0..KILLS_A_MOVE {
            let mover = stage.leasehold(&["migrate", "--mode", to, "--migrate-from", from], "mover")?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
            // One that has ended has moved it.
            killed += usize::from(mover.exit_status().is_none() && mover.kill().await.is_ok());
        }
        for (number, pod) in fleet.iter_mut().enumerate() {
            pod.signal(Signal::TERM)?;
            exits.push(pod.wait(LIMIT).await?.success());
            *pod = stage.forwarder(number, to, Some(from))?;
            pod.wait_for_line("outbox-forwarder started", LIMIT).await?;
        }
        stage.leads(to).await.with_context(|| format!("in {to}:\n{}", logs(&fleet)))?;
        moves.push(Move {
            from: from.clone(),
            to: to.clone(),
            gap_ms: stage.gap_since(began).await?,
            killed,
        });
    }
    let rows = writer.finish().await?;
    let empty = async || stage.one(PENDING).await.is_ok_and(|left| left == 0);
    wait_until("the outbox is empty", LIMIT, empty).await.with_context(|| logs(&fleet))?;
    for pod in &fleet {
        pod.signal(Signal::TERM)?;
        exits.push(pod.wait(LIMIT).await?.success());
    }
    let (arrived, keys) = (stage.ingested("count(*)").await?, stage.ingested(KEYS).await?);
    let judged =
        Judged::of(&BTreeMap::from([(LeaseName::new(forwarder::LEASE)?, stage.history().await?)]), None);
    let claims = vec![
        (format!("{rows} rows were written, {arrived} arrived, {keys} of them distinct"), {
            rows as i64 == arrived && arrived == keys
        }),
        (
            format!("{} of {} asked to stop ended with 0", exits.iter().filter(|e| **e).count(), exits.len()),
            { exits.iter().all(|clean| *clean) },
        ),
    ];
    let holds = judged.holds() && claims.iter().all(|(_, holds)| *holds);
    let report = Report { holds, seed, moves, claims, judged };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for Move { from, to, gap_ms, killed } in &report.moves {
            println!(
                "      {from} → {to}: at most {gap_ms} ms without a row; {killed} runs of migrate were killed"
            );
        }
        for (claim, holds) in &report.claims {
            println!("{}  {claim}", if *holds { "ok  " } else { "FAIL" });
        }
        print!("{}", report.judged);
    }
    Ok(crate::exit_code(report.holds))
}

fn logs(fleet: &[Process]) -> String {
    fleet.iter().map(|pod| pod.lines().join("\n")).collect::<Vec<_>>().join("\n\n")
}

const PENDING: &str = "SELECT count(*) FROM audit_outbox WHERE forwarded_at IS NULL";
const KEYS: &str = "count(DISTINCT (tenant_id, workload_instance_id, producer_sequence))";
/// All stores, and an ingest.
struct Stage {
    binary: PathBuf,
    environment: BTreeMap<&'static str, String>,
    outbox: String,
    ingest: String,
    pools: [PgPool; 2],
    _ingest: Process,
    _servers: (Postgres, Option<Etcd>, Option<ControlPlane>),
}

impl Stage {
    async fn set(stores: &[String]) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("leasehold");
        ensure!(binary.is_file(), "there is no {}: run `cargo build -p leasehold` first", binary.display());
        let uses = |mode: &str| stores.iter().any(|store| store == mode);
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let [leases, outbox, canonical] = [
            postgres.create_database("leases").await?,
            postgres.create_database("outbox").await?,
            postgres.create_database("canonical").await?,
        ];
        let mut environment = BTreeMap::from([
            ("SPENDGUARD_LEADER_LEASE_NAME", forwarder::LEASE.to_owned()),
            ("SPENDGUARD_LEADER_LEASE_TTL_MS", TTL_MS.to_owned()),
            ("SPENDGUARD_LEADER_POSTGRES_URL", leases),
        ]);
        let mut etcd = None;
        if uses("etcd") {
            let started = Etcd::start(EtcdOptions::default()).await?;
            environment.insert("SPENDGUARD_LEADER_ETCD_ENDPOINTS", started.endpoints().join(","));
            etcd = Some(started);
        }
        let mut plane = None;
        if uses("k8s") {
            let started = ControlPlane::start(ControlPlaneOptions::default()).await?;
            started.access().create_namespace(NAMESPACE).await?;
            environment.insert("SPENDGUARD_LEADER_K8S_NAMESPACE", NAMESPACE.to_owned());
            environment
                .insert("SPENDGUARD_LEADER_K8S_KUBECONFIG", started.kubeconfig().display().to_string());
            plane = Some(started);
        }
        let limit = Duration::from_secs(10);
        let database = |url: &str| url.parse::<Database>().map_err(anyhow::Error::msg);
        outbox::open(&database(&outbox)?, true, limit).await?.migrate().await?;
        canonical::open(&database(&canonical)?, true, 1, limit).await?.migrate().await?;
        let ingest = Process::command(&binary)?
            .env_clear()
            .args(["worker", "canonical-ingest", "--listen", "127.0.0.1:0", "--canonical-url", &canonical])
            .spawn()?;
        let line = ingest.wait_for_line("canonical-ingest started", LIMIT).await?;
        let address = field(&line, "address")?;
        let pools = [PgPool::connect(&outbox).await?, PgPool::connect(&canonical).await?];
        let this = Self {
            ingest: format!("http://{address}/v1/events"),
            binary,
            environment,
            outbox,
            pools,
            _ingest: ingest,
            _servers: (postgres, etcd, plane),
        };
        // The first store is a first installation; the others' registers come by the moves.
        let init = this.leasehold(&["init", "--new", "--mode", &stores[0]], "operator")?;
        ensure!(init.wait(LIMIT).await?.success(), "init failed: {}", init.lines().join("\n"));
        if uses("postgres") && stores[0] != "postgres" {
            let schema = this.leasehold(&["migrate-schema", "--mode", "postgres"], "operator")?;
            ensure!(schema.wait(LIMIT).await?.success(), "{}", schema.lines().join("\n"));
        }
        Ok(this)
    }

    fn leasehold(&self, args: &[&str], workload: &str) -> anyhow::Result<Process> {
        let command = Process::command(&self.binary)?.env_clear().args(args);
        let command = command.args(["--workload-id", workload]);
        self.environment.iter().fold(command, |command, (name, value)| command.env(name, value)).spawn()
    }

    fn forwarder(&self, number: usize, mode: &str, from: Option<&str>) -> anyhow::Result<Process> {
        let mut args = vec!["worker", "outbox-forwarder", "--listen", "127.0.0.1:0", "--mode", mode];
        args.extend(["--outbox-url", &self.outbox, "--ingest-url", &self.ingest]);
        if let Some(from) = from {
            args.extend(["--migrate-from", from]);
        }
        self.leasehold(&args, &format!("forwarder-{number}"))
    }

    /// Waits until the lease is held in `mode`, and rows of that very term have arrived.
    async fn leads(&self, mode: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let status = self.leasehold(&["status", "--mode", mode, "--json"], "operator")?;
            status.wait(LIMIT).await?;
            let said: serde_json::Value =
                serde_json::from_str(&status.lines().join("\n")).unwrap_or_default();
            let epoch = said["record"]["epoch"].as_i64().unwrap_or(i64::MAX);
            if said["state"] == "held" && self.ingested("coalesce(max(forwarder_epoch), 0)").await? >= epoch {
                return Ok(());
            }
            ensure!(began.elapsed() < LIMIT, "no row came within {LIMIT:?}; status: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Milliseconds since 1970, by the server.
    async fn clock(&self) -> anyhow::Result<i64> {
        self.one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await
    }

    /// The longest time without a new row since then.
    async fn gap_since(&self, began: i64) -> anyhow::Result<i64> {
        let sql = "SELECT coalesce(max(gap), 0)::bigint FROM (SELECT extract(epoch FROM ingested_at
            - lag(ingested_at) OVER (ORDER BY ingest_id)) * 1000 AS gap, ingested_at FROM canonical_events) AS gaps
            WHERE ingested_at > to_timestamp($1::float8 / 1000)";
        Ok(sqlx::query_scalar(sql).bind(began as f64).fetch_one(&self.pools[1]).await?)
    }

    async fn one(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pools[0]).await?)
    }

    async fn ingested(&self, what: &str) -> anyhow::Result<i64> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT ({what})::bigint FROM canonical_events"));
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pools[1]).await?)
    }

    /// The rows that arrived, as the effects of the forwarders on the ingest: nothing else tells of their terms.
    async fn history(&self) -> anyhow::Result<History> {
        // A bare `ingest_id` would be the selected text, in whose order 1000 comes before 101.
        let sql = "SELECT forwarder_epoch, ingest_id::text FROM canonical_events ORDER BY canonical_events.ingest_id";
        let rows: Vec<(i64, String)> = sqlx::query_as(sql).fetch_all(&self.pools[1]).await?;
        let admitted = rows.into_iter().map(|(epoch, id)| Ok((epoch.try_into()?, id)));
        let admitted = admitted.collect::<anyhow::Result<_>>()?;
        let effects = vec![Effects { resource: "canonical_events".to_owned(), admitted }];
        Ok(History { effects, ..History::default() })
    }
}

const NAMESPACE: &str = "leases";
