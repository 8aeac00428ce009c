//! A warm standby takes over at once after a clean stop or a revoke, and in time after a crash.

use std::time::{Duration, Instant};

use lease_testbed::{Signal, wait_until};

use crate::stage::{HOLDING, LIMIT, Sidecar, Stage};

const WAITS: &[&str] = &["--standby", "true"];

/// An hour: no renewal is due, and no term runs out.
const LONG: u32 = 3_600;

/// Far below that ttl, on a machine that may be busy.
const AT_ONCE: Duration = Duration::from_secs(30);

async fn holder_and_standby(stage: &Stage, ttl: u32, flags: &[&str]) -> anyhow::Result<(Sidecar, Sidecar)> {
    let holder = stage.serving("first", ttl, flags).await?;
    Ok((holder, a_standby(stage, ttl, flags).await?))
}

async fn a_standby(stage: &Stage, ttl: u32, flags: &[&str]) -> anyhow::Result<Sidecar> {
    let standby = stage.sidecar("second", ttl, flags).await?;
    standby.process.wait_for_line("standing by", LIMIT).await?;
    assert!(!standby.socket.exists(), "a standby serves nobody");
    assert_eq!(standby.get("/readyz").await?.0, 503);
    assert_eq!(standby.metric("spendguard_sidecar_fencing_epoch").await?, 0.0);
    assert!(standby.metric("spendguard_sidecar_fencing_acquire_denied_total").await? >= 1.0);
    Ok(standby)
}

async fn took_over(standby: &Sidecar, since: Instant) -> anyhow::Result<Duration> {
    standby.process.wait_for_line(HOLDING, LIMIT).await?;
    let took = since.elapsed();
    standby.serves().await?;
    assert_eq!(standby.get("/readyz").await?.0, 200);
    assert_eq!(standby.reserve("after", 1).await?.status, 201);
    Ok(took)
}

#[tokio::test]
async fn at_once_after_a_clean_stop() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::new().await?;
        let (holder, standby) = holder_and_standby(&stage, LONG, WAITS).await?;
        let told = Instant::now();
        holder.process.signal(signal)?;
        let took = took_over(&standby, told).await?;
        assert!(took < AT_ONCE, "{took:?}");
        println!("taken over {took:?} after {signal:?}");
        assert_eq!(holder.process.wait(LIMIT).await?.code(), Some(0));
        holder.process.wait_for_line("released lease=", LIMIT).await?;
        assert_eq!(standby.metric("spendguard_sidecar_fencing_epoch").await?, 2.0);
        assert_eq!(standby.actions("acquire").await?, 1.0);
    }
    Ok(())
}

#[tokio::test]
async fn at_once_after_a_revoke_and_the_old_holder_is_told_by_its_next_write() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    // Nothing that the ledger says of its own accord reaches the holder.
    let proxy = stage.proxy()?;
    let mut deaf = proxy.hold(|request| request.calls("Ledger/AwaitFencingScope"));
    let holder = stage.sidecar_at(&format!("http://{}", proxy.addr()), "first", LONG, WAITS).await?;
    holder.serves().await?;
    deaf.held().await?;
    let standby = a_standby(&stage, LONG, WAITS).await?;
    let told = Instant::now();
    let revoked = stage.revoke().await?;
    assert_eq!(revoked.previous_holder_instance_id, "first");
    let took = took_over(&standby, told).await?;
    assert!(took < AT_ONCE, "{took:?}");
    println!("taken over {took:?} after the revoke");
    assert_eq!(standby.metric("spendguard_sidecar_fencing_epoch").await?, (revoked.epoch + 1) as f64);

    // It has not heard of it yet, and its ttl is far from over: the fence refuses it.
    let refused = holder.reserve("late", 5).await?;
    assert_eq!((refused.status, refused.code()), (503, "FENCING_EPOCH_STALE"), "{refused:?}");
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    let next = holder.reserve("later", 5).await?;
    assert_eq!(
        (next.status, next.code()),
        (503, "FENCING_LEASE_NOT_HELD"),
        "its term is over at once: {next:?}"
    );
    assert_eq!(holder.get("/readyz").await?.0, 503);
    assert_eq!(holder.metric("spendguard_sidecar_fencing_epoch").await?, 0.0);
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 1, "the new holder's");
    // It stands by, and takes over in turn.
    deaf.release();
    holder.process.wait_for_line("standing by", LIMIT).await?;
    standby.process.signal(Signal::TERM)?;
    wait_until("the first serves again", LIMIT, || async {
        holder.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await?;
    assert_eq!(holder.reserve("again", 5).await?.status, 201);
    Ok(())
}

/// The ledger tells a revoked holder, which neither writes nor renews for long.
#[tokio::test]
async fn a_revoked_holder_is_told_at_once_and_lets_the_standby_come_first() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (holder, standby) = holder_and_standby(&stage, LONG, WAITS).await?;
    let told = Instant::now();
    stage.revoke().await?;
    holder.process.wait_for_line("fencing lease over; decisions are refused", LIMIT).await?;
    let heard = told.elapsed();
    assert!(heard < AT_ONCE, "{heard:?}");
    println!("told {heard:?} after the revoke");
    took_over(&standby, told).await?;
    assert_eq!(stage.holder().await?.as_deref(), Some("second"));
    assert_eq!(holder.metric("spendguard_sidecar_fencing_epoch").await?, 0.0);
    Ok(())
}

