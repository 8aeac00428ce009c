//! A sweeper that is told to stop: the batch under way ends, the lease is kept meanwhile and released after.

use lease_testbed::{Hold, Proxy, Signal, wait_until};
use tempfile::TempDir;

use crate::stage::{LIMIT, Stage, expired, page, server};
use crate::sweeping::{SHORT, Sweeper, swept};

/// The elector's line.
const RELEASED: &str = "lease_core::events: released ";

/// A leader whose batch of expired reservations is on its way and goes no further.
async fn with_a_batch_under_way(
    stage: &Stage,
    more: &[&str],
) -> anyhow::Result<(Sweeper, Hold, Proxy, TempDir)> {
    let (leases, proxy) = (tempfile::tempdir()?, Proxy::postgres(server().await?.addr())?);
    // It gives no call up before it has heard the answer.
    let more = [&["--sweeper-call-timeout", "120s"][..], more].concat();
    let leader = Sweeper::start("a", &proxy.url(&stage.url)?, leases.path(), &more).await?;
    leader.leads().await?;
    wait_until("it polls", LIMIT, || async {
        leader.metric("loop_iterations_total").await.is_ok_and(|n| n >= 2.0)
    })
    .await?;
    let mut hold = proxy.hold(|request| request.sql_contains("ledger_sweep"));
    hold.held().await?;
    expired(stage, 50).await?;
    Ok((leader, hold, proxy, leases))
}

#[tokio::test]
async fn the_lease_is_kept_while_the_batch_ends() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::new().await?;
        // A batch may take longer than the ttl allows a transaction at the server: it is held on its way there.
        let patient = ["--stop-budget", "600s"];
        let (leader, hold, _proxy, _leases) = with_a_batch_under_way(&stage, &patient).await?;
        leader.process.signal(signal)?;
        leader.process.wait_for_line("stopping; a second signal", LIMIT).await?;
        assert_eq!(page(&leader.pages, "/readyz").await?, (503, "stopping\n".to_owned()));
        let before = leader.metric("leader_age_seconds_count").await.unwrap_or(0.0);
        wait_until("four beats are acknowledged while it drains", LIMIT, || async {
            leader.metric("leader_age_seconds_count").await.is_ok_and(|beats| beats >= before + 4.0)
        })
        .await?;
        assert!(!leader.process.lines().iter().any(|line| line.contains(RELEASED)));
        hold.release();
        assert_eq!(leader.process.wait(LIMIT).await?.code(), Some(0));
        leader.process.wait_for_line(RELEASED, LIMIT).await?;
        swept(&stage, 50).await?;
    }
    Ok(())
}

#[tokio::test]
async fn past_the_budget_nothing_is_released_and_what_is_left_is_named() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let more = [&["--stop-budget", "300ms"][..], &SHORT].concat();
    let (leader, hold, _proxy, leases) = with_a_batch_under_way(&stage, &more).await?;
    leader.process.signal(Signal::TERM)?;
    assert_eq!(leader.process.wait(LIMIT).await?.code(), Some(1));
    for part in
        ["the stop budget of 300ms: abandoned a batch of expired", "was not released and runs out by itself"]
    {
        leader.process.wait_for_line(part, LIMIT).await?;
    }
    assert!(!leader.process.lines().iter().any(|line| line.contains(RELEASED)));
    hold.discard();
    let next = Sweeper::start("b", &stage.url, leases.path(), &SHORT).await?;
    next.leads().await?;
    swept(&stage, 50).await
}

/// Each batch says where its fleet leads (M-2): a leader whose work is at home elsewhere by now ends as at a wrong start.
#[tokio::test]
async fn a_leader_whose_home_is_elsewhere_by_now_ends_at_its_next_batch() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let leader = Sweeper::start("a", &stage.url, leases.path(), &[]).await?;
    leader.leads().await?;
    expired(&stage, 5).await?;
    swept(&stage, 5).await?;
    sqlx::raw_sql("UPDATE leasehold_homes SET mode = 'etcd' WHERE mode IS NOT NULL")
        .execute(&stage.pool)
        .await?;
    assert_eq!(leader.process.wait(LIMIT).await?.code(), Some(2));
    let lines = leader.process.lines();
    let error = lines.iter().rev().find(|line| line.starts_with("error: ")).expect("it says why");
    for part in ["led in mode etcd", "migrateFrom to etcd", "worker ttl-sweeper --forget-home"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(lines.iter().any(|line| line.contains(RELEASED)), "it gave the lease back: {lines:#?}");
    Ok(())
}
