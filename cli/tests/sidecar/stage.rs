//! A database, a ledger on it, and sidecars.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use lease_spendguard::rpc::ledger::v1::ledger_client::LedgerClient;
use lease_spendguard::rpc::ledger::v1::revoke_fencing_lease_response::Outcome;
use lease_spendguard::rpc::ledger::v1::{RevokeFencingLeaseRequest, revoke_fencing_lease_response::Revoked};
pub(crate) use lease_testbed::field;
use lease_testbed::{Postgres, PostgresOptions, Process, Proxy, wait_until};
use lease_worker_common::http_client;
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SCOPE: &str = "payments";
pub(crate) const TENANT: &str = "acme";
pub(crate) const HOLDING: &str = "holding the fencing scope";

static SERVER: OnceCell<Postgres> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server that all tests share.
async fn server() -> anyhow::Result<&'static Postgres> {
    SERVER.get_or_try_init(|| Postgres::start(PostgresOptions::default().max_connections(400))).await
}

/// One process of the binary.
pub(crate) fn leasehold(args: &[&str]) -> anyhow::Result<Process> {
    Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(args).spawn()
}

pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) url: String,
    pub(crate) pool: PgPool,
    pub(crate) ledger: Process,
    /// The ledger's gRPC address.
    pub(crate) grpc: String,
}

impl Stage {
    /// A ledger with one scope and a budget of 1,000 EUR cents.
    pub(crate) async fn new() -> anyhow::Result<Self> {
        Self::with(&[]).await
    }

