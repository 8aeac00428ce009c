//! client-go's leader election as a candidate on the same Lease (K-2): neither side leads while the other may.

mod actor;
mod stage;

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::{Arguments, Failed, Trial};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stage::{LEASE_SECS, Side, Stage};

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if actor::is_this_process() {
        return runtime.block_on(actor::run());
    }
    let arguments = Arguments::from_args();
    let cluster = Arc::new(runtime.block_on(stage::Cluster::start())?);
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$({
                let (cluster, handle) = (cluster.clone(), runtime.handle().clone());
                Trial::test(stringify!($name), move || {
                    let trial = async {
                        let stage = Stage::new(cluster, stringify!($name)).await?;
                        $name(&stage).await?;
                        stage.judge()
                    };
                    handle.block_on(trial).map_err(|error: anyhow::Error| Failed::from(format!("{error:#}")))
                })
            }),*]
        };
    }
    let trials = trials![
        takes_over_from_a_killed_client_go_leader_when_its_lease_is_over,
        takes_what_client_go_released_at_once,
        client_go_takes_what_was_released_here,
        client_go_takes_over_from_a_killed_holder_when_its_lease_is_over,
        a_stopped_holder_is_false_before_client_go_leads,
        client_go_keeps_what_it_renews,
        client_go_waits_for_a_holder_that_renews,
        a_mixed_fleet_under_kills_and_stops_never_has_two_leaders,
    ];
    libtest_mimic::run(&arguments, trials).exit()
}

const LEASE: Duration = Duration::from_secs(LEASE_SECS);

async fn takes_over_from_a_killed_client_go_leader_when_its_lease_is_over(
    stage: &Stage,
) -> anyhow::Result<()> {
    let theirs = stage.start(Side::ClientGo)?;
    stage.leads(&theirs).await?;
    let ours = stage.start(Side::Ours)?;
    let killed_at = stage.kill(&theirs).await?;
    let led_at = stage.leads(&ours).await?;
    // Its last renewal was at most one retry period before.
    let least = LEASE_SECS * 1000 - 1000;
    ensure!(led_at - killed_at >= least, "taken over {} ms after the kill", led_at - killed_at);
    let record = stage.record().await?;
    ensure!(record.transitions >= 1 && record.epoch > 0, "{record:?}");
    Ok(())
}

async fn takes_what_client_go_released_at_once(stage: &Stage) -> anyhow::Result<()> {
    let theirs = stage.start(Side::ClientGo)?;
    stage.leads(&theirs).await?;
    let ours = stage.start(Side::Ours)?;
    stage.looks(&ours).await?;
    let before = stage.record().await?.epoch;
    let released_at = stage.stop(&theirs).await?;
    let led_at = stage.leads(&ours).await?;
    // Its last renewal was at most a third of its lease before: less than the rest was waited.
    ensure!(led_at - released_at < LEASE_SECS * 1000 * 2 / 3, "it took {} ms", led_at - released_at);
    ensure!(stage.record().await?.epoch > before, "an epoch that was there before");
    Ok(())
}

async fn client_go_takes_what_was_released_here(stage: &Stage) -> anyhow::Result<()> {
    stage.init().await?;
    let ours = stage.start(Side::Ours)?;
    stage.leads(&ours).await?;
    let theirs = stage.start(Side::ClientGo)?;
    let released_at = stage.stop(&ours).await?;
    let led_at = stage.leads(&theirs).await?;
    ensure!(led_at - released_at < LEASE_SECS * 1000, "it took {} ms", led_at - released_at);
    // And back: its epoch exceeds the first one's, although client-go knows of none.
    let again = stage.start(Side::Ours)?;
    stage.looks(&again).await?;
    stage.stop(&theirs).await?;
    stage.leads(&again).await.map(drop)
}

async fn client_go_takes_over_from_a_killed_holder_when_its_lease_is_over(
    stage: &Stage,
) -> anyhow::Result<()> {
    stage.init().await?;
    let ours = stage.start(Side::Ours)?;
    stage.leads(&ours).await?;
    let theirs = stage.start(Side::ClientGo)?;
    let killed_at = stage.kill(&ours).await?;
    let led_at = stage.leads(&theirs).await?;
    let least = LEASE_SECS * 1000 - LEASE_SECS * 1000 / 3 - 500;
    ensure!(led_at - killed_at >= least, "taken over {} ms after the kill", led_at - killed_at);
    Ok(())
}

async fn a_stopped_holder_is_false_before_client_go_leads(stage: &Stage) -> anyhow::Result<()> {
    stage.init().await?;
    let ours = stage.start(Side::Ours)?;
    stage.leads(&ours).await?;
    let theirs = stage.start(Side::ClientGo)?;
    ours.pause().await?;
    stage.leads(&theirs).await?;
    ours.resume()?;
    // Judged: it does nothing after waking, and leads again only when the other has given up.
    stage.looks(&ours).await?;
    let terms = stage.terms(&ours);
    stage.stop(&theirs).await?;
    stage.leads_after(terms, &ours).await.map(drop)
}

async fn client_go_keeps_what_it_renews(stage: &Stage) -> anyhow::Result<()> {
    let theirs = stage.start(Side::ClientGo)?;
    stage.leads(&theirs).await?;
    let ours = stage.start(Side::Ours)?;
    tokio::time::sleep(LEASE * 3).await;
    ensure!(
        theirs.exit_status().is_none() && stage.terms(&ours) == 0,
        "it was taken from a leader that renews"
    );
    Ok(())
}

async fn client_go_waits_for_a_holder_that_renews(stage: &Stage) -> anyhow::Result<()> {
    stage.init().await?;
    let ours = stage.start(Side::Ours)?;
    stage.leads(&ours).await?;
    let theirs = stage.start(Side::ClientGo)?;
    tokio::time::sleep(LEASE * 3).await;
    ensure!(stage.terms(&theirs) == 0, "client-go did not see our renewals");
    Ok(())
}

/// Seeded: two candidates a side, and whoever leads is killed, stopped for a while (ours), or asked to end.
async fn a_mixed_fleet_under_kills_and_stops_never_has_two_leaders(stage: &Stage) -> anyhow::Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    stage.init().await?;
    let mut fleet = Vec::new();
    for side in [Side::Ours, Side::ClientGo, Side::Ours, Side::ClientGo] {
        fleet.push((side, stage.start(side)?));
    }
    for _ in 0..12 {
        let leader = stage.leader_among(&fleet).await?;
        let (side, process) = &fleet[leader];
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        match random.random_range(0..3) {
            0 => drop(stage.kill(process).await?),
            1 if *side == Side::Ours => {
                process.pause().await?;
                stage.another_than(leader, &fleet).await?;
                process.resume()?;
                continue;
            }
            _ => drop(stage.stop(process).await?),
        }
        let side = *side;
        fleet[leader] = (side, stage.start(side)?);
    }
    for (_, process) in &fleet {
        stage.stop(process).await?;
    }
    Ok(())
}
