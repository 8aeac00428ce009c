//! Release: clears the grant, keeps the register, and only ever its own (U-3, L-5).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::{Change, Clock, PutOutcome};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::{equal, follows, is_over, register_is, same};
use crate::context::{Cx, conflict, record, written};
use futures::StreamExt;

cases! { "release":
    keeps_the_register,
    an_old_terms_release_changes_nothing,
    does_not_release_a_newer_term_of_the_same_holder,
    does_not_release_twice,
    hands_over_without_waiting_for_the_ttl,
    wakes_a_watcher needs [Need::Watch],
    a_late_release_after_a_takeover_is_refused,
    an_unknown_release_is_tried_again,
}

async fn keeps_the_register(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let free = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    let seen = cx.backend().await?.observe(&cx.lease()).await?;
    same("the register after its release", &seen.record, &free.record)?;
    equal("its grant", record(&seen)?.grant, None)?;
    equal("the epoch of the last grant", record(&seen)?.epoch, record(&held)?.epoch)
}

async fn an_old_terms_release_changes_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let old = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let new = cx.acquire(&*backend, &cx.lease(), &old, "b").await?;
    let other = cx.backend().await?;
    conflict(cx.release(&*other, &cx.lease(), &old).await?)?;
    register_is(&cx, &*backend, &new.record, "after an old term's release").await
}

async fn does_not_release_a_newer_term_of_the_same_holder(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let old = cx.acquire(&*backend, &cx.lease(), &seen, "one-name").await?;
    let new = cx.acquire(&*backend, &cx.lease(), &old, "one-name").await?;
    conflict(cx.release(&*backend, &cx.lease(), &old).await?)?;
    register_is(&cx, &*backend, &new.record, "after an old term's release").await
}

async fn does_not_release_twice(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let free = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    let shown = conflict(cx.release(&*backend, &cx.lease(), &held).await?)?;
    same("what a second release is shown", &shown.record, &free.record)
}

async fn hands_over_without_waiting_for_the_ttl(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.long_ttl();
    let settings = |builder: lease_core::ElectorBuilder| {
        let second = std::time::Duration::from_secs(1);
        builder.renew_every(second).retry_every(second / 5)
    };
    let mut holder = cx.start(ActorSpec { ttl, settings, ..cx.spec("a") })?;
    let first = holder.leads().await?;
    let mut standby = cx.start(ActorSpec { ttl, settings, ..cx.spec("b") })?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    holder.stop().await?;
    let second = standby.leads().await?;
    follows(second.term(), first.term())?;
    is_over(&first, "when its successor leads")
}

async fn wakes_a_watcher(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let watcher = cx.backend().await?;
    let mut hints = cx.soon("the watch to be live", watcher.watch(cx.lease().as_str())).await??;
    // Hints of what came before may still be on their way; what counts is one after the release.
    let began = Clock::boot().now();
    written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    loop {
        let hint = cx.soon("a hint", hints.next()).await?;
        ensure!(
            hint.is_some(),
            "the watch ended by itself {:?} after the release",
            Clock::boot().now().since(began)
        );
        if watcher.observe(&cx.lease()).await?.grant().is_none() {
            break;
        }
    }
    let took = Clock::boot().now().since(began);
    ensure!(took < cx.patience.0 / 2, "the hint took {took:?}");
    Ok(())
}

async fn a_late_release_after_a_takeover_is_refused(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut old = cx.start(ActorSpec { ttl: cx.ttl() * 4, ..cx.spec("a") })?;
    let first = old.leads().await?;
    let held = old.tap.hold_next(Change::Release);
    old.shut_down();
    cx.soon("the release", held.arrived()).await?;
    old.tap.cut(true);
    is_over(&first, "when its release is sent (H-1)")?;
    let mut new = cx.actor("b")?;
    let second = new.leads().await?;
    let outcome = cx.soon("the late release", held.let_go()).await?;
    ensure!(matches!(outcome, Some(PutOutcome::Conflict(_))), "the late release was answered {outcome:?}");
    let now = backend.observe(&cx.lease()).await?;
    ensure!(record(&now)?.epoch >= second.term().epoch, "the late release was written: {now:?}");
    Ok(())
}

async fn an_unknown_release_is_tried_again(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(ActorSpec { ttl: cx.ttl() * 20, ..cx.spec("a") })?;
    actor.leads().await?;
    actor.tap.lose_next_request(Change::Release);
    actor.stop().await?;
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(record(&seen)?.grant.is_none(), "it gave up after one attempt (U-3): {seen:?}");
    Ok(())
}
