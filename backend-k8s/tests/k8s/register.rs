//! One Lease, one register: what it shows to people, and what no write of ours does to it (K-1, K-2, R-1, R-2).

use lease_core::{Certainty, Change, LeaseBackend};
use lease_testbed::{ControlPlane, ControlPlaneOptions};
use serde_json::{Value, json};

use crate::common::*;

#[tokio::test]
async fn kubectl_shows_the_holder_with_its_grant_and_nobody_when_it_is_free() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("shown"));
    let mut seen = init(&store.backend, &lease).await?;
    assert_eq!(store.shown(&lease).await?["spec"]["holderIdentity"], "");
    for round in 1..=3 {
        seen = acquire(&store.backend, &lease, &seen, "pod-a").await?;
        let spec = store.shown(&lease).await?["spec"].clone();
        let grant = record(&seen).grant.expect("held");
        assert_eq!(spec["holderIdentity"], format!("pod-a_{grant}"));
        assert_eq!((&spec["leaseDurationSeconds"], &spec["leaseTransitions"]), (&json!(15), &json!(round)));
        seen = release(&store.backend, &lease, &seen).await?;
        assert_eq!(store.shown(&lease).await?["spec"]["holderIdentity"], "");
    }
    Ok(())
}

/// client-go compares whole seconds.
#[tokio::test]
async fn each_beat_renews_at_least_a_second_later_and_a_request_does_not() -> anyhow::Result<()> {
    use lease_core::internal::writes::{self, Fresh};
    let (store, lease) = (store().await?, name("beats"));
    let mut seen = held(&store.backend, &lease).await?;
    let seconds = |shown: &Value| -> i64 {
        let time: jiff::Timestamp =
            shown["spec"]["renewTime"].as_str().expect("a time").parse().expect("a time");
        time.as_second()
    };
    let mut last = seconds(&store.shown(&lease).await?);
    for _ in 0..4 {
        seen = renew(&store.backend, &lease, &seen).await?;
        let next = seconds(&store.shown(&lease).await?);
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    let grant = record(&seen).grant.expect("held");
    let asked = writes::request(record(&seen), grant, lease_core::RequestId(1), "ops", &Fresh::random());
    written(store.backend.put_if(&lease, &seen, &asked, Change::Request).await?);
    assert_eq!(seconds(&store.shown(&lease).await?), last, "a request is no beat");
    Ok(())
}

#[tokio::test]
async fn a_created_lease_is_stamped_with_its_own_uid() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("stamped"));
    let seen = init(&store.backend, &lease).await?;
    let uid = store.shown(&lease).await?["metadata"]["uid"].clone();
    assert_eq!((json!(seen.lineage), json!(record(&seen).lineage)), (uid.clone(), uid));
    assert_eq!(store.backend.observe(&lease).await?, seen);
    Ok(())
}

/// Until it is stamped it is waited out like anything restored: a crash between the two writes leaves no early leader.
#[tokio::test]
async fn a_created_lease_that_was_never_stamped_counts_as_foreign() -> anyhow::Result<()> {
    use lease_core::internal::writes::{self, Fresh};
    let (store, lease) = (store().await?, name("unstamped"));
    let absent = store.backend.observe(&lease).await?;
    let free = writes::init(&absent, TTL, 0, None, &Fresh::random());
    let annotations = json!({lease_k8s::RECORD: serde_json::to_string(&free)?});
    store.create(&lease, json!({})).await?;
    store.patch(&lease, json!({"metadata": {"annotations": annotations}})).await?;
    let seen = store.backend.observe(&lease).await?;
    assert_eq!(record(&seen).grant, None);
    assert_ne!(record(&seen).lineage, seen.lineage);
    Ok(())
}

#[tokio::test]
async fn a_deleted_lease_is_not_created_by_a_late_write() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("deleted"));
    let seen = held(&store.backend, &lease).await?;
    store.delete(&lease).await?;
    let found = conflict(store.backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await?);
    assert_eq!(found.record, None);
    assert!(store.shown(&lease).await.is_err(), "it is there again");
    assert!(found.floor >= record(&seen).epoch, "E-1: the floor outlives the register");
    let again = held(&store.backend, &lease).await?;
    assert!(record(&again).epoch > record(&seen).epoch);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_was_restored_by_hand_is_another_lineage_and_takes_no_old_write() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("restored"));
    let seen = held(&store.backend, &lease).await?;
    let kept = store.shown(&lease).await?;
    store.delete(&lease).await?;
    store.create(&lease, kept["spec"].clone()).await?;
    store.patch(&lease, json!({"metadata": {"annotations": kept["metadata"]["annotations"]}})).await?;
    let found = conflict(store.backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await?);
    assert_eq!(found.record, seen.record, "the same record");
    assert_ne!(
        found.lineage,
        record(&found).lineage,
        "under another stamp, so it is waited out at the maximum"
    );
    Ok(())
}

