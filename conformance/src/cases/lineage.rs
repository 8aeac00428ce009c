//! Lineage: what a failover may have lost (R-2, T-3).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::internal::deadline::lengthened;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Clock, Lineage, Tag};

use crate::case::{Need, cases};
use crate::check::{equal, follows, none_led, same};
use crate::context::{Cx, candidate, conflict, record, written};
use crate::harness::Facility;

cases! { "lineage":
    is_stamped_by_init_acquire_renew_and_release,
    free_under_a_foreign_stamp_is_not_taken_at_once,
    held_under_a_foreign_stamp_is_waited_out_at_the_maximum,
    a_write_across_a_change_of_lineage_conflicts needs [Need::Facility(Facility::ChangeLineage)],
    a_change_of_lineage_starts_the_wait_anew needs [Need::Facility(Facility::ChangeLineage)],
    epochs_rise_across_a_change_of_lineage needs [Need::Facility(Facility::ChangeLineage)],
}

async fn is_stamped_by_init_acquire_renew_and_release(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    ensure!(!seen.lineage.0.is_empty(), "the store must name its lineage: {seen:?}");
    equal("the stamp that init wrote", &record(&seen)?.lineage, &seen.lineage)?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let renewed = written(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    let free = written(cx.release(&*backend, &cx.lease(), &renewed).await?)?;
    for observation in [&held, &renewed, &free, &cx.backend().await?.observe(&cx.lease()).await?] {
        equal("the store's lineage", &observation.lineage, &seen.lineage)?;
        equal("the record's stamp", &record(observation)?.lineage, &seen.lineage)?;
    }
    Ok(())
}

/// Writes the register as another lineage left it, by hand: any store can be judged by this.
async fn leave_foreign(cx: &Cx, held: bool, max_ttl_ms: u64) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let mut foreign = record(&seen)?.clone();
    foreign.tag = Tag::random();
    foreign.lineage = Lineage("a-lineage-that-is-no-more".into());
    foreign.max_ttl_ms = max_ttl_ms;
    foreign.ttl_ms = cx.ttl().as_millis() as u64;
    foreign.grant = held.then(lease_core::Grant::random);
    written(backend.put_if(&cx.lease(), &seen, &foreign, Change::Request).await?)?;
    Ok(())
}

async fn free_under_a_foreign_stamp_is_not_taken_at_once(cx: Arc<Cx>) -> anyhow::Result<()> {
    let maximum = cx.ttl() * 2;
    leave_foreign(&cx, false, maximum.as_millis() as u64).await?;
    let began = Clock::boot().now();
    let mut actor = cx.actor("a")?;
    actor.leads().await?;
    let waited = Clock::boot().now().since(began);
    ensure!(waited >= lengthened(maximum), "freedom of another lineage was taken after {waited:?}");
    Ok(())
}

async fn held_under_a_foreign_stamp_is_waited_out_at_the_maximum(cx: Arc<Cx>) -> anyhow::Result<()> {
    let maximum = cx.ttl() * 2;
    leave_foreign(&cx, true, maximum.as_millis() as u64).await?;
    let began = Clock::boot().now();
    let mut actor = cx.actor("a")?;
    actor.leads().await?;
    let waited = Clock::boot().now().since(began);
    ensure!(waited >= lengthened(maximum), "a lost acquisition may have had any ttl; waited {waited:?}");
    Ok(())
}

async fn a_write_across_a_change_of_lineage_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    cx.change_lineage().await?;
    let backend = cx.backend().await?;
    for change in [Change::Acquire, Change::Renew, Change::Release] {
        let next = writes::renew(&held, record(&held)?, &Fresh::random());
        let shown = conflict(backend.put_if(&cx.lease(), &held, &next, change).await?)?;
        ensure!(
            shown.lineage != held.lineage,
            "a conflict must show the present lineage, and shows the one from before the change, {}",
            shown.lineage
        );
    }
    let seen = backend.observe(&cx.lease()).await?;
    same("the register after the change", &seen.record, &held.record)?;
    ensure!(
        seen.lineage != held.lineage,
        "a read shows the lineage from before the change, {}",
        held.lineage
    );
    written(cx.renew(&*backend, &cx.lease(), &seen).await?)?;
    Ok(())
}

async fn a_change_of_lineage_starts_the_wait_anew(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    // Long enough for the change, which must come before the standby may take over.
    let (ttl, fresh) = (cx.ttl() * 6, Fresh::random());
    let held =
        writes::acquire(&seen, record(&seen)?, &candidate("nobody-is-there", ttl), fresh.grant, &fresh);
    written(backend.put_if(&cx.lease(), &seen, &held, Change::Acquire).await?)?;
    let mut actor = cx.actor("a")?;
    cx.soon("the standby to look", actor.tap.reads(3)).await?;
    let before = Clock::boot().now();
    cx.change_lineage().await?;
    none_led([&mut actor], &format!("while the lineage was changed, which must take less than {ttl:?}"))?;
    actor.leads().await?;
    let waited = Clock::boot().now().since(before);
    ensure!(waited >= lengthened(ttl), "it waited only {waited:?} under the new lineage");
    cx.judge().await
}

async fn epochs_rise_across_a_change_of_lineage(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (_, _) = cx.init().await?;
    let mut actor = cx.actor("a")?;
    let first = actor.leads().await?;
    cx.change_lineage().await?;
    actor.stop().await?;
    let mut next = cx.actor("b")?;
    let second = next.leads().await?;
    follows(second.term(), first.term())?;
    let seen = cx.backend().await?.observe(&cx.lease()).await?;
    equal("the new term's stamp", &record(&seen)?.lineage, &seen.lineage)?;
    cx.judge().await
}
