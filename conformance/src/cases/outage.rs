//! Outages: local false by the deadline, and nothing lost by a short one (T-1, U-1).

use std::sync::Arc;
use std::time::Duration;

use lease_core::{Clock, Instant, Leadership, Loss, StopReason};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::{ends, equal, follows, is_over, leads, none_led};
use crate::context::Cx;
use crate::harness::Facility;

cases! { "outage":
    local_false_by_the_deadline,
    the_work_is_told_before_the_deadline,
    a_short_blip_loses_nothing,
    failed_renewals_end_no_term_before_the_deadline,
    leads_again_when_the_store_is_back,
    a_disconnected_backend_is_connected_anew,
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
    is_over(&term, "more than a ttl after the last acknowledged renewal")?;
    ends(&cx, &term, Loss::Expired).await?;
    actor.work_returns();
    // The old term sends nothing any more when the store is back (L-5 judges).
    actor.tap.cut(false);
    let next = actor.leads().await?;
    follows(next.term(), term.term())
}

async fn the_work_is_told_before_the_deadline(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut actor = cx.start(ActorSpec { ttl: cx.ttl() * 4, drains: true, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    actor.tap.cut(true);
    cx.soon("the work to be told", term.stop_requested()).await?;
    leads(&cx, &term, "when its work is told to stop").await?;
    equal("why the work is told to stop", term.stop_reason(), Some(&StopReason::Expiring))?;
    actor.work_returns();
    cx.soon("the loss", term.lost()).await?;
    actor.tap.cut(false);
    actor.leads().await?;
    Ok(())
}

async fn a_short_blip_loses_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut actor = cx.start(cx.unhurried("a"))?;
    let term = actor.leads().await?;
    for _ in 0..3 {
        actor.tap.cut(true);
        cx.soon("a renewal to fail", actor.tap.failures(1)).await?;
        let before = deadline(&term);
        actor.tap.cut(false);
        is_extended(&cx, &term, before).await?;
    }
    leads(&cx, &term, "after short outages").await?;
    none_led([&mut actor], "a second time")
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
    leads(&cx, &term, "before its deadline, for a transport error (U-1)").await?;
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
            leads(cx, term, "before it was renewed").await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
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
    follows(next?.term(), first.term())
}

/// What one connection has seen is fit for a write over the next.
async fn a_disconnected_backend_is_connected_anew(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(cx.unhurried("a"))?;
    let term = holder.leads().await?;
    let mut standby = cx.start(cx.unhurried("b"))?;
    cx.soon("the standby to look", standby.tap.reads_reach(1)).await?;
    standby.tap.disconnect();
    for _ in 0..2 {
        holder.tap.disconnect();
        is_extended(&cx, &term, deadline(&term)).await?;
    }
    none_led([&mut standby], "beside a holder that was connected anew")?;
    holder.stop().await?;
    let next = standby.leads().await?;
    follows(next.term(), term.term())
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
    none_led([&mut actor], "a second time")?;
    cx.judge().await
}
