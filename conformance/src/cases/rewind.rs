//! Restores: the store has forgotten what live processes have seen (T-6).
//!
//! Each case puts the register back by the store's own means, past its backend, and judges for itself: the invariants are
//! about stores that forget nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::internal::deadline::lengthened;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Clock, HistoryEvent, Instant, LeaseBackend, Observation, admin};

use crate::actor::{Actor, ActorSpec};
use crate::case::{Need, cases};
use crate::check::{equal, leads};
use crate::context::{Cx, candidate, conflict, record, written};
use crate::harness::Facility;

const REWIND: Need = Need::Facility(Facility::Rewind);

cases! { "rewind":
    a_register_that_is_free_again_is_waited_out_at_the_maximum needs [REWIND],
    an_earlier_beat_is_waited_out_at_the_maximum needs [REWIND],
    the_very_beat_that_was_seen_last_is_waited_out_anew_after_an_outage needs [REWIND],
    a_holder_whose_beats_were_taken_back_goes_on_above_them needs [REWIND],
    a_newcomer_waits_if_it_is_told needs [REWIND],
    a_live_holder_keeps_its_lease_when_all_are_told needs [REWIND],
    a_delayed_write_to_a_restored_register_conflicts needs [REWIND],
    epochs_exceed_what_was_seen_and_not_only_what_is_kept needs [REWIND, Need::Facility(Facility::RewindFloor)],
}

/// Holders that only write: long enough for a case to put the register back before anybody may take it.
fn long(cx: &Cx) -> Duration {
    cx.ttl() * 4
}

/// Puts the register back. Returns the last of what that has taken away, as far as a read shows it.
async fn put_back(cx: &Cx, kept: &[u8]) -> anyhow::Result<Observation> {
    let backend = cx.harness.connect().await.context("the store must be there")?;
    let lost = backend.observe(&cx.lease()).await?;
    cx.harness.put_back(&cx.lease(), kept).await?;
    Ok(lost)
}

/// Acquires by hand, for a holder that nobody can ask.
async fn hold(cx: &Cx, backend: &dyn LeaseBackend, free: &Observation) -> anyhow::Result<Observation> {
    let (who, fresh) = (candidate("forgotten", long(cx)), Fresh::random());
    let held = writes::acquire(free, record(free)?, &who, fresh.grant, &fresh);
    written(backend.put_if(&cx.lease(), free, &held, Change::Acquire).await?)
}

/// A candidate that has seen the register as it is now.
async fn standby(cx: &Arc<Cx>, muted: bool) -> anyhow::Result<Actor> {
    let spec = cx.spec("standby");
    if muted {
        spec.tap.mute_watch();
    }
    let actor = cx.start(spec)?;
    // The second look is sent after the first one's answer.
    cx.soon("the standby to look", actor.tap.reads(2)).await?;
    Ok(actor)
}

/// Waits for the actor's term, and checks how long that took since `before`.
async fn leads_only_after(actor: &mut Actor, before: Instant, wait: Duration) -> anyhow::Result<u64> {
    let term = actor.leads().await?;
    let waited = Clock::boot().now().since(before);
    ensure!(
        waited >= lengthened(wait),
        "it led {waited:?} after the holder that was forgotten, which has {wait:?}"
    );
    Ok(term.term().epoch)
}

async fn a_register_that_is_free_again_is_waited_out_at_the_maximum(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    let (backend, free) = cx.init().await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    hold(&cx, &*backend, &free).await?;
    let mut standby = standby(&cx, false).await?;
    let before = Clock::boot().now();
    put_back(&cx, &kept).await?;
    // The restored record's maximum is the shorter one of before that holder came.
    leads_only_after(&mut standby, before, long(&cx)).await?;
    cx.end_actors().await
}

