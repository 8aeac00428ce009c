//! A Lease that somebody else has written: client-go, or a person's hand (K-2).

use std::time::Duration;

use futures::StreamExt;
use lease_core::{Certainty, Change, LeaseBackend, Observation, admin};
use serde_json::{Value, json};

use crate::common::*;

fn by_client_go(renewed: &str) -> Value {
    json!({
        "holderIdentity": "their-pod", "leaseDurationSeconds": 7, "leaseTransitions": 3,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": renewed,
    })
}

/// The fields that T-2's wait depends on.
fn beat(seen: &Observation) -> (Option<lease_core::Grant>, u64) {
    (record(seen).grant, record(seen).beat)
}

#[tokio::test]
async fn a_holder_of_client_go_is_a_held_register_whose_renewals_are_beats() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("theirs"));
    store.create(&lease, by_client_go("2026-01-01T00:00:01.000000Z")).await?;
    let first = store.backend.observe(&lease).await?;
    let held = record(&first);
    assert!(held.grant.is_some() && held.holder == "their-pod" && held.lineage == first.lineage);
    assert_eq!((held.ttl(), held.transitions), (Duration::from_secs(7), 3));
    assert_eq!(beat(&store.backend.observe(&lease).await?), beat(&first), "the same holder at the same beat");
    // A note is no beat: whoever annotates the Lease doesn't keep it.
    store.patch(&lease, json!({"metadata": {"annotations": {"note": "x"}}})).await?;
    assert_eq!(beat(&store.backend.observe(&lease).await?), beat(&first));

    store.patch(&lease, json!({"spec": {"renewTime": "2026-01-01T00:00:01.000001Z"}})).await?;
    let second = store.backend.observe(&lease).await?;
    assert_eq!(record(&second).grant, record(&first).grant);
    assert_ne!(record(&second).beat, record(&first).beat);
    // A new term of the same pod.
    store.patch(&lease, json!({"spec": {"acquireTime": "2026-01-01T00:00:09.000000Z"}})).await?;
    assert_ne!(record(&store.backend.observe(&lease).await?).grant, record(&first).grant);
    Ok(())
}

#[tokio::test]
async fn what_client_go_has_released_is_free_and_taken_with_a_greater_epoch() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("returned"));
    let ours = held(&store.backend, &lease).await?;
    // It took the lease over after an expiry, keeping our annotation, and released it again.
    let mut spec = by_client_go("2026-01-01T00:00:01.000000Z");
    store.patch(&lease, json!({"spec": spec})).await?;
    assert!(record(&store.backend.observe(&lease).await?).grant.is_some());
    spec["holderIdentity"] = json!("");
    spec["leaseDurationSeconds"] = json!(1);
    store.patch(&lease, json!({"spec": spec})).await?;
    let free = store.backend.observe(&lease).await?;
    assert_eq!((record(&free).grant, record(&free).lineage == free.lineage), (None, true));
    let again = acquire(&store.backend, &lease, &free, "b").await?;
    assert!(record(&again).epoch > record(&ours).epoch);
    assert_eq!(record(&again).transitions, 4, "its terms count");
    Ok(())
}

#[tokio::test]
async fn a_holder_of_client_go_can_be_revoked_but_not_asked() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("asked"));
    store.create(&lease, by_client_go("2026-01-01T00:00:01.000000Z")).await?;
    let error =
        admin::request_step_down(&store.backend, &lease, "ops").await.expect_err("nobody would answer");
    assert!(error.to_string().contains("their-pod"), "{error}");
    assert_eq!(store.shown(&lease).await?["spec"]["holderIdentity"], "their-pod", "and nothing was written");
    let revoked = admin::revoke(&store.backend, &lease, admin::Revoke::default()).await?;
    assert_eq!(record(&revoked).ttl(), Duration::from_secs(7), "its holder may act on for so long");
    let shown = store.shown(&lease).await?["spec"]["holderIdentity"].clone();
    assert!(shown != "" && shown != "their-pod", "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_holder_for_no_stated_time_is_refused_in_words() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("timeless"));
    store.create(&lease, json!({"holderIdentity": "somebody"})).await?;
    let error = store.backend.observe(&lease).await.expect_err("how long would one have to wait?");
    assert!(error.to_string().contains("leaseDurationSeconds"), "{error}");
    Ok(())
}

