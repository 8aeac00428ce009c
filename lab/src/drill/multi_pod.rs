//! Two of everything, under load; the leader of each is killed.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::{HistoryEvent, WallTime};
use lease_testbed::{Folder, Postgres, PostgresOptions, Process, field, wait_for};
use sqlx::PgPool;

use super::Sabotage;
use super::load::{Client, Load, TENANT};
use super::pods::{PATIENCE, Worker, binary, operator};
use super::report::DrillReport;
use crate::demo::TTL;
use crate::demo::stores::DemoStores;

const SCOPE: &str = "payments";
const NAMES: [&str; 2] = ["a", "b"];

/// The time that a takeover may take beyond the ttl: a poll, and a busy machine.
const GRACE: Duration = Duration::from_secs(3);

/// Everything that runs.
struct Installation {
    ledger: PgPool,
    forwarders: Vec<Worker>,
    sweepers: Vec<Worker>,
    sidecars: Vec<Worker>,
    sockets: Vec<PathBuf>,
    ingest: Worker,
    _ledger: Worker,
    _server: Postgres,
    _folder: Folder,
}

impl Installation {
    async fn start(stores: &DemoStores, pods: usize, sabotage: Option<Sabotage>) -> anyhow::Result<Self> {
        let folder = Folder::new("drill")?;
        let server = Postgres::start(PostgresOptions::default()).await?;
        let url = server.create_database("ledger").await?;
        let prepare =
            ["worker", "ledger", "--ledger-db-url", &url, "--migrate", "--add-scope", SCOPE, TENANT];
        let prepared = Process::command(binary()?)?
            .env_clear()
            .args(prepare)
            .args(["--set-budget", TENANT, "EUR", "1000000"])
            .spawn()?;
        ensure!(prepared.wait(PATIENCE).await?.success(), "{}", prepared.lines().join("\n"));
        let ledger =
            Worker::start("ledger", &["--ledger-db-url", &url, "--grpc-listen", "127.0.0.1:0"]).await?;
        let started = ledger.process.wait_for_line("ledger started", PATIENCE).await?;
        let grpc = format!("http://{}", field(&started, "grpc")?);
        if sabotage != Some(Sabotage::NoRegister) {
            operator(stores, &["init", "--new", "ttl-sweeper"]).await?;
        }
        let ingest = Worker::ingest(stores).await?;
        let (mut forwarders, mut sweepers, mut sidecars, mut sockets) = (vec![], vec![], vec![], vec![]);
        for name in &NAMES[..pods] {
            let named = |role: &str| format!("{role}-{name}");
            forwarders.push(Worker::forwarder(stores, &named("forwarder"), &url, &ingest.address).await?);
            let sweeps = ["--sweeper-db-url", &url, "--sweeper-poll-interval", "100ms"];
            sweepers.push(Worker::leader(stores, "ttl-sweeper", &named("sweeper"), &sweeps).await?);
            let socket = folder.path().join(format!("{name}.sock"));
            let (id, ttl) = (named("sidecar"), TTL.as_secs().to_string());
            let path = socket.display().to_string();
            let args =
                ["--workload-id", &id, "--ledger-url", &grpc, "--fencing-scope", SCOPE, "--tenant", TENANT];
            let also = ["--fencing-ttl-seconds", &ttl, "--socket", &path, "--standby", "true"];
            sidecars.push(Worker::start("sidecar", &[&args[..], &also].concat()).await?);
            sockets.push(socket);
        }
        let pool = PgPool::connect(&url).await?;
        Ok(Self {
            ledger: pool,
            forwarders,
            sweepers,
            sidecars,
            sockets,
            ingest,
            _ledger: ledger,
            _server: server,
            _folder: folder,
        })
    }

    async fn int(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar::<_, Option<i64>>(sql).fetch_one(&self.ledger).await?.unwrap_or(0))
    }

    /// The holder of the scope, and its epoch.
    async fn scope(&self) -> anyhow::Result<(String, i64)> {
        let sql = "SELECT coalesce(current_holder_instance_id, ''), current_epoch FROM fencing_scopes";
        Ok(sqlx::query_as(sql).fetch_one(&self.ledger).await?)
    }

    /// The one pod of which `metric` is 1.
    async fn leader(pods: &[Worker], metric: &str) -> anyhow::Result<usize> {
        wait_for(&format!("exactly one {metric}"), PATIENCE, || async {
            let mut leaders = Vec::new();
            for (index, pod) in pods.iter().enumerate().filter(|(_, pod)| pod.process.exit_status().is_none())
            {
                if pod.metric(metric).await? == 1 {
                    leaders.push(index);
                }
            }
            ensure!(leaders.len() == 1, "{} lead", leaders.len());
            anyhow::Ok(leaders[0])
        })
        .await
    }
}

