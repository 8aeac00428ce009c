//! The watch: a hint that only ever wakes somebody.

use std::sync::Arc;

use anyhow::ensure;
use futures::StreamExt;
use lease_core::Clock;

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::check::{follows, leads, none_led, refused};
use crate::context::{Cx, written};

cases! { "watch":
    hints_at_changes_under_its_prefix needs [Need::Watch],
    is_refused_clearly_where_it_is_not_offered needs [Need::NoWatch],
    a_hint_is_no_proof_of_freedom,
    old_news_of_freedom_takes_nothing,
    takes_over_by_polling_when_no_hint_ever_comes,
    a_storm_of_hints_costs_nothing,
    many_watchers_are_all_woken needs [Need::Watch],
}

async fn hints_at_changes_under_its_prefix(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let watcher = cx.backend().await?;
    let mut hints = cx.soon("the watch to be live", watcher.watch(cx.lease().as_str())).await??;
    for _ in 0..3 {
        // A release must be hinted at; renewals need not be.
        let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
        seen = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
        while watcher.observe(&cx.lease()).await?.tag() != seen.tag() {
            cx.soon("a hint", hints.next()).await?;
        }
        let hint = cx.soon("a hint", hints.next()).await?;
        ensure!(hint.is_some(), "the watch ended by itself after {seen:?}");
    }
    Ok(())
}

async fn is_refused_clearly_where_it_is_not_offered(cx: Arc<Cx>) -> anyhow::Result<()> {
    let answer = cx.backend().await?.watch(cx.prefix()).await;
    refused("watch", answer.map(drop))
}

async fn a_hint_is_no_proof_of_freedom(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(cx.unhurried("a"))?;
    let term = holder.leads().await?;
    let spec = cx.unhurried("b");
    spec.tap.mute_watch();
    let mut standby = cx.start(spec)?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    for _ in 0..5 {
        standby.tap.hint();
        cx.soon("a look", standby.tap.reads(1)).await?;
        leads(&cx, &term, "whatever a watch says").await?;
        none_led([&mut standby], "on a hint")?;
    }
    // A wrong candidate's acquisition has time to show.
    let clock = Clock::boot();
    clock.sleep_until(clock.now().plus(cx.ttl() / 3)).await;
    leads(&cx, &term, "whatever a watch says").await?;
    none_led([&mut standby], "on a hint")
}

async fn old_news_of_freedom_takes_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    // Free, as a watch would show it; by the time that the news arrives, somebody leads.
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let freed = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    let mut holder = cx.start(cx.unhurried("a"))?;
    let term = holder.leads().await?;
    let spec = cx.unhurried("b");
    spec.tap.mute_watch();
    let mut standby = cx.start(spec)?;
    cx.soon("the standby to look", standby.tap.reads(1)).await?;
    for _ in 0..5 {
        standby.tap.show(cx.lease(), freed.clone());
        cx.soon("a look of its own", standby.tap.reads(1)).await?;
        leads(&cx, &term, "whatever a watch says").await?;
        none_led([&mut standby], "on old news")?;
    }
    Ok(())
}

async fn takes_over_by_polling_when_no_hint_ever_comes(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(cx.unhurried("a"))?;
    let first = holder.leads().await?;
    let spec = cx.unhurried("b");
    let ttl = spec.ttl;
    spec.tap.mute_watch();
    let mut standby = cx.start(spec)?;
    // At its start, and once it listens: by its poll it looks after that.
    cx.soon("the standby to look twice", standby.tap.reads_reach(2)).await?;
    holder.stop().await?;
    let released_at = Clock::boot().now();
    let second = standby.leads().await?;
    let took = Clock::boot().now().since(released_at);
    follows(second.term(), first.term())?;
    ensure!(took < ttl, "it took {took:?}, and must not wait for the ttl, {ttl:?}");
    Ok(())
}

async fn a_storm_of_hints_costs_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 3;
    let spec = ActorSpec { ttl, ..cx.spec("a") };
    spec.tap.mute_watch();
    let mut actor = cx.start(spec)?;
    let term = actor.leads().await?;
    let clock = Clock::boot();
    let until = clock.now().plus(ttl * 3 / 2);
    while clock.now() < until {
        for _ in 0..10 {
            actor.tap.hint();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        leads(&cx, &term, "in a storm of hints").await?;
    }
    Ok(())
}

async fn many_watchers_are_all_woken(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let watcher = cx.backend().await?;
        let hints = cx.soon("the watch to be live", watcher.watch(cx.lease().as_str())).await??;
        watchers.push((watcher, hints));
    }
    written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    for (watcher, mut hints) in watchers {
        cx.soon("a hint", hints.next()).await?;
        while watcher.observe(&cx.lease()).await?.grant().is_some() {
            cx.soon("a hint", hints.next()).await?;
        }
    }
    Ok(())
}
