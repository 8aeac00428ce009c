//! Effects inside etcd, guarded by the term key.

use crate::common::*;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseBackend, RequestId};
use lease_etcd::TermGuard;
use lease_etcd::etcd_client::{Client, Txn, TxnOp};

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
