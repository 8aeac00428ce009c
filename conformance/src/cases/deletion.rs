//! An administrator's deletion: nothing that the store counts begins again in a way that can be taken for what was
//! there before (E-1, L-10, T-5).

use std::sync::Arc;

use anyhow::{Context, ensure};
use lease_core::internal::deadline::lengthened;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Clock};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::none_led;
use crate::context::{Cx, candidate, conflict, record, written};
use crate::harness::Facility;

const DELETE: Need = Need::Facility(Facility::Delete);

cases! { "deletion":
    a_register_made_anew_is_not_the_deleted_one needs [DELETE],
    an_earlier_absence_is_another_one needs [DELETE, Need::CreatesRegisters],
    history_goes_on_after_it needs [DELETE, Need::History],
    a_holder_that_is_forgotten_is_waited_out needs [DELETE],
}

/// A version that each register counts from its beginning is the same again after as many writes.
async fn a_register_made_anew_is_not_the_deleted_one(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &first, "a").await?;
    cx.delete().await?;
    let (_, anew) = cx.init().await?;
    for (deleted, at) in [(&first, "created"), (&held, "acquired")] {
        let present = match at {
            "created" => anew.clone(),
            _ => cx.acquire(&*backend, &cx.lease(), &anew, "a").await?,
        };
        for change in [Change::Acquire, Change::Renew, Change::Release] {
            let late = writes::renew(deleted, record(deleted)?, &Fresh::random());
            let put = backend.put_if(&cx.lease(), deleted, &late, change).await?;
            let shown = conflict(put).with_context(|| {
                format!("a late {change:?} to the deleted register, when the new one was just {at}")
            })?;
            ensure!(shown.record == present.record, "showed {shown:?}, and there was {present:?}");
        }
    }
    Ok(())
}

/// Who saw it then would create it free under the present lineage, and lead beside a holder that is forgotten.
async fn an_earlier_absence_is_another_one(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let absent = backend.observe(&cx.lease()).await?;
    let (_, free) = cx.init().await?;
    cx.acquire(&*backend, &cx.lease(), &free, "forgotten").await?;
    cx.delete().await?;
    let late = writes::init(&absent, cx.ttl(), 0, None, &Fresh::random());
    let put = backend.put_if(&cx.lease(), &absent, &late, Change::Init).await?;
    conflict(put).context("a late creation, on an absence from before the register that was deleted")?;
    Ok(())
}

async fn history_goes_on_after_it(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &first, "a").await?;
    written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    let before = backend.history(&cx.lease(), 100).await?;
    cx.delete().await?;
    let (_, anew) = cx.init().await?;
    cx.acquire(&*backend, &cx.lease(), &anew, "b").await?;
    let after = backend.history(&cx.lease(), 100).await?;
    ensure!(after.starts_with(&before), "rows were lost: before the deletion {before:?}, after it {after:?}");
    let rises = after.windows(2).all(|pair| pair[0].sequence < pair[1].sequence);
    ensure!(after.len() == before.len() + 1 && rises, "one later row must follow {before:?}: {after:?}");
    Ok(())
}

/// The holder may not have noticed. Where candidates create registers, they wait; elsewhere they wait for `init`.
async fn a_holder_that_is_forgotten_is_waited_out(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, free) = cx.init().await?;
    let (ttl, fresh) = (cx.ttl() * 3, Fresh::random());
    let held = writes::acquire(&free, record(&free)?, &candidate("forgotten", ttl), fresh.grant, &fresh);
    let sent = Clock::boot().now();
    written(backend.put_if(&cx.lease(), &free, &held, Change::Acquire).await?)?;
    cx.delete().await?;
    let mut newcomer = cx.start(ActorSpec { max_ttl: Some(ttl), ..cx.spec("newcomer") })?;
    if !backend.capabilities().creates_registers {
        cx.soon("the newcomer's looks", newcomer.tap.reads(3)).await?;
        none_led([&mut newcomer], "from an absent register")?;
        return Ok(());
    }
    newcomer.leads().await?;
    let waited = Clock::boot().now().since(sent);
    ensure!(
        waited >= lengthened(ttl),
        "it led {waited:?} after a holder of {ttl:?} whose register was deleted: where candidates create registers, an \
         absence after a deletion must have a lineage of its own"
    );
    Ok(())
}
