//! A worker's process: it updates its set while it holds the lock or the lease.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use lease_core::{BackendError, LeaseBackend};
use lease_judge::FencedResource;
use lease_judge::actor::{ActorStore, actor_main};
use lease_stores::Place;

use super::etcd_lock;
use super::lock::Holding;
use super::set::UpdatedSet;

/// The argument of a process that is a worker; the word of its [`Holding`] follows.
pub(super) const WORKER_COMMAND: &str = "torture-worker";

/// Is this process a worker? Then this is all that it does. To be called before there is a thread.
pub(crate) fn worker() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    (words.next()? == WORKER_COMMAND).then(|| {
        work(&words.next().unwrap_or_default()).unwrap_or_else(|error| {
            eprintln!("{WORKER_COMMAND}: {error:#}");
            ExitCode::FAILURE
        })
    })
}

fn work(holding: &str) -> anyhow::Result<ExitCode> {
    let place = Place::of_this_process()?;
    if holding == Holding::Lease.word() {
        return Ok(actor_main(Arc::new(Sets(place))));
    }
    let Place::Etcd(place) = place else { bail!("etcd's lock is in etcd alone") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(etcd_lock::work(place))?;
    Ok(ExitCode::SUCCESS)
}

/// The store of an actor whose resources are sets.
struct Sets(Place);

#[async_trait]
impl ActorStore for Sets {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.0.connect().await
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Ok(Arc::new(UpdatedSet::new(self.0.resource(name).await?)))
    }
}
