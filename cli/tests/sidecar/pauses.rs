//! A sidecar that is stopped past its ttl and woken.

use crate::stage::{HOLDING, LIMIT, Stage, post, reservation};

/// A request that waits at its socket meanwhile is refused by its own clock, before anything is sent.
#[tokio::test]
async fn it_refuses_before_anything_is_written() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let old = stage.sidecar_at(&format!("http://{}", proxy.addr()), "old", 2, &["--standby", "true"]).await?;
    old.serves().await?;
    let new = stage.sidecar("new", 2, &["--standby", "true"]).await?;
    new.process.wait_for_line("standing by", LIMIT).await?;
    old.process.pause().await?;
    let socket = old.socket.clone();
    let asked =
        tokio::spawn(async move { post(&socket, "/v1/reservations", &reservation("late", 5), None).await });
    new.process.wait_for_line(HOLDING, LIMIT).await?;
    new.serves().await?;
    old.process.resume()?;
    let refused = asked.await??;
    assert_eq!((refused.status, refused.code()), (503, "FENCING_LEASE_NOT_HELD"), "{refused:?}");
    assert_eq!(proxy.round_trips().matching("Ledger/Reserve").requests, 0, "nothing was even sent");
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 0);
    assert_eq!(old.get("/readyz").await?.0, 503);
    assert_eq!(new.reserve("r", 5).await?.status, 201);
    Ok(())
}

/// A request that it had sent already is refused by the ledger, in the transaction that would have written it.
#[tokio::test]
async fn what_it_sent_before_is_refused_by_the_fence() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let more = ["--standby", "true", "--sidecar-call-timeout", "60s"];
    let old = stage.sidecar_at(&format!("http://{}", proxy.addr()), "old", 2, &more).await?;
    old.serves().await?;
    let new = stage.sidecar("new", 2, &["--standby", "true"]).await?;
    new.process.wait_for_line("standing by", LIMIT).await?;
    let mut hold = proxy.hold(|request| request.calls("Ledger/Reserve"));
    let socket = old.socket.clone();
    let asked =
        tokio::spawn(async move { post(&socket, "/v1/reservations", &reservation("late", 5), None).await });
    hold.held().await?;
    old.process.pause().await?;
    new.process.wait_for_line(HOLDING, LIMIT).await?;
    hold.release();
    old.process.resume()?;
    let refused = asked.await??;
    assert_eq!((refused.status, refused.code()), (503, "FENCING_EPOCH_STALE"), "{refused:?}");
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 0);
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox").await?, 0);
    Ok(())
}
