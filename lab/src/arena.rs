//! A store that is started for one run, with the registers and resources of its leases.

use std::sync::Arc;
use std::time::Duration;

use lease_core::admin::{self, Init};
use lease_core::{LeaseBackend, LeaseName};
use lease_judge::history::{Effects, History, HistoryEntry};
use lease_stores::{Mode, Place, TestStore};
use lease_testbed::wait_for;

/// A store that was started for this run alone.
pub(crate) struct Arena {
    pub(crate) store: Arc<dyn TestStore>,
    /// The way to it without proxies.
    pub(crate) place: Place,
}

impl Arena {
    /// Starts it, and makes a register and a fenced resource for each of `leases`.
    pub(crate) async fn start(mode: Mode, leases: &[LeaseName], ttl: Duration) -> anyhow::Result<Self> {
        let store = mode.start().await?;
        let place = store.place();
        let backend = place.connect().await?;
        for lease in leases {
            admin::init(&*backend, lease, Init { new: true, above: 0, max_ttl: ttl }).await?;
            place.resource(lease.as_str()).await?;
        }
        Ok(Self { store, place })
    }

    /// A backend of our own, once the store answers.
    pub(crate) async fn backend(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        wait_for("the store answers", Duration::from_secs(60), async || self.place.connect().await).await
    }

    /// The history of one lease: its actors' events, and the evidence that the store itself has.
    pub(crate) async fn history(
        &self,
        lease: &LeaseName,
        events: Vec<HistoryEntry>,
    ) -> anyhow::Result<History> {
        let backend = self.backend().await?;
        let keeps = backend.capabilities().history;
        let rows = if keeps { Some(backend.history(lease, u32::MAX).await?) } else { None };
        let admitted = self.place.resource(lease.as_str()).await?.effects().await?;
        let effects = vec![Effects { resource: lease.to_string(), admitted }];
        let mut history = History { events, rows, effects };
        history.sort();
        Ok(history)
    }
}
