//! The work that a lease is for (W-1).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Change, ElectorBuilder, RequestId, admin};

use crate::actor::{Actor, ActorSpec};
use crate::case::cases;
use crate::check::{equal, register_is};
use crate::context::{Cx, candidate, record, written};

cases! { "work":
    a_register_for_other_work_is_left_alone,
    stays_with_the_register_until_an_operator_forgets_it,
}

fn starts(
    cx: &Arc<Cx>,
    holder: &str,
    settings: fn(ElectorBuilder) -> ElectorBuilder,
) -> anyhow::Result<Actor> {
    cx.start(ActorSpec { settings, ..cx.steady(holder) })
}

async fn a_register_for_other_work_is_left_alone(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut own = starts(&cx, "a", |builder| builder.work("outbox/1"))?;
    own.leads().await?;
    own.stop().await?;
    let free = backend.observe(&cx.lease()).await?.record;
    let others: [fn(ElectorBuilder) -> ElectorBuilder; 2] =
        [|builder| builder.work("outbox/2"), |builder| builder];
    for settings in others {
        let mut other = starts(&cx, "b", settings)?;
        let led = other.leads_or_ends().await?.map(|led| led.term());
        equal("the term that a candidate for other work led", led, None)?;
    }
    register_is(&cx, &*backend, &free, "after candidates for other work have looked").await?;
    starts(&cx, "c", |builder| builder.work("outbox/1"))?.leads().await?;
    Ok(())
}

async fn stays_with_the_register_until_an_operator_forgets_it(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let (lease, grant) = (cx.lease(), Fresh::random().grant);
    let who = Candidate { work: Some("outbox/1".to_owned()), ..candidate("a", cx.ttl()) };
    for change in [Change::Acquire, Change::Renew, Change::Request, Change::Release, Change::Restore] {
        let (before, fresh) = (record(&seen)?, Fresh::random());
        let next = match change {
            Change::Acquire => writes::acquire(&seen, before, &who, grant, &fresh),
            Change::Renew => writes::renew(&seen, before, &fresh),
            Change::Request => writes::request(before, grant, RequestId::random(), "op", &fresh),
            Change::Release => writes::release(&seen, before, &fresh),
            _ => writes::restored(before, 0, "", &fresh),
        };
        written(backend.put_if(&lease, &seen, &next, change).await?)?;
        seen = cx.backend().await?.observe(&lease).await?;
        ensure!(record(&seen)?.work() == Some("outbox/1"), "lost by {change:?}: {seen:?}");
    }
    let held = cx.acquire(&*backend, &lease, &seen, "a").await?;
    let how = admin::Revoke { by: "op", ..Default::default() };
    let revoked = admin::revoke(&*backend, &lease, how).await?;
    ensure!(record(&revoked)?.work() == Some("outbox/1"), "lost by a revocation of {held:?}");
    let (forgotten, seen) = admin::forget_work(&*backend, &lease).await?;
    equal("the work that was forgotten", forgotten.as_deref(), Some("outbox/1"))?;
    equal("the work that is left", record(&seen)?.work(), None)?;
    let kept = |seen| record(seen).map(|record| (record.term(), record.beat));
    equal("term and beat", kept(&seen)?, kept(&revoked)?)
}
