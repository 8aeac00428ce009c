//! Renewal: only an acknowledged write of the term moves its deadline, from the sending (T-1, U-1).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::internal::deadline::shortened;
use lease_core::{Change, Clock, Loss, PutOutcome, admin};
use lease_judge::history::What;

use crate::actor::ActorSpec;
use crate::case::cases;
use crate::check::{equal, is_over, leads, none_led, register_is, same};
use crate::context::{Cx, conflict, record, written};

cases! { "renew":
    keeps_the_term_for_many_ttls,
    an_old_terms_renewal_changes_nothing,
    does_not_renew_a_newer_term_of_the_same_holder,
    does_not_renew_after_a_release,
    does_not_renew_after_a_revocation,
    a_slow_renewal_counts_from_its_sending,
    a_read_never_moves_the_deadline,
    a_late_renewal_of_a_lost_term_is_refused,
    a_request_in_between_costs_no_term,
}

async fn keeps_the_term_for_many_ttls(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(cx.steady("a"))?;
    let term = actor.leads().await?;
    let mut rival = cx.start(cx.steady("b"))?;
    cx.soon("the rival to look", rival.tap.reads(1)).await?;
    // Three beats are a ttl.
    loop {
        let seen = backend.observe(&cx.lease()).await?;
        leads(&cx, &term, "while it is renewed").await?;
        equal("the register's term", record(&seen)?.term(), Some(term.term()))?;
        if record(&seen)?.beat >= 9 {
            break;
        }
        tokio::time::sleep(cx.ttl() / 10).await;
    }
    leads(&cx, &term, "while it is renewed").await?;
    none_led([&mut actor, &mut rival], "beside the first term")
}

async fn an_old_terms_renewal_changes_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let old = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let new = cx.acquire(&*backend, &cx.lease(), &old, "b").await?;
    let other = cx.backend().await?;
    let shown = conflict(cx.renew(&*other, &cx.lease(), &old).await?)?;
    same("what an old term's renewal is shown", &shown.record, &new.record)?;
    register_is(&cx, &*backend, &new.record, "after an old term's renewal").await
}

async fn does_not_renew_a_newer_term_of_the_same_holder(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let old = cx.acquire(&*backend, &cx.lease(), &seen, "one-name").await?;
    let new = cx.acquire(&*backend, &cx.lease(), &old, "one-name").await?;
    conflict(cx.renew(&*backend, &cx.lease(), &old).await?)?;
    register_is(&cx, &*backend, &new.record, "after an old term's renewal").await?;

    // And an elector whose name is on a newer term takes it for anybody's.
    let mut actor = cx.start(ActorSpec { lease: cx.lease_named("elector"), ..cx.unhurried("one-name") })?;
    let (backend, _) = cx.init_named(&actor.lease.clone()).await?;
    let term = actor.leads().await?;
    let newer = loop {
        let seen = backend.observe(&actor.lease).await?;
        let fresh = lease_core::internal::writes::Fresh::random();
        let who = crate::context::candidate("one-name", cx.long_ttl());
        let record = lease_core::internal::writes::acquire(&seen, record(&seen)?, &who, fresh.grant, &fresh);
        // As an operator's hand would, so that no elector is accused of haste.
        match backend.put_if(&actor.lease, &seen, &record, Change::Revoke).await? {
            PutOutcome::Written(newer) => break newer,
            PutOutcome::Conflict(_) => {}
        }
    };
    let loss = cx.soon("the old term's end", term.lost()).await?;
    ensure!(loss == Loss::Superseded, "it ended as {loss:?}");
    let seen = backend.observe(&actor.lease).await?;
    same("the newer term's record", &seen.record, &newer.record)?;
    Ok(())
}

