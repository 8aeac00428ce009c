//! The harness of the reference backend.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::{BackendError, LeaseBackend, LeaseName, Memory, Record, Term, fence};
use lease_judge::{EffectError, FencedResource};
use tokio::sync::watch;

use crate::connection::MemoryConnection;
use crate::harness::{Facility, Harness, Missing, Split};

/// The reference backend, as a store that can lose its registers or as one that can't.
pub struct MemoryHarness {
    name: &'static str,
    store: Memory,
    /// Whether it is stopped.
    down: watch::Sender<bool>,
    resources: Mutex<BTreeMap<String, Arc<MemoryResource>>>,
}

impl MemoryHarness {
    /// A store that keeps its registers, so that candidates create them (T-5).
    pub fn keeping() -> Self {
        Self::over("memory", Memory::new())
    }

    /// A store that can lose its registers.
    pub fn losing() -> Self {
        Self::over("memory-losing", Memory::new().losing_registers())
    }

    fn over(name: &'static str, store: Memory) -> Self {
        Self { name, store, down: watch::channel(false).0, resources: Mutex::default() }
    }
}

#[async_trait]
impl Harness for MemoryHarness {
    fn name(&self) -> &str {
        self.name
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        if *self.down.borrow() {
            return Err(BackendError::not_applied("the store is down"));
        }
        Ok(Arc::new(MemoryConnection::new(self.store.clone(), self.down.subscribe())))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn facilities(&self) -> &[Facility] {
        &[
            Facility::Delete,
            Facility::Stop,
            Facility::Split,
            Facility::LoseReply,
            Facility::ChangeLineage,
            Facility::Rewind,
            Facility::RewindFloor,
            Facility::FencedEffects,
        ]
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        self.store.delete(lease);
        Ok(())
    }

    async fn stop(&self) -> Result<(), Missing> {
        self.down.send_replace(true);
        Ok(())
    }

    async fn start_again(&self) -> Result<(), Missing> {
        self.down.send_replace(false);
        Ok(())
    }

    /// Its one copy is the majority's; the other part has lost the way there.
    async fn split(&self) -> Result<Split, Missing> {
        let minority = Arc::new(MemoryConnection::new(self.store.clone(), watch::channel(true).1));
        Ok(Split { minority, majority: self.connect().await.map_err(Missing::because)? })
    }

    async fn heal(&self) -> Result<(), Missing> {
        Ok(())
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        Ok(Arc::new(MemoryConnection::new(self.store.clone(), self.down.subscribe()).losing_the_next_reply()))
    }

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        let seen = self.store.observe(lease).await.map_err(Missing::because)?;
        serde_json::to_vec(&seen.record).map_err(Missing::because)
    }

    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        let kept: Option<Record> = serde_json::from_slice(kept).map_err(Missing::because)?;
        self.store.put_back(lease, kept);
        Ok(())
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        self.store.fail_over("another");
        Ok(())
    }

    async fn rewind_floor(&self, _: &LeaseName, floor: u64) -> Result<(), Missing> {
        self.store.rewind_floor(floor);
        Ok(())
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let same = if self.name == "memory" { Self::keeping() } else { Self::losing() };
        Ok(Arc::new(same))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let mut resources = self.resources.lock().expect("not poisoned");
        Ok(resources.entry(name.to_owned()).or_default().clone())
    }
}

#[derive(Default)]
struct MemoryResource(Mutex<Effects>);

#[derive(Default)]
struct Effects {
    mark: Option<Term>,
    admitted: Vec<(u64, String)>,
}

#[async_trait]
impl FencedResource for MemoryResource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut resource = self.0.lock().expect("not poisoned");
        resource.mark = Some(fence::admit(resource.mark, term)?);
        resource.admitted.push((term.epoch, id.to_owned()));
        Ok(())
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let (successor, its) = meanwhile.await;
        self.effect(successor, &its).await?;
        self.effect(term, id).await
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        Ok(self.0.lock().expect("not poisoned").admitted.clone())
    }
}
