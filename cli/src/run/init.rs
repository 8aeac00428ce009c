//! `--init`: connects, and creates what isn't there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::admin::{self, AdminError, Init};
use lease_core::{BackendError, Connector, LeaseBackend, LeaseName};
use lease_settings::LeaseStore;

/// The lease store, where connecting may do what `leasehold init --new` does. A failure is tried again like any other
/// to connect.
pub(super) struct MayCreate {
    pub(super) store: LeaseStore,
    pub(super) lease: LeaseName,
    /// The maximum ttl of a lease that is created; `None`: create nothing.
    pub(super) create: Option<Duration>,
}

#[async_trait]
impl Connector for MayCreate {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let Some(max_ttl) = self.create else { return self.store.connect().await };
        self.store.prepare().await?;
        let backend = self.store.connect().await?;
        match admin::init(&*backend, &self.lease, Init { new: true, above: 0, max_ttl }).await {
            Ok((_, made)) => {
                if made {
                    tracing::info!(lease = %self.lease, "created the lease");
                }
                Ok(backend)
            }
            Err(AdminError::Store(error)) => Err(error),
            Err(error) => Err(BackendError::not_applied(error.to_string())),
        }
    }
}
