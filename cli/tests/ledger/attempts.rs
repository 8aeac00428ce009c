//! An attempt that is repeated under its audit_event_id.

use lease_spendguard::rpc::ledger::v1;

use crate::stage::{PATIENT, Stage, attempt, refused, won};

#[tokio::test]
async fn a_repeated_attempt_gets_the_same_answer_while_its_term_lasts() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;
    let named = |instance: &str| v1::AcquireFencingLeaseRequest {
        audit_event_id: "attempt-1".into(),
        ..attempt(instance)
    };
    let first = won(&client, named("a")).await?;
    assert_eq!(won(&client, named("a")).await?, first, "though the scope is held, by this very attempt");
    assert_eq!(refused(&client, named("b")).await?, "IDEMPOTENCY_KEY_REUSED");
    won(&client, v1::AcquireFencingLeaseRequest { force: true, ..attempt("c") }).await?;
    assert_eq!(
        refused(&client, named("a")).await?,
        "FENCING_EPOCH_STALE",
        "a term that is over is not given again"
    );
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events").await?, 2);
    Ok(())
}

/// A caller that names the attempt in its renewals too.
#[tokio::test]
async fn a_renewal_names_no_attempt() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;
    let named = v1::AcquireFencingLeaseRequest {
        audit_event_id: "attempt-1".into(),
        ttl_seconds: 60,
        ..attempt("a")
    };
    let first = won(&client, named.clone()).await?;
    let renewal =
        v1::AcquireFencingLeaseRequest { grant: first.grant.clone(), ttl_seconds: 1, ..named.clone() };
    assert_eq!(won(&client, renewal.clone()).await?.action, "renew");
    crate::stage::until_free(&client).await?;
    assert_eq!(won(&client, renewal).await?.action, "recover");
    assert_eq!(refused(&client, named).await?, "FENCING_EPOCH_STALE", "its own term is over");
    Ok(())
}

/// However many ask at once, each epoch has one holder.
#[tokio::test]
async fn of_many_at_once_exactly_one_acquires() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledgers = [stage.ledger_with(&PATIENT).await?, stage.ledger_with(&PATIENT).await?];
    let mut attempts = tokio::task::JoinSet::new();
    for number in 0..32 {
        let client = ledgers[number % 2].client().await?;
        attempts.spawn(async move { crate::stage::ask(&client, attempt(&format!("pod-{number}"))).await });
    }
    let outcomes: Vec<_> = attempts.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    let won = outcomes
        .iter()
        .filter(|o| matches!(o, v1::acquire_fencing_lease_response::Outcome::Success(_)))
        .count();
    assert_eq!(won, 1);
    assert_eq!(stage.int("SELECT current_epoch FROM fencing_scopes").await?, 1);
    Ok(())
}