/// The API server answers an identical PUT by 200, and does nothing.
#[tokio::test]
async fn the_same_record_twice_is_no_second_write() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("twice"));
    let seen = held(&store.backend, &lease).await?;
    let same = record(&seen).clone();
    let error =
        store.backend.put_if(&lease, &seen, &same, Change::Renew).await.expect_err("nothing was written");
    assert_eq!(error.certainty, Certainty::NotApplied);
    assert_eq!(store.backend.observe(&lease).await?, seen);
    Ok(())
}

#[tokio::test]
async fn what_others_have_put_on_the_lease_survives_every_write() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("shared"));
    let seen = init(&store.backend, &lease).await?;
    let theirs = json!({
        "labels": {"team": "payments"},
        "annotations": {"example.com/note": "keep me"},
        "finalizers": ["example.com/guard"],
    });
    store.patch(&lease, json!({"metadata": theirs})).await?;
    // Their change is no change of the record, and yet our version is no longer the present one.
    let found = conflict(store.backend.put_if(&lease, &seen, &acquired(&seen, "a"), Change::Acquire).await?);
    assert_eq!(found.record, seen.record);
    let seen = acquire(&store.backend, &lease, &found, "a").await?;
    let seen = renew(&store.backend, &lease, &seen).await?;
    release(&store.backend, &lease, &seen).await?;
    let metadata = store.shown(&lease).await?["metadata"].clone();
    assert_eq!(metadata["labels"], theirs["labels"]);
    assert_eq!(metadata["finalizers"], theirs["finalizers"]);
    assert_eq!(metadata["annotations"]["example.com/note"], "keep me");
    Ok(())
}

#[tokio::test]
async fn each_successful_call_is_one_request_and_a_conflict_two() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("trips"));
    let free = init(&store.backend, &lease).await?;
    let before = store.asked()?.len();
    let seen = store.backend.observe(&lease).await?;
    assert_eq!(seen, free);
    let seen = acquire(&store.backend, &lease, &seen, "a").await?;
    let stale = seen.clone();
    let seen = renew(&store.backend, &lease, &seen).await?;
    conflict(store.backend.put_if(&lease, &stale, &renewed(&stale), Change::Renew).await?);
    release(&store.backend, &lease, &seen).await?;
    let asked = store.asked()?;
    let asked: Vec<_> = asked[before..].iter().map(|event| (event.verb.as_str(), event.code)).collect();
    let put = ("update", 200);
    assert_eq!(asked, [("get", 200), put, put, ("update", 409), ("get", 200), put]);
    Ok(())
}

#[tokio::test]
async fn a_lease_of_coordinated_leader_election_is_refused_in_words() -> anyhow::Result<()> {
    // Without the feature the API server drops the field.
    let options = ControlPlaneOptions::default()
        .flag("--feature-gates=CoordinatedLeaderElection=true")
        .flag("--runtime-config=coordination.k8s.io/v1beta1=true");
    let plane = ControlPlane::start(options).await?;
    let (store, lease) = (store_on(&plane).await?, name("coordinated"));
    store.create(&lease, json!({"strategy": "OldestEmulationVersion"})).await?;
    let error = store.backend.observe(&lease).await.expect_err("it is others' to give away");
    assert!(error.to_string().contains("spec.strategy"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_first_versions_lease_is_read_and_renewed_with_all_that_is_in_it() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("first"));
    let first: Value = serde_json::from_str(include_str!("../forms/first.json"))?;
    store.create(&lease, first["spec"].clone()).await?;
    let annotations = json!({ "annotations": first["metadata"]["annotations"] });
    store.patch(&lease, json!({ "metadata": annotations })).await?;
    let seen = store.backend.observe(&lease).await?;
    let grant = first["spec"]["holderIdentity"].as_str().and_then(|holder| holder.rsplit('_').next());
    let held = record(&seen).term().map(|term| (term.epoch, term.grant.to_string()));
    assert_eq!(held, grant.map(|grant| (42, grant.to_owned())));
    let seen = renew(&store.backend, &lease, &seen).await?;
    assert_eq!((record(&seen).beat, record(&seen).request.is_some()), (8, true));
    assert_eq!(record(&seen).extra["of_a_later_version"]["n"][1], 2);
    Ok(())
}
