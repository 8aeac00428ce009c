//! A write that doesn't speak for the scope's present term changes nothing.

use lease_spendguard::rpc::ledger::v1;

use crate::stage::{Stage, attempt, fence, outcome, reserve, settle, won};

#[tokio::test]
async fn every_part_of_the_term_must_be_the_present_one() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let before = fence("a", &won(&client, attempt("a")).await?);
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("a") };
    let present = fence("a", &won(&client, force).await?);
    let id =
        outcome(client.reserve(reserve(&present, "k0", 1)).await?)?.expect("it is present").reservation_id;

    let wrong = [
        ("an older term", before.clone()),
        ("an older epoch", v1::Fence { epoch: 1, ..present.clone() }),
        ("a later epoch", v1::Fence { epoch: 3, ..present.clone() }),
        ("an older grant", v1::Fence { grant: before.grant.clone(), ..present.clone() }),
        ("another's grant", v1::Fence { grant: vec![9; 16], ..present.clone() }),
        ("another tenant", v1::Fence { tenant_id: "other".into(), ..present.clone() }),
        ("another owner", v1::Fence { workload_instance_id: "b".into(), ..present.clone() }),
        ("another scope", v1::Fence { fencing_scope_id: "other".into(), ..present.clone() }),
    ];
    for (what, fence) in &wrong {
        let answers = [
            client.reserve(reserve(fence, "k1", 1)).await?,
            client.commit(settle(fence, "k2", &id)).await?,
            client.release(settle(fence, "k3", &id)).await?,
        ];
        for answer in answers {
            assert_eq!(outcome(answer)?.expect_err("refused"), "FENCING_EPOCH_STALE", "{what}");
        }
    }
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox").await?, 1, "nothing was written");
    assert_eq!(ledger.metric("spendguard_ledger_fence_refused_total").await?, 3.0 * wrong.len() as f64);

    let release = v1::ReleaseFencingLeaseRequest { fence: Some(present.clone()) };
    client.release_fencing_lease(release).await?;
    let late = outcome(client.commit(settle(&present, "k4", &id)).await?)?;
    assert_eq!(late.expect_err("given up"), "FENCING_EPOCH_STALE", "not even while nobody else has it");
    stage.books_balance().await
}
