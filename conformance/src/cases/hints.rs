//! Hints that show a register: as it was at some moment, under the store's lineage, fit for a write (0007).

use std::sync::Arc;

use anyhow::{bail, ensure};
use futures::StreamExt;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Hint, Hints, LeaseBackend, Lineage, Observation, Record, RequestId, Tag};

use crate::case::{Need, cases};
use crate::context::{Cx, record, written};

cases! { "hints":
    show_what_was_there_under_the_stores_lineage needs [Need::Watch],
    are_fit_for_a_write needs [Need::Watch],
}

/// Every hint until one tells of `last`: those that showed a register.
async fn until(
    cx: &Cx,
    (watcher, hints): (&dyn LeaseBackend, &mut Hints),
    last: &Observation,
) -> anyhow::Result<Vec<Observation>> {
    let mut shown = Vec::new();
    loop {
        match cx.soon("a hint at the last write", hints.next()).await? {
            None => bail!(
                "the watch ended by itself after it had shown {} registers, and before {last:?}",
                shown.len()
            ),
            Some(Hint::Changed) if watcher.observe(&cx.lease()).await?.tag() == last.tag() => {
                return Ok(shown);
            }
            Some(Hint::Changed) => {}
            Some(Hint::Shows(name, seen)) => {
                ensure!(name == cx.lease(), "a watch of {} shows {name}", cx.lease());
                let tag = seen.tag();
                shown.push(seen);
                if tag == last.tag() {
                    return Ok(shown);
                }
            }
        }
    }
}

async fn show_what_was_there_under_the_stores_lineage(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, free) = cx.init().await?;
    let watcher = cx.backend().await?;
    let mut hints = cx.soon("the watch to be live", watcher.watch(cx.lease().as_str())).await??;
    let first = cx.acquire(&*backend, &cx.lease(), &free, "a").await?;
    let beat = written(cx.renew(&*backend, &cx.lease(), &first).await?)?;
    let grant = beat.grant().expect("just renewed");
    let asked = writes::request(record(&beat)?, grant, RequestId::random(), "somebody", &Fresh::random());
    let asked = written(backend.put_if(&cx.lease(), &beat, &asked, Change::Request).await?)?;
    let given = written(cx.release(&*backend, &cx.lease(), &asked).await?)?;
    let second = cx.acquire(&*backend, &cx.lease(), &given, "b").await?;
    // A revocation leaves the stamp as it finds it, and here that is a foreign one.
    let foreign = Lineage("a-lineage-that-is-no-more".into());
    let revoked = Record { tag: Tag::random(), lineage: foreign, grant: None, ..record(&second)?.clone() };
    let last = written(backend.put_if(&cx.lease(), &second, &revoked, Change::Revoke).await?)?;
    let shown = until(&cx, (&*watcher, &mut hints), &last).await?;
    let was = [free, first, beat, asked, given, second, last];
    for seen in shown {
        ensure!(
            was.iter().any(|was| was.record == seen.record),
            "a hint shows what was there at no moment: {seen:?}"
        );
        ensure!(
            seen.lineage == was[0].lineage,
            "a hint must show the store's lineage {}, and shows {} (the record's stamp is {})",
            was[0].lineage,
            seen.lineage,
            record(&seen)?.lineage
        );
    }
    Ok(())
}

async fn are_fit_for_a_write(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let watcher = cx.backend().await?;
    let mut hints = cx.soon("the watch to be live", watcher.watch(cx.lease().as_str())).await??;
    for _ in 0..3 {
        let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
        seen = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
        let shown = until(&cx, (&*watcher, &mut hints), &seen).await?;
        // By another connection than the watcher's, too.
        if let Some(fresh) = shown.into_iter().next_back() {
            seen = cx.acquire(&*backend, &cx.lease(), &fresh, "b").await?;
            seen = written(cx.release(&*backend, &cx.lease(), &seen).await?)?;
            until(&cx, (&*watcher, &mut hints), &seen).await?;
        }
    }
    Ok(())
}
