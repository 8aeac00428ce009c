//! The store of a run, and what is done to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lease_core::admin::{self, Init};
use lease_core::{LeaseBackend, LeaseName};
use lease_postgres::PostgresConfig;
use lease_testbed::{Postgres, PostgresOptions, Process, wait_for};
use tokio_util::sync::CancellationToken;

use super::plan::{StoreFault, StorePlan};
use crate::effects::Effects;
use crate::judge::Sighting;
use crate::store::{Mode, Store};
use crate::trace::now;

/// A store that was started for this run alone.
pub(crate) struct Arena {
    /// How to reach it directly.
    pub(crate) store: Store,
    server: Option<Postgres>,
    program: PathBuf,
}

/// A few more than any run needs.
const CONNECTIONS: u32 = 400;

impl Arena {
    /// Starts it, with all tables and the registers of `leases`.
    pub(crate) async fn start(
        mode: Mode,
        fleet: &crate::fleet::Fleet,
        leases: &[LeaseName],
        ttl: Duration,
    ) -> anyhow::Result<Self> {
        let (store, server) = match mode {
            Mode::Sqlite => {
                let path = |name: &str| fleet.path(name).display().to_string();
                (Store { mode, leases: path("leases.sqlite"), effects: path("effects.sqlite") }, None)
            }
            Mode::Postgres => {
                let options = PostgresOptions::default().fsync(true).max_connections(CONNECTIONS);
                let server = Postgres::start(options).await?;
                lease_postgres::migrate(&PostgresConfig::new(&server.url())?).await?;
                (Store { mode, leases: server.url(), effects: server.url() }, Some(server))
            }
        };
        Effects::create(&store).await?;
        let backend = store.connector()?.connect().await?;
        for lease in leases {
            admin::init(&*backend, lease, Init { new: true, above: 0, max_ttl: ttl }).await?;
        }
        Ok(Self { store, server, program: fleet.program().clone() })
    }

    /// The server, if there is one.
    pub(crate) fn server(&self) -> Option<&Postgres> {
        self.server.as_ref()
    }

    /// Breaks the store by plan until the run has seen enough. Returns how often, by fault.
    pub(super) async fn break_by(
        &self,
        plan: StorePlan,
        enough: &CancellationToken,
    ) -> anyhow::Result<BTreeMap<&'static str, usize>> {
        let mut faults = BTreeMap::new();
        for step in plan {
            tokio::select! {
                () = enough.cancelled() => break,
                () = tokio::time::sleep(step.calm) => {}
            }
            self.inject(step.fault, step.chance).await?;
            *faults.entry(step.fault.name()).or_default() += 1;
        }
        Ok(faults)
    }

    async fn inject(&self, fault: StoreFault, chance: f64) -> anyhow::Result<()> {
        match (fault, &self.server) {
            (StoreFault::Restart, Some(server)) => server.restart().await,
            (StoreFault::Crash, Some(server)) => {
                server.crash().await?;
                tokio::time::sleep(Duration::from_millis(500).mul_f64(chance)).await;
                server.start_again().await
            }
            (StoreFault::LockLeases(span), _) => self.lock(&self.store.leases, span).await,
            (StoreFault::LockEffects(span), _) => self.lock(&self.store.effects, span).await,
            (StoreFault::Restart | StoreFault::Crash, None) => Ok(()),
        }
    }

    async fn lock(&self, file: &str, span: Duration) -> anyhow::Result<()> {
        let millis = span.as_millis().to_string();
        let outsider = Process::command(&self.program)?;
        let outsider = outsider.args(["hold-lock", "--file", file, "--for-ms", &millis]).spawn()?;
        outsider.wait(span + Duration::from_secs(30)).await?;
        Ok(())
    }

    /// Looks at every register, one read after the other, until the run has seen enough.
    pub(super) async fn observe(
        &self,
        leases: &[LeaseName],
        enough: &CancellationToken,
    ) -> anyhow::Result<BTreeMap<LeaseName, Vec<Sighting>>> {
        let mut sightings = BTreeMap::<LeaseName, Vec<Sighting>>::new();
        let backend = self.store.connector()?.connect().await?;
        while !enough.is_cancelled() {
            for name in leases {
                // The store may be down: that is part of the run.
                let Ok(seen) = backend.observe(name).await else { continue };
                let Some(record) = seen.record else { continue };
                let seen = Sighting { at: now(), epoch: record.epoch, grant: record.grant, beat: record.beat };
                let of_lease = sightings.entry(name.clone()).or_default();
                if of_lease.last().is_none_or(|last| Sighting { at: seen.at, ..last.clone() } != seen) {
                    of_lease.push(seen);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(sightings)
    }

    /// A backend of our own, once the store answers.
    pub(crate) async fn backend(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let connector = self.store.connector()?;
        wait_for("the store answers", Duration::from_secs(60), async || connector.connect().await).await
    }
}
