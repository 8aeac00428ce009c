//! Expiry: each process's own clock decides, and no wall clock does (T-1, T-2).

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use lease_core::internal::deadline::lengthened;
use lease_core::internal::writes::Fresh;
use lease_core::{Change, Clock, LeaseBackend, PutOutcome, Tag};

use crate::actor::ActorSpec;
use crate::case::cases;
use crate::check::{follows, is_over, leads, none_led};
use crate::context::{Cx, record};

cases! { "expiry":
    a_dead_holder_is_followed_by_one,
    does_not_take_over_a_renewing_holder,
    waits_for_the_records_longer_ttl,
    waits_for_its_own_longer_ttl,
    wall_clocks_an_hour_off_change_nothing,
    wall_times_in_the_record_change_nothing,
    a_killed_holders_term_ends_by_its_own_clock,
    a_request_does_not_postpone_the_takeover,
}

async fn a_dead_holder_is_followed_by_one(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(cx.steady("a"))?;
    let first = holder.leads().await?;
    let mut standbys = [cx.start(cx.steady("b"))?, cx.start(cx.steady("c"))?, cx.start(cx.steady("d"))?];
    for standby in &standbys {
        cx.soon("every standby to look", standby.tap.reads(2)).await?;
    }
    holder.kill();
    let waiting = standbys.iter_mut().map(|standby| Box::pin(standby.leads()));
    let (second, leader, _) = futures::future::select_all(waiting).await;
    let second = second?;
    follows(second.term(), first.term())?;
    is_over(&first, "when its successor leads")?;
    let others = standbys.iter().enumerate().filter(|(index, _)| *index != leader);
    for (_, standby) in others {
        cx.soon("a further look", standby.tap.reads(2)).await?;
    }
    leads(&cx, &second, "beside other standbys").await?;
    none_led(&mut standbys, "beside the successor")
}

async fn does_not_take_over_a_renewing_holder(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(cx.steady("a"))?;
    let term = holder.leads().await?;
    let mut standbys = [cx.start(cx.steady("b"))?, cx.start(cx.steady("c"))?];
    for standby in &standbys {
        // A look is a third of a ttl after the one before, but for the first ones.
        cx.soon("the standby to look", standby.tap.reads_reach(9)).await?;
    }
    leads(&cx, &term, "while it is renewed").await?;
    none_led(&mut standbys, "beside a holder that renews")
}

async fn takeover_takes(cx: &Arc<Cx>, holders: Duration, own: Duration) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(ActorSpec { ttl: holders, max_ttl: Some(holders.max(own)), ..cx.spec("a") })?;
    holder.leads().await?;
    let mut standby = cx.start(ActorSpec { ttl: own, max_ttl: Some(holders.max(own)), ..cx.spec("b") })?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    let killed_at = Clock::boot().now();
    holder.kill();
    standby.leads().await?;
    let took = Clock::boot().now().since(killed_at);
    // The last beat may have been received up to a beat before; L-3 judges the wait to the nanosecond.
    let least = lengthened(holders.max(own)).saturating_sub(holders / 3);
    ensure!(took >= least, "the takeover took only {took:?}, expected {least:?} at least");
    Ok(())
}

async fn waits_for_the_records_longer_ttl(cx: Arc<Cx>) -> anyhow::Result<()> {
    takeover_takes(&cx, cx.ttl() * 3, cx.ttl()).await
}

async fn waits_for_its_own_longer_ttl(cx: Arc<Cx>) -> anyhow::Result<()> {
    takeover_takes(&cx, cx.ttl(), cx.ttl() * 3).await
}

async fn wall_clocks_an_hour_off_change_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let hour = 3_600_000;
    let mut holder = cx.start(ActorSpec { wall_off_ms: -hour, ..cx.steady("behind") })?;
    let term = holder.leads().await?;
    let mut standby = cx.start(ActorSpec { wall_off_ms: hour, ..cx.steady("ahead") })?;
    cx.soon("the standby to look", standby.tap.reads(7)).await?;
    leads(&cx, &term, "beside a clock that is two hours ahead").await?;
    none_led([&mut standby], "because its clock is two hours ahead")?;
    holder.kill();
    let next = standby.leads().await?;
    // And the other way round: a record that says it lasts for hours is taken over in time.
    let mut slow = cx.start(ActorSpec { wall_off_ms: -hour, ..cx.spec("behind-again") })?;
    cx.soon("the standby to look", slow.tap.reads(2)).await?;
    standby.kill();
    let last = slow.leads().await?;
    follows(next.term(), term.term())?;
    follows(last.term(), next.term())
}

/// Writes the wall times of the present record `off_ms` away from now, and nothing else.
async fn shift(cx: &Cx, backend: &dyn LeaseBackend, off_ms: i64) -> anyhow::Result<()> {
    loop {
        let seen = backend.observe(&cx.lease()).await?;
        let now = Fresh::random().wall.0 + off_ms;
        let mut shifted = record(&seen)?.clone();
        shifted.tag = Tag::random();
        shifted.acquired_at.0 = now;
        shifted.renewed_at.0 = now;
        shifted.expires_at.0 = now + cx.ttl().as_millis() as i64;
        if let PutOutcome::Written(_) = backend.put_if(&cx.lease(), &seen, &shifted, Change::Request).await? {
            return Ok(());
        }
    }
}

async fn wall_times_in_the_record_change_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut holder = cx.start(cx.steady("a"))?;
    let term = holder.leads().await?;
    let mut standby = cx.start(cx.steady("b"))?;
    cx.soon("the standby to look", standby.tap.reads_reach(2)).await?;
    for off_ms in [-3_600_000, 3_600_000, -3_600_000] {
        shift(&cx, &*backend, off_ms).await?;
        // Before the next renewal puts the times right.
        standby.tap.hint();
        cx.soon("the standby to look", standby.tap.reads(1)).await?;
        leads(&cx, &term, "whatever the record's wall times are").await?;
        none_led([&mut standby], "by the record's wall times")?;
    }
    cx.soon("further looks", standby.tap.reads(4)).await?;
    leads(&cx, &term, "whatever the record's wall times are").await?;
    none_led([&mut standby], "by the record's wall times")?;
    holder.kill();
    shift(&cx, &*backend, 3_600_000).await?;
    standby.leads().await?;
    Ok(())
}

async fn a_killed_holders_term_ends_by_its_own_clock(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.actor("a")?;
    let term = holder.leads().await?;
    let left = term.remaining();
    ensure!(left <= cx.ttl(), "{left:?} are left of a ttl of {:?}", cx.ttl());
    holder.tap.kill();
    let killed_at = Clock::boot().now();
    let deadline = killed_at.plus(term.remaining());
    Clock::boot().sleep_until(deadline).await;
    // Whatever the elector's task does: computed from the clock at each call.
    is_over(&term, "past its deadline")?;
    cx.soon("the loss", term.lost()).await?;
    Ok(())
}

async fn a_request_does_not_postpone_the_takeover(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut holder = cx.start(cx.steady("a"))?;
    holder.leads().await?;
    let mut standby = cx.start(cx.steady("b"))?;
    cx.soon("the standby to look", standby.tap.reads(2)).await?;
    holder.kill();
    // Requests keep coming; each is a new tag, none is a beat.
    let asking = async {
        loop {
            let _ = lease_core::admin::request_step_down(&*backend, &cx.lease(), "somebody").await;
            tokio::time::sleep(cx.ttl() / 10).await;
        }
    };
    tokio::select! {
        led = standby.leads() => drop(led?),
        () = asking => {}
    }
    Ok(())
}
