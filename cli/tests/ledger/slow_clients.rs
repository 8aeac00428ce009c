//! Half-open and idle connections, four times as many as there are places for: nobody is shut out.

use std::time::Duration;

use lease_testbed::{
    AT_ONCE, BUSY, ListensAt, Process, SlowClient, SlowClients, ask_among_slow_clients, in_time,
};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::stage::{LIMIT, Ledger, Stage, attempt, field, page, won};

async fn serves_among_slow_clients(lasts: Duration, limit: Duration) -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let renewal = lease_spendguard::rpc::ledger::v1::AcquireFencingLeaseRequest {
        grant: term.grant.clone(),
        ..attempt("a")
    };
    let places = [ListensAt::Tcp(ledger.pages.parse()?), ListensAt::Tcp(ledger.grpc.parse()?)];
    ask_among_slow_clients(&places, &[SlowClient::IdleHttp, SlowClient::IdleGrpc], lasts, async || {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(in_time(limit, path, page(&ledger.pages, path)).await?.0, 200);
        }
        in_time(limit, "a health check", async {
            let mut checked =
                HealthClient::new(Channel::from_shared(format!("http://{}", ledger.grpc))?.connect().await?);
            Ok(checked.check(HealthCheckRequest { service: String::new() }).await?)
        })
        .await?;
        let fresh = async { won(&ledger.client().await?, renewal.clone()).await };
        assert_eq!(in_time(limit, "a call", fresh).await?.action, "renew");
        assert_eq!(
            in_time(limit, "a call on an old connection", won(&client, renewal.clone())).await?.action,
            "renew"
        );
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

/// Fewer descriptors than clients: those of the ledger's own connections stay free.
#[tokio::test]
async fn a_ledger_with_few_descriptors_serves_among_more_clients_than_it_has_places_for() -> anyhow::Result<()>
{
    let stage = Stage::new().await?;
    let started = "ulimit -n 1024 && exec \"$0\" worker ledger --listen 127.0.0.1:0 --grpc-listen 127.0.0.1:0 \
                   --ledger-db-url \"$1\"";
    let process = Process::command("/bin/sh")?
        .env_clear()
        .args(["-c", started, env!("CARGO_BIN_EXE_leasehold"), &stage.url])
        .spawn()?;
    let line = process.wait_for_line("ledger started", LIMIT).await?;
    let (pages, grpc) = (field(&line, "address")?.to_owned(), field(&line, "grpc")?.to_owned());
    let ledger = Ledger { process, pages, grpc };
    let mut crowds = Vec::new();
    for address in [&ledger.pages, &ledger.grpc] {
        for kinds in [&SlowClient::HALF_OPEN[..], &[SlowClient::IdleHttp, SlowClient::IdleGrpc]] {
            crowds.push(SlowClients::open(ListensAt::Tcp(address.parse()?), kinds, 1_000).await?);
        }
    }
    crowds.push(SlowClients::open(ListensAt::Tcp(ledger.grpc.parse()?), &SlowClient::ENDLESS, 1_000).await?);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(in_time(BUSY, path, page(&ledger.pages, path)).await?.0, 200);
    }
    in_time(BUSY, "a call", async { won(&ledger.client().await?, attempt("a")).await }).await?;
    for (at, kind) in
        [(0, SlowClient::Silent), (2, SlowClient::Silent), (4, SlowClient::HalfCheck), (4, SlowClient::Watch)]
    {
        assert!(crowds[at].closed(kind) > 0, "{kind:?} made no room");
    }
    Ok(())
}
