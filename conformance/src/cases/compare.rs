//! The compare of a write, one part at a time: the tag alone, the lineage alone, absence alone, and the
//! answer where it fails.

use std::sync::Arc;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseBackend, LeaseName, Lineage, Observation, PutOutcome, Record, Tag};

use crate::case::cases;
use crate::context::{Cx, conflict, record, written};

cases! { "compare":
    an_expectation_with_another_tag_conflicts,
    an_expectation_under_another_lineage_conflicts,
    an_absence_under_another_lineage_conflicts,
    a_register_expected_where_none_is_conflicts,
    a_write_that_nobody_contends_never_conflicts,
    a_conflict_shows_another_register_than_was_expected,
}

/// The changes of a register that exists.
const CHANGES: [Change; 7] = [
    Change::Acquire,
    Change::Renew,
    Change::Release,
    Change::Revoke,
    Change::Request,
    Change::Seal,
    Change::Restore,
];

/// Every change that compares `expected` must conflict with `present`, and leave it as it is.
async fn refuses_all(
    cx: &Cx,
    backend: &dyn LeaseBackend,
    (expected, present): (&Observation, &Observation),
) -> anyhow::Result<()> {
    for change in CHANGES {
        let late = writes::renew(expected, record(expected)?, &Fresh::random());
        let put = backend.put_if(&cx.lease(), expected, &late, change).await;
        let shown = put.map_err(anyhow::Error::from).and_then(conflict).with_context(|| {
            format!(
                "a {change:?} whose expectation has tag {:?} under lineage {}, where tag {:?} is under {}",
                expected.tag(),
                expected.lineage,
                present.tag(),
                present.lineage
            )
        })?;
        ensure!(
            shown.record == present.record && shown.lineage == present.lineage,
            "the conflict of a {change:?} must show {present:?}, and showed {shown:?}"
        );
    }
    let read = backend.observe(&cx.lease()).await?;
    ensure!(read.record == present.record, "conflicts changed {present:?} to {read:?}");
    Ok(())
}

/// As a write that the store has forgotten left it: all that the store counts by itself may be the same again.
async fn an_expectation_with_another_tag_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let forgotten = Record { tag: Tag::random(), ..record(&held)?.clone() };
    let expected = Observation { record: Some(forgotten), ..held.clone() };
    refuses_all(&cx, &*backend, (&expected, &held)).await
}

/// Other names of a history than the present one: one that is wholly another, and those that differ at one end.
fn others(lineage: &Lineage) -> [Lineage; 3] {
    ["a-lineage-that-is-no-more".to_owned(), format!("{lineage}0"), format!("0{lineage}")].map(Lineage)
}

async fn an_expectation_under_another_lineage_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    for lineage in others(&held.lineage) {
        let expected = Observation { lineage, ..held.clone() };
        refuses_all(&cx, &*backend, (&expected, &held)).await?;
    }
    Ok(())
}

async fn an_absence_under_another_lineage_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let absent = backend.observe(&cx.lease()).await?;
    for lineage in others(&absent.lineage) {
        let expected = Observation { lineage, ..absent.clone() };
        let new = writes::init(&expected, cx.ttl(), 0, None, &Fresh::random());
        let put = backend.put_if(&cx.lease(), &expected, &new, Change::Init).await?;
        let shown = conflict(put).with_context(|| {
            format!("an absence under lineage {} was expected, in {}", expected.lineage, absent.lineage)
        })?;
        ensure!(
            shown.record.is_none() && shown.lineage == absent.lineage,
            "the conflict must show an absence under {}, and showed {shown:?}",
            absent.lineage
        );
    }
    Ok(())
}

async fn a_register_expected_where_none_is_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let nothing = cx.lease_named("nothing");
    for change in CHANGES {
        let late = writes::renew(&held, record(&held)?, &Fresh::random());
        let shown = conflict(backend.put_if(&nothing, &held, &late, change).await?)?;
        ensure!(
            shown.record.is_none(),
            "a {change:?} of a register that was never there must show an absence, and showed {shown:?}"
        );
    }
    Ok(())
}

/// A beat, a request and the next beat, again and again: each on what the one before has answered.
async fn writes_alone(cx: &Cx, lease: LeaseName) -> anyhow::Result<()> {
    let (backend, seen) = cx.init_named(&lease).await?;
    let mut seen = cx.acquire(&*backend, &lease, &seen, "a").await?;
    for round in 0..12 {
        seen = written(cx.renew(&*backend, &lease, &seen).await?)?;
        let noted = Record { tag: Tag::random(), note: format!("round {round}"), ..record(&seen)?.clone() };
        seen = written(backend.put_if(&lease, &seen, &noted, Change::Request).await?)?;
    }
    Ok(())
}

/// Each has a lease of its own, and all of them one store.
async fn a_write_that_nobody_contends_never_conflicts(cx: Arc<Cx>) -> anyhow::Result<()> {
    let leases = (0..4).map(|index| cx.lease_named(&format!("alone-{index}")));
    try_join_all(leases.map(|lease| writes_alone(&cx, lease))).await?;
    Ok(())
}

async fn a_conflict_shows_another_register_than_was_expected(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let contender = async |backend: Arc<dyn LeaseBackend>| {
        let mut seen = held.clone();
        for _ in 0..10 {
            seen = match cx.renew(&*backend, &cx.lease(), &seen).await? {
                PutOutcome::Written(now) => now,
                PutOutcome::Conflict(found) => {
                    ensure!(
                        (found.tag(), &found.lineage) != (seen.tag(), &seen.lineage),
                        "a conflict shows the very register that was expected, {seen:?}: answer with an error that says \
                         that nothing was applied"
                    );
                    found
                }
            };
        }
        anyhow::Ok(())
    };
    let mut contenders = Vec::new();
    for _ in 0..6 {
        contenders.push(contender(cx.backend().await?));
    }
    try_join_all(contenders).await?;
    Ok(())
}
