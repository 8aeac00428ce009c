//! Stores that compare something else than tag and lineage.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lease_core::{BackendError, Hints, LeaseBackend, LeaseName, Listed, Observation, PutOutcome, Record};

use super::twist::{PutCall, Twist, answered, shown};
use super::wrong::several_polls;

/// Counts each register's writes in the register, and compares that number in place of the tag.
pub(super) struct ComparesAVersion;

const VERSION: &str = "version";

impl ComparesAVersion {
    fn version(seen: &Observation) -> Option<u64> {
        seen.record.as_ref()?.extra.get(VERSION)?.as_u64()
    }

    fn show(mut seen: Observation) -> Observation {
        seen.version = Self::version(&seen).unwrap_or_default().to_string();
        if let Some(record) = &mut seen.record {
            record.extra.remove(VERSION);
        }
        seen
    }
}

#[async_trait]
impl Twist for ComparesAVersion {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        Ok(Self::show(store.observe(name).await?))
    }

    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        loop {
            let present = store.observe(write.name).await?;
            let version = Self::version(&present).unwrap_or_default();
            if version.to_string() != write.expected.version || present.lineage != write.expected.lineage {
                return Ok(PutOutcome::Conflict(Self::show(present)));
            }
            let mut record: Record = write.record.clone();
            record.extra.insert(VERSION.to_owned(), (version + 1).into());
            let put = PutCall { expected: &present, record: &record, ..write }.to(store).await?;
            if matches!(put, PutOutcome::Written(_)) {
                return Ok(answered(put, Self::show));
            }
        }
    }

    async fn list(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let listed = store.list(prefix).await?.into_iter();
        Ok(listed.map(|(name, seen)| (name, seen.map(Self::show))).collect())
    }

    async fn watch(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Hints, BackendError> {
        Ok(shown(store.watch(prefix).await?, Self::show))
    }
}

/// Takes any absence for the one that was expected.
pub(super) struct IgnoresTheLineageOfAbsence;

#[async_trait]
impl Twist for IgnoresTheLineageOfAbsence {
    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        let present = store.observe(write.name).await?;
        if write.expected.record.is_none() && present.record.is_none() {
            return PutCall { expected: &present, ..write }.to(store).await;
        }
        write.to(store).await
    }
}

/// Gives the record's stamp for the lineage, and compares the tag alone.
pub(super) struct StampForLineage;

impl StampForLineage {
    fn show(mut seen: Observation) -> Observation {
        if let Some(record) = &seen.record {
            seen.lineage = record.lineage.clone();
        }
        seen
    }
}

#[async_trait]
impl Twist for StampForLineage {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        Ok(Self::show(store.observe(name).await?))
    }

    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        let lineage = store.observe(write.name).await?.lineage;
        let expected = Observation { lineage, ..write.expected.clone() };
        Ok(answered(PutCall { expected: &expected, ..write }.to(store).await?, Self::show))
    }
}

/// Reads the record, and then the lineage.
pub(super) struct LineageAfterwards;

#[async_trait]
impl Twist for LineageAfterwards {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        let seen = store.observe(name).await?;
        several_polls().await;
        let lineage = store.observe(name).await?.lineage;
        Ok(Observation { lineage, ..seen })
    }
}

/// Every fifth write fails as if somebody else had come first.
#[derive(Default)]
pub(super) struct FailsSpuriously(AtomicU64);

#[async_trait]
impl Twist for FailsSpuriously {
    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        if self.0.fetch_add(1, Ordering::SeqCst) % 5 == 4 {
            return Ok(PutOutcome::Conflict(store.observe(write.name).await?));
        }
        write.to(store).await
    }
}
