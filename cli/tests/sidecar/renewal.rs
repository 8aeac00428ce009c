//! Renewals whose replies are lost, and a ledger that is away.

use lease_testbed::{Proxy, wait_for, wait_until};

use crate::stage::{LIMIT, Stage};

/// Neither held nor lost: the deadline stays, the renewal is tried again, the term goes on (U-1, L-8).
#[tokio::test]
async fn a_lost_reply_ends_no_term() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let sidecar = stage.sidecar_at(&format!("http://{}", proxy.addr()), "a", 12, &[]).await?;
    sidecar.serves().await?;
    for _ in 0..2 {
        let mut lost = proxy.lose_reply(|request| request.calls("Ledger/PutFencingScope"));
        lost.lost().await?;
        sidecar.renews(1.0).await?;
    }
    assert!(sidecar.says("lease store failed; trying again"));
    assert_eq!(sidecar.metric("spendguard_sidecar_fencing_epoch").await?, 1.0);
    assert_eq!(sidecar.reserve("r", 1).await?.body["fencing_epoch"], 1);
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events").await?, 1, "no renewal left a row");
    Ok(())
}

/// Without the ledger it refuses from its own deadline on, and recovers when the ledger is back.
#[tokio::test]
async fn past_its_deadline_it_refuses_and_then_recovers() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let sidecar = stage.sidecar_at(&format!("http://{}", proxy.addr()), "a", 2, &[]).await?;
    sidecar.serves().await?;
    assert_eq!(sidecar.reserve("r", 1).await?.status, 201);
    // Nothing goes through, and nothing says so.
    proxy.stall();
    wait_until("it is past its deadline", LIMIT, || async {
        sidecar.get("/readyz").await.is_ok_and(|(status, _)| status == 503)
    })
    .await?;
    assert_eq!(sidecar.metric("spendguard_sidecar_fencing_epoch").await?, 0.0);
    let refused = sidecar.reserve("s", 1).await?;
    assert_eq!((refused.status, refused.code()), (503, "FENCING_LEASE_NOT_HELD"), "{refused:?}");
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    sidecar.process.wait_for_line("fencing lease over; decisions are refused", LIMIT).await?;
    proxy.heal();
    wait_until("it holds the scope again", LIMIT, || async {
        sidecar.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await?;
    let again = sidecar.reserve("s", 1).await?;
    assert_eq!(again.status, 201, "{again:?}");
    assert!(again.body["fencing_epoch"].as_u64() >= Some(2), "each acquisition is a new term: {again:?}");
    Ok(())
}

/// As after the loss of the node that its ledger was on: nothing answers, nothing says so, and another ledger is there.
#[tokio::test]
async fn a_dead_connection_is_left_for_another_ledger() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (_other, other) = stage.another_ledger().await?;
    let (dies, service) = (stage.proxy()?, Proxy::tcp(stage.grpc.parse()?)?);
    service.switch_upstream(dies.addr());
    let sidecar = stage.sidecar_at(&format!("http://{}", service.addr()), "a", 24, &[]).await?;
    sidecar.serves().await?;
    assert_eq!(sidecar.reserve("q", 1).await?.status, 201, "its connections are there");
    dies.drop_all();
    service.switch_upstream(other.parse()?);
    sidecar.renews(2.0).await?;
    assert_eq!(sidecar.metric("spendguard_sidecar_fencing_epoch").await?, 1.0, "the same term");
    assert!(!sidecar.says("fencing lease over; decisions are refused"));
    wait_for("requests are decided again", LIMIT, async || {
        let answer = sidecar.reserve("r", 1).await?;
        anyhow::ensure!(answer.status == 201, "{answer:?}");
        Ok(())
    })
    .await
}

/// Requests that hang at the ledger hold up no renewal.
#[tokio::test]
async fn no_renewal_waits_behind_requests() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let at = format!("http://{}", proxy.addr());
    let more = ["--sidecar-max-requests", "1", "--sidecar-call-timeout", "60s"];
    let sidecar = stage.sidecar_at(&at, "a", 4, &more).await?;
    sidecar.serves().await?;
    let mut hold = proxy.hold(|request| request.calls("Ledger/Reserve"));
    let socket = sidecar.socket.clone();
    let asked = tokio::spawn(async move {
        crate::stage::post(&socket, "/v1/reservations", &crate::stage::reservation("q", 1), None).await
    });
    hold.held().await?;
    let busy = sidecar.reserve("r", 1).await?;
    assert_eq!((busy.status, busy.code()), (503, "BUSY"), "no queue: {busy:?}");
    sidecar.renews(3.0).await?;
    assert_eq!(sidecar.get("/readyz").await?.0, 200);
    hold.release();
    assert_eq!(asked.await??.status, 201);
    Ok(())
}
