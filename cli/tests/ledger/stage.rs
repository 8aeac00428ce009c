//! A database of its own for each test, ledgers on it, and what a client says to them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use lease_spendguard::ledger;
use lease_spendguard::rpc::ledger::v1::{self, ledger_client::LedgerClient};
pub(crate) use lease_testbed::field;
use lease_testbed::{Postgres, PostgresOptions, Process, wait_until};
use lease_worker_common::http_client;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use v1::acquire_fencing_lease_response::{Denied, Outcome, Success};

/// Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SCOPE: &str = "payments";
pub(crate) const TENANT: &str = "acme";

/// For a ledger whose calls are held up: none of them runs into its own limit.
pub(crate) const PATIENT: [&str; 2] = ["--ledger-call-timeout", "600s"];

static SERVER: OnceCell<Postgres> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server that all tests share.
pub(crate) async fn server() -> anyhow::Result<&'static Postgres> {
    let start = || Postgres::start(PostgresOptions::default().max_connections(400));
    SERVER.get_or_try_init(start).await
}

pub(crate) struct Stage {
    pub(crate) url: String,
    pub(crate) pool: PgPool,
}

impl Stage {
    /// A ledger's tables with one scope and a budget of 1,000 EUR cents.
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let name = format!("ledger_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let url = server().await?.create_database(&name).await?;
        let options: PgConnectOptions = url.parse()?;
        ledger::migrate(&options).await?;
        ledger::add_scope(&options, SCOPE, TENANT).await?;
        ledger::set_budget(&options, TENANT, "EUR", 1_000).await?;
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy_with(options);
        Ok(Self { url, pool })
    }

    pub(crate) async fn ledger(&self) -> anyhow::Result<Ledger> {
        self.ledger_with(&[]).await
    }

    pub(crate) async fn ledger_with(&self, more: &[&str]) -> anyhow::Result<Ledger> {
        Ledger::start(&self.url, more).await
    }

    pub(crate) async fn int(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    pub(crate) async fn texts(&self, sql: &'static str) -> anyhow::Result<Vec<String>> {
        Ok(sqlx::query_scalar(sql).fetch_all(&self.pool).await?)
    }

    /// Invariants of the tables: no budget is overdrawn, its sums are its reservations', and every
    /// change of a reservation has one audit row and one outbox row, in which all but the expiries agree.
    pub(crate) async fn books_balance(&self) -> anyhow::Result<()> {
        for sql in [
            "SELECT count(*) FROM budgets WHERE reserved_minor + committed_minor > limit_minor",
            "SELECT count(*) FROM budgets b WHERE reserved_minor <> (SELECT coalesce(sum(amount_minor), 0)
                FROM reservations r WHERE r.tenant_id = b.tenant_id AND r.currency = b.currency AND current_state = 'reserved')",
            "SELECT count(*) FROM budgets b WHERE committed_minor <> (SELECT coalesce(sum(amount_minor), 0)
                FROM reservations r WHERE r.tenant_id = b.tenant_id AND r.currency = b.currency AND current_state = 'committed')",
            "SELECT count(*) FROM reservations r WHERE 1 <> (SELECT count(*) FROM reservation_events e
                WHERE e.reservation_id = r.reservation_id AND action = 'reserve')",
            "SELECT count(*) FROM reservations r WHERE (CASE current_state WHEN 'reserved' THEN 0 ELSE 1 END) <>
                (SELECT count(*) FROM reservation_events e WHERE e.reservation_id = r.reservation_id AND action <> 'reserve')",
            "SELECT count(*) FROM reservation_events e FULL JOIN audit_outbox o ON o.producer_sequence = e.event_id
                AND o.tenant_id = e.tenant_id AND o.workload_instance_id = e.owner_instance_id
                AND o.fencing_epoch = e.fencing_epoch WHERE e.event_id IS NULL OR o.outbox_id IS NULL",
        ] {
            anyhow::ensure!(self.int(sql).await? == 0, "not none: {sql}");
        }
        Ok(())
    }
}

/// One process of `leasehold worker ledger`.
pub(crate) struct Ledger {
    pub(crate) process: Process,
    pub(crate) pages: String,
    pub(crate) grpc: String,
}

pub(crate) async fn start(args: &[&str]) -> anyhow::Result<(Process, String)> {
    let process = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(args).spawn()?;
    let line = process.wait_for_line(" started address=", LIMIT).await?;
    Ok((process, line))
}

pub(crate) async fn page(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let reply = http_client(LIMIT)?.get(format!("http://{address}{path}")).send().await?;
    Ok((reply.status().as_u16(), reply.text().await?))
}

