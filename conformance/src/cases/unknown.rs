//! Unknown outcomes: neither held nor lost (U-1, U-2, R-3).

use std::sync::Arc;

use anyhow::{Context, ensure};
use lease_core::{BackendError, Certainty, Change, Clock};
use lease_judge::history::{Answer, What};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::{equal, leads, none_led};
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
    after_a_lost_reply_it_works_again_or_says_that_it_is_disconnected needs [Need::Facility(Facility::LoseReply)],
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
    ensure!(shown.beat >= 1, "a renewal that is acknowledged confirms it, not a read: {seen:?}");
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
        none_led([&mut actor], "on a read of its own grant, which confirms nothing (U-2)")?;
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
    let mut actor = cx.start(cx.unhurried("a"))?;
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
        leads(cx, &term, "after a renewal whose outcome was unknown").await?;
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
    ensure!(late.is_some(), "the late acquisition must be answered, and ended as {late:?}");
    none_led([&mut actor], "past the deadline of its acquisition (T-1)")?;
    tap.cut(false);
    actor.leads().await.map(drop)
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
    equal("certainty, refused", (error.certainty, error.refused), (Certainty::Unknown, false))
        .with_context(|| format!("the error of a write whose reply was lost: {error:?}"))?;
    // It was applied, once, and is what the next write compares.
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(seen.tag() == Some(next.tag), "the write was not applied, or was doubled: {seen:?}");
    crate::context::written(cx.renew(&*backend, &cx.lease(), &seen).await?)?;
    Ok(())
}

/// Otherwise an elector would call it for ever.
async fn after_a_lost_reply_it_works_again_or_says_that_it_is_disconnected(
    cx: Arc<Cx>,
) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let losing = cx.harness.connect_losing_the_next_reply().await?;
    let lease = cx.lease();
    let put = cx.renew(&*losing, &lease, &held);
    let mut answer = cx.soon("the failure", put).await?.map(drop);
    let clock = Clock::boot();
    let until = clock.now().plus(cx.patience.0 / 2);
    loop {
        match answer {
            Ok(()) => return Ok(()),
            Err(error) => {
                let told = error.downcast_ref::<BackendError>().is_some_and(|error| error.disconnected);
                if told {
                    return Ok(());
                }
                ensure!(
                    clock.now() < until,
                    "its calls fail for ever after a lost reply, and none says that it is disconnected: {error:#}"
                );
            }
        }
        tokio::time::sleep(cx.ttl() / 10).await;
        let read = losing.observe(&lease);
        answer =
            cx.soon("an answer on the connection that lost one", read).await?.map(drop).map_err(Into::into);
    }
}
