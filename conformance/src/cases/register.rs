//! The register itself: one atomic compare-and-set, by tag.

use std::sync::Arc;

use anyhow::ensure;
use futures::future::join_all;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{
    Change, Grant, LeaseName, Observation, PutOutcome, Record, Request, RequestId, Tag, Term, WallTime,
};

use crate::case::{Need, cases};
use crate::check::{equal, register_is, same};
use crate::context::{Cx, conflict, record, written};
use crate::harness::Facility;

cases! { "register":
    is_absent_until_it_is_created,
    keeps_every_field_as_written,
    keeps_fields_that_it_does_not_know,
    keeps_the_greatest_epoch_and_times,
    accepts_every_valid_name,
    conflicts_when_the_tag_differs,
    compares_the_tag_and_not_epoch_or_beat,
    conflicts_when_it_exists_against_expectation,
    conflicts_when_it_is_gone_against_expectation needs [Need::Facility(Facility::Delete)],
    a_conflict_shows_the_register_and_changes_nothing,
    a_written_answer_shows_what_was_written,
    an_acknowledged_write_is_seen_by_every_connection,
    one_of_32_concurrent_writers_is_written,
    one_of_32_concurrent_inits_is_written,
    one_of_32_concurrent_acquisitions_is_written,
    a_request_leaves_grant_and_beat_alone,
    registers_do_not_touch_each_other,
    capabilities_do_not_change,
}

/// A record with something in every field.
fn full(expected: &Observation) -> Record {
    let grant = Grant::random();
    Record {
        tag: Tag::random(),
        grant: Some(grant),
        epoch: expected.next_epoch(),
        beat: 41,
        holder: "a holder, \"quoted\" — ünïcode".into(),
        ttl_ms: 15_000,
        max_ttl_ms: 60_000,
        lineage: expected.lineage.clone(),
        transitions: 7,
        preemptible: true,
        sealed: None,
        request: Some(Request { id: RequestId::random(), grant, by: "an operator's hand".into() }),
        answered: Some(RequestId::random()),
        acquired_at: WallTime(1_700_000_000_001),
        renewed_at: WallTime(1_700_000_000_002),
        expires_at: WallTime(1_700_000_015_003),
        region: "eu-central-1".into(),
        note: "why; DROP TABLE\n'second line'".into(),
        extra: Default::default(),
    }
}

async fn is_absent_until_it_is_created(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(seen.record.is_none(), "a register that nobody created: {seen:?}");
    let (_, seen) = cx.init().await?;
    equal("the grant of a free register", record(&seen)?.grant, None)?;
    register_is(&cx, &*backend, &seen.record, "after its creation").await
}

async fn keeps_every_field_as_written(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let full = full(&seen);
    let seen = written(backend.put_if(&cx.lease(), &seen, &full, Change::Acquire).await?)?;
    let read = cx.backend().await?.observe(&cx.lease()).await?;
    same("what was read", &read.record, &Some(full.clone()))?;
    let sealed = Record {
        tag: Tag::random(),
        grant: Some(Grant::random()),
        epoch: seen.next_epoch(),
        sealed: Some("moved to elsewhere".into()),
        request: None,
        answered: None,
        preemptible: false,
        ..full
    };
    written(backend.put_if(&cx.lease(), &seen, &sealed, Change::Seal).await?)?;
    let read = cx.backend().await?.observe(&cx.lease()).await?;
    same("what was read", &read.record, &Some(sealed))?;
    Ok(())
}

async fn keeps_fields_that_it_does_not_know(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let fresh = Fresh::random();
    let mut newer = writes::acquire(
        &seen,
        record(&seen)?,
        &crate::context::candidate("a", cx.ttl()),
        fresh.grant,
        &fresh,
    );
    newer.extra.insert("from_a_newer_version".into(), serde_json::json!({"deep": [1, "two", null]}));
    let seen = written(backend.put_if(&cx.lease(), &seen, &newer, Change::Acquire).await?)?;
    let seen = written(cx.renew(&*backend, &cx.lease(), &seen).await?)?;
    let seen = written(cx.release(&*backend, &cx.lease(), &seen).await?)?;
    equal("the unknown fields in the answer", &record(&seen)?.extra, &newer.extra)?;
    let read = backend.observe(&cx.lease()).await?;
    equal("the unknown fields in a read", &record(&read)?.extra, &newer.extra)
}