/// Waits until it is ready: on a busy machine a probe may run into its limit.
pub(crate) async fn until_ready(address: &str) -> anyhow::Result<()> {
    wait_until("it is ready", LIMIT, || async {
        page(address, "/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await
}

/// The value of the metric whose line begins with `name`.
pub(crate) async fn metric(address: &str, name: &str) -> anyhow::Result<f64> {
    let (_, page) = page(address, "/metrics").await?;
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
    let value =
        line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name}: {page}"))?;
    Ok(value.parse()?)
}

impl Ledger {
    pub(crate) async fn start(url: &str, more: &[&str]) -> anyhow::Result<Self> {
        let args = ["worker", "ledger", "--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"];
        let (process, line) = start(&[&args[..], &["--ledger-db-url", url], more].concat()).await?;
        let (pages, grpc) = (field(&line, "address")?.to_owned(), field(&line, "grpc")?.to_owned());
        Ok(Self { process, pages, grpc })
    }

    pub(crate) async fn client(&self) -> anyhow::Result<LedgerClient<Channel>> {
        Ok(LedgerClient::connect(format!("http://{}", self.grpc)).await?)
    }

    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        metric(&self.pages, name).await
    }
}

/// An attempt by `instance` with a ttl of an hour.
pub(crate) fn attempt(instance: &str) -> v1::AcquireFencingLeaseRequest {
    v1::AcquireFencingLeaseRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        workload_instance_id: instance.into(),
        ttl_seconds: 3_600,
        force: false,
        audit_event_id: String::new(),
        grant: Vec::new(),
    }
}

pub(crate) async fn ask(
    client: &LedgerClient<Channel>,
    asked: v1::AcquireFencingLeaseRequest,
) -> anyhow::Result<Outcome> {
    let answer = client.clone().acquire_fencing_lease(asked).await?;
    answer.into_inner().outcome.context("no outcome")
}

pub(crate) async fn won(
    client: &LedgerClient<Channel>,
    asked: v1::AcquireFencingLeaseRequest,
) -> anyhow::Result<Success> {
    match ask(client, asked).await? {
        Outcome::Success(success) => Ok(success),
        other => anyhow::bail!("not acquired: {other:?}"),
    }
}

pub(crate) async fn denied(
    client: &LedgerClient<Channel>,
    asked: v1::AcquireFencingLeaseRequest,
) -> anyhow::Result<Denied> {
    match ask(client, asked).await? {
        Outcome::Denied(denied) => Ok(denied),
        other => anyhow::bail!("not denied: {other:?}"),
    }
}

/// The code of the error that an attempt gets.
pub(crate) async fn refused(
    client: &LedgerClient<Channel>,
    asked: v1::AcquireFencingLeaseRequest,
) -> anyhow::Result<String> {
    match ask(client, asked).await? {
        Outcome::Error(error) => Ok(error.code),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

pub(crate) fn fence(instance: &str, term: &Success) -> v1::Fence {
    v1::Fence {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        workload_instance_id: instance.into(),
        epoch: term.epoch,
        grant: term.grant.clone(),
    }
}

pub(crate) fn reserve(fence: &v1::Fence, key: &str, amount_minor: i64) -> v1::ReserveRequest {
    v1::ReserveRequest {
        fence: Some(fence.clone()),
        idempotency_key: key.into(),
        amount_minor,
        currency: "EUR".into(),
        ttl_seconds: 600,
        request_id: format!("request-{key}"),
    }
}

pub(crate) fn settle(fence: &v1::Fence, key: &str, reservation_id: &str) -> v1::SettleRequest {
    v1::SettleRequest {
        fence: Some(fence.clone()),
        idempotency_key: key.into(),
        reservation_id: reservation_id.into(),
        request_id: format!("request-{key}"),
    }
}

/// The reservation that was answered, or the error's code.
pub(crate) fn outcome(
    answer: tonic::Response<v1::ReservationResponse>,
) -> anyhow::Result<Result<v1::Reservation, String>> {
    match answer.into_inner().outcome.context("no outcome")? {
        v1::reservation_response::Outcome::Reservation(reservation) => Ok(Ok(reservation)),
        v1::reservation_response::Outcome::Error(error) => Ok(Err(error.code)),
    }
}

/// Waits until the scope has no live holder, by asking the ledger.
pub(crate) async fn until_free(client: &LedgerClient<Channel>) -> anyhow::Result<()> {
    let asked = v1::AwaitFencingScopeRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        limit_ms: 30_000,
        ..v1::AwaitFencingScopeRequest::default()
    };
    let answer = client.clone().await_fencing_scope(asked).await?.into_inner();
    anyhow::ensure!(answer.free, "still held after the limit");
    Ok(())
}

/// Makes `count` reservations of 1 EUR cent each whose time is over.
pub(crate) async fn expired(stage: &Stage, count: i32) -> anyhow::Result<()> {
    sqlx::raw_sql("UPDATE budgets SET limit_minor = 1000000").execute(&stage.pool).await?;
    let made: i64 = sqlx::query_scalar(
        "WITH term AS MATERIALIZED (SELECT * FROM ledger_fencing_scope('acquire', 'payments', 'acme', 'seeder', NULL, NULL,
                3600, true, NULL, gen_random_uuid(), NULL))
         SELECT count(made.o_reservation) FROM term, generate_series(1, $1) AS n, LATERAL ledger_reserve('payments',
                'acme', 'seeder', o_epoch, o_grant, o_epoch || '-' || n, '', gen_random_uuid(), 1, 'EUR', 600) AS made",
    )
    .bind(count)
    .fetch_one(&stage.pool)
    .await?;
    anyhow::ensure!(made == i64::from(count), "{made} of {count} were made");
    sqlx::raw_sql("UPDATE reservations SET ttl_expires_at = clock_timestamp() - interval '1 hour' WHERE current_state = 'reserved'")
        .execute(&stage.pool)
        .await?;
    Ok(())
}
