//! Waiting for a scope: a hint wakes, a poll stands behind it.

use lease_spendguard::rpc::ledger::v1;
use lease_testbed::wait_until;
use tonic::Code;

use crate::stage::{LIMIT, Ledger, SCOPE, Stage, TENANT, attempt, fence, won};

fn wait(limit_ms: u32) -> v1::AwaitFencingScopeRequest {
    v1::AwaitFencingScopeRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        limit_ms,
        ..v1::AwaitFencingScopeRequest::default()
    }
}

async fn waiters(ledger: &Ledger, count: f64) -> anyhow::Result<()> {
    wait_until(&format!("{count} wait"), LIMIT, || async {
        ledger.metric("spendguard_ledger_scope_waiters").await.is_ok_and(|now| now == count)
    })
    .await
}

/// The poll is a minute, longer than anybody waits: only the hint can be so quick.
#[tokio::test]
async fn a_release_and_a_revocation_wake_who_waits_at_once() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let [here, there] = [
        stage.ledger_with(&["--ledger-await-poll", "60s"]).await?,
        stage.ledger_with(&["--ledger-await-poll", "60s"]).await?,
    ];
    let (mut client, other) = (here.client().await?, there.client().await?);
    assert!(client.await_fencing_scope(wait(1)).await?.into_inner().free, "at once while nobody has it");
    for revoke in [false, true] {
        let term = won(&other, attempt("a")).await?;
        let mut waiting = client.clone();
        let waiting = tokio::spawn(async move { waiting.await_fencing_scope(wait(30_000)).await });
        waiters(&here, 1.0).await?;
        // It listens by now, or will look when it does.
        if revoke {
            let asked = v1::RevokeFencingLeaseRequest {
                fencing_scope_id: SCOPE.into(),
                tenant_id: TENANT.into(),
                by: "drill".into(),
            };
            other.clone().revoke_fencing_lease(asked).await?;
        } else {
            let asked = v1::ReleaseFencingLeaseRequest { fence: Some(fence("a", &term)) };
            other.clone().release_fencing_lease(asked).await?;
        }
        assert!(waiting.await??.into_inner().free, "it was not woken");
        waiters(&here, 0.0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_asks_for_any_holder_hears_of_each_and_waits_while_it_is_the_one_it_has_seen()
-> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let any = |limit_ms, seen_grant: &[u8]| v1::AwaitFencingScopeRequest {
        any_holder: true,
        seen_grant: seen_grant.to_vec(),
        ..wait(limit_ms)
    };
    let shown = client.await_fencing_scope(any(30_000, &[])).await?.into_inner();
    assert!(!shown.free, "{shown:?}");
    let record: serde_json::Value = serde_json::from_str(&shown.scope.expect("it is shown").record)?;
    assert_eq!(record["holder"], "a");
    let same = client.await_fencing_scope(any(50, &term.grant)).await?.into_inner();
    assert_eq!((same.free, same.scope), (false, None));
    let other = client.await_fencing_scope(any(30_000, &[7; 16])).await?.into_inner();
    assert!(!other.free && other.scope.is_some(), "{other:?}");
    let both = v1::AwaitFencingScopeRequest { seen_tag: vec![1; 16], ..any(50, &[7; 16]) };
    for refused in [both, any(50, &[7; 15])] {
        assert_eq!(
            client.await_fencing_scope(refused).await.expect_err("nonsense").code(),
            Code::InvalidArgument
        );
    }
    Ok(())
}

/// The poll is a minute, and the hint is given while nobody listens.
#[tokio::test]
async fn what_happened_while_the_listener_was_cut_off_is_looked_at_when_it_is_back() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&["--ledger-await-poll", "60s"]).await?;
    let client = ledger.client().await?;
    let mut cut = 0;
    // Twice, so that the one that came back is one that hears.
    for _ in 0..2 {
        won(&client, attempt("a")).await?;
        let mut waiting = client.clone();
        let waiting = tokio::spawn(async move { waiting.await_fencing_scope(wait(30_000)).await });
        waiters(&ledger, 1.0).await?;
        let listener = listener(&stage, cut).await?;
        sqlx::query(
            "SELECT pg_terminate_backend($1, 10000),
                    (ledger_fencing_scope('revoke', $2, $3, '', NULL, NULL, NULL, true, NULL, NULL, 'cut')).o_outcome",
        )
        .bind(listener)
        .bind(SCOPE)
        .bind(TENANT)
        .execute(&stage.pool)
        .await?;
        assert!(waiting.await??.into_inner().free, "it did not look again");
        cut = listener;
    }
    listener(&stage, cut).await?;
    Ok(())
}

/// The listening session of the ledger, once there is one other than `cut`. Later it asks for signs of life.
async fn listener(stage: &Stage, cut: i32) -> anyhow::Result<i32> {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'leasehold ledger hints' AND pid <> $1
                      AND datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')";
    lease_testbed::wait_for("it listens", LIMIT, async || {
        sqlx::query_scalar(sql).bind(cut).fetch_one(&stage.pool).await
    })
    .await
}

#[tokio::test]
async fn a_lost_hint_costs_a_poll() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&["--ledger-await-poll", "200ms"]).await?;
    let mut client = ledger.client().await?;
    let term = won(&client, attempt("a")).await?;
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.await_fencing_scope(wait(30_000)).await });
    waiters(&ledger, 1.0).await?;
    // Freed in a way that notifies nobody.
    sqlx::query(
        "UPDATE fencing_scopes SET current_holder_instance_id = NULL, current_grant = NULL, ttl_expires_at = NULL",
    )
    .execute(&stage.pool)
    .await?;
    assert!(waiting.await??.into_inner().free);
    assert_eq!(term.epoch, 1);
    let free = client.await_fencing_scope(wait(1)).await?.into_inner().free;
    assert!(free);
    Ok(())
}

#[tokio::test]
async fn ends_at_its_limit_and_refuses_nonsense() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&["--ledger-max-waiters", "1"]).await?;
    let mut client = ledger.client().await?;
    won(&client, attempt("a")).await?;
    assert!(!client.await_fencing_scope(wait(50)).await?.into_inner().free, "held all along");
    for limit_ms in [0, 30_001] {
        let refusal = client.await_fencing_scope(wait(limit_ms)).await.expect_err("no such limit");
        assert_eq!(refusal.code(), Code::InvalidArgument);
    }
    let unknown = v1::AwaitFencingScopeRequest { fencing_scope_id: "other".into(), ..wait(50) };
    assert_eq!(client.await_fencing_scope(unknown).await.expect_err("unknown").code(), Code::NotFound);

    let mut first = client.clone();
    let first = tokio::spawn(async move { first.await_fencing_scope(wait(30_000)).await });
    waiters(&ledger, 1.0).await?;
    let busy = client.await_fencing_scope(wait(50)).await.expect_err("one place only");
    assert_eq!(busy.code(), Code::ResourceExhausted);
    // A caller that goes away gives its place back.
    first.abort();
    waiters(&ledger, 0.0).await?;
    assert!(!client.await_fencing_scope(wait(50)).await?.into_inner().free);
    Ok(())
}
