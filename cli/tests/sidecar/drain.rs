//! Stopping: accept no more, finish what has begun, and only then let the scope go.

use std::time::{Duration, Instant};

use lease_testbed::{Hold, Proxy, Signal};
use tokio::task::JoinHandle;

use crate::stage::{Answer, HOLDING, LIMIT, Sidecar, Stage, post, reservation};

type Asked = JoinHandle<anyhow::Result<Answer>>;

/// A holder, and what lies between it and the ledger.
async fn holder(stage: &Stage, ttl: u32, more: &[&str]) -> anyhow::Result<(Sidecar, Proxy)> {
    let proxy = stage.proxy()?;
    let more = [&["--sidecar-call-timeout", "60s"], more].concat();
    let sidecar = stage.sidecar_at(&format!("http://{}", proxy.addr()), "first", ttl, &more).await?;
    sidecar.serves().await?;
    Ok((sidecar, proxy))
}

/// A reservation of its pod's is on its way to the ledger and goes no further. Nor do signs of life on the same
/// connection, which is given up after 10 s: all that is slow comes before this.
async fn with_a_request_under_way(sidecar: &Sidecar, proxy: &Proxy) -> anyhow::Result<(Hold, Asked)> {
    let mut hold = proxy.hold(|request| request.calls("Ledger/Reserve"));
    let socket = sidecar.socket.clone();
    let asked =
        tokio::spawn(
            async move { post(&socket, "/v1/reservations", &reservation("r", 5), Some("r-4711")).await },
        );
    hold.held().await?;
    Ok((hold, asked))
}

#[tokio::test]
async fn it_finishes_what_it_has_begun_while_it_holds_the_scope() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::new().await?;
        let (first, proxy) = holder(&stage, 4, &[]).await?;
        let standby = stage.sidecar("second", 4, &["--standby", "true"]).await?;
        standby.process.wait_for_line("standing by", LIMIT).await?;
        let (hold, asked) = with_a_request_under_way(&first, &proxy).await?;
        first.process.signal(signal)?;
        first.process.wait_for_line("stopping; a second signal", LIMIT).await?;
        assert_eq!(first.get("/readyz").await?, (503, "stopping\n".to_owned()));
        lease_testbed::wait_until("it accepts no more", LIMIT, || async { !first.socket.exists() }).await?;
        // Longer than a ttl.
        first.renews(4.0).await?;
        assert_eq!(stage.holder().await?.as_deref(), Some("first"));
        assert!(!standby.says(HOLDING) && !first.says("released lease="));
        hold.release();
        let answer = asked.await??;
        assert_eq!(answer.status, 201, "the answer reaches its pod: {answer:?}");
        assert_eq!(first.process.wait(LIMIT).await?.code(), Some(0));
        first.process.wait_for_line("released lease=", LIMIT).await?;
        standby.serves().await?;
    }
    Ok(())
}

#[tokio::test]
async fn past_the_budget_it_says_what_it_abandons_and_releases_nothing() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (first, proxy) = holder(&stage, 4, &["--stop-budget", "300ms"]).await?;
    let (hold, asked) = with_a_request_under_way(&first, &proxy).await?;
    first.process.signal(Signal::TERM)?;
    assert_eq!(first.process.wait(LIMIT).await?.code(), Some(1));
    for part in ["the stop budget of 300ms", "abandoned reserve of request r-4711", "runs out by itself"] {
        first.process.wait_for_line(part, LIMIT).await?;
    }
    assert!(asked.await?.is_err());
    assert_eq!(stage.holder().await?.as_deref(), Some("first"), "nothing was released");
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events").await?, 1);
    drop(hold);
    Ok(())
}

/// The pod's time is over when the budget is, whatever the drain has used of it.
#[tokio::test]
async fn a_release_that_waits_gets_what_the_drain_has_left_of_the_budget() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (first, proxy) = holder(&stage, 60, &["--stop-budget", "10s"]).await?;
    // Somebody else's write is stuck: whatever changes whose the scope is waits for it.
    let mut stuck = stage.pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock_shared(ledger_scope_lock('payments'))")
        .execute(&mut *stuck)
        .await?;
    let (hold, asked) = with_a_request_under_way(&first, &proxy).await?;
    first.process.signal(Signal::TERM)?;
    let began = Instant::now();
    // Most of the budget is used up: time is all that passes here.
    tokio::time::sleep(Duration::from_secs(6)).await;
    hold.release();
    assert_eq!(asked.await??.status, 201);
    assert_eq!(first.process.wait(LIMIT).await?.code(), Some(0));
    let took = began.elapsed();
    // A budget of its own for the release would end after 16 s.
    assert!((10..15).contains(&took.as_secs()), "not one budget of 10 s: {took:?}");
    first.process.wait_for_line("release not acknowledged; the lease expires by itself", LIMIT).await?;
    assert_eq!(stage.holder().await?.as_deref(), Some("first"), "it runs out by itself");
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_releases_nothing() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (first, proxy) = holder(&stage, 4, &[]).await?;
    let (hold, _asked) = with_a_request_under_way(&first, &proxy).await?;
    first.process.signal(Signal::TERM)?;
    first.process.wait_for_line("stopping; a second signal", LIMIT).await?;
    assert_eq!(first.process.insist(Signal::INT, LIMIT).await?.code(), Some(130));
    assert_eq!(stage.holder().await?.as_deref(), Some("first"));
    drop(hold);
    Ok(())
}
