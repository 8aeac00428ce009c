//! Fencing: the resource itself refuses old terms, in the effect's own atomic write (F-1, F-4).

use std::sync::Arc;

use anyhow::{bail, ensure};
use futures::future::join_all;
use lease_core::{Grant, Loss, Term};
use lease_judge::EffectError;

use crate::case::{Need, cases};
use crate::check::{ends, equal, follows, is_over, leads};
use crate::context::Cx;
use crate::harness::Facility;

cases! { "fence":
    admits_the_first_the_same_and_every_later_term needs [Need::Facility(Facility::FencedEffects)],
    refuses_an_earlier_term_and_leaves_no_trace needs [Need::Facility(Facility::FencedEffects)],
    refuses_an_epoch_above_the_ceiling needs [Need::Facility(Facility::FencedEffects)],
    refuses_another_grant_of_the_same_epoch needs [Need::Facility(Facility::FencedEffects)],
    admits_in_order_under_concurrency needs [Need::Facility(Facility::FencedEffects)],
    a_paused_holders_late_effect_is_refused needs [Need::Facility(Facility::FencedEffects)],
    a_refused_term_ends_at_once_and_raises_nothing,
}

fn term(epoch: u64) -> Term {
    Term { epoch, grant: Grant(u128::from(epoch) << 64 | 77) }
}

fn stale(outcome: Result<(), EffectError>) -> anyhow::Result<()> {
    match outcome {
        Err(EffectError::Stale(stale)) => {
            let told = stale.to_string();
            ensure!(told.contains("FENCING_EPOCH_STALE"), "the refusal must name itself, and is {told:?}");
            Ok(())
        }
        other => bail!("expected FENCING_EPOCH_STALE, got {other:?}"),
    }
}

async fn admits_the_first_the_same_and_every_later_term(cx: Arc<Cx>) -> anyhow::Result<()> {
    let resource = cx.resource(&cx.lease()).await?;
    for (epoch, id) in [(5, "first"), (5, "same"), (6, "next"), (1 << 60, "far")] {
        resource.effect(term(epoch), id).await?;
    }
    let admitted = resource.effects().await?;
    ensure!(admitted.len() == 4, "four effects were admitted, and the resource shows {admitted:?}");
    Ok(())
}

async fn refuses_an_earlier_term_and_leaves_no_trace(cx: Arc<Cx>) -> anyhow::Result<()> {
    let resource = cx.resource(&cx.lease()).await?;
    resource.effect(term(7), "new").await?;
    stale(resource.effect(term(6), "old").await)?;
    equal("the effects", resource.effects().await?, vec![(7, "new".to_owned())])?;
    // A refusal raises nothing: the present term goes on.
    resource.effect(term(7), "again").await?;
    Ok(())
}

/// Once admitted, it would refuse every real term for ever.
async fn refuses_an_epoch_above_the_ceiling(cx: Arc<Cx>) -> anyhow::Result<()> {
    let resource = cx.resource(&cx.lease()).await?;
    for epoch in [Term::MAX_EPOCH + 1, i64::MAX as u64, u64::MAX] {
        match resource.effect(term(epoch), "poison").await {
            Err(EffectError::AboveCeiling(_)) => {}
            other => bail!("epoch {epoch}: expected FENCING_EPOCH_ABOVE_CEILING, got {other:?}"),
        }
    }
    resource.effect(term(1), "real").await?;
    equal("the effects", resource.effects().await?, vec![(1, "real".to_owned())])
}

async fn refuses_another_grant_of_the_same_epoch(cx: Arc<Cx>) -> anyhow::Result<()> {
    let resource = cx.resource(&cx.lease()).await?;
    resource.effect(term(7), "one").await?;
    let twin = Term { epoch: 7, grant: Grant(1) };
    stale(resource.effect(twin, "twin").await)?;
    let admitted = resource.effects().await?;
    ensure!(admitted.len() == 1, "only one effect was admitted, and the resource shows {admitted:?}");
    Ok(())
}

async fn admits_in_order_under_concurrency(cx: Arc<Cx>) -> anyhow::Result<()> {
    let resource = cx.resource(&cx.lease()).await?;
    let effects = (0..40_u64).map(|index| {
        let (resource, term) = (resource.clone(), term(1 + index % 8));
        async move { (term.epoch, resource.effect(term, &format!("effect-{index}")).await) }
    });
    let mut admitted = 0;
    for (epoch, outcome) in join_all(effects).await {
        match outcome {
            Ok(()) => admitted += 1,
            Err(EffectError::Stale(_)) => {
                ensure!(epoch < 8, "epoch {epoch} is the greatest, and was refused")
            }
            Err(error) => bail!("an effect of epoch {epoch} must be admitted or be stale: {error}"),
        }
    }
    // L-7 judges their order.
    ensure!(resource.effects().await?.len() == admitted, "admitted {admitted}");
    Ok(())
}

async fn a_paused_holders_late_effect_is_refused(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let resource = cx.resource(&cx.lease()).await?;
    let mut old = cx.start(cx.steady("a"))?;
    let first = old.leads().await?;
    resource.effect(first.term(), "in time").await?;
    leads(&cx, &first, "before it is paused").await?;
    let mut new = cx.actor("b")?;
    cx.soon("the standby to look", new.tap.reads(1)).await?;
    let tap = old.tap.clone();
    let second = async {
        // The holder says nothing any more; its effect is on its way.
        tap.cut(true);
        let second = new.leads().await.expect("the successor must lead");
        (second.term(), "successor's".to_owned())
    };
    stale(resource.late_effect((first.term(), "late"), Box::pin(second)).await)?;
    let effects: Vec<_> = resource.effects().await?.into_iter().map(|(_, id)| id).collect();
    equal("the effects", effects, vec!["in time".to_owned(), "successor's".to_owned()])
}

async fn a_refused_term_ends_at_once_and_raises_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(cx.steady("a"))?;
    let first = actor.leads().await?;
    first.fence_refused();
    is_over(&first, "as soon as a fence has refused it")?;
    ends(&cx, &first, Loss::FenceRefused).await?;
    let second = actor.leads().await?;
    follows(second.term(), first.term())?;
    // Only the next acquisition's own step (E-1): nobody raises an epoch because a fence refused it.
    let history = cx.recorder.history(&cx.lease());
    let writes = history.writes();
    let acquired = writes.iter().rev().find(|write| write.put.record.grant == Some(second.term().grant));
    let before = acquired.and_then(|write| write.put.expected.record.as_ref()).map(|record| record.epoch);
    ensure!(before == Some(first.term().epoch), "somebody raised the register to {before:?}");
    let grant = backend.observe(&cx.lease()).await?.grant();
    equal("the register's grant", grant, Some(second.term().grant))
}
