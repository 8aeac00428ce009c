//! Listing: every register under a prefix, by a linearizable read.

use std::sync::Arc;

use anyhow::ensure;

use crate::case::{Need, cases};
use crate::check::{equal, refused};
use crate::context::{Cx, written};

cases! { "list":
    shows_every_register_under_the_prefix_and_no_other needs [Need::List],
    shows_what_was_just_written needs [Need::List],
    takes_the_prefix_literally needs [Need::List],
    is_refused_clearly_where_it_is_not_offered needs [Need::NoList],
}

async fn shows_every_register_under_the_prefix_and_no_other(cx: Arc<Cx>) -> anyhow::Result<()> {
    let mut expected = Vec::new();
    for suffix in ["list-a", "list-b", "list-b.c", "other"] {
        let name = cx.lease_named(suffix);
        let (_, seen) = cx.init_named(&name).await?;
        expected.push((name, seen.record));
    }
    expected.pop();
    let backend = cx.backend().await?;
    let listed = backend.list(&format!("{}-list", cx.prefix())).await?;
    let listed = listed.into_iter().map(|(name, seen)| Ok((name, seen?.record)));
    let mut listed = listed.collect::<anyhow::Result<Vec<_>>>()?;
    listed.sort_by(|(a, _), (b, _)| a.cmp(b));
    ensure!(listed == expected, "listed {listed:?}");
    let listed = backend.list(&format!("{}-none", cx.prefix())).await?;
    ensure!(listed.is_empty(), "under a prefix that no lease has: {listed:?}");
    Ok(())
}

async fn shows_what_was_just_written(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let mut seen = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let other = cx.backend().await?;
    for _ in 0..5 {
        seen = written(cx.renew(&*backend, &cx.lease(), &seen).await?)?;
        let mut listed = other.list(cx.prefix()).await?;
        ensure!(listed.len() == 1, "listed {listed:?}");
        let listed = listed.remove(0).1?;
        ensure!(listed.record == seen.record, "listed {listed:?}");
        equal("the listed lineage", &listed.lineage, &seen.lineage)?;
        ensure!(listed.floor >= seen.floor, "the listed floor {} is below {}", listed.floor, seen.floor);
    }
    // A listed observation is as good as a read: the next write compares it.
    let listed = other.list(cx.prefix()).await?.remove(0).1?;
    written(cx.renew(&*backend, &cx.lease(), &listed).await?)?;
    Ok(())
}

async fn takes_the_prefix_literally(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let backend = cx.backend().await?;
    for pattern in ["%", "_", "*", ".*", "?"] {
        let listed = backend.list(&format!("{}{pattern}", cx.prefix())).await?;
        ensure!(listed.is_empty(), "{pattern:?} is taken for a pattern, and lists {listed:?}");
    }
    Ok(())
}

async fn is_refused_clearly_where_it_is_not_offered(cx: Arc<Cx>) -> anyhow::Result<()> {
    let answer = cx.backend().await?.list(cx.prefix()).await;
    refused("list", answer.map(drop))
}
