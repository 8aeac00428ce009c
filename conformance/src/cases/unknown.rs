//! Unknown outcomes: neither held nor lost (U-1, U-2, R-3).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::{Certainty, Change, Clock};
use lease_judge::history::{Answer, What};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::context::{Cx, record};
use crate::harness::Facility;

cases! { "unknown":
    an_acquisition_whose_reply_was_lost_is_adopted_not_doubled,
    an_acquisition_that_never_arrived_is_not_held,
    seeing_ones_own_grant_proves_nothing,
    a_renewal_whose_reply_was_lost_costs_no_term,
    a_renewal_that_never_arrived_costs_no_term,
    an_acquisition_acknowledged_too_late_begins_no_term,
    a_lost_reply_is_reported_as_unknown needs [Need::Facility(Facility::LoseReply)],
}

async fn an_acquisition_whose_reply_was_lost_is_adopted_not_doubled(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let before = record(&seen)?.transitions;
    let spec = ActorSpec { ttl: cx.ttl() * 20, ..cx.spec("a") };
    spec.tap.lose_next_reply(Change::Acquire);
    let mut actor = cx.start(spec)?;
    let term = actor.leads().await?;
    let seen = backend.observe(&cx.lease()).await?;
    let shown = record(&seen)?;
    ensure!(shown.term() == Some(term.term()), "another grant than the one that was lost: {seen:?}");
    ensure!(shown.transitions == before + 1, "acquired {} times", shown.transitions - before);
    ensure!(shown.beat >= 1, "confirmed by an acknowledged renewal, not by a read");
    Ok(())
}

async fn an_acquisition_that_never_arrived_is_not_held(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let spec = ActorSpec { ttl: cx.ttl() * 20, ..cx.spec("a") };
    spec.tap.lose_next_request(Change::Acquire);
    let mut actor = cx.start(spec)?;
    let term = actor.leads().await?;
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(record(&seen)?.term() == Some(term.term()), "it leads without being in the register: {seen:?}");
    Ok(())
}

async fn seeing_ones_own_grant_proves_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let spec = cx.spec("a");
    spec.tap.mute_watch();
    spec.tap.lose_next_reply_and_cut_writes(Change::Acquire);
    let tap = spec.tap.clone();
    let mut actor = cx.start(spec)?;
    cx.soon("the acquisition", tap.carried_out()).await?;
    // Applied and visible, but no write of the term is ever acknowledged.
    while backend.observe(&cx.lease()).await?.grant().is_none() {
        tokio::time::sleep(cx.ttl() / 50).await;
    }
    let clock = Clock::boot();
    let until = clock.now().plus(cx.ttl() * 2);
    while clock.now() < until {
        tap.hint();
        tokio::time::sleep(cx.ttl() / 20).await;
        ensure!(actor.leads_already().is_none(), "it took a read for a confirmation (U-2)");
    }
    tap.cut_writes(false);
    actor.leads().await?;
    Ok(())
}

async fn a_renewal_whose_reply_was_lost_costs_no_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    renewal_is_disturbed(&cx, |actor| actor.tap.lose_next_reply(Change::Renew)).await
}

async fn a_renewal_that_never_arrived_costs_no_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    renewal_is_disturbed(&cx, |actor| actor.tap.lose_next_request(Change::Renew)).await
}

async fn renewal_is_disturbed(cx: &Arc<Cx>, disturb: fn(&crate::actor::Actor)) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(ActorSpec { ttl: cx.ttl() * 4, ..cx.spec("a") })?;
    let term = actor.leads().await?;
    let unknown = |what: &What| matches!(what, What::Answered { answer: Answer::Unknown, .. });
    for round in 1..=3 {
        disturb(&actor);
        cx.soon("a renewal", actor.tap.carried_out()).await?;
        let beat = record(&backend.observe(&cx.lease()).await?)?.beat;
        loop {
            let seen = backend.observe(&cx.lease()).await?;
            ensure!(record(&seen)?.term() == Some(term.term()), "the term is gone: {seen:?}");
            let history = cx.recorder.history(&cx.lease());
            let lost = history.events.iter().filter(|event| unknown(&event.what)).count();
            if record(&seen)?.beat > beat && lost >= round {
                break;
            }
            tokio::time::sleep(cx.ttl() / 30).await;
        }
        ensure!(term.is_leader_now());
    }
    Ok(())
}

async fn an_acquisition_acknowledged_too_late_begins_no_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let spec = cx.spec("a");
    let tap = spec.tap.clone();
    let held = tap.hold_next(Change::Acquire);
    let mut actor = cx.start(spec)?;
    cx.soon("the acquisition", held.arrived()).await?;
    tap.cut(true);
    let clock = Clock::boot();
    clock.sleep_until(clock.now().plus(cx.ttl())).await;
    let late = cx.soon("the late acquisition", held.let_go()).await?;
    ensure!(late.is_some(), "the store must have answered");
    ensure!(actor.leads_already().is_none(), "it began a term past its own deadline (T-1)");
    tap.cut(false);
    let term = actor.leads().await?;
    ensure!(term.is_leader_now());
    Ok(())
}

async fn a_lost_reply_is_reported_as_unknown(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let losing = cx.recorded(cx.harness.connect_losing_the_next_reply().await?);
    let next = lease_core::internal::writes::renew(
        &held,
        record(&held)?,
        &lease_core::internal::writes::Fresh::random(),
    );
    let lease = cx.lease();
    let put = losing.put_if(&lease, &held, &next, Change::Renew);
    let error = match cx.soon("the failure", put).await? {
        Err(error) => error,
        Ok(outcome) => anyhow::bail!("its reply was lost, and yet it knows {outcome:?}"),
    };
    ensure!(error.certainty == Certainty::Unknown && !error.refused, "{error:?}");
    // It was applied, once, and is what the next write compares.
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(seen.tag() == Some(next.tag), "the write was not applied, or was doubled: {seen:?}");
    crate::context::written(cx.renew(&*backend, &cx.lease(), &seen).await?)?;
    Ok(())
}