async fn does_not_renew_after_a_release(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let free = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    conflict(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    register_is(&cx, &*backend, &free.record, "after a renewal of what was released").await
}

async fn does_not_renew_after_a_revocation(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let revoked = admin::revoke(&*backend, &cx.lease(), admin::Revoke::default()).await?;
    conflict(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    register_is(&cx, &*backend, &revoked.record, "after a renewal of what was revoked").await
}

async fn a_slow_renewal_counts_from_its_sending(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let spec = cx.unhurried("a");
    let ttl = spec.ttl;
    let mut actor = cx.start(spec)?;
    let term = actor.leads().await?;
    let held = actor.tap.hold_next(Change::Renew);
    cx.soon("a renewal", held.arrived()).await?;
    let arrived_at = Clock::boot().now();
    Clock::boot().sleep_until(arrived_at.plus(cx.ttl() / 4)).await;
    let let_go_at = Clock::boot().now();
    cx.soon("the slow renewal", held.let_go()).await?;
    // The renewal's own acknowledgement, in the history: the deadline that it gave counts from before it arrived.
    let moved = async {
        loop {
            let history = cx.recorder.history(&cx.lease());
            let extended = history.events.iter().find_map(|event| match &event.what {
                What::Extended { deadline, .. } if event.at >= let_go_at => Some(*deadline),
                _ => None,
            });
            if let Some(deadline) = extended {
                return anyhow::Ok(deadline);
            }
            leads(&cx, &term, "although the slow renewal was within its limit").await?;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let extended = cx.soon("the deadline to move", moved).await??;
    let (latest, late) = (arrived_at.plus(shortened(ttl)), extended.since(arrived_at));
    ensure!(
        extended <= latest,
        "the deadline is {late:?} after the renewal arrived, and must be {:?} after it was sent, not after its answer",
        shortened(ttl)
    );
    Ok(())
}

async fn a_read_never_moves_the_deadline(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut actor = cx.actor("a")?;
    actor.tap.mute_watch();
    let term = actor.leads().await?;
    actor.tap.cut_writes(true);
    let began = Clock::boot().now();
    loop {
        // In this order a stall in between accuses nobody.
        let spent = Clock::boot().now().since(began);
        if !term.is_leader_now() {
            return Ok(());
        }
        ensure!(
            spent < cx.ttl() * 4,
            "reads kept the term alive for {spent:?} without one acknowledged write, with a ttl of {:?}",
            cx.ttl()
        );
        // Each hint makes the holder read its own grant.
        actor.tap.hint();
        tokio::time::sleep(cx.ttl() / 20).await;
    }
}

async fn a_late_renewal_of_a_lost_term_is_refused(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut old = cx.start(ActorSpec { ttl: cx.ttl() * 4, ..cx.spec("a") })?;
    let first = old.leads().await?;
    let held = old.tap.hold_next(Change::Renew);
    cx.soon("a renewal", held.arrived()).await?;
    old.tap.cut(true);
    let mut new = cx.actor("b")?;
    let second = new.leads().await?;
    is_over(&first, "when its successor leads")?;
    let outcome = cx.soon("the late renewal", held.let_go()).await?;
    ensure!(matches!(outcome, Some(PutOutcome::Conflict(_))), "the late renewal was answered {outcome:?}");
    let now = backend.observe(&cx.lease()).await?;
    ensure!(record(&now)?.epoch >= second.term().epoch, "the late renewal was written: {now:?}");
    Ok(())
}

async fn a_request_in_between_costs_no_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(ActorSpec { drains: true, ..cx.unhurried("a") })?;
    let term = actor.leads().await?;
    for _ in 0..5 {
        // Each request makes the holder's next renewal conflict once; it must retry on what it is shown.
        admin::request_step_down(&*backend, &cx.lease(), "an operator").await?;
        let beat = record(&backend.observe(&cx.lease()).await?)?.beat;
        loop {
            let seen = backend.observe(&cx.lease()).await?;
            ensure!(record(&seen)?.term() == Some(term.term()), "the term was lost: {seen:?}");
            if record(&seen)?.beat > beat {
                break;
            }
            tokio::time::sleep(cx.ttl() / 30).await;
        }
    }
    leads(&cx, &term, "after requests that made its renewals conflict").await
}
