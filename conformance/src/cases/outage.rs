//! Outages: local false by the deadline, and nothing lost by a short one (T-1, U-1).

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use lease_core::{Clock, Instant, Leadership, Loss, StopReason};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::context::Cx;
use crate::harness::Facility;

cases! { "outage":
    local_false_by_the_deadline,
    the_work_is_told_before_the_deadline,
    a_short_blip_loses_nothing,
    failed_renewals_end_no_term_before_the_deadline,
    leads_again_when_the_store_is_back,
    a_restart_of_the_store_is_survived needs [Need::Facility(Facility::Restart)],
}

async fn local_false_by_the_deadline(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut actor = cx.start(ActorSpec { drains: true, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    actor.tap.cut(true);
    let clock = Clock::boot();
    let deadline = clock.now().plus(cx.ttl());
    clock.sleep_until(deadline).await;
    ensure!(!term.is_leader_now(), "true for more than a ttl after the last acknowledged renewal");
    ensure!(cx.soon("the loss", term.lost()).await? == Loss::Expired);
    actor.work_returns();
    // The old term sends nothing any more when the store is back (L-5 judges).
    actor.tap.cut(false);
    let next = actor.leads().await?;
    ensure!(next.term().epoch > term.term().epoch);
    Ok(())
}

async fn the_work_is_told_before_the_deadline(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut actor = cx.start(ActorSpec { ttl: cx.ttl() * 4, drains: true, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    actor.tap.cut(true);
    cx.soon("the work to be told", term.stop_requested()).await?;
    ensure!(term.stop_reason() == Some(&StopReason::Expiring), "{:?}", term.stop_reason());
    ensure!(term.is_leader_now(), "told when it was too late to drain");
    actor.work_returns();
    cx.soon("the loss", term.lost()).await?;
    actor.tap.cut(false);
    actor.leads().await?;
    Ok(())
}

async fn a_short_blip_loses_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 4;
    let mut actor = cx.start(ActorSpec { ttl, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    for _ in 0..3 {
        actor.tap.cut(true);
        cx.soon("a renewal to fail", actor.tap.failures(1)).await?;
        let before = deadline(&term);
        actor.tap.cut(false);
        is_extended(&cx, &term, before).await?;
    }
    ensure!(term.is_leader_now() && actor.leads_already().is_none());
    Ok(())
}

async fn failed_renewals_end_no_term_before_the_deadline(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 5;
    let mut actor = cx.start(ActorSpec { ttl, drains: true, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    let clock = Clock::boot();
    actor.tap.cut(true);
    let left = term.remaining();
    clock.sleep_until(clock.now().plus(left / 2)).await;
    ensure!(term.is_leader_now(), "a transport error is no loss (U-1)");
    let before = deadline(&term);
    actor.tap.cut(false);
    is_extended(&cx, &term, before).await
}

/// When the term ends unless it is renewed, as seen from outside: exact to what one clock read takes.
fn deadline(term: &Leadership) -> Instant {
    Clock::boot().now().plus(term.remaining())
}

/// Waits for a renewal that moves the deadline on from `before`.
async fn is_extended(cx: &Cx, term: &Leadership, before: Instant) -> anyhow::Result<()> {
    let extended = async {
        while deadline(term) <= before.plus(Duration::from_millis(5)) {
            ensure!(term.is_leader_now(), "the term was lost");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    cx.soon("a renewal", extended).await?
}

async fn leads_again_when_the_store_is_back(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.actor("a")?;
    let first = holder.leads().await?;
    let mut actors = [holder, cx.actor("b")?];
    for actor in &actors {
        actor.tap.cut(true);
    }
    cx.soon("the loss", first.lost()).await?;
    for actor in &actors {
        actor.tap.cut(false);
    }
    let waiting = actors.iter_mut().map(|actor| Box::pin(actor.leads()));
    let (next, ..) = futures::future::select_all(waiting).await;
    ensure!(next?.term().epoch > first.term().epoch);
    Ok(())
}

async fn a_restart_of_the_store_is_survived(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    cx.init().await?;
    // Long enough for any restart, and a renewal is due well before patience ends.
    let ttl = (cx.ttl() * 50).min(Duration::from_secs(60));
    let mut actor = cx.start(ActorSpec { ttl, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    cx.harness.restart().await?;
    is_extended(&cx, &term, deadline(&term)).await?;
    ensure!(actor.leads_already().is_none());
    cx.judge().await
}
