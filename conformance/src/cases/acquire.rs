//! The beginning of terms (E-1, T-3).

use std::sync::Arc;

use anyhow::ensure;
use lease_judge::history::What;
use tokio::sync::OnceCell;

use crate::actor::ActorSpec;
use crate::case::cases;
use crate::check::{equal, follows, is_over, leads, none_led};
use crate::context::{Cx, record};

cases! { "acquire":
    leads_on_a_free_register,
    only_one_of_two_leads,
    the_same_owner_gets_a_greater_epoch_after_expiry,
    each_acquisition_has_a_grant_of_its_own,
    two_electors_with_one_workload_name_are_two_grants,
    one_of_100_standbys_leads_after_a_release,
    one_of_100_standbys_leads_after_an_expiry,
    writes_who_leads_for_people,
}

async fn leads_on_a_free_register(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor = cx.start(cx.unhurried("a"))?;
    let leadership = actor.leads().await?;
    leads(&cx, &leadership, "when it has just begun").await?;
    let seen = backend.observe(&cx.lease()).await?;
    ensure!(record(&seen)?.term() == Some(leadership.term()), "the register names another term: {seen:?}");
    actor.stop().await?;
    is_over(&leadership, "after its elector has stopped")
}

/// A standby looks this often until a term that nobody renews would be over.
const LOOKS: u64 = 7;

async fn only_one_of_two_leads(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut first = cx.start(cx.steady("a"))?;
    let term = first.leads().await?;
    let mut second = cx.start(cx.steady("b"))?;
    cx.soon("the standby to look", second.tap.reads(LOOKS)).await?;
    leads(&cx, &term, "beside a standby").await?;
    none_led([&mut second], "beside a live holder")
}

async fn the_same_owner_gets_a_greater_epoch_after_expiry(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut actor = cx.actor("a")?;
    let first = actor.leads().await?;
    actor.tap.cut(true);
    cx.soon("the term to expire", first.lost()).await?;
    actor.tap.cut(false);
    let second = actor.leads().await?;
    follows(second.term(), first.term())?;
    is_over(&first, "when a later term has begun")
}

async fn each_acquisition_has_a_grant_of_its_own(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut grants = Vec::new();
    for _ in 0..3 {
        let mut actor = cx.start(cx.unhurried("a"))?;
        grants.push(actor.leads().await?.term().grant);
        actor.stop().await?;
    }
    grants.sort();
    grants.dedup();
    ensure!(grants.len() == 3, "three acquisitions have {} grants: {grants:?}", grants.len());
    Ok(())
}

async fn two_electors_with_one_workload_name_are_two_grants(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let mut first = cx.start(cx.steady("one-name"))?;
    let term = first.leads().await?;
    let mut second = cx.start(cx.steady("one-name"))?;
    cx.soon("the standby to look", second.tap.reads(LOOKS)).await?;
    leads(&cx, &term, "beside a standby of the same name").await?;
    none_led([&mut second], "for its own name on the register")?;
    first.stop().await?;
    let next = second.leads().await?;
    follows(next.term(), term.term())
}

/// A hundred candidates over ten connections.
fn hundred(cx: &Arc<Cx>) -> anyhow::Result<Vec<crate::actor::Actor>> {
    let connections: Vec<_> = (0..10).map(|_| Arc::new(OnceCell::new())).collect();
    let specs = (0..100).map(|index| {
        let spec = cx.spec(&format!("standby-{index}"));
        if index >= 10 {
            // One watch a connection; the others poll.
            spec.tap.mute_watch();
        }
        // Long enough for a hundred to be served by one thread, whatever else the machine does.
        ActorSpec { shared: Some(connections[index % 10].clone()), ttl: cx.ttl() * 4, ..spec }
    });
    specs.map(|spec| cx.start(spec)).collect()
}

async fn one_follows(cx: &Arc<Cx>, kill: bool) -> anyhow::Result<()> {
    cx.init().await?;
    let mut holder = cx.start(ActorSpec { ttl: cx.ttl() * 4, ..cx.spec("holder") })?;
    let first = holder.leads().await?;
    let mut standbys = hundred(cx)?;
    for standby in &standbys {
        cx.soon("every standby to look", standby.tap.reads_reach(1)).await?;
    }
    if kill {
        holder.kill();
    } else {
        holder.stop().await?;
    }
    let waiting = standbys.iter_mut().map(|standby| Box::pin(standby.leads()));
    let (next, leader, _) = futures::future::select_all(waiting).await;
    let next = next?;
    follows(next.term(), first.term())?;
    // Give everybody else the chance to get it wrong.
    let looks: Vec<_> = standbys.iter().map(|standby| standby.tap.read_count()).collect();
    for (index, standby) in standbys.iter().enumerate().filter(|(index, _)| *index != leader) {
        cx.soon("a further look", standby.tap.reads_reach(looks[index] + 1)).await?;
    }
    let others = standbys.iter_mut().filter_map(|standby| standby.leads_already()).count();
    ensure!(others == 0, "{others} more standbys led");
    let history = cx.recorder.history(&cx.lease());
    let begun = history.events.iter().filter(|event| matches!(event.what, What::Begun { .. })).count();
    ensure!(begun == 2, "{begun} terms instead of the holder's and one successor's");
    Ok(())
}

async fn one_of_100_standbys_leads_after_a_release(cx: Arc<Cx>) -> anyhow::Result<()> {
    one_follows(&cx, false).await
}

async fn one_of_100_standbys_leads_after_an_expiry(cx: Arc<Cx>) -> anyhow::Result<()> {
    one_follows(&cx, true).await
}

async fn writes_who_leads_for_people(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, _) = cx.init().await?;
    let mut actor =
        cx.start(ActorSpec { settings: |builder| builder.region("eu-west-3"), ..cx.unhurried("pod-7") })?;
    actor.leads().await?;
    let seen = backend.observe(&cx.lease()).await?;
    let shown = record(&seen)?;
    equal("holder and region", (shown.holder.as_str(), shown.region.as_str()), ("pod-7", "eu-west-3"))?;
    let times = [shown.acquired_at, shown.renewed_at, shown.expires_at].map(|time| time.0);
    ensure!(
        times[0] <= times[1] && times[1] < times[2],
        "acquired, renewed and expires must be in this order: {times:?}"
    );
    Ok(())
}
