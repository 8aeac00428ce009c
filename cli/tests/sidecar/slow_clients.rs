//! Half-open and idle connections on the socket and on the pages, four times as many as there are places for.

use std::time::{Duration, Instant};

use lease_testbed::{ListensAt, SlowClient, SlowClients};
use lease_worker_common::http_client;

use crate::stage::{LIMIT, Stage};

/// What a probe and a request may take: on a machine that is busy, where whoever is shut out has no answer at all; and in
/// the minute, which has the machine to itself.
const BUSY: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_secs(1);

async fn serves_among_slow_clients(count: usize, lasts: Duration, limit: Duration) -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let mut crowds = Vec::new();
    for at in [ListensAt::Unix(sidecar.socket.clone()), ListensAt::Tcp(sidecar.address.parse()?)] {
        for kinds in [&SlowClient::HALF_OPEN[..], &[SlowClient::IdleHttp]] {
            crowds.push(SlowClients::open(at.clone(), kinds, count).await?);
        }
    }
    let until = Instant::now() + lasts;
    loop {
        let began = Instant::now();
        let probe = http_client(LIMIT)?.get(format!("http://{}/readyz", sidecar.address));
        assert_eq!(probe.send().await?.status().as_u16(), 200);
        assert!(began.elapsed() < limit, "a probe took {:?}", began.elapsed());
        let began = Instant::now();
        // The same key: the same answer, and the budget lasts.
        assert_eq!(sidecar.reserve("r", 1).await?.status, 201);
        assert!(began.elapsed() < limit, "a decision took {:?}", began.elapsed());
        if Instant::now() >= until {
            return Ok(());
        }
        for crowd in &mut crowds {
            crowd.insist().await?;
        }
    }
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
