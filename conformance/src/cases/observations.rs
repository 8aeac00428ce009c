//! What an observation is made of: the store's own lineage, and a record that was there under it.

use std::sync::Arc;

use anyhow::ensure;
use lease_core::{BackendError, Change, Grant, LeaseBackend, LeaseName, Lineage, Observation, Record, Tag};
use tokio::sync::mpsc;

use crate::case::{Need, cases};
use crate::check::same;
use crate::context::{Cx, conflict, record, written};
use crate::harness::{Facility, Harness};

cases! { "observations":
    have_the_stores_lineage_and_not_the_stamp,
    were_true_at_one_moment needs [Need::Facility(Facility::ChangeLineage), Need::Facility(Facility::Rewind)],
}

async fn have_the_stores_lineage_and_not_the_stamp(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let stamp = Lineage("a-lineage-that-is-no-more".into());
    let foreign = |before: &Record| Record {
        tag: Tag::random(),
        grant: Some(Grant::random()),
        lineage: stamp.clone(),
        ..before.clone()
    };
    let first = foreign(record(&seen)?);
    let answered = written(backend.put_if(&cx.lease(), &seen, &first, Change::Request).await?)?;
    let late = foreign(&first);
    let refused = conflict(backend.put_if(&cx.lease(), &seen, &late, Change::Request).await?)?;
    let read = backend.observe(&cx.lease()).await?;
    let mut shown = vec![("an acknowledged write", answered), ("a conflict", refused), ("a read", read)];
    if backend.capabilities().list {
        for (_, listed) in backend.list(cx.lease().as_str()).await? {
            shown.push(("a list", listed?));
        }
    }
    for (what, shown) in shown {
        ensure!(
            shown.lineage == seen.lineage && record(&shown)?.lineage == stamp,
            "{what} must show the store's lineage {} and the record's stamp {stamp}, and showed {} and {}",
            seen.lineage,
            shown.lineage,
            record(&shown)?.lineage
        );
    }
    Ok(())
}

/// Reads without a pause, over a new connection after each failure, until nobody listens.
async fn read_on(harness: Arc<dyn Harness>, lease: LeaseName, shown: mpsc::UnboundedSender<Observation>) {
    let mut backend: Option<Arc<dyn LeaseBackend>> = None;
    while !shown.is_closed() {
        let read = async {
            let connected = match backend.take() {
                Some(connected) => connected,
                None => harness.connect().await?,
            };
            let seen = connected.observe(&lease).await?;
            backend = Some(connected);
            Ok::<_, BackendError>(seen)
        };
        if let Ok(seen) = read.await {
            let _ = shown.send(seen);
        }
        tokio::task::yield_now().await;
    }
}

/// Readers across a failover that loses an acquisition. Under the lineage that came after it, it was never there.
async fn were_true_at_one_moment(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, free) = cx.init().await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    let lost = cx.acquire(&*backend, &cx.lease(), &free, "a").await?;
    let (shown, mut seen) = mpsc::unbounded_channel();
    for _ in 0..4 {
        tokio::spawn(read_on(cx.harness.clone(), cx.lease(), shown.clone()));
    }
    let mut next = async || cx.soon("a read", seen.recv()).await.map(|seen| seen.expect("readers read on"));
    for _ in 0..20 {
        same("a read", &next().await?.record, &lost.record)?;
    }
    // Reads are under way when it happens, whichever of them the last answer was.
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    cx.harness.put_back(&cx.lease(), &kept).await?;
    cx.harness.change_lineage().await?;
    let mut after = 0;
    while after < 20 {
        let seen = next().await?;
        ensure!(
            seen.lineage == lost.lineage || seen.record != lost.record,
            "tag {:?} was lost with lineage {}, and a read shows it under {}: read the lineage with the record, or \
             before it",
            seen.tag(),
            lost.lineage,
            seen.lineage
        );
        after += usize::from(seen.lineage != lost.lineage);
    }
    Ok(())
}
