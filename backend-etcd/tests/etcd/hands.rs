//! Keys that somebody changed by hand.

use std::collections::BTreeMap;

use crate::common::*;
use lease_core::{Change, LeaseBackend};

#[tokio::test]
async fn a_term_key_that_a_hand_changed_is_put_right_by_the_next_write() -> anyhow::Result<()> {
    let store = store().await?;
    let (lease, backend) = (name("edited"), &store.backend);
    let mut seen = held(backend, &lease).await?;
    let key = store.key(&lease, "term");
    let ours = store.value(&key).await?;
    for hand in [vec!["del", key.as_str()], vec!["put", key.as_str(), "nonsense"]] {
        store.cluster.ctl(&hand).await?;
        // The first write finds that its observation is out of date; then the register goes on.
        let shown = conflict(backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await?);
        assert_eq!(shown.record, seen.record);
        seen = renew(backend, &lease, &shown).await?;
        assert_eq!(store.value(&key).await?, ours, "after {hand:?}");
    }
    Ok(())
}

#[tokio::test]
async fn half_a_register_is_none_and_can_be_created() -> anyhow::Result<()> {
    let store = store().await?;
    let (lease, backend) = (name("half"), &store.backend);
    let before = held(backend, &lease).await?;
    store.cluster.ctl(&["del", &store.key(&lease, "beat")]).await?;
    let gone = backend.observe(&lease).await?;
    assert_eq!(gone.record, None);
    assert!(backend.list("").await?.is_empty());
    let shown = conflict(backend.put_if(&lease, &before, &renewed(&before), Change::Renew).await?);
    assert_eq!(shown.record, None, "a renewal created a register");
    let made = init(backend, &lease).await?;
    assert!(made.floor >= record(&before).epoch, "the floor is not below what was issued");
    acquire(backend, &lease, &made, "b").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_alone() -> anyhow::Result<()> {
    let store = store().await?;
    let (lease, backend) = (name("foreign"), &store.backend);
    let before = held(backend, &lease).await?;
    let key = store.key(&lease, "beat");
    store.cluster.ctl(&["put", &key, "somebody else's"]).await?;
    for error in [
        backend.observe(&lease).await.expect_err("not a record"),
        backend.put_if(&lease, &before, &renewed(&before), Change::Renew).await.expect_err("not a record"),
    ] {
        assert!(error.refused && error.to_string().contains("foreign"), "{error}");
    }
    assert_eq!(store.value(&key).await?, "somebody else's");
    Ok(())
}

#[tokio::test]
async fn the_first_versions_keys_are_read_and_renewed_with_all_that_is_in_them() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("first"));
    let first: BTreeMap<String, String> = serde_json::from_str(include_str!("../forms/first.json"))?;
    for (part, value) in &first {
        store.cluster.ctl(&["put", &store.key(&lease, part), value]).await?;
    }
    let seen = store.backend.observe(&lease).await?;
    assert_eq!(
        record(&seen).term().map(|term| format!("{}/{}", term.epoch, term.grant)),
        first.get("term").cloned()
    );
    let seen = renew(&store.backend, &lease, &seen).await?;
    assert_eq!((record(&seen).beat, record(&seen).request.is_some()), (8, true));
    assert_eq!(record(&seen).extra["of_a_later_version"]["n"][1], 2);
    assert_eq!(store.value(&store.key(&lease, "term")).await?.trim(), first["term"]);
    Ok(())
}
