//! Half-open and idle connections, four times as many as there are places for: nobody is shut out.

use std::time::Duration;

use lease_testbed::{AT_ONCE, BUSY, ListensAt, SlowClient, ask_among_slow_clients, in_time};

use crate::stage::{Stage, Worker};

async fn probes_are_answered(worker: &Worker, limit: Duration) -> anyhow::Result<()> {
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(in_time(limit, path, worker.get(path)).await?.0, 200);
    }
    Ok(())
}

async fn serves_among_slow_clients(lasts: Duration, limit: Duration) -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    forwarder.says_that_it_leads().await?;
    forwarder.ready().await?;
    let places = [ListensAt::Tcp(ingest.address.parse()?), ListensAt::Tcp(forwarder.address.parse()?)];
    let mut written = 0;
    let crowds = ask_among_slow_clients(&places, &[SlowClient::IdleHttp], lasts, async || {
        probes_are_answered(&ingest, limit).await?;
        probes_are_answered(&forwarder, limit).await?;
        stage.append(written, written + 10).await?;
        written += 10;
        in_time(limit * 2, "forwarding", stage.drained()).await
    })
    .await?;
    for crowd in crowds.iter().step_by(2) {
        assert!(crowd.closed(SlowClient::Silent) > 0, "more than there are places for");
    }
    stage.all_arrived(written).await
}

#[tokio::test]
async fn half_open_and_idle_connections_shut_nobody_out() -> anyhow::Result<()> {
    serves_among_slow_clients(Duration::ZERO, BUSY).await
}

#[tokio::test]
#[ignore = "a minute; part of make soak"]
async fn for_a_minute_half_open_and_idle_connections_shut_nobody_out() -> anyhow::Result<()> {
    serves_among_slow_clients(Duration::from_secs(60), AT_ONCE).await
}
