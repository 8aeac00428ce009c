//! The kinds of acquisition: their epochs and their history rows.

use lease_spendguard::rpc::ledger::v1;
use v1::release_fencing_lease_response::Outcome as Released;
use v1::revoke_fencing_lease_response::Outcome as Revoked;

use crate::stage::{SCOPE, Stage, TENANT, attempt, denied, fence, refused, until_free, won};

fn brief(instance: &str) -> v1::AcquireFencingLeaseRequest {
    v1::AcquireFencingLeaseRequest { ttl_seconds: 1, ..attempt(instance) }
}

#[tokio::test]
async fn all_but_a_renewal_add_exactly_one_to_the_epoch() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;

    let first = won(&client, v1::AcquireFencingLeaseRequest { ttl_seconds: 60, ..attempt("a") }).await?;
    assert_eq!((first.action.as_str(), first.epoch, first.grant.len()), ("acquire", 1, 16));
    let renewed =
        won(&client, v1::AcquireFencingLeaseRequest { grant: first.grant.clone(), ..attempt("a") }).await?;
    assert_eq!((renewed.action.as_str(), renewed.epoch), ("renew", 1));
    assert_eq!(renewed.grant, first.grant);
    assert!(renewed.ttl_expires_at.map(|at| at.seconds) > first.ttl_expires_at.map(|at| at.seconds));

    // Held for an hour: denied to another, and to another process of the same name.
    for name in ["b", "a"] {
        let denied = denied(&client, attempt(name)).await?;
        assert_eq!((denied.current_holder_instance_id.as_str(), denied.current_epoch), ("a", 1));
        assert_eq!(denied.current_ttl_expires_at, renewed.ttl_expires_at);
    }
    let forced = won(&client, v1::AcquireFencingLeaseRequest { force: true, ..brief("b") }).await?;
    assert_eq!((forced.action.as_str(), forced.epoch), ("revoke", 2));
    until_free(&client).await?;
    let taken = won(&client, brief("c")).await?;
    assert_eq!((taken.action.as_str(), taken.epoch), ("takeover", 3));
    until_free(&client).await?;
    let recovered = won(&client, brief("c")).await?;
    assert_eq!((recovered.action.as_str(), recovered.epoch), ("recover", 4));
    assert_ne!(recovered.grant, taken.grant);

    let revocation = v1::RevokeFencingLeaseRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        by: "ops, drill".into(),
    };
    for (epoch, previous) in [(5, "c"), (5, "")] {
        let answer = client.clone().revoke_fencing_lease(revocation.clone()).await?.into_inner();
        let Some(Revoked::Revoked(revoked)) = answer.outcome else { anyhow::bail!("{answer:?}") };
        assert_eq!((revoked.epoch, revoked.previous_holder_instance_id.as_str()), (epoch, previous));
    }
    let last = won(&client, attempt("d")).await?;
    assert_eq!((last.action.as_str(), last.epoch), ("acquire", 6));

    let events = stage
        .texts(
            "SELECT concat_ws(' ', action, old_epoch, new_epoch, coalesce(owner_instance_id, '-'), note)
             FROM fencing_scope_events ORDER BY event_id",
        )
        .await?;
    let expected = [
        "acquire 0 1 a",
        "revoke 1 2 b",
        "promote 2 3 c",
        "recover 3 4 c",
        "revoke 4 5 - ops, drill",
        "acquire 5 6 d",
    ];
    assert_eq!(events, expected, "one row for each change, none for a renewal");
    for (action, count) in [
        ("acquire", 2.0),
        ("renew", 1.0),
        ("recover", 1.0),
        ("takeover", 1.0),
        ("revoke", 1.0),
        ("denied", 2.0),
    ] {
        let name = format!("spendguard_ledger_fencing_action_total{{action=\"{action}\"}}");
        assert_eq!(ledger.metric(&name).await?, count, "{action}");
    }
    Ok(())
}

