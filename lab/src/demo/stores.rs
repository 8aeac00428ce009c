//! The stores of one demo, in a throw-away folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lease_core::LeaseName;
use lease_core::admin::{self, Init};
use lease_spendguard::{canonical, forwarder, outbox};
use lease_stores::{Mode, TestStore};
use lease_testbed::Folder;
use lease_worker_common::database::Database;
#[cfg(feature = "postgres")]
use sqlx::PgPool;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use super::TTL;
use super::screen::Screen;
use super::witness::{EffectStores, WatchedHistory, Witness};

/// The stores of the demo.
pub(crate) struct DemoStores {
    folder: Folder,
    /// Flags that name the lease store.
    pub(crate) lease_flags: Vec<String>,
    /// The outbox's URL.
    pub(crate) outbox: String,
    /// The canonical store's URL.
    pub(crate) canonical: String,
    witness: Arc<Witness>,
    _store: Arc<dyn TestStore>,
}

impl DemoStores {
    /// Makes the stores and their tables.
    pub(crate) async fn make(mode: Mode) -> anyhow::Result<Self> {
        let folder = Folder::new("demo")?;
        let lease = LeaseName::new(forwarder::LEASE)?;
        let store = mode.start().await?;
        let place = store.place();
        let lease_file = place.lease_file();
        let backend = place.connect().await?;
        if !backend.capabilities().creates_registers {
            // A first installation: written free, so that nobody has to wait.
            admin::init(&*backend, &lease, Init { new: true, above: 0, max_ttl: TTL }).await?;
        }
        // A store that holds nothing but leases has the data in files beside it.
        let file = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
        let outbox = store.database("outbox").await?.unwrap_or_else(|| file("outbox.sqlite"));
        let canonical = store.database("canonical").await?.unwrap_or_else(|| file("canonical.sqlite"));
        let limit = Duration::from_secs(10);
        let database = |url: &str| url.parse::<Database>().map_err(anyhow::Error::msg);
        outbox::open(&database(&outbox)?, true, limit).await?.migrate().await?;
        canonical::open(&database(&canonical)?, true, 1, limit).await?.migrate().await?;
        let effects = match (database(&outbox)?, database(&canonical)?) {
            (Database::Sqlite(outbox), Database::Sqlite(canonical)) => {
                let open = |path| {
                    SqlitePool::connect_with(SqliteConnectOptions::new().filename(path).read_only(true))
                };
                EffectStores::Sqlite { outbox: open(outbox).await?, canonical: open(canonical).await? }
            }
            #[cfg(feature = "postgres")]
            (Database::Postgres(outbox), Database::Postgres(canonical)) => EffectStores::Postgres {
                outbox: PgPool::connect_with(*outbox).await?,
                canonical: PgPool::connect_with(*canonical).await?,
            },
            #[cfg(feature = "postgres")]
            _ => anyhow::bail!("the outbox and the canonical store are of different kinds"),
        };
        let seen = match backend.capabilities().history {
            true => None,
            false => Some(WatchedHistory::from_now_on(&backend, &lease).await?),
        };
        let witness = Arc::new(Witness { backend, lease, effects, seen, lease_file });
        Ok(Self { folder, lease_flags: place.flags(), outbox, canonical, witness, _store: store })
    }

    /// Reads the stores from outside the programs.
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
            Err(error) => screen.note(&format!("cannot keep the databases and logs: {error:#}")),
        }
    }
}