/// It may act on until its own deadline, and has not been asked.
#[tokio::test]
async fn a_holder_that_a_hand_has_struck_out_is_waited_out_for_its_whole_ttl() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("struck-out"));
    let ours = held(&store.backend, &lease).await?;
    store.patch(&lease, json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}})).await?;
    let seen = store.backend.observe(&lease).await?;
    assert!(record(&seen).grant.is_some(), "free at once, while its holder leads");
    assert_ne!(record(&seen).grant, record(&ours).grant, "the old term is over");
    assert_eq!((record(&seen).ttl(), record(&seen).epoch), (TTL, record(&ours).epoch));
    Ok(())
}

#[tokio::test]
async fn a_holder_that_a_hand_has_put_in_ends_our_term() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("put-in"));
    let ours = held(&store.backend, &lease).await?;
    store.patch(&lease, json!({"spec": {"holderIdentity": "bob", "leaseDurationSeconds": 2}})).await?;
    let found = conflict(store.backend.put_if(&lease, &ours, &renewed(&ours), Change::Renew).await?);
    assert!(record(&found).holder == "bob" && record(&found).grant != record(&ours).grant);
    assert_eq!(record(&found).ttl(), TTL, "our holder's, which is longer");
    Ok(())
}

#[tokio::test]
async fn a_changed_time_or_label_leaves_our_term_alone() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("touched"));
    let ours = held(&store.backend, &lease).await?;
    let change =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}});
    store.patch(&lease, change).await?;
    let found = conflict(store.backend.put_if(&lease, &ours, &renewed(&ours), Change::Renew).await?);
    assert_eq!(found.record, ours.record);
    renew(&store.backend, &lease, &found).await?;
    Ok(())
}

/// The API server accepts the last day of the year 9999, which this program's library of times can't hold.
#[tokio::test]
async fn a_time_that_cannot_be_read_keeps_nobody_from_the_lease() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("far-off"));
    let ours = held(&store.backend, &lease).await?;
    let mut hints = store.backend.watch(lease.as_str()).await?;
    let far = "9999-12-31T23:59:59.999999Z";
    store.patch(&lease, json!({"spec": {"renewTime": far, "acquireTime": far}})).await?;
    let shown = tokio::time::timeout(LIMIT, hints.next()).await?;
    assert!(matches!(shown, Some(lease_core::Hint::Shows(..))), "{shown:?}");
    let found = conflict(store.backend.put_if(&lease, &ours, &renewed(&ours), Change::Renew).await?);
    assert_eq!(found.record, ours.record);
    assert_eq!(store.backend.list("").await?.len(), 1);
    renew(&store.backend, &lease, &found).await?;
    assert_ne!(store.shown(&lease).await?["spec"]["renewTime"], far, "the next beat puts it right");
    Ok(())
}

#[tokio::test]
async fn a_record_that_a_hand_has_spoilt_is_refused_in_words_and_one_removed_is_no_record()
-> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("spoilt"));
    let ours = held(&store.backend, &lease).await?;
    store.patch(&lease, json!({"metadata": {"annotations": {lease_k8s::RECORD: "{"}}})).await?;
    let error =
        store.backend.put_if(&lease, &ours, &renewed(&ours), Change::Renew).await.expect_err("unreadable");
    assert_eq!(error.certainty, Certainty::NotApplied);
    assert!(error.to_string().contains("anew with init, above"), "{error}");
    store.patch(&lease, json!({"metadata": {"annotations": {lease_k8s::RECORD: null}}})).await?;
    let seen = store.backend.observe(&lease).await?;
    assert!(record(&seen).grant.is_some() && record(&seen).grant != record(&ours).grant);
    Ok(())
}
