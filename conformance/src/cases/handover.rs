//! Handing over: stop, step-down, revoke (H-1, H-2, H-3), and pre-emption (F-3).

use std::sync::Arc;

use anyhow::{Context, ensure};
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Clock, Grant, Loss, PutOutcome, RequestId, StopReason, admin};

use crate::actor::ActorSpec;
use crate::case::cases;
use crate::check::{ends, equal, follows, is_over, leads, none_led, register_is};
use crate::context::{Cx, record};

cases! { "handover":
    releases_only_after_the_work_has_returned,
    local_false_comes_before_the_successors_grant,
    steps_down_when_asked_and_answers_the_request,
    a_request_for_another_grant_is_void,
    a_request_dies_with_its_grant,
    a_revoked_term_ends_at_once_and_is_waited_out,
    a_revocation_of_a_dead_holder_frees_at_once,
    a_fenced_holder_is_followed_at_once_on_the_callers_word,
    an_unfenced_holder_is_waited_out_whatever_the_caller_says,
    a_sealed_register_is_never_taken,
}

async fn releases_only_after_the_work_has_returned(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let spec = ActorSpec { drains: true, ..cx.steady("a") };
    let ttl = spec.ttl;
    let mut actor = cx.start(spec)?;
    let term = actor.leads().await?;
    actor.shut_down();
    cx.soon("the work to be told", term.stop_requested()).await?;
    equal("why the work is told to stop", term.stop_reason(), Some(&StopReason::Shutdown))?;
    leads(&cx, &term, "when its work is told to stop").await?;
    // It drains for longer than a ttl: the lease must be kept, by renewals.
    let clock = Clock::boot();
    clock.sleep_until(clock.now().plus(ttl * 3 / 2)).await;
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(seen.grant() == Some(term.term().grant), "released while the work still ran: {seen:?}");
    leads(&cx, &term, "while its work drains").await?;
    actor.work_returns();
    actor.stop().await?;
    equal("the grant after the release", backend.observe(&cx.lease()).await?.grant(), None)
}

async fn local_false_comes_before_the_successors_grant(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut terms = Vec::new();
    let mut actors = vec![cx.actor("a")?];
    for index in 0..6 {
        let term = actors[index].leads().await?;
        for earlier in &terms {
            is_over(earlier, &format!("when {} leads", term.term()))?;
        }
        actors.push(cx.actor(&format!("next-{index}"))?);
        cx.soon("the standby to look", actors[index + 1].tap.reads(1)).await?;
        match index % 3 {
            0 => actors[index].shut_down(),
            1 => actors[index].kill(),
            _ => actors[index].tap.cut(true),
        }
        terms.push(term);
    }
    // L-1 and L-6 judge the rest to the nanosecond.
    actors[6].leads().await?;
    Ok(())
}

async fn steps_down_when_asked_and_answers_the_request(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    // A holder that steps down holds off for a part of its ttl: long enough for the standby's look on a busy machine.
    let ttl = cx.ttl() * 10;
    let mut holder = cx.start(ActorSpec { ttl, ..cx.spec("a") })?;
    let first = holder.leads().await?;
    let mut standby = cx.start(ActorSpec { ttl, ..cx.spec("b") })?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    let (id, _) = admin::request_step_down(&*backend, &cx.lease(), "an operator").await?;
    let second = standby.leads().await?;
    let asked = StopReason::StepDown { id, by: "an operator".into() };
    equal("why the work is told to stop", first.stop_reason(), Some(&asked))?;
    follows(second.term(), first.term())?;
    let history = cx.recorder.history(&cx.lease());
    let writes = history.writes();
    let release = writes.iter().find(|write| write.put.change == Change::Release);
    equal("the request that the release answers", release.and_then(|put| put.put.record.answered), Some(id))
}

async fn ask_for(cx: &Cx, grant: Grant) -> anyhow::Result<u64> {
    let backend = cx.backend().await?;
    loop {
        let seen = backend.observe(&cx.lease()).await?;
        let before = record(&seen)?;
        let asked = writes::request(before, grant, RequestId::random(), "somebody", &Fresh::random());
        if let PutOutcome::Written(_) = backend.put_if(&cx.lease(), &seen, &asked, Change::Request).await? {
            return Ok(before.beat);
        }
    }
}

async fn a_request_for_another_grant_is_void(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut holder = cx.start(cx.unhurried("a"))?;
    let term = holder.leads().await?;
    let beat = ask_for(&cx, Grant::random()).await?;
    loop {
        let seen = backend.observe(&cx.lease()).await?;
        equal("the grant after a request for another one", seen.grant(), Some(term.term().grant))?;
        if record(&seen)?.beat >= beat + 3 {
            break;
        }
        tokio::time::sleep(cx.ttl() / 30).await;
    }
    leads(&cx, &term, "after a request for another grant").await?;
    equal("why the work is told to stop", term.stop_reason(), None)
}

