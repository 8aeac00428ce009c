//! Capabilities: what a store says of itself is so.

use std::sync::Arc;

use anyhow::ensure;
use lease_core::{Change, Record, Tag};

use crate::case::{Need, cases};
use crate::context::{Cx, record, written};
use crate::harness::Facility;

cases! { "capabilities":
    are_those_that_answer,
    name_a_mode_that_a_refusal_repeats,
    keep_every_multiple_of_the_granularity,
    tell_a_deletion_by_its_lineage needs [Need::CreatesRegisters, Need::Facility(Facility::Delete)],
}

async fn are_those_that_answer(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let told = backend.capabilities();
    let lease = cx.lease();
    let answers = [
        ("watch", told.watch, backend.watch(lease.as_str()).await.err()),
        ("list", told.list, backend.list(lease.as_str()).await.err()),
        ("history", told.history, backend.history(&lease, 1).await.err()),
    ];
    for (what, offered, failure) in answers {
        match failure {
            None => ensure!(offered, "it declares no {what}, and offers one"),
            Some(error) => ensure!(!offered, "it declares a {what}, which fails: {error:#}"),
        }
    }
    Ok(())
}

/// People find the mode by it: in messages, in metrics, and in the settings.
async fn name_a_mode_that_a_refusal_repeats(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, other) = (cx.backend().await?, cx.backend().await?);
    let name = backend.capabilities().name;
    let is_a_word = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
    ensure!(is_a_word, "a mode's name is one word of a-z, 0-9 and '-', and this is {name:?}");
    let again = other.capabilities().name;
    ensure!(again == name, "one connection names the mode {name:?}, and the next one {again:?}");
    Ok(())
}

async fn keep_every_multiple_of_the_granularity(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let unit = backend.capabilities().ttl_granularity.as_millis().max(1) as u64;
    for multiple in [1, 2, 3, 7, 15, 1001] {
        let (ttl_ms, max_ttl_ms) = (unit * multiple, unit * (multiple + 1));
        let next = Record { tag: Tag::random(), ttl_ms, max_ttl_ms, ..record(&seen)?.clone() };
        written(backend.put_if(&cx.lease(), &seen, &next, Change::Request).await?)?;
        seen = backend.observe(&cx.lease()).await?;
        let kept = (record(&seen)?.ttl_ms, record(&seen)?.max_ttl_ms);
        ensure!(
            kept == (ttl_ms, max_ttl_ms),
            "ttls of {ttl_ms} ms and {max_ttl_ms} ms are multiples of {unit} ms, and were kept as {kept:?}"
        );
    }
    Ok(())
}

/// Candidates create an absent register free, and lead at once (T-5). After a deletion its holder may not have noticed.
async fn tell_a_deletion_by_its_lineage(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    cx.delete().await?;
    let absent = backend.observe(&cx.lease()).await?;
    ensure!(
        absent.record.is_none() && absent.lineage != seen.lineage,
        "it declares that it creates registers, so it loses none while it keeps its lineage: after a deletion it shows \
         {absent:?}"
    );
    Ok(())
}
