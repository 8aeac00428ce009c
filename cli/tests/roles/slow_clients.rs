//! Half-open and idle connections, four times as many as there are places for: nobody is shut out.

use std::time::{Duration, Instant};

use lease_testbed::{ListensAt, SlowClient, SlowClients};

use crate::stage::{Stage, Worker};

/// What a probe and a request may take: on a machine that is busy, where whoever is shut out has no answer at all; and in
/// the minute, which has the machine to itself.
const BUSY: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_secs(1);

async fn probes_are_answered(worker: &Worker, limit: Duration) -> anyhow::Result<()> {
    for path in ["/healthz", "/readyz", "/metrics"] {
        let began = Instant::now();
        assert_eq!(worker.get(path).await?.0, 200);
        assert!(began.elapsed() < limit, "{path} took {:?}", began.elapsed());
    }
    Ok(())
}

async fn serves_among_slow_clients(count: usize, lasts: Duration, limit: Duration) -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    forwarder.says_that_it_leads().await?;
    forwarder.ready().await?;
    let mut crowds = Vec::new();
    for address in [&ingest.address, &forwarder.address] {
        for kinds in [&SlowClient::HALF_OPEN[..], &[SlowClient::IdleHttp]] {
            crowds.push(SlowClients::open(ListensAt::Tcp(address.parse()?), kinds, count).await?);
        }
    }
    let (until, mut written) = (Instant::now() + lasts, 0);
    loop {
        probes_are_answered(&ingest, limit).await?;
        probes_are_answered(&forwarder, limit).await?;
        stage.append(written, written + 10).await?;
        written += 10;
        let began = Instant::now();
        stage.drained().await?;
        assert!(began.elapsed() < limit * 2, "forwarding took {:?}", began.elapsed());
        if Instant::now() >= until {
            break;
        }
        for crowd in &mut crowds {
            crowd.insist().await?;
        }
    }
    for crowd in crowds.iter().step_by(2) {
        assert!(crowd.closed(SlowClient::Silent) > 0, "more than there are places for");
    }
    stage.all_arrived(written).await
}

#[tokio::test]
async fn half_open_and_idle_connections_shut_nobody_out() -> anyhow::Result<()> {
    serves_among_slow_clients(2_000, Duration::ZERO, BUSY).await
}

#[tokio::test]
#[ignore = "a minute; part of make soak"]
async fn for_a_minute_half_open_and_idle_connections_shut_nobody_out() -> anyhow::Result<()> {
    serves_among_slow_clients(2_000, Duration::from_secs(60), AT_ONCE).await
}
