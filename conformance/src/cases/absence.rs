//! Absence: nobody acquires from it (T-5).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::admin::{self, AdminError};
use lease_core::internal::deadline::lengthened;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Clock, Loss};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::{ends, equal, leads, none_led, register_is, same};
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
    none_led(&mut actors, "on a register that is absent")?;
    let backend = cx.backend().await?;
    register_is(&cx, &*backend, &None, "after candidates have looked").await?;
    cx.init().await?;
    let waiting = actors.iter_mut().map(|actor| Box::pin(actor.leads()));
    let (led, ..) = futures::future::select_all(waiting).await;
    led.map(drop)
}

async fn a_store_that_keeps_its_registers_creates_them_at_the_first_look(cx: Arc<Cx>) -> anyhow::Result<()> {
    let mut actors = [cx.start(cx.unhurried("a"))?, cx.start(cx.unhurried("b"))?];
    let waiting = actors.iter_mut().map(|actor| Box::pin(actor.leads()));
    let (led, ..) = futures::future::select_all(waiting).await;
    leads(&cx, &led?, "when it has just begun").await
}

async fn a_closed_init_is_waited_out_at_the_maximum(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let max_ttl = cx.ttl() * 2;
    let how = admin::Init { new: false, above: 0, max_ttl };
    let (seen, created) = admin::init(&*backend, &cx.lease(), how).await?;
    ensure!(
        created && record(&seen)?.grant.is_some(),
        "init must create it closed, with a grant that nobody holds; created: {created}, {seen:?}"
    );
    let began = Clock::boot().now();
    let mut actor = cx.actor("a")?;
    let term = actor.leads().await?;
    let waited = Clock::boot().now().since(began);
    ensure!(waited >= lengthened(max_ttl), "waited only {waited:?}");
    let (led, closed) = (term.term().epoch, record(&seen)?.epoch);
    ensure!(led > closed, "the first term has epoch {led}, and must exceed the closed register's, {closed}");
    Ok(())
}

async fn init_changes_nothing_that_exists(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    for new in [true, false] {
        let how = admin::Init { new, above: 0, max_ttl: cx.ttl() };
        let (shown, created) = admin::init(&*backend, &cx.lease(), how).await?;
        ensure!(!created, "init says that it created a register that exists: {shown:?}");
        same("what init found", &shown.record, &held.record)?;
    }
    let above = record(&held)?.epoch + 10;
    let how = admin::Init { new: true, above, max_ttl: cx.ttl() };
    let refused = admin::init(&*backend, &cx.lease(), how).await.err();
    ensure!(
        matches!(&refused, Some(AdminError::ExistsBelow(_, _, asked)) if *asked == above),
        "init above {above} on a register below it must be refused for that, and ended with {refused:?}"
    );
    Ok(())
}

async fn a_vanished_register_ends_the_term_and_heals_closed(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(ActorSpec { ttl: cx.ttl() * 6, ..cx.spec("a") })?;
    let first = actor.leads().await?;
    cx.delete().await?;
    ends(&cx, &first, Loss::RegisterGone).await?;
    let second = actor.leads().await?;
    let (led, gone) = (second.term(), first.term());
    ensure!(led.epoch > gone.epoch + 1, "term {led} after {gone}: the closed grant lies between");
    let history = cx.recorder.history(&cx.lease());
    let writes = history.writes();
    let healed = writes.iter().find(|write| write.put.change == Change::Init && write.actor != "by-hand#0");
    let healed = healed.map(|write| &write.put.record);
    ensure!(
        healed.is_some_and(|record| record.grant.is_some() && record.epoch > gone.epoch),
        "the holder must make the register anew, closed and above {gone}, and wrote {healed:?}"
    );
    equal("the register's grant", backend.observe(&cx.lease()).await?.grant(), Some(led.grant))
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
    register_is(&cx, &*backend, &None, "after a standby has looked at its absence").await?;
    none_led([&mut actor], "on a register that vanished")
}

async fn operators_are_told_that_there_is_no_such_lease(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let errors = [
        admin::request_step_down(&*backend, &cx.lease(), "somebody").await.err(),
        admin::revoke(&*backend, &cx.lease(), admin::Revoke::default()).await.err(),
        admin::fence_raise(&*backend, &cx.lease(), 1, "").await.err(),
    ];
    for error in errors {
        ensure!(
            matches!(error, Some(AdminError::Absent(_))),
            "an operation on an absent register must say so, and ended with {error:?}"
        );
    }
    register_is(&cx, &*backend, &None, "after operations that need one").await
}