    pub(crate) async fn with(ledger_flags: &[&str]) -> anyhow::Result<Self> {
        let name = format!("sidecar_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let url = server().await?.create_database(&name).await?;
        let prepare =
            ["worker", "ledger", "--ledger-db-url", &url, "--migrate", "--add-scope", SCOPE, TENANT];
        let made = leasehold(&[&prepare[..], &["--set-budget", TENANT, "EUR", "1000"]].concat())?;
        anyhow::ensure!(made.wait(LIMIT).await?.success(), "{:?}", made.lines());
        let (ledger, grpc) = ledger(&url, ledger_flags).await?;
        let pool = PgPool::connect(&url).await?;
        Ok(Self { folder: tempfile::tempdir()?, url, pool, ledger, grpc })
    }

    /// One more ledger on the same database, and where it serves gRPC.
    pub(crate) async fn another_ledger(&self) -> anyhow::Result<(Process, String)> {
        ledger(&self.url, &[]).await
    }

    pub(crate) fn proxy(&self) -> anyhow::Result<Proxy> {
        Proxy::grpc(self.grpc.parse()?)
    }

    /// The socket of the sidecar `name`.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    /// A sidecar that was started and is known to have said so, with a ttl of `ttl` seconds.
    pub(crate) async fn sidecar(&self, name: &str, ttl: u32, more: &[&str]) -> anyhow::Result<Sidecar> {
        self.sidecar_at(&format!("http://{}", self.grpc), name, ttl, more).await
    }

    /// The same, with the ledger at another URL.
    pub(crate) async fn sidecar_at(
        &self,
        ledger: &str,
        name: &str,
        ttl: u32,
        more: &[&str],
    ) -> anyhow::Result<Sidecar> {
        let socket = self.socket(name);
        let ttl = ttl.to_string();
        let args =
            ["worker", "sidecar", "--workload-id", name, "--listen", "127.0.0.1:0", "--fencing-scope", SCOPE];
        let also = ["--tenant", TENANT, "--ledger-url", ledger, "--fencing-ttl-seconds", &ttl, "--socket"];
        let args = [&args[..], &also, &[socket.to_str().context("a path")?], more].concat();
        let process = leasehold(&args)?;
        let line = process.wait_for_line("sidecar started", LIMIT).await?;
        Ok(Sidecar { address: field(&line, "address")?.to_owned(), process, socket })
    }

    /// A sidecar that serves its socket.
    pub(crate) async fn serving(&self, name: &str, ttl: u32, more: &[&str]) -> anyhow::Result<Sidecar> {
        let sidecar = self.sidecar(name, ttl, more).await?;
        sidecar.serves().await?;
        Ok(sidecar)
    }

    /// An operator ends whatever term there is.
    pub(crate) async fn revoke(&self) -> anyhow::Result<Revoked> {
        let mut client = LedgerClient::connect(format!("http://{}", self.grpc)).await?;
        let message = RevokeFencingLeaseRequest {
            fencing_scope_id: SCOPE.into(),
            tenant_id: TENANT.into(),
            by: "a test".into(),
        };
        match client.revoke_fencing_lease(message).await?.into_inner().outcome {
            Some(Outcome::Revoked(revoked)) => Ok(revoked),
            other => anyhow::bail!("not revoked: {other:?}"),
        }
    }

    pub(crate) async fn int(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    pub(crate) async fn text(&self, sql: &'static str) -> anyhow::Result<Option<String>> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    /// The holder of the scope in the ledger's table.
    pub(crate) async fn holder(&self) -> anyhow::Result<Option<String>> {
        self.text("SELECT current_holder_instance_id FROM fencing_scopes WHERE fencing_scope_id = 'payments'")
            .await
    }
}

async fn ledger(url: &str, flags: &[&str]) -> anyhow::Result<(Process, String)> {
    let start = ["worker", "ledger", "--ledger-db-url", url, "--listen", "127.0.0.1:0"];
    let ledger = leasehold(&[&start[..], &["--grpc-listen", "127.0.0.1:0"], flags].concat())?;
    let line = ledger.wait_for_line("ledger started", LIMIT).await?;
    let grpc = field(&line, "grpc")?.to_owned();
    Ok((ledger, grpc))
}

pub(crate) struct Sidecar {
    pub(crate) process: Process,
    /// The address of its pages.
    pub(crate) address: String,
    pub(crate) socket: PathBuf,
}

/// The socket's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// One request on a socket; an empty body is none.
pub(crate) async fn post(
    socket: &Path,
    path: &str,
    body: &Value,
    id: Option<&str>,
) -> anyhow::Result<Answer> {
    let _ = http_client(LIMIT)?;
    let client = reqwest::Client::builder().unix_socket(socket.to_owned()).timeout(LIMIT).build()?;
    let mut request = client.post(format!("http://sidecar{path}"));
    if !body.is_null() {
        request = request.json(body);
    }
    if let Some(id) = id {
        request = request.header("x-request-id", id);
    }
    let reply = request.send().await?;
    let header =
        |name: &str| reply.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (retry_after, request_id) = (header("retry-after"), header("x-request-id"));
    Ok(Answer { status: reply.status().as_u16(), retry_after, request_id, body: reply.json().await? })
}

/// A reservation of `amount_minor`, as a pod asks for it.
pub(crate) fn reservation(key: &str, amount_minor: i64) -> Value {
    json!({
        "tenant": TENANT, "amount_minor": amount_minor, "currency": "EUR", "ttl_seconds": 600, "idempotency_key": key,
    })
}

impl Sidecar {
    pub(crate) async fn serves(&self) -> anyhow::Result<()> {
        self.process.wait_for_line("serving socket=", LIMIT).await.map(drop)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        post(&self.socket, path, body, None).await
    }

    pub(crate) async fn reserve(&self, key: &str, amount_minor: i64) -> anyhow::Result<Answer> {
        self.post("/v1/reservations", &reservation(key, amount_minor)).await
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let reply = http_client(LIMIT)?.get(format!("http://{}{path}", self.address)).send().await?;
        Ok((reply.status().as_u16(), reply.text().await?))
    }

    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, page) = self.get("/metrics").await?;
        let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
        let value =
            line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name}: {page}"))?;
        Ok(value.parse()?)
    }

    pub(crate) async fn actions(&self, action: &str) -> anyhow::Result<f64> {
        self.metric(&format!("spendguard_sidecar_fencing_acquire_action_total{{action=\"{action}\"}}")).await
    }

    /// Waits until `more` renewals were acknowledged.
    pub(crate) async fn renews(&self, more: f64) -> anyhow::Result<()> {
        let before = self.actions("renew").await?;
        wait_until("it renews", LIMIT, || async {
            self.actions("renew").await.is_ok_and(|count| count >= before + more)
        })
        .await
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.process.lines().iter().any(|line| line.contains(text))
    }
}
