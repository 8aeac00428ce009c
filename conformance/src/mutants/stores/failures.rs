//! Stores that hide a failure, or tell it wrongly.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use lease_core::{
    BackendError, Certainty, Hints, HistoryRow, LeaseBackend, LeaseName, Lineage, Listed, Observation,
    PutOutcome,
};

use super::twist::{PutCall, Twist};

/// A read that fails shows an absence.
pub(super) struct FailedReadIsAbsence;

#[async_trait]
impl Twist for FailedReadIsAbsence {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        let absent =
            || Observation { record: None, lineage: Lineage("1".into()), floor: 0, version: String::new() };
        Ok(store.observe(name).await.unwrap_or_else(|_| absent()))
    }
}

/// A list or a history that fails is empty, and a watch that fails is silent.
pub(super) struct FailedReadIsEmpty;

#[async_trait]
impl Twist for FailedReadIsEmpty {
    async fn list(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        Ok(store.list(prefix).await.unwrap_or_default())
    }

    async fn history(
        &self,
        store: &dyn LeaseBackend,
        (name, limit): (&LeaseName, u32),
    ) -> Result<Vec<HistoryRow>, BackendError> {
        Ok(store.history(name, limit).await.unwrap_or_default())
    }
}

/// A watch that can't begin is silent.
pub(super) struct FailedWatchIsSilent;

#[async_trait]
impl Twist for FailedWatchIsSilent {
    async fn watch(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Hints, BackendError> {
        Ok(store.watch(prefix).await.unwrap_or_else(|_| Box::pin(stream::pending())))
    }
}

/// A watch whose connection is lost stays silent for ever.
pub(super) struct WatchNeverEnds;

#[async_trait]
impl Twist for WatchNeverEnds {
    async fn watch(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Hints, BackendError> {
        Ok(Box::pin(store.watch(prefix).await?.chain(stream::pending())))
    }
}

/// A read that fails is refused, as if a setting were wrong.
pub(super) struct FailedReadIsRefused;

#[async_trait]
impl Twist for FailedReadIsRefused {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        store.observe(name).await.map_err(|error| BackendError { refused: true, ..error })
    }
}

/// A read that fails shows what a write of before has compared: a replica's own copy.
#[derive(Default)]
pub(super) struct FailedReadIsOld(Mutex<BTreeMap<LeaseName, Observation>>);

#[async_trait]
impl Twist for FailedReadIsOld {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        let read = store.observe(name).await;
        read.or_else(|error| self.0.lock().expect("not poisoned").get(name).cloned().ok_or(error))
    }

    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        self.0.lock().expect("not poisoned").insert(write.name.clone(), write.expected.clone());
        write.to(store).await
    }
}

/// A write that fails is acknowledged: a replica's own copy has it.
pub(super) struct FailedWriteIsWritten;

#[async_trait]
impl Twist for FailedWriteIsWritten {
    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        let written = Observation { record: Some(write.record.clone()), ..write.expected.clone() };
        Ok(write.to(store).await.unwrap_or(PutOutcome::Written(written)))
    }
}

/// Every write that fails is said not to have happened.
pub(super) struct FailedWriteIsCertain;

#[async_trait]
impl Twist for FailedWriteIsCertain {
    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        let certain = |error| BackendError { certainty: Certainty::NotApplied, ..error };
        write.to(store).await.map_err(certain)
    }
}
