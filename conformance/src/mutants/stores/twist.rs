//! A store with one answer changed on its way: each mistake says what it changes, and nothing else.

use std::sync::Arc;

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Change, Hint, Hints, HistoryRow, LeaseBackend, LeaseName, Listed,
    Observation, PutOutcome, Record,
};

use crate::mutants::WrongStore;

/// A write, as `put_if` has it.
#[derive(Clone, Copy)]
pub(super) struct PutCall<'a> {
    pub(super) name: &'a LeaseName,
    pub(super) expected: &'a Observation,
    pub(super) record: &'a Record,
    pub(super) change: Change,
}

impl PutCall<'_> {
    pub(super) async fn to(self, store: &dyn LeaseBackend) -> Result<PutOutcome, BackendError> {
        store.put_if(self.name, self.expected, self.record, self.change).await
    }
}

/// One mistake; all that it doesn't name is as the real store does it. One value serves all connections to a store.
#[async_trait]
pub(super) trait Twist: Send + Sync + 'static {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        store.observe(name).await
    }

    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        write.to(store).await
    }

    fn capabilities(&self, real: Capabilities) -> Capabilities {
        real
    }

    async fn list(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        store.list(prefix).await
    }

    async fn watch(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Hints, BackendError> {
        store.watch(prefix).await
    }

    async fn history(
        &self,
        store: &dyn LeaseBackend,
        (name, limit): (&LeaseName, u32),
    ) -> Result<Vec<HistoryRow>, BackendError> {
        store.history(name, limit).await
    }
}

struct Twisted<T> {
    store: Arc<dyn LeaseBackend>,
    twist: Arc<T>,
}

/// Every connection to one store, with this mistake.
pub(super) fn twisted<T: Twist>(twist: T) -> WrongStore {
    let twist = Arc::new(twist);
    Arc::new(move |store| Arc::new(Twisted { store, twist: twist.clone() }))
}

/// The hints that show a register, changed.
pub(super) fn shown(hints: Hints, change: impl Fn(Observation) -> Observation + Send + 'static) -> Hints {
    use futures::StreamExt;
    Box::pin(hints.map(move |hint| match hint {
        Hint::Shows(name, seen) => Hint::Shows(name, change(seen)),
        Hint::Changed => Hint::Changed,
    }))
}

/// The observation in an answer, changed.
pub(super) fn answered(outcome: PutOutcome, change: impl Fn(Observation) -> Observation) -> PutOutcome {
    match outcome {
        PutOutcome::Written(seen) => PutOutcome::Written(change(seen)),
        PutOutcome::Conflict(seen) => PutOutcome::Conflict(change(seen)),
    }
}

#[async_trait]
impl<T: Twist> LeaseBackend for Twisted<T> {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.twist.observe(&*self.store, name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        self.twist.put(&*self.store, PutCall { name, expected, record, change }).await
    }

    fn capabilities(&self) -> Capabilities {
        self.twist.capabilities(self.store.capabilities())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        self.twist.list(&*self.store, prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        self.twist.watch(&*self.store, prefix).await
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        self.twist.history(&*self.store, (name, limit)).await
    }
}