async fn keeps_the_greatest_epoch_and_times(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let far = 253_402_300_799_000; // The last second of the year 9999.
    let greatest = Record {
        grant: None,
        epoch: Term::MAX_EPOCH,
        beat: i64::MAX as u64,
        transitions: i64::MAX as u64,
        acquired_at: WallTime(0),
        renewed_at: WallTime(far),
        expires_at: WallTime(far),
        ..full(&seen)
    };
    // Free, and no new grant: the store's floor stays where it is, for the sake of the other leases.
    written(backend.put_if(&cx.lease(), &seen, &greatest, Change::Request).await?)?;
    let read = backend.observe(&cx.lease()).await?;
    same("what was read", &read.record, &Some(greatest))?;
    Ok(())
}

async fn accepts_every_valid_name(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let prefix = cx.prefix();
    let room = LeaseName::MAX_LEN - prefix.len() - 3;
    for name in
        [format!("{prefix}.1-x.y"), format!("{prefix}--0"), format!("{prefix}-{}.z", "x".repeat(room))]
    {
        let name = LeaseName::new(name)?;
        let (_, seen) = cx.init_named(&name).await?;
        same(&format!("the register of {name}"), &backend.observe(&name).await?.record, &seen.record)?;
    }
    Ok(())
}

async fn conflicts_when_the_tag_differs(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    let second = cx.acquire(&*backend, &cx.lease(), &first, "a").await?;
    let late = writes::release(&first, record(&first)?, &Fresh::random());
    for change in
        [Change::Acquire, Change::Renew, Change::Release, Change::Revoke, Change::Request, Change::Seal]
    {
        let late = Record { tag: Tag::random(), ..late.clone() };
        let shown = conflict(backend.put_if(&cx.lease(), &first, &late, change).await?)?;
        ensure!(shown.record == second.record, "a {change:?} on a stale observation showed {shown:?}");
    }
    Ok(())
}

async fn compares_the_tag_and_not_epoch_or_beat(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    // Another write that leaves everything but the tag as it was.
    let same = Record { tag: Tag::random(), ..record(&first)?.clone() };
    let second = written(backend.put_if(&cx.lease(), &first, &same, Change::Request).await?)?;
    equal("the tag after a write that changes only that", second.tag(), Some(same.tag))?;
    let late = Record { tag: Tag::random(), note: "late".into(), ..same };
    conflict(backend.put_if(&cx.lease(), &first, &late, Change::Request).await?)?;
    Ok(())
}

async fn conflicts_when_it_exists_against_expectation(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let absent = backend.observe(&cx.lease()).await?;
    let (_, first) = cx.init().await?;
    let again = writes::init(&absent, cx.ttl(), 5, None, &Fresh::random());
    for change in [Change::Init, Change::Acquire, Change::Renew] {
        let again = Record { tag: Tag::random(), ..again.clone() };
        let shown = conflict(backend.put_if(&cx.lease(), &absent, &again, change).await?)?;
        same("what a conflict shows", &shown.record, &first.record)?;
    }
    register_is(&cx, &*backend, &first.record, "after writes that conflicted").await
}

async fn conflicts_when_it_is_gone_against_expectation(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &first, "a").await?;
    cx.delete().await?;
    let shown = conflict(cx.renew(&*backend, &cx.lease(), &held).await?)?;
    ensure!(shown.record.is_none(), "a renewal created a deleted register anew: {shown:?}");
    let shown = conflict(cx.release(&*backend, &cx.lease(), &held).await?)?;
    same("what a conflict shows of a deleted register", &shown.record, &None)?;
    register_is(&cx, &*backend, &None, "after writes to it that conflicted").await
}

async fn a_conflict_shows_the_register_and_changes_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &first, "a").await?;
    let late = writes::release(&first, record(&first)?, &Fresh::random());
    let shown = conflict(backend.put_if(&cx.lease(), &first, &late, Change::Release).await?)?;
    same("what a conflict shows", &shown.record, &held.record)?;
    equal("the lineage in a conflict", &shown.lineage, &held.lineage)?;
    ensure!(shown.floor >= held.floor, "a conflict's floor {} is below {}", shown.floor, held.floor);
    // The register in a conflict is as good as a read: the next write compares it.
    written(cx.renew(&*backend, &cx.lease(), &shown).await?)?;
    Ok(())
}

async fn a_written_answer_shows_what_was_written(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, first) = cx.init().await?;
    let record = full(&first);
    let answer = written(backend.put_if(&cx.lease(), &first, &record, Change::Acquire).await?)?;
    same("the answer to the write", &answer.record, &Some(record))?;
    // And is as good as a read: the next write compares it.
    let next = written(cx.renew(&*backend, &cx.lease(), &answer).await?)?;
    register_is(&cx, &*backend, &next.record, "after its renewal").await
}