pub(super) async fn play(
    stores: &DemoStores,
    sabotage: Option<Sabotage>,
    report: &DrillReport,
) -> anyhow::Result<()> {
    let pods = if sabotage == Some(Sabotage::NoSuccessor) { 1 } else { 2 };
    let installation = Installation::start(stores, pods, sabotage).await?;
    report.step(format!("a ledger, an ingest, and {pods} of each: forwarder, sweeper, sidecar"));
    let load = Load::start(installation.sockets.clone(), Client::default());
    let committed = load.committed.clone();
    let more_commits = async || {
        let from = committed.load(Ordering::Relaxed);
        wait_for("commits go on", PATIENCE * 4, || async {
            let now = committed.load(Ordering::Relaxed);
            ensure!(now >= from + 20, "{} since", now - from);
            anyhow::Ok(now)
        })
        .await
    };
    // The time limit for a successor; the moment at which it came is in the stores.
    let limit = if pods == 2 { PATIENCE } else { TTL + GRACE };
    if let Err(why) = more_commits().await {
        load.finish().await?;
        return Err(why);
    }
    let forwarder =
        Installation::leader(&installation.forwarders, "spendguard_outbox_forwarder_is_leader").await;
    let sweeper = Installation::leader(&installation.sweepers, "spendguard_ttl_sweeper_is_leader").await;
    let (holder, epoch) = installation.scope().await?;
    report.check(
        "exactly one leader of each lease, and one holder of the scope",
        forwarder.is_ok() && sweeper.is_ok() && !holder.is_empty(),
        format!("{holder} holds {SCOPE} in epoch {epoch}"),
    );
    // Without a leader there is nobody to kill.
    let (Ok(forwarder), Ok(sweeper)) = (forwarder, sweeper) else { return load.finish().await.map(drop) };

    kill(stores, report, "outbox-forwarder", &installation.forwarders[forwarder], limit).await?;
    kill(stores, report, "ttl-sweeper", &installation.sweepers[sweeper], limit).await?;
    let history = stores.witness().history().await?;
    let last = history
        .iter()
        .rfind(|row| matches!(row.event_type, HistoryEvent::TakenOver | HistoryEvent::Acquired));
    let before = last.and_then(|last| history.iter().rfind(|row| row.sequence < last.sequence));
    report.check(
        "the history has a taken_over row with the next transition number",
        last.zip(before).is_some_and(|(last, before)| {
            last.event_type == HistoryEvent::TakenOver && last.transition_count == before.transition_count + 1
        }),
        last.map_or("no row".into(), |last| {
            format!("{} by {}", last.transition_count, last.holder_workload_id)
        }),
    );

    let active =
        installation.sidecars.iter().zip(NAMES).find(|(_, name)| holder == format!("sidecar-{name}"));
    let (active, _) = active.with_context(|| format!("{holder:?} is not one of the sidecars"))?;
    let killed = WallTime::now();
    active.process.kill().await?;
    report.step(format!("SIGKILL -> {holder}"));
    let taken = wait_for("another sidecar holds the scope", limit, || async {
        let (now, next) = installation.scope().await?;
        ensure!(now != holder && !now.is_empty() && next > epoch, "{now:?} holds it in epoch {next}");
        let since = "SELECT (extract(epoch FROM acquired_at) * 1000)::bigint FROM fencing_scopes";
        anyhow::Ok((now, next, after(killed, installation.int(since).await?)))
    })
    .await;
    report.check(
        "the other sidecar takes over within ttl + grace, with epoch + 1",
        taken.as_ref().is_ok_and(|(_, next, took)| *next == epoch + 1 && *took <= TTL + GRACE),
        taken.map_or_else(
            |why| format!("{why:#}"),
            |(now, next, took)| format!("{now}, epoch {next}, {} ms after the kill", took.as_millis()),
        ),
    );
    let promoted =
        installation.int("SELECT count(*) FROM fencing_scope_events WHERE action = 'promote'").await?;
    report.check("the scope's events have one promote", promoted == 1, format!("{promoted}"));
    if pods == 2 {
        more_commits().await?;
    }
    judge(stores, &installation, load, sabotage, report).await
}

/// Kills the leader; another must lead within ttl + grace.
async fn kill(
    stores: &DemoStores,
    report: &DrillReport,
    lease: &str,
    leader: &Worker,
    limit: Duration,
) -> anyhow::Result<()> {
    let shown = async || {
        let shown: serde_json::Value =
            serde_json::from_str(&operator(stores, &["status", lease, "--json"]).await?)?;
        let (record, of) = (&shown["record"], |field| format!("status --json has no {field}"));
        anyhow::Ok((
            record["holder"].to_string(),
            record["epoch"].as_u64().with_context(|| of("epoch"))?,
            record["acquired_at"].as_i64().with_context(|| of("acquired_at"))?,
        ))
    };
    let (holder, epoch, _) = shown().await?;
    let killed = WallTime::now();
    leader.process.kill().await?;
    report.step(format!("SIGKILL -> {holder}, which leads {lease}"));
    let next = wait_for("another leads", limit, || async {
        let (now, next, since) = shown().await?;
        ensure!(now != holder && next > epoch, "{now} holds it");
        anyhow::Ok((now, after(killed, since)))
    })
    .await;
    report.check(
        format!("another pod leads {lease} within ttl + grace"),
        next.as_ref().is_ok_and(|(_, took)| *took <= TTL + GRACE),
        next.map_or_else(
            |why| format!("{why:#}"),
            |(now, took)| format!("{now}, {} ms after the kill", took.as_millis()),
        ),
    );
    Ok(())
}

