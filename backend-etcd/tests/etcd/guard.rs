//! Effects inside etcd, guarded by the term key.

use crate::common::*;
use lease_core::fence::Lowering;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Grant, LeaseBackend, RequestId, Term};
use lease_etcd::etcd_client::{Client, GetOptions, Txn, TxnOp};
use lease_etcd::{FenceError, TermGuard};

async fn effect(client: &mut Client, guard: &TermGuard, value: &str) -> anyhow::Result<bool> {
    let effect = Txn::new().when([guard.compare()]).and_then([TxnOp::put("effect", value, None)]);
    Ok(client.txn(effect).await?.succeeded())
}

#[tokio::test]
async fn a_stale_holders_txn_is_refused() -> anyhow::Result<()> {
    let store = store().await?;
    let (lease, backend) = (name("guarded"), &store.backend);
    let mut client = Client::connect(store.cluster.endpoints(), None).await?;
    let first = held(backend, &lease).await?;
    let old = store.config.guard(&lease, &record(&first).term().expect("held"));
    assert!(effect(&mut client, &old, "first").await?);

    // Beats and requests are in nobody's way.
    let beat = renew(backend, &lease, &first).await?;
    let asked = writes::request(
        record(&beat),
        beat.grant().expect("held"),
        RequestId::random(),
        "me",
        &Fresh::random(),
    );
    let asked = written(backend.put_if(&lease, &beat, &asked, Change::Request).await?);
    assert!(effect(&mut client, &old, "after a beat and a request").await?);

    let second = acquire(backend, &lease, &asked, "b").await?;
    assert!(!effect(&mut client, &old, "late").await?, "a stale holder's effect was made");
    let new = store.config.guard(&lease, &record(&second).term().expect("held"));
    assert!(effect(&mut client, &new, "second").await?);
    assert_eq!(store.value("effect").await?, "second");

    let free = release(backend, &lease, &second).await?;
    assert!(!effect(&mut client, &new, "after the release").await?);
    let revoked = writes::revoke(&free, record(&free), 0, false, "by hand", &Fresh::random());
    written(backend.put_if(&lease, &free, &revoked, Change::Revoke).await?);
    assert!(!effect(&mut client, &new, "after a revocation").await?);
    assert_eq!(store.value("effect").await?, "second");
    Ok(())
}

#[tokio::test]
async fn a_poisoned_mark_is_set_back_once_and_leaves_a_key() -> anyhow::Result<()> {
    let store = store().await?;
    let fence = store.config.fence("outbox");
    let mut client = Client::connect(store.cluster.endpoints(), None).await?;
    let term = |epoch: u64| Term { epoch, grant: Grant(epoch.into()) };
    let above =
        fence.admit(&mut client, &term(Term::MAX_EPOCH + 1), []).await.expect_err("above the ceiling");
    assert!(matches!(above, FenceError::AboveCeiling(_)), "{above}");
    let poison = term(Term::MAX_EPOCH);
    fence.admit(&mut client, &poison, []).await?;
    let stale = fence.admit(&mut client, &term(8), []).await.expect_err("the mark is poisoned");
    assert!(matches!(stale, FenceError::Stale(_)), "{stale}");
    let lowering = Lowering { seen: poison, to: term(7), by: "op".into(), note: "INC-1".into() };
    let other = Lowering { seen: term(5), ..lowering.clone() };
    for (lowering, done) in [(&other, false), (&lowering, true), (&lowering, false)] {
        assert_eq!(fence.lower(&mut client, lowering).await?, done);
    }
    fence.admit(&mut client, &term(6), []).await.expect_err("below what was issued");
    fence.admit(&mut client, &term(8), []).await?;
    let told =
        client.get(format!("{}/fences-lowered/outbox/", store.prefix), Some(GetOptions::new().with_prefix()));
    let told = told.await?;
    let [row] = told.kvs() else { panic!("one row, not {told:?}") };
    assert!(row.value_str()?.contains("INC-1") && row.value_str()?.contains(&poison.to_string()));
    Ok(())
}
