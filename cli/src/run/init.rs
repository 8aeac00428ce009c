//! `--init`: connects, and creates what isn't there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::admin::{self, AdminError, Init};
use lease_core::internal::deadline;
use lease_core::{BackendError, Connector, LeaseBackend, LeaseName, Observation};
use lease_settings::LeaseStore;

/// The lease store, where connecting may do what `leasehold init` does. A failure is tried again like any other to
/// connect.
///
/// A store that may have lost the lease under a holder gets it closed (T-5): this is run with every start, not only with
/// the first.
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
        let new = backend.capabilities().creates_registers;
        match admin::init(&*backend, &self.lease, Init { new, above: 0, max_ttl }).await {
            Ok((seen, made)) => {
                if made && waits(&seen) {
                    tracing::info!(
                        lease = %self.lease,
                        "created the lease, closed: candidates take it after watching it for {:?}, since a holder that \
                         this store doesn't know any more may still be at work",
                        deadline::lengthened(max_ttl)
                    );
                } else if made {
                    tracing::info!(lease = %self.lease, "created the lease");
                }
                Ok(backend)
            }
            Err(AdminError::Store(error)) => Err(error),
            Err(error) => Err(BackendError::not_applied(error.to_string())),
        }
    }
}

/// Is the register that was just created taken only after it was watched?
pub(crate) fn waits(seen: &Observation) -> bool {
    seen.record.as_ref().is_some_and(|record| record.grant.is_some() || record.lineage != seen.lineage)
}