/// The time from the kill to the start of a term, which its holder or its store wrote on this machine. Our own polling
/// isn't counted.
fn after(killed: WallTime, began: i64) -> Duration {
    Duration::from_millis(began.saturating_sub(killed.0).max(0) as u64)
}

/// By SQL and by the ingest's own store.
async fn judge(
    stores: &DemoStores,
    installation: &Installation,
    load: Load,
    sabotage: Option<Sabotage>,
    report: &DrillReport,
) -> anyhow::Result<()> {
    if sabotage == Some(Sabotage::NoSuccessor) {
        return Ok(());
    }
    if sabotage == Some(Sabotage::NoSweeper) {
        for sweeper in installation.sweepers.iter().filter(|pod| pod.process.exit_status().is_none()) {
            sweeper.process.kill().await?;
        }
        wait_for("an expired reservation stays reserved", PATIENCE * 4, || async {
            let sql = "SELECT count(*) FROM reservations WHERE current_state = 'reserved'
                       AND ttl_expires_at < clock_timestamp()";
            ensure!(installation.int(sql).await? > 0, "none has expired");
            anyhow::Ok(())
        })
        .await?;
        report.step("SABOTAGE: the remaining sweeper is killed");
    }
    let reservations = load.finish().await?;
    report.step(format!("the load ends, after {reservations} reservations"));
    let drained = wait_for("everything is swept and forwarded", PATIENCE, || async {
        let live =
            installation.int("SELECT count(*) FROM reservations WHERE current_state = 'reserved'").await?;
        let pending =
            installation.int("SELECT count(*) FROM audit_outbox WHERE forwarded_at IS NULL").await?;
        ensure!(live == 0 && pending == 0, "{live} reserved, {pending} pending");
        anyhow::Ok(())
    })
    .await;
    if sabotage == Some(Sabotage::StrayEpoch) {
        let sql = "UPDATE audit_outbox SET fencing_epoch = 4711 WHERE outbox_id = (SELECT min(outbox_id)
            FROM audit_outbox WHERE workload_instance_id LIKE 'sidecar-%')";
        sqlx::raw_sql(sql).execute(&installation.ledger).await?;
        report.step("SABOTAGE: an audit row gets an epoch that nobody held");
    }
    if sabotage == Some(Sabotage::LateRow) {
        stores.witness().add_row_of(&stores.canonical, 1).await?;
        report.step("SABOTAGE: a row is put into the canonical store");
    }
    report.check(
        "every reservation is committed or swept",
        drained.is_ok(),
        drained.map_or_else(|why| format!("{why:#}"), |()| "none is left".into()),
    );
    let (all, committed, released) = (
        installation.int("SELECT count(*) FROM reservations").await?,
        installation.int("SELECT count(*) FROM reservations WHERE current_state = 'committed'").await?,
        installation.int("SELECT count(*) FROM reservations WHERE current_state = 'released'").await?,
    );
    let books = installation.int("SELECT count(*) FROM budgets WHERE reserved_minor = 0 AND committed_minor = (SELECT sum(amount_minor) FROM reservations WHERE current_state = 'committed')").await?;
    report.check(
        "reserved = committed + released, and the budget's totals agree",
        all == committed + released && all as u64 == reservations && books == 1,
        format!("{all} = {committed} + {released}"),
    );
    let rows = installation.int("SELECT count(*) FROM audit_outbox").await?;
    let (events, keys) = (stores.witness().ingested().await?, stores.witness().keys().await?.0);
    report.check(
        "each audit row is one canonical event",
        rows as u64 == events && keys == events && rows == 2 * all,
        format!("{rows} rows, {events} events, {keys} keys"),
    );
    let stray = installation
        .int(
            "SELECT count(*) FROM audit_outbox row WHERE row.workload_instance_id LIKE 'sidecar-%' AND NOT EXISTS (
                 SELECT FROM fencing_scope_events event WHERE event.new_epoch = row.fencing_epoch
                     AND event.owner_instance_id = row.workload_instance_id)",
        )
        .await?;
    report.check("no row has an epoch that its writer never held", stray == 0, format!("{stray} do"));
    let doubled =
        installation.ingest.metric("spendguard_canonical_ingest_events_duplicate_total").await.unwrap_or(0);
    report.step(format!("{doubled} events were sent twice and stored once"));
    Ok(())
}
