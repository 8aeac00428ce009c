//! History: one durable, ordered row for each change of holder, and none for anything else (L-10).

use std::sync::Arc;

use anyhow::ensure;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, HistoryEvent, LeaseBackend, Tag, admin};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::{equal, refused};
use crate::context::{Cx, conflict, record, written};

cases! { "history":
    each_change_of_holder_leaves_one_row needs [Need::History],
    names_takeovers_also_after_a_release needs [Need::History],
    renewals_requests_and_conflicts_leave_none needs [Need::History],
    shows_the_newest_rows_oldest_first needs [Need::History],
    concurrent_acquisitions_leave_one_row needs [Need::History],
    tells_the_life_of_an_elector needs [Need::History],
    is_refused_clearly_where_it_is_not_kept needs [Need::NoHistory],
}

async fn rows(cx: &Cx, backend: &dyn LeaseBackend) -> anyhow::Result<Vec<(HistoryEvent, String, u64)>> {
    let rows = backend.history(&cx.lease(), 100).await?;
    Ok(rows.into_iter().map(|row| (row.event_type, row.holder_workload_id, row.transition_count)).collect())
}

async fn each_change_of_holder_leaves_one_row(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    let seen = backend.observe(&cx.lease()).await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let revoked =
        admin::revoke(&*backend, &cx.lease(), admin::Revoke { note: "by hand", ..Default::default() })
            .await?;
    let sealed = lease_core::Record {
        tag: Tag::random(),
        sealed: Some("elsewhere".into()),
        note: "moved".into(),
        ..record(&revoked)?.clone()
    };
    written(backend.put_if(&cx.lease(), &revoked, &sealed, Change::Seal).await?)?;
    let rows = rows(&cx, &*cx.backend().await?).await?;
    let told: Vec<_> = rows.iter().map(|(event, ..)| *event).collect();
    use HistoryEvent::{Acquired, Released, Revoked, Sealed};
    equal("the events", told, vec![Acquired, Released, Acquired, Revoked, Sealed])?;
    ensure!(rows[0].2 == 1 && rows[2].2 == 2, "transitions are dense: {rows:?}");
    let read = backend.history(&cx.lease(), 100).await?;
    equal("the third row's epoch", read[2].epoch, record(&held)?.epoch)?;
    equal("the revocation's note", read[3].note.as_str(), "by hand")?;
    ensure!(
        read.iter().all(|row| row.lease_name == cx.lease()),
        "a row of another lease than {}: {read:?}",
        cx.lease()
    );
    Ok(())
}

async fn names_takeovers_also_after_a_release(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let first = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let free = written(cx.release(&*backend, &cx.lease(), &first).await?)?;
    let second = cx.acquire(&*backend, &cx.lease(), &free, "b").await?;
    cx.acquire(&*backend, &cx.lease(), &second, "c").await?;
    let rows = rows(&cx, &*backend).await?;
    use HistoryEvent::{Acquired, Released, TakenOver};
    let expected = [(Acquired, "a"), (Released, "a"), (TakenOver, "b"), (TakenOver, "c")];
    let told: Vec<_> = rows.iter().map(|(event, who, _)| (*event, who.as_str())).collect();
    equal("the rows", told, expected.to_vec())
}

async fn renewals_requests_and_conflicts_leave_none(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let stale = seen.clone();
    let mut seen = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    for _ in 0..10 {
        seen = written(cx.renew(&*backend, &cx.lease(), &seen).await?)?;
    }
    admin::request_step_down(&*backend, &cx.lease(), "somebody").await?;
    let late = writes::release(&stale, record(&stale)?, &Fresh::random());
    conflict(backend.put_if(&cx.lease(), &stale, &late, Change::Release).await?)?;
    let who = crate::context::candidate("late", cx.ttl());
    let fresh = Fresh::random();
    let late = writes::acquire(&stale, record(&stale)?, &who, fresh.grant, &fresh);
    conflict(backend.put_if(&cx.lease(), &stale, &late, Change::Acquire).await?)?;
    let rows = rows(&cx, &*backend).await?;
    ensure!(rows.len() == 1, "only the acquisition leaves a row: {rows:?}");
    Ok(())
}

async fn shows_the_newest_rows_oldest_first(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    for holder in ["a", "b", "c", "d", "e"] {
        seen = cx.acquire(&*backend, &cx.lease(), &seen, holder).await?;
    }
    let rows = backend.history(&cx.lease(), 3).await?;
    let told: Vec<_> = rows.iter().map(|row| row.holder_workload_id.as_str()).collect();
    equal("the holders of the newest three rows", told, vec!["c", "d", "e"])?;
    let sequences: Vec<_> = rows.iter().map(|row| row.sequence).collect();
    ensure!(sequences.is_sorted_by(|a, b| a < b), "sequences must rise: {sequences:?}");
    equal("the history of another lease", backend.history(&cx.lease_named("another"), 3).await?, Vec::new())
}

async fn concurrent_acquisitions_leave_one_row(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let mut attempts = Vec::new();
    for index in 0..8 {
        let (connection, holder) = (cx.backend().await?, format!("holder-{index}"));
        let (cx, seen) = (cx.clone(), seen.clone());
        attempts.push(async move { cx.acquire(&*connection, &cx.lease(), &seen, &holder).await.is_ok() });
    }
    let won = futures::future::join_all(attempts).await.into_iter().filter(|won| *won).count();
    let rows = rows(&cx, &*backend).await?;
    ensure!(won == 1 && rows.len() == 1, "{won} won, {rows:?}");
    Ok(())
}

async fn tells_the_life_of_an_elector(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    // A holder that steps down holds off for a part of its ttl: long enough for the standby's look on a busy machine.
    let ttl = cx.ttl() * 10;
    let mut holder = cx.start(ActorSpec { ttl, ..cx.spec("a") })?;
    holder.leads().await?;
    let mut standby = cx.start(ActorSpec { ttl, ..cx.spec("b") })?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    admin::request_step_down(&*backend, &cx.lease(), "an operator").await?;
    standby.leads().await?;
    holder.stop().await?;
    let rows = rows(&cx, &*backend).await?;
    use HistoryEvent::{Acquired, SteppedDown, TakenOver};
    let expected = [(Acquired, "a", 1), (SteppedDown, "a", 1), (TakenOver, "b", 2)];
    let told: Vec<_> = rows.iter().map(|(event, who, count)| (*event, who.as_str(), *count)).collect();
    equal("the rows", told, expected.to_vec())
}

async fn is_refused_clearly_where_it_is_not_kept(cx: Arc<Cx>) -> anyhow::Result<()> {
    let answer = cx.backend().await?.history(&cx.lease(), 1).await;
    refused("history", answer.map(drop))
}
