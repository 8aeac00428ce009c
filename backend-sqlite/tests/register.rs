//! The register, its history and its floor, as one process uses them.

mod common;

use common::*;
use lease_core::{Change, HistoryEvent, LeaseBackend, LeaseName, PutOutcome};
use sqlx::Row;

#[tokio::test]
async fn a_write_applies_once_and_only_on_the_tag_that_it_compares() {
    let place = Place::new();
    let store = place.open().await;
    let free = init(&store).await;
    let held = acquire(&store, &free, "a").await;
    assert_eq!(observe(&store).await, held, "what was acknowledged is what is read");

    let late = acquired(&free, "b");
    let outcome = store.put_if(&name(), &free, &late, Change::Acquire).await.unwrap();
    assert_eq!(outcome, PutOutcome::Conflict(held.clone()), "a conflict shows the register as it is");
    assert_eq!(observe(&store).await, held);
}

#[tokio::test]
async fn a_register_is_created_by_one_of_many() {
    let place = Place::new();
    let (one, other) = (place.open().await, place.open().await);
    let absent = observe(&other).await;
    assert_eq!((absent.record.as_ref(), absent.floor), (None, 0));
    let free = init(&one).await;
    let record = lease_core::internal::writes::init(
        &absent,
        TTL,
        0,
        None,
        &lease_core::internal::writes::Fresh::random(),
    );
    let outcome = other.put_if(&name(), &absent, &record, Change::Init).await.unwrap();
    assert_eq!(outcome, PutOutcome::Conflict(free));
}

#[tokio::test]
async fn each_change_of_holder_leaves_one_history_row_and_a_renewal_none() {
    let place = Place::new();
    let store = place.open().await;
    let free = init(&store).await;
    let held = acquire(&store, &free, "a").await;
    let held = renew(&store, &held).await;
    let free = release(&store, &held).await;
    let held = acquire(&store, &free, "b").await;
    let free = release(&store, &held).await;
    acquire(&store, &free, "b").await;

    let rows = store.history(&name(), 100).await.unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.event_type, row.epoch, row.transition_count, row.holder_workload_id.as_str()))
        .collect();
    use HistoryEvent::*;
    let expected = [
        (Acquired, 1, 1, "a"),
        (Released, 1, 1, "a"),
        (TakenOver, 2, 2, "b"),
        (Released, 2, 2, "b"),
        (Acquired, 3, 3, "b"),
    ];
    assert_eq!(seen, expected);
    assert!(rows.is_sorted_by_key(|row| row.sequence));
    assert_eq!(store.history(&name(), 2).await.unwrap(), rows[3..], "the newest ones, oldest first");
}

#[tokio::test]
async fn history_rows_past_their_retention_are_removed_by_the_next_one() {
    let place = Place::new();
    let store = place.open().await;
    let free = init(&store).await;
    let held = acquire(&store, &free, "a").await;
    let old = "UPDATE coordination_lease_history SET event_at = datetime('now', '-91 days')";
    sqlx::query(old).execute(&mut place.shell().await).await.unwrap();
    release(&store, &held).await;
    let rows = store.history(&name(), 100).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.event_type).collect::<Vec<_>>(), [HistoryEvent::Released]);
    assert_eq!(rows[0].sequence, 2, "a number is never given twice");
}

#[tokio::test]
async fn people_read_the_tables_with_any_sqlite_shell() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "pod-1").await;
    let record = held.record.unwrap();
    let sql =
        "SELECT lease_name, holder_workload_id, region, epoch, grant_id, transition_count, ttl_ms, beat,
                      expires_at < datetime('now') AS already_expired,
                      expires_at > datetime('now', '+10 seconds') AS expires_later,
                      length(acquired_at) AS width
                 FROM coordination_leases";
    let row = sqlx::query(sql).fetch_one(&mut place.shell().await).await.unwrap();
    assert_eq!(row.get::<String, _>("lease_name"), "outbox-forwarder");
    assert_eq!(row.get::<String, _>("holder_workload_id"), "pod-1");
    assert_eq!(row.get::<String, _>("region"), "here");
    assert_eq!(row.get::<i64, _>("epoch"), 1);
    assert_eq!(row.get::<String, _>("grant_id"), record.grant.unwrap().to_string());
    assert_eq!(row.get::<i64, _>("transition_count"), 1);
    assert_eq!((row.get::<i64, _>("ttl_ms"), row.get::<i64, _>("beat")), (15_000, 0));
    assert!(!row.get::<bool, _>("already_expired") && row.get::<bool, _>("expires_later"));
    assert_eq!(row.get::<i64, _>("width"), "2026-01-01 00:00:00.000".len() as i64);
}

#[tokio::test]
async fn a_record_written_by_a_newer_version_keeps_its_unknown_fields() {
    let place = Place::new();
    let store = place.open().await;
    let free = init(&store).await;
    let mut newer = free.record.clone().unwrap();
    newer.tag = lease_core::Tag::random();
    newer.extra.insert("shard_map".into(), serde_json::json!({"v": [1, 2]}));
    let now = put(&store, &free, &newer, Change::Request).await;
    let held = acquire(&store, &now, "a").await;
    let seen = observe(&store).await;
    assert_eq!(seen, held);
    assert_eq!(seen.record.unwrap().extra["shard_map"], serde_json::json!({"v": [1, 2]}));
}

#[tokio::test]
async fn a_copy_of_the_rows_without_their_counter_loses_no_history() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    let free = release(&store, &held).await;
    let mut shell = place.shell().await;
    sqlx::raw_sql("DELETE FROM sqlite_sequence").execute(&mut shell).await.unwrap();
    acquire(&store, &free, "b").await;
    let rows = store.history(&name(), 100).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.holder_workload_id.as_str()).collect::<Vec<_>>(), ["a", "a", "b"]);
}

#[tokio::test]
async fn list_shows_each_register_under_the_prefix_and_no_other() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    for other in ["outbox-forwarder.eu", "ttl-sweeper"] {
        let other = LeaseName::new(other).unwrap();
        let absent = store.observe(&other).await.unwrap();
        let record = lease_core::internal::writes::init(
            &absent,
            TTL,
            0,
            None,
            &lease_core::internal::writes::Fresh::random(),
        );
        store.put_if(&other, &absent, &record, Change::Init).await.unwrap();
    }
    let listed = store.list("outbox").await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(matches!(&listed[0], (listed, Ok(seen)) if *listed == name() && *seen == held));
    assert_eq!(store.list("").await.unwrap().len(), 3);
    assert!(store.list("%").await.unwrap().is_empty(), "a prefix is no pattern");
}

#[tokio::test]
async fn an_epoch_beyond_64_bit_integers_is_an_error_and_changes_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let free = init(&store).await;
    let mut record = acquired(&free, "a");
    record.epoch = i64::MAX as u64 + 1;
    let error = store.put_if(&name(), &free, &record, Change::Acquire).await.unwrap_err();
    assert_eq!(error.certainty, lease_core::Certainty::NotApplied);
    assert_eq!(observe(&store).await, free);
    record.epoch = i64::MAX as u64;
    assert_eq!(put(&store, &free, &record, Change::Acquire).await.floor, i64::MAX as u64);
}
