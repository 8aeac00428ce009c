//! A replica that leads and is cut off from the others: it knows nothing of what they go on to do.

use std::sync::Arc;

use anyhow::{bail, ensure};
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Certainty, Change, PutOutcome};

use crate::case::{Need, cases};
use crate::context::{Cx, record};
use crate::harness::{Facility, Split};

const SPLIT: Need = Need::Facility(Facility::Split);

cases! { "replicas":
    a_minority_shows_nothing_that_was_overtaken needs [SPLIT],
    a_minority_acknowledges_nothing needs [SPLIT],
}

async fn a_minority_shows_nothing_that_was_overtaken(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let lease = cx.lease();
    let Split { minority, majority } = cx.harness.split().await?;
    let later = cx.acquire(&*majority, &lease, &held, "b").await?;
    let mut shown = Vec::new();
    match cx.soon("the minority's read", minority.observe(&lease)).await? {
        Ok(seen) => shown.push(seen),
        Err(error) => ensure!(
            error.certainty == Certainty::NotApplied && !error.refused,
            "the minority's read must be `not_applied` and not refused: {error:?}"
        ),
    }
    if minority.capabilities().list
        && let Ok(listed) = cx.soon("the minority's list", minority.list(lease.as_str())).await?
    {
        ensure!(!listed.is_empty(), "the minority lists no register, and {held:?} is there");
        shown.extend(listed.into_iter().filter_map(|(_, seen)| seen.ok()));
    }
    for seen in shown {
        ensure!(seen.record == later.record, "the minority shows {seen:?}, which was overtaken by {later:?}");
    }
    cx.harness.heal().await?;
    Ok(())
}

async fn a_minority_acknowledges_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let lease = cx.lease();
    let Split { minority, majority } = cx.harness.split().await?;
    let late = writes::renew(&held, record(&held)?, &Fresh::random());
    let put = minority.put_if(&lease, &held, &late, Change::Renew);
    let put = cx.soon("the minority's answer to a write", put).await?;
    if let Ok(PutOutcome::Written(answer)) = &put {
        bail!("a replica that is cut off from the others has acknowledged a write: {answer:?}");
    }
    let seen = cx.soon("the majority's read", majority.observe(&lease)).await??;
    let never = !matches!(&put, Err(error) if error.certainty == Certainty::Unknown);
    ensure!(
        !never || seen.record == held.record,
        "it was said not to happen ({put:?}), and is there: {seen:?}"
    );
    // After this one the late write can't be applied any more, however late it arrives.
    let later = cx.acquire(&*majority, &lease, &seen, "b").await?;
    cx.harness.heal().await?;
    let seen = cx.soon("a read after the replicas are joined again", majority.observe(&lease)).await??;
    ensure!(
        seen.record == later.record,
        "a late write of the minority was applied: {seen:?} after {later:?}"
    );
    Ok(())
}
