//! Actors in processes of their own, over a harness's store.

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use lease_core::{BackendError, LeaseBackend};
use lease_judge::FencedResource;
use lease_judge::actor::{self, ActorStore};

use crate::harness::Harness;

struct OfHarness(Arc<dyn Harness>);

#[async_trait]
impl ActorStore for OfHarness {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.0.connect().await
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Ok(self.0.resource(name).await?)
    }
}

/// The main function of an actor in a process of its own: it carries out the orders of the suite that started it, and
/// prints its history. For the process that [`Harness::actor_command`] starts, on its main thread.
pub fn actor_main(harness: Arc<dyn Harness>) -> ExitCode {
    actor::actor_main(Arc::new(OfHarness(harness)))
}