/// The standby may be quicker than the ledger's look: whoever waits hears of another holder too.
#[tokio::test]
async fn a_revoked_holder_is_told_though_another_has_the_scope_by_then() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let mut deaf = proxy.hold(|request| request.calls("Ledger/AwaitFencingScope"));
    let holder = stage.sidecar_at(&format!("http://{}", proxy.addr()), "first", LONG, WAITS).await?;
    holder.serves().await?;
    deaf.held().await?;
    let standby = a_standby(&stage, LONG, WAITS).await?;
    stage.revoke().await?;
    took_over(&standby, Instant::now()).await?;
    deaf.release();
    let heard = Instant::now();
    holder.process.wait_for_line("fencing lease over; decisions are refused", LIMIT).await?;
    assert!(heard.elapsed() < AT_ONCE, "{:?}", heard.elapsed());
    assert_eq!(holder.metric("spendguard_sidecar_fencing_epoch").await?, 0.0);
    Ok(())
}

/// A longer poll than usual leaves a busy machine its time.
const POLLS: &[&str] = &["--standby", "true", "--sidecar-poll-interval", "3s"];

/// At a ttl of 4 s: ttl·(1+1/500), one poll of 3 s, and 50 ms.
const AFTER_A_KILL: Duration = Duration::from_millis(4_008 + 3_000 + 50);

#[tokio::test]
async fn within_a_ttl_and_a_poll_after_a_kill() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (holder, standby) = holder_and_standby(&stage, 4, POLLS).await?;
    holder.renews(1.0).await?;
    holder.process.kill().await?;
    let told = Instant::now();
    let took = took_over(&standby, told).await?;
    assert!(took < AFTER_A_KILL, "{took:?}");
    println!("taken over {took:?} after SIGKILL, ttl 4s");
    assert_eq!(standby.actions("takeover").await?, 1.0);
    let promoted = stage.int("SELECT count(*) FROM fencing_scope_events WHERE action = 'promote'").await?;
    assert_eq!(promoted, 1);
    Ok(())
}

/// What a poll shows of a term that has run out is no restored ledger, which would be waited out for another ttl.
#[tokio::test]
async fn within_a_ttl_and_a_poll_after_a_kill_also_by_polls_alone() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let mut deaf = proxy.hold(|request| request.calls("Ledger/AwaitFencingScope"));
    let holder = stage.serving("first", 4, POLLS).await?;
    let standby = stage.sidecar_at(&format!("http://{}", proxy.addr()), "second", 4, POLLS).await?;
    standby.process.wait_for_line("standing by", LIMIT).await?;
    deaf.held().await?;
    holder.renews(1.0).await?;
    holder.process.kill().await?;
    let took = took_over(&standby, Instant::now()).await?;
    assert!(took < AFTER_A_KILL, "{took:?}");
    assert!(standby.metric("spendguard_sidecar_fencing_epoch").await? < 10.0, "no epochs were left out");
    Ok(())
}

/// A pod that comes back under its old name is another holder: it waits like anybody, and recovers.
#[tokio::test]
async fn the_same_name_recovers_after_a_kill_and_replaces_its_stale_socket() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let first = stage.serving("pod", 4, POLLS).await?;
    first.process.kill().await?;
    let killed = Instant::now();
    assert!(first.socket.exists(), "nobody could remove it");
    let again = stage.sidecar("pod", 4, POLLS).await?;
    again.serves().await?;
    assert!(killed.elapsed() < AFTER_A_KILL, "{:?}", killed.elapsed());
    assert_eq!(again.actions("recover").await? + again.actions("acquire").await?, 1.0);
    assert_eq!(again.metric("spendguard_sidecar_fencing_epoch").await?, 2.0);
    assert_eq!(again.reserve("r", 1).await?.status, 201);
    Ok(())
}

/// A standby that is told to stop has nothing to give up.
#[tokio::test]
async fn stops_while_standing_by() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let (holder, standby) = holder_and_standby(&stage, LONG, WAITS).await?;
    standby.process.signal(Signal::TERM)?;
    assert_eq!(standby.process.wait(LIMIT).await?.code(), Some(0));
    assert_eq!(holder.reserve("r", 1).await?.status, 201);
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events").await?, 1);
    Ok(())
}
