//! Breaks the store of a run by plan, and observes its registers meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use lease_core::LeaseName;
use lease_stores::StoreFault;
use tokio_util::sync::CancellationToken;

use super::plan::StorePlan;
use crate::arena::Arena;
use crate::judge::Sighting;
use crate::trace::{Nanos, now};

/// Breaks the store by plan until the run has seen enough. Returns the faults that happened, from when to when.
pub(super) async fn break_by(
    arena: &Arena,
    plan: StorePlan,
    enough: &CancellationToken,
) -> anyhow::Result<Vec<(StoreFault, Nanos, Nanos)>> {
    let mut faults = Vec::new();
    for step in plan {
        tokio::select! {
            () = enough.cancelled() => break,
            () = tokio::time::sleep(step.calm) => {}
        }
        let from = now();
        arena.store.inject(step.fault, step.lasts).await?;
        faults.push((step.fault, from, now()));
    }
    Ok(faults)
}

/// Looks at every register, one read after the other, until the run has seen enough.
pub(super) async fn observe(
    arena: &Arena,
    leases: &[LeaseName],
    enough: &CancellationToken,
) -> anyhow::Result<BTreeMap<LeaseName, Vec<Sighting>>> {
    let mut sightings = BTreeMap::<LeaseName, Vec<Sighting>>::new();
    let backend = arena.place.connect().await?;
    while !enough.is_cancelled() {
        for name in leases {
            // The store may be down: that is part of the run.
            let Ok(seen) = backend.observe(name).await else { continue };
            let Some(record) = seen.record else { continue };
            let seen = Sighting { at: now(), epoch: record.epoch, grant: record.grant, beat: record.beat };
            let of_lease = sightings.entry(name.clone()).or_default();
            if of_lease.last().is_none_or(|last| Sighting { at: seen.at, ..last.clone() } != seen) {
                of_lease.push(seen);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(sightings)
}