async fn an_acknowledged_write_is_seen_by_every_connection(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (writer, mut seen) = cx.init().await?;
    let readers = [cx.backend().await?, cx.backend().await?];
    seen = cx.acquire(&*writer, &cx.lease(), &seen, "a").await?;
    for _ in 0..20 {
        for reader in &readers {
            let read = reader.observe(&cx.lease()).await?;
            ensure!(read.record == seen.record, "a stale read: {:?} after {:?}", read.record, seen.record);
        }
        seen = written(cx.renew(&*writer, &cx.lease(), &seen).await?)?;
    }
    Ok(())
}

/// All outcomes of 32 writes that compare one observation, over eight connections.
async fn race(
    cx: &Cx,
    seen: &Observation,
    change: Change,
    write: impl Fn(&Fresh) -> anyhow::Result<Record>,
) -> anyhow::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(cx.backend().await?);
    }
    let lease = cx.lease();
    let mut puts = Vec::new();
    for index in 0..32 {
        let (record, backend, lease) = (write(&Fresh::random())?, &connections[index % 8], &lease);
        puts.push(async move { (record.tag, backend.put_if(lease, seen, &record, change).await) });
    }
    let (mut winners, mut shown) = (Vec::new(), Vec::new());
    for (tag, outcome) in join_all(puts).await {
        match outcome? {
            PutOutcome::Written(_) => winners.push(Some(tag)),
            PutOutcome::Conflict(observation) => shown.push(observation.tag()),
        }
    }
    ensure!(winners.len() == 1, "{} of 32 concurrent writes on one observation were written", winners.len());
    ensure!(
        shown.iter().all(|tag| *tag == winners[0]),
        "a conflict must show the winner's tag, {:?}; conflicts showed {shown:?}",
        winners[0]
    );
    equal("the register's tag", connections[0].observe(&lease).await?.tag(), winners[0])
}

async fn one_of_32_concurrent_writers_is_written(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let seen = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    race(&cx, &seen, Change::Renew, |fresh| Ok(writes::renew(&seen, record(&seen)?, fresh))).await
}

async fn one_of_32_concurrent_inits_is_written(cx: Arc<Cx>) -> anyhow::Result<()> {
    let seen = cx.backend().await?.observe(&cx.lease()).await?;
    race(&cx, &seen, Change::Init, |fresh| Ok(writes::init(&seen, cx.ttl(), 0, None, fresh))).await
}

async fn one_of_32_concurrent_acquisitions_is_written(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (_, seen) = cx.init().await?;
    let who = crate::context::candidate("a", cx.ttl());
    race(&cx, &seen, Change::Acquire, |fresh| {
        Ok(writes::acquire(&seen, record(&seen)?, &who, fresh.grant, fresh))
    })
    .await
}

async fn a_request_leaves_grant_and_beat_alone(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let before = record(&held)?;
    let grant = held.grant().expect("just acquired");
    let asked = writes::request(before, grant, RequestId::random(), "somebody", &Fresh::random());
    let seen = written(backend.put_if(&cx.lease(), &held, &asked, Change::Request).await?)?;
    same("the answer to a request", &seen.record, &Some(asked))?;
    let read = backend.observe(&cx.lease()).await?;
    let waits_on = (read.grant(), record(&read)?.beat);
    equal("grant and beat, on which T-2 waits", waits_on, (Some(grant), before.beat))
}

async fn registers_do_not_touch_each_other(cx: Arc<Cx>) -> anyhow::Result<()> {
    let names = [cx.lease_named("a"), cx.lease_named("a-b"), cx.lease_named("a.b")];
    let mut seen = Vec::new();
    for name in &names {
        seen.push(cx.init_named(name).await?);
    }
    let held = cx.acquire(&*seen[0].0, &names[0], &seen[0].1, "a").await?;
    for (name, (backend, before)) in names.iter().zip(&seen).skip(1) {
        ensure!(backend.observe(name).await?.record == before.record, "{name} changed with {}", names[0]);
        // And an observation of one register is no key to another.
        let stolen = writes::release(&held, record(&held)?, &Fresh::random());
        conflict(backend.put_if(name, &held, &stolen, Change::Release).await?)?;
    }
    Ok(())
}

async fn capabilities_do_not_change(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let other = cx.backend().await?;
    let named = backend.capabilities();
    equal("another connection's capabilities", &other.capabilities(), &named)?;
    ensure!(!named.name.is_empty(), "the capabilities name no backend: {named:?}");
    Ok(())
}
