//! Stores that say of themselves what isn't so, and stores that change what they are given.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, HistoryRow, LeaseBackend, LeaseName, Listed, Observation, PutOutcome, Record,
};

use super::twist::{PutCall, Twist};

/// Declares something else than what it offers.
pub(super) struct Declares(pub(super) fn(&mut Capabilities));

#[async_trait]
impl Twist for Declares {
    fn capabilities(&self, real: Capabilities) -> Capabilities {
        let mut told = real;
        (self.0)(&mut told);
        told
    }
}

/// Declares a list and refuses it.
pub(super) struct RefusesToList;

#[async_trait]
impl Twist for RefusesToList {
    async fn list(&self, _: &dyn LeaseBackend, _: &str) -> Result<Vec<Listed>, BackendError> {
        Err(BackendError::refused("this backend does not offer list"))
    }
}

/// Has another name each time that it is asked.
#[derive(Default)]
pub(super) struct HasTwoNames(AtomicBool);

#[async_trait]
impl Twist for HasTwoNames {
    fn capabilities(&self, real: Capabilities) -> Capabilities {
        let name = if self.0.fetch_xor(true, Ordering::SeqCst) { "one" } else { "two" };
        Capabilities { name, ..real }
    }
}

/// A record is changed before it is written.
pub(super) struct Keeps(pub(super) fn(&mut Record));

#[async_trait]
impl Twist for Keeps {
    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        let mut record = write.record.clone();
        (self.0)(&mut record);
        PutCall { record: &record, ..write }.to(store).await
    }
}

/// Ttls in whole seconds.
pub(super) fn whole_seconds(record: &mut Record) {
    record.ttl_ms = record.ttl_ms.div_ceil(1000) * 1000;
}

/// At most 4 kB of a note.
pub(super) fn short_notes(record: &mut Record) {
    record.note = record.note.chars().take(1000).collect();
}

/// Finds registers by another name than it was given.
pub(super) struct Renames(pub(super) fn(&str) -> String);

impl Renames {
    fn name(&self, name: &LeaseName) -> LeaseName {
        LeaseName::new((self.0)(name.as_str())).expect("still a name")
    }
}

#[async_trait]
impl Twist for Renames {
    async fn observe(&self, store: &dyn LeaseBackend, name: &LeaseName) -> Result<Observation, BackendError> {
        store.observe(&self.name(name)).await
    }

    async fn put(&self, store: &dyn LeaseBackend, write: PutCall<'_>) -> Result<PutOutcome, BackendError> {
        PutCall { name: &self.name(write.name), ..write }.to(store).await
    }
}

/// The dots of a name become hyphens.
pub(super) fn without_dots(name: &str) -> String {
    name.replace('.', "-")
}

/// The end of a long name is lost.
pub(super) fn cut_off(name: &str) -> String {
    name.chars().take(240).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Lists by another prefix than it was given.
pub(super) struct ListsBy(pub(super) fn(&str) -> String);

#[async_trait]
impl Twist for ListsBy {
    async fn list(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        store.list(&(self.0)(prefix)).await
    }
}

/// Lists one page.
pub(super) struct ListsAPage;

#[async_trait]
impl Twist for ListsAPage {
    async fn list(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let mut listed = store.list(prefix).await?;
        listed.truncate(500);
        Ok(listed)
    }
}

/// Numbers its rows by the transitions, which begin again with the register.
pub(super) struct NumbersRowsAnew;

#[async_trait]
impl Twist for NumbersRowsAnew {
    async fn history(
        &self,
        store: &dyn LeaseBackend,
        (name, limit): (&LeaseName, u32),
    ) -> Result<Vec<HistoryRow>, BackendError> {
        let rows = store.history(name, limit).await?.into_iter();
        let number = |row: &HistoryRow| 2 * row.transition_count as i64 + i64::from(!row.note.is_empty());
        Ok(rows.map(|row| HistoryRow { sequence: number(&row), ..row }).collect())
    }
}
