//! The stores of one demo, in a throw-away folder.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lease_core::admin::{self, Init};
use lease_core::{LeaseBackend, LeaseName};
use lease_etcd::EtcdConfig;
use lease_k8s::{K8s, K8sConfig};
use lease_postgres::{Postgres, PostgresConfig};
use lease_spendguard::{canonical, forwarder, outbox};
use lease_sqlite::{Sqlite, SqliteConfig};
use lease_testbed::{
    ControlPlane, ControlPlaneOptions, Etcd, EtcdOptions, Folder, Postgres as Server, PostgresOptions,
    wait_for,
};
use lease_worker_common::database::Database;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{PgPool, SqlitePool};

use super::screen::Screen;
use super::witness::{Effects, Seen, Witness};
use super::{Mode, TTL};

/// Where everything is.
pub(crate) struct Stage {
    folder: Folder,
    /// Flags that name the lease store.
    pub(crate) lease_flags: Vec<String>,
    /// The outbox's URL.
    pub(crate) outbox: String,
    /// The canonical store's URL.
    pub(crate) canonical: String,
    witness: Arc<Witness>,
    _server: Option<Box<dyn Any + Send + Sync>>,
}

impl Stage {
    /// Makes the stores and their tables.
    pub(crate) async fn set(mode: Mode) -> anyhow::Result<Self> {
        let folder = Folder::new("demo")?;
        let lease = LeaseName::new(forwarder::LEASE)?;
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (lease_flags, lease_file, outbox, canonical, server, backend): (
            _,
            _,
            _,
            _,
            Option<Box<dyn Any + Send + Sync>>,
            Arc<dyn LeaseBackend>,
        );
        match mode {
            Mode::Sqlite => {
                let leases = file("leases.sqlite");
                lease_flags = vec!["--mode".into(), "sqlite".into(), "--sqlite-path".into(), leases.clone()];
                outbox = format!("sqlite:{}", file("outbox.sqlite"));
                canonical = format!("sqlite:{}", file("canonical.sqlite"));
                lease_file = Some(PathBuf::from(&leases));
                backend = Arc::new(Sqlite::connect(SqliteConfig::new(leases)?).await?);
                server = None;
            }
            Mode::Postgres => {
                let started = Server::start(PostgresOptions::default()).await?;
                let leases = started.create_database("leases").await?;
                lease_flags =
                    vec!["--mode".into(), "postgres".into(), "--postgres-url".into(), leases.clone()];
                outbox = started.create_database("outbox").await?;
                canonical = started.create_database("canonical").await?;
                let config = PostgresConfig::new(&leases)?;
                lease_postgres::migrate(&config).await?;
                backend = Arc::new(Postgres::connect(config).await?);
                // A first installation: written free, so that nobody has to wait.
                admin::init(&*backend, &lease, Init { new: true, above: 0, max_ttl: TTL }).await?;
                lease_file = None;
                server = Some(Box::new(started));
            }
            Mode::Etcd => {
                let started = Etcd::start(EtcdOptions::default().nodes(3)).await?;
                let endpoints = started.endpoints();
                lease_flags =
                    vec!["--mode".into(), "etcd".into(), "--etcd-endpoints".into(), endpoints.join(",")];
                outbox = format!("sqlite:{}", file("outbox.sqlite"));
                canonical = format!("sqlite:{}", file("canonical.sqlite"));
                backend = Arc::new(lease_etcd::Etcd::connect(EtcdConfig::new(endpoints)?).await?);
                admin::init(&*backend, &lease, Init { new: true, above: 0, max_ttl: TTL }).await?;
                lease_file = None;
                server = Some(Box::new(started));
            }
            Mode::K8s => {
                let started = ControlPlane::start(ControlPlaneOptions::default()).await?;
                let kubeconfig = started.kubeconfig().to_owned();
                let path = kubeconfig.display().to_string();
                lease_flags = vec!["--mode".into(), "k8s".into(), "--k8s-kubeconfig".into(), path];
                outbox = format!("sqlite:{}", file("outbox.sqlite"));
                canonical = format!("sqlite:{}", file("canonical.sqlite"));
                wait_for("its namespace is there", Duration::from_secs(30), async || {
                    started.access().request("GET", "/api/v1/namespaces/default", None).await
                })
                .await?;
                backend = Arc::new(K8s::connect(K8sConfig::kubeconfig(Some(kubeconfig))).await?);
                admin::init(&*backend, &lease, Init { new: true, above: 0, max_ttl: TTL }).await?;
                lease_file = None;
                server = Some(Box::new(started));
            }
        }
        let limit = Duration::from_secs(10);
        let database = |url: &str| url.parse::<Database>().map_err(anyhow::Error::msg);
        outbox::open(&database(&outbox)?, true, limit).await?.migrate().await?;
        canonical::open(&database(&canonical)?, true, 1, limit).await?.migrate().await?;
        let effects = match (database(&outbox)?, database(&canonical)?) {
            (Database::Sqlite(outbox), Database::Sqlite(canonical)) => {
                let open = |path| {
                    SqlitePool::connect_with(SqliteConnectOptions::new().filename(path).read_only(true))
                };
                Effects::Sqlite { outbox: open(outbox).await?, canonical: open(canonical).await? }
            }
            (Database::Postgres(outbox), Database::Postgres(canonical)) => Effects::Postgres {
                outbox: PgPool::connect_with(*outbox).await?,
                canonical: PgPool::connect_with(*canonical).await?,
            },
            _ => anyhow::bail!("both stores are of one kind"),
        };
        let seen = match backend.capabilities().history {
            true => None,
            false => Some(Seen::from_now_on(&backend, &lease).await?),
        };
        let witness = Arc::new(Witness { backend, lease, effects, seen, lease_file });
        Ok(Self { folder, lease_flags, outbox, canonical, witness, _server: server })
    }

    /// Who looks at the stores from outside.
    pub(crate) fn witness(&self) -> Arc<Witness> {
        self.witness.clone()
    }

    /// Keeps the folder, with the logs in it, and says where.
    pub(super) fn keep(&self, logs: &[(String, Vec<String>)], screen: &Screen) {
        let kept = || -> anyhow::Result<PathBuf> {
            let to = std::env::current_dir()?.join("leasehold-demo");
            let to = (0..).map(|n| if n == 0 { to.clone() } else { to.with_extension(n.to_string()) });
            let to = to.into_iter().find(|path| !path.exists()).context("no free name")?;
            std::fs::create_dir(&to)?;
            for entry in std::fs::read_dir(self.folder.path())? {
                let entry = entry?;
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
            for (name, lines) in logs {
                std::fs::write(to.join(format!("{name}.log")), lines.join("\n") + "\n")?;
            }
            Ok(to)
        };
        match kept() {
            Ok(path) => screen.note(&format!("databases and logs are kept in {}", path.display())),
            Err(error) => screen.note(&format!("databases and logs could not be kept: {error:#}")),
        }
    }
}
