//! Back-pressure: the forwarder comes back when it is told to, and an ingest whose store is away says so.

use std::time::{Duration, Instant};

use lease_testbed::Signal;

use crate::fake::Fake;
use crate::stage::{LIMIT, Stage};

#[tokio::test]
async fn the_forwarder_comes_back_when_it_is_told_to() -> anyhow::Result<()> {
    for status in [503, 429] {
        let stage = Stage::sqlite().await?;
        let fake = Fake::start(&[(status, Some("2")), (200, None)]).await?;
        let forwarder = stage.forwarder("a", &fake.address).await?;
        stage.append(0, 10).await?;
        let asked = fake.asked(2).await?;
        // Without the header it would have come back after its retry interval, 130 ms.
        assert!(asked[1].0 >= Duration::from_secs(2), "{status}: {:?}", asked[1].0);
        assert_eq!(asked[0].1, asked[1].1, "the same batch again");
        stage.drained().await?;
        let skipped = "spendguard_outbox_forwarder_skip_total{reason=\"ingest_unavailable\"}";
        assert_eq!(forwarder.metric(skipped).await?, 1.0);
        assert_eq!(
            forwarder.metric("spendguard_outbox_forwarder_is_leader").await?,
            1.0,
            "it leads all along"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_forwarder_that_was_told_to_wait_still_stops_at_once() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let fake = Fake::start(&[(503, Some("3600"))]).await?;
    let forwarder = stage.forwarder("a", &fake.address).await?;
    stage.append(0, 10).await?;
    // An hour is more than anybody may ask for.
    forwarder.process.wait_for_line("retry_in=60s", LIMIT).await?;
    let told = Instant::now();
    forwarder.process.signal(Signal::TERM)?;
    assert_eq!(forwarder.process.wait(LIMIT).await?.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(20), "within the stop budget: {:?}", told.elapsed());
    Ok(())
}

#[tokio::test]
async fn an_ingest_whose_postgres_is_away_is_not_ready_and_loses_nothing() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    // The canonical store has a server of its own, so that only it is away.
    let server = lease_testbed::Postgres::start(lease_testbed::PostgresOptions::default()).await?;
    let url = server.create_database("canonical").await?;
    let migrate = ["worker", "canonical-ingest", "--canonical-url", &url, "--migrate"];
    let made = lease_testbed::Process::command(env!("CARGO_BIN_EXE_leasehold"))?
        .env_clear()
        .args(migrate)
        .spawn()?;
    assert_eq!(made.wait(LIMIT).await?.code(), Some(0));
    let ingest = crate::stage::Worker::start(&migrate[..4]).await?;
    ingest.ready().await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    forwarder.leads().await?;
    server.crash().await?;
    stage.append(0, 10).await?;
    forwarder.process.wait_for_line("503 Service Unavailable: the store failed; send again", LIMIT).await?;
    let (status, why) = ingest.get("/readyz").await?;
    assert!(status == 503 && !why.is_empty(), "{status} {why}");
    assert_eq!(ingest.get("/healthz").await?.0, 200);
    assert!(ingest.metric("spendguard_canonical_ingest_requests_total{code=\"503\"}").await? >= 1.0);
    server.start_again().await?;
    stage.drained().await?;
    ingest.ready().await?;
    assert_eq!(server.psql_in("canonical", "SELECT count(*) FROM canonical_events").await?.trim(), "10");
    Ok(())
}
