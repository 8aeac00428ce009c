//! Breaks the store of a run by plan, and observes its registers meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use lease_core::{Instant, LeaseName};
use lease_judge::Recorder;
use lease_judge::history::{Answer, View, What};
use lease_stores::StoreFault;
use tokio_util::sync::CancellationToken;

use super::plan::StorePlan;
use crate::arena::Arena;
use crate::fleet::now;

/// Breaks the store by plan until the run has seen enough. Returns the faults that happened, from when to when.
pub(super) async fn break_by(
    arena: &Arena,
    plan: StorePlan,
    enough: &CancellationToken,
) -> anyhow::Result<Vec<(StoreFault, Instant, Instant)>> {
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

/// Looks at every register, one read after the other, until the run has seen enough. Records each change that it sees.
pub(super) async fn observe(
    arena: &Arena,
    leases: &[LeaseName],
    enough: &CancellationToken,
) -> anyhow::Result<Recorder> {
    let recorder = Recorder::default();
    let mut last: BTreeMap<&LeaseName, (u64, View)> = BTreeMap::new();
    let backend = arena.place.connect().await?;
    while !enough.is_cancelled() {
        for lease in leases {
            let sent = now();
            // The store may be down: that is part of the run.
            let Ok(seen) = backend.observe(lease).await else { continue };
            let view = View::from(&seen);
            let (call, before) = last.get(lease).map_or((0, None), |(call, view)| (*call, Some(view)));
            if before.is_some_and(|before| before.beat() == view.beat()) {
                continue;
            }
            let call = call + 1;
            recorder.record(lease, sent, "observer", What::Sent { call, put: None });
            let answer = Answer::Seen(view.clone());
            recorder.record(lease, now(), "observer", What::Answered { call, answer });
            last.insert(lease, (call, view));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(recorder)
}
