//! Epochs: above the record's and above the store's floor, through everything that happens to a register (E-1).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseBackend, Observation, admin};

use crate::case::{Need, cases};
use crate::context::{Cx, record, written};
use crate::harness::Facility;

cases! { "epoch":
    the_floor_is_never_below_an_issued_epoch,
    rises_with_every_acquisition,
    survives_a_release,
    survives_an_administrators_deletion needs [Need::Facility(Facility::Delete)],
    exceeds_the_floor_when_the_record_is_older needs [Need::Facility(Facility::Delete)],
    survives_a_restart needs [Need::Facility(Facility::Restart)],
    a_raised_fence_is_exceeded_by_the_next_term,
    init_above_is_exceeded_by_the_first_term,
}

async fn epoch_after(
    cx: &Cx,
    backend: &dyn LeaseBackend,
    seen: &Observation,
) -> anyhow::Result<(u64, Observation)> {
    let held = cx.acquire(backend, &cx.lease(), seen, "a").await?;
    Ok((record(&held)?.epoch, held))
}

async fn the_floor_is_never_below_an_issued_epoch(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    for _ in 0..5 {
        let (epoch, held) = epoch_after(&cx, &*backend, &seen).await?;
        let read = cx.backend().await?.observe(&cx.lease()).await?;
        ensure!(held.floor >= epoch, "the answer's floor {} is below epoch {epoch}", held.floor);
        ensure!(read.floor >= held.floor, "the floor fell from {} to {}", held.floor, read.floor);
        seen = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
        ensure!(seen.floor >= read.floor, "the floor fell from {} to {}", read.floor, seen.floor);
    }
    Ok(())
}

async fn rises_with_every_acquisition(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let mut last = 0;
    for _ in 0..5 {
        // Over a held register, as after an expiry, and over a free one.
        let (epoch, held) = epoch_after(&cx, &*backend, &seen).await?;
        let (next, again) = epoch_after(&cx, &*backend, &held).await?;
        ensure!(last < epoch && epoch < next, "epochs must rise: {last}, {epoch}, {next}");
        last = next;
        seen = written(cx.release(&*backend, &cx.lease(), &again).await?)?;
    }
    Ok(())
}

async fn survives_a_release(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let (epoch, held) = epoch_after(&cx, &*backend, &seen).await?;
    let seen = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    let (next, _) = epoch_after(&cx, &*backend, &seen).await?;
    ensure!(next > epoch, "{next} after {epoch}");
    Ok(())
}

async fn survives_an_administrators_deletion(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    for _ in 0..3 {
        let (epoch, _) = epoch_after(&cx, &*backend, &seen).await?;
        cx.delete().await?;
        let (_, anew) = cx.init().await?;
        let (next, held) = epoch_after(&cx, &*backend, &anew).await?;
        ensure!(next > epoch, "epoch {next} after {epoch} and a deletion");
        seen = held;
    }
    Ok(())
}

/// A register that came back from a backup, or was written by hand, below what the store has issued.
async fn exceeds_the_floor_when_the_record_is_older(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let mut epoch = 0;
    for _ in 0..3 {
        (epoch, seen) = epoch_after(&cx, &*backend, &seen).await?;
    }
    cx.delete().await?;
    let absent = backend.observe(&cx.lease()).await?;
    ensure!(
        absent.floor >= epoch,
        "the floor of an absent register, {}, is below epoch {epoch}",
        absent.floor
    );
    let mut old = writes::init(&absent, cx.ttl(), 0, None, &Fresh::random());
    old.epoch = 0;
    written(backend.put_if(&cx.lease(), &absent, &old, Change::Init).await?)?;
    let mut actor = cx.actor("b")?;
    let next = actor.leads().await?.term().epoch;
    ensure!(next > epoch, "the elector took epoch {next} after {epoch} had been issued");
    Ok(())
}

async fn survives_a_restart(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    let (epoch, held) = epoch_after(&cx, &*backend, &seen).await?;
    cx.harness.restart().await?;
    let backend = cx.backend().await?;
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(seen.record == held.record, "an acknowledged write is gone after a restart: {:?}", seen.record);
    let (next, _) = epoch_after(&cx, &*backend, &seen).await?;
    ensure!(next > epoch, "{next} after {epoch} and a restart");
    cx.judge().await
}

async fn a_raised_fence_is_exceeded_by_the_next_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let above = seen.next_epoch() + 1_000;
    admin::fence_raise(&*backend, &cx.lease(), above, "a resource had admitted more").await?;
    let seen = backend.observe(&cx.lease()).await?;
    let (next, _) = epoch_after(&cx, &*backend, &seen).await?;
    ensure!(next > above, "{next} is not above {above}");
    Ok(())
}

async fn init_above_is_exceeded_by_the_first_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let above = backend.observe(&cx.lease()).await?.floor + 500;
    let how = admin::Init { new: true, above, max_ttl: cx.ttl() };
    let (seen, created) = admin::init(&*backend, &cx.lease(), how).await?;
    ensure!(created, "init must create an absent register, and found {seen:?}");
    let (again, created) = admin::init(&*backend, &cx.lease(), how).await?;
    ensure!(!created, "a second init says that it created the register anew: {again:?} after {seen:?}");
    let (next, _) = epoch_after(&cx, &*backend, &seen).await?;
    ensure!(next > above, "{next} is not above {above}");
    Ok(())
}
