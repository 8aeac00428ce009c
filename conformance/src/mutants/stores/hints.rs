//! Stores whose hints show what was not there.

use async_trait::async_trait;
use lease_core::{BackendError, Hints, LeaseBackend, Lineage, Observation, Tag};

use super::twist::{Twist, shown};

/// A hint that shows a register has this done to it.
pub(super) struct Hinted(pub(super) fn(Observation) -> Observation);

#[async_trait]
impl Twist for Hinted {
    async fn watch(&self, store: &dyn LeaseBackend, prefix: &str) -> Result<Hints, BackendError> {
        Ok(shown(store.watch(prefix).await?, self.0))
    }
}

/// The record's stamp in place of the store's lineage.
pub(super) fn under_the_stamp(mut seen: Observation) -> Observation {
    if let Some(record) = &seen.record {
        seen.lineage = record.lineage.clone();
    }
    seen
}

/// A lineage that no read shows.
pub(super) fn under_another_lineage(seen: Observation) -> Observation {
    Observation { lineage: Lineage("another".into()), ..seen }
}

/// Free, with everything else as its holder wrote it.
pub(super) fn free(mut seen: Observation) -> Observation {
    if let Some(record) = &mut seen.record {
        record.grant = None;
    }
    seen
}

/// A tag that nothing in the store has.
pub(super) fn with_a_tag_of_its_own(mut seen: Observation) -> Observation {
    if let Some(record) = &mut seen.record {
        record.tag = Tag::random();
    }
    seen
}