async fn a_request_dies_with_its_grant(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    // Of a holder that is dead from the start, so that nothing depends on how quickly the request follows.
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    ask_for(&cx, held.grant().context("just acquired")?).await?;
    let mut standby = cx.start(cx.steady("b"))?;
    let second = standby.leads().await?;
    let seen = backend.observe(&cx.lease()).await?;
    equal("the term that has acquired", record(&seen)?.term(), Some(second.term()))?;
    equal("the request after an acquisition, which clears it", &record(&seen)?.request, &None)?;
    equal("why the successor's work is told to stop", second.stop_reason(), None)
}

async fn a_revoked_term_ends_at_once_and_is_waited_out(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut holder = cx.start(cx.steady("a"))?;
    let first = holder.leads().await?;
    let revoked = admin::revoke(&*backend, &cx.lease(), admin::Revoke::default()).await?;
    let revoked_at = Clock::boot().now();
    ends(&cx, &first, Loss::Revoked).await?;
    let second = holder.leads().await?;
    let waited = Clock::boot().now().since(revoked_at);
    ensure!(waited >= cx.ttl(), "a grant that nobody holds was waited out for only {waited:?}");
    let (led, own) = (second.term(), record(&revoked)?.epoch);
    ensure!(led.epoch > own, "term {led} must be above the revocation's own epoch, {own}");
    Ok(())
}

async fn a_revocation_of_a_dead_holder_frees_at_once(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let ttl = cx.long_ttl();
    let settings = |builder: lease_core::ElectorBuilder| {
        let second = std::time::Duration::from_secs(1);
        builder.renew_every(second).retry_every(second / 5)
    };
    let mut holder = cx.start(ActorSpec { ttl, settings, ..cx.spec("a") })?;
    let first = holder.leads().await?;
    let mut standby = cx.start(ActorSpec { ttl, settings, ..cx.spec("b") })?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    holder.kill();
    let how = admin::Revoke { holder_is_dead: true, note: "its machine is off", ..Default::default() };
    admin::revoke(&*backend, &cx.lease(), how).await?;
    let second = standby.leads().await?;
    follows(second.term(), first.term())
}

async fn a_fenced_holder_is_followed_at_once_on_the_callers_word(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 20;
    let mut holder = cx.start(ActorSpec { ttl, preemptible: true, ..cx.spec("a") })?;
    let first = holder.leads().await?;
    let mut standby = cx.start(ActorSpec { ttl, preemptible: true, ..cx.spec("b") })?;
    cx.soon("the standby to look", standby.tap.reads(2)).await?;
    // Nothing may happen now, which only time can show: far less of it than the holder's ttl.
    let clock = Clock::boot();
    clock.sleep_until(clock.now().plus(cx.ttl())).await;
    none_led([&mut standby], "by its own choice (F-3)")?;
    holder.kill();
    let killed_at = Clock::boot().now();
    standby.says_holder_is_dead();
    let second = standby.leads().await?;
    let took = Clock::boot().now().since(killed_at);
    ensure!(took < ttl, "it took {took:?}, and must not wait for the ttl, {ttl:?}");
    follows(second.term(), first.term())
}

async fn an_unfenced_holder_is_waited_out_whatever_the_caller_says(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(cx.unhurried("a"))?;
    let term = holder.leads().await?;
    let mut standby = cx.start(cx.unhurried("b"))?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    standby.says_holder_is_dead();
    cx.soon("further looks", standby.tap.reads(5)).await?;
    leads(&cx, &term, "whatever a standby's caller says").await?;
    none_led([&mut standby], "on its caller's word, beside a holder whose effects aren't fenced")
}

async fn a_sealed_register_is_never_taken(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let fresh = Fresh::random();
    let sealed = lease_core::Record {
        tag: fresh.tag,
        grant: Some(fresh.grant),
        epoch: seen.next_epoch(),
        sealed: Some("another store".into()),
        ..record(&seen)?.clone()
    };
    let outcome = backend.put_if(&cx.lease(), &seen, &sealed, Change::Seal).await?;
    crate::context::written(outcome)?;
    let mut actor = cx.actor("a")?;
    let clock = Clock::boot();
    clock.sleep_until(clock.now().plus(cx.ttl() * 2)).await;
    none_led([&mut actor], "on a sealed register")?;
    register_is(&cx, &*backend, &Some(sealed), "after its seal").await
}
