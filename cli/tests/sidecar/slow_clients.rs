//! Half-open and idle connections on the socket and on the pages, four times as many as there are places for.

use std::time::Duration;

use lease_testbed::{AT_ONCE, BUSY, ListensAt, SlowClient, ask_among_slow_clients, in_time};
use lease_worker_common::http_client;

use crate::stage::{LIMIT, Stage};

async fn serves_among_slow_clients(lasts: Duration, limit: Duration) -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let places = [ListensAt::Unix(sidecar.socket.clone()), ListensAt::Tcp(sidecar.address.parse()?)];
    ask_among_slow_clients(&places, &[SlowClient::IdleHttp], lasts, async || {
        let probe = http_client(LIMIT)?.get(format!("http://{}/readyz", sidecar.address)).send();
        let probed = in_time(limit, "a probe", async { Ok(probe.await?) }).await?;
        assert_eq!(probed.status().as_u16(), 200);
        // The same key: the same answer, and the budget lasts.
        assert_eq!(in_time(limit, "a decision", sidecar.reserve("r", 1)).await?.status, 201);
        Ok(())
    })
    .await
    .map(drop)
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
