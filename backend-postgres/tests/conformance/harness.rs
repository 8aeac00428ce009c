//! PostgreSQL as the suite meets it: a server of its own, and what an administrator or an accident does to it.

use std::env;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use lease_conformance::{Attached, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_postgres::{Postgres, PostgresConfig, migrate};
use lease_testbed::{PostgresOptions, Proxy, StandbyOptions};
use tokio::runtime::{Builder, Runtime};

use crate::resource::Resource;

/// The variable by which an actor's process finds the store.
const URL: &str = "LEASEHOLD_CONFORMANCE_URL";
const SCHEMA: &str = "conformance";

/// What serves the servers and proxies, whichever runtime a case runs on.
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

pub(crate) struct PostgresHarness {
    url: String,
    server: Option<Server>,
}

/// A server, and for those that a case may disturb a proxy before it and a standby beside it.
struct Server {
    primary: Arc<lease_testbed::Postgres>,
    isolated: Option<(Arc<lease_testbed::Postgres>, Arc<Proxy>)>,
}

impl PostgresHarness {
    /// The harness of an actor's process; `None` in any other.
    pub(crate) fn of_this_process() -> Option<Self> {
        env::var(URL).ok().map(|url| Self { url, server: None })
    }

    /// A server that all undisturbed cases share.
    pub(crate) fn start() -> Self {
        runtime().block_on(async {
            let options = PostgresOptions::default().max_connections(600);
            let primary = lease_testbed::Postgres::start(options).await.expect("PostgreSQL must start");
            prepare(&primary.url()).await.expect("the schema must be made");
            let url = primary.url();
            Self { url, server: Some(Server { primary: Arc::new(primary), isolated: None }) }
        })
    }

    fn primary(&self) -> Result<Arc<lease_testbed::Postgres>, Missing> {
        let server = self.server.as_ref().ok_or_else(|| Missing("this process has no server".into()))?;
        Ok(server.primary.clone())
    }
}

fn config(url: &str) -> Result<PostgresConfig, BackendError> {
    let config = PostgresConfig::new(url).and_then(|config| config.schema(SCHEMA));
    config.map_err(|error| BackendError::refused(error.to_string()))
}

async fn prepare(url: &str) -> anyhow::Result<()> {
    migrate(&config(url)?).await?;
    Resource::install(url, SCHEMA).await
}

#[async_trait]
impl Harness for PostgresHarness {
    fn name(&self) -> &str {
        "postgres"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(Postgres::connect(config(&self.url)?).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(800)
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &[
            Facility::Delete,
            Facility::Restart,
            Facility::ChangeLineage,
            Facility::LoseReply,
            Facility::FencedEffects,
            Facility::Processes,
        ]
    }

    fn description(&self) -> Option<&'static str> {
        Some(include_str!("../../../conformance/stores/postgres.json"))
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let (primary, lease) = (self.primary()?, lease.clone());
        there(async move {
            let sql = format!(
                "BEGIN; SET LOCAL leasehold.allow_delete = on; \
                 DELETE FROM {SCHEMA}.coordination_leases WHERE lease_name = '{lease}'; COMMIT"
            );
            primary.psql(&sql).await.map(drop)
        })
        .await
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        there(async {
            let options = PostgresOptions::default();
            let primary = lease_testbed::Postgres::start(options).await?;
            prepare(&primary.url()).await?;
            let standby = primary.standby(StandbyOptions::asynchronous("standby")).await?;
            let proxy = Proxy::postgres(primary.addr())?;
            let url = proxy.url(&primary.url())?;
            let isolated = Some((Arc::new(standby), Arc::new(proxy)));
            let server = Some(Server { primary: Arc::new(primary), isolated });
            let harness: Arc<dyn Harness> = Arc::new(Self { url, server });
            Ok(harness)
        })
        .await
    }

    async fn restart(&self) -> Result<(), Missing> {
        let primary = self.primary()?;
        there(async move {
            primary.crash().await?;
            primary.start_again().await
        })
        .await
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        let isolated = self.server.as_ref().and_then(|server| server.isolated.as_ref());
        let (standby, proxy) = isolated.ok_or_else(|| Missing("the shared server stays as it is".into()))?;
        let (primary, standby, proxy) = (self.primary()?, standby.clone(), proxy.clone());
        there(async move {
            standby.catch_up_with(&primary).await?;
            primary.crash().await?;
            standby.promote().await?;
            proxy.switch_upstream(standby.addr());
            proxy.cut().await;
            Ok(())
        })
        .await
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let primary = self.primary()?;
        let (proxy, url) = there(async move {
            let proxy = Proxy::postgres(primary.addr())?;
            let url = proxy.url(&primary.url())?;
            Ok((proxy, url))
        })
        .await?;
        let config = config(&url).map_err(Missing::because)?;
        let inner = Postgres::connect(config).await.map_err(Missing::because)?;
        let trap = proxy.lose_reply(|request| request.sql_contains("UPDATE"));
        Ok(Arc::new(Attached::new(inner, (trap, proxy))))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let addr = self.server.as_ref().map(|server| server.primary.addr());
        Ok(Arc::new(Resource { url: self.url.clone(), schema: SCHEMA.into(), name: name.into(), addr }))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.env(URL, &self.url);
        Some(command)
    }
}
