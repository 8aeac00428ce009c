//! Real processes and real signals.

use std::sync::Arc;

use anyhow::ensure;
use lease_core::{Clock, Loss};
use lease_judge::history::{Outcome, What};
use rustix::process::Signal;

use crate::case::{Need, cases};
use crate::check::{equal, follows};
use crate::context::{Cx, record};
use crate::harness::Facility;

const PROCESSES: Need = Need::Facility(Facility::Processes);
const EFFECTS: Need = Need::Facility(Facility::FencedEffects);

cases! { "process":
    a_killed_holder_is_followed needs [PROCESSES],
    a_holder_stopped_past_its_ttl_writes_late_and_is_refused needs [PROCESSES, EFFECTS],
    two_processes_with_one_workload_name_are_two_grants needs [PROCESSES],
    sigterm_and_sigint_release_at_once needs [PROCESSES],
    effects_of_many_terms_keep_their_order needs [PROCESSES, EFFECTS],
}

async fn a_killed_holder_is_followed(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let ttl = cx.ttl() * 2;
    let mut holder = cx.process("holder", "a", ttl, None)?;
    let first = holder.leads().await?;
    let mut standby = cx.process("standby", "b", ttl, None)?;
    standby.tells("see the holder", |what| matches!(what, What::Answered { .. }).then_some(())).await?;
    holder.kill().await?;
    let second = standby.leads().await?;
    follows(second, first)?;
    equal("the register's term", record(&backend.observe(&cx.lease()).await?)?.term(), Some(second))?;
    standby.ends_by(Signal::TERM).await
}

async fn a_holder_stopped_past_its_ttl_writes_late_and_is_refused(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 2;
    let name = format!("{}-resource", cx.prefix());
    let resource = cx.resource(&cx.lease()).await?;
    let mut holder = cx.process("holder", "a", ttl, Some(&name))?;
    let first = holder.leads().await?;
    until(&cx, "an effect of the holder", || async { Ok(!resource.effects().await?.is_empty()) }).await?;
    holder.pause().await?;
    let mut standby = cx.process("standby", "b", ttl, Some(&name))?;
    let second = standby.leads().await?;
    until(&cx, "an effect of the successor", || async {
        Ok(resource.effects().await?.iter().any(|(epoch, _)| *epoch == second.epoch))
    })
    .await?;
    holder.resume()?;
    // Its work doesn't ask whether it still leads: it writes, late, and the fence refuses.
    let refused = holder.tells("be refused", |what| match what {
        What::Effect { term, outcome: Outcome::Refused, .. } => Some(*term),
        _ => None,
    });
    equal("the refused term", refused.await?, first)?;
    let effects = resource.effects().await?;
    let switch = effects.iter().position(|(epoch, _)| *epoch == second.epoch).unwrap_or(0);
    ensure!(
        effects[switch..].iter().all(|(epoch, _)| *epoch >= second.epoch),
        "a late effect of term {first} was admitted after one of {second}: {effects:?}"
    );
    holder.ends_by(Signal::TERM).await?;
    standby.ends_by(Signal::TERM).await
}

async fn two_processes_with_one_workload_name_are_two_grants(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 2;
    let mut first = cx.process("first", "one-name", ttl, None)?;
    let mut second = cx.process("second", "one-name", ttl, None)?;
    let (held, waiting) = tokio::select! {
        held = first.leads() => (held?, false),
        held = second.leads() => (held?, true),
    };
    let (mut holder, mut standby) = if waiting { (second, first) } else { (first, second) };
    let clock = Clock::boot();
    clock.sleep_until(clock.now().plus(ttl * 2)).await;
    // L-1 judges that only one led meanwhile.
    holder.ends_by(Signal::TERM).await?;
    let next = standby.leads().await?;
    follows(next, held)?;
    standby.ends_by(Signal::TERM).await
}

async fn sigterm_and_sigint_release_at_once(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let ttl = cx.ttl() * 10;
    for signal in [Signal::TERM, Signal::INT] {
        let mut holder = cx.process(&format!("{signal:?}"), "a", ttl, None)?;
        holder.leads().await?;
        let told_at = Clock::boot().now();
        holder.ends_by(signal).await?;
        let took = Clock::boot().now().since(told_at);
        let seen = backend.observe(&cx.lease()).await?;
        ensure!(
            record(&seen)?.grant.is_none() && took < ttl,
            "{signal:?}: not released after {took:?}: {seen:?}"
        );
    }
    let history = cx.recorder.history(&cx.lease());
    let returned = |what: &What| matches!(what, What::Ended { loss: Loss::Returned, .. });
    let count = history.events.iter().filter(|event| returned(&event.what)).count();
    equal("the terms that ended because their work returned", count, 2)
}

async fn effects_of_many_terms_keep_their_order(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let ttl = cx.ttl() * 4;
    let name = format!("{}-resource", cx.prefix());
    let resource = cx.resource(&cx.lease()).await?;
    let mut epochs = Vec::new();
    for round in 0..3 {
        let mut holder = cx.process(&format!("holder-{round}"), "a", ttl, Some(&name))?;
        let term = holder.leads().await?;
        until(&cx, "an effect of the term", || async {
            Ok(resource.effects().await?.iter().any(|(epoch, _)| *epoch == term.epoch))
        })
        .await?;
        epochs.push(term.epoch);
        if round == 1 {
            holder.kill().await?;
        } else {
            holder.ends_by(Signal::TERM).await?;
        }
    }
    let mut acted: Vec<_> = resource.effects().await?.iter().map(|(epoch, _)| *epoch).collect();
    acted.dedup();
    ensure!(acted == epochs, "terms {epochs:?} acted in the order {acted:?}");
    Ok(())
}

async fn until<F, Fut>(cx: &Cx, what: &str, condition: F) -> anyhow::Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = anyhow::Result<bool>>,
{
    let holds = async {
        while !condition().await? {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    cx.soon(what, holds).await?
}
