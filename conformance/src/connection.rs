//! A connection to the reference backend that can fail, as one over a network does.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use lease_core::{
    BackendError, Capabilities, Change, Hints, HistoryRow, LeaseBackend, LeaseName, Listed, Memory,
    Observation, PutOutcome, Record,
};
use tokio::sync::watch;

pub(crate) struct MemoryConnection {
    store: Memory,
    down: watch::Receiver<bool>,
    loses_the_next_reply: AtomicBool,
}

impl MemoryConnection {
    /// Fails while `down` is true. A watch that was open then ends for good.
    pub(crate) fn new(store: Memory, down: watch::Receiver<bool>) -> Self {
        Self { store, down, loses_the_next_reply: AtomicBool::new(false) }
    }

    pub(crate) fn losing_the_next_reply(self) -> Self {
        Self { loses_the_next_reply: AtomicBool::new(true), ..self }
    }

    /// A call that arrives nowhere is certain to change nothing.
    fn store(&self) -> Result<&Memory, BackendError> {
        if *self.down.borrow() {
            Err(BackendError::not_applied("the store is down"))
        } else {
            Ok(&self.store)
        }
    }
}

#[async_trait]
impl LeaseBackend for MemoryConnection {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.store()?.observe(name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let outcome = self.store()?.put_if(name, expected, record, change).await;
        if self.loses_the_next_reply.swap(false, Ordering::SeqCst) {
            return Err(BackendError::unknown("the reply was lost"));
        }
        outcome
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        self.store()?.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let hints = self.store()?.watch(prefix).await?;
        let mut down = self.down.clone();
        down.mark_unchanged();
        Ok(Box::pin(hints.take_until(async move {
            if down.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })))
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        self.store()?.history(name, limit).await
    }
}