#[tokio::test]
async fn a_release_frees_the_scope_at_once_and_keeps_the_epoch() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let client = stage.ledger().await?;
    let (_ledger, client) = (&client, client.client().await?);
    let term = won(&client, attempt("a")).await?;
    let release = v1::ReleaseFencingLeaseRequest { fence: Some(fence("a", &term)) };
    for _ in 0..2 {
        // Repeated, for instance because its answer was lost: told the same.
        let answer = client.clone().release_fencing_lease(release.clone()).await?.into_inner();
        assert!(
            matches!(answer.outcome, Some(Released::Released(ref released)) if released.epoch == 1),
            "{answer:?}"
        );
    }
    let next = won(&client, attempt("b")).await?;
    assert_eq!((next.action.as_str(), next.epoch), ("acquire", 2));
    let answer = client.clone().release_fencing_lease(release.clone()).await?.into_inner();
    assert!(
        matches!(answer.outcome, Some(Released::Released(ref released)) if released.epoch == 1),
        "it was released, whoever has come since: {answer:?}"
    );
    let mut never = fence("a", &term);
    never.grant[0] ^= 1;
    let never = v1::ReleaseFencingLeaseRequest { fence: Some(never) };
    let answer = client.clone().release_fencing_lease(never).await?.into_inner();
    assert!(
        matches!(answer.outcome, Some(Released::Error(ref error)) if error.code == "FENCING_EPOCH_STALE"),
        "a term that was lost was not released: {answer:?}"
    );
    assert_eq!(denied(&client, attempt("c")).await?.current_holder_instance_id, "b");
    Ok(())
}

#[tokio::test]
async fn a_renewal_is_never_an_acquisition() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;
    let old = won(&client, brief("a")).await?;
    let renewal = |ttl_seconds| v1::AcquireFencingLeaseRequest {
        ttl_seconds,
        grant: old.grant.clone(),
        ..attempt("a")
    };
    until_free(&client).await?;
    // Nobody has taken it meanwhile, but its time was over: a new term, as for anybody of that name.
    let recovered = won(&client, renewal(3_600)).await?;
    assert_eq!((recovered.action.as_str(), recovered.epoch), ("recover", 2));
    assert_eq!(
        refused(&client, renewal(3_600)).await?,
        "FENCING_EPOCH_STALE",
        "the same name, another grant"
    );
    let answer = client
        .clone()
        .release_fencing_lease(v1::ReleaseFencingLeaseRequest { fence: Some(fence("a", &recovered)) })
        .await?;
    assert!(matches!(answer.into_inner().outcome, Some(Released::Released(_))));
    assert_eq!(refused(&client, renewal(3_600)).await?, "FENCING_EPOCH_STALE", "not even of a free scope");
    Ok(())
}

#[tokio::test]
async fn says_what_is_wrong_with_a_request() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;
    type Change = fn(&mut v1::AcquireFencingLeaseRequest);
    let cases: [(&str, Change); 9] = [
        ("FENCING_SCOPE_UNKNOWN", |asked| asked.fencing_scope_id = "other".into()),
        ("TENANT_MISMATCH", |asked| asked.tenant_id = "other".into()),
        ("INVALID_ARGUMENT", |asked| asked.fencing_scope_id.clear()),
        ("INVALID_ARGUMENT", |asked| asked.workload_instance_id = "pod/1".into()),
        ("INVALID_ARGUMENT", |asked| asked.tenant_id = "a\0b".into()),
        ("INVALID_ARGUMENT", |asked| asked.ttl_seconds = 0),
        ("INVALID_ARGUMENT", |asked| asked.ttl_seconds = 3_601),
        ("INVALID_ARGUMENT", |asked| asked.grant = vec![1; 15]),
        ("INVALID_ARGUMENT", |asked| {
            asked.grant = vec![1; 16];
            asked.force = true;
        }),
    ];
    for (code, change) in cases {
        let mut asked = attempt("a");
        change(&mut asked);
        assert_eq!(refused(&client, asked.clone()).await?, code, "{asked:?}");
    }
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events").await?, 0, "nothing was written");
    Ok(())
}

/// `fencingScopeMode: perPod`: a node's scope comes into being under a scope that an operator has made.
#[tokio::test]
async fn a_nodes_scope_is_made_under_a_known_one_only() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let client = ledger.client().await?;
    let at = |scope: &str| v1::AcquireFencingLeaseRequest { fencing_scope_id: scope.into(), ..attempt("a") };
    assert_eq!(won(&client, at("payments/node-1")).await?.epoch, 1);
    assert_eq!(won(&client, at("payments/node-2")).await?.epoch, 1, "a scope of its own");
    assert_eq!(won(&client, at(SCOPE)).await?.epoch, 1);
    assert_eq!(refused(&client, at("refunds/node-1")).await?, "FENCING_SCOPE_UNKNOWN");
    let stranger = v1::AcquireFencingLeaseRequest { tenant_id: "other".into(), ..at("payments/node-3") };
    assert_eq!(refused(&client, stranger).await?, "FENCING_SCOPE_UNKNOWN");
    Ok(())
}