async fn an_earlier_beat_is_waited_out_at_the_maximum(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    let (backend, free) = cx.init().await?;
    let held = hold(&cx, &*backend, &free).await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    written(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    let maximum = long(&cx) + cx.ttl();
    let mut standby = cx.start(ActorSpec { max_ttl: Some(maximum), ..cx.spec("standby") })?;
    cx.soon("the standby to look", standby.tap.reads(2)).await?;
    let before = Clock::boot().now();
    put_back(&cx, &kept).await?;
    leads_only_after(&mut standby, before, maximum).await?;
    cx.end_actors().await
}

async fn the_very_beat_that_was_seen_last_is_waited_out_anew_after_an_outage(
    cx: Arc<Cx>,
) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    let (backend, free) = cx.init().await?;
    let held = hold(&cx, &*backend, &free).await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    let mut standby = standby(&cx, true).await?;
    standby.tap.cut(true);
    cx.soon("the standby's look to fail", standby.tap.failures(1)).await?;
    let sent = Clock::boot().now();
    written(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    put_back(&cx, &kept).await?;
    standby.tap.cut(false);
    leads_only_after(&mut standby, sent, long(&cx)).await?;
    cx.end_actors().await
}

/// Waits until the lease's beat is at least `beat`. Returns the first such observation.
async fn beats(cx: &Cx, backend: &dyn LeaseBackend, beat: u64) -> anyhow::Result<Observation> {
    let beating = async {
        loop {
            let seen = backend.observe(&cx.lease()).await?;
            if record(&seen)?.beat >= beat {
                return anyhow::Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    cx.soon("a beat", beating).await?
}

async fn a_holder_whose_beats_were_taken_back_goes_on_above_them(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    cx.init().await?;
    let mut holder = cx.start(cx.unhurried("holder"))?;
    let term = holder.leads().await?;
    let backend = cx.harness.connect().await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    // At least the beat that is kept.
    let seen = beats(&cx, &*backend, 0).await?;
    beats(&cx, &*backend, record(&seen)?.beat + 2).await?;
    let lost = record(&put_back(&cx, &kept).await?)?.beat;
    let next = beats(&cx, &*backend, record(&seen)?.beat + 1).await?;
    ensure!(record(&next)?.beat > lost, "beat {} after {lost}", record(&next)?.beat);
    equal("the register's term", record(&next)?.term(), Some(term.term()))?;
    leads(&cx, &term, "after its beats were taken back").await?;
    cx.end_actors().await
}

async fn a_newcomer_waits_if_it_is_told(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    let (backend, free) = cx.init().await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    let lost = hold(&cx, &*backend, &free).await?;
    let before = Clock::boot().now();
    put_back(&cx, &kept).await?;
    admin::restored(&*backend, &cx.lease(), 0, "a dump of last night").await?;
    if backend.capabilities().history {
        let rows = backend.history(&cx.lease(), 10).await?;
        let row = rows.last().context("it leaves a row")?;
        equal(
            "the last row",
            (row.event_type, row.note.as_str()),
            (HistoryEvent::Restored, "a dump of last night"),
        )?;
    }
    let mut newcomer = cx.start(ActorSpec { max_ttl: Some(long(&cx)), ..cx.spec("newcomer") })?;
    let epoch = leads_only_after(&mut newcomer, before, long(&cx)).await?;
    ensure!(epoch > record(&lost)?.epoch, "epoch {epoch} after {}", record(&lost)?.epoch);
    cx.end_actors().await
}

async fn a_live_holder_keeps_its_lease_when_all_are_told(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    cx.init().await?;
    let mut holder = cx.start(cx.unhurried("holder"))?;
    let term = holder.leads().await?;
    let backend = cx.harness.connect().await?;
    let told = admin::restored(&*backend, &cx.lease(), 0, "").await?;
    let beat = record(&told)?.beat + 1;
    let stamped = beats(&cx, &*backend, beat).await?;
    equal("the stamp that a beat wrote", &record(&stamped)?.lineage, &stamped.lineage)?;
    equal("the register's term", record(&stamped)?.term(), Some(term.term()))?;
    leads(&cx, &term, "after all were told of a restore").await?;
    holder.stop().await?;
    let next = cx.actor("next")?.leads().await?.term();
    ensure!(next.epoch > record(&told)?.issued(), "epoch {} after {}", next.epoch, record(&told)?.issued());
    cx.end_actors().await
}

/// After as many writes as were lost, epoch, grant, beat and whatever the store counts are the same again. The tag is not.
async fn a_delayed_write_to_a_restored_register_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.clone());
    let (backend, free) = cx.init().await?;
    let held = hold(&cx, &*backend, &free).await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    let lost = written(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    cx.harness.put_back(&cx.lease(), &kept).await?;
    let restored = cx.harness.connect().await?.observe(&cx.lease()).await?;
    ensure!(restored.record == held.record, "the harness put back {restored:?} in place of {held:?}");
    let present = written(cx.renew(&*backend, &cx.lease(), &restored).await?)?;
    for change in [Change::Acquire, Change::Renew, Change::Release] {
        let late = writes::renew(&lost, record(&lost)?, &Fresh::random());
        let put = backend.put_if(&cx.lease(), &lost, &late, change).await?;
        let shown = conflict(put).with_context(|| {
            format!("a {change:?} on a beat that was lost by a restore, and written again with another tag")
        })?;
        ensure!(shown.record == present.record, "showed {shown:?}, and there is {present:?}");
    }
    Ok(())
}

async fn epochs_exceed_what_was_seen_and_not_only_what_is_kept(cx: Arc<Cx>) -> anyhow::Result<()> {
    // In some stores one floor serves all leases, so it is put back only where no other case has any.
    let isolated = cx.harness.isolated().await?;
    let cx = cx.on(isolated.clone());
    let (backend, free) = cx.init().await?;
    let kept = cx.harness.back_up(&cx.lease()).await?;
    let lost = hold(&cx, &*backend, &free).await?;
    let mut standby = standby(&cx, false).await?;
    let before = Clock::boot().now();
    put_back(&cx, &kept).await?;
    isolated.rewind_floor(&cx.lease(), free.floor).await?;
    let epoch = leads_only_after(&mut standby, before, long(&cx)).await?;
    ensure!(epoch > record(&lost)?.epoch, "epoch {epoch} after {}", record(&lost)?.epoch);
    cx.end_actors().await
}
