//! Work that makes no progress keeps its lease no longer than `maxSilenceMs` and a ttl (H-4).

use std::time::{Duration, Instant};

use lease_testbed::wait_until;

use crate::stage::{IS_LEADER, LIMIT, SHORT, Stage};
use crate::stopping::{says, with_a_batch_under_way};

/// By which the machine may be late.
const BUSY: Duration = Duration::from_secs(10);

#[tokio::test]
async fn work_that_stalls_loses_its_lease_to_a_standby() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    // Its batch waits for an answer for two minutes.
    let more = [&SHORT[..], &["--max-silence", "3s"]].concat();
    let (leader, hold, _proxy) = with_a_batch_under_way(&stage, &ingest, &more).await?;
    let stalled = Instant::now();
    let standby = stage.forwarder_with("b", &ingest.address, &stage.outbox, &SHORT).await?;
    wait_until("its term is over", LIMIT, || async {
        leader.metric(IS_LEADER).await.is_ok_and(|leads| leads == 0.0)
    })
    .await?;
    let lost = stalled.elapsed();
    println!("the lease of stalled work was lost after {lost:?}, at 3 s of silence and a ttl of 2 s");
    assert!(lost < Duration::from_secs(3 + 2) + BUSY, "{lost:?}");
    standby.leads().await?;
    stage.all_arrived(300).await?;
    let (status, why) = leader.get("/readyz").await?;
    assert!(status == 503 && why.starts_with("the work has made no progress for "), "{status} {why}");
    for part in [
        "stopping work; lease not renewed any more",
        "the work has reported no progress for 3s",
        "the work reported no progress, so the lease was not renewed",
    ] {
        assert!(says(&leader, part), "{part}: {:?}", leader.process.lines());
    }
    assert!(!says(&leader, "events: released ") && leader.process.exit_status().is_none());
    // Once it has its answer, it is a standby like any other.
    hold.release();
    leader.process.wait_for_line("standing by", LIMIT).await?;
    leader.ready().await
}

#[tokio::test]
async fn work_that_waits_for_something_to_do_keeps_its_lease() -> anyhow::Result<()> {
    const BEATS: &str = "spendguard_outbox_forwarder_leader_age_seconds_count";
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let more = ["--max-silence", "4s", "--poll-interval", "1h"];
    let leader = stage.forwarder_with("a", &ingest.address, &stage.outbox, &more).await?;
    leader.leads().await?;
    let began = Instant::now();
    wait_until("it leads for three silences", LIMIT, || async {
        began.elapsed() > Duration::from_secs(12)
            && leader.metric(BEATS).await.is_ok_and(|beats| beats >= 15.0)
    })
    .await?;
    assert_eq!(leader.metric(IS_LEADER).await?, 1.0);
    assert!(!says(&leader, "stopping work"), "{:?}", leader.process.lines());
    leader.ready().await
}
