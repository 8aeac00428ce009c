//! Absence: nobody acquires from it (T-5).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::admin::{self, AdminError};
use lease_core::internal::deadline::lengthened;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Clock, Loss};

use crate::case::{Need, cases};
use crate::context::{Cx, candidate, record, written};
use crate::harness::Facility;

cases! { "absence":
    nobody_acquires_from_absence needs [Need::LosesRegisters],
    a_store_that_keeps_its_registers_creates_them_at_the_first_look needs [Need::CreatesRegisters],
    a_closed_init_is_waited_out_at_the_maximum,
    init_changes_nothing_that_exists,
    a_vanished_register_ends_the_term_and_heals_closed needs [Need::LosesRegisters, Need::Facility(Facility::Delete)],
    a_standby_does_not_recreate_a_vanished_register needs [Need::LosesRegisters, Need::Facility(Facility::Delete)],
    operators_are_told_that_there_is_no_such_lease,
}

async fn nobody_acquires_from_absence(cx: Arc<Cx>) -> anyhow::Result<()> {
    let mut actors = [cx.actor("a")?, cx.actor("b")?];
    for actor in &actors {
        cx.soon("several looks", actor.tap.reads(6)).await?;
    }
    ensure!(actors.iter_mut().all(|actor| actor.leads_already().is_none()));
    let backend = cx.backend().await?;
    ensure!(backend.observe(&cx.lease()).await?.record.is_none(), "somebody created the register");
    cx.init().await?;
    let waiting = actors.iter_mut().map(|actor| Box::pin(actor.leads()));
    let (led, ..) = futures::future::select_all(waiting).await;
    led.map(drop)
}

async fn a_store_that_keeps_its_registers_creates_them_at_the_first_look(cx: Arc<Cx>) -> anyhow::Result<()> {
    let mut actors = [cx.actor("a")?, cx.actor("b")?];
    let waiting = actors.iter_mut().map(|actor| Box::pin(actor.leads()));
    let (led, ..) = futures::future::select_all(waiting).await;
    ensure!(led?.is_leader_now());
    Ok(())
}

async fn a_closed_init_is_waited_out_at_the_maximum(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let max_ttl = cx.ttl() * 2;
    let how = admin::Init { new: false, above: 0, max_ttl };
    let (seen, created) = admin::init(&*backend, &cx.lease(), how).await?;
    ensure!(created && record(&seen)?.grant.is_some(), "closed: a grant that nobody holds");
    let began = Clock::boot().now();
    let mut actor = cx.actor("a")?;
    let term = actor.leads().await?;
    let waited = Clock::boot().now().since(began);
    ensure!(waited >= lengthened(max_ttl), "waited only {waited:?}");
    ensure!(term.term().epoch > record(&seen)?.epoch);
    Ok(())
}

async fn init_changes_nothing_that_exists(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    for new in [true, false] {
        let how = admin::Init { new, above: 0, max_ttl: cx.ttl() };
        let (shown, created) = admin::init(&*backend, &cx.lease(), how).await?;
        ensure!(!created && shown.record == held.record);
    }
    let above = record(&held)?.epoch + 10;
    let how = admin::Init { new: true, above, max_ttl: cx.ttl() };
    let refused = admin::init(&*backend, &cx.lease(), how).await.err();
    ensure!(matches!(refused, Some(AdminError::ExistsBelow(_, _, asked)) if asked == above));
    Ok(())
}

async fn a_vanished_register_ends_the_term_and_heals_closed(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(cx.steady("a"))?;
    let first = actor.leads().await?;
    cx.delete().await?;
    ensure!(cx.soon("the loss", first.lost()).await? == Loss::RegisterGone);
    let second = actor.leads().await?;
    ensure!(second.term().epoch > first.term().epoch + 1, "the closed grant lies between");
    let history = cx.recorder.history(&cx.lease());
    let writes = history.writes();
    let healed = writes.iter().find(|write| write.put.change == Change::Init && write.actor != "by-hand#0");
    let healed = healed.map(|write| &write.put.record);
    ensure!(healed.is_some_and(|record| record.grant.is_some() && record.epoch > first.term().epoch));
    ensure!(backend.observe(&cx.lease()).await?.grant() == Some(second.term().grant));
    Ok(())
}

async fn a_standby_does_not_recreate_a_vanished_register(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let fresh = Fresh::random();
    // Long enough that nobody takes it over meanwhile.
    let who = candidate("nobody-is-there", cx.long_ttl());
    let held = writes::acquire(&seen, record(&seen)?, &who, fresh.grant, &fresh);
    written(backend.put_if(&cx.lease(), &seen, &held, Change::Acquire).await?)?;
    let mut actor = cx.actor("a")?;
    cx.soon("the standby to look", actor.tap.reads(2)).await?;
    cx.delete().await?;
    cx.soon("further looks", actor.tap.reads(4)).await?;
    ensure!(backend.observe(&cx.lease()).await?.record.is_none() && actor.leads_already().is_none());
    Ok(())
}

async fn operators_are_told_that_there_is_no_such_lease(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let errors = [
        admin::request_step_down(&*backend, &cx.lease(), "somebody").await.err(),
        admin::revoke(&*backend, &cx.lease(), admin::Revoke::default()).await.err(),
        admin::fence_raise(&*backend, &cx.lease(), 1, "").await.err(),
    ];
    for error in errors {
        ensure!(matches!(error, Some(AdminError::Absent(_))));
    }
    ensure!(backend.observe(&cx.lease()).await?.record.is_none());
    Ok(())
}
