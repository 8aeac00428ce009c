//! The ledger as the suite meets it: a real process on a Postgres of its own.

use std::env;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use lease_conformance::{Attached, Facility, Harness, Missing};
use lease_core::{
    BackendError, Capabilities, Change, Hints, LeaseBackend, LeaseName, Observation, PutOutcome, Record,
};
use lease_spendguard::sidecar::{Ledger, Scopes, ScopesConfig};
use lease_testbed::{Postgres, PostgresOptions, Process, Proxy};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;

/// The variable by which an actor's process finds the ledger.
const URL: &str = "LEASEHOLD_SCOPE_URL";
/// The scope of which every lease's scope is a part: the ledger makes those for whoever asks (perPod).
const PARENT: &str = "s";
const TENANT: &str = "t";
/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Serves servers and proxies, whichever runtime a case runs on.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime must start")
    })
}

/// Runs `future` there, and waits for it from any other runtime.
async fn there<T, F>(future: F) -> Result<T, Missing>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let done = runtime().spawn(future).await.map_err(Missing::because)?;
    done.map_err(|error| Missing(format!("{error:#}")))
}

#[derive(Clone)]
pub(crate) struct LedgerHarness {
    url: String,
    run_out_is_free: bool,
    server: Option<Arc<Server>>,
}

struct Server {
    postgres: Postgres,
    database: String,
    ledger: Mutex<Process>,
    /// Between an isolated harness and its ledger, so that the address stays the same across a restart.
    proxy: Option<Proxy>,
}

impl LedgerHarness {
    /// The harness of an actor's process; `None` in any other.
    pub(crate) fn of_this_process() -> Option<Self> {
        env::var(URL).ok().map(|url| Self { url, run_out_is_free: false, server: None })
    }

    /// A ledger that all undisturbed cases share.
    pub(crate) fn start() -> Self {
        runtime().block_on(Self::new(false)).expect("a ledger must start")
    }

    /// The same ledger, seen as a sidecar sees it.
    pub(crate) fn as_a_sidecar_sees_it(&self) -> Self {
        Self { run_out_is_free: true, ..self.clone() }
    }

    async fn new(isolated: bool) -> anyhow::Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let database = postgres.create_database("ledger").await?;
        let prepare = ["--ledger-db-url", &database, "--migrate", "--add-scope", PARENT, TENANT];
        let prepared = leasehold(&prepare)?;
        ensure!(prepared.wait(LIMIT).await?.success(), "{:?}", prepared.lines());
        let (ledger, mut address) = serve(&database).await?;
        let proxy = isolated.then(|| Proxy::grpc(address.parse()?)).transpose()?;
        if let Some(proxy) = &proxy {
            address = proxy.addr().to_string();
        }
        let server = Server { postgres, database, ledger: Mutex::new(ledger), proxy };
        Ok(Self { url: format!("http://{address}"), run_out_is_free: false, server: Some(Arc::new(server)) })
    }

    fn scopes(&self, url: &str) -> Result<Scopes, BackendError> {
        let ledger = Ledger::at(url).map_err(|error| BackendError::refused(error.to_string()))?;
        Ok(Scopes::new(ScopesConfig {
            ledger,
            tenant: TENANT.to_owned(),
            scope_of: Arc::new(|lease| format!("{PARENT}/{lease}")),
            patience: Duration::from_secs(10),
            run_out_is_free: self.run_out_is_free,
        }))
    }

    fn server(&self) -> Result<Arc<Server>, Missing> {
        self.server.clone().ok_or_else(|| Missing("this process has no server".into()))
    }
}

fn leasehold(args: &[&str]) -> anyhow::Result<Process> {
    let command = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear();
    command.args(["worker", "ledger"]).args(args).spawn()
}

async fn serve(database: &str) -> anyhow::Result<(Process, String)> {
    let pages = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"];
    let many = ["--ledger-max-waiters", "4096", "--ledger-max-requests", "4096"];
    let ledger = leasehold(&[&["--ledger-db-url", database], &pages[..], &many].concat())?;
    let line = ledger.wait_for_line("ledger started", LIMIT).await?;
    let address = line.split("grpc=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.context("where it serves gRPC")?.to_owned();
    Ok((ledger, address))
}

#[async_trait]
impl Harness for LedgerHarness {
    fn name(&self) -> &str {
        "ledger"
    }

    fn shows_what_was_written(&self) -> bool {
        !self.run_out_is_free
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let scopes = self.scopes(&self.url)?;
        Ok(if self.run_out_is_free { Arc::new(Fenced(scopes)) } else { Arc::new(scopes) })
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &[Facility::Restart, Facility::LoseReply, Facility::Processes]
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::Delete => "no role of the ledger may delete a scope",
            Facility::ChangeLineage | Facility::Rewind => {
                "scopes and their effects are rewound together, so there is one lineage"
            }
            Facility::FencedEffects => {
                "a scope admits its present term and no other, which the ledger's own tests judge"
            }
            _ => "the harness does not offer it",
        }
        .to_owned()
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let run_out_is_free = self.run_out_is_free;
        there(async move {
            let harness: Arc<dyn Harness> = Arc::new(Self { run_out_is_free, ..Self::new(true).await? });
            Ok(harness)
        })
        .await
    }

    async fn restart(&self) -> Result<(), Missing> {
        let server = self.server()?;
        there(async move {
            let proxy = server.proxy.as_ref().context("the shared ledger goes on")?;
            let mut ledger = server.ledger.lock().await;
            ledger.kill().await?;
            server.postgres.crash().await?;
            server.postgres.start_again().await?;
            let (again, address) = serve(&server.database).await?;
            *ledger = again;
            proxy.switch_upstream(address.parse()?);
            proxy.cut().await;
            Ok(())
        })
        .await
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let upstream = self.url.trim_start_matches("http://").parse().map_err(Missing::because)?;
        let proxy = there(async move { Proxy::grpc(upstream) }).await?;
        let scopes = self.scopes(&format!("http://{}", proxy.addr())).map_err(Missing::because)?;
        let trap = proxy.lose_reply(|request| request.calls("Ledger/PutFencingScope"));
        Ok(Arc::new(Attached::new(scopes, (trap, proxy))))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.env(URL, &self.url);
        Some(command)
    }
}

/// Marks every term as one whose effects are all fenced (F-3), as the sidecar's elector does.
struct Fenced(Scopes);

#[async_trait]
impl LeaseBackend for Fenced {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.0.observe(name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let record = Record { preemptible: true, ..record.clone() };
        self.0.put_if(name, expected, &record, change).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        self.0.watch(prefix).await
    }
}
