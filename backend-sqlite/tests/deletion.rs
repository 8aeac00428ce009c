//! A register is kept; what an administrator deletes all the same comes back without harm.

mod common;

use common::*;
use lease_core::internal::deadline::{Claim, Sighting, lengthened};
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, Instant, LeaseBackend, PutOutcome};

const DELETE: &str = "DELETE FROM coordination_leases WHERE lease_name = 'outbox-forwarder'";
const ALLOW: &str = "INSERT INTO coordination_lease_deletions VALUES ('outbox-forwarder')";

async fn delete(place: &Place) {
    let mut shell = place.shell().await;
    sqlx::query(ALLOW).execute(&mut shell).await.unwrap();
    assert_eq!(sqlx::query(DELETE).execute(&mut shell).await.unwrap().rows_affected(), 1);
}

#[tokio::test]
async fn the_store_refuses_to_delete_a_register_and_says_how_an_administrator_can() {
    let place = Place::new();
    let store = place.open().await;
    let free = init(&store).await;
    let error = sqlx::query(DELETE).execute(&mut place.shell().await).await.unwrap_err();
    assert!(error.to_string().contains("coordination_lease_deletions"), "{error}");
    assert_eq!(observe(&store).await, free);
    delete(&place).await;
    assert_eq!(observe(&store).await.record, None);
}

#[tokio::test]
async fn one_permission_allows_one_deletion() {
    let place = Place::new();
    let store = place.open().await;
    init(&store).await;
    delete(&place).await;
    init(&store).await;
    sqlx::query(DELETE).execute(&mut place.shell().await).await.unwrap_err();
    assert!(observe(&store).await.record.is_some());
}

#[tokio::test]
async fn epochs_survive_a_deletion_even_above_the_counter() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    let before = held.record.as_ref().unwrap();
    let raised = writes::revoke(&held, before, 1_000, false, "fence raised", &Fresh::random());
    put(&store, &held, &raised, Change::Revoke).await;
    delete(&place).await;
    let held = acquire(&store, &init(&store).await, "b").await;
    assert!(held.record.as_ref().unwrap().epoch > 1_001, "{held:?}");
    assert_eq!(observe(&store).await.floor, held.record.unwrap().epoch);
}

#[tokio::test]
async fn a_register_made_anew_after_a_deletion_is_waited_out_since_its_holder_may_not_know() {
    let place = Place::new();
    let store = place.open().await;
    let present = init(&store).await.lineage;
    acquire(&store, &observe(&store).await, "a").await;
    delete(&place).await;

    let absent = observe(&store).await;
    assert_ne!(absent.lineage, present);
    let free = init(&store).await;
    assert_eq!(free.lineage, present);
    assert_eq!(observe(&store).await, free);
    let received = Instant::ZERO.plus(TTL);
    let claim = Sighting::new(free.clone(), received).claim(TTL, TTL, false);
    assert_eq!(claim, Claim::At(received.plus(lengthened(TTL))), "free, but not at once (T-3)");

    let held = acquire(&store, &free, "b").await;
    let free = release(&store, &held).await;
    let claim = Sighting::new(free, received).claim(TTL, TTL, false);
    assert_eq!(claim, Claim::At(Instant::ZERO), "from then on it is a register like any other");
}

#[tokio::test]
async fn an_observation_of_one_absence_does_not_create_after_another() {
    let place = Place::new();
    let store = place.open().await;
    let never_there = observe(&store).await;
    acquire(&store, &init(&store).await, "a").await;
    delete(&place).await;
    let late = writes::init(&never_there, TTL, 0, None, &Fresh::random());
    let outcome = store.put_if(&name(), &never_there, &late, Change::Init).await.unwrap();
    assert_eq!(outcome, PutOutcome::Conflict(observe(&store).await));
    assert_eq!(observe(&store).await.record, None, "it would have been free for anybody at once");
}

#[tokio::test]
async fn a_write_on_a_deleted_register_conflicts_and_shows_its_absence() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    delete(&place).await;
    let outcome = store.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap();
    assert_eq!(outcome, PutOutcome::Conflict(observe(&store).await));
    assert_eq!(observe(&store).await.record, None);
}
